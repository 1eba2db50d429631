/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Weir, one region at a time: what it occupies and costs, and how it grows and shrinks. Included
 * by weir.h, which has the words.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct weir_runtime;

/* Where its pages are at this moment, in bytes. */
#define WEIR_REGION_GAUGE_MAP(X)                                                         \
    X(resident_bytes, "mapped, with a frame of the budget")                              \
    X(zero_bytes, "mapped to the system's page of zeros: loaded from, never stored to")  \
    X(cached_bytes, "unmapped and still in memory: the region's part of the swap cache") \
    X(out_bytes, "at a back end only")

/* What happened to it since it was mapped; they only grow. */
#define WEIR_REGION_COUNTER_MAP(X)                                       \
    X(faults, "faults of all kinds")                                     \
    X(swap_faults, "of those, on pages that had been swapped or cached") \
    X(cache_found, "of those, that found their page in memory")          \
    X(reads, "pages read because a thread waited for them")              \
    X(reads_ahead, "pages read ahead")                                   \
    X(pages_written, "pages written to back ends")                       \
    X(waits, "times a fault or a pin waited, for whatever reason")       \
    X(wait_ns, "how long all of them waited; the reasons are in weir_stats")

struct weir_region_stats {
    size_t size;    /* sizeof(struct weir_region_stats) of the caller: set before the call */
    void *address;  /* where it begins                                                     */
    uint64_t bytes; /* how long it is                                                      */
    uint64_t reserve_bytes; /* how long it may become */
    char name[32]; /* as it was given, shortened if need be                               */
#define WEIR_REGION_FIELD(name, text) uint64_t name;
    WEIR_REGION_GAUGE_MAP(WEIR_REGION_FIELD)
    WEIR_REGION_COUNTER_MAP(WEIR_REGION_FIELD)
#undef WEIR_REGION_FIELD
};

/*
 * Read the statistics of the region that holds this address. The gauges are summed while threads
 * go on, one load for each 2 MiB of the region. Any thread; not in a signal handler.
 * WEIR_EINVAL: stats->size is not set. WEIR_ENOENT: no region holds the address.
 */
int weir_region_stats(const void *address, struct weir_region_stats *stats);

/*
 * The same of the region at this position, 0 first; WEIR_ENOENT after the last. Positions move when
 * regions are unmapped meanwhile. (Accounting by virtual mapping, as "Ludo" asked for: seed C22.)
 */
int weir_region_get(struct weir_runtime *runtime, uint32_t position,
                    struct weir_region_stats *stats);

/*
 * Let the region that begins at address be so long from now on, rounded up to whole pages. It stays
 * where it is, and so does what it holds up to there. Growing adds zeros and is at once. Shrinking
 * frees what lies beyond, as weir_advise(WEIR_DISCARD) would; touches beyond the end meet SIGSEGV.
 * Waits for reads of those pages that are in flight. While it shrinks, nobody may use what is taken
 * away, not even to unpin it. Any thread; not in a signal handler.
 * WEIR_EINVAL: bytes is 0. WEIR_ENOENT: no region begins there. WEIR_ENOMEM: more than its
 * reserve_bytes, or the kernel refused (vm.max_map_count). WEIR_EBUSY: a page beyond the new end is
 * pinned, or the region is being resized already; nothing was done.
 */
int weir_resize(void *address, uint64_t bytes);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
