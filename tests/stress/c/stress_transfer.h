/* Frames of all sizes through rings of all sizes. */
#ifndef STRESS_TRANSFER_H
#define STRESS_TRANSFER_H

#include "stress.h"

struct transfer {
    struct pair pair;
    uint64_t frames;
    cp_consumer consumer;   /* beside the consumer an onlooker looks at it */
    cp_word over;
};

static void transfer_produce(void *context)
{
    struct transfer *t = context;
    cp_producer p;
    uint64_t random = mixed(seed + 1);
    cp_producer_init(&p, &t->pair.header->submission, t->pair.submission, t->pair.ring_size);
    for (uint64_t n = 0; n < t->frames; n++) {
        uint64_t length = length_of(n, t->pair.ring_size);
        cp_frame *f;
        int got;
        while ((got = cp_ring_reserve(&p, length, &f)) == CP_EMPTY) {
            cp_ring_publish(&p);
            sched_yield();
        }
        check(got == CP_FRAME);
        f->kind = CP_RESULT;
        f->flags = (uint16_t)n;
        f->fid = (uint32_t)mixed(n);
        cp_poke(&f->claim, n);
        cp_poke(&f->start, ~n);
        fill((uint8_t *)(f + 1), length, n);
        if (random_below(&random, 3) || n == t->frames - 1)
            cp_ring_publish(&p);
        progress(0);
    }
}

static void transfer_consume(struct transfer *t)
{
    uint64_t random = mixed(seed + 2), number = 0;
    while (number < t->frames) {
        cp_frame f;
        uint64_t position;
        const uint8_t *payload;
        int got = cp_ring_next(&t->consumer, &f, &position, &payload);
        if (got == CP_EMPTY) {
            cp_ring_release(&t->consumer);
            sched_yield();
            continue;
        }
        check(got == CP_FRAME);
        check(position % CP_LINE == 0 && f.size % CP_LINE == 0);
        check(f.length == length_of(number, t->pair.ring_size) && f.size == cp_frame_bytes(f.length));
        check(f.kind == CP_RESULT && f.flags == (uint16_t)number && f.fid == (uint32_t)mixed(number));
        check(cp_peek(&f.claim) == number && cp_peek(&f.start) == ~number);
        check(payload >= t->pair.submission && payload + f.length <= t->pair.submission + t->pair.ring_size);
        check(is_filled(payload, f.length, number));
        cp_ring_advance(&t->consumer, &f);
        if (random_below(&random, 4) == 0)
            cp_ring_release(&t->consumer);
        number++;
        progress(1);
    }
    cp_ring_release(&t->consumer);
}

/* As the parent's leader, which looks while another thread collects. */
static void *transfer_look(void *context)
{
    struct transfer *t = context;
    uint64_t seen = 0;
    while (!cp_observe(&t->over)) {
        seen += cp_consumer_pending(&t->consumer);
        sched_yield();
    }
    return seen ? t : NULL;
}

static void transfer(uint64_t rounds)
{
    static const uint64_t sizes[] = {256, 512, 1024, 4096, 65536};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct transfer t = {.pair = pair_make(sizes[i]), .frames = rounds / 100 + 1};
        struct peer producer;
        pthread_t onlooker;
        cp_consumer_init(&t.consumer, &t.pair.header->submission, t.pair.submission, t.pair.ring_size);
        peer_start(&producer, transfer_produce, &t);
        check(pthread_create(&onlooker, NULL, transfer_look, &t) == 0);
        transfer_consume(&t);
        cp_publish(&t.over, 1);
        check(pthread_join(onlooker, NULL) == 0);
        peer_join(&producer);
        pair_free(&t.pair);
        cp_bump(&area->rounds, t.frames);
    }
}

/* Every length at every offset of an empty ring: there has to be room. Positions
 * also pass 2^64. */
static void sweep(uint64_t rounds)
{
    (void)rounds;
    for (uint64_t size = 256; size <= 4096; size *= 2) {
        struct pair pair = pair_make(size);
        cp_indices *shared = &pair.header->submission;
        for (uint64_t start = -(uint64_t)size; start != size; start += CP_LINE) {
            for (uint64_t length = 0; length <= cp_ring_longest(size); length++) {
                cp_producer p = {shared, pair.submission, size, start, start};
                cp_consumer c;
                cp_frame *f = NULL, copy;
                uint64_t position;
                const uint8_t *payload;
                cp_consumer_init(&c, shared, pair.submission, size);
                cp_poke(&c.head, start);
                cp_ring_release(&c);
                c.tail_seen = start;
                cp_ring_publish(&p);
                check(cp_ring_reserve(&p, length, &f) == CP_FRAME);
                check((uint8_t *)f >= pair.submission && (uint8_t *)f + f->size <= pair.submission + size);
                f->kind = CP_TASK;
                cp_poke(&f->claim, cp_claim(length, CP_READY));
                memset(f + 1, (int)length, length);
                check(!cp_consumer_pending(&c));
                cp_ring_publish(&p);
                check(cp_consumer_pending(&c));
                check(cp_ring_next(&c, &copy, &position, &payload) == CP_FRAME);
                check(payload == (uint8_t *)(f + 1) && copy.length == length);
                check(position == p.tail - copy.size && cp_ring_at(c.base, size, position) == f);
                cp_ring_advance(&c, &copy);
                check(cp_ring_next(&c, &copy, &position, &payload) == CP_EMPTY);
                cp_ring_release(&c);
                check(cp_producer_look(&p) && p.head_seen == p.tail);
                cp_bump(&area->rounds, 1);
            }
            progress(0);
        }
        pair_free(&pair);
    }
}

#endif
