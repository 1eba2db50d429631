/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Carry: take live pages off a back end, into the swap cache, as dirty ones that leave anew.
 *
 *   carrier   what a drain, a move and the cleaner are made of
 *   carry     one read on its way: up to a cluster of neighbouring slots, of which the live ones
 *             are read straight into staging frames, and the dead ones in between to nowhere; but
 *             of a sealed back end only neighbours
 *   claim     make a page READING; it belongs to the carry until that is settled
 *   arrive    the read is over; to settle is to check its sums and let its pages go
 *   target    the back end that the pages are to go to next
 *
 * Always: the reverse table leads from a slot to its page, and neither page tables nor page numbers
 * of the application are touched (seeds B1, B5). A page's slot is freed when its bytes have
 * arrived, though nobody touched it (B7). Nobody may take slots of a cluster while a carry reads
 * through its dead ones: the back end is draining, or the cluster is marked as being cleaned.
 */

#include "runtime/swap/swap.h"

#define WR_CARRIES        6u /* in flight, and arrived but not settled */
#define WR_CARRIES_FLYING 4u /* in flight                              */
/* A carry fills the rest of one extent and the beginning of another. */
#define WR_CARRY_EXTENTS  (2 * WR_CARRIES + 1)

struct wr_carry_extent {
    struct wr_extent *extent; /* NULL: none               */
    uint32_t flying;          /* carries that fill it     */
    uint32_t live;            /* pages of it that arrived */
    bool is_closed;           /* queued as soon as nothing flies any more */
};

struct wr_carry {
    struct weir_io io;
    struct wr_carrier *carrier;
    struct wr_swap_backend *from;
    struct wr_carry *next_arrived;
    struct wr_carry_extent *into[2]; /* the second: NULL, or begun by this one */
    uint32_t index;                  /* of the first frame in the first extent */
    uint32_t split;                  /* pages that go to the first extent      */
    uint32_t count;                  /* pages                                  */
    uint32_t iov_count;
    bool is_busy;
    uint32_t pages[WEIR_CLUSTER_SLOTS];
    uint32_t places[WEIR_CLUSTER_SLOTS];
    uint32_t sums[WEIR_CLUSTER_SLOTS];
    struct iovec iov[WEIR_CLUSTER_SLOTS];
};

struct wr_carrier {
    _Alignas(WEIR_PAGE_BYTES) uint8_t nowhere[WEIR_PAGE_BYTES];
    struct wr_swap_lane *lane;
    enum wr_counter counter; /* of pages that were carried  */
    uint32_t target;         /* back end + 1, or 0: any     */
    bool takes_mapped;    /* clean pages that are mapped, too: they become dirty; not in a move */
    bool settles_later;   /* when it is told to; else as they arrive                            */
    uint32_t flying;      /* carries                                   */
    uint32_t busy;        /* those that arrived and wait included      */
    uint64_t moved, lost; /* pages that left; that could not be read */
    struct wr_carry *arrived, **arrived_end; /* the oldest first */
    struct wr_carry_extent *filling;
    struct wr_carry_extent extents[WR_CARRY_EXTENTS];
    struct wr_carry carries[WR_CARRIES];
};

/* Allocated whole; free() ends it, when it is idle and was flushed. NULL: no memory. */
struct wr_carrier *wr_carrier_new(struct wr_swap_lane *lane, enum wr_counter counter,
                                  uint32_t target);

/*
 * Claim at most `frames` pages in [*place_p, end) of one cluster and begin to read them. *place_p
 * moves beyond what was looked at. How many frames were used: taken from the budget before by the
 * caller, to whom the others still belong. Never waits. Inside the gate.
 */
uint32_t wr_carry(struct wr_carrier *carrier, struct wr_swap_backend *from, uint32_t *place_p,
                  uint32_t end, uint32_t frames);

/* Can another be begun? */
bool wr_carrier_is_free(const struct wr_carrier *carrier);
/* Does nothing fly, and is everything settled? */
bool wr_carrier_is_idle(const struct wr_carrier *carrier);
/* Settle the carry that arrived first of those that wait. False: none does. Inside the gate. */
bool wr_carrier_settle(struct wr_carrier *carrier);
/* Let what has arrived be written: queue the extent that is not full. */
void wr_carrier_flush(struct wr_carrier *carrier);
