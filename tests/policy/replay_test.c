/* SPDX-License-Identifier: MIT */

/* The policy on its eight workloads: what it must not be worse than. */

#include "tests/policy/replay.h"

#include <criterion/criterion.h>

#include "tests/workload/workload.h"

#define PAGES  WORKLOAD_PAGES
#define FRAMES WORKLOAD_MEMORY

/* Enough for the first round of all pages not to count. */
static uint32_t touches_of(enum workload_kind kind)
{
    return kind == WORKLOAD_loop ? WORKLOAD_ACCESSES : WORKLOAD_ACCESSES / 3;
}

static double misses(enum replay_rule rule, enum workload_kind kind)
{
    struct replay *replay = replay_open(rule, PAGES, FRAMES);
    struct replay_result result;
    struct workload workload;

    cr_assert_not_null(replay);
    cr_assert(workload_open(&workload, kind, PAGES, FRAMES, 1, 0));
    for (uint32_t i = 0; i < touches_of(kind); i++)
        replay_touch(replay, workload_next(&workload));
    result = replay_close(replay);
    cr_assert_eq(result.touches, touches_of(kind));
    return (double)result.misses / (double)result.touches;
}

/* Seed C27: trying to predict the future by looking at the past does not work all the time; then it
 * must not do much harm. */
Test(replay, no_workload_is_a_fifth_worse_than_by_random_choice)
{
    for (enum workload_kind kind = 0; kind < WORKLOAD_COUNT; kind++) {
        double ours = misses(REPLAY_WEIR, kind), random = misses(REPLAY_RANDOM, kind);

        cr_expect_leq(ours, 1.2 * random, "%s: %.4f, random %.4f", workload_name(kind), ours,
                      random);
    }
}

Test(replay, skewed_loads_are_served_better_than_first_in_first_out)
{
    static const enum workload_kind skewed[] = {WORKLOAD_zipf_10, WORKLOAD_zipf_12, WORKLOAD_scans,
                                                WORKLOAD_shifting, WORKLOAD_clustered};

    for (unsigned i = 0; i < sizeof(skewed) / sizeof(skewed[0]); i++) {
        double ours = misses(REPLAY_WEIR, skewed[i]), fifo = misses(REPLAY_FIFO, skewed[i]);

        cr_expect_leq(ours, 0.95 * fifo, "%s: %.4f, fifo %.4f", workload_name(skewed[i]), ours,
                      fifo);
    }
}

Test(replay, loops_scans_and_clusters_are_served_better_than_by_exact_lru)
{
    static const enum workload_kind kinds[] = {WORKLOAD_scans, WORKLOAD_loop, WORKLOAD_clustered};

    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        double ours = misses(REPLAY_WEIR, kinds[i]), lru = misses(REPLAY_LRU, kinds[i]);

        cr_expect_leq(ours, lru, "%s: %.4f, lru %.4f", workload_name(kinds[i]), ours, lru);
    }
}

/* Nobody who is asked answers in a loop, and whoever was replaced for it comes back too late. */
Test(replay, a_loop_is_served_within_a_tenth_of_random_choice)
{
    double ours = misses(REPLAY_WEIR, WORKLOAD_loop), random = misses(REPLAY_RANDOM, WORKLOAD_loop);

    cr_expect_leq(ours, 1.1 * random, "%.4f, random %.4f", ours, random);
}

Test(replay, a_loop_that_fits_never_misses)
{
    for (enum replay_rule rule = 0; rule < REPLAY_RULES; rule++) {
        struct replay *replay = replay_open(rule, PAGES, FRAMES);

        for (uint32_t i = 0; i < 20 * FRAMES; i++)
            replay_touch(replay, i % (FRAMES * 9 / 10));
        cr_expect_eq(replay_close(replay).misses, 0, "%s", replay_rule_name(rule));
    }
}

Test(replay, too_few_frames_are_refused)
{
    cr_expect_null(replay_open(REPLAY_WEIR, 10000, 1000));
}

/* Four of five touches go to a fifth of the pages: to the first, or to pages that lie everywhere.
 * Every page that left has to be missed before it can leave again, so that, at rest, what is missed
 * is what left. The share of cold pages in it. */
static double cold_share(enum replay_rule rule, bool is_scattered)
{
    struct replay *replay = replay_open(rule, PAGES, FRAMES);
    uint64_t random = 1;
    uint64_t misses = 0, cold = 0;

    cr_assert_not_null(replay);
    for (uint32_t i = 0; i < 6000000; i++) {
        uint64_t draw = random = random * 6364136223846793005u + 1442695040888963407u;
        bool is_hot = (draw >> 33) % 5 != 0;
        uint32_t page;

        draw = random = random * 6364136223846793005u + 1442695040888963407u;
        page = (uint32_t)((draw >> 33) % (PAGES / 5));
        if (!is_hot)
            page += PAGES / 5 * (1 + (uint32_t)((draw >> 11) % 4));
        if (is_scattered)
            page = (uint32_t)((uint64_t)page * 61169 % PAGES);
        if (replay_touch(replay, page) && i >= 3000000) {
            misses++;
            cold += !is_hot;
        }
    }
    (void)replay_close(replay);
    return (double)cold / (double)misses;
}

/* Seed C11: kpaged tells hot from cold, where pages that are hot lie together: better than exact
 * LRU does, because neighbours speak for each other. */
Test(replay, nine_of_ten_victims_are_cold_where_hot_pages_lie_together)
{
    double ours = cold_share(REPLAY_WEIR, false), lru = cold_share(REPLAY_LRU, false);

    cr_expect_geq(ours, 0.9, "%.4f", ours);
    cr_expect_geq(ours, lru, "%.4f, lru %.4f", ours, lru);
}

/* Where they do not, each has to be asked for itself, at the price of a fault: 0.88 of the victims
 * are cold, 0.57 by chance, 0.95 by exact LRU, which sees every touch. */
Test(replay, scattered_hot_pages_are_told_better_than_by_chance)
{
    double ours = cold_share(REPLAY_WEIR, true), fifo = cold_share(REPLAY_FIFO, true);

    cr_expect_geq(ours, 0.87, "%.4f", ours);
    cr_expect_geq(ours, fifo + 0.25, "%.4f, fifo %.4f", ours, fifo);
}
