/* What lies in shared memory. Every field says who writes and who reads it.
 *
 *   pool segment (one a pool)         worker segment (one a worker)
 *   0      cp_control                 0       cp_header
 *   4096   cp_status                  4096    submission ring  (parent -> worker)
 *   ...    submission arena, sparse   +ring   completion ring  (worker -> parent)
 *                                     +ring   cp_shown
 *                                     ...     completion arena, sparse
 *
 * Payloads too long for a ring lie in the arena of their direction, in an extent
 * that the frame names (cp_parcel). Its writer chooses the place; its reader gives
 * it back by a frame in the other ring. */
#ifndef CP_LAYOUT_H
#define CP_LAYOUT_H

#include "atomics.h"

#define CP_MAGIC 0x4c4f4f5059524c43ull
#define CP_ABI 5u               /* raise with every change of this file */
#define CP_PAGE 4096u
#define CP_LINE 64u             /* cache line, and the unit of frame sizes */
#define CP_RING_DEFAULT (256u * 1024u)
#define CP_ARENA_SIZE (1ull << 46)
#define CP_FUNCTIONS 1024u      /* functions that a worker keeps, by id modulo this */

typedef struct {
    uint64_t magic;                         /* parent, before the start; worker checks */
    uint32_t abi;                           /* the same */
    uint32_t frame_size;                    /* sizeof(cp_frame) of the parent's build */
    cp_word trace_until;                    /* parent, or who looks from outside: CLOCK_MONOTONIC ns, until
                                             * when tasks are recorded; workers read */
    _Alignas(CP_LINE) cp_word parent_epoch; /* parent: its park epoch, 0 while awake; workers read */
} cp_control;

typedef struct {
    _Alignas(CP_LINE) cp_word tail;         /* producer: end of the published frames; consumer reads */
    _Alignas(CP_LINE) cp_word head;         /* consumer: start of the frames in use; producer reads */
} cp_indices;

typedef struct {
    uint64_t magic;                         /* parent, before the start; worker checks */
    uint32_t abi;                           /* the same */
    uint32_t header_size;                   /* the same: sizeof(cp_header) */
    uint64_t ring_size;                     /* parent, before the start; both rings */
    cp_word soft_tid;                       /* parent: the task that the soft limit's signal means; worker reads */
    _Alignas(CP_LINE) cp_word worker_epoch; /* worker: its park epoch, 0 while awake; parent reads */
    cp_indices submission;
    cp_indices completion;
} cp_header;

/* One entry of a ring, padded to whole lines. */
typedef struct {
    uint32_t size;      /* of the whole frame in bytes */
    uint16_t kind;      /* CP_PAD ... */
    uint16_t flags;     /* CP_KWARGS ... */
    uint32_t fid;       /* TASK, DEFINE: function id, 0: the target is in the payload; GIVE_BACK: the extent;
                         * RESULT, ERROR: ns that the worker's task before took, a hint */
    uint32_t length;    /* of the payload behind the header, in bytes */
    cp_word claim;      /* submission: tid << 3 | state, see claim.h; completion: tid */
    cp_word start;      /* CLOCK_MONOTONIC ns: when the task expires (0: never) or, CP_STAMPED, was submitted,
                         * by the parent; then when it started, by the worker before it claims; copied to
                         * the completion */
} cp_frame;

enum {
    CP_PAD = 1,         /* fills the ring up to its end */
    /* submission ring */
    CP_TASK,
    CP_DEFINE,          /* pickled function for fid; never revoked */
    CP_STOP,            /* leave after what came before */
    /* completion ring */
    CP_HELLO,           /* the initializer has returned */
    CP_START_FAILED,    /* it has not: pickled (exception, text) */
    CP_ACK,             /* task claimed, if asked for */
    CP_RESULT,
    CP_ERROR,
    CP_EXPIRED,         /* claimed too late, never called */
    CP_LEAVING,         /* the worker leaves after the task that it runs, by its own wish */
    /* both */
    CP_GIVE_BACK        /* an extent of the receiver's is used no more */
};

enum {
    CP_KWARGS = 1,      /* payload pickles (args, kwargs) instead of args */
    CP_TARGET = 2,      /* payload pickles (target, args, kwargs) */
    CP_WANT_ACK = 4,
    CP_IN_ARENA = 8,    /* payload is a cp_parcel */
    CP_MANY = 16,       /* args is a sequence of arguments: one call each, a list of results */
    CP_STAR = 32,       /* ... of tuples of arguments */
    CP_EACH = 64,       /* ... and what a call raises stands in the place of its result */
    CP_STAMPED = 128    /* `start` says, until the claim, when the task was submitted */
};

/* A long payload: the lengths of its buffers (uint64_t each), the buffers (aligned
 * to CP_LINE), and at its end the pickle stream. */
typedef struct {
    uint64_t offset;    /* of the extent, from the start of the segment, whole pages */
    uint64_t length;    /* of the payload in bytes */
    uint64_t stream;    /* of the pickle stream in bytes */
    uint32_t number;    /* of the extent */
    uint32_t count;     /* of buffers */
} cp_parcel;

/* ---- what is shown to onlookers (status.h); nobody acts on it ---- */

#define CP_BUCKETS 192u         /* of a histogram: to 2^49 ns, six days */
#define CP_TALLIES 64u          /* functions that are counted; the first stands for all others */
#define CP_RECORDS 4096u        /* tasks that a worker's recorder keeps */
#define CP_ROWS 1024u           /* workers that are shown */
#define CP_NAME 120u            /* bytes of a function's name */
#define CP_STORY (64u * 1024u)  /* bytes */

/* Ended tasks of one function, by a worker or added up by the parent. */
typedef struct {
    cp_word fid;                /* 0: of no function by itself */
    cp_word failed;
    cp_word run_ns;             /* sum */
    cp_word wait_ns;            /* sum, of those that were stamped */
    cp_word run[CP_BUCKETS];    /* from the claim to the next one, or until it waits */
    cp_word wait[CP_BUCKETS];   /* from submission to the claim, of those that were stamped */
} cp_tally;

#define CP_TALLY_WORDS (3 + 2 * CP_BUCKETS) /* from `failed` on */

typedef struct {
    cp_word tid;
    cp_word start;              /* CLOCK_MONOTONIC ns */
    cp_word ran_failed;         /* ns << 1 | failed */
    cp_word fid_waited;         /* fid << 40 | ns that it waited, 0: not known, CP_WAITED: so long or longer */
} cp_record;

#define CP_WAITED ((1ull << 40) - 1)

/* Worker writes. */
typedef struct {
    _Alignas(CP_LINE) cp_word running;      /* 1 + position of the frame that it has claimed last */
    cp_word recorded;                       /* tasks, ever; the last one's record is at this - 1 modulo */
    _Alignas(CP_LINE) cp_tally tallies[CP_TALLIES];
    cp_record records[CP_RECORDS];
} cp_shown;

/* One worker, as the parent sees it. */
typedef struct {
    cp_word pid;                /* 0: it has not been told */
    cp_word fd;                 /* of its segment, in the parent */
    cp_word index;
    cp_word stage;              /* CP_STARTING ... */
    cp_word started;            /* CLOCK_MONOTONIC ns */
    cp_word queued;             /* tasks given and not collected, the one that runs included */
    cp_word given;              /* tasks, in its life */
    cp_word done;               /* of which have been collected */
} cp_row;

enum { CP_STARTING, CP_SERVING, CP_SPARE, CP_LEAVES, CP_CORRUPT };

typedef struct {
    cp_word fid;                /* written after the name; 0: none */
    char name[CP_NAME];         /* UTF-8, cut, padded with zeros */
} cp_name;

/* Parent writes; `now`, `told` and `story` under `sequence`. */
typedef struct {
    cp_word sequence;           /* odd while it writes */
    cp_word recovered;          /* workers whose tallies are in `ended`, or were not to be believed */
    cp_word told;               /* bytes of `story` */
    struct {
        cp_word at;             /* CLOCK_MONOTONIC ns, of the last change of the workers */
        cp_word state;          /* of the pool, as PoolState */
        cp_word limit;          /* 2^64 - 1: none */
        cp_word processes;
        cp_word submitted;
        cp_word collected;
        cp_word reaped;
        cp_word succeeded;
        cp_word failed;
        cp_word lost;
        cp_word cancelled;
        cp_word expired;
        cp_word callback_errors;
        cp_word in_flight;
        cp_word waiting_callbacks;
        cp_word backlog;
        cp_word workers;        /* rows that follow */
        cp_row rows[CP_ROWS];
    } now;
    cp_tally ended[CP_TALLIES]; /* of workers that are gone */
    cp_name names[CP_FUNCTIONS];    /* by fid modulo */
    char story[CP_STORY];       /* JSON: what changes rarely */
} cp_status;

#define CP_ARENA_AT ((CP_PAGE + sizeof(cp_status) + CP_PAGE - 1) / CP_PAGE * CP_PAGE)
#define CP_SHOWN_SIZE ((sizeof(cp_shown) + CP_PAGE - 1) / CP_PAGE * CP_PAGE)

_Static_assert(sizeof(cp_name) == 128 && sizeof(cp_record) == 32, "shown layout");
_Static_assert(sizeof(cp_control) == 2 * CP_LINE, "control layout");
_Static_assert(sizeof(cp_header) == 6 * CP_LINE, "header layout");
_Static_assert(sizeof(cp_frame) == 32, "frame layout");
_Static_assert(sizeof(cp_parcel) == 32, "parcel layout");
_Static_assert(sizeof(cp_header) <= CP_PAGE, "the header has a page of its own");

#endif
