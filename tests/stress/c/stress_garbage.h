/* A peer that writes anything anywhere. The rings lie between pages that cannot be
 * touched, so that a read or write outside of them ends the program. */
#ifndef STRESS_GARBAGE_H
#define STRESS_GARBAGE_H

#include "stress.h"

struct victim {
    cp_indices *shared;
    uint8_t *ring;
    uint64_t size;
    cp_word *over;
};

/* A shared mapping with a guard page on either side; never unmapped. */
static uint8_t *map_guarded(uint64_t size)
{
    uint8_t *area_at = mmap(NULL, size + 2 * CP_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = cp_shm_create("ring_stress", size);
    check(area_at != MAP_FAILED && fd >= 0);
    check(mmap(area_at + CP_PAGE, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
    close(fd);
    return area_at + CP_PAGE;
}

static struct victim victim_make(uint64_t size)
{
    uint8_t *page = map_guarded(CP_PAGE);
    return (struct victim){(cp_indices *)page, map_guarded(size), size, (cp_word *)(page + 1024)};
}

/* Something near to a frame, so that it often passes the first checks. */
static void scribble_frame(struct victim *v, uint64_t position, uint64_t *random)
{
    cp_frame *f = cp_ring_at(v->ring, v->size, position);
    uint64_t r = random_next(random);
    f->size = (uint32_t)(r % 7 ? (r >> 8) % 4 * CP_LINE + (r % 5 ? CP_LINE : 0) : r >> 16);
    f->kind = (uint16_t)(r >> 32) % 10;
    f->length = (uint32_t)(r % 3 ? (r >> 20) % (f->size + 1) : r >> 24);
    cp_poke(&f->claim, r);
}

static uint64_t some_index(struct victim *v, uint64_t near, uint64_t *random)
{
    uint64_t r = random_next(random);
    switch (r % 4) {
    case 0: return r >> 3;
    case 1: return near + (r >> 8) % (2 * v->size);
    default: return near + (r >> 8) % (v->size / CP_LINE + 2) * CP_LINE;
    }
}

static void scribble(struct victim *v, uint64_t near, uint64_t *random)
{
    uint64_t r = random_next(random);
    if (r % 4 == 0)
        for (uint64_t i = 0; i < v->size; i += 8)
            *(uint64_t *)(v->ring + i) = random_next(random);
    else
        for (uint64_t i = 0; i < v->size; i += CP_LINE)
            scribble_frame(v, i, random);
    cp_publish(&v->shared->tail, some_index(v, near, random));
}

/* Takes frames until there are no more; what has been passed since the last release
 * never is more than a ring. */
static void consume_anything(struct victim *v, cp_consumer *c)
{
    static uint8_t copy[1 << 16];
    uint64_t begin = cp_peek(&c->head);
    cp_frame f;
    uint64_t position;
    const uint8_t *payload;
    while (cp_ring_next(c, &f, &position, &payload) == CP_FRAME) {
        check(payload >= v->ring && payload + f.length <= v->ring + v->size);
        memcpy(copy, payload, f.length);
        cp_ring_advance(c, &f);
        check(cp_peek(&c->head) - begin <= v->size);
    }
    check(cp_peek(&c->head) - begin <= v->size);
}

static void produce_anything(struct victim *v, cp_producer *p, uint64_t *random)
{
    uint64_t begin = p->tail;
    for (int i = 0; i < 20; i++) {
        uint64_t length = random_below(random, cp_ring_longest(v->size) + 1);
        cp_frame *f;
        int got = cp_ring_reserve(p, length, &f);
        if (got != CP_FRAME)
            break;
        check((uint8_t *)f >= v->ring && (uint8_t *)(f + 1) + length <= v->ring + v->size);
        check(p->tail - p->head_seen <= v->size);
        memset(f + 1, i, length);
        cp_ring_publish(p);
        if (random_below(random, 3) == 0)
            cp_publish(&v->shared->head, some_index(v, begin, random));
    }
}

static void start_afresh(struct victim *v, cp_consumer *c, cp_producer *p, uint64_t position)
{
    cp_consumer_init(c, v->shared, v->ring, v->size);
    cp_poke(&c->head, position);
    c->tail_seen = position;
    cp_ring_release(c);
    cp_producer_init(p, v->shared, v->ring, v->size);
    p->tail = p->head_seen = position;
}

/* A producer that goes on for ever without waiting for room does not keep the
 * consumer for ever. */
static void endless(struct victim *v, uint16_t kind)
{
    cp_consumer c;
    cp_producer p;
    cp_frame f;
    uint64_t position, passed;
    const uint8_t *payload;
    start_afresh(v, &c, &p, 0);
    for (uint64_t i = 0; i < v->size; i += CP_LINE) {
        cp_frame *at = cp_ring_at(v->ring, v->size, i);
        at->size = CP_LINE;
        at->kind = kind;
        at->length = 0;
    }
    for (passed = 0; passed < 2 * v->size / CP_LINE; passed++) {
        cp_publish(&v->shared->tail, cp_peek(&c.head) + CP_LINE);
        int got = cp_ring_next(&c, &f, &position, &payload);
        if (got == CP_GARBAGE)
            break;
        if (got == CP_FRAME)
            cp_ring_advance(&c, &f);
    }
    check(passed == v->size / CP_LINE);
}

static void garbage(uint64_t rounds)
{
    uint64_t random = mixed(seed + 40);
    for (uint64_t size = CP_PAGE; size <= 4 * CP_PAGE; size *= 4) {
        struct victim v = victim_make(size);
        cp_consumer c;
        cp_producer p;
        endless(&v, CP_PAD);
        endless(&v, CP_HELLO);
        for (uint64_t i = 0; i < rounds / 200; i++) {
            uint64_t position = random_next(&random) / CP_LINE * CP_LINE;
            start_afresh(&v, &c, &p, position);
            scribble(&v, position, &random);
            consume_anything(&v, &c);
            start_afresh(&v, &c, &p, position);
            produce_anything(&v, &p, &random);
            progress(0);
        }
        cp_bump(&area->rounds, rounds / 200);
    }
}

static void vandal(void *context)
{
    struct victim *v = context;
    uint64_t random = mixed(seed + 41);
    while (!cp_observe(v->over)) {
        uint64_t r = random_next(&random), near = cp_observe(&v->shared->head);
        if (r % 16 == 0)
            *(volatile uint64_t *)(v->ring + (r >> 8) % (v->size / 8) * 8) = random_next(&random);
        else if (r % 4)
            scribble_frame(v, r >> 8 & ~63u, &random);
        else if (r % 8)
            cp_publish(&v->shared->tail, some_index(v, near, &random));
        else
            cp_publish(&v->shared->head, some_index(v, near, &random));
    }
}

/* The same at the same time: every field may change between two looks. */
static void vandalism(uint64_t rounds)
{
    uint64_t random = mixed(seed + 42), frames = 0;
    struct victim v = victim_make(CP_PAGE);
    struct peer peer;
    cp_consumer c;
    cp_producer p;
    peer_start(&peer, vandal, &v);
    for (uint64_t i = 0; i < rounds / 20; i++) {
        start_afresh(&v, &c, &p, random_next(&random) / CP_LINE * CP_LINE);
        cp_publish(&v.shared->tail, some_index(&v, cp_peek(&c.head), &random));
        consume_anything(&v, &c);
        frames += cp_peek(&c.head) != c.released;
        start_afresh(&v, &c, &p, cp_peek(&c.head));
        produce_anything(&v, &p, &random);
        progress(0);
    }
    cp_publish(v.over, 1);
    peer_join(&peer);
    note("%llu times frames were found", (unsigned long long)frames);
    cp_bump(&area->rounds, rounds / 20);
}

#endif
