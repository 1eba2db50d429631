/* SPDX-License-Identifier: MIT */

/* A region moves, on the real kernel: with what it holds, by each engine, and with requests in
 * flight; or it does not, and then nothing of it is harmed. */

#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <weir/weir_object.h>

#include "tests/stress/real.h"

#define BUDGET (4 * MIB)
#define PAGES  ((size_t)4096) /* 16 MiB: four times the budget */
#define SLOW   "chaos(mem:?size=256M)?seed=3&delay_us=5000&jitter_us=10000&reorder=1"

static const char *const engines[] = {"move", "wp"};

/* NULL: this kernel has no such engine. */
static struct weir_runtime *open_by(const char *engine, uint64_t budget, const char *backends)
{
    struct weir_options options;
    struct weir_runtime *rt;

    real_options(&options, budget, backends);
    options.engine = engine;
    return weir_open(&options, &rt) == WEIR_OK ? rt : NULL;
}

static void *move(void *memory, uint64_t reserve)
{
    void *moved = NULL;
    int error = weir_move(memory, reserve, &moved);

    cr_assert_eq(error, WEIR_OK, "weir_move gave %s: %s", weir_error_name(error),
                 real_events.text[WEIR_FAILURE]);
    cr_assert_neq(moved, memory);
    return moved;
}

static struct weir_region_stats region_stats(const void *memory)
{
    struct weir_region_stats stats = {.size = sizeof(stats)};

    cr_assert_eq(weir_region_stats(memory, &stats), WEIR_OK);
    return stats;
}

/* --- What it holds --------------------------------------------------------------------------- */

/* Of so many pages that were resident, when so many had been taken by kswapd, all are resident but
 * those that he took since; they are counted a moment after they leave. */
static bool stay_resident(struct weir_runtime *rt, const void *memory, size_t resident,
                          uint64_t marked)
{
    for (int i = 0; i < 2000; i++) {
        size_t now = real_resident(memory, PAGES);

        if (now + (real_stats(rt).reclaim_marked - marked) >= resident)
            return true;
        usleep(1000);
    }
    return false;
}

static void move_full(struct weir_runtime *rt)
{
    const struct weir_region_options options = {.size = sizeof(options), .name = "mover"};
    struct weir_region_stats before, after;
    void *memory, *moved;
    uint64_t marked;
    size_t resident;

    cr_assert_eq(weir_map(rt, PAGES * PAGE, &options, &memory), WEIR_OK);
    for (uint64_t salt = 0; salt < 3; salt++) {
        real_fill(memory, PAGES, salt);
        if (salt % 2)
            real_check(memory, PAGES, salt); /* what is resident now is clean */
        (void)weir_advise(memory, 100 * PAGE, WEIR_WILLNEED);
        before = region_stats(memory);
        marked = real_stats(rt).reclaim_marked;
        resident = real_resident(memory, PAGES);
        moved = move(memory, 0);
        cr_expect(stay_resident(rt, moved, resident, marked), "what was resident stays so");
        after = region_stats(moved);
        cr_expect_eq(after.address, moved);
        cr_expect_eq(after.bytes, PAGES * PAGE);
        cr_expect_str_eq(after.name, "mover");
        cr_expect_geq(after.faults, before.faults);
        cr_expect_eq(real_load_gives(memory), SIGSEGV);
        cr_expect_eq(weir_unmap(memory), WEIR_ENOENT);
        real_check(moved, PAGES, salt);
        memory = moved;
    }
    cr_assert_eq(weir_unmap(memory), WEIR_OK);
    cr_expect_eq(real_load_gives(memory), SIGSEGV);
}

Test(region_move, takes_all_it_holds_along, .timeout = 120)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], BUDGET, "mem:?size=128M");

        if (rt)
            move_full(rt);
        weir_close(rt);
    }
}

/* Pages of zeros, hints, and what the program dropped by itself. */
static void move_mixed(struct weir_runtime *rt)
{
    const size_t pages = 1000;
    char *memory = real_map(rt, pages * PAGE);

    for (size_t i = 0; i < pages; i++)
        cr_assert_eq(memory[i * PAGE], 0);
    real_fill(memory, 400, 1);
    cr_assert_eq(weir_advise(memory + 300 * PAGE, 100 * PAGE, WEIR_FREE), WEIR_OK);
    cr_assert_eq(weir_advise(memory + 200 * PAGE, 50 * PAGE, WEIR_DISCARD), WEIR_OK);
    cr_assert_eq(madvise(memory + 100 * PAGE, 50 * PAGE, MADV_DONTNEED), 0);
    memory = move(memory, 0);
    real_check(memory, 100, 1);
    for (size_t i = 100; i < 150; i++)
        cr_expect_eq(memory[i * PAGE], 0);
    for (size_t i = 200; i < 250; i++)
        cr_expect_eq(memory[i * PAGE], 0);
    for (size_t i = 300; i < 400; i++) { /* the old bytes or none */
        uint64_t found = *(volatile uint64_t *)(void *)(memory + i * PAGE);

        cr_expect(found == 0 || found == (i * 0x9e3779b97f4a7c15u ^ 1));
    }
    for (size_t i = 400; i < pages; i++)
        cr_expect_eq(memory[i * PAGE], 0);
    real_fill(memory, pages, 2);
    memory = move(memory, 0);
    real_check(memory, pages, 2);
}

Test(region_move, knows_zeros_hints_and_what_is_gone)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], BUDGET, "mem:?size=128M");

        if (rt)
            move_mixed(rt);
        weir_close(rt);
    }
}

/* How many areas the kernel keeps for us. */
static int count_maps(void)
{
    FILE *file = fopen("/proc/self/maps", "re");
    int count = 0, c;

    cr_assert_not_null(file);
    while ((c = fgetc(file)) != EOF)
        count += c == '\n';
    fclose(file);
    return count;
}

Test(region_move, leaves_no_addresses_tables_or_frames_behind, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    void *memory = real_map(rt, 2 * PAGES * PAGE);
    long addresses, tables;
    int maps;

    real_fill(memory, PAGES, 0);
    memory = move(memory, 0);
    maps = count_maps();
    addresses = real_status_kib("VmSize:");
    tables = real_status_kib("VmPTE:");
    for (uint64_t salt = 1; salt <= 12; salt++) {
        memory = move(memory, 0);
        real_check(memory, PAGES, salt - 1);
        real_fill(memory, PAGES, salt);
    }
    cr_expect_leq(count_maps(), maps + 4);
    /* An arena of malloc() for a thread takes 64 MiB of addresses; 12 regions take 384. */
    cr_expect_leq(real_status_kib("VmSize:"), addresses + (long)(256 * MIB / 1024));
    cr_expect_leq(real_status_kib("VmPTE:"), tables + 256);
    weir_close(rt);
}

/* --- The reserve ----------------------------------------------------------------------------- */

Test(region_move, gives_a_larger_reserve)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    char *memory = real_map(rt, 100 * PAGE), *next;
    void *moved = NULL;

    for (size_t pages = 100; pages < PAGES; pages *= 3) { /* as realloc() would */
        real_fill(memory, pages, pages);
        memory = move(memory, 3 * pages * PAGE);
        cr_expect_eq(real_load_gives(memory + pages * PAGE), SIGSEGV);
        cr_assert_eq(weir_resize(memory, 3 * pages * PAGE), WEIR_OK);
        cr_expect_eq(region_stats(memory).reserve_bytes, 3 * pages * PAGE);
        real_check(memory, pages, pages);
        for (size_t i = pages; i < 3 * pages; i++)
            cr_assert_eq(memory[i * PAGE], 0);
    }
    real_fill(memory, 500, 7);
    next = real_map(rt, 10 * PAGE);
    real_fill(next, 10, 8);
    cr_expect_eq(weir_move(memory, 1000 * MIB, &moved), WEIR_ENOMEM);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "page numbers"));
    cr_expect_null(moved);
    real_check(memory, 500, 7);
    memory = move(memory, 1); /* no more than it has: it stays as it is */
    real_check(memory, 500, 7);
    real_check(next, 10, 8);
    cr_assert_eq(weir_unmap(next), WEIR_OK);
    memory = move(memory, 1000 * MIB);
    real_check(memory, 500, 7);
    cr_assert_eq(weir_resize(memory, 1000 * MIB), WEIR_OK);
    memory[1000 * MIB - 1] = 9;
    next = real_map(rt, 10 * PAGE); /* whose page numbers are nobody else's */
    real_fill(next, 10, 8);
    cr_expect_eq(memory[1000 * MIB - 1], 9);
    weir_close(rt);
}

Test(region_move, of_a_sparse_tebibyte_costs_what_is_there, .timeout = 60)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    const uint64_t tib = (uint64_t)1 << 40, apart = tib / 512;
    char *memory = real_map(rt, tib);

    for (uint64_t i = 0; i < 512; i++)
        memory[i * apart] = (char)(i % 100 + 1);
    memory = move(memory, 0);
    for (uint64_t i = 0; i < 512; i++)
        cr_assert_eq(memory[i * apart], (char)(i % 100 + 1));
    weir_close(rt);
}

/* --- What it must not disturb ---------------------------------------------------------------- */

Test(region_move, with_requests_in_flight_beside_others_that_run_on, .timeout = 240)
{
    for (size_t e = 0; e < 2; e++) {
        struct weir_runtime *rt = open_by(engines[e], 4 * MIB, SLOW);
        struct real_keeper keeper = {.stop = false};
        pthread_t thread;
        char *memory;

        if (!rt)
            continue;
        keeper.memory = real_map(rt, REAL_KEPT * PAGE);
        memory = real_map(rt, PAGES * PAGE);
        cr_assert_eq(pthread_create(&thread, NULL, real_keep, &keeper), 0);
        for (uint64_t round = 0; round < 2; round++) {
            real_fill(memory, PAGES, round);
            (void)weir_advise(memory, PAGES / 4 * PAGE, WEIR_WILLNEED);
            memory = move(memory, 0);
            real_check(memory, PAGES, round);
        }
        keeper.stop = true;
        pthread_join(thread, NULL);
        cr_expect_eq(keeper.wrong, 0);
        weir_close(rt);
    }
}

static char *_Atomic old_memory;

/* Still uses the old addresses: until they are gone. */
static void *straggle_main(void *context)
{
    int gives = 0;

    (void)context;
    for (size_t i = 0; gives == 0; i++)
        gives = real_load_gives(old_memory + i * 7919 % PAGES * PAGE);
    return (void *)(intptr_t)gives;
}

Test(region_move, who_still_uses_it_waits_and_meets_sigsegv, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    char *memory = real_map(rt, PAGES * PAGE);

    for (uint64_t round = 0; round < 3; round++) {
        pthread_t thread;
        void *gives;

        real_fill(memory, PAGES, round);
        old_memory = memory;
        cr_assert_eq(pthread_create(&thread, NULL, straggle_main, NULL), 0);
        usleep(2000);
        memory = move(memory, 0);
        pthread_join(thread, &gives);
        cr_expect_eq((intptr_t)gives, SIGSEGV);
        real_check(memory, PAGES, round);
    }
    weir_close(rt);
}

/* --- When it cannot -------------------------------------------------------------------------- */

Test(region_move, not_while_pages_are_pinned)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    char *memory = real_map(rt, PAGES * PAGE);
    void *moved = NULL;

    real_fill(memory, PAGES, 1);
    cr_assert_eq(weir_pin(memory + 3000 * PAGE, PAGE, WEIR_READ), WEIR_OK);
    cr_expect_eq(weir_move(memory, 0, &moved), WEIR_EBUSY);
    cr_expect_null(moved);
    real_check(memory, PAGES, 1);
    cr_expect_eq(weir_unpin(memory + 3000 * PAGE, PAGE), WEIR_OK);
    memory = move(memory, 0);
    real_check(memory, PAGES, 1);
    weir_close(rt);
}

/* Held by a device that has asked nobody: it shows only when the page is to go, and what went
 * before comes back. */
Test(region_move, back_again_when_a_device_holds_a_page)
{
    struct weir_runtime *rt = open_by("move", 64 * MIB, "mem:?size=128M");
    char *memory;
    struct iovec held;
    struct io_uring ring;
    void *moved = NULL;

    if (!rt)
        cr_skip_test("this kernel cannot tell that a device holds a page");
    if (io_uring_queue_init(4, &ring, 0) != 0)
        cr_skip_test("no io_uring here");
    memory = real_map(rt, PAGES * PAGE);
    real_fill(memory, PAGES, 1);
    held = (struct iovec){memory + 3210 * PAGE, PAGE};
    if (io_uring_register_buffers(&ring, &held, 1) != 0)
        cr_skip_test("no memory may be registered here");
    cr_expect_eq(weir_move(memory, 0, &moved), WEIR_EBUSY);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "pinned"));
    cr_expect_null(moved);
    real_check(memory, PAGES, 1);
    real_fill(memory, PAGES, 2);
    real_check(memory, PAGES, 2);
    cr_assert_eq(io_uring_unregister_buffers(&ring), 0);
    memory = move(memory, 0);
    real_check(memory, PAGES, 2);
    io_uring_queue_exit(&ring);
    weir_close(rt);
}

Test(region_move, not_without_addresses)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=512M");
    char *memory = real_map(rt, 256 * MIB);
    struct rlimit limit, less;
    void *moved = NULL;

    real_fill(memory, PAGES, 1);
    getrlimit(RLIMIT_AS, &limit);
    less = limit;
    less.rlim_cur = (rlim_t)real_status_kib("VmSize:") * 1024 + 64 * MIB;
    cr_assert_eq(setrlimit(RLIMIT_AS, &less), 0);
    cr_expect_eq(weir_move(memory, 0, &moved), WEIR_ENOMEM);
    cr_expect_eq(weir_move(memory, 1024 * MIB, &moved), WEIR_ENOMEM);
    cr_expect_eq(region_stats(memory).reserve_bytes, 256 * MIB);
    cr_expect_null(moved);
    setrlimit(RLIMIT_AS, &limit);
    real_check(memory, PAGES, 1);
    real_check(move(memory, 0), PAGES, 1);
    weir_close(rt);
}

Test(region_move, refuses_what_is_no_region)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    char *memory = real_map(rt, 10 * PAGE);
    struct weir_object *object;
    void *moved = NULL;

    cr_expect_eq(weir_move(memory, 0, NULL), WEIR_EINVAL);
    cr_expect_eq(weir_move(memory + PAGE, 0, &moved), WEIR_ENOENT);
    cr_expect_eq(weir_move(NULL, 0, &moved), WEIR_ENOENT);
    cr_expect_eq(weir_move(memory, UINT64_MAX, &moved), WEIR_ENOMEM);
    cr_expect_eq(weir_move(memory, (uint64_t)1 << 60, &moved), WEIR_ENOMEM);
    if (weir_object_create(rt, 10 * PAGE, NULL, &object) == WEIR_OK) {
        void *view;

        cr_assert_eq(weir_view_map(object, 0, 10 * PAGE, &view), WEIR_OK);
        cr_expect_eq(weir_move(view, 0, &moved), WEIR_ENOSUPPORT);
    }
    cr_expect_null(moved);
    weir_close(rt);
}
