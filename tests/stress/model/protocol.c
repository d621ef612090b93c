/* A model of one pool, explored exhaustively: a parent with a caller, its reaper and
 * its supervisor thread, and up to three workers, some of them replacements.
 *
 * The rings, claim words and the parking handshake are the real headers. What the
 * .pxi files do around them is written out again in worker.h, parent.h, waiting.h
 * and supervisor.h, in the same order and with the same names; a change there
 * belongs here as well. A worker may be killed or stopped in front of every access.
 * Not modelled: start times, functions, arenas, callbacks, time.
 *
 * Every scenario has to pass. Every mutation, a way to get the protocol wrong, has
 * to be found, which shows that the model is able to fail.
 *
 *     cc -std=gnu11 -O2 -Isrc tests/stress/model/protocol.c -o protocol
 *     ./protocol [--list] [--scenarios | --mutations] [--large] [--trace] [NAME ...] */
#include "supervisor.h"

#include <time.h>

#define SMALL .submission_ring = 128, .completion_ring = 128
#define MEDIUM .submission_ring = 256, .completion_ring = 256

static const struct scenario scenarios[] = {
    {.name = "plain", .about = "rings of two frames, no faults", .tasks = 3, SMALL, .workers = 1},
    {.name = "finer", .about = "the same, relaxed accesses are steps, too",
     .tasks = 3, SMALL, .workers = 1, .finer = true},
    {.name = "wraps", .about = "frames of one and two lines, with padding at the ends",
     .tasks = 4, MEDIUM, .arguments = {0, 64, 0, 64}, .results = 64, .workers = 1},
    {.name = "crash", .about = "the worker dies anywhere, and is replaced",
     .tasks = 3, SMALL, .workers = 1, .replacements = 1, .crashes = 1},
    {.name = "two crashes", .about = "the replacement dies, too",
     .tasks = 2, SMALL, .workers = 1, .replacements = 2, .crashes = 2},
    {.name = "four frames", .about = "a crash with four frames in the ring",
     .tasks = 4, MEDIUM, .workers = 1, .replacements = 1, .crashes = 1},
    {.name = "false death", .about = "a living worker is believed dead",
     .tasks = 3, SMALL, .workers = 1, .replacements = 1, .false_deaths = 1},
    {.name = "false death of one", .about = "the same with one task",
     .tasks = 1, SMALL, .workers = 1, .replacements = 1, .false_deaths = 1},
    {.name = "kill", .about = "a running task is killed, and its worker with it",
     .tasks = 3, SMALL, .workers = 1, .replacements = 1, .kills = 1},
    {.name = "revoke", .about = "a task is taken back while others wait for room",
     .tasks = 3, SMALL, .workers = 1, .revokes = 1},
    {.name = "kill and revoke", .about = "of two tasks",
     .tasks = 2, SMALL, .workers = 1, .replacements = 1, .kills = 1, .revokes = 1},
    {.name = "two workers", .about = "one is stopped anywhere, on the way to the bell too",
     .tasks = 2, SMALL, .workers = 2, .stops = 1},
    {.name = "look", .about = "the parent looks what a worker has passed without a word",
     .tasks = 2, SMALL, .workers = 1, .balances = 1},
    {.name = "retirement", .about = "a worker leaves, and its tasks go elsewhere",
     .tasks = 2, MEDIUM, .workers = 1, .replacements = 1, .retirements = 1},
    {.name = "imitation", .about = "a payload looks like the claim word that lay in its place",
     .tasks = 4, MEDIUM, .arguments = {0, 0, 64, 64}, .workers = 1, .revokes = 1, .imitation = true},
    {.name = "reaper", .about = "a caller takes the lead and gives it back",
     .tasks = 2, SMALL, .workers = 1, .reaper = true},
    /* large ones */
    {.name = "kill and false death", .about = "the worker is killed for two reasons", .large = true,
     .tasks = 2, SMALL, .workers = 1, .replacements = 2, .kills = 1, .false_deaths = 1},
    {.name = "reaper of three tasks", .about = "the same with three", .large = true,
     .tasks = 3, SMALL, .workers = 1, .reaper = true},
    {.name = "reaper and crash", .about = "the same while the worker dies", .large = true,
     .tasks = 2, SMALL, .workers = 1, .replacements = 1, .crashes = 1, .reaper = true},
    {.name = "three of two workers", .about = "one is stopped anywhere, of three tasks", .large = true,
     .tasks = 3, SMALL, .workers = 2, .stops = 1},
    {.name = "balance", .about = "a task goes from a busy worker to one that is new", .large = true,
     .tasks = 2, SMALL, .workers = 2, .late = true, .balances = 1},
    {.name = "balance of three", .about = "tasks go from a busy worker to an idle one", .large = true,
     .tasks = 3, MEDIUM, .workers = 2, .balances = 1},
    {.name = "retirement of three", .about = "a worker leaves, and its tasks go elsewhere", .large = true,
     .tasks = 3, MEDIUM, .workers = 1, .replacements = 1, .retirements = 1},
    {.name = "all at once", .about = "a crash, a kill, a revoke and a false death", .large = true,
     .tasks = 2, SMALL, .workers = 1, .replacements = 2, .crashes = 1, .kills = 1, .revokes = 1, .false_deaths = 1},
};

static const struct {
    const char *name, *about;
    enum mutation mutation;
    const char *scenario;
    const char *finds;      /* this of all */
    bool harmless;
} mutations[] = {
    {.name = "sentinel trusted", .about = "recovery without the kill and the wait",
     .mutation = SENTINEL_TRUSTED, .scenario = "false death of one"},
    {.name = "sentinel trusted and read", .about = "the same, READY only read instead of taken",
     .mutation = SENTINEL_TRUSTED_AND_READ, .scenario = "false death of one", .finds = "a body started twice"},
    {.name = "read in recovery", .about = "READY only read, but the worker is certainly dead: the swap is a second line",
     .mutation = READ_IN_RECOVERY, .scenario = "false death of one", .harmless = true},
    {.name = "not waited", .about = "recovery right after SIGKILL, which takes its time",
     .mutation = NOT_WAITED, .scenario = "false death of one"},
    {.name = "not drained", .about = "the journal is walked before the completions are taken",
     .mutation = NOT_DRAINED, .scenario = "crash"},
    {.name = "revoke by store", .about = "read READY, then store REVOKED",
     .mutation = REVOKE_BY_STORE, .scenario = "revoke"},
    {.name = "kill by store", .about = "read CLAIMED, then store KILLED",
     .mutation = KILL_BY_STORE, .scenario = "kill"},
    {.name = "take by store", .about = "read READY, then store CLAIMED",
     .mutation = TAKE_BY_STORE, .scenario = "revoke"},
    {.name = "finish by store", .about = "store DONE without looking",
     .mutation = FINISH_BY_STORE, .scenario = "kill"},
    {.name = "claim without tid", .about = "the claim word is a state alone, and touched after the worker has passed it",
     .mutation = CLAIM_WITHOUT_TID, .scenario = "revoke"},
    {.name = "stale frame touched", .about = "a claim word is touched after the worker has passed it",
     .mutation = STALE_FRAME_TOUCHED, .scenario = "imitation"},
    {.name = "head first", .about = "room is given back before the result is published",
     .mutation = HEAD_FIRST, .scenario = "plain"},
    {.name = "tail first", .about = "frames are published before they are whole",
     .mutation = TAIL_FIRST, .scenario = "plain"},
    {.name = "buffered stores", .about = "release and acquire instead of sequential consistency",
     .mutation = BUFFERED_STORES, .scenario = "plain"},
    {.name = "not looked again", .about = "asleep without a look after the epoch is published",
     .mutation = NOT_LOOKED_AGAIN, .scenario = "plain"},
    {.name = "looked first", .about = "the ringer looks at the epoch before it publishes",
     .mutation = LOOKED_FIRST, .scenario = "plain"},
    {.name = "ringer clears", .about = "the ringer takes the epoch away before it rings",
     .mutation = RINGER_CLEARS, .scenario = "two workers"},
    {.name = "epoch not raised", .about = "a flag instead of an epoch",
     .mutation = EPOCH_NOT_RAISED, .scenario = "plain"},
    {.name = "room not rung", .about = "completions are taken, and the worker is not told",
     .mutation = ROOM_NOT_RUNG, .scenario = "plain"},
    {.name = "table not kicked", .about = "the leader sleeps on, and does not watch the new worker",
     .mutation = TABLE_NOT_KICKED, .scenario = "two crashes"},
    {.name = "no clock", .about = "a leader with a backlog trusts to be rung when the worker passes revoked frames",
     .mutation = NO_CLOCK, .scenario = "revoke"},
    {.name = "skipped silently", .about = "nobody rings then: the clock finds the room",
     .mutation = SKIPPED_SILENTLY, .scenario = "revoke", .harmless = true},
    {.name = "reaper not armed", .about = "a caller leaves, and nobody leads",
     .mutation = REAPER_NOT_ARMED, .scenario = "reaper"},
    {.name = "follower not promoted", .about = "a caller leaves, and wakes nobody",
     .mutation = FOLLOWER_NOT_PROMOTED, .scenario = "reaper"},
};

enum { SCENARIOS = sizeof scenarios / sizeof *scenarios, MUTATIONS = sizeof mutations / sizeof *mutations };

static void begin(const struct scenario *s, enum mutation m)
{
    scenario = s;
    mutation = m;
    store_buffers = m == BUFFERED_STORES;
    relaxed_steps = s->finer || m == HEAD_FIRST || m == TAIL_FIRST;
    memset(&world, 0, sizeof world);
    memset(stacks, 0, sizeof stacks);
    for (int t = 0; t < TASKS; t++)
        world.job[t].channel = NOBODY;
    world.crashes = s->crashes;
    world.stops = s->stops;
    world.kills = s->kills;
    world.revokes = s->revokes;
    world.false_deaths = s->false_deaths;
    world.balances = s->balances;
    world.retirements = s->retirements;
    for (int w = 0; w < s->workers; w++) {
        struct channel *c = &world.channel[w];
        attach(w);
        world.worker[w].alive = true;
        c->greeted = c->ready = c->open = !s->late || !w;
    }
    start_coroutine(CALLER, caller_body);
    if (s->reaper)
        start_coroutine(REAPER, reaper_body);
    start_coroutine(SUPERVISOR, supervisor_body);
    for (int w = 0; w < s->workers + s->replacements; w++)
        start_coroutine(FIRST_WORKER + w, worker_body);
}

/* ---- names, for traces ---- */

static const char *actor_name(int actor)
{
    static const char *const names[] = {"caller", "reaper", "supervisor", "worker 0", "worker 1", "worker 2"};
    return names[actor];
}

static const char *nature_name(int way)
{
    static char name[64];
    const char *what = way >= FLUSHES ? "buffer flushed:" : way >= STOPS ? "stopped:" : "dead:";
    int actor = way >= FLUSHES ? way - FLUSHES : FIRST_WORKER + (way >= STOPS ? way - STOPS : way);
    snprintf(name, sizeof name, "%s %s", what, actor_name(actor));
    return name;
}

static const char *address_name(const void *address)
{
    static char name[64];
    const uint8_t *at = address;
    if (address == &world.kick)
        return "kick";
    if (address == &world.control.parent_epoch)
        return "the parent's epoch";
    for (int t = 0; t < TASKS; t++)
        if (address == &world.job[t]) {
            snprintf(name, sizeof name, "%d", t);
            return name;
        }
    for (int b = 0; b < BELLS; b++)
        if (address == &world.bell[b]) {
            snprintf(name, sizeof name, "bell of %s", b < WORKERS ? actor_name(FIRST_WORKER + b)
                                                      : b == PARENT_BELL ? "the parent" : "the reaper");
            return name;
        }
    for (int w = 0; w < WORKERS; w++) {
        const struct segment *s = &world.segment[w];
        const cp_header *h = &s->header;
        if (at < (const uint8_t *)s || at >= (const uint8_t *)(s + 1))
            continue;
        const char *what = "frame";
        const uint8_t *ring = at >= s->completion ? s->completion : s->submission;
        if (at >= s->submission)
            snprintf(name, sizeof name, "%s's %s frame at %d", actor_name(FIRST_WORKER + w),
                     ring == s->completion ? "completion" : "submission", (int)((at - ring) / CP_LINE * CP_LINE));
        else {
            what = address == &h->worker_epoch ? "epoch" : address == &h->submission.tail ? "submission tail"
                 : address == &h->submission.head ? "submission head"
                 : address == &h->completion.tail ? "completion tail" : "completion head";
            snprintf(name, sizeof name, "%s's %s", actor_name(FIRST_WORKER + w), what);
        }
        return name;
    }
    return "?";
}

/* ---- the program ---- */

static const struct scenario *scenario_named(const char *name)
{
    for (int i = 0; i < SCENARIOS; i++)
        if (!strcmp(scenarios[i].name, name))
            return &scenarios[i];
    abort();
}

static bool trace;

static bool run(bool is_mutation, const char *name, const struct scenario *s, enum mutation m, bool pass)
{
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    begin(s, m);
    bool passed = explore();
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%-8s %-26s %9zu states %10llu transitions %7llu at rest %7.2f s  %s%s%s\n",
           is_mutation ? "mutation" : "scenario", name, seen_count, (unsigned long long)transitions_made,
           (unsigned long long)states_at_rest,
           (double)(now.tv_sec - begun.tv_sec) + (double)(now.tv_nsec - begun.tv_nsec) / 1e9,
           passed == pass ? "ok" : "FAILED", violation ? ": " : "", violation ? violation : "");
    if (violation && trace)
        print_trace(stdout);
    fflush(stdout);
    return passed == pass;
}

static bool named(const char *name, char **names)
{
    for (; *names; names++)
        if (!strcmp(*names, name))
            return true;
    return false;
}

int main(int argc, char **argv)
{
    bool list = false, large = false, good = true, both = true, only_scenarios = false;
    int done = 0;
    for (argv++, argc--; argc && !strncmp(*argv, "--", 2); argv++, argc--) {
        trace |= !strcmp(*argv, "--trace");
        list |= !strcmp(*argv, "--list");
        large |= !strcmp(*argv, "--large");
        if (!strcmp(*argv, "--scenarios") || !strcmp(*argv, "--mutations")) {
            both = false;
            only_scenarios = !strcmp(*argv, "--scenarios");
        }
    }
    for (int i = 0; i < SCENARIOS; i++) {
        const struct scenario *s = &scenarios[i];
        if (argc ? !named(s->name, argv) : (s->large && !large) || (!both && !only_scenarios))
            continue;
        done++;
        if (list)
            printf("scenario\t%s\t%s\n", s->name, s->about);
        else
            good &= run(false, s->name, s, NO_MUTATION, true);
    }
    for (int i = 0; i < MUTATIONS; i++) {
        if (argc ? !named(mutations[i].name, argv) : !both && only_scenarios)
            continue;
        done++;
        sought = mutations[i].finds;
        if (list)
            printf("mutation\t%s\t%s\n", mutations[i].name, mutations[i].about);
        else
            good &= run(true, mutations[i].name, scenario_named(mutations[i].scenario), mutations[i].mutation,
                        mutations[i].harmless);
    }
    if (!done)
        fprintf(stderr, "nothing of that name; see --list\n");
    return good && done ? 0 : 1;
}
