/* waiting.pxi: who leads, who follows, who sleeps on the doorbell. */
#ifndef WAITING_H
#define WAITING_H

#include "parent.h"

static struct waiter *the_caller(void) { return &world.waiter[CALLER]; }
static struct waiter *the_reaper(void) { return &world.waiter[REAPER]; }

/* The reaper's: something to deliver, which is here the end of the last task. */
static bool holds(const struct waiter *w)
{
    return all_ended() || (!w->for_all && world.job[0].outcome);
}

static void wake(struct waiter *w)
{
    if (w->asleep)
        w->woken = true;
}

static void kick_leader(void)
{
    cp_publish(&world.kick, cp_peek(&world.kick) + 1);
    cp_bell_ring(PARENT_BELL);
}

static void notify(void)
{
    for (struct waiter *w = world.waiter; w < world.waiter + 2; w++) {
        if (!w->entered || w->woken || !holds(w))
            continue;
        if (w == the_reaper()) {
            wake(w);
            if (world.reaper_polls)
                cp_bell_ring(REAPER_BELL);
        } else if (w == world.leader) {
            kick_leader();
        } else {
            wake(w);
        }
    }
}

/* Any number that no worker has rung and nobody has in hand; few of them, so that
 * like states are equal. */
static uint64_t next_epoch(void)
{
    uint64_t epoch = 1;
    if (mutation == EPOCH_NOT_RAISED)
        return epoch;
    for (;; epoch++) {
        bool used = epoch == world.control.parent_epoch || epoch == the_caller()->epoch || epoch == the_reaper()->epoch;
        for (int w = 0; w < WORKERS; w++)
            used |= epoch == world.worker[w].parent.rung;
        if (!used)
            return epoch;
    }
}

static void what_leader_awaits(struct waiter *w, cp_any *look)
{
    *look = (cp_any){w->rings, 0, &world.kick, cp_peek(&world.kick)};
    for (int i = 0; i < WORKERS; i++)
        if (world.channel[i].attached)
            w->rings[look->count++] = &world.channel[i].completion;
}

/* The reaper still sleeps on the doorbell: it leads again. */
static void arm_reaper(void)
{
    cp_any look;
    world.leader = the_reaper();
    what_leader_awaits(the_caller(), &look);
    cp_publish(&world.control.parent_epoch, next_epoch());
    if (cp_any_pending(&look))
        cp_bell_ring(PARENT_BELL);
    memset(the_caller()->rings, 0, sizeof the_caller()->rings);
}

static void lead(struct waiter *w)
{
    cp_any look;
    bool parked = false;
    int second = -1;
    if (world.leader)
        cp_publish(&world.control.parent_epoch, 0);
    world.leader = w;
    if (w == the_reaper()) {
        world.reaper_polls = true;
        second = REAPER_BELL;
    }
    what_leader_awaits(w, &look);
    w->epoch = next_epoch();
    gil_drop();
    if (!cp_wait_awake(&at_once, NULL, cp_any_pending, &look)) {
        parked = true;
        park(&world.control.parent_epoch, w->epoch, PARENT_BELL, second, cp_any_pending, &look);
    }
    gil_take();
    w->epoch = 0;
    memset(w->rings, 0, sizeof w->rings);
    if (w == the_reaper())
        world.reaper_polls = false;
    if (world.leader == w) {
        if (parked)
            cp_unpark(&world.control.parent_epoch, PARENT_BELL);
        world.leader = NULL;
    }
}

static uint32_t when_woken(int actor, uint32_t *optional)
{
    (void)optional;
    return world.waiter[actor].woken;
}

static void follow(struct waiter *w)
{
    w->asleep = true;
    gil_drop();
    stop_before((struct op){"follow", NULL, 0, when_woken, NULL});
    gil_take();
    w->asleep = w->woken = false;
}

static void leave(struct waiter *w)
{
    w->entered = false;
    if (world.leader || w == the_reaper())
        return;
    if (!the_reaper()->entered || mutation == REAPER_NOT_ARMED)
        return;
    if (world.reaper_polls)
        arm_reaper();
    else if (mutation != FOLLOWER_NOT_PROMOTED)
        wake(the_reaper());
}

static void wait_for(struct waiter *w)
{
    w->entered = true;
    for (;;) {
        collect();
        notify();
        if (holds(w))
            break;
        if (!world.leader || world.leader == the_reaper())
            lead(w);
        else
            follow(w);
    }
    leave(w);
}

static void caller_body(int actor)
{
    gil_take();
    for (int t = 0; t < scenario->tasks; t++) {
        place(t);
        gil_drop();
        gil_take();
    }
    the_caller()->for_all = !scenario->reaper;
    wait_for(the_caller());
    gil_drop();
    end_actor(actor);
}

static void reaper_body(int actor)
{
    struct waiter *w = the_reaper();
    gil_take();
    w->entered = w->for_all = true;
    while (!all_ended()) {
        collect();
        notify();
        if (holds(w))
            break;
        gil_drop();     /* keeps away for a while */
        gil_take();
        if (holds(w))
            break;
        if (!world.leader) {
            lead(w);
            cp_bell_drain(REAPER_BELL);
        } else {
            follow(w);
        }
    }
    leave(w);
    gil_drop();
    end_actor(actor);
}

#endif
