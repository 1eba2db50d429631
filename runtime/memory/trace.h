/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Trace: what faults leave behind for ktrace (paging/ktrace.h) to write.
 *
 *   ring      records on their way: any thread puts, ktrace alone takes
 *   place     of one record in the ring, with the turn that says whose it is
 *   lost      records that found the ring full
 *
 * Always: who puts never waits and allocates nothing; it is a fault, or holds a page's lock. A
 * place whose record is not whole yet ends what can be taken, however many are whole behind it.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_trace.h>

#define WR_TRACE_ROOM 65536u /* places; a power of two; 1.5 MiB */

struct wr_trace_place {
    _Atomic(uint64_t) turn; /* n: free for the n-th record; n + 1: that record is there */
    struct weir_trace_record record;
};

struct wr_trace {
    /* Constant. */
    struct wr_trace_place *ring;
    uint64_t begun_ns;

    _Alignas(64) _Atomic(uint64_t) put;  /* records that were given a place */
    _Alignas(64) _Atomic(uint64_t) lost; /* relaxed                         */
    _Alignas(64) uint64_t taken;         /* ktrace's                        */
};

/* begun_ns: what times are counted from. WEIR_ENOMEM. */
int wr_trace_init(struct wr_trace *trace, uint64_t begun_ns);
void wr_trace_fini(struct wr_trace *trace);

/* Put a record; its thread is filled in. Any thread. Signal. */
void wr_trace_put(struct wr_trace *trace, uint64_t now_ns, uint8_t kind, uint16_t region,
                  uint32_t page);

/* The oldest record. False: there is none that is whole. By one thread only. */
bool wr_trace_take(struct wr_trace *trace, struct weir_trace_record *record_p);
