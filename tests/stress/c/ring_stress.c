/* The rings, claim words and the parking handshake under load: real threads, for
 * ThreadSanitizer, and real processes.
 *
 *     ring_stress [OPTION ...] [ROUNDS]
 *
 * ROUNDS (default 200000) scales all modes. Options:
 *   --mode=NAME        this one only; may be given several times
 *   --threads, --processes
 *                      one kind of peers only
 *   --seed=N           default: from the clock; printed, the same one gives the
 *                      same frames and choices
 *   --patience=S       seconds without progress that make a failure; default 20
 *
 * Every mode runs in a process of its own, watched by this one: a lost wake-up or
 * an endless loop makes no progress, and ends the run. The exit status is 0 if all
 * went well. */
#include "stress.h"
#include "stress_claims.h"
#include "stress_duel.h"
#include "stress_garbage.h"
#include "stress_parking.h"
#include "stress_recovery.h"
#include "stress_transfer.h"

static const struct mode {
    const char *name;
    void (*run)(uint64_t rounds);
    bool threads, processes;    /* as what it makes sense */
} modes[] = {
    {"sweep", sweep, true, false},
    {"transfer", transfer, true, true},
    {"duel", duel, true, true},
    {"pingpong", pingpong, true, true},
    {"duplex", duplex, true, true},
    {"claims", claims, true, true},
    {"garbage", garbage, true, false},
    {"vandalism", vandalism, !UNDER_TSAN, true},    /* nothing but data races */
    {"recovery", recovery, false, true},
};

enum { MODES = sizeof modes / sizeof *modes };

static unsigned patience = 20;
static uint64_t rounds = 200000;

static uint64_t steps(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < ROLES; i++)
        sum += cp_observe(&area->progress[i].steps);
    return sum;
}

static bool watch(const char *name, pid_t pid)
{
    uint64_t last = steps(), last_at = cp_now();
    for (;;) {
        int status;
        pid_t ended = waitpid(pid, &status, WNOHANG);
        if (ended == pid) {
            if (status == 0)
                return true;
            fprintf(stderr, "ring_stress: %s: %s %d\n", name, WIFSIGNALED(status) ? "killed by signal" : "exit status",
                    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
            return false;
        }
        uint64_t now = cp_now(), done = steps();
        if (done != last) {
            last = done;
            last_at = now;
        }
        bool stuck = now - last_at > (uint64_t)patience * 1000000000u;
        if (stuck || cp_observe(&area->failed)) {
            if (stuck)
                fprintf(stderr, "ring_stress: %s: no progress for %u s after %llu steps: a wake-up was lost, "
                        "or something loops\n", name, patience, (unsigned long long)done);
            kill(-pid, SIGKILL);
            waitpid(pid, NULL, 0);
            return false;
        }
        cp_sleep(10000000);
    }
}

static bool run(const struct mode *mode, bool as_processes)
{
    uint64_t begun = cp_now();
    memset(area, 0, sizeof *area);
    processes = as_processes;
    fflush(NULL);
    pid_t pid = fork();
    check(pid >= 0);
    if (pid == 0) {
        setpgid(0, 0);
        die_with_parent();
        mode->run(rounds);
        exit(0);
    }
    setpgid(pid, pid);
    bool good = watch(mode->name, pid);
    printf("%-10s %-9s %9llu rounds %6.2f s  %s%s%s\n", mode->name, as_processes ? "processes" : "threads",
           (unsigned long long)cp_observe(&area->rounds), (double)(cp_now() - begun) / 1e9, good ? "ok" : "FAILED",
           *area->note ? ": " : "", area->note);
    fflush(stdout);
    return good;
}

static const char *value_of(const char *argument, const char *name)
{
    size_t n = strlen(name);
    return strncmp(argument, name, n) ? NULL : argument + n;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t n = strtoull(text, &end, 0);
    if (!*text || *end) {
        fprintf(stderr, "ring_stress: not a number: %s\n", text);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    bool wanted[MODES] = {false}, all = true, threads = true, procs = true, good = true;
    seed = cp_now() % 1000000007u;
    for (int i = 1; i < argc; i++) {
        const char *value;
        if ((value = value_of(argv[i], "--mode="))) {
            int m = 0;
            while (m < MODES && strcmp(modes[m].name, value))
                m++;
            if (m == MODES) {
                fprintf(stderr, "ring_stress: no such mode: %s\n", value);
                return 2;
            }
            wanted[m] = true;
            all = false;
        } else if ((value = value_of(argv[i], "--seed="))) {
            seed = number(value);
        } else if ((value = value_of(argv[i], "--patience="))) {
            patience = (unsigned)number(value);
        } else if (!strcmp(argv[i], "--threads")) {
            procs = false;
        } else if (!strcmp(argv[i], "--processes")) {
            threads = false;
        } else {
            rounds = number(argv[i]);
        }
    }
    printf("ring_stress --seed=%llu %llu\n", (unsigned long long)seed, (unsigned long long)rounds);
    area = map_shared(CP_PAGE);
    for (int m = 0; m < MODES; m++) {
        if (!all && !wanted[m])
            continue;
        if (threads && modes[m].threads)
            good &= run(&modes[m], false);
        if (procs && modes[m].processes)
            good &= run(&modes[m], true);
    }
    return good ? 0 : 1;
}
