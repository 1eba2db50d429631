/* SPDX-License-Identifier: MIT */
#pragma once

/* What weir_stats() counts (weir.h): a field of struct weir_stats for every line. A program that
 * prints them all applies a macro of its own to these lists. */

#include <stddef.h>
#include <stdint.h>

/* Counters: name, letter in the report (or ' '), meaning. */
#define WEIR_COUNTER_MAP(X)                                                                  \
    X(cache_added, 'A', "pages added to the swap cache")                                     \
    X(cache_added_ahead, 'B', "of those, by readahead")                                      \
    X(cache_added_reclaim, 'C', "of those, unmapped by kswapd")                              \
    X(cache_deleted, 'D', "pages deleted from the swap cache")                               \
    X(cache_found, 'E', "swap faults that found their page in the cache")                    \
    X(swap_faults, 'F', "faults on pages that had been swapped or cached")                   \
    X(cache_found_marked, 'G', "of the found, those marked for swapout or being written")    \
    X(reclaim_marked, 'I', "pages marked for swapout by kswapd")                             \
    X(reclaim_overload, 'J', "times kswapd had to choose victims itself: kpaged was behind") \
    X(frame_waits, 'K', "times an allocation waited for kswapd")                             \
    X(reclaim_wakeups, 'L', "times kswapd was woken")                                        \
    X(aging_green, 'M', "passes of kpaged with free memory above high")                      \
    X(aging_yellow, 'N', "passes of kpaged with free memory between low and high")           \
    X(aging_orange, 'O', "passes of kpaged with free memory between min and low")            \
    X(aging_red, 'P', "passes of kpaged below min or with a waiting allocation")             \
    X(reclaim_free_tries, 'Q', "times kswapd tried to free without writing")                 \
    X(reclaim_write_tries, 'R', "times kswapd tried to write pages out")                     \
    X(faults, ' ', "faults of all kinds")                                                    \
    X(faults_first_touch, ' ', "faults on pages that were never written or were forgotten")  \
    X(faults_write, ' ', "first writes to pages that were mapped read-only")                 \
    X(faults_stale, ' ', "faults that somebody else had resolved already")                   \
    X(reads_demand, ' ', "pages read because a thread waited for them")                      \
    X(reads_joined, ' ', "faults that waited for a read begun by another")                   \
    X(reads_ahead, ' ', "pages read ahead")                                                  \
    X(reads_ahead_hit, ' ', "pages read ahead and then used")                                \
    X(reads_ahead_wasted, ' ', "pages read ahead and dropped unused")                        \
    X(reads_ahead_refused, ' ', "pages not read ahead because memory was low")               \
    X(pages_written, ' ', "pages written to back ends")                                      \
    X(writes, ' ', "write requests to back ends")                                            \
    X(writes_full, ' ', "of those, whole aligned clusters")                                  \
    X(pages_elided_zero, ' ', "pages of zeros forgotten instead of written")                 \
    X(pages_elided_free, ' ', "freed pages forgotten instead of written")                    \
    X(pages_dropped_clean, ' ', "clean pages dropped without any write")                     \
    X(victims_listed, ' ', "victims of kswapd from the lists of kpaged")                     \
    X(victims_chosen, ' ', "victims that kswapd chose itself: kpaged was behind")            \
    X(victims_cold, ' ', "victims that WEIR_COLD had named")                                 \
    X(pages_moved_busy, ' ', "pages not evicted because a device holds them")                \
    X(pages_rescued_writing, ' ', "faults served while their page was being written")        \
    X(pages_drained, ' ', "pages taken off a draining back end")                             \
    X(pages_migrated, ' ', "pages taken off a back end by weir_backend_move()")              \
    X(pages_cleaned, ' ', "live pages taken out of mostly dead clusters")                    \
    X(clusters_cleaned, ' ', "clusters that became free by that")                            \
    X(clusters_discarded, ' ', "free clusters that were given back to their back end")       \
    X(slots_kept, ' ', "pages mapped again that kept their slot")                            \
    X(slots_doomed, ' ', "slots freed as their page was written, or slot_keep_percent said") \
    X(read_errors, ' ', "reads that failed")                                                 \
    X(write_errors, ' ', "writes that failed")                                               \
    X(checksum_errors, ' ', "pages that came back damaged")                                  \
    X(tables_returned, ' ', "page tables without a page that were given back to the kernel") \
    X(foreign_discards, ' ', "pages that the program dropped by its own madvise")            \
    X(frame_failures, ' ', "allocations that failed: out of swap or I/O error")              \
    X(views_mapped, ' ', "faults that mapped a resident page in one more view")              \
    X(views_unmapped, ' ', "views that pages of objects were taken out of, a page each")     \
    X(regions_kept, ' ', "regions that weir_unmap_keep() has kept")                          \
    X(regions_reattached, ' ', "of those, mapped again with what they held")                 \
    X(regions_forgotten, ' ', "of those, discarded: for their room, or for one of their name")

/* Gauges: state of this moment. */
#define WEIR_GAUGE_MAP(X)                                                              \
    X(lru_pages, 'S', "pages that kpaged has chosen to leave next")                    \
    X(dirty_pages, 'T', "unmapped pages not yet written: the class PENDING")           \
    X(cached_pages, ' ', "pages unmapped and still in memory: the swap cache")         \
    X(budget_bytes, ' ', "the budget")                                                 \
    X(free_bytes, ' ', "budget not in use")                                            \
    X(resident_bytes, ' ', "mapped pages")                                             \
    X(staged_bytes, ' ', "frames of pages on their way out")                           \
    X(slab_bytes, ' ', "fixed part: second chances, readahead, reads in flight")       \
    X(mapped_bytes, ' ', "sum of all regions")                                         \
    X(slots_used, ' ', "slots that hold a page")                                       \
    X(slots_total, ' ', "slots of all back ends")                                      \
    X(page_table_bytes, ' ', "page tables that the kernel keeps for regions, at most") \
    X(metadata_bytes, ' ', "memory for descriptors and tables, beside the budget")     \
    X(unsubmitted_most_bytes, ' ', "the most that was ever staged and not submitted")  \
    X(ahead_pages, ' ', "in memory, read ahead and not known to be used: class AHEAD") \
    X(private_pages, ' ', "others in memory, of regions: the class PRIVATE")           \
    X(shared_pages, ' ', "others in memory, of objects: the class SHARED")             \
    X(reusable_pages, ' ', "others in memory, of kept regions: the class REUSABLE")    \
    X(kept_bytes, ' ', "sum of all kept regions")

/* Where a thread's time went, as histograms. */
#define WEIR_TIME_MAP(X)                                                 \
    X(fault, "whole fault, from signal handler entry to return")         \
    X(read, "waiting for one's own read")                                \
    X(join, "waiting for a read begun by another")                       \
    X(frame, "waiting for kswapd to free a frame")                       \
    X(reader, "waiting because fault_readers were all in use")           \
    X(page_lock, "waiting for another thread at the same page or queue") \
    X(write, "a write request, from submission to completion")           \
    X(memory, "waiting for the kernel, which had no memory for a page")  \
    X(going, "waiting for the end of a region that is being taken away")

/* bucket[0] counts below 256 ns, bucket[i] below 256 << i ns, the last everything above. */
#define WEIR_HISTOGRAM_BUCKETS 28
struct weir_histogram {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t bucket[WEIR_HISTOGRAM_BUCKETS];
};

struct weir_stats {
    size_t size; /* sizeof(struct weir_stats) of the caller: set before the call */
#define WEIR_STATS_FIELD(name, letter, text) uint64_t name;
    WEIR_COUNTER_MAP(WEIR_STATS_FIELD)
    WEIR_GAUGE_MAP(WEIR_STATS_FIELD)
#undef WEIR_STATS_FIELD
#define WEIR_STATS_FIELD(name, text) struct weir_histogram time_##name;
    WEIR_TIME_MAP(WEIR_STATS_FIELD)
#undef WEIR_STATS_FIELD
};
