/* supervisor.py, recovery.pxi, kill.pxi, and what nature does to workers. */
#ifndef SUPERVISOR_H
#define SUPERVISOR_H

#include "waiting.h"
#include "worker.h"

static void attach(int w)
{
    struct channel *c = &world.channel[w];
    struct worker *worker = &world.worker[w];
    struct segment *s = &world.segment[w];
    uint64_t down = (uint64_t)scenario->submission_ring, up = (uint64_t)scenario->completion_ring;
    cp_producer_init(&c->submission, &s->header.submission, s->submission, down);
    cp_consumer_init(&c->completion, &s->header.completion, s->completion, up);
    c->ringer = (cp_ringer){&s->header.worker_epoch, 0, w};
    cp_consumer_init(&worker->submission, &s->header.submission, s->submission, down);
    cp_producer_init(&worker->completion, &s->header.completion, s->completion, up);
    worker->parent = (cp_ringer){&world.control.parent_epoch, 0, PARENT_BELL};
    c->attached = true;
}

/* A leader in its sleep watches the old rings only. */
static void table_changed(void)
{
    if (mutation != TABLE_NOT_KICKED)
        kick_leader();
}

static void recover(int w)
{
    struct channel *c = &world.channel[w];
    int again[TASKS], count = 0;
    if (mutation != NOT_DRAINED)
        collect_channel(w);
    c->open = c->attached = false;
    c->recovered = true;
    table_changed();
    for (;;) {
        int task = journal_first(c);
        if (task == NOBODY)
            break;
        journal_pop(c);
        bool ready;
        if (mutation == READ_IN_RECOVERY || mutation == SENTINEL_TRUSTED_AND_READ)
            ready = cp_observe(&frame_of(task)->claim) == cp_claim(claim_tid(task), CP_READY);
        else
            ready = revoke(task);
        if (ready) {
            world.job[task].channel = NOBODY;
            again[count++] = task;
        } else {
            end_job(task, world.job[task].killed ? KILLED : LOST);
        }
    }
    while (count)
        backlog_insert(0, again[--count]);
    if (world.worker[w].dead) {     /* nobody looks there again: like states are equal */
        *c = (struct channel){.recovered = true, .completion.shared = &world.segment[w].header.completion};
        memset(&world.segment[w], 0, sizeof world.segment[w]);
        world.bell[w] = 0;
    }
    refill();
    notify();
}

static void replace(void)
{
    for (int w = 0; w < scenario->workers + scenario->replacements; w++)
        if (!world.channel[w].attached && !world.channel[w].recovered) {
            gil_take();
            attach(w);
            table_changed();
            gil_drop();
            world.worker[w].alive = true;
            return;
        }
}

/* Called with the GIL. The death of a worker that is killed here is the next event. */
static void give_up(int w)
{
    bool killed = world.worker[w].alive && mutation != SENTINEL_TRUSTED && mutation != SENTINEL_TRUSTED_AND_READ;
    if (killed)
        world.worker[w].dying = true;
    if (killed && mutation != NOT_WAITED)
        return;
    recover(w);
    gil_drop();
    replace();
}

/* A time limit, say. The worker to be killed, or NOBODY. */
static int doom(int task)
{
    struct job *job = &world.job[task];
    if (job->channel == NOBODY || job->killed || !frame_in_use(task))
        return NOBODY;
    cp_frame *f = frame_of(task);
    if (mutation == KILL_BY_STORE) {
        if (cp_observe(&f->claim) != cp_claim(claim_tid(task), CP_CLAIMED))
            return NOBODY;
        cp_publish(&f->claim, cp_claim(claim_tid(task), CP_KILLED));
    } else if (!cp_claim_kill(f, claim_tid(task))) {
        return NOBODY;
    }
    job->killed = world.truth[task].kill_won = true;
    world.channel[job->channel].open = false;
    return job->channel;
}

static void retire(struct channel *c)
{
    c->open = false;
    take_back(c, TASKS);
    channel_stop(c);
    refill();
    notify();
}

/* Ways of the supervisor's step, which takes the GIL: one for each event. */
enum {
    DEATH = 0,
    GREETING = DEATH + WORKERS,
    FALSE_DEATH = GREETING + WORKERS,
    RETIREMENT = FALSE_DEATH + WORKERS,
    REVOKE = RETIREMENT + WORKERS,
    KILL = REVOKE + TASKS,
    BALANCE = KILL + TASKS
};

static uint32_t events(int actor, uint32_t *optional)
{
    uint32_t ways = 0;
    unsigned most;
    if (!when_gil_free(actor, optional))
        return 0;
    for (int w = 0; w < WORKERS; w++) {
        const struct channel *c = &world.channel[w];
        if (!c->attached)
            continue;
        if (world.worker[w].dead)
            ways |= 1u << (DEATH + w);
        if (c->greeted && !c->ready)
            ways |= 1u << (GREETING + w);
        if (world.worker[w].alive && !world.worker[w].dying && world.false_deaths)
            *optional |= 1u << (FALSE_DEATH + w);
        if (c->open && world.retirements)
            *optional |= 1u << (RETIREMENT + w);
    }
    for (int t = 0; t < scenario->tasks; t++) {
        const struct job *job = &world.job[t];
        if (job->outcome)
            continue;
        if (world.revokes && (!scenario->imitation || t == 1))
            *optional |= 1u << (REVOKE + t);
        if (world.kills && world.truth[t].claimed && !job->killed && job->channel != NOBODY)
            *optional |= 1u << (KILL + t);
    }
    if (world.balances && (out_of_balance(&most) || scenario->workers == 1))
        *optional |= 1u << BALANCE;
    return ways | *optional;
}

static void supervisor_body(int actor)
{
    (void)actor;
    for (;;) {
        int event = stop_before((struct op){"event", NULL, 0, events, NULL});
        world.gil = true;
        if (event == BALANCE) {
            world.balances--;
            look_at_unclaimed();
            rebalance();
            notify();
        } else if (event >= KILL) {
            world.kills--;
            int w = doom(event - KILL);
            if (w != NOBODY)
                give_up(w);
        } else if (event >= REVOKE) {
            world.revokes--;
            if (withdraw(event - REVOKE))
                end_job(event - REVOKE, REVOKED);
            notify();
        } else if (event >= RETIREMENT) {
            world.retirements--;
            retire(&world.channel[event - RETIREMENT]);
        } else if (event >= FALSE_DEATH) {
            world.false_deaths--;
            give_up(event - FALSE_DEATH);
        } else if (event >= GREETING) {
            world.channel[event - GREETING].ready = world.channel[event - GREETING].open = true;
            refill();
            notify();
        } else {
            give_up(event - DEATH);
        }
        gil_drop();
    }
}

/* ---- nature ---- */

enum { DIES = 0, STOPS = DIES + WORKERS, FLUSHES = STOPS + WORKERS };

static uint32_t nature_ways(uint32_t *optional)
{
    uint32_t ways = 0;
    for (int w = 0; w < WORKERS; w++) {
        const struct worker *worker = &world.worker[w];
        if (!worker->alive || worker->stopped)
            continue;
        if (worker->dying)
            ways |= 1u << (DIES + w);
        else if (world.crashes)
            *optional |= 1u << (DIES + w);
        if (world.stops && !worker->dying && w == 0)
            *optional |= 1u << (STOPS + w);
    }
    for (int a = 0; a < ACTORS; a++)
        if (world.buffer[a].count)
            ways |= 1u << (FLUSHES + a);
    return ways | *optional;
}

static void nature_goes(int way)
{
    if (way >= FLUSHES) {
        flush_one(&world.buffer[way - FLUSHES]);
    } else if (way >= STOPS) {
        world.stops--;
        world.worker[way - STOPS].stopped = true;
        world.actor[FIRST_WORKER + way - STOPS].sp = NULL;
    } else {
        if (!world.worker[way].dying)
            world.crashes--;
        worker_gone(way);
    }
}

/* Nothing goes on by itself any more. Then everybody who sleeps has nothing to do. */
static void check_at_rest(void)
{
    bool some_idle = false;
    for (int w = 0; w < WORKERS; w++) {
        const struct worker *worker = &world.worker[w];
        bool runs = worker->alive && !worker->stopped;
        some_idle |= world.channel[w].open && runs;
        /* of one that runs: one that is stopped may have been about to ring */
        require(!runs || all_ended() || world.segment[w].header.completion.tail == world.channel[w].completion.head,
                "asleep: a completion waits to be collected");
    }
    for (int t = 0; t < scenario->tasks; t++) {
        const struct job *job = &world.job[t];
        if (job->outcome)
            continue;
        if (job->channel == NOBODY) {
            require(!some_idle, "asleep: a backlog, and a worker with nothing to do");
            continue;
        }
        require(world.worker[job->channel].stopped, "asleep: a task waits for its worker");
    }
    for (int a = CALLER; a <= REAPER; a++)
        require(!world.actor[a].sp || !holds(&world.waiter[a]), "asleep: somebody whose condition holds");
}

#endif
