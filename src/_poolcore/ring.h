/* Single-producer single-consumer ring of frames (Lamport's queue with cached
 * peer indices). Positions grow for ever; position & mask is the place. A frame
 * never wraps: a CP_PAD frame fills the rest of the ring. Frames of at most a
 * quarter of the ring always fit once the ring is empty.
 *
 * Nothing that the peer can write is trusted: its index is checked against our
 * own, and a frame's header is read once, into a copy. CP_GARBAGE means that the
 * peer broke the rules and nothing more can be learnt from this ring. */
#ifndef CP_RING_H
#define CP_RING_H

#include "claim.h"
#include <string.h>

typedef struct {
    cp_indices *shared;
    uint8_t *base;
    uint64_t size;
    uint64_t tail;       /* reserved up to here; published by cp_ring_publish */
    uint64_t head_seen;  /* the consumer's head when we last looked */
} cp_producer;

typedef struct {
    cp_indices *shared;
    uint8_t *base;
    uint64_t size;
    cp_word head;        /* ours; relaxed, so that a waiting thread may look */
    uint64_t released;   /* the head that the producer has been told */
    uint64_t tail_seen;  /* the producer's tail when we last looked */
} cp_consumer;

enum { CP_EMPTY = 0, CP_FRAME = 1, CP_GARBAGE = -1 };

static inline uint64_t cp_frame_bytes(uint64_t length)
{
    return (sizeof(cp_frame) + length + CP_LINE - 1) & ~(uint64_t)(CP_LINE - 1);
}

/* The longest payload that goes through the ring itself. */
static inline uint64_t cp_ring_longest(uint64_t ring_size)
{
    return ring_size / 4 - sizeof(cp_frame);
}

static inline cp_frame *cp_ring_at(uint8_t *base, uint64_t size, uint64_t position)
{
    return (cp_frame *)(base + (position & (size - 1)));
}

/* ---- producer ---- */

static inline void cp_producer_init(cp_producer *p, cp_indices *shared, uint8_t *base, uint64_t size)
{
    p->shared = shared;
    p->base = base;
    p->size = size;
    p->tail = p->head_seen = 0;
}

/* Looks at the consumer's head again. False: it makes no sense. */
static inline bool cp_producer_look(cp_producer *p)
{
    uint64_t head = cp_observe(&p->shared->head);
    if (head - p->head_seen > p->tail - p->head_seen || head % CP_LINE)
        return false;
    p->head_seen = head;
    return true;
}

/* Whether the frame at `position` still lies there: the consumer had not passed it
 * when we last looked, so nothing was written over it. */
static inline bool cp_producer_holds(const cp_producer *p, uint64_t position)
{
    return position - p->head_seen < p->tail - p->head_seen;
}

/* Bytes to reserve for a frame here, with the padding before it. */
static inline uint64_t cp_producer_need(const cp_producer *p, uint64_t bytes)
{
    uint64_t to_end = p->size - (p->tail & (p->size - 1));
    return bytes <= to_end ? bytes : to_end + bytes;
}

static inline bool cp_producer_fits(const cp_producer *p, uint64_t need)
{
    return need <= p->size - (p->tail - p->head_seen);
}

/* Room for a frame with `length` payload bytes; its size and length are set.
 * CP_FRAME, CP_EMPTY (no room now) or CP_GARBAGE. Invisible until published. */
static inline int cp_ring_reserve(cp_producer *p, uint64_t length, cp_frame **out)
{
    uint64_t bytes = cp_frame_bytes(length);
    uint64_t need = cp_producer_need(p, bytes);
    if (!cp_producer_fits(p, need)) {
        if (!cp_producer_look(p))
            return CP_GARBAGE;
        if (!cp_producer_fits(p, need))
            return CP_EMPTY;
    }
    if (need != bytes) {
        cp_frame *pad = cp_ring_at(p->base, p->size, p->tail);
        pad->size = (uint32_t)(need - bytes);
        pad->kind = CP_PAD;
        p->tail += need - bytes;
    }
    cp_frame *f = cp_ring_at(p->base, p->size, p->tail);
    f->size = (uint32_t)bytes;
    f->length = (uint32_t)length;
    p->tail += bytes;
    *out = f;
    return CP_FRAME;
}

static inline void cp_ring_publish(cp_producer *p)
{
    cp_publish(&p->shared->tail, p->tail);
}

/* ---- consumer ---- */

static inline void cp_consumer_init(cp_consumer *c, cp_indices *shared, uint8_t *base, uint64_t size)
{
    c->shared = shared;
    c->base = base;
    c->size = size;
    cp_poke(&c->head, 0);
    c->released = c->tail_seen = 0;
}

/* Whether anything was published past our head; from any thread. */
static inline bool cp_consumer_pending(const cp_consumer *c)
{
    return cp_observe(&c->shared->tail) != cp_peek(&c->head);
}

/* Most bytes that can lie before us: not past the room that we gave back. */
static inline uint64_t cp_consumer_fed(const cp_consumer *c, uint64_t head)
{
    return c->size - (head - c->released);
}

/* The next frame that is no padding: its header copied once, its position, and
 * where the payload lies. It stays in use until cp_ring_advance. */
static inline int cp_ring_next(cp_consumer *c, cp_frame *copy, uint64_t *position, const uint8_t **payload)
{
    for (;;) {
        uint64_t head = cp_peek(&c->head);
        if (head == c->tail_seen) {
            uint64_t tail = cp_observe(&c->shared->tail);
            /* nobody feeds us for ever */
            if (tail - head > cp_consumer_fed(c, head) || tail % CP_LINE)
                return CP_GARBAGE;
            if (tail == head)
                return CP_EMPTY;
            c->tail_seen = tail;
        }
        const cp_frame *f = cp_ring_at(c->base, c->size, head);
        /* volatile: the peer may write while we look, each field counts once */
        copy->size = *(const volatile uint32_t *)&f->size;
        copy->kind = *(const volatile uint16_t *)&f->kind;
        uint64_t to_end = c->size - (head & (c->size - 1));
        if (copy->size < CP_LINE || copy->size % CP_LINE ||
            copy->size > to_end || copy->size > c->tail_seen - head)
            return CP_GARBAGE;
        if (copy->kind == CP_PAD) {
            cp_poke(&c->head, head + copy->size);
            continue;
        }
        copy->flags = *(const volatile uint16_t *)&f->flags;
        copy->fid = *(const volatile uint32_t *)&f->fid;
        copy->length = *(const volatile uint32_t *)&f->length;
        cp_poke(&copy->claim, cp_peek(&f->claim));
        cp_poke(&copy->start, cp_peek(&f->start));
        if (copy->length > copy->size - sizeof(cp_frame))
            return CP_GARBAGE;
        *position = head;
        *payload = (const uint8_t *)(f + 1);
        return CP_FRAME;
    }
}

/* The header of the published frame at *position, or of our next one if that is
 * further on; *position moves past it, the frame stays in its place. False: there
 * is none yet. */
static inline bool cp_ring_look_ahead(cp_consumer *c, uint64_t *position, cp_frame *copy)
{
    uint64_t head = cp_peek(&c->head);
    uint64_t tail = cp_observe(&c->shared->tail);
    if (*position < head)
        *position = head;
    if (*position >= tail || tail - head > cp_consumer_fed(c, head))
        return false;
    const cp_frame *f = cp_ring_at(c->base, c->size, *position);
    copy->size = *(const volatile uint32_t *)&f->size;
    copy->kind = *(const volatile uint16_t *)&f->kind;
    copy->fid = *(const volatile uint32_t *)&f->fid;
    if (copy->size < CP_LINE || copy->size % CP_LINE || copy->size > tail - *position ||
        copy->size > c->size - (*position & (c->size - 1)))
        return false;
    *position += copy->size;
    return true;
}

/* Done with the frame that cp_ring_next gave. */
static inline void cp_ring_advance(cp_consumer *c, const cp_frame *copy)
{
    cp_poke(&c->head, cp_peek(&c->head) + copy->size);
}

/* Gives the room of all frames passed so far back to the producer. */
static inline void cp_ring_release(cp_consumer *c)
{
    c->released = cp_peek(&c->head);
    cp_publish(&c->shared->head, c->released);
}

#endif
