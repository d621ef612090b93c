/* A coroutine as the explorer sees it. */
#ifndef ACTOR_H
#define ACTOR_H

#include <stdbool.h>
#include <stdint.h>

/* What a coroutine stops in front of. */
struct op {
    const char *name;
    const void *address;
    uint64_t value;
    /* Ways to go on now, a bit each; those in *optional may as well not happen. NULL: one way. */
    uint32_t (*ways)(int actor, uint32_t *optional);
    /* Whether it times out, once nothing else can happen. NULL: never. */
    bool (*times_out)(int actor);
};

enum { TIME_OUT = 31 };     /* the way then */


struct actor {
    void *context[5];   /* __builtin_setjmp's */
    char *sp;           /* its stack is in use from here up; NULL: it runs no more */
    struct op op;
    int way;            /* chosen by the explorer */
};

#endif
