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
    uint64_t reattached;    /* how often it was kept and mapped again; 0: it began as zeros */
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

/* How many bytes there are from this address to the end of the region that holds it; 0: none does,
 * or this is a fork child. Any thread, any signal handler. */
uint64_t weir_region_rest(void *address);

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

/*
 * Move the region that begins at address to new addresses, which are written to *new_address_p, and
 * give it a reserve of so many bytes, if that is more than it has: what realloc() needs when a
 * region has to grow beyond its reserve. What it holds, its name, hints and statistics stay, and so
 * does what is resident. Costs time for the pages that are mapped, a fraction of a microsecond
 * each; what is at a back end is not read. Other regions run on, and so does what is being read or
 * written. While it moves, nobody may use, pin or unpin the region: a thread that does anyway
 * waits, and then meets SIGSEGV, because the old addresses are unmapped when the call returns. Any
 * thread; not in a signal handler. On failure the region is where it was, unharmed. WEIR_EINVAL:
 * new_address_p is NULL. WEIR_ENOENT: no region begins there. WEIR_ENOSUPPORT: it is a view; map a
 * new view, then unmap this one. WEIR_EBUSY: pages are pinned, by weir_pin() or by a device, or the
 * region is being resized or moved already. WEIR_ENOMEM: out of addresses; or the page numbers that
 * follow the region's are another region's, so that the reserve cannot grow: map a new one and
 * copy; or the kernel has no memory. WEIR_EFULL, WEIR_EIO, WEIR_ESTOPPED: pages have to be copied
 * on this kernel, and no frame came free. (mremap(2) for pages that are mostly away.)
 */
int weir_move(void *address, uint64_t reserve_bytes, void **new_address_p);

/*
 * Unmap the region that begins at address, but keep what it holds, by its name, in case it is
 * wanted again. Its addresses are gone, as after weir_unmap(). What was resident, cached or at a
 * back end stays there, in the budget, and is nobody's: its pages leave memory before others do. It
 * is discarded, whole and the oldest first, when its room is needed: when back ends are nearly full
 * (15 of 16 slots) or nothing else can be freed, when weir_map(), weir_move() or
 * weir_object_create() find no page numbers, and when another region of its name is kept.
 * weir_close() discards all.
 *
 * weir_map() with options.reattach = 1 and the same name and size has it back, at an address of the
 * library's choice, with its statistics and its reserve, and costs no time for its pages; if
 * nothing is kept by that name, it maps a region of zeros. `reattached` in weir_region_stats tells
 * which. WEIR_EINVAL of weir_map() then: no name of 1 to 31 characters; or what is kept has another
 * size, or less reserve, and stays kept.
 *
 * Costs time for the pages that are mapped, as weir_move() does, in bounded steps; meanwhile nobody
 * may use, pin or unpin the region. Any thread; not in a signal handler. On failure the region is
 * as it was: unmap it. WEIR_EINVAL: it has no name, or one of more than 31 characters. WEIR_ENOENT:
 * no region begins there. WEIR_ENOSUPPORT: it is a view; an object lasts as long as its handle.
 * WEIR_EBUSY, WEIR_ENOMEM, WEIR_EFULL, WEIR_EIO, WEIR_ESTOPPED: as weir_move(). ("Ludo", seed C2:
 * pages of a process that has died are potentially re-usable.)
 */
int weir_unmap_keep(void *address);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
