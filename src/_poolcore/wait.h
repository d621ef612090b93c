/* Waiting: spin by the clock, then yield, then park.
 *
 * To park is to publish an epoch, look once more, and sleep on the doorbell.
 * The peer publishes its frames, then looks at the epoch: one of the two sees
 * the other (atomics.h). Only the parker clears its epoch; a ringer reads it and
 * rings at most once an epoch, so that a ringer killed on the way to the bell
 * takes nobody's wake-up with it. Spurious rings are legal. */
#ifndef CP_WAIT_H
#define CP_WAIT_H

#include "platform.h"
#include "ring.h"

/* Staying awake pays only where waits are short, and costs CPU where they are long:
 * a wait that ended in a long sleep halves the next one's yields, a short sleep
 * doubles them; with none left it does not spin either.
 *
 * A yield on a busy CPU costs the other program's whole time slice, and who wakes up
 * from a park is run at once: after a lost slice the next waits park instead, twice as
 * many as the last time, until a yield comes back soon. */
typedef struct {
    uint64_t spin_ns;    /* spin this long ... */
    uint32_t yields;     /* ... then give the CPU away this often at most, then park */
    uint32_t yields_now; /* this often, as things are */
    uint32_t price;      /* waits without a yield that the last lost slice has cost */
    uint32_t to_pay;     /* of which these are to come */
} cp_patience;

#define CP_SHORT_SLEEP 50000u   /* ns; about what parking and waking cost */
#define CP_LOST_SLICE 1000000u  /* ns; a yield that took longer went to another program */
#define CP_HIGHEST_PRICE 1024u

static inline void cp_patience_init(cp_patience *p, uint64_t spin_ns, uint32_t yields)
{
    p->spin_ns = spin_ns;
    p->yields = p->yields_now = yields;
    p->price = p->to_pay = 0;
}

/* Gives the CPU away; false if that was for long, and the peer, if it has an epoch to
 * tell by, sleeps until we go on. */
static inline bool cp_patience_yield(cp_patience *p, const cp_word *peer_epoch)
{
    uint64_t begin = cp_now();
    sched_yield();
    if (cp_now() - begin < CP_LOST_SLICE || (peer_epoch && !cp_observe(peer_epoch)))
        return true;
    p->price = p->price ? 2 * p->price : 1;
    if (p->price > CP_HIGHEST_PRICE)
        p->price = CP_HIGHEST_PRICE;
    p->to_pay = p->price;
    return false;
}

static inline void cp_patience_slept(cp_patience *p, uint64_t ns)
{
    if (ns >= CP_SHORT_SLEEP)
        p->yields_now /= 2;
    else if (p->yields_now < p->yields)
        p->yields_now = 2 * p->yields_now + 1 < p->yields ? 2 * p->yields_now + 1 : p->yields;
}

/* Ringer's side of one peer. */
typedef struct {
    const cp_word *epoch;   /* the peer's park epoch */
    uint64_t rung;          /* the epoch that we rang last */
    int fd;                 /* the peer's doorbell */
} cp_ringer;

/* After a publish: wakes the peer if it has parked. */
static inline void cp_bell_ring_if_parked(cp_ringer *r)
{
    uint64_t epoch = cp_observe(r->epoch);
    if (epoch && epoch != r->rung) {
        r->rung = epoch;
        cp_bell_ring(r->fd);
    }
}

typedef bool (*cp_condition)(void *context);

/* Spins and yields until the condition holds; false when patience has ended. */
static inline bool cp_wait_awake(cp_patience *patience, const cp_word *peer_epoch,
                                 cp_condition holds, void *context)
{
    if (patience->spin_ns && (patience->yields_now || !patience->yields)) {
        uint64_t end = cp_now() + patience->spin_ns;
        do {
            for (int i = 0; i < 8; i++) {
                if (holds(context))
                    return true;
                cp_pause();
            }
        } while (cp_now() < end);
    }
    if (patience->to_pay) {
        patience->to_pay--;
        return holds(context);
    }
    for (uint32_t i = 0; i < patience->yields_now; i++) {
        if (holds(context))
            return true;
        if (!cp_patience_yield(patience, peer_epoch))
            return holds(context);
    }
    if (patience->yields_now)
        patience->price = 0;
    return holds(context);
}

/* Parks until rung (at either bell), interrupted or timed out, unless the
 * condition holds already. The caller unparks. */
static inline void cp_park(cp_word *own_epoch, uint64_t epoch, int bell, int second_bell,
                           cp_condition holds, void *context, int64_t timeout_ns,
                           cp_patience *patience)
{
    uint64_t begin = cp_now();
    cp_publish(own_epoch, epoch);
    if (!holds(context))
        cp_bell_wait(bell, second_bell, timeout_ns);
    cp_patience_slept(patience, cp_now() - begin);
}

static inline void cp_unpark(cp_word *own_epoch, int bell)
{
    cp_publish(own_epoch, 0);
    cp_bell_drain(bell);
}

/* ---- what a worker waits for ---- */

static inline bool cp_has_submission(void *consumer)
{
    return cp_consumer_pending((cp_consumer *)consumer);
}

typedef struct {
    cp_producer *producer;
    uint64_t need;
} cp_room;

static inline bool cp_has_room(void *context)
{
    cp_room *r = (cp_room *)context;
    /* true also for a head that makes no sense: the caller finds out */
    return !cp_producer_look(r->producer) || cp_producer_fits(r->producer, r->need);
}

/* ---- what the parent's leader waits for ---- */

typedef struct {
    const cp_consumer *const *rings;
    uint32_t count;
    const cp_word *kick;     /* raised by whoever changes what the leader waits for */
    uint64_t kick_seen;
} cp_any;

static inline bool cp_any_pending(void *context)
{
    const cp_any *a = (const cp_any *)context;
    for (uint32_t i = 0; i < a->count; i++)
        if (cp_consumer_pending(a->rings[i]))
            return true;
    return cp_observe(a->kick) != a->kick_seen;
}

#endif
