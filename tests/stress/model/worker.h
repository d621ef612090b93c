/* workerend.pxi. */
#ifndef WORKER_H
#define WORKER_H

#include "state.h"

static uint32_t when_alive(int actor, uint32_t *optional)
{
    (void)optional;
    return world.worker[actor - FIRST_WORKER].alive;
}

static void worker_gone(int w)
{
    world.worker[w] = (struct worker){.dead = true};
    end_actor(FIRST_WORKER + w);
}

static void release_room(struct worker *me)
{
    me->released = cp_peek(&me->submission.head);
    cp_ring_release(&me->submission);
    if (me->skipped) {      /* no completion tells of the room that they left */
        me->skipped = false;
        if (mutation != SKIPPED_SILENTLY)
            ring_if_parked(&me->parent);
    }
}

static void worker_wait(int w, cp_condition condition, void *context)
{
    cp_word *own_epoch = &world.segment[w].header.worker_epoch;
    /* any number that the parent has not rung; few of them, so that like states are equal */
    uint64_t epoch = world.channel[w].ringer.rung == 1 && mutation != EPOCH_NOT_RAISED ? 2 : 1;
    if (!cp_wait_awake(&at_once, NULL, condition, context)) {
        park(own_epoch, epoch, w, -1, condition, context);
        cp_unpark(own_epoch, w);
    }
}

static void worker_reserve(int w, uint64_t length, cp_frame **out)
{
    struct worker *me = &world.worker[w];
    for (;;) {
        int got = cp_ring_reserve(&me->completion, length, out);
        if (got == CP_FRAME)
            break;
        require(got == CP_EMPTY, "a worker finds its completion ring corrupt");
        cp_room room = {&me->completion, cp_producer_need(&me->completion, cp_frame_bytes(length))};
        worker_wait(w, cp_has_room, &room);
    }
    if (mutation == TAIL_FIRST)
        cp_ring_publish(&me->completion);
}

static void worker_say(int w, int kind)
{
    struct worker *me = &world.worker[w];
    cp_frame *out;
    bool said;
    worker_reserve(w, 0, &out);
    out->kind = (uint16_t)kind;
    publish_and_ring(&me->completion, &me->parent, &said);
}

static void run_task(int w, cp_frame *shared)
{
    struct worker *me = &world.worker[w];
    int task = (int)me->frame.fid;
    uint64_t tid = cp_claim_tid(cp_peek(&me->frame.claim));
    struct truth *truth = &world.truth[task];
    cp_frame *out;
    step("call the target of task", &world.job[task], 0);
    require(!truth->started, "a body started twice");
    truth->started = true;
    require(payload_is(me->payload, me->frame.length, argument_word(task)), "a payload was altered");
    if (mutation == HEAD_FIRST) {
        cp_ring_advance(&me->submission, &me->frame);
        release_room(me);
    }
    worker_reserve(w, (uint64_t)scenario->results, &out);
    if (mutation == FINISH_BY_STORE) {
        cp_publish(&shared->claim, cp_claim(tid, CP_DONE));
    } else if (!cp_claim_finish(shared, tid)) {
        require(truth->kill_won, "a worker left as killed, but nobody had killed its task");
        worker_gone(w);
    }
    fill_payload(out, result_word(task));
    out->kind = CP_RESULT;
    cp_poke(&out->claim, mutation == CLAIM_WITHOUT_TID ? tid_of(task) : cp_claim_tid(cp_peek(&shared->claim)));
    require(!truth->kill_won, "a killed task is published");
    require(world.job[task].outcome == NO_OUTCOME, "a task is published that was given up");
    publish_and_ring(&me->completion, &me->parent, &truth->published);
}

static bool take(cp_frame *shared, uint64_t tid)
{
    if (mutation != TAKE_BY_STORE)
        return cp_claim_take(shared, tid);
    if (cp_observe(&shared->claim) != cp_claim(tid, CP_READY))
        return false;
    cp_publish(&shared->claim, cp_claim(tid, CP_CLAIMED));
    return true;
}

static void serve(int w)
{
    struct worker *me = &world.worker[w];
    for (;;) {
        int got = cp_ring_next(&me->submission, &me->frame, &me->position, &me->payload);
        if (got == CP_EMPTY) {
            release_room(me);
            worker_wait(w, cp_has_submission, &me->submission);
            continue;
        }
        require(got == CP_FRAME, "a worker finds its submission ring corrupt");
        if (me->frame.kind == CP_STOP)
            worker_gone(w);
        require(me->frame.kind == CP_TASK, "a worker finds its submission ring corrupt");
        cp_frame *shared = cp_ring_at(me->submission.base, me->submission.size, me->position);
        bool mine = take(shared, cp_claim_tid(cp_peek(&me->frame.claim)));
        if (mine) {
            require(world.job[me->frame.fid].outcome != REVOKED, "a task is claimed that was taken back");
            world.truth[me->frame.fid].claimed = true;
            run_task(w, shared);
        } else {
            me->skipped = true;
        }
        if (!mine || mutation != HEAD_FIRST)
            cp_ring_advance(&me->submission, &me->frame);
        if (me->submission.head - me->released >= me->submission.size / 16)
            release_room(me);
    }
}

static void worker_body(int actor)
{
    int w = actor - FIRST_WORKER;
    stop_before((struct op){"start", NULL, 0, when_alive, NULL});
    if (!world.channel[w].greeted)
        worker_say(w, CP_HELLO);
    serve(w);
}

#endif
