/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Statistics: counters that many threads add to and hardly anybody reads.
 *
 *   shard   one thread's share of all counters; threads beyond WR_STATS_SHARDS share
 *   time    a histogram of durations in powers of two, see struct weir_histogram
 *
 * Always: a counter is the sum of its shards and only grows. The lists of counters and times are
 * in weir.h, once; a counter that is not there cannot be counted.
 */

#include <stdatomic.h>
#include <stdint.h>

#include <weir/weir.h>

enum wr_counter {
#define STATS_ENUM(name, letter, text) WR_COUNT_##name,
    WEIR_COUNTER_MAP(STATS_ENUM)
#undef STATS_ENUM
        WR_COUNTER_COUNT
};

enum wr_time {
#define STATS_ENUM(name, text) WR_TIME_##name,
    WEIR_TIME_MAP(STATS_ENUM)
#undef STATS_ENUM
        WR_TIME_COUNT
};

#define WR_STATS_SHARDS 32u

struct wr_times {
    _Atomic(uint64_t) sum_ns;
    _Atomic(uint64_t) bucket[WEIR_HISTOGRAM_BUCKETS];
};

struct wr_stats_shard {
    _Alignas(64) _Atomic(uint64_t) counter[WR_COUNTER_COUNT];
    struct wr_times time[WR_TIME_COUNT];
};

struct wr_stats {
    struct wr_stats_shard shard[WR_STATS_SHARDS];
    _Atomic(int64_t) cached_dirty; /* pages that are CACHED_DIRTY or CACHED_WRITING now */
    _Atomic(int64_t) ahead;        /* pages of the class AHEAD, see tally.h             */
    _Atomic(int64_t) tables;       /* page tables that the kernel keeps for regions     */
};

/* Any thread, any signal; relaxed: a counter orders nothing. */
void wr_stats_add(struct wr_stats *stats, enum wr_counter counter, uint64_t amount);
void wr_stats_time(struct wr_stats *stats, enum wr_time time, uint64_t ns);

static inline void wr_stats_count(struct wr_stats *stats, enum wr_counter counter)
{
    wr_stats_add(stats, counter, 1);
}

/* What the calling thread has waited in its life, for all reasons: each WR_TIME that is a wait and
 * not the whole fault or a write. Signal. */
struct wr_waited {
    uint64_t count, ns;
};
struct wr_waited wr_stats_waited(void);

uint64_t wr_stats_sum(const struct wr_stats *stats, enum wr_counter counter);

/* Fill the counters and histograms of *out; the gauges are left alone. */
void wr_stats_collect(const struct wr_stats *stats, struct weir_stats *out);

/* A small number that differs between the threads running now, as far as there are enough. */
uint32_t wr_stats_thread_index(void);
