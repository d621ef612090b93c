/* Two sides meet at every decision at the same instant, again and again: parker and
 * ringer, taker and revoker, finisher and killer. Nobody sleeps here, so a lost
 * wake-up shows as what it is: both looked, and neither saw the other. */
#ifndef STRESS_DUEL_H
#define STRESS_DUEL_H

#include "stress.h"

/* With fewer free CPUs than two, each meeting takes a while. */
#define LONGEST_DUEL_NS 3000000000u

enum { WORKER_SIDE, PARENT_SIDE };

struct duel {
    struct pair pair;
    int parent_bell[2];
    uint64_t rounds;
    struct duel_words {     /* shared */
        _Alignas(CP_LINE) cp_word here[2];
        _Alignas(CP_LINE) cp_word parent_epoch;
        _Alignas(CP_LINE) cp_word won[2];
        cp_word over;       /* the parent has had enough */
        _Alignas(CP_LINE) cp_frame frame;
    } *words;
};

/* Nobody is before the other by more than a few instructions. */
static void meet(struct duel *d, int side, uint64_t *round, uint64_t *random)
{
    ++*round;
    cp_publish(&d->words->here[side], *round);
    for (int i = 1; cp_observe(&d->words->here[!side]) < *round; i++)
        if (i % 64)
            cp_pause();
        else
            sched_yield();
    for (uint64_t i = random_next(random) % 8; i; i--)
        cp_pause();
    progress(side);
}

struct sight {
    cp_condition holds;
    void *context;
    bool seen;
};

static bool sight_holds(void *context)
{
    struct sight *s = context;
    return s->seen = s->holds(s->context);
}

/* Parks as in earnest, but does not sleep. What the ringer did is seen, or it rings. */
static void park_or_see(cp_word *epoch, uint64_t number, int bell, struct sight *sight)
{
    cp_patience patience;
    cp_patience_init(&patience, 0, 0);
    sight->seen = false;
    cp_park(epoch, number, bell, -1, sight_holds, sight, 0, &patience);
}

static void must_have_met(const struct sight *sight, cp_word *rung, uint64_t epoch)
{
    if (!sight->seen && cp_observe(rung) != epoch)
        fail("a wake-up was lost: the parker did not see the work, nor the ringer the epoch");
}

static void duel_worker(void *context)
{
    struct duel *d = context;
    struct duel_words *w = d->words;
    cp_header *h = d->pair.header;
    uint64_t round = 0, epoch = 0, random = mixed(seed + 60);
    cp_consumer submission;
    cp_producer completion;
    cp_ringer parent = {&w->parent_epoch, 0, d->parent_bell[1]};
    cp_frame *f, copy;
    uint64_t position;
    const uint8_t *payload;
    cp_consumer_init(&submission, &h->submission, d->pair.submission, d->pair.ring_size);
    cp_producer_init(&completion, &h->completion, d->pair.completion, d->pair.ring_size);
    for (uint64_t n = 0; n < d->rounds && !cp_observe(&w->over); n++) {
        /* I park for a submission */
        struct sight sight = {cp_has_submission, &submission, false};
        meet(d, WORKER_SIDE, &round, &random);
        park_or_see(&h->worker_epoch, ++epoch, d->pair.bell[0], &sight);
        meet(d, WORKER_SIDE, &round, &random);
        must_have_met(&sight, &w->won[PARENT_SIDE], epoch);
        cp_unpark(&h->worker_epoch, d->pair.bell[0]);
        check(cp_ring_next(&submission, &copy, &position, &payload) == CP_FRAME);
        cp_ring_advance(&submission, &copy);
        cp_ring_release(&submission);

        /* I fill the completion ring and park for room */
        while (cp_ring_reserve(&completion, 0, &f) == CP_FRAME)
            f->kind = CP_RESULT;
        cp_ring_publish(&completion);
        cp_room room = {&completion, CP_LINE};
        sight = (struct sight){cp_has_room, &room, false};
        meet(d, WORKER_SIDE, &round, &random);
        park_or_see(&h->worker_epoch, ++epoch, d->pair.bell[0], &sight);
        meet(d, WORKER_SIDE, &round, &random);
        must_have_met(&sight, &w->won[PARENT_SIDE], epoch);
        cp_unpark(&h->worker_epoch, d->pair.bell[0]);

        /* the parent parks for a completion */
        check(cp_ring_reserve(&completion, 0, &f) == CP_FRAME);
        f->kind = CP_RESULT;
        meet(d, WORKER_SIDE, &round, &random);
        cp_ring_publish(&completion);
        cp_bell_ring_if_parked(&parent);
        cp_publish(&w->won[WORKER_SIDE], parent.rung);
        meet(d, WORKER_SIDE, &round, &random);

        /* take against revoke, finish against kill */
        meet(d, WORKER_SIDE, &round, &random);
        cp_publish(&w->won[WORKER_SIDE], cp_claim_take(&w->frame, n));
        meet(d, WORKER_SIDE, &round, &random);
        check(cp_observe(&w->won[0]) + cp_observe(&w->won[1]) == 1);
        meet(d, WORKER_SIDE, &round, &random);
        cp_publish(&w->won[WORKER_SIDE], cp_claim_finish(&w->frame, n));
        meet(d, WORKER_SIDE, &round, &random);
        check(cp_observe(&w->won[0]) + cp_observe(&w->won[1]) == 1);
        meet(d, WORKER_SIDE, &round, &random);
    }
}

static void duel_parent(struct duel *d)
{
    struct duel_words *w = d->words;
    cp_header *h = d->pair.header;
    uint64_t round = 0, epoch = 0, random = mixed(seed + 61), wins[2] = {0}, begun = cp_now();
    cp_producer submission;
    cp_consumer completion;
    cp_ringer worker = {&h->worker_epoch, 0, d->pair.bell[1]};
    const cp_consumer *ring = &completion;
    cp_word kick = 0;
    cp_any any = {&ring, 1, &kick, 0};
    cp_frame *f, copy;
    uint64_t position;
    const uint8_t *payload;
    cp_producer_init(&submission, &h->submission, d->pair.submission, d->pair.ring_size);
    cp_consumer_init(&completion, &h->completion, d->pair.completion, d->pair.ring_size);
    for (uint64_t n = 0; n < d->rounds && !cp_observe(&w->over); n++) {
        check(cp_ring_reserve(&submission, 0, &f) == CP_FRAME);
        f->kind = CP_TASK;
        meet(d, PARENT_SIDE, &round, &random);
        cp_ring_publish(&submission);
        cp_bell_ring_if_parked(&worker);
        cp_publish(&w->won[PARENT_SIDE], worker.rung);
        meet(d, PARENT_SIDE, &round, &random);

        meet(d, PARENT_SIDE, &round, &random);
        while (cp_ring_next(&completion, &copy, &position, &payload) == CP_FRAME)
            cp_ring_advance(&completion, &copy);
        cp_ring_release(&completion);
        cp_bell_ring_if_parked(&worker);
        cp_publish(&w->won[PARENT_SIDE], worker.rung);
        meet(d, PARENT_SIDE, &round, &random);

        struct sight sight = {cp_any_pending, &any, false};
        meet(d, PARENT_SIDE, &round, &random);
        park_or_see(&w->parent_epoch, ++epoch, d->parent_bell[0], &sight);
        meet(d, PARENT_SIDE, &round, &random);
        must_have_met(&sight, &w->won[WORKER_SIDE], epoch);
        cp_unpark(&w->parent_epoch, d->parent_bell[0]);
        check(cp_ring_next(&completion, &copy, &position, &payload) == CP_FRAME);
        cp_ring_advance(&completion, &copy);
        cp_ring_release(&completion);

        cp_publish(&w->frame.claim, cp_claim(n, CP_READY));
        meet(d, PARENT_SIDE, &round, &random);
        bool won = cp_claim_revoke(&w->frame, n);
        cp_publish(&w->won[PARENT_SIDE], won);
        meet(d, PARENT_SIDE, &round, &random);
        wins[0] += won;
        cp_publish(&w->frame.claim, cp_claim(n, CP_CLAIMED));
        meet(d, PARENT_SIDE, &round, &random);
        won = cp_claim_kill(&w->frame, n);
        cp_publish(&w->won[PARENT_SIDE], won);
        meet(d, PARENT_SIDE, &round, &random);
        wins[1] += won;
        cp_bump(&area->rounds, 1);
        if (cp_now() - begun > LONGEST_DUEL_NS)
            cp_publish(&w->over, 1);
        meet(d, PARENT_SIDE, &round, &random);
    }
    note("parent won %llu of the revokes, %llu of the kills", (unsigned long long)wins[0], (unsigned long long)wins[1]);
}

static void duel(uint64_t rounds)
{
    struct duel d = {.pair = pair_make(256), .rounds = rounds / 50 + 1, .words = map_shared(CP_PAGE)};
    struct peer worker;
    check(cp_bell_create(d.parent_bell) == 0);
    peer_start(&worker, duel_worker, &d);
    duel_parent(&d);
    peer_join(&worker);
    close(d.parent_bell[0]);
    if (d.parent_bell[1] != d.parent_bell[0])
        close(d.parent_bell[1]);
    munmap(d.words, CP_PAGE);
    pair_free(&d.pair);
}

#endif
