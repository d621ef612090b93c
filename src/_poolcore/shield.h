/* A worker's shield: signals that its process group gets (a terminal's, a service manager's) do not
 * reach it. Those of its own pool do, and those that it sends itself: they get to the handler that
 * the shield was raised over, or end the worker; but for SIGINT, which is nobody's way to end one.
 * A caught signal is a default one again after exec. */
#ifndef CP_SHIELD_H
#define CP_SHIELD_H

#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile pid_t cp_shield_owner;
static struct sigaction cp_shield_under[NSIG];  /* what gets the signals that are let through */

static void cp_shield_hit(int signum, siginfo_t *info, void *context)
{
    const struct sigaction *under = &cp_shield_under[signum];
    if (info->si_code > 0 ||    /* the kernel's, not somebody's */
        (info->si_pid != cp_shield_owner && info->si_pid != getpid()))
        return;
    if (under->sa_flags & SA_SIGINFO) {
        under->sa_sigaction(signum, info, context);
    } else if (under->sa_handler != SIG_DFL) {
        under->sa_handler(signum);
    } else if (signum != SIGINT) {
        signal(signum, SIG_DFL);
        raise(signum);      /* it comes when we return */
    }
}

/* `over`: it is raised over the handler that is there now. 0, or -1 with errno. */
static inline int cp_shield(int signum, pid_t owner, int over)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    cp_shield_under[signum] = action;
    if (over && sigaction(signum, NULL, &cp_shield_under[signum]) != 0)
        return -1;
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
