/* SPDX-License-Identifier: MIT */

/* The heap on the real kernel, several times larger than the budget. */

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include <weir/weir_heap.h>

#include "tests/stress/real.h"

#define BUDGET (8 * MIB)
#define SPEC   "mem:?size=256M"
#define SIZE   (512 * MIB)
#define LIVE   (32 * MIB) /* four times the budget */

static struct weir_heap *make(struct weir_runtime *rt)
{
    struct weir_heap *heap = NULL;

    cr_assert_eq(weir_heap_create(rt, SIZE, NULL, &heap), WEIR_OK);
    return heap;
}

static uint64_t draw(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 33;
}

/* --- Threads --------------------------------------------------------------------------------- */

#define PLACES  2048u
#define THREADS 3

/* A block says at both ends where it was put, and how long it is. */
struct block {
    uint64_t place, bytes;
};

struct table {
    struct weir_heap *heap;
    _Atomic(struct block *) place[PLACES];
    _Atomic(uint64_t) seed, wrong;
};

static uint64_t *end_of(struct block *block)
{
    return (uint64_t *)(void *)((char *)block + block->bytes) - 1;
}

static struct block *put_block(struct table *table, uint64_t place, uint64_t *random)
{
    uint64_t bytes = sizeof(struct block) + 8 + (draw(random) % (8u << draw(random) % 14) & ~7ull);
    struct block *block = weir_heap_malloc(table->heap, bytes);

    cr_assert_not_null(block);
    *block = (struct block){place, bytes};
    *end_of(block) = place ^ bytes;
    return block;
}

static void take_block(struct table *table, struct block *block, uint64_t place)
{
    if (block->place != place || *end_of(block) != (place ^ block->bytes))
        table->wrong++;
    weir_heap_free(table->heap, block);
}

static void *work(void *context)
{
    struct table *table = context;
    uint64_t random = table->seed++;

    for (int i = 0; i < 8000; i++) {
        uint64_t place = draw(&random) % PLACES;
        struct block *new = put_block(table, place, &random);
        struct block *old = atomic_exchange(&table->place[place], new);

        if (old)
            take_block(table, old, place);
    }
    return NULL;
}

Test(heap, blocks_of_all_threads_come_back_as_they_were, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, SPEC);
    static struct table table = {.seed = 3};
    pthread_t thread[THREADS];
    char *ballast[LIVE / MIB];

    table.heap = make(rt);
    for (size_t i = 0; i < LIVE / MIB; i++) {
        ballast[i] = weir_heap_malloc(table.heap, MIB);
        real_fill(ballast[i], MIB / PAGE, i);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, work, &table);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (uint64_t i = 0; i < PLACES; i++)
        if (table.place[i])
            take_block(&table, table.place[i], i);
    for (size_t i = 0; i < LIVE / MIB; i++) {
        real_check(ballast[i], MIB / PAGE, i);
        weir_heap_free(table.heap, ballast[i]);
    }
    cr_assert_eq(table.wrong, 0);
    cr_assert_eq(weir_heap_destroy(table.heap), WEIR_OK);
    cr_assert_eq(real_stats(rt).mapped_bytes, 0);
    cr_assert_eq(weir_close(rt), WEIR_OK);
}

/* --- What is freed --------------------------------------------------------------------------- */

#define SMALL  2000u
#define SMALLS (LIVE / 2 / SMALL)

static char *small[SMALLS];
static char *large[LIVE / 2 / MIB];

static void allocate_all(struct weir_heap *heap)
{
    for (size_t i = 0; i < SMALLS; i++)
        small[i] = memset(weir_heap_malloc(heap, SMALL), 0xa5, SMALL);
    for (size_t i = 0; i < LIVE / 2 / MIB; i++)
        large[i] = memset(weir_heap_malloc(heap, MIB), 0xa5, MIB);
}

static void free_all(struct weir_heap *heap)
{
    for (size_t i = 0; i < SMALLS; i++)
        weir_heap_free(heap, small[i]);
    for (size_t i = 0; i < LIVE / 2 / MIB; i++)
        weir_heap_free(heap, large[i]);
    weir_heap_trim(heap);
}

static struct weir_region_stats region_of(const void *block)
{
    struct weir_region_stats stats = {.size = sizeof(stats)};

    cr_assert_eq(weir_region_stats(block, &stats), WEIR_OK);
    return stats;
}

Test(heap, what_is_freed_is_neither_read_nor_written, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, SPEC);
    struct weir_heap *heap = make(rt);
    struct weir_region_stats before, after;
    struct weir_stats rest;

    allocate_all(heap);
    before = region_of(small[0]);
    cr_assert_gt(before.pages_written, 0);
    cr_assert_gt(before.out_bytes, LIVE / 2);
    rest = real_at_rest(rt);
    free_all(heap);
    cr_assert_eq(real_stats(rt).faults, rest.faults, "to free a block touches no page");
    after = region_of(small[0]);
    cr_assert_eq(after.out_bytes, 0, "%llu bytes at a back end are nobody's",
                 (unsigned long long)after.out_bytes);
    (void)real_at_rest(rt);
    before = region_of(small[0]);
    /* Others need the memory now. */
    real_fill(real_map(rt, LIVE), LIVE / PAGE, 1);
    after = region_of(small[0]);
    cr_assert_eq(after.pages_written, before.pages_written);
    cr_assert_gt(real_stats(rt).pages_elided_free, 0);
    weir_heap_destroy(heap);
    weir_close(rt);
}

Test(heap, calloc_of_what_was_used_is_zero, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, SPEC);
    struct weir_heap *heap = make(rt);
    uint64_t reads;

    for (int is_trimmed = 0; is_trimmed < 2; is_trimmed++) {
        unsigned char *block = weir_heap_malloc(heap, 16 * MIB);

        memset(block, 0xa5, 16 * MIB);
        weir_heap_free(heap, block);
        if (is_trimmed)
            weir_heap_trim(heap);
        reads = real_stats(rt).reads_demand;
        cr_assert_eq(weir_heap_calloc(heap, 16, MIB), block, "it is another place");
        for (size_t i = 0; i < 16 * MIB; i += 8)
            cr_assert_eq(*(uint64_t *)(void *)(block + i), 0);
        cr_assert_eq(real_stats(rt).reads_demand, reads, "nothing had to be read for that");
        weir_heap_free(heap, block);
    }
    weir_heap_destroy(heap);
    weir_close(rt);
}

Test(heap, a_heap_that_is_destroyed_leaves_nothing, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, SPEC);

    for (int round = 0; round < 2; round++) {
        struct weir_heap *heap = make(rt), *other = make(rt);

        allocate_all(heap);
        allocate_all(other);
        cr_assert_eq(weir_heap_destroy(heap), WEIR_OK);
        for (size_t i = 0; i < SMALLS; i++) /* other's: the last that were allocated */
            cr_assert(small[i][0] == (char)0xa5 && small[i][SMALL - 1] == (char)0xa5);
        cr_assert_eq(weir_heap_destroy(other), WEIR_OK);
        cr_assert_eq(real_at_rest(rt).slots_used, 0);
        cr_assert_eq(real_stats(rt).mapped_bytes, 0);
    }
    weir_close(rt);
}
