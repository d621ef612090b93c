/* What the model's state consists of, and how its steps are made. */
#ifndef STATE_H
#define STATE_H

#include "actor.h"
#include "instrumented.h"

#include "_poolcore/wait.h"

#include <stddef.h>

enum {
    TASKS = 4,
    WORKERS = 3,
    RING = 256,
    JOURNAL = 8,
    NOBODY = -1,
    /* actors */
    CALLER = 0,
    REAPER,
    SUPERVISOR,
    FIRST_WORKER,
    ACTORS = FIRST_WORKER + WORKERS,
    STACK_BYTES = 8192,
    /* bells: worker w has bell w */
    PARENT_BELL = WORKERS,
    REAPER_BELL,
    BELLS
};

struct scenario {
    const char *name, *about;
    bool large;                         /* not explored unless asked for */
    int tasks;
    int submission_ring, completion_ring;   /* bytes */
    int arguments[TASKS], results;      /* payload bytes */
    int workers, replacements;
    bool late;                          /* the second worker says hello first */
    bool reaper;                        /* there is one, and the caller waits for the first task only */
    /* how often at most */
    int crashes, stops, kills, revokes, false_deaths, balances, retirements;
    bool finer;                         /* relaxed accesses are steps, too */
    bool imitation;                     /* the last task's arguments look like the claim word of the second, which
                                         * is the one that may be revoked */
};

static const struct scenario *scenario;

/* Ways to get it wrong. */
enum mutation {
    NO_MUTATION,
    SENTINEL_TRUSTED,
    SENTINEL_TRUSTED_AND_READ,
    READ_IN_RECOVERY,
    NOT_WAITED,
    NOT_DRAINED,
    REVOKE_BY_STORE,
    KILL_BY_STORE,
    TAKE_BY_STORE,
    FINISH_BY_STORE,
    CLAIM_WITHOUT_TID,
    STALE_FRAME_TOUCHED,
    HEAD_FIRST,
    TAIL_FIRST,
    BUFFERED_STORES,
    NOT_LOOKED_AGAIN,
    LOOKED_FIRST,
    RINGER_CLEARS,
    EPOCH_NOT_RAISED,
    ROOM_NOT_RUNG,
    TABLE_NOT_KICKED,
    SKIPPED_SILENTLY,
    NO_CLOCK,
    REAPER_NOT_ARMED,
    FOLLOWER_NOT_PROMOTED,
};

static enum mutation mutation;

struct segment {
    cp_header header;
    _Alignas(CP_LINE) uint8_t submission[RING], completion[RING];
};

enum outcome { NO_OUTCOME, RESULT, LOST, KILLED, REVOKED };

struct job {
    enum outcome outcome;
    int channel;                /* NOBODY: in the backlog, or ended */
    bool killed;                /* the parent has won its claim word */
    uint64_t position;
};

struct entry {
    int job;                    /* NOBODY: taken back */
    uint64_t position;
};

struct channel {
    bool attached, greeted, ready, open, recovered, unpublished;
    unsigned load;
    unsigned first, end;        /* of the journal */
    struct entry journal[JOURNAL];
    cp_producer submission;
    cp_consumer completion;
    cp_ringer ringer;
};

/* A thread of the parent that may wait. */
struct waiter {
    bool entered, asleep, woken;
    bool for_all;               /* waits for all tasks, or for the first */
    uint64_t epoch;             /* of the park that it is about */
    const cp_consumer *rings[WORKERS];
};

struct worker {
    bool alive, stopped, dead;  /* what is so; the parent learns of death only */
    bool dying;                 /* SIGKILL is on its way */
    bool skipped;
    uint64_t released, position;
    cp_consumer submission;
    cp_producer completion;
    cp_ringer parent;
    cp_frame frame;
    const uint8_t *payload;
};

/* What has happened to a task, whoever knows. */
struct truth {
    bool started, claimed, published, kill_won;
};

struct world {
    struct actor actor[ACTORS];
    /* shared, with the segments */
    cp_control control;
    cp_word kick;
    uint64_t bell[BELLS];
    /* the parent's */
    bool gil, reaper_polls, looked;
    struct waiter waiter[2];    /* CALLER, REAPER */
    struct waiter *leader;
    struct job job[TASKS];
    struct channel channel[WORKERS];
    int backlog[TASKS], backlogged;
    /* each worker's own */
    struct worker worker[WORKERS];
    /* nobody's */
    struct truth truth[TASKS];
    int crashes, stops, kills, revokes, false_deaths, balances, retirements;    /* that may still come */
    /* last, so that what is unused can be left out: see state_bytes */
    struct segment segment[WORKERS];
    struct buffer buffer[ACTORS];
};

static size_t state_bytes(void)
{
    return store_buffers ? sizeof(struct world)
                         : offsetof(struct world, segment[scenario->workers + scenario->replacements]);
}

#include "explore.h"

/* ---- steps ---- */

static struct buffer *own_buffer(void) { return &world.buffer[running]; }

static bool is_shared(const void *address)
{
    const uint8_t *at = address;
    if (address == &world.kick || address == &world.control.parent_epoch)
        return true;
    for (int w = 0; w < WORKERS; w++)   /* what a dead worker shared is the parent's alone */
        if (at >= (const uint8_t *)(world.segment + w) && at < (const uint8_t *)(world.segment + w + 1))
            return !world.worker[w].dead;
    return false;
}

static uint32_t room_in_buffer(int actor, uint32_t *optional)
{
    (void)optional;
    return world.buffer[actor].count < BUFFERED;
}

static void step(const char *name, const void *address, uint64_t value)
{
    stop_before((struct op){name, address, value, store_buffers ? room_in_buffer : NULL, NULL});
}

static uint32_t buffer_empty(int actor, uint32_t *optional)
{
    (void)optional;
    return world.buffer[actor].count == 0;
}

static void locked_step(const char *name, const void *address)
{
    stop_before((struct op){name, address, 0, store_buffers ? buffer_empty : NULL, NULL});
}

static void store(cp_word *word, uint64_t value)
{
    if (!store_buffers || !is_shared(word)) {
        *word = value;
        return;
    }
    struct buffer *b = own_buffer();
    b->address[b->count] = word;
    b->value[b->count++] = value;
}

static void flush_one(struct buffer *b)
{
    *b->address[0] = b->value[0];
    b->count--;
    memmove(b->address, b->address + 1, sizeof b->address - sizeof b->address[0]);
    memmove(b->value, b->value + 1, sizeof b->value - sizeof b->value[0]);
    b->address[BUFFERED - 1] = NULL;
    b->value[BUFFERED - 1] = 0;
}

static void cp_bell_ring(int bell)
{
    step("ring", &world.bell[bell], 0);
    world.bell[bell] = 1;
}

static void cp_bell_drain(int bell)
{
    step("drain", &world.bell[bell], 0);
    world.bell[bell] = 0;
}

static uint32_t when_rung(int actor, uint32_t *optional)
{
    const struct op *op = &world.actor[actor].op;
    (void)optional;
    return *(const uint64_t *)op->address || ((int64_t)op->value >= 0 && world.bell[op->value]);
}

/* A leader looks at a backlog by the clock, too; here once between two pushes. */
static bool backlog_waits(int actor)
{
    (void)actor;
    return mutation != NO_CLOCK && world.backlogged && !world.looked;
}

static void cp_bell_wait(int bell, int second, int64_t timeout_ns)
{
    struct op op = {"sleep on", &world.bell[bell], (uint64_t)(int64_t)second, when_rung,
                    timeout_ns < 0 ? NULL : backlog_waits};
    world.looked |= stop_before(op) == TIME_OUT;
}

static uint32_t when_gil_free(int actor, uint32_t *optional)
{
    (void)optional;
    return !world.gil && !world.buffer[actor].count;
}

static void gil_take(void)
{
    stop_before((struct op){"take the GIL", NULL, 0, when_gil_free, NULL});
    world.gil = true;
}

/* No step: the next one of the same thread shows it. */
static void gil_drop(void) { world.gil = false; }

/* ---- what both sides do, right or wrong ---- */

static cp_patience at_once;     /* no spinning, no yielding */

static uint64_t tid_of(int task) { return (uint64_t)task + 1; }

/* As it stands in the claim word. */
static uint64_t claim_tid(int task) { return mutation == CLAIM_WITHOUT_TID ? 0 : tid_of(task); }

static void ring_if_parked(cp_ringer *r)
{
    if (mutation != RINGER_CLEARS) {
        cp_bell_ring_if_parked(r);
        return;
    }
    locked_step("exchange", r->epoch);
    uint64_t epoch = *r->epoch;
    *(cp_word *)r->epoch = 0;
    if (epoch)
        cp_bell_ring(r->fd);
}

/* `published`: set with the store itself. */
static void publish_and_ring(cp_producer *p, cp_ringer *r, bool *published)
{
    if (mutation == LOOKED_FIRST) {
        uint64_t epoch = cp_observe(r->epoch);
        cp_ring_publish(p);
        *published = true;
        if (epoch && epoch != r->rung) {
            r->rung = epoch;
            cp_bell_ring(r->fd);
        }
        return;
    }
    if (mutation != TAIL_FIRST)
        cp_ring_publish(p);
    *published = true;
    ring_if_parked(r);
}

static void park(cp_word *own_epoch, uint64_t epoch, int bell, int second, cp_condition holds, void *context)
{
    int64_t timeout = bell == PARENT_BELL ? 1 : -1;
    if (mutation == NOT_LOOKED_AGAIN) {
        cp_publish(own_epoch, epoch);
        cp_bell_wait(bell, second, timeout);
    } else {
        cp_park(own_epoch, epoch, bell, second, holds, context, timeout, &at_once);
    }
}

/* ---- payloads ---- */

static uint64_t argument_word(int task)
{
    if (scenario->imitation && task == scenario->tasks - 1)
        return cp_claim(claim_tid(1), CP_READY);
    return 0x1111 * tid_of(task);
}

static uint64_t result_word(int task) { return 0x7777 * tid_of(task); }

static void fill_payload(cp_frame *f, uint64_t word)
{
    for (uint64_t i = 0; i < f->length / 8; i++)
        ((uint64_t *)(f + 1))[i] = word;
}

static bool payload_is(const uint8_t *payload, uint64_t length, uint64_t word)
{
    for (uint64_t i = 0; i < length / 8; i++)
        if (((const uint64_t *)payload)[i] != word)
            return false;
    return true;
}

#endif
