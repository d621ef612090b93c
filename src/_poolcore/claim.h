/* The claim word: the one atomic that says who owns a task.
 *
 *            worker            worker
 *   READY ----------> CLAIMED --------> DONE
 *     | parent           | parent
 *     v                  v
 *   REVOKED            KILLED
 *
 * value = tid << 3 | state, so that a stale reference never hits the task that
 * later lies at the same place. The worker whose step to DONE fails was killed
 * and must leave at once without publishing. */
#ifndef CP_CLAIM_H
#define CP_CLAIM_H

#include "layout.h"

enum { CP_READY = 1, CP_CLAIMED, CP_DONE, CP_REVOKED, CP_KILLED };

static inline uint64_t cp_claim(uint64_t tid, unsigned state)
{
    return tid << 3 | state;
}

static inline uint64_t cp_claim_tid(uint64_t claim) { return claim >> 3; }
static inline unsigned cp_claim_state(uint64_t claim) { return claim & 7; }

/* worker */
static inline bool cp_claim_take(cp_frame *f, uint64_t tid)
{
    return cp_decide(&f->claim, cp_claim(tid, CP_READY), cp_claim(tid, CP_CLAIMED));
}

static inline bool cp_claim_finish(cp_frame *f, uint64_t tid)
{
    return cp_decide(&f->claim, cp_claim(tid, CP_CLAIMED), cp_claim(tid, CP_DONE));
}

/* parent */
static inline bool cp_claim_revoke(cp_frame *f, uint64_t tid)
{
    return cp_decide(&f->claim, cp_claim(tid, CP_READY), cp_claim(tid, CP_REVOKED));
}

static inline bool cp_claim_kill(cp_frame *f, uint64_t tid)
{
    return cp_decide(&f->claim, cp_claim(tid, CP_CLAIMED), cp_claim(tid, CP_KILLED));
}

#endif
