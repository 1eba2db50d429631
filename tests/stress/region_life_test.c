/* SPDX-License-Identifier: MIT */

/* The life of a region, on the real kernel: sparse and huge, discarded, unmapped under load. */

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/stress/real.h"

#define BUDGET  (4 * MIB)
#define PAGES   ((size_t)4096) /* 16 MiB: four times the budget */
#define TIB     ((uint64_t)1 << 40)
#define APART   ((uint64_t)2 << 20) /* one page in each page table */
#define TOUCHES 8000u
#define SLOW    "chaos(mem:?size=256M)?seed=3&delay_us=5000&jitter_us=10000&reorder=1"

/* --- Huge and sparse ------------------------------------------------------------------------- */

static void need_returned_tables(struct weir_runtime *rt)
{
    char report[16384];

    weir_report(rt, report, sizeof(report));
    if (!strstr(report, "page tables are given back"))
        cr_skip_test("this kernel keeps page tables");
}

static struct weir_runtime *open_sparse(volatile unsigned char **memory_p)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=512M");

    need_returned_tables(rt);
    *memory_p = real_map(rt, TIB);
    return rt;
}

static unsigned char mark_of(uint64_t touch)
{
    return (unsigned char)(touch % 251 + 1);
}

/* Until so many KiB or less are left of it, or not at all. */
static long await_status(const char *key, long limit)
{
    long kib = real_status_kib(key);

    for (int i = 0; i < 200 && kib > limit; i++) {
        usleep(100000);
        kib = real_status_kib(key);
    }
    return kib;
}

static long await_tables(long limit)
{
    return await_status("VmPTE:", limit);
}

/* The sanitizer's own memory lies an eighth apart. It only reads it for pages that are touched, but
 * there are kernels that give such a page memory of its own, not the one of zeros. */
#ifdef __SANITIZE_ADDRESS__
#define SHADOW_TABLES (TOUCHES / 8 + 1024)
#define SHADOW_KIB    (long)(TOUCHES * 3 / 2 * PAGE / 1024)
#else
#define SHADOW_TABLES 0
#define SHADOW_KIB    0L
#endif

/* Page tables of what is resident, of what lies between (one for a GiB), and of descriptors (one
 * for 512 MiB of pages). */
#define TABLES_KIB(resident) \
    (long)(4 * ((resident) + 1024 + TIB / (512 * MIB) + SHADOW_TABLES) + 1024)

Test(region_life, page_tables_of_a_sparse_region_are_given_back, .timeout = 120)
{
    volatile unsigned char *memory;
    struct weir_runtime *rt = open_sparse(&memory);
    long before = real_status_kib("VmPTE:"), limit = before + TABLES_KIB(BUDGET / PAGE), most;

    for (uint64_t i = 0; i < TOUCHES; i++)
        memory[i * APART] = mark_of(i);
    most = real_status_kib("VmPTE:");
    cr_expect_leq(await_tables(limit), limit, "page tables: %ld KiB before, %ld touched, %ld now",
                  before, most, real_status_kib("VmPTE:"));
    cr_expect_gt(real_stats(rt).tables_returned, TOUCHES / 3); /* the limit allows about a half */
    for (uint64_t i = 0; i < TOUCHES; i++)
        cr_assert_eq(memory[i * APART], mark_of(i));
    cr_expect_leq(await_tables(limit), limit);
    weir_close(rt);
}

/* Pages of zeros that are only loaded from take no frame and are never evicted; but each has a page
 * table here. */
Test(region_life, page_tables_of_zeros_do_not_grow_without_bound, .timeout = 120)
{
    volatile unsigned char *memory;
    struct weir_runtime *rt = open_sparse(&memory);
    long limit = real_status_kib("VmPTE:") + TABLES_KIB(BUDGET / PAGE);
    unsigned sum = 0;

    for (uint64_t i = 0; i < TOUCHES; i++)
        sum += memory[i * APART];
    cr_expect_leq(await_tables(limit), limit);
    for (uint64_t i = 0; i < TOUCHES; i += 100)
        sum += memory[i * APART];
    cr_expect_eq(sum, 0);
    weir_close(rt);
}

Test(region_life, a_tebibyte_is_discarded_with_all_it_occupies, .timeout = 120)
{
    volatile unsigned char *memory;
    struct weir_runtime *rt = open_sparse(&memory);
    struct weir_region_stats stats = {.size = sizeof(stats)};
    long before = real_status_kib("VmPTE:"), resident = real_status_kib("RssAnon:"), most, limit;

    for (uint64_t i = 0; i < TOUCHES; i++)
        memory[i * APART] = mark_of(i);
    most = real_status_kib("RssAnon:");
    cr_assert_gt(most, resident + (long)(TOUCHES * PAGE / 1024));
    cr_assert_eq(weir_advise((void *)(uintptr_t)memory, TIB, WEIR_DISCARD), WEIR_OK);
    /* Writes in flight may have held up a few chunks. */
    limit = before + TABLES_KIB(0);
    cr_expect_leq(await_tables(limit), limit);
    limit = resident + SHADOW_KIB + (long)(TOUCHES * PAGE / 1024);
    cr_expect_leq(await_status("RssAnon:", limit), limit,
                  "resident: %ld KiB before, %ld touched, %ld now", resident, most,
                  real_status_kib("RssAnon:"));
    cr_assert_eq(weir_region_stats((void *)(uintptr_t)memory, &stats), WEIR_OK);
    cr_expect_eq(stats.resident_bytes + stats.zero_bytes + stats.cached_bytes + stats.out_bytes, 0);
    for (int i = 0; i < 1000 && real_stats(rt).slots_used; i++)
        usleep(1000);
    cr_expect_eq(real_stats(rt).slots_used, 0);
    for (uint64_t i = 0; i < TOUCHES; i += 10)
        cr_assert_eq(memory[i * APART], 0);
    weir_close(rt);
}

/* Sweeps, discards and touches of the same chunks at the same time: nothing is lost. */
#define CHURN_CHUNKS 64u
#define CHURN_ROUNDS 80

struct churn {
    volatile uint64_t *words;
    size_t first; /* this thread's page of each chunk */
    unsigned wrong;
    pthread_t thread;
};

static void *churn_main(void *context)
{
    const size_t chunk_words = 512 * 512;
    struct churn *c = context;

    for (uint64_t round = 1; round <= CHURN_ROUNDS; round++)
        for (size_t i = 0; i < CHURN_CHUNKS; i++) {
            volatile uint64_t *word = c->words + i * chunk_words + c->first * 512;

            c->wrong += *word != (round == 1 ? 0 : round - 1) * (i + 1);
            *word = round * (i + 1);
        }
    return NULL;
}

static _Atomic(bool) churn_is_over;

/* Discards the other half of the chunks, whole, and touches them again. */
static void *discard_main(void *context)
{
    unsigned char *other = context;
    unsigned wrong = 0;

    for (unsigned i = 0; !churn_is_over; i++) {
        unsigned char *chunk = other + (size_t)(i % CHURN_CHUNKS) * APART;

        for (size_t page = i % 7; page < 512; page += 97)
            chunk[page * PAGE] = 1;
        wrong += weir_advise(chunk, APART, WEIR_DISCARD) != WEIR_OK;
        wrong += chunk[i % 512 * PAGE] != 0;
    }
    return (void *)(uintptr_t)wrong;
}

Test(region_life, nothing_is_lost_while_chunks_are_given_back, .timeout = 120)
{
    struct weir_runtime *rt = real_open(4 * MIB, "mem:?size=64M");
    unsigned char *memory = real_map(rt, 2 * CHURN_CHUNKS * APART);
    struct churn churn[4];
    pthread_t discarder;
    void *wrong;

    cr_assert_eq(pthread_create(&discarder, NULL, discard_main, memory + CHURN_CHUNKS * APART), 0);
    for (size_t i = 0; i < 4; i++) {
        churn[i] = (struct churn){.words = (void *)memory, .first = 100 * i};
        cr_assert_eq(pthread_create(&churn[i].thread, NULL, churn_main, &churn[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(churn[i].thread, NULL);
        cr_expect_eq(churn[i].wrong, 0);
    }
    churn_is_over = true;
    pthread_join(discarder, &wrong);
    cr_expect_eq((uintptr_t)wrong, 0);
    weir_close(rt);
}

/* --- Resize ---------------------------------------------------------------------------------- */

Test(region_life, a_region_grows_and_shrinks_in_place)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    char *memory = real_map_reserve(rt, 100 * PAGE, 2 * PAGES * PAGE);
    struct weir_region_stats stats = {.size = sizeof(stats)};
    size_t pages = 100;

    cr_expect_eq(real_load_gives(memory + 100 * PAGE), SIGSEGV);
    real_fill(memory, pages, 1);
    while (pages < PAGES) { /* at ends that are not those of chunks, with pages on both sides */
        cr_assert_eq(weir_resize(memory, (pages + 777) * PAGE - 5), WEIR_OK);
        for (size_t i = pages * PAGE; i < (pages + 777) * PAGE; i += 512)
            cr_assert_eq(memory[i], 0);
        pages += 777;
        cr_expect_eq(real_load_gives(memory + pages * PAGE), SIGSEGV);
        real_fill(memory, pages, pages);
    }
    real_check(memory, pages, pages);
    cr_assert_eq(weir_resize(memory, 300 * PAGE), WEIR_OK);
    real_check(memory, 300, pages);
    cr_expect_eq(real_load_gives(memory + 300 * PAGE), SIGSEGV);
    cr_expect_eq(real_load_gives(memory + (pages - 1) * PAGE), SIGSEGV);
    cr_expect_eq(weir_advise(memory + 300 * PAGE, PAGE, WEIR_COLD), WEIR_EINVAL);
    cr_expect_eq(weir_pin(memory + 299 * PAGE, 2 * PAGE, WEIR_READ), WEIR_EINVAL);
    cr_expect_eq(weir_region_stats(memory + 300 * PAGE, &stats), WEIR_ENOENT);
    cr_assert_eq(weir_region_stats(memory, &stats), WEIR_OK);
    cr_expect_eq(stats.bytes, 300 * PAGE);
    cr_expect_eq(stats.reserve_bytes, 2 * PAGES * PAGE);
    cr_expect_eq(stats.resident_bytes + stats.cached_bytes + stats.out_bytes, 300 * PAGE);
    for (int i = 0; i < 1000 && real_stats(rt).slots_used > 300; i++)
        usleep(1000);
    cr_expect_leq(real_stats(rt).slots_used, 300);
    cr_expect_eq(real_stats(rt).mapped_bytes, 300 * PAGE);
    cr_assert_eq(weir_resize(memory, pages * PAGE), WEIR_OK);
    for (size_t i = 300; i < pages; i++)
        cr_assert_eq(memory[i * PAGE] | memory[i * PAGE + PAGE - 1], 0);
    real_check(memory, 300, pages);
    cr_assert_eq(weir_unmap(memory), WEIR_OK);
    cr_expect_eq(real_load_gives(memory), SIGSEGV);
    weir_close(rt);
}

Test(region_life, a_resize_that_cannot_be_changes_nothing)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    char *memory = real_map_reserve(rt, 1000 * PAGE, 0);

    real_fill(memory, 1000, 3);
    cr_expect_eq(weir_resize(memory, 1001 * PAGE), WEIR_ENOMEM);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "reserve_bytes"));
    cr_expect_eq(weir_resize(memory, UINT64_MAX), WEIR_ENOMEM);
    cr_expect_eq(weir_resize(memory, 0), WEIR_EINVAL);
    cr_expect_eq(weir_resize(memory + PAGE, PAGE), WEIR_ENOENT);
    cr_expect_eq(weir_resize(&rt, PAGE), WEIR_ENOENT);
    cr_assert_eq(weir_pin(memory + 999 * PAGE, PAGE, WEIR_READ), WEIR_OK);
    cr_expect_eq(weir_resize(memory, 500 * PAGE), WEIR_EBUSY);
    real_check(memory, 1000, 3);
    cr_expect_eq(weir_unpin(memory + 999 * PAGE, PAGE), WEIR_OK);
    cr_assert_eq(weir_pin(memory + 499 * PAGE, PAGE, WEIR_READ), WEIR_OK);
    cr_expect_eq(weir_resize(memory, 500 * PAGE), WEIR_OK);
    cr_expect_eq(weir_resize(memory, 500 * PAGE), WEIR_OK);
    cr_expect_eq(weir_unpin(memory + 499 * PAGE, PAGE), WEIR_OK);
    real_check(memory, 500, 3);
    weir_close(rt);
}

/* Reads and writes of the pages that go are in flight. */
Test(region_life, a_region_is_resized_with_requests_in_flight, .timeout = 120)
{
    struct weir_runtime *rt = real_open(4 * MIB, SLOW);
    struct real_keeper keeper = {.memory = real_map_reserve(rt, PAGES * PAGE, PAGES * PAGE)};
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, real_keep, &keeper), 0);
    for (uint64_t round = 0; round < 3; round++) {
        real_fill(keeper.memory + 2000 * PAGE, PAGES - 2000, round);
        (void)weir_advise(keeper.memory + 2000 * PAGE, 512 * PAGE, WEIR_WILLNEED);
        cr_assert_eq(weir_resize(keeper.memory, (REAL_KEPT + 100 * round) * PAGE), WEIR_OK);
        cr_assert_eq(weir_resize(keeper.memory, PAGES * PAGE), WEIR_OK);
        for (size_t i = 2200; i < PAGES; i += 7)
            cr_assert_eq(keeper.memory[i * PAGE], 0);
    }
    keeper.stop = true;
    pthread_join(thread, NULL);
    cr_expect_eq(keeper.wrong, 0);
    weir_close(rt);
}

/* --- The end, with requests in flight -------------------------------------------------------- */

static void *touch_for_ever(void *context)
{
    volatile char *memory = context;
    uint64_t random = (uintptr_t)&random;

    for (;;) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        memory[(random >> 33) % PAGES * PAGE] = (char)random;
        pthread_testcancel();
    }
    return NULL;
}

#define CANCELLED 4

/* Threads are cancelled in the middle, then the region goes while reads ahead and writes are on
 * their way; the next region has its page numbers, and perhaps its addresses. */
static void live_and_die(struct weir_runtime *rt, bool unmap, uint64_t salt)
{
    char *memory = real_map(rt, PAGES * PAGE);
    pthread_t threads[CANCELLED];

    for (size_t i = 0; i < PAGES; i += 5)
        cr_assert_eq(memory[i * PAGE], 0);
    real_fill(memory, PAGES, salt);
    for (int i = 0; i < CANCELLED; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, touch_for_ever, memory), 0);
    usleep(60000);
    for (int i = 0; i < CANCELLED; i++)
        pthread_cancel(threads[i]);
    for (int i = 0; i < CANCELLED; i++)
        pthread_join(threads[i], NULL);
    real_fill(memory, PAGES / 4, salt);
    (void)weir_advise(memory + PAGES / 2 * PAGE, PAGES / 8 * PAGE, WEIR_WILLNEED);
    if (unmap)
        cr_assert_eq(weir_unmap(memory), WEIR_OK);
}

Test(region_life, regions_are_unmapped_with_requests_in_flight, .timeout = 120)
{
    struct weir_runtime *rt = real_open(4 * MIB, SLOW);

    for (uint64_t round = 0; round < 2; round++)
        live_and_die(rt, true, round);
    for (int i = 0; i < 5000 && real_stats(rt).slots_used; i++)
        usleep(1000); /* slots under write are freed by their completion */
    cr_expect_eq(real_stats(rt).slots_used, 0);
    cr_expect_gt(real_stats(rt).reads_ahead, 0);
    weir_close(rt);
}

Test(region_life, a_runtime_is_closed_with_requests_in_flight, .timeout = 120)
{
    for (uint64_t round = 0; round < 2; round++) {
        struct weir_runtime *rt = real_open(4 * MIB, SLOW);

        live_and_die(rt, false, round);
        cr_assert_eq(weir_close(rt), WEIR_OK);
    }
}

/* --- Pins ------------------------------------------------------------------------------------ */

/* How many of the pages are pinned: those that a discard leaves alone. */
static size_t count_pinned(char *memory, size_t pages)
{
    size_t pinned = 0;

    for (size_t i = 0; i < pages; i++)
        pinned += weir_advise(memory + i * PAGE, PAGE, WEIR_DISCARD) == WEIR_EBUSY;
    return pinned;
}

#define PINNED   16
#define PINS_MAX 65535

Test(region_life, a_pin_that_fails_at_any_page_leaves_none)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    char *memory = real_map(rt, PINNED * PAGE);

    for (size_t k = 0; k < PINNED; k += 5) {
        for (int i = 0; i < PINS_MAX; i++)
            cr_assert_eq(weir_pin(memory + k * PAGE, 1, WEIR_WRITE), WEIR_OK);
        cr_expect_eq(weir_pin(memory, PINNED * PAGE, WEIR_WRITE), WEIR_EBUSY);
        cr_expect_eq(count_pinned(memory, PINNED), 1);
        for (int i = 0; i < PINS_MAX; i++)
            cr_assert_eq(weir_unpin(memory + k * PAGE, 1), WEIR_OK);
        cr_expect_eq(weir_unpin(memory + k * PAGE, 1), WEIR_EINVAL);
        cr_expect_eq(count_pinned(memory, PINNED), 0);
    }
    weir_close(rt);
}

Test(region_life, a_pin_of_a_page_that_cannot_be_read_leaves_none)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?seed=5&lie=0.05");
    char *memory = real_map(rt, PAGES * PAGE);
    size_t failed = 0;

    real_fill(memory, PAGES, 1);
    for (size_t i = 0; i < PAGES; i += PINNED) {
        int error = weir_pin(memory + i * PAGE, PINNED * PAGE, WEIR_READ);

        cr_assert(error == WEIR_OK || error == WEIR_EIO, "%s", weir_error_name(error));
        failed += error == WEIR_EIO;
        if (error == WEIR_OK)
            cr_assert_eq(weir_unpin(memory + i * PAGE, PINNED * PAGE), WEIR_OK);
        for (size_t k = i; k < i + PINNED; k++)
            cr_assert_eq(weir_unpin(memory + k * PAGE, PAGE), WEIR_EINVAL);
    }
    cr_expect_gt(failed, 0);
    cr_expect_eq(count_pinned(memory, PAGES), 0);
    weir_close(rt);
}
