/* channel.pxi, submit.pxi, collect.pxi, balance.pxi. All of it under the GIL. */
#ifndef PARENT_H
#define PARENT_H

#include "state.h"

static bool all_ended(void)
{
    for (int t = 0; t < scenario->tasks; t++)
        if (!world.job[t].outcome)
            return false;
    return true;
}

static void end_job(int task, enum outcome outcome)
{
    struct job *job = &world.job[task];
    const struct truth *truth = &world.truth[task];
    int w = job->channel;
    require(!job->outcome, "a task has two outcomes");
    require((outcome == RESULT) == truth->published, "a result was published, and did not count");
    require((outcome == KILLED) == truth->kill_won, "a task was killed, but is said to have ended otherwise");
    if (outcome == REVOKED)
        require(!truth->claimed, "a task was taken back after it was claimed");
    if (outcome == LOST)
        require(truth->claimed, "lost, but nobody had claimed it");
    if (outcome == LOST || outcome == KILLED)
        require(world.worker[w].dead || mutation == SENTINEL_TRUSTED_AND_READ, "given up, but its worker lives");
    *job = (struct job){.outcome = outcome, .channel = NOBODY};
}

/* ---- channel ---- */

static cp_frame *frame_of(int task)
{
    const struct channel *c = &world.channel[world.job[task].channel];
    return cp_ring_at(c->submission.base, c->submission.size, world.job[task].position);
}

static bool frame_in_use(int task)
{
    return mutation == STALE_FRAME_TOUCHED || mutation == CLAIM_WITHOUT_TID ||
           cp_producer_holds(&world.channel[world.job[task].channel].submission, world.job[task].position);
}

static bool revoke(int task)
{
    if (!frame_in_use(task))
        return false;
    cp_frame *f = frame_of(task);
    if (mutation != REVOKE_BY_STORE)
        return cp_claim_revoke(f, claim_tid(task));
    if (cp_observe(&f->claim) != cp_claim(claim_tid(task), CP_READY))
        return false;
    cp_publish(&f->claim, cp_claim(claim_tid(task), CP_REVOKED));
    return true;
}

static int journal_first(struct channel *c)
{
    for (; c->first != c->end; c->first++)
        if (c->journal[c->first % JOURNAL].job != NOBODY)
            return c->journal[c->first % JOURNAL].job;
    return NOBODY;
}

static void journal_pop(struct channel *c)
{
    c->journal[c->first++ % JOURNAL] = (struct entry){0, 0};
    c->load--;
}

/* One line of the ring stays free for STOP (where a scenario has it: the rings are small). */
static bool channel_reserve(struct channel *c, uint64_t length, cp_frame **f)
{
    uint64_t need = cp_producer_need(&c->submission, cp_frame_bytes(length)) + CP_LINE;
    if (scenario->retirements && !cp_producer_fits(&c->submission, need)) {
        require(cp_producer_look(&c->submission), "a sound worker is taken for corrupt");
        if (!cp_producer_fits(&c->submission, need))
            return false;
    }
    int got = cp_ring_reserve(&c->submission, length, f);
    require(got != CP_GARBAGE, "a sound worker is taken for corrupt");
    if (got == CP_FRAME && mutation == TAIL_FIRST)
        cp_ring_publish(&c->submission);
    return got == CP_FRAME;
}

static bool channel_push(int w, int task)
{
    struct channel *c = &world.channel[w];
    cp_frame *f;
    if (!channel_reserve(c, (uint64_t)scenario->arguments[task], &f))
        return false;
    f->kind = CP_TASK;
    f->fid = (uint32_t)task;
    fill_payload(f, argument_word(task));
    cp_poke(&f->claim, cp_claim(claim_tid(task), CP_READY));
    world.job[task].channel = w;
    world.job[task].position = c->submission.tail - f->size;
    c->journal[c->end++ % JOURNAL] = (struct entry){task, world.job[task].position};
    c->load++;
    return true;
}

static void channel_publish(struct channel *c)
{
    bool published;
    c->unpublished = false;
    publish_and_ring(&c->submission, &c->ringer, &published);
}

static void channel_stop(struct channel *c)
{
    cp_frame *f = NULL;
    c->open = false;
    require(cp_ring_reserve(&c->submission, 0, &f) == CP_FRAME, "no room for STOP");
    f->kind = CP_STOP;
    channel_publish(c);
}

/* ---- backlog ---- */

static void backlog_insert(int at, int task)
{
    memmove(world.backlog + at + 1, world.backlog + at, (size_t)(world.backlogged - at) * sizeof(int));
    world.backlog[at] = task;
    world.backlogged++;
}

static void backlog_remove(int at)
{
    world.backlogged--;
    memmove(world.backlog + at, world.backlog + at + 1, (size_t)(world.backlogged - at) * sizeof(int));
    world.backlog[world.backlogged] = 0;
}

static int least_loaded(void)
{
    int best = NOBODY;
    for (int w = 0; w < WORKERS; w++)
        if (world.channel[w].attached && world.channel[w].open &&
            (best == NOBODY || world.channel[w].load < world.channel[best].load))
            best = w;
    return best;
}

static void refill(void)
{
    while (world.backlogged) {
        int w = least_loaded();
        if (w == NOBODY || !channel_push(w, world.backlog[0]))
            break;
        world.channel[w].unpublished = true;
        world.looked = false;
        backlog_remove(0);
    }
    for (int w = 0; w < WORKERS; w++)
        if (world.channel[w].attached && world.channel[w].unpublished)
            channel_publish(&world.channel[w]);
}

static void place(int task)
{
    int w = least_loaded();
    if (!world.backlogged && w != NOBODY && channel_push(w, task)) {
        channel_publish(&world.channel[w]);
        return;
    }
    backlog_insert(world.backlogged, task);
}

/* False: a worker has claimed it. */
static bool withdraw(int task)
{
    for (int i = 0; i < world.backlogged; i++)
        if (world.backlog[i] == task) {
            backlog_remove(i);
            return true;
        }
    if (world.job[task].channel == NOBODY || !revoke(task))
        return false;
    require(!world.truth[task].claimed, "a task was taken back after it was claimed");
    struct channel *c = &world.channel[world.job[task].channel];
    for (unsigned i = c->first; i != c->end; i++)
        if (c->journal[i % JOURNAL].job == task)
            c->journal[i % JOURNAL].job = NOBODY;
    c->load--;
    world.job[task].channel = NOBODY;
    return true;
}

static void take_back(struct channel *c, unsigned most)
{
    for (unsigned at = c->end; most && at != c->first;) {
        int task = c->journal[--at % JOURNAL].job;
        if (task == NOBODY)
            continue;
        if (!withdraw(task))
            break;
        backlog_insert(0, task);
        most--;
    }
}

/* ---- collect ---- */

static bool take_frame(int w, const cp_frame *frame, const uint8_t *payload)
{
    struct channel *c = &world.channel[w];
    if (frame->kind == CP_HELLO) {
        c->greeted = true;
        return true;
    }
    int task = journal_first(c);
    if (frame->kind != CP_RESULT || task == NOBODY || tid_of(task) != cp_peek(&frame->claim))
        return false;
    require(payload_is(payload, frame->length, result_word(task)), "a result was altered");
    journal_pop(c);
    end_job(task, RESULT);
    return true;
}

static void collect_channel(int w)
{
    struct channel *c = &world.channel[w];
    cp_frame frame;
    uint64_t position;
    const uint8_t *payload;
    memset(&frame, 0, sizeof frame);
    for (;;) {
        int got = cp_ring_next(&c->completion, &frame, &position, &payload);
        if (got == CP_EMPTY)
            break;
        require(got == CP_FRAME && take_frame(w, &frame, payload), "a sound worker is taken for corrupt");
        cp_ring_advance(&c->completion, &frame);
    }
    cp_ring_release(&c->completion);
    if (mutation != ROOM_NOT_RUNG)
        ring_if_parked(&c->ringer);
}

/* The busiest worker, if another is idle; *most: its load. */
static struct channel *out_of_balance(unsigned *most)
{
    struct channel *busiest = NULL;
    bool idle = false;
    *most = 1;
    for (int w = 0; w < WORKERS; w++) {
        struct channel *c = &world.channel[w];
        if (!c->attached)
            continue;
        idle |= c->open && !c->load;
        if (c->load > *most) {
            busiest = c;
            *most = c->load;
        }
    }
    return idle ? busiest : NULL;
}

/* A worker that has passed a task without a word about it is no worker of ours. */
static void look_at_unclaimed(void)
{
    for (int w = 0; w < WORKERS; w++) {
        struct channel *c = &world.channel[w];
        if (!c->attached)
            continue;
        uint64_t passed = cp_observe(&world.segment[w].header.submission.head);
        collect_channel(w);
        int task = journal_first(c);
        require(task == NOBODY || passed <= world.job[task].position, "a sound worker is taken for corrupt");
    }
}

static void rebalance(void)
{
    unsigned most;
    struct channel *busiest = out_of_balance(&most);
    if (busiest) {
        take_back(busiest, most / 2);
        refill();
    }
}

static void collect(void)
{
    for (int w = 0; w < WORKERS; w++)
        if (world.channel[w].attached && cp_consumer_pending(&world.channel[w].completion))
            collect_channel(w);
    refill();
}

#endif
