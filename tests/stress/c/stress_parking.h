/* No spinning, sleeps without limit: a wake-up that is lost stops everything, which
 * the watchdog sees. */
#ifndef STRESS_PARKING_H
#define STRESS_PARKING_H

#include "stress.h"

enum { MOST_WORKERS = 3 };

struct parking {
    cp_control *control;
    int parent_bell[2];
    int workers;
    uint64_t frames;            /* for each worker */
    bool alternate;             /* one frame on the way at most; else as many as fit */
    struct parking_worker {
        struct parking *all;
        int number;
        struct pair pair;
        struct peer peer;
    } worker[MOST_WORKERS];
};

/* A worker's end; a trimmed workerend.pxi. */
struct worker_end {
    struct parking_worker *me;
    cp_consumer submission;
    cp_producer completion;
    cp_ringer parent;
    cp_patience patience;
    uint64_t epoch, random;
};

static void worker_end_wait(struct worker_end *e, cp_condition condition, void *context)
{
    cp_word *epoch = &e->me->pair.header->worker_epoch;
    e->epoch++;
    dawdle(&e->random);
    if (!cp_wait_awake(&e->patience, NULL, condition, context)) {
        cp_park(epoch, e->epoch, e->me->pair.bell[0], -1, condition, context, -1, &e->patience);
        dawdle(&e->random);
        cp_unpark(epoch, e->me->pair.bell[0]);
    }
}

static void worker_end_publish(struct worker_end *e, uint64_t number)
{
    uint64_t length = length_of(number, e->me->pair.ring_size);
    cp_frame *f;
    int got;
    while ((got = cp_ring_reserve(&e->completion, length, &f)) != CP_FRAME) {
        check(got == CP_EMPTY);
        cp_room room = {&e->completion, cp_producer_need(&e->completion, cp_frame_bytes(length))};
        worker_end_wait(e, cp_has_room, &room);
    }
    f->kind = CP_RESULT;
    cp_poke(&f->claim, number);
    fill((uint8_t *)(f + 1), length, number);
    cp_ring_publish(&e->completion);
    dawdle(&e->random);
    cp_bell_ring_if_parked(&e->parent);
}

static void parking_work(void *context)
{
    struct parking_worker *me = context;
    struct pair *pair = &me->pair;
    struct worker_end e = {.me = me, .random = mixed(seed + 10 + (uint64_t)me->number)};
    uint64_t released = 0;
    cp_patience_init(&e.patience, 0, 0);
    cp_consumer_init(&e.submission, &pair->header->submission, pair->submission, pair->ring_size);
    cp_producer_init(&e.completion, &pair->header->completion, pair->completion, pair->ring_size);
    e.parent = (cp_ringer){&me->all->control->parent_epoch, 0, me->all->parent_bell[1]};
    for (uint64_t n = 0; n < me->all->frames;) {
        cp_frame f;
        uint64_t position;
        const uint8_t *payload;
        int got = cp_ring_next(&e.submission, &f, &position, &payload);
        if (got == CP_EMPTY) {
            released = cp_peek(&e.submission.head);
            cp_ring_release(&e.submission);
            worker_end_wait(&e, cp_has_submission, &e.submission);
            continue;
        }
        check(got == CP_FRAME && cp_peek(&f.claim) == n && is_filled(payload, f.length, n));
        worker_end_publish(&e, n);
        cp_ring_advance(&e.submission, &f);
        if (cp_peek(&e.submission.head) - released >= pair->ring_size / 16) {
            released = cp_peek(&e.submission.head);
            cp_ring_release(&e.submission);
        }
        n++;
        progress(1 + me->number);
    }
}

static bool push(cp_producer *p, cp_ringer *ringer, uint64_t number, uint64_t *random)
{
    uint64_t length = length_of(number, p->size);
    cp_frame *f;
    int got = cp_ring_reserve(p, length, &f);
    if (got == CP_EMPTY)
        return false;
    check(got == CP_FRAME);
    f->kind = CP_TASK;
    cp_poke(&f->claim, number);
    fill((uint8_t *)(f + 1), length, number);
    cp_ring_publish(p);
    dawdle(random);
    cp_bell_ring_if_parked(ringer);
    return true;
}

static void parking_run(struct parking *k, uint64_t ring_size)
{
    struct {
        cp_producer submission;
        cp_consumer completion;
        cp_ringer ringer;
        uint64_t sent, received;
    } end[MOST_WORKERS];
    const cp_consumer *rings[MOST_WORKERS];
    cp_word kick = 0;
    cp_any look = {rings, (uint32_t)k->workers, &kick, 0};
    cp_patience patience;
    uint64_t random = mixed(seed + 20), epoch = 0, left = (uint64_t)k->workers * k->frames;
    cp_patience_init(&patience, 0, 0);
    k->control = map_shared(CP_PAGE);
    check(cp_bell_create(k->parent_bell) == 0);
    for (int w = 0; w < k->workers; w++) {
        struct parking_worker *worker = &k->worker[w];
        struct pair *pair = &worker->pair;
        worker->all = k;
        worker->number = w;
        *pair = pair_make(ring_size);
        cp_producer_init(&end[w].submission, &pair->header->submission, pair->submission, ring_size);
        cp_consumer_init(&end[w].completion, &pair->header->completion, pair->completion, ring_size);
        end[w].ringer = (cp_ringer){&pair->header->worker_epoch, 0, pair->bell[1]};
        end[w].sent = end[w].received = 0;
        rings[w] = &end[w].completion;
    }
    for (int w = 0; w < k->workers; w++)
        peer_start(&k->worker[w].peer, parking_work, &k->worker[w]);
    while (left) {
        for (int w = 0; w < k->workers; w++) {      /* collect ... */
            cp_frame f;
            uint64_t position;
            const uint8_t *payload;
            int got;
            while ((got = cp_ring_next(&end[w].completion, &f, &position, &payload)) == CP_FRAME) {
                check(cp_peek(&f.claim) == end[w].received && is_filled(payload, f.length, end[w].received));
                end[w].received++;
                left--;
                cp_ring_advance(&end[w].completion, &f);
            }
            check(got == CP_EMPTY);
            cp_ring_release(&end[w].completion);
            dawdle(&random);
            cp_bell_ring_if_parked(&end[w].ringer);
        }
        for (int w = 0; w < k->workers; w++)        /* ... and refill */
            while (end[w].sent < k->frames && (!k->alternate || end[w].sent == end[w].received) &&
                   push(&end[w].submission, &end[w].ringer, end[w].sent, &random))
                end[w].sent++;
        progress(0);
        if (!left)
            break;
        epoch++;
        if (!cp_wait_awake(&patience, NULL, cp_any_pending, &look)) {
            cp_park(&k->control->parent_epoch, epoch, k->parent_bell[0], -1, cp_any_pending, &look, -1, &patience);
            dawdle(&random);
            cp_unpark(&k->control->parent_epoch, k->parent_bell[0]);
        }
    }
    for (int w = 0; w < k->workers; w++) {
        peer_join(&k->worker[w].peer);
        pair_free(&k->worker[w].pair);
    }
    munmap(k->control, CP_PAGE);
    close(k->parent_bell[0]);
    if (k->parent_bell[1] != k->parent_bell[0])
        close(k->parent_bell[1]);
    cp_bump(&area->rounds, (uint64_t)k->workers * k->frames);
}

/* One frame there and one back, both sides asleep most of the time. */
static void pingpong(uint64_t rounds)
{
    for (int workers = 1; workers <= MOST_WORKERS; workers++) {
        struct parking k = {.workers = workers, .frames = rounds / 100 / (uint64_t)workers + 1, .alternate = true};
        parking_run(&k, 1024);
    }
}

/* Both directions full: workers that wait for completion room. */
static void duplex(uint64_t rounds)
{
    for (int workers = 1; workers <= MOST_WORKERS; workers++) {
        struct parking k = {.workers = workers, .frames = rounds / 60 / (uint64_t)workers + 1};
        parking_run(&k, workers % 2 ? 512 : 2048);
    }
}

#endif
