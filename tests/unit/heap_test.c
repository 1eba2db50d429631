/* SPDX-License-Identifier: MIT */

/* The heap on a made-up Weir, which makes the most of what it may: what is freed holds rubbish at
 * once. A block that is told of while somebody has it is found by its stamp, and by the thread
 * sanitizer. */

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <weir/weir_heap.h>

#include "runtime/heap/slabs.h"

#define MIB    ((size_t)1 << 20)
#define HUGE   ((size_t)2 << 20)
#define BUDGET (64 * MIB)
#define BLOCKS 2000u

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define STEPS 4000
#define HEAPS 100
#else
#define STEPS 60000
#define HEAPS 2000
#endif

/* --- The made-up Weir ------------------------------------------------------------------------ */

static _Atomic(uint64_t) freed_bytes, discarded_bytes;
static _Atomic(int) regions;
static char runtime_itself;
#define RUNTIME ((struct weir_runtime *)(void *)&runtime_itself)
static int map_gives, unmap_gives;
static uint64_t region_bytes[8]; /* as they were mapped: unmapped in any order */
static char *region_base[8];

int weir_map(struct weir_runtime *runtime, uint64_t bytes,
             const struct weir_region_options *options, void **address_p)
{
    char *memory, *base;

    (void)runtime;
    cr_assert_gt(options->size, 0);
    if (map_gives != WEIR_OK)
        return map_gives;
    memory = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cr_assert(memory != MAP_FAILED);
    base = memory + (-(uintptr_t)memory & (HUGE - 1));
    for (int i = 0; i < 8; i++)
        if (!region_base[i]) {
            region_base[i] = base;
            region_bytes[i] = bytes;
            break;
        }
    regions++;
    *address_p = base;
    return WEIR_OK;
}

int weir_unmap(void *address)
{
    if (unmap_gives != WEIR_OK)
        return unmap_gives;
    for (int i = 0; i < 8; i++)
        if (region_base[i] == address) {
            munmap(address, region_bytes[i]);
            region_base[i] = NULL;
            regions--;
            return WEIR_OK;
        }
    return WEIR_ENOENT;
}

int weir_advise(void *address, uint64_t bytes, enum weir_hint hint)
{
    cr_assert(hint == WEIR_FREE || hint == WEIR_DISCARD);
    cr_assert_eq((uintptr_t)address % WEIR_PAGE_BYTES, 0);
    memset(address, hint == WEIR_FREE ? 0xdd : 0, bytes);
    *(hint == WEIR_FREE ? &freed_bytes : &discarded_bytes) += bytes;
    return WEIR_OK;
}

int weir_stats(struct weir_runtime *runtime, struct weir_stats *stats)
{
    (void)runtime;
    stats->budget_bytes = BUDGET;
    return WEIR_OK;
}

static struct weir_heap *make(size_t bytes)
{
    struct weir_heap *heap = NULL;

    cr_assert_eq(weir_heap_create(RUNTIME, bytes, NULL, &heap), WEIR_OK);
    return heap;
}

static struct weir_heap_stats stats_of(struct weir_heap *heap)
{
    struct weir_heap_stats stats = {.size = sizeof(stats)};

    cr_assert_eq(weir_heap_stats(heap, &stats), WEIR_OK);
    return stats;
}

/* Everything was freed: all of it is told, and there are no two free runs where one could be. */
static void need_empty(struct weir_heap *heap)
{
    struct weir_heap_stats stats;
    void *all;

    weir_heap_trim(heap);
    stats = stats_of(heap);
    cr_assert_eq(stats.used_bytes, 0, "%llu bytes are used", (unsigned long long)stats.used_bytes);
    cr_assert_eq(stats.untold_bytes, 0);
    all = weir_heap_malloc(heap, stats.bytes);
    cr_assert_not_null(all);
    weir_heap_free(heap, all);
}

/* --- Blocks with stamps ---------------------------------------------------------------------- */

struct held {
    unsigned char *block;
    size_t size;
    unsigned char stamp;
};

static uint32_t draw(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*random >> 33);
}

/* Of all magnitudes alike, up to 512 KiB. */
static size_t draw_size(uint64_t *random)
{
    size_t most = (size_t)1 << (draw(random) % 20);

    return most + draw(random) % most - 1;
}

/* The ends, and a byte of each page. */
static void stamp(struct held *held, unsigned char value)
{
    held->stamp = value;
    for (size_t at = 0; at < held->size; at += 1000)
        held->block[at] = value;
    if (held->size > 0)
        held->block[held->size - 1] = value;
}

static bool is_stamped(const struct held *held, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 1000)
        if (held->block[at] != held->stamp)
            return false;
    return bytes < held->size || bytes == 0 || held->block[bytes - 1] == held->stamp;
}

static bool is_zero(const unsigned char *block, size_t bytes)
{
    return bytes == 0 || (block[0] == 0 && memcmp(block, block + 1, bytes - 1) == 0);
}

static void allocate(struct weir_heap *heap, struct held *held, uint64_t *random)
{
    size_t alignment = (size_t)1 << (draw(random) % 19);

    held->size = draw_size(random);
    switch (draw(random) % 4) {
    case 0:
        held->block = weir_heap_calloc(heap, 1, held->size);
        cr_assert(held->block && is_zero(held->block, held->size), "%zu bytes", held->size);
        break;
    case 1:
        held->block = weir_heap_aligned_alloc(heap, alignment, held->size);
        cr_assert_eq((uintptr_t)held->block % alignment, 0);
        break;
    default: held->block = weir_heap_malloc(heap, held->size);
    }
    cr_assert_not_null(held->block);
    cr_assert_eq((uintptr_t)held->block % 16, 0);
    cr_assert_geq(weir_heap_usable_size(heap, held->block), held->size);
    stamp(held, (unsigned char)draw(random));
}

static void reallocate(struct weir_heap *heap, struct held *held, uint64_t *random)
{
    size_t size = draw_size(random), kept = size < held->size ? size : held->size;

    held->block = weir_heap_realloc(heap, held->block, size);
    cr_assert(held->block && is_stamped(held, kept));
    held->size = size;
    stamp(held, (unsigned char)draw(random));
}

static void release(struct weir_heap *heap, struct held *held)
{
    if (held->block)
        cr_assert(is_stamped(held, held->size), "a block of %zu bytes", held->size);
    weir_heap_free(heap, held->block);
    held->block = NULL;
}

/* One step of any kind. */
static void step(struct weir_heap *heap, struct held *held, uint64_t *random)
{
    if (!held->block)
        allocate(heap, held, random);
    else if (draw(random) % 4 == 0)
        reallocate(heap, held, random);
    else
        release(heap, held);
}

/* --- The tests ------------------------------------------------------------------------------- */

Test(heap, a_class_is_the_smallest_that_holds_a_size)
{
    for (size_t size = 1; size <= WR_SMALL_MAX; size++) {
        uint32_t class = wr_class_of(size);

        cr_assert(class > 0 && class < WR_CLASS_COUNT);
        cr_assert_geq(wr_class_bytes(class), size);
        cr_assert(class == 1 || wr_class_bytes(class - 1) < size, "%zu", size);
        cr_assert_leq(wr_class_bytes(class), size + (size < 64 ? 15 : size / 4));
    }
}

Test(heap, blocks_of_all_sizes_keep_what_they_hold)
{
    struct weir_heap *heap = make(512 * MIB);
    static struct held held[BLOCKS];
    uint64_t random = 1;

    for (int i = 0; i < STEPS; i++)
        step(heap, &held[draw(&random) % BLOCKS], &random);
    for (unsigned i = 0; i < BLOCKS; i++)
        release(heap, &held[i]);
    need_empty(heap);
    cr_assert_gt(freed_bytes, 0);
    cr_assert_eq(weir_heap_destroy(heap), WEIR_OK);
    cr_assert_eq(regions, 0);
}

struct crew {
    struct weir_heap *heap;
    pthread_mutex_t lock[64];
    struct held held[64][16];
    _Atomic(uint64_t) seed;
};

/* Whatever is on the table, whoever has put it there; and then the thread ends. */
static void *work(void *context)
{
    struct crew *crew = context;
    uint64_t random = crew->seed++;

    for (int i = 0; i < STEPS / 8; i++) {
        uint32_t which = draw(&random) % 64;

        pthread_mutex_lock(&crew->lock[which]);
        step(crew->heap, &crew->held[which][draw(&random) % 16], &random);
        pthread_mutex_unlock(&crew->lock[which]);
    }
    return NULL;
}

Test(heap, threads_free_what_others_have_allocated_and_end)
{
    static struct crew crew = {.seed = 5};
    pthread_t thread[4];

    crew.heap = make(512 * MIB);
    for (int i = 0; i < 64; i++)
        pthread_mutex_init(&crew.lock[i], NULL);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++)
            cr_assert_eq(pthread_create(&thread[i], NULL, work, &crew), 0);
        for (int i = 0; i < 4; i++)
            pthread_join(thread[i], NULL);
    }
    for (int i = 0; i < 64; i++)
        for (int k = 0; k < 16; k++)
            release(crew.heap, &crew.held[i][k]);
    need_empty(crew.heap); /* what ended threads had at hand, too */
    weir_heap_destroy(crew.heap);
}

/* Fill it with blocks of one size, each linked to the one before; how many there were. */
static size_t fill(struct weir_heap *heap, size_t size, void **last_p)
{
    size_t count = 0;

    for (void **block; (block = weir_heap_malloc(heap, size)); count++) {
        *block = *last_p;
        *last_p = block;
    }
    return count;
}

static void drain(struct weir_heap *heap, void **last)
{
    while (last) {
        void **before = *last;

        weir_heap_free(heap, last);
        last = before;
    }
}

Test(heap, a_full_heap_says_so_and_has_room_again)
{
    static const size_t sizes[] = {16, 100, 4096, 20000, 32768, 65536, 700000};
    struct weir_heap *heap = make(2 * MIB);

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const size_t least = 2 * MIB / (sizes[i] * 2 + 16);
        void *last = NULL;

        errno = 0;
        cr_assert_geq(fill(heap, sizes[i], &last), least, "blocks of %zu", sizes[i]);
        cr_assert_eq(errno, ENOMEM);
        cr_assert_null(weir_heap_realloc(heap, last, 8 * MIB));
        drain(heap, last);
        /* Without a trim: what is kept for one size is not missing for another. */
    }
    need_empty(heap);
    weir_heap_destroy(heap);
}

Test(heap, sizes_that_cannot_be_are_refused)
{
    struct weir_heap *heap = make(MIB);

    cr_assert_null(weir_heap_malloc(heap, SIZE_MAX));
    cr_assert_null(weir_heap_malloc(heap, 2 * MIB));
    cr_assert_null(weir_heap_calloc(heap, SIZE_MAX / 2, 3));
    errno = 0;
    cr_assert_null(weir_heap_aligned_alloc(heap, 48, 100));
    cr_assert_eq(errno, EINVAL);
    cr_assert_null(weir_heap_aligned_alloc(heap, (size_t)1 << 63, 100));
    cr_assert_null(weir_heap_aligned_alloc(heap, 16, SIZE_MAX));
    cr_assert_not_null(weir_heap_malloc(heap, 0));
    weir_heap_free(heap, NULL);
    cr_assert_eq(weir_heap_usable_size(heap, NULL), 0);
    weir_heap_destroy(heap);
}

Test(heap, a_large_block_grows_where_it_is)
{
    struct weir_heap *heap = make(8 * MIB);
    char *block = weir_heap_malloc(heap, MIB), *other;

    cr_assert_eq(weir_heap_realloc(heap, block, 4 * MIB), block);
    cr_assert_eq(weir_heap_usable_size(heap, block), 4 * MIB);
    cr_assert_eq(weir_heap_realloc(heap, block, 2 * MIB), block);
    other = weir_heap_malloc(heap, 2 * MIB); /* right behind it */
    cr_assert_eq(other, block + 2 * MIB);
    cr_assert_neq(weir_heap_realloc(heap, block, 3 * MIB), block);
    weir_heap_destroy(heap);
}

Test(heap, no_more_is_untold_than_was_said)
{
    const struct weir_heap_options options = {.size = sizeof(options), .untold_bytes = 2 * MIB};
    struct weir_heap *heap;
    void *block[64];

    cr_assert_eq(weir_heap_create(RUNTIME, 64 * MIB, &options, &heap), WEIR_OK);
    for (int i = 0; i < 64; i++)
        block[i] = memset(weir_heap_malloc(heap, MIB), 1, MIB);
    for (int i = 0; i < 64; i++) {
        weir_heap_free(heap, block[i]);
        cr_assert_leq(stats_of(heap).untold_bytes, 2 * MIB);
    }
    cr_assert_geq(freed_bytes, 62 * MIB);
    cr_assert_eq(stats_of(heap).told_bytes, freed_bytes);
    weir_heap_destroy(heap);
}

/* --- The life of heaps ----------------------------------------------------------------------- */

struct guest {
    struct weir_heap *heap;
    pthread_barrier_t turn;
};

static void *use_both(void *context)
{
    struct guest *guest = context;

    for (int i = 0; i < 2; i++) {
        pthread_barrier_wait(&guest->turn); /* there is a heap */
        for (int k = 0; k < 1000; k++)
            weir_heap_free(guest->heap, memset(weir_heap_malloc(guest->heap, 100), 1, 100));
        pthread_barrier_wait(&guest->turn); /* it may go */
    }
    return NULL;
}

Test(heap, a_heap_goes_while_threads_have_some_of_it_at_hand)
{
    struct guest guest;
    pthread_t thread;

    pthread_barrier_init(&guest.turn, NULL, 2);
    cr_assert_eq(pthread_create(&thread, NULL, use_both, &guest), 0);
    for (int i = 0; i < 2; i++) {
        guest.heap = make(MIB);
        pthread_barrier_wait(&guest.turn);
        pthread_barrier_wait(&guest.turn);
        cr_assert_eq(weir_heap_destroy(guest.heap), WEIR_OK);
    }
    pthread_join(thread, NULL);
    cr_assert_eq(regions, 0);
}

Test(heap, many_heaps_one_after_the_other_and_four_at_a_time)
{
    struct weir_heap *heap[4] = {NULL};

    for (int i = 0; i < HEAPS; i++) {
        cr_assert_eq(weir_heap_destroy(heap[i % 4]), WEIR_OK);
        heap[i % 4] = make(MIB);
        for (int k = 0; k < 4; k++)
            if (heap[k])
                *(int *)weir_heap_malloc(heap[k], 64) = k;
    }
    for (int k = 0; k < 4; k++)
        weir_heap_destroy(heap[k]);
    cr_assert_eq(regions, 0);
}

Test(heap, what_weir_refuses_is_passed_on)
{
    struct weir_heap *heap = NULL;

    map_gives = WEIR_ENOMEM;
    cr_assert_eq(weir_heap_create(RUNTIME, MIB, NULL, &heap), WEIR_ENOMEM);
    map_gives = WEIR_OK;
    cr_assert_eq(weir_heap_create(NULL, MIB, NULL, &heap), WEIR_EINVAL);
    cr_assert_eq(weir_heap_create(RUNTIME, 0, NULL, &heap), WEIR_EINVAL);
    cr_assert_null(heap);
    heap = make(MIB);
    unmap_gives = WEIR_EBUSY;
    cr_assert_eq(weir_heap_destroy(heap), WEIR_EBUSY);
    cr_assert_not_null(weir_heap_malloc(heap, 100)); /* as it was */
    unmap_gives = WEIR_OK;
    cr_assert_eq(weir_heap_destroy(heap), WEIR_OK);
    cr_assert_eq(weir_heap_destroy(NULL), WEIR_OK);
}

Test(heap, a_fork_child_has_none)
{
    struct weir_heap *heap = make(MIB);
    void *block = weir_heap_malloc(heap, 100), *large = weir_heap_malloc(heap, 100000);
    int status = 1;
    pid_t pid = fork();

    if (pid == 0) {
        weir_heap_free(heap, block);
        weir_heap_free(heap, large);
        weir_heap_trim(heap);
        _exit(weir_heap_malloc(heap, 100) || weir_heap_malloc(heap, 100000) ||
              weir_heap_calloc(heap, 1, 100) || weir_heap_realloc(heap, block, 200) ||
              weir_heap_destroy(heap) != WEIR_EFORKED);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", (unsigned)status);
    weir_heap_free(heap, block);
    weir_heap_destroy(heap);
}

Test(heap, a_small_block_that_is_freed_twice_ends_the_program, .signal = SIGABRT)
{
    struct weir_heap *heap = make(MIB);
    void *block = weir_heap_malloc(heap, 100);

    weir_heap_free(heap, block);
    weir_heap_free(heap, block);
    weir_heap_trim(heap);
}

Test(heap, a_large_block_that_is_freed_twice_ends_the_program, .signal = SIGABRT)
{
    struct weir_heap *heap = make(MIB);
    void *block = weir_heap_malloc(heap, 100000);

    weir_heap_free(heap, block);
    weir_heap_free(heap, block);
}

Test(heap, what_is_elsewhere_ends_the_program, .signal = SIGABRT)
{
    int elsewhere;

    weir_heap_free(make(MIB), &elsewhere);
}

Test(heap, what_is_within_a_block_ends_the_program, .signal = SIGABRT)
{
    struct weir_heap *heap = make(MIB);

    weir_heap_free(heap, (char *)weir_heap_malloc(heap, 100) + 16);
    weir_heap_trim(heap);
}
