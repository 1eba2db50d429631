/* SPDX-License-Identifier: MIT */

/* Statistics: a counter is the sum of its shards, a time falls into its bucket. */

#include "runtime/base/stats.h"

#include <criterion/criterion.h>
#include <pthread.h>

#define THREADS (WR_STATS_SHARDS + 8)
#define ROUNDS  500

static struct wr_stats stats;

static void *count_often(void *argument)
{
    uint32_t *index = argument;

    *index = wr_stats_thread_index();
    for (int i = 0; i < ROUNDS; i++) {
        wr_stats_count(&stats, WR_COUNT_faults);
        wr_stats_add(&stats, WR_COUNT_pages_written, 3);
        wr_stats_time(&stats, WR_TIME_read, 1000);
    }
    return NULL;
}

Test(stats, a_counter_is_the_sum_of_its_shards)
{
    struct weir_stats all = {.size = sizeof(all)};
    pthread_t threads[THREADS];
    uint32_t index[THREADS], used = 0;

    for (uint32_t i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, count_often, &index[i]), 0);
    for (uint32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < THREADS; i++)
        for (uint32_t k = 0; k < i; k++)
            cr_expect_neq(index[i], index[k], "threads %u and %u", i, k);
    for (uint32_t i = 0; i < WR_STATS_SHARDS; i++)
        used += stats.shard[i].counter[WR_COUNT_faults] > 0;
    cr_expect_eq(used, WR_STATS_SHARDS, "all shards were used");
    cr_expect_eq(wr_stats_sum(&stats, WR_COUNT_faults), THREADS * ROUNDS);
    wr_stats_collect(&stats, &all);
    cr_expect_eq(all.faults, THREADS * ROUNDS);
    cr_expect_eq(all.pages_written, 3 * THREADS * ROUNDS);
    cr_expect_eq(all.swap_faults, 0);
    cr_expect_eq(all.time_read.count, THREADS * ROUNDS);
    cr_expect_eq(all.time_read.sum_ns, 1000 * THREADS * ROUNDS);
    cr_expect_eq(all.time_write.count, 0);
    cr_expect_eq(all.size, sizeof(all));
}

/* Each counter is collected under its own name. */
Test(stats, no_counter_is_taken_for_another)
{
    struct weir_stats all = {.size = sizeof(all)};
    uint64_t expected = 1;

    for (uint32_t i = 0; i < WR_COUNTER_COUNT; i++)
        wr_stats_add(&stats, (enum wr_counter)i, i + 1);
    for (uint32_t i = 0; i < WR_TIME_COUNT; i++)
        for (uint32_t k = 0; k <= i; k++)
            wr_stats_time(&stats, (enum wr_time)i, 1);
    wr_stats_collect(&stats, &all);
#define EXPECT(name, letter, text) cr_expect_eq(all.name, expected++, #name);
    WEIR_COUNTER_MAP(EXPECT)
#undef EXPECT
    expected = 1;
#define EXPECT(name, text) cr_expect_eq(all.time_##name.count, expected++, #name);
    WEIR_TIME_MAP(EXPECT)
#undef EXPECT
}

static uint32_t bucket_of(uint64_t ns)
{
    struct wr_stats one = {0};

    wr_stats_time(&one, WR_TIME_fault, ns);
    for (uint32_t bucket = 0; bucket < WEIR_HISTOGRAM_BUCKETS; bucket++)
        for (uint32_t i = 0; i < WR_STATS_SHARDS; i++)
            if (one.shard[i].time[WR_TIME_fault].bucket[bucket])
                return bucket;
    return UINT32_MAX;
}

Test(stats, buckets_double)
{
    cr_expect_eq(bucket_of(0), 0);
    cr_expect_eq(bucket_of(255), 0);
    for (uint32_t i = 0; i < WEIR_HISTOGRAM_BUCKETS - 2; i++) {
        cr_expect_eq(bucket_of((uint64_t)256 << i), i + 1);
        cr_expect_eq(bucket_of(((uint64_t)256 << (i + 1)) - 1), i + 1);
    }
    cr_expect_eq(bucket_of((uint64_t)256 << (WEIR_HISTOGRAM_BUCKETS - 2)),
                 WEIR_HISTOGRAM_BUCKETS - 1);
    cr_expect_eq(bucket_of(UINT64_MAX), WEIR_HISTOGRAM_BUCKETS - 1);
}

Test(stats, a_quantile_is_the_end_of_its_bucket)
{
    struct weir_histogram histogram = {.count = 100};

    histogram.bucket[0] = 50;
    histogram.bucket[3] = 49;
    histogram.bucket[10] = 1;
    cr_expect_eq(weir_histogram_quantile(&histogram, 0.5), 256);
    cr_expect_eq(weir_histogram_quantile(&histogram, 0.51), 256 << 3);
    cr_expect_eq(weir_histogram_quantile(&histogram, 0.99), 256 << 3);
    cr_expect_eq(weir_histogram_quantile(&histogram, 1), 256 << 10);
    cr_expect_eq(weir_histogram_quantile(&histogram, 0), 256, "the smallest there was");
    histogram = (struct weir_histogram){0};
    cr_expect_eq(weir_histogram_quantile(&histogram, 0.5), 0);
}
