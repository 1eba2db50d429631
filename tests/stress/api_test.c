/* SPDX-License-Identifier: MIT */

/* The promises of weir.h, one by one, on the real kernel. */

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/stress/real.h"

#define BUDGET (4 * MIB)
#define PAGES  ((size_t)4096) /* 16 MiB: four times the budget */

/* Pages written when each leaves dirty once; few may leave between two stores of their filling. */
#define ONCE_EACH (PAGES + 8)

/* No page of PAGES was written twice, but by the cleaner, which moves them at the back end. */
static void expect_written_once(struct weir_runtime *rt)
{
    struct weir_stats s = real_stats(rt);

    cr_assert_leq(s.pages_written, ONCE_EACH + s.pages_cleaned, "%llu written, %llu cleaned",
                  (unsigned long long)s.pages_written, (unsigned long long)s.pages_cleaned);
}

Test(api, a_region_larger_than_the_budget_keeps_its_bytes)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory = real_map(rt, PAGES * PAGE);

    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    cr_assert_leq(real_resident(memory, PAGES), BUDGET / PAGE);
    cr_assert_eq(weir_unmap(memory), WEIR_OK);
    cr_assert_eq(weir_close(rt), WEIR_OK);
}

Test(api, memory_is_zero_before_the_first_store)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    const unsigned char *memory = real_map(rt, PAGES * PAGE);

    for (size_t i = 0; i < PAGES * PAGE; i += 509)
        cr_assert_eq(memory[i], 0);
    cr_assert_eq(real_stats(rt).pages_written, 0);
    weir_close(rt);
}

Test(api, sizes_are_rounded_up_and_zero_is_refused)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory;

    cr_assert_eq(weir_map(rt, 0, NULL, &memory), WEIR_EINVAL);
    memory = real_map(rt, 1);
    memset(memory, 7, PAGE);
    cr_assert_eq((uintptr_t)memory % (2 * MIB), 0);
    weir_close(rt);
}

Test(api, regions_come_and_go)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory[40];

    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 40; i++) {
            memory[i] = real_map(rt, (i + 1) * 6 * PAGE);
            real_check((char *)memory[i] - 0, 0, 0);
            real_fill(memory[i], (i + 1) * 6, i);
        }
        for (size_t i = 0; i < 40; i++)
            real_check(memory[i], (i + 1) * 6, i);
        for (size_t i = 0; i < 40; i++)
            cr_assert_eq(weir_unmap(memory[(i * 7) % 40]), WEIR_OK);
    }
    cr_assert_eq(weir_unmap(memory[0]), WEIR_ENOENT);
    cr_assert_eq(weir_unmap(&rt), WEIR_ENOENT);
    cr_assert_eq(real_stats(rt).slots_used, 0);
    weir_close(rt);
}

Test(api, two_runtimes_do_not_meet)
{
    struct weir_runtime *a = real_open(BUDGET, "mem:?size=64M");
    struct weir_runtime *b = real_open(BUDGET, "mem:?size=64M");
    void *in_a = real_map(a, PAGES * PAGE), *in_b = real_map(b, PAGES * PAGE);

    real_fill(in_a, PAGES, 1);
    real_fill(in_b, PAGES, 2);
    real_check(in_a, PAGES, 1);
    weir_close(a);
    real_check(in_b, PAGES, 2);
    weir_close(b);
}

Test(api, discard_zeroes_and_frees)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    unsigned char *memory = real_map(rt, PAGES * PAGE);

    real_fill(memory, PAGES, 3);
    cr_assert_gt(real_stats(rt).slots_used, 0);
    cr_assert_eq(weir_advise(memory, PAGES * PAGE, WEIR_DISCARD), WEIR_OK);
    cr_assert_eq(real_resident(memory, PAGES), 0);
    for (size_t i = 0; i < PAGES; i++)
        cr_assert_eq(memory[i * PAGE] | memory[i * PAGE + PAGE - 1], 0);
    /* Slots under write are freed by their completion. */
    for (int i = 0; i < 1000 && real_stats(rt).slots_used; i++)
        usleep(1000);
    cr_assert_eq(real_stats(rt).slots_used, 0);
    weir_close(rt);
}

/* Walks upward through fresh memory and leaves out every 16th page: its touches map runs, and with
 * them pages that it will not touch. */
#define WALK_PAGES 8000u
#define WALK_APART 16u

struct walk {
    unsigned char *memory;
    _Atomic(size_t) at;
};

static void *walk_main(void *context)
{
    struct walk *walk = context;

    for (size_t page = 0; page < WALK_PAGES; page++) {
        if (page % WALK_APART != WALK_APART - 1)
            walk->memory[page * PAGE] = 1;
        atomic_store(&walk->at, page);
    }
    atomic_store(&walk->at, SIZE_MAX / 2);
    return NULL;
}

/* A page may be discarded at the very moment at which a neighbour's touch maps it too. */
Test(api, a_discard_is_obeyed_while_a_run_is_mapped)
{
    struct weir_runtime *rt = real_open(2 * WALK_PAGES * PAGE, "mem:?size=64M");
    struct walk walk = {.memory = real_map(rt, WALK_PAGES * PAGE)};
    unsigned disobeyed = 0;
    pthread_t walker;

    pthread_create(&walker, NULL, walk_main, &walk);
    for (size_t page = WALK_APART - 1; page < WALK_PAGES; page += WALK_APART) {
        unsigned char *place = walk.memory + page * PAGE;
        volatile unsigned char *byte = place;

        while (atomic_load(&walk.at) + 40 < page)
            ;
        do {
            *byte = 7;
            cr_assert_eq(weir_advise(place, PAGE, WEIR_DISCARD), WEIR_OK);
            for (volatile int pause = 0; pause < 1000; pause++)
                ;
            disobeyed += *byte != 0;
        } while (atomic_load(&walk.at) < page);
    }
    pthread_join(walker, NULL);
    cr_assert_eq(disobeyed, 0);
    weir_close(rt);
}

Test(api, a_hint_touches_whole_pages_only)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    unsigned char *memory = real_map(rt, 16 * PAGE);

    memset(memory, 9, 16 * PAGE);
    cr_assert_eq(weir_advise(memory + 1, 4 * PAGE - 2, WEIR_DISCARD), WEIR_OK);
    cr_assert_eq(memory[0], 9);
    cr_assert_eq(memory[PAGE], 0);
    cr_assert_eq(memory[3 * PAGE - 1], 0);
    cr_assert_eq(memory[3 * PAGE], 9);
    cr_assert_eq(weir_advise(memory + 5, 10, WEIR_DISCARD), WEIR_OK);
    cr_assert_eq(memory[5], 9);
    cr_assert_eq(weir_advise(memory, 17 * PAGE, WEIR_DISCARD), WEIR_EINVAL);
    cr_assert_eq(weir_advise(&rt, 1, WEIR_DISCARD), WEIR_EINVAL);
    cr_assert_eq(weir_advise(memory, PAGE, (enum weir_hint)99), WEIR_EINVAL);
    weir_close(rt);
}

Test(api, freed_pages_are_never_written)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    size_t half = BUDGET / 2 / PAGE;
    volatile uint64_t *freed = real_map(rt, half * PAGE);
    void *others = real_map(rt, PAGES * PAGE);
    struct weir_stats stats;

    real_fill((void *)(uintptr_t)freed, half, 4);
    cr_assert_eq(weir_advise((void *)(uintptr_t)freed, half * PAGE, WEIR_FREE), WEIR_OK);
    freed[512 * 3] = 77; /* a store ends the hint for its page */
    real_fill(others, PAGES, 5);
    real_check(others, PAGES, 5);
    stats = real_stats(rt);
    cr_assert_geq(stats.pages_elided_free, half - 64, "only %llu were forgotten",
                  (unsigned long long)stats.pages_elided_free);
    cr_assert_eq(freed[512 * 3], 77);
    for (size_t i = 0; i < half; i++)
        cr_assert(i == 3 || freed[i * 512] == 0 || freed[i * 512] == (i * 0x9e3779b97f4a7c15u ^ 4));
    weir_close(rt);
}

Test(api, zero_pages_are_never_written)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    unsigned char *memory = real_map(rt, PAGES * PAGE);

    for (size_t i = 0; i < PAGES; i++)
        memory[i * PAGE] = 0; /* a store, of zero */
    cr_assert_eq(real_stats(rt).pages_written, 0);
    cr_assert_gt(real_stats(rt).pages_elided_zero, PAGES / 2);
    cr_assert_eq(real_stats(rt).slots_used, 0);
    weir_close(rt);
}

Test(api, clean_pages_are_not_written_again)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    void *memory = real_map(rt, PAGES * PAGE);

    real_fill(memory, PAGES, 6);
    for (int pass = 0; pass < 3; pass++)
        real_check(memory, PAGES, 6);
    expect_written_once(rt);
    weir_close(rt);
}

Test(api, pinned_pages_stay_and_system_calls_work_on_them)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    char *memory = real_map(rt, PAGES * PAGE);
    char *pinned = memory + 100 * PAGE;
    int fd = open("/dev/zero", O_RDONLY);

    real_fill(memory, PAGES, 7);
    cr_assert_eq(weir_pin(pinned, 64 * PAGE, WEIR_WRITE), WEIR_OK);
    real_fill(memory + 200 * PAGE, PAGES - 200, 8); /* pressure */
    cr_assert_eq(real_resident(pinned, 64), 64);
    cr_assert_eq(read(fd, pinned, 64 * PAGE), (ssize_t)(64 * PAGE));
    cr_assert_eq(weir_advise(pinned, PAGE, WEIR_DISCARD), WEIR_EBUSY);
    cr_assert_eq(weir_unpin(pinned, 64 * PAGE), WEIR_OK);
    cr_assert_eq(weir_unpin(pinned, 64 * PAGE), WEIR_EINVAL);
    real_fill(memory + 200 * PAGE, PAGES - 200, 9);
    for (size_t i = 0; i < 64 * PAGE; i += 64)
        cr_assert_eq(pinned[i], 0);
    weir_close(rt);
}

Test(api, a_read_pin_does_not_dirty)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    char *memory = real_map(rt, PAGES * PAGE);
    int fd = open("/dev/null", O_WRONLY);

    real_fill(memory, PAGES, 7);
    real_check(memory, PAGES, 7);
    for (size_t i = 0; i < PAGES; i += 16) {
        cr_assert_eq(weir_pin(memory + i * PAGE, 16 * PAGE, WEIR_READ), WEIR_OK);
        cr_assert_eq(write(fd, memory + i * PAGE, 16 * PAGE), (ssize_t)(16 * PAGE));
        cr_assert_eq(weir_unpin(memory + i * PAGE, 16 * PAGE), WEIR_OK);
    }
    real_check(memory, PAGES, 7);
    expect_written_once(rt);
    weir_close(rt);
}

#define SLOW_PIN_PAGES ((size_t)400)

static struct {
    char *memory;
    _Atomic(bool) has_begun, is_over;
} slow_pin;

static void *pin_slowly(void *context)
{
    slow_pin.has_begun = true;
    cr_assert_eq(weir_pin(slow_pin.memory, SLOW_PIN_PAGES * PAGE, WEIR_READ), WEIR_OK);
    slow_pin.is_over = true;
    return context;
}

/* Pages that have to be read, one after the other, and others who map and unmap meanwhile. */
Test(api, a_long_pin_holds_up_nobody, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?delay_us=1000");
    pthread_t thread;

    slow_pin.memory = real_map(rt, PAGES * PAGE);
    real_fill(slow_pin.memory, PAGES, 1);
    for (int i = 0; i < 3000 && real_resident(slow_pin.memory, SLOW_PIN_PAGES) > 0; i++)
        usleep(1000);
    cr_assert_eq(pthread_create(&thread, NULL, pin_slowly, NULL), 0);
    while (!slow_pin.has_begun)
        usleep(1000);
    usleep(20000);
    cr_assert_eq(weir_unmap(real_map(rt, PAGE)), WEIR_OK);
    cr_expect_not(slow_pin.is_over);
    pthread_join(thread, NULL);
    cr_assert_eq(weir_unpin(slow_pin.memory, SLOW_PIN_PAGES * PAGE), WEIR_OK);
    real_check(slow_pin.memory, PAGES, 1);
    weir_close(rt);
}

/* But for page locks, which are held for a moment, and for which our own threads wait, too. */
static uint64_t waits_of(struct weir_runtime *rt)
{
    struct weir_stats s = real_stats(rt);

    return s.time_read.count + s.time_join.count + s.time_frame.count + s.time_reader.count +
           s.time_memory.count;
}

/* C20: the variant that does not wait exists, and may fail. */
Test(api, a_try_to_pin_waits_for_nothing)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?seed=1&delay_us=2000");
    char *memory = real_map(rt, PAGES * PAGE);
    uint64_t waits, pinned = 0, refused = 0;

    real_fill(memory, PAGES, 7);
    real_check(memory, 64, 7); /* these are there now */
    waits = waits_of(rt);
    cr_assert_eq(weir_pin_try(memory, 64 * PAGE, WEIR_WRITE), WEIR_OK);
    for (size_t i = 64; i < PAGES; i++) {
        int error = weir_pin_try(memory + i * PAGE, PAGE, WEIR_READ);

        cr_assert(error == WEIR_OK || error == WEIR_EAGAIN, "%s", weir_error_name(error));
        refused += error == WEIR_EAGAIN;
        pinned += error == WEIR_OK;
        if (error == WEIR_OK)
            cr_assert_eq(weir_unpin(memory + i * PAGE, PAGE), WEIR_OK);
    }
    cr_expect_eq(waits_of(rt), waits);
    cr_expect_gt(refused, PAGES / 2);
    cr_expect_gt(pinned, 0);
    cr_assert_eq(weir_pin_try(memory, PAGES * PAGE, WEIR_READ), WEIR_EAGAIN);
    cr_expect_eq(weir_unpin(memory, 64 * PAGE), WEIR_OK);
    cr_expect_eq(weir_unpin(memory, 64 * PAGE), WEIR_EINVAL, "no pin is left");
    real_check(memory, PAGES, 7);
    weir_close(rt);
}

/* When memory is all in use it does not wait for kswapd either. */
Test(api, a_try_to_pin_fresh_memory_ends_where_waiting_begins)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?seed=1&delay_us=20000");
    char *memory = real_map(rt, PAGES * PAGE);
    uint64_t waits;
    size_t tried = 0;
    int error;

    waits = waits_of(rt);
    do
        error = weir_pin_try(memory + tried * PAGE, PAGE, WEIR_WRITE);
    while (error == WEIR_OK && ++tried < PAGES);
    cr_expect_eq(error, WEIR_EAGAIN);
    cr_expect_gt(tried, BUDGET / PAGE / 2);
    cr_expect_eq(waits_of(rt), waits);
    cr_expect_eq(weir_unpin(memory, tried * PAGE), WEIR_OK);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    weir_close(rt);
}

Test(api, pinning_too_much_fails_and_leaves_no_pin)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    char *memory = real_map(rt, PAGES * PAGE);

    cr_assert_eq(weir_pin(memory, PAGES * PAGE, WEIR_WRITE), WEIR_ENOMEM);
    cr_assert_eq(weir_unpin(memory, PAGE), WEIR_EINVAL);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    weir_close(rt);
}

Test(api, the_budget_can_change)
{
    struct weir_runtime *rt = real_open(16 * MIB, "mem:?size=64M");
    void *memory = real_map(rt, PAGES * PAGE);

    real_fill(memory, PAGES, 2);
    cr_assert_gt(real_resident(memory, PAGES), 10 * MIB / PAGE);
    cr_assert_eq(weir_budget_set(rt, 4 * MIB, 10000), WEIR_OK);
    cr_assert_leq(real_resident(memory, PAGES), 4 * MIB / PAGE);
    real_check(memory, PAGES, 2);
    cr_assert_eq(weir_budget_set(rt, 32 * MIB, 0), WEIR_OK);
    real_check(memory, PAGES, 2);
    real_check(memory, PAGES, 2);
    cr_assert_gt(real_resident(memory, PAGES), 14 * MIB / PAGE);
    cr_assert_eq(weir_budget_set(rt, 4096, 0), WEIR_EINVAL);
    weir_close(rt);
}

Test(api, back_ends_are_added_filled_in_order_and_drained)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=4M");
    void *memory = real_map(rt, PAGES * PAGE);
    struct weir_backend_state state;
    uint32_t second;

    cr_assert_eq(weir_backend_add(rt, "mem:?size=64M", &second), WEIR_OK);
    real_fill(memory, PAGES, 3);
    cr_assert_eq(weir_backend_get(rt, 0, &state), WEIR_OK);
    cr_assert_gt(state.bytes_used, 3 * MIB);
    cr_assert_eq(weir_backend_get(rt, 1, &state), WEIR_OK);
    cr_assert_gt(state.bytes_used, 4 * MIB);
    cr_assert_eq(weir_backend_get(rt, 2, &state), WEIR_ENOENT);
    cr_assert_eq(weir_backend_drain(rt, 0), WEIR_OK);
    cr_assert_eq(weir_backend_get(rt, 0, &state), WEIR_OK);
    cr_assert_eq(state.number, second);
    cr_assert_eq(weir_backend_get(rt, 1, &state), WEIR_ENOENT);
    cr_assert_eq(weir_backend_drain(rt, 0), WEIR_ENOENT);
    real_check(memory, PAGES, 3);
    weir_close(rt);
}

static uint64_t used_of(struct weir_runtime *rt, uint32_t position)
{
    struct weir_backend_state state;

    cr_assert_eq(weir_backend_get(rt, position, &state), WEIR_OK);
    return state.bytes_used;
}

Test(api, pages_are_moved_from_one_back_end_to_another)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M&priority=2");
    void *memory = real_map(rt, PAGES * PAGE);
    uint64_t first, moved, all = 0;
    uint32_t second;

    cr_assert_eq(weir_backend_add(rt, "mem:?size=64M&priority=1", &second), WEIR_OK);
    real_fill(memory, PAGES, 3);
    cr_expect_eq(used_of(rt, 1), 0);
    first = used_of(rt, 0);
    cr_assert_gt(first, 4 * MIB);

    cr_assert_eq(weir_backend_move(rt, 0, second, 2 * MIB, &moved), WEIR_OK);
    cr_expect_gt(moved, 0);
    cr_expect_leq(moved, 2 * MIB);
    cr_expect_leq(used_of(rt, 0), first - moved);
    cr_expect_eq(real_stats(rt).pages_migrated, moved / PAGE);
    for (int i = 0; i < 100 && moved > 0; i++) {
        cr_assert_eq(weir_backend_move(rt, 0, second, 2 * MIB, &moved), WEIR_OK);
        all += moved;
    }
    cr_expect_gt(used_of(rt, 1), 2 * MIB, "%llu of %llu", (unsigned long long)used_of(rt, 1),
                 (unsigned long long)all);
    real_check(memory, PAGES, 3);

    cr_expect_eq(weir_backend_move(rt, 0, 0, MIB, &moved), WEIR_EINVAL);
    cr_expect_eq(moved, 0);
    cr_expect_eq(weir_backend_move(rt, 0, 7, MIB, &moved), WEIR_ENOENT);
    cr_expect_eq(weir_backend_move(NULL, 0, 1, MIB, &moved), WEIR_EINVAL);
    cr_expect_eq(weir_backend_move(rt, 0, second, MIB, NULL), WEIR_OK);
    weir_close(rt);
}

Test(api, a_drain_that_has_nowhere_to_go_is_refused)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory = real_map(rt, PAGES * PAGE);
    struct weir_backend_state state;

    real_fill(memory, PAGES, 3);
    cr_assert_eq(weir_backend_drain(rt, 0), WEIR_EFULL);
    cr_assert_eq(weir_backend_get(rt, 0, &state), WEIR_OK);
    cr_assert_not(state.draining);
    real_check(memory, PAGES, 3);
    weir_close(rt);
}

Test(api, bad_settings_are_refused_by_name)
{
    struct weir_options options;
    struct weir_runtime *rt;

    real_options(&options, 1 * MIB, "mem:?size=64M");
    cr_assert_eq(weir_open(&options, &rt), WEIR_EINVAL);
    cr_assert(strstr(real_events.text[WEIR_FAILURE], "WEIR_BUDGET"));
    real_options(&options, BUDGET, "nosuch:thing");
    cr_assert_eq(weir_open(&options, &rt), WEIR_ENOENT);
    cr_assert(strstr(real_events.text[WEIR_FAILURE], "nosuch"));
    real_options(&options, BUDGET, "mem:?size=64M");
    options.engine = "steam";
    cr_assert_eq(weir_open(&options, &rt), WEIR_EINVAL);
    cr_assert(strstr(real_events.text[WEIR_FAILURE], "steam"));
    real_options(&options, BUDGET, "mem:?size=64M");
    options.drop_batch_pages = 100000;
    cr_assert_eq(weir_open(&options, &rt), WEIR_EINVAL);
    cr_assert(strstr(real_events.text[WEIR_FAILURE], "drop_batch_pages"));
    setenv("WEIR_READAHEAD", "lots", 1);
    real_options(&options, BUDGET, "mem:?size=64M");
    cr_assert_eq(weir_open(&options, &rt), WEIR_EINVAL);
    cr_assert(strstr(real_events.text[WEIR_FAILURE], "WEIR_READAHEAD=lots"));
    cr_assert_eq(weir_open(&options, NULL), WEIR_EINVAL);
}

Test(api, the_environment_fills_what_the_program_leaves_open)
{
    struct weir_runtime *rt = NULL;

    setenv("WEIR_BUDGET", "16m", 1);
    setenv("WEIR_BACKENDS", " mem:?size=8M  mem:?size=16M ", 1);
    setenv("WEIR_ENGINE", "wp", 1);
    cr_assert_eq(weir_open(NULL, &rt), WEIR_OK);
    cr_assert_eq(real_stats(rt).budget_bytes, 16 * MIB);
    cr_assert_eq(real_stats(rt).slots_total, 24 * MIB / PAGE);
    weir_close(rt);
}

Test(api, options_of_a_newer_caller_are_refused_when_they_mean_something)
{
    struct {
        struct weir_options known;
        uint64_t unknown;
    } newer = {.unknown = 0};
    struct weir_runtime *rt = NULL;

    real_options(&newer.known, BUDGET, "mem:?size=64M");
    newer.known.size = sizeof(newer);
    cr_assert_eq(weir_open(&newer.known, &rt), WEIR_OK);
    weir_close(rt);
    newer.unknown = 1;
    cr_assert_eq(weir_open(&newer.known, &rt), WEIR_EINVAL);
}

Test(api, every_setting_is_a_row_and_defaults_are_valid)
{
    size_t rows = 0;

    for (const struct weir_setting *s; (s = weir_setting(rows)) != NULL; rows++) {
        cr_assert(s->name && s->initial && s->unit && strlen(s->help) > 10);
        cr_assert_eq(strncmp(s->environment, "WEIR_", 5), 0);
    }
    /* size and the listener with its context are no settings. */
    cr_assert_eq(rows, (sizeof(struct weir_options) - 3 * sizeof(void *)) / 8);
}

Test(api, errors_have_names_and_words)
{
    cr_assert_str_eq(weir_error_name(WEIR_EFULL), "WEIR_EFULL");
    cr_assert_str_eq(weir_error_text(WEIR_OK), "success");
    cr_assert_str_eq(weir_error_text(-1000), "unknown error");
}

/* The four lines of the seed, to the letter. */
Test(api, the_report_can_be_parsed_and_agrees_with_the_statistics)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory = real_map(rt, PAGES * PAGE);
    unsigned long long v[20];
    char report[8192];
    struct weir_stats s;
    const char *lines;

    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    usleep(50000);
    s = real_stats(rt);
    cr_assert_lt(weir_report(rt, report, sizeof(report)), sizeof(report));
    lines = strstr(report, "Swap cache:");
    cr_assert_not_null(lines);
    cr_assert_eq(sscanf(lines,
                        "Swap cache: add %llu [%llu-%llu], del %llu, find %llu/%llu [%llu] %llu%%\n"
                        "kswapd: total %llu overload %llu out of sync %llu\n"
                        "kswapd: wakeup %llu [g %llu y %llu o %llu r %llu] free %llu io %llu\n"
                        "kswapd: aged pages %llu dirty pages %llu\n",
                        &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9],
                        &v[10], &v[11], &v[12], &v[13], &v[14], &v[15], &v[16], &v[17], &v[18],
                        &v[19]),
                 20);
    cr_assert_eq(v[0], s.cache_added);
    cr_assert_eq(v[5], s.swap_faults);
    cr_assert_eq(v[11], s.reclaim_wakeups);
    cr_assert_eq(v[19], s.dirty_pages);
    cr_assert(strstr(report, "engine"));
    cr_assert(strstr(report, "mem:?size=64M"));
    weir_close(rt);
}

/* requirements.md, table of the twenty statistics: their identities. */
Test(api, the_statistics_keep_their_identities)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    volatile uint64_t *memory = real_map(rt, PAGES * PAGE);
    uint64_t random = 1;
    struct weir_stats s;

    for (int i = 0; i < 12000; i++) {
        random = random * 6364136223846793005u + 1;
        if (random >> 63)
            memory[(random >> 33) % PAGES * 512] = random;
        else
            (void)memory[(random >> 33) % PAGES * 512];
    }
    usleep(50000);
    s = real_stats(rt);
    cr_assert_geq(s.cache_added, s.cache_added_ahead + s.cache_added_reclaim);
    cr_assert_leq(s.cache_deleted, s.cache_added);
    cr_assert_eq(s.cached_pages, s.cache_added - s.cache_deleted);
    cr_assert_leq(s.cache_found, s.swap_faults);
    cr_assert_eq(s.swap_faults, s.cache_found + s.reads_demand + s.reads_joined);
    cr_assert_leq(s.cache_found_marked, s.cache_found);
    cr_assert_geq(s.reclaim_marked, s.pages_written + s.pages_elided_zero);
    cr_assert_geq(s.reclaim_free_tries, s.reclaim_write_tries);
    cr_assert_leq(s.writes_full, s.writes);
    cr_assert_leq(s.resident_bytes + s.staged_bytes + s.slab_bytes + s.free_bytes, s.budget_bytes);
    cr_assert_eq(s.time_fault.count, s.faults);
    weir_close(rt);
}

Test(api, null_is_refused_and_close_takes_it)
{
    struct weir_stats stats = {.size = 0};
    char text[8];

    cr_assert_eq(weir_close(NULL), WEIR_OK);
    cr_assert_eq(weir_budget_set(NULL, 1, 0), WEIR_EINVAL);
    cr_assert_eq(weir_stats(NULL, &stats), WEIR_EINVAL);
    cr_assert_eq(weir_report(NULL, text, sizeof(text)), 0);
    cr_assert_eq(weir_report_fd(NULL, 2), WEIR_EINVAL);
    cr_assert_eq(weir_backend_add(NULL, "mem:", NULL), WEIR_EINVAL);
    cr_assert_eq(weir_backend_drain(NULL, 0), WEIR_EINVAL);
    cr_assert_eq(weir_pin(NULL, 1, WEIR_READ), WEIR_EINVAL);
    cr_assert_eq(weir_unmap(NULL), WEIR_ENOENT);
}
