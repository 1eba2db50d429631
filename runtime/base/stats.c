/* SPDX-License-Identifier: MIT */
#include "runtime/base/stats.h"

#include <stdatomic.h>

static _Atomic(uint32_t) threads_seen;
static _Thread_local uint32_t thread_index; /* 0: not assigned yet */

uint32_t wr_stats_thread_index(void)
{
    if (!thread_index)
        thread_index = 1 + atomic_fetch_add_explicit(&threads_seen, 1, memory_order_relaxed);
    return thread_index - 1;
}

static _Thread_local struct wr_waited waited;

struct wr_waited wr_stats_waited(void)
{
    return waited;
}

static struct wr_stats_shard *own_shard(struct wr_stats *stats)
{
    return &stats->shard[wr_stats_thread_index() % WR_STATS_SHARDS];
}

void wr_stats_add(struct wr_stats *stats, enum wr_counter counter, uint64_t amount)
{
    atomic_fetch_add_explicit(&own_shard(stats)->counter[counter], amount, memory_order_relaxed);
}

static uint32_t bucket_of(uint64_t ns)
{
    uint32_t bits = ns < 256 ? 0 : 64 - 8 - (uint32_t)__builtin_clzll(ns);

    return bits < WEIR_HISTOGRAM_BUCKETS ? bits : WEIR_HISTOGRAM_BUCKETS - 1;
}

void wr_stats_time(struct wr_stats *stats, enum wr_time time, uint64_t ns)
{
    struct wr_times *times = &own_shard(stats)->time[time];

    if (time != WR_TIME_fault && time != WR_TIME_write) {
        waited.count++;
        waited.ns += ns;
    }
    atomic_fetch_add_explicit(&times->sum_ns, ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&times->bucket[bucket_of(ns)], 1, memory_order_relaxed);
}

uint64_t wr_stats_sum(const struct wr_stats *stats, enum wr_counter counter)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < WR_STATS_SHARDS; i++)
        sum += atomic_load_explicit(&stats->shard[i].counter[counter], memory_order_relaxed);
    return sum;
}

static void collect_time(const struct wr_stats *stats, enum wr_time time,
                         struct weir_histogram *out)
{
    *out = (struct weir_histogram){0};
    for (uint32_t i = 0; i < WR_STATS_SHARDS; i++) {
        const struct wr_times *times = &stats->shard[i].time[time];

        out->sum_ns += atomic_load_explicit(&times->sum_ns, memory_order_relaxed);
        for (uint32_t b = 0; b < WEIR_HISTOGRAM_BUCKETS; b++) {
            uint64_t n = atomic_load_explicit(&times->bucket[b], memory_order_relaxed);

            out->bucket[b] += n;
            out->count += n;
        }
    }
}

void wr_stats_collect(const struct wr_stats *stats, struct weir_stats *out)
{
#define STATS_COLLECT(name, letter, text) out->name = wr_stats_sum(stats, WR_COUNT_##name);
    WEIR_COUNTER_MAP(STATS_COLLECT)
#undef STATS_COLLECT
#define STATS_COLLECT(name, text) collect_time(stats, WR_TIME_##name, &out->time_##name);
    WEIR_TIME_MAP(STATS_COLLECT)
#undef STATS_COLLECT
}

uint64_t weir_histogram_quantile(const struct weir_histogram *histogram, double share)
{
    double wanted = share * (double)histogram->count;
    uint64_t seen = 0;

    for (uint32_t b = 0; b < WEIR_HISTOGRAM_BUCKETS; b++) {
        seen += histogram->bucket[b];
        if (seen && (double)seen >= wanted)
            return (uint64_t)256 << b;
    }
    return 0;
}
