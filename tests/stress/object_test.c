/* SPDX-License-Identifier: MIT */

/* The promises of weir_object.h, one by one, on the real kernel. */

#include <weir/weir_object.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/stress/real.h"

#define BUDGET     (4 * MIB)
#define PAGES      ((size_t)4096) /* 16 MiB: four times the budget */
#define VIEWS      300
#define VIEW_PAGES ((size_t)64)
#define APART      12 /* one view from the next, in pages */

static struct weir_object *create(struct weir_runtime *rt, uint64_t bytes)
{
    struct weir_object *object = NULL;
    int error = weir_object_create(rt, bytes, NULL, &object);

    cr_assert_eq(error, WEIR_OK, "weir_object_create gave %s: %s", weir_error_name(error),
                 real_events.text[WEIR_FAILURE]);
    return object;
}

static void *view(struct weir_object *object, size_t page, size_t pages)
{
    void *memory = NULL;
    int error = weir_view_map(object, page * PAGE, pages * PAGE, &memory);

    cr_assert_eq(error, WEIR_OK, "weir_view_map gave %s: %s", weir_error_name(error),
                 real_events.text[WEIR_FAILURE]);
    return memory;
}

static volatile uint64_t *word(void *memory, size_t page)
{
    return (volatile uint64_t *)memory + page * PAGE / 8;
}

/* Everything has left memory when other pages fill the budget. */
static void push_out(struct weir_runtime *rt)
{
    void *memory = real_map(rt, 2 * BUDGET);

    real_fill(memory, 2 * BUDGET / PAGE, 77);
    cr_assert_eq(weir_unmap(memory), WEIR_OK);
}

Test(object, an_object_larger_than_the_budget_keeps_its_bytes)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);
    void *one = view(object, 0, PAGES), *other = view(object, 0, PAGES);

    real_fill(one, PAGES, 1);
    real_check(other, PAGES, 1);
    cr_assert_leq(real_resident(other, PAGES), BUDGET / PAGE);
    real_fill(other, PAGES, 2);
    real_check(one, PAGES, 2);
    cr_assert_eq(weir_unmap(one), WEIR_OK);
    real_check(other, PAGES, 2);
    cr_assert_eq(weir_unmap(other), WEIR_OK);
    cr_assert_eq(weir_object_close(object), WEIR_OK);
    cr_assert_eq(real_stats(rt).slots_used, 0);
    cr_assert_eq(weir_close(rt), WEIR_OK);
}

Test(object, it_is_zero_before_the_first_store)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);
    const unsigned char *one = view(object, 0, PAGES), *other = view(object, 0, PAGES);

    for (size_t i = 0; i < PAGES * PAGE; i += 1021)
        cr_assert_eq(one[i] | other[PAGES * PAGE - 1 - i], 0);
    cr_assert_eq(real_stats(rt).pages_written, 0, "zeros are forgotten when they leave");
    weir_close(rt);
}

/* Partial views at all offsets, hundreds of them: each store is seen by all that show the page. */
Test(object, hundreds_of_views_show_one_memory)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);
    void *all = view(object, 0, PAGES), *part[VIEWS];
    uint64_t *expected = calloc(PAGES, sizeof(*expected)), random = 1;

    for (size_t i = 0; i < VIEWS; i++) {
        part[i] = view(object, i * APART, VIEW_PAGES);
        cr_assert_eq((uintptr_t)part[i] % (2 * MIB), 0);
    }
    for (uint64_t round = 1; round <= 15000; round++) {
        size_t i = (random = random * 6364136223846793005u + 1) >> 33, page, in;

        i %= VIEWS;
        in = random % VIEW_PAGES;
        page = i * APART + in;
        cr_assert_eq(*word(part[i], in), expected[page]);
        *word(part[i], in) = expected[page] = round;
        cr_assert_eq(*word(all, page), round);
        if (i > 0 && in + APART < VIEW_PAGES)
            cr_assert_eq(*word(part[i - 1], in + APART), round);
    }
    cr_assert_gt(real_stats(rt).views_mapped, VIEWS);
    cr_assert_gt(real_stats(rt).views_unmapped, VIEWS);
    free(expected);
    weir_close(rt);
}

static size_t mapped_in(void *memory, size_t pages)
{
    uint64_t entry;
    size_t count = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);

    for (size_t i = 0; i < pages; i++) {
        off_t at = (off_t)(((uintptr_t)memory / PAGE + i) * sizeof(entry));

        cr_assert_eq(pread(fd, &entry, sizeof(entry), at), (ssize_t)sizeof(entry));
        count += entry >> 63;
    }
    close(fd);
    return count;
}

/* A page that leaves is unmapped wherever it is mapped, and no other page is (seed E2, E3, E8). */
Test(object, victims_are_unmapped_alone)
{
    struct weir_runtime *rt = real_open(64 * MIB, "mem:?size=64M");
    struct weir_object *object = create(rt, 64 * PAGE);
    void *views[100];
    uint64_t unmapped;

    for (size_t i = 0; i < 100; i++) {
        views[i] = view(object, 0, 64);
        cr_assert_eq(weir_advise(views[i], 64 * PAGE, WEIR_RANDOM), WEIR_OK);
        for (size_t page = 0; page < 64; page++)
            if (i == 0 || (page + i) % 3 == 0)
                *word(views[i], page) = i;
    }
    cr_assert_eq(mapped_in(views[0], 64), 64);
    cr_assert_eq(mapped_in(views[3], 64), 22);
    cr_assert_eq(real_stats(rt).views_mapped, 33 * 22 + 33 * 21 + 33 * 21);
    unmapped = real_stats(rt).views_unmapped;
    cr_assert_eq(weir_advise((char *)views[9] + 3 * PAGE, PAGE, WEIR_DISCARD), WEIR_OK);
    for (size_t i = 0; i < 100; i++)
        cr_assert_eq(mapped_in(views[i], 64), i == 0 ? 63u : 21u);
    cr_assert_geq(real_stats(rt).views_unmapped - unmapped, 34);
    cr_assert_leq(real_stats(rt).views_unmapped - unmapped, 100);
    weir_close(rt);
}

/* Who walks through resident pages in one more view has many of them mapped by one fault. */
Test(object, a_walk_through_one_more_view_is_recognised)
{
    struct weir_runtime *rt = real_open(64 * MIB, "mem:?size=64M");
    struct weir_object *object = create(rt, 4096 * PAGE);
    void *one = view(object, 0, 4096), *up = view(object, 0, 4096), *down = view(object, 0, 4096);

    real_fill(one, 4096, 9);
    real_check(up, 4096, 9);
    cr_assert_leq(real_stats(rt).views_mapped, 1024);
    for (size_t page = 4096; page > 0; page--)
        *word(down, page - 1) = page;
    cr_assert_leq(real_stats(rt).views_mapped, 2048);
    for (size_t page = 0; page < 4096; page++)
        cr_assert_eq(*word(up, page), page + 1);
    weir_close(rt);
}

Test(object, an_object_lives_until_its_last_view)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);
    void *one = view(object, 0, PAGES), *other = view(object, 0, PAGES);

    real_fill(one, PAGES, 5);
    cr_assert_eq(weir_object_close(object), WEIR_OK);
    cr_assert_eq(weir_unmap(one), WEIR_OK);
    cr_assert_eq(weir_unmap(one), WEIR_ENOENT);
    real_check(other, PAGES, 5);
    cr_assert_gt(real_stats(rt).slots_used, 0);
    cr_assert_eq(weir_unmap(other), WEIR_OK);
    for (int i = 0; i < 1000 && real_stats(rt).slots_used; i++)
        usleep(1000); /* slots under write are freed by their completion */
    cr_assert_eq(real_stats(rt).slots_used, 0);
    cr_assert_eq(real_stats(rt).mapped_bytes, 0);
    weir_close(rt);
}

Test(object, contents_stay_while_no_view_is_there)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);

    for (uint64_t round = 1; round < 4; round++) {
        void *memory = view(object, 0, PAGES);

        if (round > 1)
            real_check(memory, PAGES, round - 1);
        real_fill(memory, PAGES, round);
        cr_assert_eq(weir_unmap(memory), WEIR_OK);
        push_out(rt);
    }
    weir_close(rt);
}

Test(object, nonsense_is_refused)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, 10 * PAGE - 1);
    struct weir_region_options wrong = {.size = 1};
    void *memory;

    cr_expect_eq(weir_object_create(NULL, PAGE, NULL, &object), WEIR_EINVAL);
    cr_expect_eq(weir_object_create(rt, 0, NULL, &object), WEIR_EINVAL);
    cr_expect_eq(weir_object_create(rt, PAGE, &wrong, &object), WEIR_EINVAL);
    cr_expect_eq(weir_object_create(rt, PAGE, NULL, NULL), WEIR_EINVAL);
    cr_expect_eq(weir_object_create(rt, UINT64_MAX, NULL, &object), WEIR_EINVAL);
    cr_expect_eq(weir_view_map(NULL, 0, PAGE, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_view_map(object, 0, 0, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_view_map(object, 0, PAGE, NULL), WEIR_EINVAL);
    cr_expect_eq(weir_view_map(object, 1, PAGE, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_view_map(object, 10 * PAGE, 1, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_view_map(object, 9 * PAGE, PAGE + 1, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_view_map(object, PAGE, UINT64_MAX - 1, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_view_map(object, 9 * PAGE, 1, &memory), WEIR_OK);
    cr_expect_eq(weir_unmap((char *)memory + 1), WEIR_ENOENT);
    cr_expect_eq(weir_object_close(NULL), WEIR_OK);
    weir_close(rt);
}

Test(object, there_is_an_end_to_views)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGE);
    void *first = view(object, 0, 1), *last = first, *memory;

    *word(first, 0) = 9;
    for (uint32_t i = 1; i < WEIR_OBJECT_VIEWS_MAX; i++) {
        last = view(object, 0, 1);
        cr_assert_eq(*word(last, 0), 9);
    }
    cr_assert_eq(weir_view_map(object, 0, PAGE, &memory), WEIR_EBUSY);
    cr_assert(strstr(real_events.text[WEIR_FAILURE], "4096"), "%s", real_events.text[WEIR_FAILURE]);
    push_out(rt); /* out of all of them */
    *word(first, 0) = 10;
    cr_assert_eq(*word(last, 0), 10);
    cr_assert_eq(weir_unmap(first), WEIR_OK);
    memory = view(object, 0, 1);
    cr_assert_eq(*word(memory, 0), 10);
    weir_close(rt);
}

Test(object, a_discard_through_one_view_is_seen_in_all)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);
    void *one = view(object, 0, PAGES), *other = view(object, 100, PAGES - 100);

    real_fill(one, PAGES, 6);
    cr_assert_eq(weir_advise(other, (PAGES - 100) * PAGE, WEIR_DISCARD), WEIR_OK);
    real_check(one, 100, 6);
    for (size_t i = 100; i < PAGES; i++)
        cr_assert_eq(*word(one, i) | *word(other, i - 100), 0);
    weir_close(rt);
}

/* A free hint may cost the bytes; but never what was stored after it, through any view. */
Test(object, a_free_hint_ends_with_a_store_through_any_view)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, 512 * PAGE);
    void *views[3] = {view(object, 0, 512), view(object, 0, 512), view(object, 0, 512)};

    for (size_t round = 0; round < 6; round++) {
        uint64_t old = round + 10, new = round + 100;

        for (size_t i = 0; i < 512; i++) {
            *word(views[0], i) = old;
            if (round & 1)
                (void)*word(views[1], i);
        }
        cr_assert_eq(weir_advise(views[round % 3], 512 * PAGE, WEIR_FREE), WEIR_OK);
        for (size_t i = 0; i < 512; i += 2)
            *word(views[1 + i % 4 / 2], i) = new;
        push_out(rt);
        for (size_t i = 0; i < 512; i++) {
            uint64_t found = *word(views[0], i);

            cr_assert(i % 2 ? found == old || found == 0 : found == new, "page %zu: %llu", i,
                      (unsigned long long)found);
        }
    }
    weir_close(rt);
}

Test(object, hints_about_places_are_taken)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);
    void *one = view(object, 0, PAGES), *other = view(object, 0, PAGES);
    uint64_t reads;

    real_fill(one, 512, 7);
    push_out(rt);
    cr_assert_eq(weir_advise(other, 64 * PAGE, WEIR_WILLNEED), WEIR_OK);
    for (int i = 0; i < 2000 && real_resident(one, 64) < 60; i++)
        usleep(1000);
    reads = real_stats(rt).reads_demand;
    real_check(one, 64, 7);
    cr_assert_leq(real_stats(rt).reads_demand, reads + 4);
    cr_assert_eq(weir_advise(other, 512 * PAGE, WEIR_COLD), WEIR_OK);
    cr_assert_eq(weir_advise(other, 512 * PAGE, WEIR_SEQUENTIAL), WEIR_OK);
    real_check(other, 512, 7);
    weir_close(rt);
}

/* What a system call reads and writes through one view, the program sees through another. */
Test(object, a_pin_serves_system_calls)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);
    char *one = view(object, 0, PAGES), *other = view(object, 0, PAGES);
    int pipes[2];

    cr_assert_eq(pipe(pipes), 0);
    real_fill(one, PAGES, 8);
    for (size_t page = 0; page + 8 < PAGES; page += 1000) {
        memset(one + page * PAGE, 'a', 8 * PAGE);
        cr_assert_eq(weir_pin(other + page * PAGE, 8 * PAGE, WEIR_READ), WEIR_OK);
        cr_assert_eq(write(pipes[1], other + page * PAGE, 8 * PAGE), (ssize_t)(8 * PAGE));
        cr_assert_eq(weir_unpin(other + page * PAGE, 8 * PAGE), WEIR_OK);
        memset(one + page * PAGE, 'b', 8 * PAGE);
        cr_assert_eq(weir_pin(other + page * PAGE, 8 * PAGE, WEIR_WRITE), WEIR_OK);
        push_out(rt);
        cr_assert_eq(read(pipes[0], other + page * PAGE, 8 * PAGE), (ssize_t)(8 * PAGE));
        cr_assert_eq(weir_advise(one + page * PAGE, PAGE, WEIR_DISCARD), WEIR_EBUSY);
        cr_assert_eq(weir_unpin(one + page * PAGE, 8 * PAGE), WEIR_OK, "pins are of the pages");
        push_out(rt);
        for (size_t i = 0; i < 8 * PAGE; i++)
            cr_assert_eq(one[page * PAGE + i], 'a');
    }
    weir_close(rt);
}

/* --- Views that come and go while others touch ----------------------------------------------- */

struct churn {
    struct weir_object *object;
    char *memory;
    uint64_t slot; /* of each page this word is the thread's own */
    _Atomic(bool) *stop;
};

static void *touch_main(void *context)
{
    const struct churn *c = context;
    uint64_t *mine = calloc(PAGES, sizeof(*mine)), random = c->slot + 1;

    while (!atomic_load(c->stop)) {
        size_t page = ((random = random * 6364136223846793005u + 1442695040888963407u) >> 33) %
                      PAGES;

        cr_assert_eq(word(c->memory, page)[c->slot], mine[page]);
        word(c->memory, page)[c->slot] = mine[page] = random | 1;
    }
    free(mine);
    return NULL;
}

Test(object, views_come_and_go_while_others_touch)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = create(rt, PAGES * PAGE);
    _Atomic(bool) stop = false;
    struct churn churns[2];
    pthread_t threads[2];

    for (uint64_t i = 0; i < 2; i++) {
        churns[i] = (struct churn){object, view(object, 0, PAGES), i, &stop};
        pthread_create(&threads[i], NULL, touch_main, &churns[i]);
    }
    for (uint64_t i = 0; i < 150; i++) {
        size_t first = i * 37 % PAGES, pages = 1 + i * 101 % (PAGES - first);
        void *memory = view(object, first, pages);

        for (size_t page = 0; page < pages; page += 61)
            word(memory, page)[7] = word(memory, page)[7] + 1;
        cr_assert_eq(weir_unmap(memory), WEIR_OK);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    weir_close(rt);
}

Test(object, the_runtime_takes_what_is_left_with_it)
{
    for (int i = 0; i < 3; i++) {
        struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
        struct weir_object *object = create(rt, PAGES * PAGE);

        real_fill(view(object, 0, PAGES), PAGES, 1);
        (void)view(object, 5, 9);
        create(rt, PAGE);
        if (i == 1)
            cr_assert_eq(weir_object_close(object), WEIR_OK);
        cr_assert_eq(weir_close(rt), WEIR_OK);
    }
}

/* The program's own madvise() unmaps from one view, and loses nothing. */
Test(object, a_foreign_madvise_loses_nothing)
{
    struct weir_runtime *rt = real_open(64 * MIB, "mem:?size=64M");
    struct weir_object *object = create(rt, 64 * PAGE);
    void *one = view(object, 0, 64), *other = view(object, 0, 64);

    real_fill(one, 64, 3);
    cr_assert_eq(madvise(one, 64 * PAGE, MADV_DONTNEED), 0);
    real_check(other, 64, 3);
    real_check(one, 64, 3);
    /* This one frees the pages themselves: zeros, as after a discard. */
    cr_assert_eq(madvise(one, 64 * PAGE, MADV_REMOVE), 0);
    for (size_t i = 0; i < 64; i++)
        cr_assert_eq(*word(one, i) | *word(other, i), 0);
    cr_assert_eq(real_stats(rt).foreign_discards, 64);
    weir_close(rt);
}

/* --- Kernels that can do less ---------------------------------------------------------------- */

Test(object, without_protection_every_page_is_dirty)
{
    struct weir_runtime *rt;
    struct weir_object *object;
    char report[4096];
    void *one, *other;

    setenv("WR_TEST_NO_VIEW_PROTECTION", "1", 1);
    rt = real_open(BUDGET, "mem:?size=64M");
    object = create(rt, PAGES * PAGE);
    one = view(object, 0, PAGES);
    other = view(object, 0, PAGES);
    weir_report(rt, report, sizeof(report));
    cr_assert(strstr(report, "objects without protection"), "%s", report);
    real_fill(one, PAGES, 1);
    real_check(other, PAGES, 1);
    real_fill(other, PAGES, 2);
    cr_assert_eq(weir_advise(other, 64 * PAGE, WEIR_WILLNEED), WEIR_OK);
    real_check(one, PAGES, 2);
    cr_assert_eq(weir_pin(one, 8 * PAGE, WEIR_WRITE), WEIR_OK);
    real_fill(other, 8, 3);
    cr_assert_eq(weir_unpin(one, 8 * PAGE), WEIR_OK);
    real_check(one, 8, 3);
    weir_close(rt);
}

Test(object, without_minor_faults_there_are_no_objects)
{
    struct weir_object *object;
    struct weir_runtime *rt;
    void *memory;

    setenv("WR_TEST_NO_OBJECTS", "1", 1);
    rt = real_open(BUDGET, "mem:?size=64M");
    cr_assert_eq(weir_object_create(rt, PAGE, NULL, &object), WEIR_ENOSUPPORT);
    cr_assert(strstr(real_events.text[WEIR_FAILURE], "Linux 5.14"), "%s",
              real_events.text[WEIR_FAILURE]);
    memory = real_map(rt, PAGES * PAGE);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    weir_close(rt);
}
