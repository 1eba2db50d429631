/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Slot: places at the back ends, and who lies there.
 *
 *   slot      back end in the upper 4 of 36 bits, place at it in the lower 32
 *   cluster   512 neighbouring slots, the unit of writing
 *   live      slots of a cluster that are in use, those of writes in flight included
 *   owner     the page of a slot: the reverse table (seed B5, D12), 4 bytes a slot
 *   take      a run of free slots for one write: a whole free cluster while there is one
 *   mark      what the thread that takes remembers of a cluster: to be discarded, being cleaned
 *
 * Always: the live count of a cluster is the number of its slots that are taken; a cluster of none
 * is free. Taking is for one thread at a time; freeing is for any thread, in a fault too: one store
 * and one subtraction. Nothing is taken in a cluster that is being cleaned. The owner is a hint to
 * whoever comes from the slot; the page's descriptor, under its lock, is the truth.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_backend.h>

#include "runtime/base/check.h"
#include "runtime/base/lock.h"

#define WR_BACKENDS_MAX 16u

static inline uint64_t wr_slot_make(uint32_t backend, uint64_t place)
{
    return (uint64_t)backend << 32 | place;
}

static inline uint32_t wr_slot_backend(uint64_t slot)
{
    return (uint32_t)(slot >> 32);
}

static inline uint32_t wr_slot_place(uint64_t slot)
{
    return (uint32_t)slot;
}

/* What the thread that takes remembers of a cluster. */
enum wr_cluster_mark {
    WR_CLUSTER_USED = 1,    /* something was written there since it was discarded last */
    WR_CLUSTER_RESTED = 2,  /* it was free when it was last looked at, and not taken since */
    WR_CLUSTER_TRIED = 4,   /* cleaning it lately did not empty it */
    WR_CLUSTER_CLEANED = 8, /* being read, dead slots too: nothing there may be written now */
};

struct wr_slots {
    /* Constant after wr_slots_init(). */
    uint64_t count;
    uint32_t cluster_count;

    _Atomic(uint16_t) *live;  /* of each cluster                            */
    _Atomic(uint32_t) *owner; /* of each slot: page number + 1, 0: nobody   */
    _Atomic(uint64_t) used;   /* sum of live                                */
    _Atomic(int32_t)
        free_clusters; /* whole ones; for a moment it may be off by those on the move */

    uint8_t *marks; /* of each cluster, enum wr_cluster_mark; kept by the thread that takes */

    /* No cluster below this one is free, as far as is known: a hint. The lowest free cluster is
     * taken first, so that a sparse file stays as small as what is in it. */
    _Atomic(uint32_t) lowest;
};

struct wr_slot_run {
    uint32_t place;
    uint32_t count;
};

/* Tables for so many slots; their memory is touched only where slots are used. */
int wr_slots_init(struct wr_slots *slots, uint64_t count);
void wr_slots_fini(struct wr_slots *slots);

/* Take a run, at most WEIR_CLUSTER_SLOTS. False: none is free. */
bool wr_slots_take(struct wr_slots *slots, struct wr_slot_run *run_p);
/* The last slots of a run were not needed. */
void wr_slots_return(struct wr_slots *slots, const struct wr_slot_run *run, uint32_t used);
/* Say whose a taken slot is, before anybody can read it there. */
void wr_slots_own(struct wr_slots *slots, uint32_t place, uint32_t page);
/* True: it was the last of its cluster. Signal. */
bool wr_slots_free(struct wr_slots *slots, uint32_t place);

/* Clusters of WEIR_CLUSTER_SLOTS slots, none of them in use. */
static inline uint32_t wr_slots_free_clusters(const struct wr_slots *slots)
{
    int32_t count = atomic_load_explicit(&slots->free_clusters, memory_order_relaxed);

    return count > 0 ? (uint32_t)count : 0;
}

/* A cluster is no longer being cleaned. True: it is free now. */
bool wr_slots_cleaned(struct wr_slots *slots, uint32_t cluster);

/* The page of a slot; false: it is free. */
bool wr_slots_owner(const struct wr_slots *slots, uint32_t place, uint32_t *page_p);
uint32_t wr_slots_live(const struct wr_slots *slots, uint32_t cluster);
/* The first place beyond a cluster; the last one may be a part. */
uint32_t wr_slots_end(const struct wr_slots *slots, uint32_t cluster);
static inline uint64_t wr_slots_used(const struct wr_slots *slots)
{
    return atomic_load_explicit(&slots->used, memory_order_relaxed);
}
