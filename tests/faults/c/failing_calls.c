/* Preloaded into all processes of a pool: lets the n-th use of one system call fail in one kind
 * of them, from arm() to disarm(). They share a page, mapped from the file that FAILING_CALLS
 * names, so that the parent can arm processes that do not exist yet.
 *
 * Which kind a process is, is counted in forks: 0 the parent (the one process that has armed),
 * 1 the template, 2 a worker; the process that spawn has executed begins with 1, a fork server
 * with 0. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* As the test names them; several functions may make one. */
static const char *const names[] = {"pipe2", "eventfd", "memfd_create", "socketpair",
                                    "epoll_create1", "pidfd_open", "epoll_ctl", "ftruncate",
                                    "mmap", "sendmsg", "fcntl", "ioctl", "pwrite", "fork",
                                    "pthread_create", NULL};

struct page {
    int call, role, error;      /* call: an index, or -1: nothing fails */
    pid_t parent;
    atomic_long left;
    atomic_int armed, fired, for_ever;
    atomic_long used[sizeof names / sizeof *names];
};

static struct page *page;
static int depth;

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void forked(void)
{
    depth++;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAILING_CALLS");
    char line[4096];
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, line, sizeof line);
    close(fd);
    depth = length > 0 && memmem(line, (size_t)length, "--multiprocessing-fork", 22) != NULL;
    pthread_atfork(NULL, NULL, forked);
    page = at == MAP_FAILED ? NULL : at;
}

static int place_of(const char *call)
{
    for (int i = 0; names[i] != NULL; i++)
        if (strcmp(names[i], call) == 0)
            return i;
    return -1;
}

/* `call`: one of the names, or "" to count only; `n`: 0: all of them from now on. */
bool arm(const char *call, int role, long n, int error)
{
    if (page == NULL)
        return false;
    page->call = place_of(call);
    page->role = role;
    page->error = error;
    page->parent = getpid();
    page->left = n;
    page->for_ever = n == 0;
    page->fired = 0;
    memset(page->used, 0, sizeof page->used);
    page->armed = 1;
    return true;
}

/* Whether a call has failed since arm(). */
bool disarm(void)
{
    page->armed = 0;
    return page->fired;
}

/* How often it has been made since arm(). */
long used(const char *call)
{
    return page->used[place_of(call)];
}

static bool fails(const char *call)
{
    if (page == NULL || !page->armed || page->role != depth ||
        (depth == 0 && page->parent != getpid()))
        return false;
    int place = place_of(call);
    page->used[place]++;
    if (place != page->call || --page->left > 0 || (page->left < 0 && !page->for_ever))
        return false;
    page->fired = 1;
    errno = page->error;
    return true;
}

#define WRAP(type, name, call, failed, parameters, arguments) \
    type name parameters                                      \
    {                                                         \
        static type(*real) parameters;                        \
        if (real == NULL)                                     \
            real = next(#name);                               \
        return fails(call) ? failed : real arguments;         \
    }

WRAP(int, pipe2, "pipe2", -1, (int fds[2], int flags), (fds, flags))
WRAP(int, eventfd, "eventfd", -1, (unsigned count, int flags), (count, flags))
WRAP(int, memfd_create, "memfd_create", -1, (const char *name, unsigned flags), (name, flags))
WRAP(int, socketpair, "socketpair", -1, (int domain, int type, int protocol, int fds[2]),
     (domain, type, protocol, fds))
WRAP(int, epoll_create1, "epoll_create1", -1, (int flags), (flags))
WRAP(int, epoll_ctl, "epoll_ctl", -1, (int epfd, int op, int fd, struct epoll_event *event),
     (epfd, op, fd, event))
WRAP(int, ftruncate, "ftruncate", -1, (int fd, off_t length), (fd, length))
WRAP(int, ftruncate64, "ftruncate", -1, (int fd, off64_t length), (fd, length))
WRAP(ssize_t, pwrite, "pwrite", -1, (int fd, const void *data, size_t length, off_t at),
     (fd, data, length, at))
WRAP(ssize_t, pwrite64, "pwrite", -1, (int fd, const void *data, size_t length, off64_t at),
     (fd, data, length, at))
WRAP(ssize_t, sendmsg, "sendmsg", -1, (int fd, const struct msghdr *message, int flags),
     (fd, message, flags))
WRAP(pid_t, fork, "fork", -1, (void), ())
WRAP(int, pthread_create, "pthread_create", page->error,
     (pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument),
     (thread, attributes, body, argument))

/* A wrapper cannot return twice from the real one. */
pid_t vfork(void)
{
    return fork();
}

/* Only what is shared: memory of Python's own objects may come by other ways, too. */
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (real == NULL)
        real = next("mmap");
    return flags & MAP_SHARED && fails("mmap") ? MAP_FAILED
                                               : real(at, size, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    return mmap(at, size, protection, flags, fd, offset);
}

#define WRAP_WITH_POINTER(name, call, number)                          \
    int name(int fd, number request, ...)                              \
    {                                                                  \
        static int (*real)(int, number, ...);                          \
        va_list rest;                                                  \
        va_start(rest, request);                                       \
        void *argument = va_arg(rest, void *);                         \
        va_end(rest);                                                  \
        if (real == NULL)                                              \
            real = next(#name);                                        \
        return fails(call) ? -1 : real(fd, request, argument);         \
    }

WRAP_WITH_POINTER(fcntl, "fcntl", int)
WRAP_WITH_POINTER(fcntl64, "fcntl", int)
WRAP_WITH_POINTER(ioctl, "ioctl", unsigned long)

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (real == NULL)
        real = next("syscall");
    if (number == SYS_pidfd_open && fails("pidfd_open"))
        return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
