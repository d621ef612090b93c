/* What differs between platforms, all of it: clock, pause, shared memory,
 * doorbell, dying with the parent. Linux first; the other branch is POSIX. */
#ifndef CP_PLATFORM_H
#define CP_PLATFORM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <sys/eventfd.h>
#else
#include <sys/event.h>
#endif

static inline uint64_t cp_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void cp_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline void cp_sleep(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    nanosleep(&t, NULL);
}

/* Anonymous shared memory of `size` bytes (sparse): no name can leak. Returns a
 * descriptor that exec closes, or -1 with errno. */
static inline int cp_shm_create(const char *label, uint64_t size)
{
#ifdef __linux__
    int fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    /* sealed: a peer that shrinks it would kill us with SIGBUS */
    if (ftruncate(fd, (off_t)size) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
#else
    char name[32];
    static unsigned serial;
    (void)label;
    snprintf(name, sizeof name, "/cp-%ld-%u", (long)getpid(), ++serial);
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return -1;
    shm_unlink(name);
    if (ftruncate(fd, (off_t)size) < 0) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
#endif
}

/* Whether nobody can ever make it shorter than so many bytes. */
static inline bool cp_shm_holds(int fd, uint64_t length)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size < length)
        return false;
#ifdef __linux__
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK);
#else
    return true;
#endif
}

/* Gives the pages of a range of the segment back to the system. */
static inline void cp_shm_punch(int fd, uint64_t offset, uint64_t length)
{
#ifdef __linux__
    (void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
#else
    (void)fd, (void)offset, (void)length;
#endif
}

/* Fills the page tables of a mapping in one call, as far as the system can. */
static inline void cp_shm_populate(void *address, size_t length, bool writable)
{
#if defined(MADV_POPULATE_READ) && defined(MADV_POPULATE_WRITE)
    madvise(address, length, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
#else
    (void)address, (void)length, (void)writable;
#endif
}

/* A mapping is for this process alone: a child forked here does not get it. */
static inline void cp_shm_keep_private(void *address, size_t length)
{
#ifdef MADV_DONTFORK
    madvise(address, length, MADV_DONTFORK);
#else
    (void)address, (void)length;
#endif
}

/* Doorbell: bell[0] to wait on, bell[1] to ring; may be the same. */
static inline int cp_bell_create(int bell[2])
{
#ifdef __linux__
    bell[0] = bell[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return bell[0] < 0 ? -1 : 0;
#else
    if (pipe(bell) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        fcntl(bell[i], F_SETFD, FD_CLOEXEC);
        fcntl(bell[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
#endif
}

/* Never blocks; a full doorbell is rung already. Safe in a signal handler. */
static inline void cp_bell_ring(int fd)
{
    uint64_t one = 1;
    int e = errno;
    (void)!write(fd, &one, sizeof one);
    errno = e;
}

static inline void cp_bell_drain(int fd)
{
    uint64_t count[8];
    while (read(fd, count, sizeof count) == (ssize_t)sizeof count)
        ;
}

/* A descriptor that is readable while either bell is rung; -1 with errno. */
static inline int cp_bells_watch(int first, int second)
{
#ifdef __linux__
    struct epoll_event event = {.events = EPOLLIN};
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd >= 0 && (epoll_ctl(fd, EPOLL_CTL_ADD, first, &event) < 0 ||
                    epoll_ctl(fd, EPOLL_CTL_ADD, second, &event) < 0)) {
#else
    struct kevent events[2];
    int fd = kqueue();
    EV_SET(&events[0], first, EVFILT_READ, EV_ADD, 0, 0, NULL);
    EV_SET(&events[1], second, EVFILT_READ, EV_ADD, 0, 0, NULL);
    if (fd >= 0)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (fd >= 0 && kevent(fd, events, 2, NULL, 0, NULL) < 0) {
#endif
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

/* Sleeps until one of one or two bells is rung (second may be -1), a signal
 * comes or the time has passed; timeout_ns < 0: without limit. */
static inline void cp_bell_wait(int first, int second, int64_t timeout_ns)
{
    struct pollfd p[2] = {{first, POLLIN, 0}, {second, POLLIN, 0}};
    if (timeout_ns < 0) {
        poll(p, 2, -1);
        return;
    }
#ifdef __linux__
    struct timespec t = {(time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000)};
    ppoll(p, 2, &t, NULL);
#else
    poll(p, 2, (int)((timeout_ns + 999999) / 1000000));
#endif
}

/* This process is killed when the last write end of the pipe is closed, also
 * while it is inside C code that holds the GIL. 0, or -1 where the platform
 * has no such signal; the caller then watches the pipe itself. */
static inline int cp_die_with(int lifeline)
{
#if defined(__linux__) && defined(F_SETSIG)
    struct pollfd p = {lifeline, POLLIN, 0};
    if (fcntl(lifeline, F_SETOWN, getpid()) < 0 || fcntl(lifeline, F_SETSIG, SIGKILL) < 0 ||
        fcntl(lifeline, F_SETFL, O_ASYNC | O_NONBLOCK) < 0)
        return -1;
    if (poll(&p, 1, 0) > 0) /* closed before we asked */
        raise(SIGKILL);
    return 0;
#else
    (void)lifeline;
    return -1;
#endif
}

#endif
