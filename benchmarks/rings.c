/* The core's rings without a pool and without Python: what shared memory allows. Compiled and
 * driven by rings.py.
 *
 *     caller                              one process a lane
 *     exchange: fill --submission ring--> answer: claim, finish
 *               count <--completion ring-
 *
 * A frame carries no payload, so a message is one cache line each way. Frames are published as
 * many as there are at a time, as the core does. Whoever has nothing to do spins, then yields; a
 * process with nothing to do for long naps, so that it does not disturb the others. */
#include "_poolcore/wait.h"

#define RING CP_RING_DEFAULT
#define LANES 64
#define SPIN_NS 2000
#define YIELDS 10000
#define NAP_NS 50000
#define API __attribute__((visibility("default")))

typedef struct {
    cp_indices submission;
    cp_indices completion;
    _Alignas(CP_LINE) cp_word batches;  /* the process: how often it found messages that it did not know */
    _Alignas(CP_PAGE) uint8_t down[RING];
    uint8_t up[RING];
} lane;

static struct {
    cp_producer tasks;
    cp_consumer answers;
    uint64_t waiting;   /* sent, not answered */
} ends[LANES];          /* the caller's */

API uint64_t lane_bytes(void) { return sizeof(lane); }

/* Lanes lie in zeroed memory that the processes share. */
API void open_lanes(lane *lanes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        cp_producer_init(&ends[i].tasks, &lanes[i].submission, lanes[i].down, RING);
        cp_consumer_init(&ends[i].answers, &lanes[i].completion, lanes[i].up, RING);
        ends[i].waiting = 0;
    }
}

/* False: the caller has died. */
static bool wait_for(cp_condition holds, void *context, pid_t caller)
{
    cp_patience patience;
    cp_patience_init(&patience, SPIN_NS, YIELDS);
    while (!cp_wait_awake(&patience, NULL, holds, context)) {
        if (getppid() != caller)
            return false;
        cp_sleep(NAP_NS);
    }
    return true;
}

/* A process's side of one lane: answers until it is killed or the caller has died; it also returns
 * if the rings are corrupt. */
API void answer(lane *mine)
{
    cp_consumer tasks;
    cp_producer answers;
    cp_frame copy, *out;
    const uint8_t *payload;
    uint64_t position;
    pid_t caller = getppid();
    cp_consumer_init(&tasks, &mine->submission, mine->down, RING);
    cp_producer_init(&answers, &mine->completion, mine->up, RING);
    for (;;) {
        uint64_t known = tasks.tail_seen;
        int got = cp_ring_next(&tasks, &copy, &position, &payload);
        if (tasks.tail_seen != known)
            cp_poke(&mine->batches, cp_peek(&mine->batches) + 1);
        if (got == CP_GARBAGE)
            return;
        if (got == CP_EMPTY) {
            cp_ring_release(&tasks);
            cp_ring_publish(&answers);
            if (!wait_for(cp_has_submission, &tasks, caller))
                return;
            continue;
        }
        cp_frame *task = cp_ring_at(tasks.base, tasks.size, position);
        uint64_t tid = cp_claim_tid(cp_peek(&copy.claim));
        cp_claim_take(task, tid);
        while ((got = cp_ring_reserve(&answers, 0, &out)) == CP_EMPTY)
            cp_pause();     /* cannot last: the caller has at most a ring of tasks waiting */
        if (got == CP_GARBAGE || !cp_claim_finish(task, tid))
            return;
        out->kind = CP_RESULT;
        cp_poke(&out->claim, tid);
        cp_ring_advance(&tasks, &copy);
    }
}

static uint64_t receive(unsigned at)
{
    cp_consumer *answers = &ends[at].answers;
    cp_frame copy;
    const uint8_t *payload;
    uint64_t position, count = 0;
    while (cp_ring_next(answers, &copy, &position, &payload) == CP_FRAME) {
        cp_ring_advance(answers, &copy);
        count++;
    }
    if (count)
        cp_ring_release(answers);
    ends[at].waiting -= count;
    return count;
}

static uint64_t send(unsigned at, uint64_t window, uint64_t most)
{
    uint64_t count = 0;
    cp_frame *frame;
    while (count < most && ends[at].waiting < window &&
           cp_ring_reserve(&ends[at].tasks, 0, &frame) == CP_FRAME) {
        frame->kind = CP_TASK;
        cp_poke(&frame->claim, cp_claim(count + 1, CP_READY));
        ends[at].waiting++;
        count++;
    }
    if (count)
        cp_ring_publish(&ends[at].tasks);
    return count;
}

/* Sends `count` messages over all lanes, with at most `in_flight` unanswered, and waits for the
 * answers. Returns the nanoseconds that took. */
API uint64_t exchange(uint64_t lanes, uint64_t count, uint64_t in_flight)
{
    uint64_t begin = cp_now(), sent = 0, answered = 0, idle = 0;
    uint64_t used = lanes < in_flight ? lanes : in_flight;
    uint64_t window = in_flight / used;
    while (answered < count) {
        uint64_t moved = 0;
        for (unsigned i = 0; i < used; i++) {
            uint64_t got = receive(i), given = send(i, window, count - sent);
            answered += got;
            sent += given;
            moved += got + given;
        }
        idle = moved ? 0 : idle + 1;
        if (idle > 256)
            sched_yield();
        else if (idle)
            cp_pause();
    }
    return cp_now() - begin;
}

/* The lane with the least unanswered, but the one before as long as it has less than `depth`. */
static unsigned next_lane(uint64_t lanes, unsigned before, uint64_t depth)
{
    unsigned best = 0;
    if (ends[before].waiting < depth)
        return before;
    for (unsigned i = 1; i < lanes; i++)
        if (ends[i].waiting < ends[best].waiting)
            best = i;
    return best;
}

/* Sends `count` messages one by one, each published at once, as a program submits tasks; looks for
 * answers after every 64, and while `in_flight` are unanswered. `depth`: see next_lane; 1 spreads
 * them. Returns the nanoseconds that took. */
API uint64_t stream(uint64_t lanes, uint64_t count, uint64_t in_flight, uint64_t depth)
{
    uint64_t begin = cp_now(), sent = 0, answered = 0;
    unsigned at = 0;
    while (answered < count) {
        uint64_t moved = 0;
        while (sent < count && sent - answered < in_flight && moved < 64) {
            at = next_lane(lanes, at, depth);
            if (!send(at, UINT64_MAX, 1))
                break;
            sent++;
            moved++;
        }
        for (unsigned i = 0; i < lanes; i++) {
            uint64_t got = receive(i);
            answered += got;
            moved += got;
        }
        if (!moved)
            sched_yield();
    }
    return cp_now() - begin;
}

/* How often processes found messages that they did not know: once for several of them, at best. */
API uint64_t batches(const lane *lanes, uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += cp_peek(&lanes[i].batches);
    return sum;
}

/* ---- single steps, in one process ---- */

/* The claim word, as a worker moves it: taken and finished, `count` times. */
API uint64_t claim_many(uint64_t count)
{
    cp_frame frame;
    uint64_t good = 0;
    for (uint64_t tid = 1; tid <= count; tid++) {
        cp_poke(&frame.claim, cp_claim(tid, CP_READY));
        good += cp_claim_take(&frame, tid) && cp_claim_finish(&frame, tid);
    }
    return good;
}

/* Reserves and publishes `count` frames on lane 0, one by one; returns for how many was room. */
API uint64_t publish_many(uint64_t count)
{
    uint64_t done = 0;
    cp_frame *frame;
    for (; done < count && cp_ring_reserve(&ends[0].tasks, 0, &frame) == CP_FRAME; done++) {
        frame->kind = CP_TASK;
        cp_poke(&frame->claim, cp_claim(done + 1, CP_READY));
        cp_ring_publish(&ends[0].tasks);
    }
    return done;
}

/* Takes all frames off lane 0 that publish_many has put there, in the same process. */
API uint64_t consume_all(lane *mine, uint64_t from)
{
    cp_consumer tasks;
    cp_frame copy;
    const uint8_t *payload;
    uint64_t position, count = 0;
    cp_consumer_init(&tasks, &mine->submission, mine->down, RING);
    cp_poke(&tasks.head, from);
    tasks.released = tasks.tail_seen = from;
    while (cp_ring_next(&tasks, &copy, &position, &payload) == CP_FRAME) {
        cp_ring_advance(&tasks, &copy);
        count++;
    }
    cp_ring_release(&tasks);
    return count;
}
