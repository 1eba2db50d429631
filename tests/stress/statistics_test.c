/* SPDX-License-Identifier: MIT */

/*
 * The statistics under load, on the real kernel: the identities of the twenty counters of the seed
 * (requirements 1.C), the regions' shares, and what a thread may wait for.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/stress/real.h"

#define BUDGET  (4 * MIB)
#define PAGES   ((size_t)4096) /* 16 MiB: four times the budget */
#define THREADS 4
#define TOUCHES 8200
#define SLOW    "chaos(mem:?size=256M)?seed=3&delay_us=200&jitter_us=400&reorder=1"

struct loader {
    volatile uint64_t *words;
    size_t pages;
    uint64_t random;
    pthread_t thread;
};

static void *load_main(void *context)
{
    struct loader *l = context;

    for (int i = 0; i < TOUCHES; i++) {
        uint64_t at = (l->random >> 20) % l->pages;

        l->random = l->random * 6364136223846793005u + 1442695040888963407u;
        if (i % 4096 == 0) /* a walk now and then, for readahead */
            for (size_t k = 0; k < 512; k++)
                (void)l->words[(at + k) % l->pages * 512];
        else if (l->random >> 63)
            l->words[at * 512] = l->random >> 62 & 1 ? l->random : 0;
        else
            (void)l->words[at * 512];
    }
    return NULL;
}

static void load_regions(void *const *memory, size_t regions)
{
    struct loader loaders[THREADS];

    for (size_t i = 0; i < THREADS; i++) {
        loaders[i] = (struct loader){
            .words = memory[i % regions], .pages = PAGES, .random = 77 * i + 1};
        cr_assert_eq(pthread_create(&loaders[i].thread, NULL, load_main, &loaders[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(loaders[i].thread, NULL);
}

/* Requirements, table of the twenty statistics. Letters as there. */
static void check_identities(const struct weir_stats *s)
{
    /* A, B, C, D */
    cr_expect_eq(s->cache_added, s->cache_added_ahead + s->cache_added_reclaim + s->pages_drained);
    cr_expect_leq(s->cache_deleted, s->cache_added);
    cr_expect_eq(s->cached_pages, s->cache_added - s->cache_deleted); /* S */
    cr_expect_leq(s->dirty_pages, s->cached_pages);                   /* T */
    /* E, F, G, H */
    cr_expect_leq(s->cache_found, s->swap_faults);
    cr_expect_eq(s->swap_faults, s->cache_found + s->reads_demand + s->reads_joined);
    cr_expect_leq(s->cache_found_marked, s->cache_found);
    cr_expect_leq(s->pages_rescued_writing, s->cache_found_marked);
    /* I: each page that was marked was written, forgotten, or found before it was written; one
     * that was found while it was being written is both. */
    cr_expect_geq(s->reclaim_marked + s->pages_drained,
                  s->pages_written + s->pages_elided_zero + s->pages_elided_free +
                      s->cache_found_marked - s->pages_rescued_writing);
    /* and each was somebody's choice (C16) */
    cr_expect_eq(s->reclaim_marked, s->victims_listed + s->victims_chosen + s->victims_cold);
    /* K, L: who waits wakes kswapd. M to P: whoever ages, it was done in one of the modes. */
    cr_expect(s->frame_waits == 0 || s->reclaim_wakeups > 0);
    cr_expect_eq(s->frame_waits, s->time_frame.count);
    cr_expect_gt(s->aging_green + s->aging_yellow + s->aging_orange + s->aging_red, 0);
    /* Q, R: clean first */
    cr_expect_geq(s->reclaim_free_tries, s->reclaim_write_tries);
    /* beside them */
    cr_expect_leq(s->writes_full, s->writes);
    cr_expect_eq(s->time_write.count, s->writes);
    cr_expect_eq(s->time_read.count, s->reads_demand);
    cr_expect_eq(s->time_join.count, s->reads_joined);
    cr_expect_leq(s->slots_used, s->slots_total);
    cr_expect_eq(s->time_fault.count, s->faults);
    cr_expect_leq(s->resident_bytes + s->staged_bytes + s->slab_bytes + s->free_bytes,
                  s->budget_bytes);
}

Test(statistics, the_twenty_keep_their_identities_under_load)
{
    struct weir_runtime *rt = real_open(BUDGET, SLOW);
    void *memory[1] = {real_map(rt, PAGES * PAGE)};
    struct weir_stats s;

    load_regions(memory, 1);
    s = real_at_rest(rt);
    check_identities(&s);
    cr_assert_gt(s.cache_found_marked, 0, "the load has found nothing that was being written");
    cr_assert_gt(s.pages_elided_zero, 0);
    weir_close(rt);
}

/* --- Per region ------------------------------------------------------------------------------ */

static struct weir_region_stats stats_of(const void *memory)
{
    struct weir_region_stats stats = {.size = sizeof(stats)};

    cr_assert_eq(weir_region_stats(memory, &stats), WEIR_OK);
    return stats;
}

Test(statistics, regions_add_up_to_the_whole)
{
    struct weir_runtime *rt = real_open(BUDGET, SLOW);
    void *memory[3] = {real_map(rt, PAGES * PAGE), real_map(rt, PAGES * PAGE),
                       real_map(rt, PAGES * PAGE)};
    struct weir_region_stats sum = {0}, one = {.size = sizeof(one)};
    struct weir_stats s;
    uint32_t regions = 0;

    load_regions(memory, 2); /* the third is only there */
    s = real_at_rest(rt);
    for (; weir_region_get(rt, regions, &one) == WEIR_OK; regions++) {
        cr_expect_eq(one.address, memory[regions]);
        cr_expect_eq(one.bytes, PAGES * PAGE);
        cr_expect_leq(one.cache_found, one.swap_faults);
        cr_expect_leq(one.swap_faults, one.faults);
#define ADD(field, text) sum.field += one.field;
        WEIR_REGION_GAUGE_MAP(ADD)
        WEIR_REGION_COUNTER_MAP(ADD)
#undef ADD
    }
    cr_expect_eq(regions, 3);
    cr_expect_eq(sum.faults, s.faults);
    cr_expect_eq(sum.swap_faults, s.swap_faults);
    cr_expect_eq(sum.cache_found, s.cache_found);
    cr_expect_eq(sum.reads, s.reads_demand);
    cr_expect_eq(sum.reads_ahead, s.reads_ahead);
    cr_expect_eq(sum.pages_written, s.pages_written);
    cr_expect_eq(sum.cached_bytes, s.cached_pages * PAGE);
    cr_expect_eq(sum.resident_bytes, s.resident_bytes);
    cr_expect_leq(sum.out_bytes, s.slots_used * PAGE);
    cr_expect_gt(sum.waits, 0);
    cr_expect_gt(sum.wait_ns, 0);
    cr_expect_eq(stats_of(memory[2]).faults, 0);
    cr_expect_eq(stats_of(memory[2]).out_bytes, 0);
    weir_close(rt);
}

Test(statistics, a_region_tells_where_its_pages_are)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    const struct weir_region_options named = {.size = sizeof(named), .name = "ledger"};
    struct weir_region_stats s = {.size = 1};
    volatile unsigned char *memory;
    void *address;

    cr_assert_eq(weir_map(rt, 512 * PAGE, &named, &address), WEIR_OK);
    memory = address;
    for (size_t i = 0; i < 100; i++)
        memory[i * PAGE] = 1;
    for (size_t i = 100; i < 160; i++)
        (void)memory[i * PAGE];
    s = stats_of(address);
    cr_expect_str_eq(s.name, "ledger");
    cr_expect_geq(s.resident_bytes, 100 * PAGE); /* a walk maps neighbours */
    cr_expect_geq(s.resident_bytes + s.zero_bytes, 160 * PAGE);
    cr_expect_eq(s.cached_bytes + s.out_bytes, 0);
    cr_assert_eq(weir_advise(address, 512 * PAGE, WEIR_DISCARD), WEIR_OK);
    s = stats_of((const char *)address + 300 * PAGE);
    cr_expect_eq(s.address, address);
    cr_expect_eq(s.resident_bytes + s.zero_bytes + s.cached_bytes + s.out_bytes, 0);
    cr_expect_eq(weir_region_stats(&rt, &s), WEIR_ENOENT);
    s.size = 0;
    cr_expect_eq(weir_region_stats(address, &s), WEIR_EINVAL);
    cr_expect_eq(weir_region_get(rt, 0, &s), WEIR_EINVAL);
    cr_expect_eq(weir_region_get(NULL, 0, &s), WEIR_EINVAL);
    cr_assert_eq(weir_unmap(address), WEIR_OK);
    s.size = sizeof(s);
    cr_expect_eq(weir_region_get(rt, 0, &s), WEIR_ENOENT);
    weir_close(rt);
}

/* --- What a thread may wait for -------------------------------------------------------------- */

/* Requirement A12: the runtime never holds a thread up as policy. These are all the reasons there
 * may be under load; `fault` and `write` are no waits. */
static bool is_permitted(const char *reason)
{
    static const char *const permitted[] = {"fault", "write",  "read",     "join",
                                            "frame", "reader", "page_lock"};

    for (size_t i = 0; i < sizeof(permitted) / sizeof(permitted[0]); i++)
        if (strcmp(permitted[i], reason) == 0)
            return true;
    return false;
}

Test(statistics, threads_wait_for_nothing_but_what_is_listed)
{
    struct weir_runtime *rt = real_open(BUDGET, SLOW);
    void *memory[2] = {real_map(rt, PAGES * PAGE), real_map(rt, PAGES * PAGE)};
    uint64_t waited = 0;
    struct weir_stats s;

    load_regions(memory, 2);
    s = real_at_rest(rt);
#define LOOK(reason, meaning)                                      \
    cr_expect(is_permitted(#reason) || s.time_##reason.count == 0, \
              "%llu times: " #reason ", " meaning, (unsigned long long)s.time_##reason.count);
    WEIR_TIME_MAP(LOOK)
#undef LOOK
    /* Every wait of these is part of a fault: nothing is counted twice. */
    waited = s.time_read.sum_ns + s.time_join.sum_ns + s.time_frame.sum_ns + s.time_reader.sum_ns;
    cr_expect_gt(s.time_read.count, 0);
    cr_expect_gt(s.time_frame.count, 0);
    cr_expect_leq(waited, s.time_fault.sum_ns);
    weir_close(rt);
}

/* --- The report ------------------------------------------------------------------------------ */

#define MANY 100

Test(statistics, the_report_has_a_line_for_each_region_and_each_reason)
{
    struct weir_runtime *rt = real_open(BUDGET, SLOW);
    const struct weir_region_options named = {.size = sizeof(named), .name = "orders"};
    static char report[32768];
    unsigned long long found, faults, percent, mean, saved;
    const char *line;
    void *memory;

    cr_assert_eq(weir_map(rt, PAGES * PAGE, &named, &memory), WEIR_OK);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    cr_assert_lt(weir_report(rt, report, sizeof(report)), sizeof(report));
    line = strstr(report, "found in memory: ");
    cr_assert_not_null(line);
    cr_assert_eq(sscanf(line,
                        "found in memory: %llu pages, instead of reads of %llu us: %llu ms saved",
                        &found, &mean, &saved),
                 3);
    cr_expect_eq(found, real_stats(rt).cache_found);
    cr_expect_eq(saved, found * mean / 1000);
    cr_expect_gt(mean, 0);
    line = strstr(report, "region 1 \"orders\": 16 MiB, resident ");
    cr_assert_not_null(line, "%s", report);
    line = strstr(line, ", found ");
    cr_assert_eq(sscanf(line, ", found %llu/%llu %llu%%", &found, &faults, &percent), 3);
    cr_expect_leq(found, faults);
    cr_expect_eq(percent, faults ? found * 100 / faults : 0);
#define LOOK(reason, meaning) cr_expect(strstr(report, "\n" #reason ": "), #reason);
    WEIR_TIME_MAP(LOOK)
#undef LOOK
    cr_expect(strstr(report, "\nall waits: "));
    cr_expect_null(strstr(report, "regions not shown"));
    for (int i = 1; i < MANY; i++)
        (void)real_map(rt, PAGE);
    cr_assert_lt(weir_report(rt, report, sizeof(report)), sizeof(report));
    cr_expect(strstr(report, "regions not shown: 68 of 100\n"), "%s", report);
    weir_close(rt);
}
