/* Worker processes that are killed anywhere, and a parent that recovers: every task
 * has one outcome, a body starts at most once, and the blame is right. */
#ifndef STRESS_RECOVERY_H
#define STRESS_RECOVERY_H

#include "stress.h"

enum { CREW = 2, UNENDED = 0, ENDED_RESULT, ENDED_LOST, ENDED_KILLED, ENDED_REVOKED, OUTCOMES };

/* Written by the workers, so that the parent can compare. */
struct body {
    cp_word started, finished;
};

struct hand {
    struct pair pair;
    pid_t pid;
    int lifeline;               /* readable once it is dead */
    bool doomed;                /* we have killed it, or are about to */
    cp_producer submission;
    cp_consumer completion;
    cp_ringer ringer;
    uint64_t *journal;          /* tids, 0: taken back */
    uint64_t *positions;
    uint64_t first, end, load, most;
};

struct recovery {
    cp_control *control;
    int bell[2];
    struct body *bodies;
    struct hand crew[CREW];
    uint64_t tasks, left, forks;
    uint8_t *outcomes;
    bool *kill_won;
    uint64_t *backlog, backlog_first, backlog_end;   /* a deque, begun in the middle */
    uint64_t random;
};

/* ---- worker ---- */

static void maybe_die(uint64_t *random)
{
    dawdle(random);
    if (random_below(random, 1500) == 0)
        raise(SIGKILL);
}

static void hand_wait(struct pair *pair, uint64_t *epoch, cp_condition condition, void *context)
{
    cp_patience patience;
    cp_patience_init(&patience, 0, 0);
    ++*epoch;
    if (!cp_wait_awake(&patience, NULL, condition, context)) {
        cp_park(&pair->header->worker_epoch, *epoch, pair->bell[0], -1, condition, context, -1, &patience);
        cp_unpark(&pair->header->worker_epoch, pair->bell[0]);
    }
}

static void hand_release(cp_consumer *submission, bool *skipped, cp_ringer *parent)
{
    cp_ring_release(submission);
    if (*skipped)       /* no completion tells of the room that they left */
        cp_bell_ring_if_parked(parent);
    *skipped = false;
}

static void hand_work(struct recovery *k, struct pair *pair, uint64_t random)
{
    cp_consumer submission;
    cp_producer completion;
    cp_ringer parent = {&k->control->parent_epoch, 0, k->bell[1]};
    uint64_t epoch = 0;
    bool skipped = false;
    cp_consumer_init(&submission, &pair->header->submission, pair->submission, pair->ring_size);
    cp_producer_init(&completion, &pair->header->completion, pair->completion, pair->ring_size);
    for (;;) {
        cp_frame f, *out = NULL;
        uint64_t position = 0;
        const uint8_t *payload = NULL;
        int got = cp_ring_next(&submission, &f, &position, &payload);
        maybe_die(&random);
        if (got == CP_EMPTY) {
            hand_release(&submission, &skipped, &parent);
            hand_wait(pair, &epoch, cp_has_submission, &submission);
            continue;
        }
        check(got == CP_FRAME && f.kind == CP_TASK);
        cp_frame *shared = cp_ring_at(submission.base, submission.size, position);
        uint64_t tid = cp_claim_tid(cp_peek(&f.claim)), length = length_of(~tid, pair->ring_size);
        cp_poke(&shared->start, cp_now());
        if (!cp_claim_take(shared, tid)) {
            skipped = true;
        } else {
            maybe_die(&random);
            cp_bump(&k->bodies[tid].started, 1);
            check(is_filled(payload, f.length, tid));
            maybe_die(&random);
            while ((got = cp_ring_reserve(&completion, length, &out)) != CP_FRAME) {
                check(got == CP_EMPTY);
                cp_room room = {&completion, cp_producer_need(&completion, cp_frame_bytes(length))};
                hand_wait(pair, &epoch, cp_has_room, &room);
            }
            maybe_die(&random);
            if (!cp_claim_finish(shared, tid))
                _exit(3);
            maybe_die(&random);
            out->kind = CP_RESULT;
            cp_poke(&out->claim, tid);
            fill((uint8_t *)(out + 1), length, ~tid);
            cp_bump(&k->bodies[tid].finished, 1);
            cp_ring_publish(&completion);
            maybe_die(&random);
            cp_bell_ring_if_parked(&parent);
            maybe_die(&random);
        }
        cp_ring_advance(&submission, &f);
        if (cp_peek(&submission.head) - submission.released >= submission.size / 16)
            hand_release(&submission, &skipped, &parent);
    }
}

/* ---- parent ---- */

static void hand_start(struct recovery *k, struct hand *h)
{
    int ends[2];
    h->pair = pair_make(1024);
    cp_producer_init(&h->submission, &h->pair.header->submission, h->pair.submission, h->pair.ring_size);
    cp_consumer_init(&h->completion, &h->pair.header->completion, h->pair.completion, h->pair.ring_size);
    h->ringer = (cp_ringer){&h->pair.header->worker_epoch, 0, h->pair.bell[1]};
    h->first = h->end = h->load = 0;
    h->doomed = false;
    check(pipe(ends) == 0);
    uint64_t random = random_next(&k->random);
    h->pid = fork();
    check(h->pid >= 0);
    if (h->pid == 0) {
        die_with_parent();
        close(ends[0]);
        for (int i = 0; i < CREW; i++)  /* nobody else holds the write end */
            if (&k->crew[i] != h && k->crew[i].pid)
                close(k->crew[i].lifeline);
        hand_work(k, &h->pair, random);
    }
    close(ends[1]);
    h->lifeline = ends[0];
    k->forks++;
}

static void hand_end(struct recovery *k, uint64_t tid, uint8_t outcome)
{
    const struct body *body = &k->bodies[tid];
    check(k->outcomes[tid] == UNENDED);
    check((outcome == ENDED_KILLED) == k->kill_won[tid]);
    if (outcome == ENDED_RESULT)
        check(cp_peek(&body->finished) == 1);
    if (outcome == ENDED_REVOKED)
        check(cp_peek(&body->started) == 0);
    k->outcomes[tid] = outcome;
    k->left--;
    progress(0);
}

static bool hand_push(struct hand *h, uint64_t tid)
{
    uint64_t length = length_of(tid, h->submission.size);
    cp_frame *f;
    int got = cp_ring_reserve(&h->submission, length, &f);
    if (got == CP_EMPTY)
        return false;
    check(got == CP_FRAME && h->end - h->first < h->most);
    f->kind = CP_TASK;
    cp_poke(&f->claim, cp_claim(tid, CP_READY));
    fill((uint8_t *)(f + 1), length, tid);
    h->journal[h->end % h->most] = tid;
    h->positions[h->end % h->most] = h->submission.tail - f->size;
    h->end++;
    h->load++;
    return true;
}

static void hand_refill(struct recovery *k)
{
    while (k->backlog_first != k->backlog_end) {
        struct hand *h = k->crew[0].load <= k->crew[1].load ? &k->crew[0] : &k->crew[1];
        if (!hand_push(h, k->backlog[k->backlog_first]))
            break;
        k->backlog_first++;
        cp_ring_publish(&h->submission);
        cp_bell_ring_if_parked(&h->ringer);
    }
}

static uint64_t hand_first(struct hand *h)
{
    while (h->first != h->end && !h->journal[h->first % h->most])
        h->first++;
    return h->first == h->end ? 0 : h->journal[h->first % h->most];
}

static void hand_collect(struct recovery *k, struct hand *h)
{
    cp_frame f;
    uint64_t position;
    const uint8_t *payload;
    int got;
    while ((got = cp_ring_next(&h->completion, &f, &position, &payload)) == CP_FRAME) {
        uint64_t tid = hand_first(h);
        check(f.kind == CP_RESULT && tid && cp_peek(&f.claim) == tid && is_filled(payload, f.length, ~tid));
        h->first++;
        h->load--;
        hand_end(k, tid, ENDED_RESULT);
        cp_ring_advance(&h->completion, &f);
    }
    check(got == CP_EMPTY);
    cp_ring_release(&h->completion);
    cp_bell_ring_if_parked(&h->ringer);
}

static bool hand_revoke(struct hand *h, uint64_t at)
{
    uint64_t position = h->positions[at % h->most], tid = h->journal[at % h->most];
    return cp_producer_holds(&h->submission, position) &&
           cp_claim_revoke(cp_ring_at(h->submission.base, h->submission.size, position), tid);
}

/* It is certainly dead. */
static void hand_recover(struct recovery *k, struct hand *h)
{
    uint64_t again[64], count = 0;
    hand_collect(k, h);
    for (uint64_t tid; (tid = hand_first(h)); h->first++) {
        if (hand_revoke(h, h->first)) {
            check(count < 64);
            again[count++] = tid;
        } else {
            hand_end(k, tid, k->kill_won[tid] ? ENDED_KILLED : ENDED_LOST);
        }
    }
    while (count)
        k->backlog[--k->backlog_first] = again[--count];
    close(h->lifeline);
    pair_free(&h->pair);
    hand_start(k, h);
}

/* What supervisors and callers do to tasks and workers now and then. */
static void hand_meddle(struct recovery *k)
{
    uint64_t r = random_next(&k->random);
    struct hand *h = &k->crew[r % CREW];
    if (h->first == h->end || h->doomed)
        return;
    uint64_t at = h->first + (r >> 8) % (h->end - h->first), tid = h->journal[at % h->most];
    switch ((r >> 32) % 100) {
    case 0:     /* believed dead */
        h->doomed = true;
        kill(h->pid, SIGKILL);
        break;
    case 1: case 2: case 3:     /* time is up */
        if (tid && cp_producer_holds(&h->submission, h->positions[at % h->most]) &&
            cp_claim_kill(cp_ring_at(h->submission.base, h->submission.size, h->positions[at % h->most]), tid)) {
            k->kill_won[tid] = h->doomed = true;
            kill(h->pid, SIGKILL);
        }
        break;
    case 4: case 5: case 6: case 7: case 8:     /* cancelled */
        if (tid && hand_revoke(h, at)) {
            h->journal[at % h->most] = 0;
            h->load--;
            hand_end(k, tid, ENDED_REVOKED);
        }
        break;
    default:
        break;
    }
}

static void recovery(uint64_t rounds)
{
    struct recovery k = {.tasks = rounds / 50 + 1, .random = mixed(seed + 50)};
    const cp_consumer *rings[CREW];
    cp_word kick = 0;
    cp_any look = {rings, CREW, &kick, 0};
    cp_patience patience;
    uint64_t epoch = 0, counts[OUTCOMES] = {0};
    k.left = k.tasks;
    k.control = map_shared(CP_PAGE);
    k.bodies = map_shared(((k.tasks + 1) * sizeof *k.bodies + CP_PAGE - 1) / CP_PAGE * CP_PAGE);
    k.outcomes = calloc(k.tasks + 1, sizeof *k.outcomes);
    k.kill_won = calloc(k.tasks + 1, sizeof *k.kill_won);
    k.backlog = calloc(3 * k.tasks + 200, sizeof *k.backlog);
    check(k.outcomes && k.kill_won && k.backlog && cp_bell_create(k.bell) == 0);
    k.backlog_first = k.backlog_end = 2 * k.tasks + 100;
    for (uint64_t tid = 1; tid <= k.tasks; tid++)
        k.backlog[k.backlog_end++] = tid;
    cp_patience_init(&patience, 0, 0);
    for (int i = 0; i < CREW; i++) {
        k.crew[i].most = 2 * 1024 / CP_LINE;
        k.crew[i].journal = calloc(k.crew[i].most, sizeof(uint64_t));
        k.crew[i].positions = calloc(k.crew[i].most, sizeof(uint64_t));
        rings[i] = &k.crew[i].completion;
        hand_start(&k, &k.crew[i]);
    }
    while (k.left) {
        int status;
        bool recovered = false;
        for (int i = 0; i < CREW; i++)
            hand_collect(&k, &k.crew[i]);
        hand_refill(&k);
        hand_meddle(&k);
        for (int i = 0; i < CREW; i++)
            if (waitpid(k.crew[i].pid, &status, WNOHANG) == k.crew[i].pid) {
                check((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
                      (WIFEXITED(status) && WEXITSTATUS(status) == 3 && k.crew[i].doomed));
                hand_recover(&k, &k.crew[i]);
                recovered = true;
            }
        if (!k.left || recovered)
            continue;
        epoch++;
        if (!cp_wait_awake(&patience, NULL, cp_any_pending, &look)) {
            bool backlog = k.backlog_first != k.backlog_end;    /* looked at by the clock, too */
            cp_publish(&k.control->parent_epoch, epoch);
            struct pollfd p[] = {{k.bell[0], POLLIN, 0}, {k.crew[0].lifeline, POLLIN, 0},
                                 {k.crew[1].lifeline, POLLIN, 0}};
            if (!cp_any_pending(&look))
                poll(p, 1 + CREW, backlog ? 1 : -1);
            cp_unpark(&k.control->parent_epoch, k.bell[0]);
        }
    }
    for (int i = 0; i < CREW; i++) {
        kill(k.crew[i].pid, SIGKILL);
        check(waitpid(k.crew[i].pid, NULL, 0) == k.crew[i].pid);
        close(k.crew[i].lifeline);
        pair_free(&k.crew[i].pair);
        free(k.crew[i].journal);
        free(k.crew[i].positions);
    }
    for (uint64_t tid = 1; tid <= k.tasks; tid++) {
        check(cp_peek(&k.bodies[tid].started) <= 1);
        counts[k.outcomes[tid]]++;
    }
    check(counts[UNENDED] == 0);
    note("%llu workers, %llu results, %llu lost, %llu killed, %llu taken back", (unsigned long long)k.forks,
         (unsigned long long)counts[ENDED_RESULT], (unsigned long long)counts[ENDED_LOST],
         (unsigned long long)counts[ENDED_KILLED], (unsigned long long)counts[ENDED_REVOKED]);
    free(k.outcomes);
    free(k.kill_won);
    free(k.backlog);
    cp_bump(&area->rounds, k.tasks);
}

#endif
