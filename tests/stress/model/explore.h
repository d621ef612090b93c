/* Explores every interleaving of a few coroutines: explicit-state, depth first.
 *
 * The program under check lies in `world`, a static struct of its own, and on the
 * coroutines' stacks; both together are a state. A coroutine runs up to its next
 * access to something shared and stops in front of it, so that one transition is
 * one shared access and the private work behind it. A state that was reached
 * before (told by a 128-bit hash of all its bytes) is not entered again.
 *
 * The includer defines ACTORS, STACK_BYTES, `struct world` with a member
 * `struct actor actor[ACTORS]`, and the functions under "wanted" below. */
#ifndef EXPLORE_H
#define EXPLORE_H

#include "actor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

struct transition {
    int16_t actor;      /* -1: nature */
    int16_t way;
};

/* ---- wanted ---- */
static const char *actor_name(int actor);
static const char *address_name(const void *address);
/* What happens without any coroutine: deaths and the like. Same bits as op.ways. */
static uint32_t nature_ways(uint32_t *optional);
static void nature_goes(int way);
static const char *nature_name(int way);
static void check_at_rest(void);        /* nothing goes on by itself: is that right? */
static size_t state_bytes(void);        /* how much of `world` is in use */

static struct world world;
static _Alignas(64) char stacks[ACTORS][STACK_BYTES];

static void *explorer[5];
static int running;                     /* actor, -1: none */
static const char *violation;
static const char *sought;              /* the only violation that counts; NULL: any */

/* ---- coroutines ---- */

/* The compiler must know nothing of where a call of these leads. */
#ifdef __clang__
#define OPAQUE __attribute__((noinline))
#else
#define OPAQUE __attribute__((noipa))
#endif

/* One cannot set and jump in one function. */
__attribute__((noreturn)) OPAQUE static void jump(void **context)
{
    __builtin_longjmp(context, 1);
}

OPAQUE static void back_to_explorer(void)
{
    struct actor *me = &world.actor[running];
    if (__builtin_setjmp(me->context) == 0) {
        char *sp;
#if defined(__x86_64__)
        __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
#elif defined(__aarch64__)
        __asm__ volatile("mov %0, sp" : "=r"(sp));
#else
        sp = (char *)__builtin_frame_address(0) - 512;
#endif
        me->sp = sp;
        jump(explorer);
    }
}

/* Stops in front of a shared access; returns when it shall happen, with the way chosen. */
static int stop_before(struct op op)
{
    world.actor[running].op = op;
    back_to_explorer();
    return world.actor[running].way;
}

/* The coroutine runs no more. Never returns if it is the one that runs. */
static void end_actor(int actor)
{
    memset(&world.actor[actor], 0, sizeof world.actor[actor]);
    if (actor == running)
        jump(explorer);
}

static void require(bool condition, const char *message)
{
    if (condition || violation || (sought && strcmp(sought, message)))
        return;
    violation = message;
    if (running >= 0)
        jump(explorer);
}

static ucontext_t main_context;

OPAQUE static void start_coroutine(int actor, void (*body)(int))
{
    ucontext_t context;
    running = actor;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks[actor];
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = &main_context;
    makecontext(&context, (void (*)(void))body, 1, actor);
    if (__builtin_setjmp(explorer) == 0)
        swapcontext(&main_context, &context);
    running = -1;
}

OPAQUE static void resume(int actor)
{
    running = actor;
    if (__builtin_setjmp(explorer) == 0)
        jump(world.actor[actor].context);
    running = -1;
}

/* ---- states ---- */

static size_t state_save(uint8_t *to)
{
    size_t n = state_bytes();
    memcpy(to, &world, n);
    for (int a = 0; a < ACTORS; a++)
        if (world.actor[a].sp) {
            size_t used = (size_t)(stacks[a] + STACK_BYTES - world.actor[a].sp);
            memcpy(to + n, world.actor[a].sp, used);
            n += used;
        }
    memset(to + n, 0, 32);
    return n;
}

static void state_restore(const uint8_t *from)
{
    memcpy(&world, from, state_bytes());
    from += state_bytes();
    for (int a = 0; a < ACTORS; a++)
        if (world.actor[a].sp) {
            size_t used = (size_t)(stacks[a] + STACK_BYTES - world.actor[a].sp);
            memcpy(world.actor[a].sp, from, used);
            from += used;
        }
}

struct hash {
    uint64_t a, b;
};

static uint64_t mixed(uint64_t x, uint64_t y)
{
    __extension__ unsigned __int128 product = (unsigned __int128)x * y;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Of whole lanes; state_save leaves zeros behind the state. */
static struct hash state_hash(const uint8_t *bytes, size_t n)
{
    uint64_t lane[4] = {0x9e3779b97f4a7c15u, 0xc2b2ae3d27d4eb4fu, 0x165667b19e3779f9u, n};
    for (size_t i = 0; i < n; i += sizeof lane) {
        uint64_t word[4];
        memcpy(word, bytes + i, sizeof word);
        for (int k = 0; k < 4; k++) {
            lane[k] = (lane[k] ^ word[k]) * 0xa0761d6478bd642fu;
            lane[k] ^= lane[k] >> 32;
        }
    }
    struct hash h = {mixed(lane[0], lane[1] | 1), mixed(lane[2], lane[3] | 1)};
    h.a ^= mixed(lane[2] ^ 0x8ebc6af09c88c6e3u, lane[3] | 1);
    h.b ^= mixed(lane[0] ^ 0xe7037ed1a0b428dbu, lane[1] | 1);
    if (!h.a && !h.b)
        h.a = 1;
    return h;
}

static struct hash *seen;
static size_t seen_size, seen_count;

/* False: it was there already. */
static bool seen_add(struct hash h)
{
    if (2 * seen_count >= seen_size) {
        struct hash *old = seen;
        size_t old_size = seen_size;
        seen_size = old_size ? 2 * old_size : 1 << 16;
        seen = calloc(seen_size, sizeof *seen);
        if (!seen) {
            fprintf(stderr, "no memory for so many states\n");
            exit(2);
        }
        seen_count = 0;
        for (size_t i = 0; i < old_size; i++)
            if (old[i].a || old[i].b)
                seen_add(old[i]);
        free(old);
    }
    size_t i = h.a & (seen_size - 1);
    for (; seen[i].a || seen[i].b; i = (i + 1) & (seen_size - 1))
        if (seen[i].a == h.a && seen[i].b == h.b)
            return false;
    seen[i] = h;
    seen_count++;
    return true;
}

/* ---- the search ---- */

struct level {
    uint8_t *state;
    size_t room;
    struct transition transitions[64];
    uint8_t count, next;
};

static struct level *levels;
static size_t levels_room, depth;
static uint64_t transitions_made, states_at_rest, deepest;

/* What can happen in this state. Checks it if nothing has to. */
static void list_transitions(struct level *l)
{
    bool must = false;
    l->count = l->next = 0;
    for (int a = ACTORS - 1; a >= -1; a--) {
        uint32_t ways = 1, optional = 0;
        if (a < 0)
            ways = nature_ways(&optional);
        else if (!world.actor[a].sp)
            continue;
        else if (world.actor[a].op.ways)
            ways = world.actor[a].op.ways(a, &optional);
        must |= (ways & ~optional) != 0;
        for (int way = 0; ways; way++, ways >>= 1)
            if (ways & 1)
                l->transitions[l->count++] = (struct transition){(int16_t)a, (int16_t)way};
    }
    for (int a = 0; !must && a < ACTORS; a++)
        if (world.actor[a].sp && world.actor[a].op.times_out && world.actor[a].op.times_out(a)) {
            l->transitions[l->count++] = (struct transition){(int16_t)a, TIME_OUT};
            must = true;
        }
    if (!must) {
        states_at_rest++;
        check_at_rest();
    }
}

static void enter_state(void)
{
    static uint8_t buffer[sizeof(struct world) + ACTORS * STACK_BYTES + 32];
    size_t n = state_save(buffer);
    if (!seen_add(state_hash(buffer, n)))
        return;
    if (depth == levels_room) {
        levels_room = levels_room ? 2 * levels_room : 256;
        levels = realloc(levels, levels_room * sizeof *levels);
        memset(levels + depth, 0, (levels_room - depth) * sizeof *levels);
    }
    struct level *l = &levels[depth];
    if (l->room < n) {
        l->room = n + 256;
        l->state = realloc(l->state, l->room);
    }
    memcpy(l->state, buffer, n);
    depth++;
    if (depth > deepest)
        deepest = depth;
    require(depth < 5000, "it goes on for ever");
    list_transitions(l);
}

static void go(struct transition t)
{
    if (t.actor < 0) {
        nature_goes(t.way);
    } else {
        world.actor[t.actor].way = t.way;
        resume(t.actor);
    }
}

/* From the state in `world`; false: found a violation. */
static bool explore(void)
{
    free(seen);
    seen = NULL;
    seen_size = seen_count = depth = 0;
    transitions_made = states_at_rest = deepest = 0;
    violation = NULL;
    enter_state();
    while (depth && !violation) {
        struct level *l = &levels[depth - 1];
        if (l->next == l->count) {
            depth--;
            continue;
        }
        struct transition t = l->transitions[l->next++];
        state_restore(l->state);
        transitions_made++;
        go(t);
        if (!violation)
            enter_state();
    }
    return !violation;
}

/* How the violation came about. */
static void print_trace(FILE *out)
{
    for (size_t i = 0; i < depth; i++) {
        struct level *l = &levels[i];
        if (!l->next)
            break;      /* found on entering this state */
        struct transition t = l->transitions[l->next - 1];
        state_restore(l->state);
        if (t.actor < 0) {
            fprintf(out, "%4zu  %-12s %s\n", i, "", nature_name(t.way));
        } else {
            struct op *op = &world.actor[t.actor].op;
            fprintf(out, "%4zu  %-12s %s", i, actor_name(t.actor), op->name);
            if (op->address)
                fprintf(out, " %s", address_name(op->address));
            if (op->ways)
                fprintf(out, t.way == TIME_OUT ? " (timed out)" : " (way %d)", t.way);
            else if (op->value)
                fprintf(out, " %llu", (unsigned long long)op->value);
            fputc('\n', out);
        }
    }
}

#endif
