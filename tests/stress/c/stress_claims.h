/* Parent against worker at every claim word: exactly one wins. */
#ifndef STRESS_CLAIMS_H
#define STRESS_CLAIMS_H

#include "stress.h"

struct verdict {
    cp_word worker;         /* TAKEN, FINISHED */
    cp_word parent;         /* TAKEN_BACK, DOOMED */
};

enum { TAKEN = 1, FINISHED = 2, TAKEN_BACK = 1, DOOMED = 2 };

struct claims {
    struct pair pair;
    struct verdict *verdicts;
    uint64_t tasks;
};

static void claims_work(void *context)
{
    struct claims *k = context;
    uint64_t random = mixed(seed + 30);
    cp_consumer c;
    cp_consumer_init(&c, &k->pair.header->submission, k->pair.submission, k->pair.ring_size);
    for (uint64_t tid = 1; tid <= k->tasks;) {
        cp_frame f;
        uint64_t position;
        const uint8_t *payload;
        int got = cp_ring_next(&c, &f, &position, &payload);
        if (got == CP_EMPTY) {
            cp_ring_release(&c);
            sched_yield();
            continue;
        }
        check(got == CP_FRAME && cp_claim_tid(cp_peek(&f.claim)) == tid);
        cp_frame *shared = cp_ring_at(c.base, c.size, position);
        dawdle(&random);
        if (cp_claim_take(shared, tid)) {
            cp_bump(&k->verdicts[tid].worker, TAKEN);
            dawdle(&random);
            if (cp_claim_finish(shared, tid))   /* a real worker would leave */
                cp_bump(&k->verdicts[tid].worker, FINISHED);
        }
        check(is_filled(payload, f.length, tid));
        cp_ring_advance(&c, &f);
        if (random_below(&random, 4) == 0)
            cp_ring_release(&c);
        tid++;
        progress(1);
    }
    cp_ring_release(&c);
}

static void claims(uint64_t rounds)
{
    enum { RECENT = 64 };
    struct claims k = {.pair = pair_make(1024), .tasks = rounds / 10 + 1};
    uint64_t random = mixed(seed + 31), positions[RECENT], count[3] = {0};
    struct peer worker;
    cp_producer p;
    size_t bytes = (k.tasks + 1) * sizeof *k.verdicts;
    k.verdicts = map_shared((bytes + CP_PAGE - 1) / CP_PAGE * CP_PAGE);
    cp_producer_init(&p, &k.pair.header->submission, k.pair.submission, k.pair.ring_size);
    peer_start(&worker, claims_work, &k);
    for (uint64_t sent = 0; sent < k.tasks || p.head_seen != p.tail;) {
        cp_frame *f;
        uint64_t length = length_of(sent + 1, p.size) % 100;
        int got = sent < k.tasks ? cp_ring_reserve(&p, length, &f) : CP_EMPTY;
        if (got == CP_FRAME) {
            sent++;
            f->kind = CP_TASK;
            cp_poke(&f->claim, cp_claim(sent, CP_READY));
            fill((uint8_t *)(f + 1), length, sent);
            positions[sent % RECENT] = p.tail - f->size;
            cp_ring_publish(&p);
        } else {
            check(got == CP_EMPTY && cp_producer_look(&p));
            sched_yield();
        }
        progress(0);
        /* one of the last tasks, unless we know that the worker has passed it: then
         * another task's payload may lie there */
        uint64_t tid = sent - random_below(&random, sent < RECENT ? sent : RECENT);
        cp_frame *at = cp_ring_at(p.base, p.size, positions[tid % RECENT]);
        dawdle(&random);
        if (!cp_producer_holds(&p, positions[tid % RECENT]))
            continue;
        if (cp_claim_revoke(at, tid))
            cp_bump(&k.verdicts[tid].parent, TAKEN_BACK);
        else if (random_below(&random, 2) && cp_claim_kill(at, tid))
            cp_bump(&k.verdicts[tid].parent, DOOMED);
    }
    peer_join(&worker);
    for (uint64_t tid = 1; tid <= k.tasks; tid++) {
        uint64_t by_worker = cp_peek(&k.verdicts[tid].worker), by_parent = cp_peek(&k.verdicts[tid].parent);
        if (!((by_parent == TAKEN_BACK && by_worker == 0) || (by_parent == DOOMED && by_worker == TAKEN) ||
              (by_parent == 0 && by_worker == TAKEN + FINISHED)))
            fail("task %llu: worker did %llu, parent %llu", (unsigned long long)tid,
                 (unsigned long long)by_worker, (unsigned long long)by_parent);
        count[by_parent]++;
    }
    note("%llu finished, %llu taken back, %llu killed", (unsigned long long)count[0],
         (unsigned long long)count[TAKEN_BACK], (unsigned long long)count[DOOMED]);
    munmap(k.verdicts, (bytes + CP_PAGE - 1) / CP_PAGE * CP_PAGE);
    pair_free(&k.pair);
    cp_bump(&area->rounds, k.tasks);
}

#endif
