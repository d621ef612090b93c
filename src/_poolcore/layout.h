/* What lies in shared memory. Every field says who writes and who reads it.
 *
 *   pool segment (one a pool)         worker segment (one a worker)
 *   0      cp_control                 0       cp_header
 *   4096   submission arena, sparse   4096    submission ring  (parent -> worker)
 *                                     +ring   completion ring  (worker -> parent)
 *                                     +ring   completion arena, sparse
 *
 * Payloads too long for a ring lie in the arena of their direction, in an extent
 * that the frame names (cp_parcel). Its writer chooses the place; its reader gives
 * it back by a frame in the other ring. */
#ifndef CP_LAYOUT_H
#define CP_LAYOUT_H

#include "atomics.h"

#define CP_MAGIC 0x4c4f4f5059524c43ull
#define CP_ABI 4u               /* raise with every change of this file */
#define CP_PAGE 4096u
#define CP_LINE 64u             /* cache line, and the unit of frame sizes */
#define CP_RING_DEFAULT (256u * 1024u)
#define CP_ARENA_SIZE (1ull << 46)
#define CP_FUNCTIONS 1024u      /* functions that a worker keeps, by id modulo this */

typedef struct {
    uint64_t magic;                         /* parent, before the start; worker checks */
    uint32_t abi;                           /* the same */
    uint32_t frame_size;                    /* sizeof(cp_frame) of the parent's build */
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
    cp_word start;      /* CLOCK_MONOTONIC ns: when the task expires (0: never), by the parent; then when
                         * it started, by the worker before it claims; copied to the completion */
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
    CP_EACH = 64        /* ... and what a call raises stands in the place of its result */
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

_Static_assert(sizeof(cp_control) == 2 * CP_LINE, "control layout");
_Static_assert(sizeof(cp_header) == 6 * CP_LINE, "header layout");
_Static_assert(sizeof(cp_frame) == 32, "frame layout");
_Static_assert(sizeof(cp_parcel) == 32, "parcel layout");
_Static_assert(sizeof(cp_header) <= CP_PAGE, "the header has a page of its own");

#endif
