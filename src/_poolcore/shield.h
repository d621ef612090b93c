/* A worker's shield: signals that its process group gets (a terminal's, a service manager's) do not
 * end it. Those of its own pool do, and those that it sends itself; but for SIGINT, which is nobody's
 * way to end a worker. A caught signal is a default one again after exec. */
#ifndef CP_SHIELD_H
#define CP_SHIELD_H

#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile pid_t cp_shield_owner;

static void cp_shield_hit(int signum, siginfo_t *info, void *context)
{
    (void)context;
    if (signum != SIGINT && info->si_code <= 0 &&   /* somebody's, not the kernel's */
        (info->si_pid == cp_shield_owner || info->si_pid == getpid())) {
        signal(signum, SIG_DFL);
        raise(signum);      /* it comes when we return */
    }
}

/* 0, or -1 with errno. */
static inline int cp_shield(int signum, pid_t owner)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = cp_shield_hit;
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    cp_shield_owner = owner;
    return sigaction(signum, &action, NULL);
}

static inline int cp_is_shielded(int signum)
{
    struct sigaction action;
    return sigaction(signum, NULL, &action) == 0 && action.sa_flags & SA_SIGINFO &&
           action.sa_sigaction == cp_shield_hit;
}

#endif
