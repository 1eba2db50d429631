/* SPDX-License-Identifier: MIT */

/* Regions that are unmapped and kept, on the real kernel: what comes back, what goes first, and
 * when nothing is left. */

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include <weir/weir_object.h>

#include "tests/stress/real.h"

#define BUDGET (8 * MIB)
#define PAGES  ((size_t)4096) /* 16 MiB: twice the budget */
#define FEW    ((size_t)1000) /* half of it */
/* Nothing that is on its way arrives while a test looks. */
#define SLOW   "chaos(mem:?size=256M)?seed=3&delay_us=5000000"

static const char *const engines[] = {"move", "wp"};

/* NULL: this kernel has no such engine. */
static struct weir_runtime *open_by(const char *engine, uint64_t budget, const char *backends)
{
    struct weir_options options;
    struct weir_runtime *rt;

    memset(&real_events, 0, sizeof(real_events));
    real_options(&options, budget, backends);
    options.engine = engine;
    return weir_open(&options, &rt) == WEIR_OK ? rt : NULL;
}

static int map_named(struct weir_runtime *rt, const char *name, size_t pages, int reattach,
                     void **memory_p)
{
    const struct weir_region_options options = {
        .size = sizeof(options), .name = name, .reattach = reattach};

    return weir_map(rt, pages * PAGE, &options, memory_p);
}

static void *map_new(struct weir_runtime *rt, const char *name, size_t pages)
{
    void *memory = NULL;

    cr_assert_eq(map_named(rt, name, pages, 0, &memory), WEIR_OK);
    return memory;
}

/* With what was kept, or not: *is_old_p. */
static void *reattach(struct weir_runtime *rt, const char *name, size_t pages, bool *is_old_p)
{
    struct weir_region_stats stats = {.size = sizeof(stats)};
    void *memory = NULL;
    int error = map_named(rt, name, pages, 1, &memory);

    cr_assert_eq(error, WEIR_OK, "%s: %s", weir_error_name(error), real_events.text[WEIR_FAILURE]);
    cr_assert_eq(weir_region_stats(memory, &stats), WEIR_OK);
    cr_expect_str_eq(stats.name, name);
    *is_old_p = stats.reattached > 0;
    return memory;
}

static void keep(void *memory)
{
    int error = weir_unmap_keep(memory);

    cr_assert_eq(error, WEIR_OK, "%s: %s", weir_error_name(error), real_events.text[WEIR_FAILURE]);
}

/* A region of so many pages that is filled and kept. */
static void fill_and_keep(struct weir_runtime *rt, const char *name, size_t pages, uint64_t salt)
{
    void *memory = map_new(rt, name, pages);

    real_fill(memory, pages, salt);
    keep(memory);
}

static bool comes_back(struct weir_runtime *rt, const char *name, size_t pages, uint64_t salt)
{
    bool is_old;
    void *memory = reattach(rt, name, pages, &is_old);
    const volatile unsigned char *bytes = memory;

    if (is_old)
        real_check(memory, pages, salt);
    for (size_t i = 0; i < pages && !is_old; i++)
        cr_assert_eq(bytes[i * PAGE] | bytes[i * PAGE + PAGE - 1], 0);
    cr_assert_eq(weir_unmap(memory), WEIR_OK);
    return is_old;
}

/* --- What comes back ------------------------------------------------------------------------- */

static void expect_gone(char *memory)
{
    void *moved;

    cr_expect_eq(real_load_gives(memory), SIGSEGV);
    cr_expect_eq(weir_unmap(memory), WEIR_ENOENT);
    cr_expect_eq(weir_unmap_keep(memory), WEIR_ENOENT);
    cr_expect_eq(weir_resize(memory, PAGE), WEIR_ENOENT);
    cr_expect_eq(weir_move(memory, 0, &moved), WEIR_ENOENT);
    cr_expect_eq(weir_pin(memory, PAGE, WEIR_READ), WEIR_EINVAL);
    cr_expect_eq(weir_advise(memory, PAGE, WEIR_DISCARD), WEIR_EINVAL);
}

static void keep_what_fits(struct weir_runtime *rt)
{
    struct weir_region_stats one = {.size = sizeof(one)};
    char *memory = map_new(rt, "book", FEW);
    struct weir_stats s, before;
    static char report[16384];
    bool is_old;

    for (uint64_t salt = 0; salt < 3; salt++) {
        real_fill(memory, FEW, salt);
        before = real_stats(rt);
        cr_expect_geq(before.private_pages, FEW);
        cr_expect_eq(before.reusable_pages, 0);
        keep(memory);
        expect_gone(memory);
        s = real_stats(rt);
        cr_expect_geq(s.reusable_pages, FEW);
        cr_expect_eq(s.private_pages, 0);
        cr_expect_eq(s.mapped_bytes, 0);
        cr_expect_eq(s.kept_bytes, FEW * PAGE);
        cr_expect_eq(s.resident_bytes, before.resident_bytes);
        cr_expect_eq(weir_region_get(rt, 0, &one), WEIR_ENOENT);
        weir_report(rt, report, sizeof(report));
        cr_expect(strstr(report, "pages in memory: private 0, shared 0, read ahead 0, reusable 1"),
                  "%s", report);
        memory = reattach(rt, "book", FEW, &is_old);
        cr_assert(is_old);
        cr_expect_eq(real_resident(memory, FEW), FEW, "every page is a hit");
        real_check(memory, FEW, salt);
        s = real_stats(rt);
        cr_expect_eq(s.faults, before.faults, "and costs no fault");
        cr_expect_eq(s.reads_demand + s.reads_ahead + s.pages_written, 0);
        cr_expect_geq(s.private_pages, FEW);
        cr_expect_eq(s.kept_bytes + s.reusable_pages, 0);
        cr_expect_eq(s.regions_kept, salt + 1);
        cr_expect_eq(s.regions_reattached, salt + 1);
        cr_expect_eq(s.regions_forgotten, 0);
    }
    cr_assert_eq(weir_region_stats(memory, &one), WEIR_OK);
    cr_expect_eq(one.reattached, 3);
    cr_assert_eq(weir_unmap(memory), WEIR_OK);
    cr_expect_not(comes_back(rt, "book", FEW, 0), "what is unmapped is not kept");
}

Test(region_keep, what_was_resident_is_resident, .timeout = 120)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], BUDGET, "mem:?size=64M");

        if (rt)
            keep_what_fits(rt);
        weir_close(rt);
    }
}

/* Some of its pages are taken, and are on their way out when it is had back. */
static void keep_what_is_cached(struct weir_runtime *rt)
{
    struct weir_stats s, before;
    void *memory;
    bool is_old;

    fill_and_keep(rt, "book", FEW, 7);
    before = real_stats(rt);
    cr_assert_eq(weir_budget_set(rt, BUDGET / 2, 0), WEIR_EAGAIN);
    do
        s = real_stats(rt);
    while (s.dirty_pages < 100);
    cr_expect_lt(s.reusable_pages, FEW);
    cr_assert_eq(weir_budget_set(rt, BUDGET, 0), WEIR_OK);
    memory = reattach(rt, "book", FEW, &is_old);
    cr_assert(is_old);
    real_check(memory, FEW, 7);
    s = real_stats(rt);
    cr_expect_geq(s.cache_found, before.cache_found + 100, "%llu hits",
                  (unsigned long long)s.cache_found);
    cr_expect_eq(s.reads_demand + s.reads_ahead, 0, "and nothing was read");
}

Test(region_keep, what_was_cached_is_found_in_the_cache, .timeout = 120)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], BUDGET, SLOW);

        if (rt)
            keep_what_is_cached(rt);
        weir_close(rt);
    }
}

/* Zeros that were only loaded, hints, an end that has moved, a reserve; and old pages of all kinds.
 */
static void keep_what_is_mixed(struct weir_runtime *rt)
{
    struct weir_region_options options = {
        .size = sizeof(options), .name = "book", .reserve_bytes = 2 * PAGES * PAGE};
    struct weir_region_stats stats = {.size = sizeof(stats)};
    unsigned char *memory;
    void *address;

    cr_assert_eq(weir_map(rt, PAGES * PAGE, &options, &address), WEIR_OK);
    real_fill(address, PAGES, 5);
    real_check(address, PAGES, 5);
    cr_assert_eq(weir_resize(address, (PAGES - 1000) * PAGE), WEIR_OK);
    memory = address;
    cr_assert_eq(weir_advise(memory + 100 * PAGE, 50 * PAGE, WEIR_DISCARD), WEIR_OK);
    for (size_t i = 100; i < 120; i++)
        cr_assert_eq(memory[i * PAGE], 0);
    (void)weir_advise(memory + 2000 * PAGE, 300 * PAGE, WEIR_WILLNEED);
    keep(memory);
    options.reattach = 1;
    cr_assert_eq(weir_map(rt, (PAGES - 1000) * PAGE - 5, &options, &address), WEIR_OK);
    memory = address;
    real_check(memory, 100, 5);
    for (size_t i = 100; i < 150; i++)
        cr_assert_eq(memory[i * PAGE] | memory[i * PAGE + PAGE - 1], 0);
    memset(memory + 100 * PAGE, 0, 50 * PAGE);
    cr_expect_eq(real_load_gives(memory + (PAGES - 1000) * PAGE), SIGSEGV);
    cr_assert_eq(weir_resize(memory, 2 * PAGES * PAGE), WEIR_OK);
    for (size_t i = PAGES - 1000; i < 2 * PAGES; i++)
        cr_assert_eq(memory[i * PAGE], 0);
    cr_assert_eq(weir_region_stats(memory, &stats), WEIR_OK);
    cr_expect_eq(stats.reserve_bytes, 2 * PAGES * PAGE);
    cr_assert_eq(weir_unmap(memory), WEIR_OK);
    for (int i = 0; i < 1000 && real_stats(rt).slots_used; i++)
        usleep(1000);
    cr_expect_eq(real_stats(rt).slots_used, 0);
}

Test(region_keep, all_kinds_of_pages_come_back, .timeout = 120)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], BUDGET, "mem:?size=256M");

        if (rt)
            keep_what_is_mixed(rt);
        weir_close(rt);
    }
}

/* --- What goes first ------------------------------------------------------------------------- */

static void press(struct weir_runtime *rt)
{
    void *other;
    struct weir_stats s;

    fill_and_keep(rt, "book", PAGES, 1);
    other = real_map(rt, FEW * PAGE);
    real_fill(other, FEW, 2);
    s = real_stats(rt);
    cr_expect_leq(s.reusable_pages, BUDGET / PAGE - FEW);
    real_check(other, FEW, 2);
    s = real_stats(rt);
    cr_expect_eq(s.reads_demand, 0, "whom the program has stays while there are others");
    cr_assert_eq(weir_unmap(other), WEIR_OK);
    other = real_map(rt, PAGES * PAGE);
    real_fill(other, PAGES, 3);
    cr_expect_eq(real_stats(rt).reusable_pages, 0);
    real_check(other, PAGES, 3);
    cr_expect(comes_back(rt, "book", PAGES, 1), "there is room enough for it at the back end");
    cr_expect_eq(real_stats(rt).regions_forgotten, 0);
}

Test(region_keep, pages_of_nobody_leave_before_others, .timeout = 120)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], BUDGET, "mem:?size=256M");

        if (rt)
            press(rt);
        weir_close(rt);
    }
}

static void fill_back_end(struct weir_runtime *rt)
{
    void *other;

    fill_and_keep(rt, "older", 3000, 1);
    fill_and_keep(rt, "newer", 1000, 2);
    other = real_map(rt, 6000 * PAGE);
    real_fill(other, 6000, 3);
    real_check(other, 6000, 3);
    cr_expect_eq(real_stats(rt).regions_forgotten, 1);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    cr_expect(comes_back(rt, "newer", 1000, 2));
    cr_expect_not(comes_back(rt, "older", 3000, 1));
    real_check(other, 6000, 3);
}

Test(region_keep, the_oldest_goes_when_a_back_end_is_nearly_full, .timeout = 120)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], BUDGET, "mem:?size=32M");

        if (rt)
            fill_back_end(rt);
        weir_close(rt);
    }
}

/* Page numbers for 32 regions of 2 MiB. */
static struct weir_runtime *open_narrow(void)
{
    struct weir_options options;

    real_options(&options, BUDGET, "mem:?size=64M");
    options.address_space_bytes = 64 * MIB;
    return real_open_with(&options);
}

Test(region_keep, they_go_when_page_numbers_are_needed)
{
    struct weir_runtime *rt = open_narrow();
    struct weir_object *object;
    char name[16];
    void *big;

    for (unsigned i = 0; i < 32; i++) {
        snprintf(name, sizeof(name), "%u", i);
        fill_and_keep(rt, name, 20, i);
    }
    cr_expect_eq(real_stats(rt).regions_forgotten, 0);
    (void)real_map(rt, PAGE);
    cr_expect_eq(real_stats(rt).regions_forgotten, 1);
    cr_expect_not(comes_back(rt, "0", 20, 0), "the oldest went");
    cr_expect(comes_back(rt, "2", 20, 2));
    big = real_map(rt, 32 * MIB);
    cr_expect(comes_back(rt, "31", 20, 31));
    cr_expect_eq(weir_object_create(rt, 20 * MIB, NULL, &object), WEIR_OK);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    cr_assert_eq(map_named(rt, NULL, 16 * MIB / PAGE, 0, &big), WEIR_ENOMEM);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "WEIR_ADDRESS_SPACE"));
    weir_close(rt);
}

Test(region_keep, one_goes_that_is_in_the_way_of_a_reserve)
{
    struct weir_runtime *rt = open_narrow();
    void *grows = map_new(rt, "grows", 20), *moved;

    real_fill(grows, 20, 9);
    fill_and_keep(rt, "next", 20, 1);
    fill_and_keep(rt, "further", 20, 2);
    cr_assert_eq(weir_move(grows, 4 * MIB, &moved), WEIR_OK);
    real_check(moved, 20, 9);
    cr_expect(comes_back(rt, "further", 20, 2));
    cr_expect_eq(real_stats(rt).regions_forgotten, 1);
    weir_close(rt);
}

#define REGIONS_MAX 4096

Test(region_keep, one_goes_when_there_are_too_many_regions, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory;

    fill_and_keep(rt, "book", 20, 1);
    for (int i = 1; i < REGIONS_MAX; i++)
        (void)real_map(rt, PAGE);
    cr_expect_eq(real_stats(rt).regions_forgotten, 0);
    (void)real_map(rt, PAGE);
    cr_expect_eq(real_stats(rt).regions_forgotten, 1);
    cr_expect_eq(map_named(rt, NULL, 1, 0, &memory), WEIR_ENOMEM);
    weir_close(rt);
}

/* --- What cannot be -------------------------------------------------------------------------- */

Test(region_keep, what_cannot_be_kept_is_as_it_was)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *unnamed = map_new(rt, NULL, FEW), *view, *pinned = map_new(rt, "pinned", FEW);
    void *cut = map_new(rt, "a name of thirty-two characters!", FEW);
    struct weir_region_options options = {.size = sizeof(options), .reattach = 1};
    struct weir_object *object;
    bool is_old;

    real_fill(unnamed, FEW, 1);
    cr_expect_eq(weir_unmap_keep(unnamed), WEIR_EINVAL);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "options.name"));
    real_check(unnamed, FEW, 1);
    cr_expect_eq(weir_unmap(unnamed), WEIR_OK);
    cr_expect_eq(weir_unmap_keep(cut), WEIR_EINVAL);
    cr_expect_eq(weir_unmap(cut), WEIR_OK);
    real_fill(pinned, FEW, 2);
    cr_assert_eq(weir_pin((char *)pinned + 50 * PAGE, PAGE, WEIR_READ), WEIR_OK);
    cr_expect_eq(weir_unmap_keep(pinned), WEIR_EBUSY);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "pinned"));
    real_check(pinned, FEW, 2);
    cr_assert_eq(weir_unpin((char *)pinned + 50 * PAGE, PAGE), WEIR_OK);
    keep(pinned);
    if (weir_object_create(rt, FEW * PAGE, NULL, &object) == WEIR_OK) {
        cr_assert_eq(weir_view_map(object, 0, FEW * PAGE, &view), WEIR_OK);
        cr_expect_eq(weir_unmap_keep(view), WEIR_ENOSUPPORT);
        real_fill(view, 10, 3);
        cr_expect_geq(real_stats(rt).shared_pages, 10);
        options.name = "pinned";
        cr_expect_eq(weir_object_create(rt, FEW * PAGE, &options, &object), WEIR_ENOSUPPORT);
    }
    cr_expect_eq(weir_unmap_keep((char *)pinned + PAGE), WEIR_ENOENT);
    pinned = reattach(rt, "pinned", FEW, &is_old);
    cr_expect(is_old);
    cr_expect_eq(weir_unmap_keep((char *)pinned + PAGE), WEIR_ENOENT);
    real_check(pinned, FEW, 2);
    weir_close(rt);
}

Test(region_keep, another_size_is_refused_and_the_newest_of_a_name_counts)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_region_options options = {
        .size = sizeof(options), .name = "book", .reserve_bytes = MIB << 10, .reattach = 1};
    void *memory;

    fill_and_keep(rt, "book", FEW, 1);
    cr_expect_eq(map_named(rt, "book", FEW + 1, 1, &memory), WEIR_EINVAL);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "another size"));
    cr_expect_eq(map_named(rt, "book", FEW - 1, 1, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_map(rt, FEW * PAGE, &options, &memory), WEIR_EINVAL);
    cr_expect_eq(map_named(rt, "", FEW, 1, &memory), WEIR_EINVAL);
    cr_expect_eq(map_named(rt, NULL, FEW, 1, &memory), WEIR_EINVAL);
    cr_expect_eq(map_named(rt, "a name of thirty-two characters!", FEW, 1, &memory), WEIR_EINVAL);
    memory = map_new(rt, "book", FEW); /* the one that is kept is not looked for */
    real_fill(memory, FEW, 2);
    cr_expect_eq(real_stats(rt).kept_bytes, FEW * PAGE);
    keep(memory);
    cr_expect_eq(real_stats(rt).kept_bytes, FEW * PAGE);
    cr_expect_eq(real_stats(rt).regions_forgotten, 1);
    cr_expect(comes_back(rt, "book", FEW, 2));
    cr_expect_not(comes_back(rt, "book", FEW + 1, 0));
    weir_close(rt);
}

/* --- While everything else goes on ----------------------------------------------------------- */

#define KEEPERS 3
#define ROUNDS  6

static _Atomic(bool) is_over;

struct keeper {
    struct weir_runtime *rt;
    unsigned number;
    unsigned wrong, hits;
    pthread_t thread;
};

static void *keep_main(void *context)
{
    struct keeper *k = context;
    char name[16];
    uint64_t salt = 0;

    snprintf(name, sizeof(name), "keeper %u", k->number);
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct weir_region_stats stats = {.size = sizeof(stats)};
        size_t pages = FEW / 2 + 100 * k->number;
        volatile uint64_t *words;
        void *memory;

        k->wrong += map_named(k->rt, name, pages, 1, &memory) != WEIR_OK;
        k->wrong += weir_region_stats(memory, &stats) != WEIR_OK;
        words = memory;
        k->hits += stats.reattached > 0;
        for (size_t i = 0; i < pages; i++) {
            uint64_t expected = stats.reattached > 0 ? salt * (i + 1) : 0;

            k->wrong += words[i * 512] != expected;
            words[i * 512] = (round + 1) * (i + 1);
        }
        salt = round + 1;
        k->wrong += weir_unmap_keep(memory) != WEIR_OK;
        usleep(2000);
    }
    return NULL;
}

/* Back ends come and go, the budget grows and shrinks, somebody looks on. */
static void *disturb_main(void *context)
{
    struct weir_runtime *rt = context;
    static char report[16384];
    uintptr_t wrong = 0;

    for (unsigned round = 0; !is_over; round++) {
        struct weir_backend_state state = {0};
        uint32_t added;

        wrong += weir_backend_get(rt, 0, &state) != WEIR_OK;
        wrong += weir_backend_add(rt, "mem:?size=64M", &added) != WEIR_OK;
        wrong += weir_backend_drain(rt, state.number) != WEIR_OK;
        (void)weir_budget_set(rt, BUDGET - (round % 3) * MIB, 0);
        weir_report(rt, report, sizeof(report));
        usleep(30000);
    }
    return (void *)wrong;
}

static void keep_beside_all(struct weir_runtime *rt)
{
    struct keeper keepers[KEEPERS];
    char *other = real_map(rt, PAGES * PAGE);
    pthread_t disturber;
    void *wrong;

    is_over = false;
    cr_assert_eq(pthread_create(&disturber, NULL, disturb_main, rt), 0);
    for (unsigned i = 0; i < KEEPERS; i++) {
        keepers[i] = (struct keeper){.rt = rt, .number = i};
        cr_assert_eq(pthread_create(&keepers[i].thread, NULL, keep_main, &keepers[i]), 0);
    }
    for (uint64_t salt = 0; salt < 3; salt++) {
        real_fill(other, PAGES / 4, salt);
        real_check(other, PAGES / 4, salt);
    }
    for (unsigned i = 0; i < KEEPERS; i++) {
        pthread_join(keepers[i].thread, NULL);
        cr_expect_eq(keepers[i].wrong, 0);
        cr_expect_gt(keepers[i].hits, 0);
    }
    is_over = true;
    pthread_join(disturber, &wrong);
    cr_expect_eq((uintptr_t)wrong, 0);
}

Test(region_keep, regions_are_kept_while_all_else_goes_on, .timeout = 120)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], BUDGET, "mem:?size=64M");

        if (rt)
            keep_beside_all(rt);
        weir_close(rt); /* with what is still kept */
    }
}

/* Reads and writes of its pages are in flight. */
Test(region_keep, requests_in_flight_do_not_mind, .timeout = 120)
{
    struct weir_runtime *rt = real_open(
        4 * MIB, "chaos(mem:?size=256M)?seed=3&delay_us=5000&jitter_us=10000&reorder=1");

    for (uint64_t round = 0; round < 4; round++) {
        char *memory = map_new(rt, "book", PAGES);

        real_fill(memory, PAGES, round);
        (void)weir_advise(memory, 512 * PAGE, WEIR_WILLNEED);
        keep(memory); /* in the place of the one before, every other time */
        if (round % 2)
            cr_expect(comes_back(rt, "book", PAGES, round));
    }
    weir_close(rt);
}
