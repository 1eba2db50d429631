/* SPDX-License-Identifier: MIT */

/* The life of a region, on the real kernel: sparse and huge, discarded, unmapped under load. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/stress/real.h"

#define BUDGET  (8 * MIB)
#define PAGES   ((size_t)8192) /* 32 MiB: four times the budget */
#define TIB     ((uint64_t)1 << 40)
#define APART   ((uint64_t)2 << 20) /* one page in each page table */
#define TOUCHES 40000u
#define SLOW    "chaos(mem:?size=256M)?seed=3&delay_us=20000&jitter_us=20000&reorder=1"

/* --- Huge and sparse ------------------------------------------------------------------------- */

/* A line of /proc/self/status, in KiB. */
static long status_kib(const char *key)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    long kib = -1;

    cr_assert_not_null(file);
    while (kib < 0 && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0)
            kib = strtol(line + strlen(key), NULL, 10);
    fclose(file);
    return kib;
}

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

/* Until page tables take no more than so many KiB, or not at all. */
static long await_tables(long limit)
{
    long kib = status_kib("VmPTE:");

    for (int i = 0; i < 200 && kib > limit; i++) {
        usleep(100000);
        kib = status_kib("VmPTE:");
    }
    return kib;
}

/* Page tables of what is resident, of what lies between (one for a GiB), and of descriptors (one
 * for 512 MiB of pages). */
#define TABLES_KIB(resident) (long)(4 * ((resident) + 1024 + TIB / (512 * MIB)) + 1024)

Test(region_life, page_tables_of_a_sparse_region_are_given_back, .timeout = 120)
{
    volatile unsigned char *memory;
    struct weir_runtime *rt = open_sparse(&memory);
    long before = status_kib("VmPTE:"), limit = before + TABLES_KIB(BUDGET / PAGE), most;

    for (uint64_t i = 0; i < TOUCHES; i++)
        memory[i * APART] = mark_of(i);
    most = status_kib("VmPTE:");
    cr_expect_leq(await_tables(limit), limit, "page tables: %ld KiB before, %ld touched, %ld now",
                  before, most, status_kib("VmPTE:"));
    cr_expect_gt(real_stats(rt).tables_returned, TOUCHES / 2);
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
    long limit = status_kib("VmPTE:") + TABLES_KIB(BUDGET / PAGE);
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
    long before = status_kib("VmPTE:"), resident = status_kib("RssAnon:"), limit;

    for (uint64_t i = 0; i < TOUCHES; i++)
        memory[i * APART] = mark_of(i);
    cr_assert_gt(status_kib("RssAnon:"), resident + (long)(TOUCHES * PAGE / 1024));
    cr_assert_eq(weir_advise((void *)(uintptr_t)memory, TIB, WEIR_DISCARD), WEIR_OK);
    /* Writes in flight may have held up a few chunks. */
    limit = before + TABLES_KIB(0);
    cr_expect_leq(await_tables(limit), limit);
    cr_expect_lt(status_kib("RssAnon:"), resident + (long)(TOUCHES * PAGE / 1024));
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
#define CHURN_ROUNDS 300

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
