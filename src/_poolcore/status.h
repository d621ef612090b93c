/* What a pool shows of itself to whoever looks, in this process or another: written by
 * one side, read back by nobody who acts on it. Readers take a worker's part, and from
 * outside all of it, for hostile.
 *
 * Times of tasks are counted in log-linear histograms: four buckets an octave, so that
 * a quantile is at most 12.5 % off. */
#ifndef CP_STATUS_H
#define CP_STATUS_H

#include "layout.h"

/* ---- histograms ---- */

static inline unsigned cp_bucket(uint64_t ns)
{
    if (ns < 4)
        return (unsigned)ns;
    unsigned octave = 63u - (unsigned)__builtin_clzll(ns);
    unsigned bucket = (octave - 1) * 4 + (unsigned)(ns >> (octave - 2) & 3);
    return bucket < CP_BUCKETS ? bucket : CP_BUCKETS - 1;
}

static inline void cp_tally_ran(cp_tally *t, uint64_t ns)
{
    cp_bump(&t->run[cp_bucket(ns)], 1);
    cp_bump(&t->run_ns, ns);
}

static inline void cp_tally_waited(cp_tally *t, uint64_t ns)
{
    cp_bump(&t->wait[cp_bucket(ns)], 1);
    cp_bump(&t->wait_ns, ns);
}

/* Tasks that it says have ended. */
static inline uint64_t cp_tally_count(const cp_tally *t)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < CP_BUCKETS; i++)
        count += cp_peek(&t->run[i]);
    return count;
}

static inline void cp_tally_add(cp_tally *to, const cp_tally *from)
{
    const cp_word *source = &from->failed;
    cp_word *target = &to->failed;
    for (size_t i = 0; i < CP_TALLY_WORDS; i++)
        if (cp_peek(&source[i]))
            cp_bump(&target[i], cp_peek(&source[i]));
}

/* ---- the recorder ---- */

/* Where the task goes that begins now; it counts when cp_record_end has been called. */
static inline cp_record *cp_record_begin(cp_shown *shown, uint64_t tid, uint64_t start,
                                         uint64_t waited, uint32_t fid)
{
    cp_record *r = &shown->records[cp_peek(&shown->recorded) % CP_RECORDS];
    cp_poke(&r->tid, tid);
    cp_poke(&r->start, start);
    cp_poke(&r->fid_waited, (uint64_t)fid << 40 | (waited < CP_WAITED ? waited : CP_WAITED));
    return r;
}

static inline void cp_record_end(cp_shown *shown, cp_record *r, uint64_t ran, bool failed)
{
    cp_poke(&r->ran_failed, ran << 1 | failed);
    cp_tell(&shown->recorded, cp_peek(&shown->recorded) + 1);
}

/* ---- words that belong together ---- */

/* One writer at a time: an odd sequence says that it is at it. */
static inline void cp_sequence_open(cp_word *sequence)
{
    cp_publish(sequence, cp_peek(sequence) + 1);
}

static inline void cp_sequence_close(cp_word *sequence)
{
    cp_tell(sequence, cp_peek(sequence) + 1);
}

/* Copies words that were written between open and close; false: they were just being
 * written, so that the copy may mix two states. */
static inline bool cp_sequence_read(const cp_word *sequence, const cp_word *from, uint64_t *to, size_t words)
{
    uint64_t before = cp_hear(sequence);
    for (size_t i = 0; i < words; i++)
        to[i] = cp_hear(&from[i]);
    return !(before & 1) && cp_peek(sequence) == before;
}

#endif
