/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Atomic points: put before every source of the runtime that the simulator runs, so that another
 * thread may run before each atomic operation. What shared words two threads see in which order is
 * then a matter of the seed, down to single loads and stores.
 *
 * Only for sequentially consistent interleavings: what a weaker order allows beside them is for
 * ThreadSanitizer and for the real machine to find.
 */

#include <stdatomic.h>

extern void (*wr_lock_point_fn)(void);

static inline void sim_atomic_point(void)
{
    if (wr_lock_point_fn)
        wr_lock_point_fn();
}

#undef atomic_load
#undef atomic_load_explicit
#undef atomic_store
#undef atomic_store_explicit
#undef atomic_exchange
#undef atomic_exchange_explicit
#undef atomic_fetch_add
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub
#undef atomic_fetch_sub_explicit
#undef atomic_fetch_and_explicit
#undef atomic_fetch_or_explicit
#undef atomic_compare_exchange_strong
#undef atomic_compare_exchange_strong_explicit
#undef atomic_compare_exchange_weak
#undef atomic_compare_exchange_weak_explicit

#ifdef __clang__
#define SIM_LOAD(p, order)           __c11_atomic_load(p, order)
#define SIM_STORE(p, v, order)       __c11_atomic_store(p, v, order)
#define SIM_EXCHANGE(p, v, order)    __c11_atomic_exchange(p, v, order)
#define SIM_ADD(p, v, order)         __c11_atomic_fetch_add(p, v, order)
#define SIM_SUB(p, v, order)         __c11_atomic_fetch_sub(p, v, order)
#define SIM_AND(p, v, order)         __c11_atomic_fetch_and(p, v, order)
#define SIM_OR(p, v, order)          __c11_atomic_fetch_or(p, v, order)
#define SIM_SWAP(p, e, v, yes, not ) __c11_atomic_compare_exchange_strong(p, e, v, yes, not )
#else
#define SIM_LOAD(p, order)           __atomic_load_n(p, order)
#define SIM_STORE(p, v, order)       __atomic_store_n(p, v, order)
#define SIM_EXCHANGE(p, v, order)    __atomic_exchange_n(p, v, order)
#define SIM_ADD(p, v, order)         __atomic_fetch_add(p, v, order)
#define SIM_SUB(p, v, order)         __atomic_fetch_sub(p, v, order)
#define SIM_AND(p, v, order)         __atomic_fetch_and(p, v, order)
#define SIM_OR(p, v, order)          __atomic_fetch_or(p, v, order)
#define SIM_SWAP(p, e, v, yes, not ) __atomic_compare_exchange_n(p, e, v, 0, yes, not )
#endif

#define SIM_SEQ memory_order_seq_cst

#define atomic_load(p)                         (sim_atomic_point(), SIM_LOAD(p, SIM_SEQ))
#define atomic_load_explicit(p, order)         (sim_atomic_point(), SIM_LOAD(p, order))
#define atomic_store(p, v)                     (sim_atomic_point(), SIM_STORE(p, v, SIM_SEQ))
#define atomic_store_explicit(p, v, order)     (sim_atomic_point(), SIM_STORE(p, v, order))
#define atomic_exchange(p, v)                  (sim_atomic_point(), SIM_EXCHANGE(p, v, SIM_SEQ))
#define atomic_exchange_explicit(p, v, order)  (sim_atomic_point(), SIM_EXCHANGE(p, v, order))
#define atomic_fetch_add(p, v)                 (sim_atomic_point(), SIM_ADD(p, v, SIM_SEQ))
#define atomic_fetch_add_explicit(p, v, order) (sim_atomic_point(), SIM_ADD(p, v, order))
#define atomic_fetch_sub(p, v)                 (sim_atomic_point(), SIM_SUB(p, v, SIM_SEQ))
#define atomic_fetch_sub_explicit(p, v, order) (sim_atomic_point(), SIM_SUB(p, v, order))
#define atomic_fetch_and_explicit(p, v, order) (sim_atomic_point(), SIM_AND(p, v, order))
#define atomic_fetch_or_explicit(p, v, order)  (sim_atomic_point(), SIM_OR(p, v, order))
#define atomic_compare_exchange_strong(p, e, v) \
    (sim_atomic_point(), SIM_SWAP(p, e, v, SIM_SEQ, SIM_SEQ))
#define atomic_compare_exchange_weak(p, e, v) \
    (sim_atomic_point(), SIM_SWAP(p, e, v, SIM_SEQ, SIM_SEQ))
#define atomic_compare_exchange_strong_explicit(p, e, v, yes, not ) \
    (sim_atomic_point(), SIM_SWAP(p, e, v, yes, not ))
#define atomic_compare_exchange_weak_explicit(p, e, v, yes, not ) \
    (sim_atomic_point(), SIM_SWAP(p, e, v, yes, not ))
