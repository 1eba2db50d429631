/* SPDX-License-Identifier: MIT */

/* Every weir_heap_*(): blocks of at most WR_SMALL_MAX from the thread's shelf, larger ones as runs
 * of units. */

#include <weir/weir_heap.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/heap/shelf.h"

#define UNTOLD_SHARE 32u                 /* of the budget                                     */
#define UNTOLD_MIN   ((uint64_t)1 << 20) /* less would be asked for again at once             */
#define DISCARD_MIN  ((size_t)1 << 20)   /* to zero less than that, it is quicker to write it */
#define LIKELY(x)    __builtin_expect(!!(x), 1)

_Static_assert(WR_CLASS_COUNT < WR_UNIT_LARGE, "a kind is a class, or not");

/* --- Create and destroy ---------------------------------------------------------------------- */

static uint64_t budget_of(struct weir_runtime *runtime)
{
    struct weir_stats stats = {.size = sizeof(stats)};

    return weir_stats(runtime, &stats) == WEIR_OK ? stats.budget_bytes : 0;
}

static uint32_t untold_max(struct weir_runtime *runtime, uint64_t asked)
{
    uint64_t bytes = asked ? asked : budget_of(runtime) / UNTOLD_SHARE;

    if (!asked && bytes < UNTOLD_MIN)
        bytes = UNTOLD_MIN;
    bytes >>= WR_UNIT_SHIFT;
    return bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
}

/* A heap that has a region, and keeps its books. */
static int furnish(struct weir_heap *heap, uint32_t most_untold)
{
    uint32_t total = (uint32_t)(heap->bytes >> WR_UNIT_SHIFT);

    if (wr_units_init(&heap->units, heap->base, total, most_untold) &&
        wr_slabs_init(&heap->slabs, &heap->units))
        return WEIR_OK;
    wr_units_fini(&heap->units);
    return WEIR_ENOMEM;
}

int weir_heap_create(struct weir_runtime *runtime, uint64_t bytes,
                     const struct weir_heap_options *options, struct weir_heap **heap_p)
{
    struct weir_region_options region = {.size = sizeof(region), .name = "heap"};
    struct weir_heap_options given = {0};
    struct weir_heap *heap;
    void *base = NULL;
    int error;

    if (!runtime || !heap_p || bytes == 0 || (options && options->size == 0))
        return WEIR_EINVAL;
    if (options)
        memcpy(&given, options, options->size < sizeof(given) ? options->size : sizeof(given));
    if (given.name)
        region.name = given.name;
    if (bytes > (uint64_t)(UINT32_MAX - 1) << WR_UNIT_SHIFT || !wr_shelf_ready())
        return WEIR_ENOMEM;
    heap = wr_units_reserve(sizeof(*heap));
    if (!heap)
        return WEIR_ENOMEM;
    heap->bytes = (bytes + WR_UNIT_BYTES - 1) & ~(uint64_t)(WR_UNIT_BYTES - 1);
    error = weir_map(runtime, heap->bytes, &region, &base);
    heap->base = base;
    if (error == WEIR_OK) {
        error = furnish(heap, untold_max(runtime, given.untold_bytes));
        if (error != WEIR_OK)
            weir_unmap(base);
    }
    if (error != WEIR_OK) {
        wr_units_unreserve(heap, sizeof(*heap));
        return error;
    }
    wr_heap_enter(heap);
    *heap_p = heap;
    return WEIR_OK;
}

int weir_heap_destroy(struct weir_heap *heap)
{
    int error;

    if (!heap)
        return WEIR_OK;
    if (heap->number == WR_HEAP_FORKED)
        return WEIR_EFORKED;
    /* Before the region goes: a thread that ends must not tell Weir about somebody else's. */
    wr_heap_leave(heap);
    error = weir_unmap(heap->base);
    if (error != WEIR_OK && error != WEIR_ENOENT) {
        wr_heap_enter(heap);
        return error;
    }
    wr_slabs_fini(&heap->slabs);
    wr_units_fini(&heap->units);
    wr_units_unreserve(heap, sizeof(*heap));
    return WEIR_OK;
}

/* --- Allocate -------------------------------------------------------------------------------- */

static void *no_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

/* What this thread has at hand, and slabs without a block, are as good as free. */
static void scrape(struct weir_heap *heap)
{
    struct wr_shelf *shelf = wr_shelf_of(heap);

    if (shelf)
        wr_shelf_empty(heap, shelf);
    wr_slabs_trim(&heap->slabs);
}

static __attribute__((noinline)) void *refill(struct weir_heap *heap, uint32_t class)
{
    struct wr_shelf *shelf = wr_shelf_of(heap);
    void *one = NULL;

    for (int attempt = 0; attempt < 2 && heap->number != WR_HEAP_FORKED; attempt++) {
        if (shelf) {
            struct wr_stack *stack = &shelf->stack[class];

            stack->count = wr_slabs_take(&heap->slabs, class, stack->limit / 2, stack->block);
            if (stack->count > 0)
                return stack->block[--stack->count];
        } else if (wr_slabs_take(&heap->slabs, class, 1, &one) == 1) {
            return one;
        }
        scrape(heap);
    }
    return no_memory();
}

static inline void *take_small(struct weir_heap *heap, uint32_t class)
{
    struct wr_shelf *shelf = wr_shelf_of(heap);

    if (LIKELY(shelf && shelf->stack[class].count > 0))
        return shelf->stack[class].block[--shelf->stack[class].count];
    return refill(heap, class);
}

static void *take_large(struct weir_heap *heap, size_t size, size_t alignment, bool *is_fresh_p)
{
    const uint64_t count = size / WR_UNIT_BYTES + (size % WR_UNIT_BYTES != 0);
    const uint64_t align = alignment > WR_UNIT_BYTES ? alignment / WR_UNIT_BYTES : 1;

    for (int attempt = 0; attempt < 2 && heap->number != WR_HEAP_FORKED; attempt++) {
        uint32_t unit = wr_units_take(&heap->units, count + (count == 0), align, WR_UNIT_LARGE,
                                      is_fresh_p);

        if (unit != WR_UNIT_NONE)
            return heap->base + unit * WR_UNIT_BYTES;
        scrape(heap);
    }
    return no_memory();
}

void *weir_heap_malloc(struct weir_heap *heap, size_t size)
{
    bool is_fresh;

    if (LIKELY(size <= WR_SMALL_MAX))
        return take_small(heap, wr_class_of(size + (size == 0)));
    return take_large(heap, size, 1, &is_fresh);
}

void *weir_heap_calloc(struct weir_heap *heap, size_t count, size_t size)
{
    bool is_fresh = false;
    size_t bytes;
    void *block;

    if (__builtin_mul_overflow(count, size, &bytes))
        return no_memory();
    if (bytes <= WR_SMALL_MAX) {
        block = take_small(heap, wr_class_of(bytes + (bytes == 0)));
        return block ? memset(block, 0, bytes) : NULL;
    }
    block = take_large(heap, bytes, 1, &is_fresh);
    if (!block || is_fresh)
        return block;
    if (bytes < DISCARD_MIN ||
        weir_advise(block, weir_heap_usable_size(heap, block), WEIR_DISCARD) != WEIR_OK)
        memset(block, 0, bytes);
    return block;
}

void *weir_heap_aligned_alloc(struct weir_heap *heap, size_t alignment, size_t size)
{
    bool is_fresh;

    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        errno = EINVAL;
        return NULL;
    }
    if (size <= WR_SMALL_MAX && alignment <= WR_SMALL_MAX)
        /* The class of a power of two is aligned to it, so there always is one. */
        for (uint32_t class = wr_class_of(size < alignment ? alignment : size);
             class < WR_CLASS_COUNT; class ++)
            if ((wr_class_bytes(class) & (alignment - 1)) == 0)
                return take_small(heap, class);
    return take_large(heap, size, alignment, &is_fresh);
}

/* --- Free ------------------------------------------------------------------------------------ */

/* What the unit of a block is; its number is written to *unit_p. */
static inline uint32_t kind_of(const struct weir_heap *heap, const void *block, uint32_t *unit_p)
{
    const uint64_t offset = (uint64_t)((const char *)block - heap->base);

    if (__builtin_expect(offset >= heap->bytes, 0))
        wr_heap_die(block, "is no block of this heap");
    *unit_p = (uint32_t)(offset >> WR_UNIT_SHIFT);
    return heap->units.kind[*unit_p];
}

static void need_large(const struct weir_heap *heap, const void *block, uint32_t kind)
{
    if (kind == WR_UNIT_FREE)
        wr_heap_die(block, "was freed already");
    if (kind != WR_UNIT_LARGE || ((const char *)block - heap->base) % (ptrdiff_t)WR_UNIT_BYTES)
        wr_heap_die(block, "is within a large block, but not where it begins");
}

static void tell_if_due(struct weir_heap *heap)
{
    if (heap->units.untold_count > heap->units.untold_max)
        wr_units_tell(&heap->units, false);
}

static __attribute__((noinline)) void free_slowly(struct weir_heap *heap, void *block,
                                                  uint32_t kind, uint32_t unit)
{
    struct wr_shelf *shelf = wr_shelf_of(heap);
    struct wr_stack *stack;

    if (heap->number == WR_HEAP_FORKED)
        return;
    if (kind - 1 >= WR_CLASS_COUNT - 1) {
        need_large(heap, block, kind);
        wr_units_put(&heap->units, unit);
        tell_if_due(heap);
        return;
    }
    if (!shelf) {
        wr_slabs_put(&heap->slabs, kind, 1, &block);
        return;
    }
    stack = &shelf->stack[kind];
    if (stack->count == stack->limit)
        wr_shelf_put(heap, shelf, kind, stack->limit / 2);
    stack->block[stack->count++] = block;
}

void weir_heap_free(struct weir_heap *heap, void *block)
{
    struct wr_shelf *shelf;
    uint32_t unit, kind;

    if (!block)
        return;
    shelf = wr_shelf_of(heap);
    kind = kind_of(heap, block, &unit);
    if (LIKELY(kind - 1 < WR_CLASS_COUNT - 1 && shelf &&
               shelf->stack[kind].count < shelf->stack[kind].limit))
        shelf->stack[kind].block[shelf->stack[kind].count++] = block;
    else
        free_slowly(heap, block, kind, unit);
}

size_t weir_heap_usable_size(struct weir_heap *heap, const void *block)
{
    uint32_t unit, kind;

    if (!block)
        return 0;
    kind = kind_of(heap, block, &unit);
    if (kind - 1 < WR_CLASS_COUNT - 1)
        return wr_class_bytes(kind);
    need_large(heap, block, kind);
    return wr_units_length(&heap->units, unit) * WR_UNIT_BYTES;
}

/* --- Resize ---------------------------------------------------------------------------------- */

/* Where it is: a small one that is not half empty then, a large one if what follows is free. */
static bool resize_here(struct weir_heap *heap, const void *block, size_t usable, size_t size)
{
    const uint64_t count = size / WR_UNIT_BYTES + (size % WR_UNIT_BYTES != 0);
    bool is_done;

    if (usable <= WR_SMALL_MAX)
        return size <= usable && size >= usable / 2;
    if (size <= WR_SMALL_MAX || count > UINT32_MAX)
        return false;
    is_done = wr_units_resize(
        &heap->units, (uint32_t)((uint64_t)((const char *)block - heap->base) >> WR_UNIT_SHIFT),
        (uint32_t)count);
    tell_if_due(heap);
    return is_done;
}

void *weir_heap_realloc(struct weir_heap *heap, void *block, size_t size)
{
    size_t usable;
    void *moved;

    if (!block)
        return weir_heap_malloc(heap, size);
    if (heap->number == WR_HEAP_FORKED)
        return no_memory();
    usable = weir_heap_usable_size(heap, block);
    if (resize_here(heap, block, usable, size))
        return block;
    moved = weir_heap_malloc(heap, size);
    if (!moved)
        return NULL;
    memcpy(moved, block, usable < size ? usable : size);
    weir_heap_free(heap, block);
    return moved;
}

/* --- All of it ------------------------------------------------------------------------------- */

void weir_heap_trim(struct weir_heap *heap)
{
    if (heap->number == WR_HEAP_FORKED)
        return;
    scrape(heap);
    wr_units_tell(&heap->units, true);
}

int weir_heap_stats(struct weir_heap *heap, struct weir_heap_stats *stats)
{
    struct weir_heap_stats now = {0};
    const size_t size = stats->size;

    if (size == 0)
        return WEIR_EINVAL;
    if (heap->number == WR_HEAP_FORKED)
        return WEIR_EFORKED;
    pthread_mutex_lock(&heap->units.lock);
    now = (struct weir_heap_stats){
        .size = size,
        .bytes = heap->bytes,
        .used_bytes = (uint64_t)heap->units.used << WR_UNIT_SHIFT,
        .untold_bytes = (uint64_t)heap->units.untold_count << WR_UNIT_SHIFT,
        .told_bytes = heap->units.told << WR_UNIT_SHIFT,
        .metadata_bytes = heap->units.metadata_bytes + wr_slabs_metadata(&heap->slabs),
    };
    pthread_mutex_unlock(&heap->units.lock);
    memcpy(stats, &now, size < sizeof(now) ? size : sizeof(now));
    return WEIR_OK;
}
