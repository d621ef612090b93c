/* The only place where a memory order is spelled.
 *
 * Two orders are enough between peers. Everything that takes part in a "store mine, then look
 * at yours" pair (ring indices against park epochs, see wait.h) is sequentially
 * consistent on both sides: with release/acquire each side may miss the other's
 * store, on x86 too, and a wake-up is lost. There are no stand-alone fences;
 * ThreadSanitizer does not model them. What only its writer reads is relaxed. What is
 * shown to onlookers (status.h), who are never waited for, is told and heard. */
#ifndef CP_ATOMICS_H
#define CP_ATOMICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef _Atomic uint64_t cp_word;

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "shared words must be lock-free");
_Static_assert(sizeof(cp_word) == 8, "shared words must be plain 64-bit words");

/* A store that the peer must see before anything we look at afterwards. */
static inline void cp_publish(cp_word *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_seq_cst);
}

/* A look at the peer's word, ordered behind our own last publish. */
static inline uint64_t cp_observe(const cp_word *word)
{
    return atomic_load_explicit((cp_word *)word, memory_order_seq_cst);
}

/* A word that only we write, or whose value alone matters. */
static inline uint64_t cp_peek(const cp_word *word)
{
    return atomic_load_explicit((cp_word *)word, memory_order_relaxed);
}

static inline void cp_poke(cp_word *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* A store that onlookers see after everything that we stored before. */
static inline void cp_tell(cp_word *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

/* A look at a word that was told, before any of our later ones. */
static inline uint64_t cp_hear(const cp_word *word)
{
    return atomic_load_explicit((cp_word *)word, memory_order_acquire);
}

/* A word that only we write (one writer at a time), read by others relaxed. */
static inline void cp_bump(cp_word *word, uint64_t by)
{
    cp_poke(word, cp_peek(word) + by);
}

/* The decision between two peers; true for the one who made it. */
static inline bool cp_decide(cp_word *word, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(
        word, &from, to, memory_order_seq_cst, memory_order_seq_cst);
}

#endif
