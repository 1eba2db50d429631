/* SPDX-License-Identifier: MIT */

/* Workloads: the same every time, inside their bounds, and distributed as they say. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "tests/workload/workload.h"

#define PAGES  10000u
#define MEMORY 4000u
#define DRAWS  1000000u

static struct workload open_one(enum workload_kind kind, uint64_t seed, uint32_t stream)
{
    struct workload w;

    cr_assert(workload_open(&w, kind, PAGES, MEMORY, seed, stream));
    return w;
}

/* How often each page is touched by so many accesses. */
static uint32_t *touches_of(struct workload *w, uint32_t accesses)
{
    uint32_t *count = calloc(w->pages, sizeof(*count));

    cr_assert_not_null(count);
    for (uint32_t i = 0; i < accesses; i++) {
        uint32_t page = workload_next(w);

        cr_assert_lt(page, w->pages, "%s", workload_name(w->kind));
        count[page]++;
    }
    return count;
}

static int falling(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x < y) - (x > y);
}

/* The share of the hottest units, of so many pages each, that zipf says. */
static double zipf_share(double exponent, uint32_t units, uint32_t hottest)
{
    double part = 0, all = 0;

    for (uint32_t k = 1; k <= units; k++) {
        all += pow(k, -exponent);
        if (k == hottest)
            part = all;
    }
    return part / all;
}

static double found_share(const uint32_t *count, uint32_t units, uint32_t hottest)
{
    double part = 0, all = 0;

    for (uint32_t i = 0; i < units; i++) {
        all += count[i];
        part += i < hottest ? count[i] : 0;
    }
    return part / all;
}

Test(workload, one_seed_is_one_sequence)
{
    for (enum workload_kind kind = 0; kind < WORKLOAD_COUNT; kind++) {
        struct workload a = open_one(kind, 7, 0), b = open_one(kind, 7, 0);

        for (uint32_t i = 0; i < 10000; i++)
            cr_assert_eq(workload_next(&a), workload_next(&b), "%s", workload_name(kind));
    }
}

/* Arithmetic is the same everywhere: a sequence that changes makes old figures worthless. */
Test(workload, sequences_stay_what_they_are)
{
    static const uint64_t expected[WORKLOAD_COUNT] = {
        [WORKLOAD_zipf_08] = 0xb6ed2463ddfa1f20, [WORKLOAD_zipf_10] = 0x7e35745ba1c95798,
        [WORKLOAD_zipf_12] = 0xc7d585063d7653b4, [WORKLOAD_scans] = 0xbe756e6644c33f30,
        [WORKLOAD_loop] = 0x5d45d70f379f0388,    [WORKLOAD_shifting] = 0xfeed5c50e1469e1c,
        [WORKLOAD_uniform] = 0x0be6b732517cf032, [WORKLOAD_clustered] = 0x8d5ff6eca7a86344,
    };

    for (enum workload_kind kind = 0; kind < WORKLOAD_COUNT; kind++) {
        struct workload w = open_one(kind, 1, 0);
        uint64_t sum = 0;

        for (uint32_t i = 0; i < 10000; i++)
            sum = sum * 31 + workload_next(&w);
        cr_expect_eq(sum, expected[kind], "%s: %#llx", workload_name(kind),
                     (unsigned long long)sum);
    }
}

Test(workload, another_seed_or_stream_is_another_sequence)
{
    for (enum workload_kind kind = 0; kind < WORKLOAD_COUNT; kind++) {
        struct workload a = open_one(kind, 7, 0), seed = open_one(kind, 8, 0);
        struct workload stream = open_one(kind, 7, 1);
        unsigned other_seed = 0, other_stream = 0;

        for (uint32_t i = 0; i < 1000; i++) {
            uint32_t page = workload_next(&a);

            other_seed += page != workload_next(&seed);
            other_stream += page != workload_next(&stream);
        }
        cr_expect_gt(other_stream, 100, "%s", workload_name(kind));
        if (kind != WORKLOAD_loop)
            cr_expect_gt(other_seed, 100, "%s", workload_name(kind));
    }
}

Test(workload, zipf_has_the_shares_of_zipf)
{
    static const struct {
        enum workload_kind kind;
        double exponent;
    } rows[] = {{WORKLOAD_zipf_08, 0.8}, {WORKLOAD_zipf_10, 1.0}, {WORKLOAD_zipf_12, 1.2}};

    for (unsigned i = 0; i < 3; i++) {
        struct workload w = open_one(rows[i].kind, 3, 0);
        uint32_t *count = touches_of(&w, DRAWS);

        qsort(count, PAGES, sizeof(*count), falling);
        /* Sorting flatters the tail a little: what is hot is enough to tell. */
        for (uint32_t hottest = 1; hottest <= 1000; hottest *= 10)
            cr_expect_float_eq(found_share(count, PAGES, hottest),
                               zipf_share(rows[i].exponent, PAGES, hottest), 0.004,
                               "%s: the first %u have %g", workload_name(rows[i].kind), hottest,
                               found_share(count, PAGES, hottest));
        free(count);
    }
}

Test(workload, hot_pages_do_not_lie_together)
{
    struct workload w = open_one(WORKLOAD_zipf_12, 3, 0);
    uint32_t *count = touches_of(&w, DRAWS);
    unsigned hot = 0, neighbours = 0;

    for (uint32_t i = 0; i + 1 < PAGES; i++) {
        hot += count[i] > 100;
        neighbours += count[i] > 100 && count[i + 1] > 100;
    }
    /* By chance hot * hot / PAGES. */
    cr_expect_gt(hot, 300);
    cr_expect_lt(neighbours, 3 * hot * hot / PAGES);
    free(count);
}

Test(workload, clusters_are_hot_as_a_whole)
{
    const uint32_t clusters = PAGES / WORKLOAD_CLUSTER_PAGES;
    struct workload w = open_one(WORKLOAD_clustered, 3, 0);
    uint32_t *count = touches_of(&w, DRAWS), *sum = calloc(clusters, sizeof(*sum));

    for (uint32_t i = 0; i < clusters * WORKLOAD_CLUSTER_PAGES; i++)
        sum[i / WORKLOAD_CLUSTER_PAGES] += count[i];
    for (uint32_t i = 0; i < clusters * WORKLOAD_CLUSTER_PAGES; i++) {
        double mean = (double)sum[i / WORKLOAD_CLUSTER_PAGES] / WORKLOAD_CLUSTER_PAGES;

        cr_expect_float_eq(count[i], mean, 6 * sqrt(mean) + 1, "page %u: %u", i, count[i]);
    }
    qsort(sum, clusters, sizeof(*sum), falling);
    for (uint32_t hottest = 1; hottest <= 100; hottest *= 10)
        cr_expect_float_eq(found_share(sum, clusters, hottest), zipf_share(1, clusters, hottest),
                           0.004);
    free(count);
    free(sum);
}

Test(workload, uniform_is_uniform)
{
    struct workload w = open_one(WORKLOAD_uniform, 3, 0);
    uint32_t *count = touches_of(&w, DRAWS);
    const double mean = (double)DRAWS / PAGES;

    for (uint32_t i = 0; i < PAGES; i++)
        cr_expect_float_eq(count[i], mean, 6 * sqrt(mean));
    free(count);
}

Test(workload, a_loop_goes_round)
{
    const uint32_t length = MEMORY * 6 / 5;
    struct workload w = open_one(WORKLOAD_loop, 3, 0);

    for (uint32_t i = 0; i < 3 * length; i++)
        cr_assert_eq(workload_next(&w), i % length);
    cr_assert(workload_open(&w, WORKLOAD_loop, MEMORY, MEMORY, 3, 0));
    for (uint32_t i = 0; i < 3 * MEMORY; i++)
        cr_assert_eq(workload_next(&w), i % MEMORY);
}

Test(workload, scans_see_every_page)
{
    struct workload w = open_one(WORKLOAD_scans, 3, 0);
    const uint32_t walks = PAGES / WORKLOAD_WALK(MEMORY);
    uint32_t *count = touches_of(&w, (uint32_t)(walks * WORKLOAD_WALK_EVERY(MEMORY)));
    unsigned unseen = 0;

    for (uint32_t i = 0; i < PAGES; i++)
        unseen += count[i] == 0;
    cr_expect_eq(unseen, 0);
    free(count);
}

/* How many of the hottest of one time are among the hottest of another. */
static unsigned alike(const uint32_t *a, const uint32_t *b, uint32_t least)
{
    unsigned sum = 0;

    for (uint32_t i = 0; i < PAGES; i++)
        sum += a[i] >= least && b[i] >= least;
    return sum;
}

Test(workload, the_hot_set_shifts)
{
    struct workload w = open_one(WORKLOAD_shifting, 3, 0);
    const uint32_t period = (uint32_t)WORKLOAD_SHIFT(MEMORY);
    const uint32_t hot = (uint32_t)WORKLOAD_HOT(MEMORY);
    uint32_t *first = touches_of(&w, period / 2), *again = touches_of(&w, period / 2);
    uint32_t *later = touches_of(&w, period / 2);

    cr_expect_float_eq(alike(first, again, 5), hot, hot * 0.05);
    cr_expect_lt(alike(first, later, 5), hot * 0.05);
    free(first);
    free(again);
    free(later);
}

/* Misses of exact LRU, in percent: a list of pages, the last touched first. */
static double lru_misses(struct workload *w, uint32_t accesses)
{
    const uint32_t end = w->pages;
    uint32_t *before = calloc(end + 1, sizeof(*before)), *after = calloc(end + 1, sizeof(*after));
    bool *is_in = calloc(end, sizeof(*is_in));
    uint32_t filled = 0, misses = 0;

    cr_assert(before && after && is_in);
    before[end] = after[end] = end;
    for (uint32_t i = 0; i < accesses; i++) {
        uint32_t page = workload_next(w), gone = before[end];

        if (is_in[page]) {
            after[before[page]] = after[page];
            before[after[page]] = before[page];
        } else {
            misses++;
            if (filled == w->memory_pages) {
                is_in[gone] = false;
                before[end] = before[gone];
                after[before[gone]] = end;
            } else {
                filled++;
            }
        }
        is_in[page] = true;
        after[page] = after[end];
        before[page] = end;
        before[after[end]] = page;
        after[end] = page;
    }
    free(before);
    free(after);
    free(is_in);
    return 100.0 * misses / accesses;
}

Test(workload, lru_misses_as_often_as_in_the_design)
{
    static const double expected[WORKLOAD_COUNT] = {25.63, 11.12, 3.22,  29.75,
                                                    100,   7.62,  60.22, 16.82};

    for (enum workload_kind kind = 0; kind < WORKLOAD_COUNT; kind++) {
        struct workload w;
        double found;

        cr_assert(workload_open(&w, kind, WORKLOAD_PAGES, WORKLOAD_MEMORY, 7, 0));
        found = lru_misses(&w, WORKLOAD_ACCESSES);
        cr_expect_float_eq(found, expected[kind], 0.2, "%s: %.2f", workload_name(kind), found);
    }
}

Test(workload, what_makes_no_sense_is_refused)
{
    struct workload w;

    cr_expect(!workload_open(&w, WORKLOAD_uniform, 127, 64, 1, 0));
    cr_expect(!workload_open(&w, WORKLOAD_uniform, 1000, 7, 1, 0));
    cr_expect(!workload_open(&w, WORKLOAD_uniform, 1000, 1001, 1, 0));
    cr_expect(workload_open(&w, WORKLOAD_uniform, 128, 128, 1, 0));
    cr_expect_str_eq(workload_name(WORKLOAD_scans), "zipf 1.0 + scans");
}
