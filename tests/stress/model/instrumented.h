/* Stands in for atomics.h and platform.h: the same wrappers, but each access to
 * something shared is a step of the explorer. So what is checked are ring.h,
 * claim.h and wait.h themselves.
 *
 * Accesses are sequentially consistent, as those of the real atomics.h are, unless
 * store_buffers is set: then a store waits in its actor's buffer until nature
 * flushes it, which is what release and acquire amount to on x86. */
#ifndef INSTRUMENTED_H
#define INSTRUMENTED_H

#define CP_ATOMICS_H
#define CP_PLATFORM_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

typedef uint64_t cp_word;

static void step(const char *name, const void *address, uint64_t value);
static void locked_step(const char *name, const void *address);
static bool is_shared(const void *address);

enum { BUFFERED = 4 };

struct buffer {
    cp_word *address[BUFFERED];
    uint64_t value[BUFFERED];
    int count;
};

static bool store_buffers, relaxed_steps;
static struct buffer *own_buffer(void);

static inline uint64_t load(const cp_word *word)
{
    if (store_buffers) {
        struct buffer *b = own_buffer();
        for (int i = b->count - 1; i >= 0; i--)
            if (b->address[i] == word)
                return b->value[i];
    }
    return *word;
}

static void store(cp_word *word, uint64_t value);

static inline void cp_publish(cp_word *word, uint64_t value)
{
    if (is_shared(word))
        step("store", word, value);
    store(word, value);
}

static inline uint64_t cp_observe(const cp_word *word)
{
    if (is_shared(word))
        step("load", word, 0);
    return load(word);
}

/* Relaxed accesses are of words that only one side touches at that time, or whose
 * value then does not depend on when: no steps, unless told otherwise. */
static inline uint64_t cp_peek(const cp_word *word)
{
    if (relaxed_steps && is_shared(word))
        step("peek", word, 0);
    return load(word);
}

static inline void cp_poke(cp_word *word, uint64_t value)
{
    if (relaxed_steps && is_shared(word))
        step("poke", word, value);
    store(word, value);
}

static inline bool cp_decide(cp_word *word, uint64_t from, uint64_t to)
{
    if (is_shared(word))
        locked_step("compare-and-swap", word);
    if (*word != from)
        return false;
    *word = to;
    return true;
}

/* ---- platform ---- */

static uint64_t cp_now(void) { return 0; }
static void cp_pause(void) {}
static void cp_bell_ring(int bell);
static void cp_bell_drain(int bell);
static void cp_bell_wait(int bell, int second, int64_t timeout_ns);

#endif
