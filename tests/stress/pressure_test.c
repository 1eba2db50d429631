/* SPDX-License-Identifier: MIT */

/*
 * Under pressure: when kswapd begins and ends, who submits writes, who leaves first, who pays.
 * Counts, never speeds. The numbers of the seeds' rows stand beside each test.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <weir/weir_backend.h>

#include "runtime/memory/gate.h"
#include "runtime/runtime.h"
#include "tests/stress/real.h"

#define BUDGET  (16 * MIB)
#define FRAMES  (BUDGET / PAGE)
#define CLUSTER ((uint64_t)WEIR_CLUSTER_SLOTS)

static void read_all(const void *memory, size_t pages)
{
    const volatile uint64_t *words = memory;

    for (size_t i = 0; i < pages; i++)
        (void)words[i * 512];
}

/* --- When kswapd begins and ends ------------------------------------------------------------- */

/* C1: nothing leaves while memory is free. C4: it begins below low, and ends at high or one batch
 * above it. C6: it is no more than that. */
Test(pressure, kswapd_begins_below_low_and_ends_at_high)
{
    const uint64_t low = 256, high = 512; /* pages */
    struct weir_options options;
    struct weir_runtime *rt;
    struct weir_stats s;
    uint64_t free_pages, stored;
    char *memory;

    real_options(&options, BUDGET, "mem:?size=64M");
    options.watermark_min_bytes = 64 * PAGE;
    options.watermark_low_bytes = low * PAGE;
    options.watermark_high_bytes = high * PAGE;
    options.fault_around_bytes = 0;
    rt = real_open_with(&options);
    memory = real_map(rt, 2 * BUDGET);
    stored = real_stats(rt).free_bytes / PAGE - low;
    real_fill(memory, stored, 1);
    s = real_at_rest(rt);
    cr_assert_eq(s.free_bytes / PAGE, low);
    cr_expect_eq(s.reclaim_wakeups, 0);
    cr_expect_eq(s.reclaim_marked, 0);
    cr_expect_eq(s.pages_written, 0);

    real_fill(memory + stored * PAGE, 1, 1);
    s = real_at_rest(rt);
    free_pages = s.free_bytes / PAGE;
    cr_expect_eq(s.reclaim_wakeups, 1);
    cr_expect_geq(free_pages, high);
    cr_expect_leq(free_pages, high + CLUSTER, "%llu", (unsigned long long)free_pages);
    cr_expect_leq(s.reclaim_marked, high - low + CLUSTER, "%llu",
                  (unsigned long long)s.reclaim_marked);
    weir_close(rt);
}

/* --- Who submits ----------------------------------------------------------------------------- */

static const struct weir_backend_ops *inner_ops;
static struct weir_backend_ops noting;
static _Atomic(uint32_t) submitted_by_kswapd, submitted_by_others;

static int note_open(const char *spec, const struct weir_backend_env *env,
                     struct weir_backend **backend_p)
{
    int error = inner_ops->open(spec, env, backend_p);

    if (error == WEIR_OK)
        (*backend_p)->ops = &noting;
    return error;
}

static uint32_t note_submit(struct weir_channel *channel, struct weir_io *const *ios,
                            uint32_t count)
{
    char name[32] = "";

    prctl(PR_GET_NAME, name);
    for (uint32_t i = 0; i < count; i++)
        if (ios[i]->is_write)
            atomic_fetch_add(
                strcmp(name, "weir-kswapd") == 0 ? &submitted_by_kswapd : &submitted_by_others, 1);
    return inner_ops->submit(channel, ios, count);
}

static void store_at_random(char *memory, size_t pages, uint32_t times, uint64_t seed)
{
    for (uint32_t i = 0; i < times; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        *(volatile uint64_t *)(void *)(memory + (seed >> 20) % pages * PAGE) = seed;
    }
}

struct storer {
    char *memory;
    uint64_t seed;
};

static void *store_main(void *context)
{
    const struct storer *storer = context;

    store_at_random(storer->memory, 4 * FRAMES, 15000, storer->seed);
    return NULL;
}

/* C9, C18: all writes are kswapd's. D3: one for a cluster; D6: of at least half its pages. */
Test(pressure, only_kswapd_submits_writes)
{
    struct weir_runtime *rt;
    struct storer storers[4];
    pthread_t threads[4];
    struct weir_stats s;
    char *memory;

    inner_ops = &weir_backend_mem;
    noting = weir_backend_mem;
    noting.name = "noting";
    noting.open = note_open;
    noting.submit = note_submit;
    cr_assert_eq(weir_backend_register(&noting), WEIR_OK);
    rt = real_open(BUDGET, "noting:?size=256M");
    memory = real_map(rt, 4 * BUDGET);
    for (size_t i = 0; i < 4; i++) {
        storers[i] = (struct storer){memory, i + 1};
        cr_assert_eq(pthread_create(&threads[i], NULL, store_main, &storers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    s = real_stats(rt);
    cr_assert_gt(submitted_by_kswapd, 10);
    cr_expect_eq(submitted_by_others, 0);
    cr_expect_geq(s.pages_written, s.writes * CLUSTER / 2, "%llu pages by %llu writes",
                  (unsigned long long)s.pages_written, (unsigned long long)s.writes);
    weir_close(rt);
}

/* --- Who leaves ------------------------------------------------------------------------------ */

/* C15, E18: where memory is there that costs nothing to take, no write is tried. */
Test(pressure, nothing_is_written_while_clean_pages_are_there)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    struct weir_stats before, after;
    char *memory = real_map(rt, 2 * BUDGET), *others;

    real_fill(memory, 2 * FRAMES, 1);
    others = real_map(rt, 4 * BUDGET);
    real_fill(others, 4 * FRAMES, 2); /* until none is dirty that has not been written */
    real_check(others, 4 * FRAMES, 2);
    cr_assert_eq(weir_unmap(others), WEIR_OK);
    for (int pass = 0; pass < 3; pass++)
        real_check(memory, 2 * FRAMES, 1);
    before = real_at_rest(rt);
    for (int pass = 0; pass < 5; pass++)
        real_check(memory, 2 * FRAMES, 1);
    after = real_at_rest(rt);
    cr_assert_gt(after.reclaim_free_tries, before.reclaim_free_tries + 20);
    cr_expect_eq(after.reclaim_write_tries, before.reclaim_write_tries, "R grew by %llu",
                 (unsigned long long)(after.reclaim_write_tries - before.reclaim_write_tries));
    cr_expect_eq(after.pages_written, before.pages_written);
    weir_close(rt);
}

/* D1, D9: a page that somebody holds for long is passed over; kswapd does not wait for it. */
Test(pressure, a_page_that_is_held_stops_nobody)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    char *memory = real_map(rt, 4 * BUDGET);
    struct wr_hold hold;
    struct wr_pass pass;
    uint32_t page;

    real_fill(memory, 1, 1);
    pass = wr_gate_enter();
    page = wr_region_page(wr_region_find((uint64_t)(uintptr_t)memory), (uint64_t)(uintptr_t)memory);
    wr_page_take(&rt->space.pages, page, &hold);
    real_fill(memory + PAGE, 4 * FRAMES - 1, 2);
    real_check(memory + PAGE, 4 * FRAMES - 1, 2);
    cr_expect_eq(wr_hold_state(&hold), WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(real_resident(memory, 1), 1);
    wr_page_put(&rt->space.pages, &hold);
    wr_gate_leave(pass);
    cr_expect_eq(real_stats(rt).frame_failures, 0);
    real_check(memory, 1, 1);
    weir_close(rt);
}

/* --- Who pays -------------------------------------------------------------------------------- */

static uint64_t reads_of(const void *memory)
{
    struct weir_region_stats stats = {.size = sizeof(stats)};

    cr_assert_eq(weir_region_stats(memory, &stats), WEIR_OK);
    return stats.reads;
}

#define HOT_PAGES  (3 * FRAMES / 10)
#define COLD_PAGES (4 * FRAMES)
#define WINDOWS    10

/* One after the other, so often: the hot region from end to end, the cold one at random. */
static void read_in_turns(const char *hot, const char *cold, int rounds, uint64_t *seed)
{
    for (int round = 0; round < rounds; round++) {
        read_all(hot, HOT_PAGES);
        for (int i = 0; i < 1000; i++) {
            *seed = *seed * 6364136223846793005u + 1442695040888963407u;
            (void)*(const volatile char *)(cold + (*seed >> 20) % COLD_PAGES * PAGE);
        }
    }
}

/* C22, E24: a region that is used all the time, beside one that is gone through at random: the cold
 * one pays. Of all reads, no more than a twentieth are the hot region's, once it is known what is
 * hot: where kpaged gets no idle processor (a sanitizer, a loaded machine) that takes a while. */
Test(pressure, the_cold_region_pays)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=256M");
    char *hot = real_map(rt, HOT_PAGES * PAGE), *cold = real_map(rt, COLD_PAGES * PAGE);
    uint64_t hot_reads = 0, cold_reads = 0, seed = 1;
    bool is_cold_that_pays = false;

    real_fill(cold, COLD_PAGES, 1);
    real_fill(hot, HOT_PAGES, 2);
    read_in_turns(hot, cold, 10, &seed); /* by then it should be known */
    for (int window = 0; window < WINDOWS && !is_cold_that_pays; window++) {
        hot_reads = reads_of(hot);
        cold_reads = reads_of(cold);
        read_in_turns(hot, cold, 30, &seed);
        hot_reads = reads_of(hot) - hot_reads;
        cold_reads = reads_of(cold) - cold_reads;
        cr_assert_gt(cold_reads, 10000);
        is_cold_that_pays = hot_reads * 20 <= hot_reads + cold_reads;
    }
    cr_expect(is_cold_that_pays, "%llu of the hot, %llu of the cold", (unsigned long long)hot_reads,
              (unsigned long long)cold_reads);
    weir_close(rt);
}

static uint64_t written_of(const void *memory)
{
    struct weir_region_stats stats = {.size = sizeof(stats)};

    cr_assert_eq(weir_region_stats(memory, &stats), WEIR_OK);
    return stats.pages_written;
}

static void stream_beside(char *memory, size_t pages, char *hot, size_t hot_pages)
{
    for (size_t page = 0; page < pages; page += 256) {
        real_fill(memory + page * PAGE, 256, 1);
        real_fill(hot, hot_pages, page);
    }
}

/* E12, E14: fresh memory of four times the budget, stored to in order beside a dirty region in use:
 * what is written is the stream itself, once, and hardly anything else. */
Test(pressure, a_stream_of_fresh_memory_writes_itself_and_nothing_else)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=256M");
    const size_t hot_pages = FRAMES / 4, pages = 4 * FRAMES;
    char *hot = real_map(rt, hot_pages * PAGE), *memory = real_map(rt, pages * PAGE);
    uint64_t others, all;

    real_fill(hot, hot_pages, 1);
    stream_beside(memory, pages, hot, hot_pages); /* by now it is known what is hot */
    cr_assert_eq(weir_unmap(memory), WEIR_OK);
    memory = real_map(rt, pages * PAGE);
    others = written_of(hot);
    all = real_at_rest(rt).pages_written;
    stream_beside(memory, pages, hot, hot_pages);
    others = written_of(hot) - others;
    all = real_stats(rt).pages_written - all;
    cr_assert_gt(all, 2 * FRAMES);
    cr_expect_leq(others * 20, pages, "%llu of the region in use", (unsigned long long)others);
    cr_expect_leq(all * 10, pages * 11, "%llu pages written", (unsigned long long)all);
    weir_close(rt);
}

/* C24: readahead for touches at random is no more than a twentieth of what is read, or of use. */
Test(pressure, random_touches_are_hardly_read_ahead_of)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    char *memory = real_map(rt, 4 * BUDGET);
    struct weir_stats before, after;
    uint64_t seed = 7, wasted, read;

    real_fill(memory, 4 * FRAMES, 1);
    before = real_at_rest(rt);
    for (int i = 0; i < 60000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        (void)*(volatile char *)(memory + (seed >> 20) % (4 * FRAMES) * PAGE);
    }
    after = real_at_rest(rt);
    read = after.reads_demand - before.reads_demand + after.reads_ahead - before.reads_ahead;
    wasted = after.reads_ahead - before.reads_ahead -
             (after.reads_ahead_hit - before.reads_ahead_hit);
    cr_assert_gt(read, 30000);
    cr_expect_leq(wasted * 20, read, "%llu of %llu", (unsigned long long)wasted,
                  (unsigned long long)read);
    weir_close(rt);
}

/* --- Who waits ------------------------------------------------------------------------------- */

#define CROWD       64
#define CROWD_PAGES 600u

struct crowd {
    char *memory;
    pthread_barrier_t gate;
    _Atomic(uint32_t) stored[CROWD];
    _Atomic(uint32_t) next;
    _Atomic(uint32_t) least; /* of the slowest when the first was done */
};

static void *crowd_main(void *context)
{
    struct crowd *crowd = context;
    uint32_t me = atomic_fetch_add(&crowd->next, 1), none = 0, least = CROWD_PAGES;

    pthread_barrier_wait(&crowd->gate);
    for (uint32_t i = 0; i < CROWD_PAGES; i++) {
        /* Not in order, so that each page is a wait of its own. */
        size_t page = (size_t)me * CROWD_PAGES + i * 7 % CROWD_PAGES;

        *(volatile uint64_t *)(void *)(crowd->memory + page * PAGE) = page + 1;
        atomic_fetch_add(&crowd->stored[me], 1);
        usleep(50); /* that memory is what they wait for, and not their turns on a processor */
    }
    for (uint32_t i = 0; i < CROWD; i++)
        least = crowd->stored[i] < least ? crowd->stored[i] : least;
    atomic_compare_exchange_strong(&crowd->least, &none, least + 1);
    return NULL;
}

/* C19, C21: sixty-four threads at a slow back end wait, in turns, and none fails or starves. */
Test(pressure, a_crowd_waits_and_nobody_starves, .timeout = 120)
{
    struct weir_options options;
    struct weir_runtime *rt;
    pthread_t threads[CROWD];
    struct crowd crowd = {.least = 0};
    struct weir_stats s;

    real_options(&options, BUDGET, "chaos(mem:?size=1G)?seed=3&write_delay_us=20000");
    options.fault_around_bytes = 0;
    rt = real_open_with(&options);
    real_fill(real_map(rt, BUDGET), FRAMES, 1); /* nobody is to begin with free memory */
    crowd.memory = real_map(rt, CROWD * CROWD_PAGES * PAGE);
    pthread_barrier_init(&crowd.gate, NULL, CROWD);
    for (int i = 0; i < CROWD; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, crowd_main, &crowd), 0);
    for (int i = 0; i < CROWD; i++)
        pthread_join(threads[i], NULL);
    s = real_stats(rt);
    cr_log_info("K %llu, the slowest had %u of %u when the first was done",
                (unsigned long long)s.frame_waits, crowd.least - 1, CROWD_PAGES);
    cr_expect_gt(s.frame_waits, 600);
    cr_expect_eq(s.frame_failures, 0);
    cr_expect_gt(crowd.least - 1, CROWD_PAGES / 20, "%u", crowd.least - 1);
    for (size_t page = 0; page < (size_t)CROWD * CROWD_PAGES; page++)
        cr_assert_eq(*(volatile uint64_t *)(void *)(crowd.memory + page * PAGE), page + 1);
    weir_close(rt);
}
