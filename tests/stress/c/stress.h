/* What all modes of ring_stress need: random numbers, failures, progress, a pair of
 * rings in shared memory, and a peer that is a thread or a process. */
#ifndef STRESS_H
#define STRESS_H

#include "_poolcore/wait.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif

enum { ROLES = 8 };

/* Seen by the watchdog, too. */
struct area {
    cp_word failed;
    cp_word rounds;     /* done, for the report */
    char note[120];     /* for the report, too: how often the races went which way */
    struct {
        _Alignas(CP_LINE) cp_word steps;
    } progress[ROLES];  /* each written by one role */
};

static struct area *area;
static uint64_t seed;
static bool processes;      /* peers are processes, not threads */

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "ring_stress: ");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    cp_publish(&area->failed, 1);
    _exit(1);
}

#define check(condition) ((condition) ? (void)0 : fail("%s:%d: not so: %s", __FILE__, __LINE__, #condition))

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(area->note, sizeof area->note, format, arguments);
    va_end(arguments);
}

static void progress(int role) { cp_bump(&area->progress[role].steps, 1); }

/* ---- random numbers (splitmix64) ---- */

static uint64_t mixed(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t random_next(uint64_t *state) { return mixed(++*state); }

static uint64_t random_below(uint64_t *state, uint64_t limit) { return random_next(state) % limit; }

/* A short while, most often none: moves the peers against each other. */
static void dawdle(uint64_t *state)
{
    uint64_t r = random_next(state);
    if (r % 8 == 0)
        for (uint64_t i = (r >> 8) % 200; i; i--)
            cp_pause();
    else if (r % 64 == 1)
        sched_yield();
}

/* ---- memory ---- */

static void *map_shared(uint64_t size)
{
    int fd = cp_shm_create("ring_stress", size);
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        fail("no shared memory: %s", strerror(errno));
    close(fd);
    return at;
}

/* One worker's segment, and its doorbell. */
struct pair {
    cp_header *header;
    uint8_t *submission, *completion;
    uint64_t ring_size;
    int bell[2];
};

static struct pair pair_make(uint64_t ring_size)
{
    struct pair p;
    uint8_t *base = map_shared(CP_PAGE + 2 * ring_size);
    p.header = (cp_header *)base;
    p.submission = base + CP_PAGE;
    p.completion = p.submission + ring_size;
    p.ring_size = ring_size;
    check(cp_bell_create(p.bell) == 0);
    return p;
}

static void pair_free(struct pair *p)
{
    munmap(p->header, CP_PAGE + 2 * p->ring_size);
    close(p->bell[0]);
    if (p->bell[1] != p->bell[0])
        close(p->bell[1]);
}

/* ---- peers ---- */

static void die_with_parent(void)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
}

struct peer {
    void (*role)(void *);
    void *context;
    pthread_t thread;
    pid_t pid;
};

static void *peer_thread(void *peer)
{
    ((struct peer *)peer)->role(((struct peer *)peer)->context);
    return NULL;
}

static void peer_start(struct peer *p, void (*role)(void *), void *context)
{
    p->role = role;
    p->context = context;
    if (!processes) {
        check(pthread_create(&p->thread, NULL, peer_thread, p) == 0);
        return;
    }
    p->pid = fork();
    check(p->pid >= 0);
    if (p->pid == 0) {
        die_with_parent();
        role(context);
        exit(0);
    }
}

static void peer_join(struct peer *p)
{
    int status;
    if (!processes)
        check(pthread_join(p->thread, NULL) == 0);
    else if (waitpid(p->pid, &status, 0) != p->pid || status != 0)
        fail("a peer process ended with status %#x", (unsigned)status);
}

/* ---- payloads that tell who they are ---- */

static void fill(uint8_t *to, uint64_t length, uint64_t number)
{
    uint64_t word = mixed(number ^ seed);
    for (uint64_t i = 0; i < length; i += 8, word = word * 5 + 1)
        memcpy(to + i, &word, length - i < 8 ? length - i : 8);
}

static bool is_filled(const uint8_t *from, uint64_t length, uint64_t number)
{
    uint64_t word = mixed(number ^ seed);
    for (uint64_t i = 0; i < length; i += 8, word = word * 5 + 1)
        if (memcmp(from + i, &word, length - i < 8 ? length - i : 8))
            return false;
    return true;
}

/* Lengths at which something may go wrong: none, around whole lines, just below
 * the longest, and anything between. Both peers know it by the frame's number. */
static uint64_t length_of(uint64_t number, uint64_t ring_size)
{
    uint64_t longest = cp_ring_longest(ring_size);
    uint64_t r = mixed(number * 3 + seed), n = r >> 8;
    switch (r % 4) {
    case 0: return n % (longest < 64 ? longest + 1 : 64);
    case 1: return longest - n % (longest < 4 ? longest + 1 : 4);
    case 2: {
        uint64_t lines = n % (ring_size / 4 / CP_LINE) + 1;
        uint64_t length = lines * CP_LINE - sizeof(cp_frame) + (n >> 32) % 3 - 1;
        return length <= longest ? length : longest;
    }
    default: return n % (longest + 1);
    }
}

#endif
