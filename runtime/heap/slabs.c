/* SPDX-License-Identifier: MIT */
#include "runtime/heap/slabs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void wr_heap_die(const void *block, const char *what)
{
    dprintf(STDERR_FILENO, "weir_heap: %p %s\n", block, what);
    abort();
}

/* --- The list of those with room ------------------------------------------------------------- */

static void list_add(struct wr_slabs *slabs, struct wr_class *class, uint32_t unit)
{
    slabs->slab[unit].next = class->roomy;
    slabs->slab[unit].prev = WR_UNIT_NONE;
    if (class->roomy != WR_UNIT_NONE)
        slabs->slab[class->roomy].prev = unit;
    class->roomy = unit;
}

static void list_remove(struct wr_slabs *slabs, struct wr_class *class, uint32_t unit)
{
    const struct wr_slab *slab = &slabs->slab[unit];

    if (slab->next != WR_UNIT_NONE)
        slabs->slab[slab->next].prev = slab->prev;
    if (slab->prev != WR_UNIT_NONE)
        slabs->slab[slab->prev].next = slab->next;
    else
        class->roomy = slab->next;
}

/* --- Take ------------------------------------------------------------------------------------ */

static bool cut_one(struct wr_slabs *slabs, uint32_t number)
{
    const uint32_t capacity = (uint32_t)(WR_UNIT_BYTES / wr_class_bytes(number));
    struct wr_slab *slab;
    bool is_fresh;
    uint32_t unit = wr_units_take(slabs->units, 1, 1, (uint8_t)number, &is_fresh);

    if (unit == WR_UNIT_NONE)
        return false;
    slab = &slabs->slab[unit];
    slab->here = slab->capacity = (uint16_t)capacity;
    slab->hint = 0;
    memset(slab->bit, 0xff, capacity / 64 * 8);
    if (capacity % 64)
        slab->bit[capacity / 64] = (1ull << capacity % 64) - 1;
    list_add(slabs, &slabs->class[number], unit);
    return true;
}

static uint32_t take_from(struct wr_slab *slab, char *base, size_t bytes, uint32_t count,
                          void **blocks)
{
    uint32_t taken = 0, word = slab->hint;

    if (count > slab->here)
        count = slab->here;
    while (taken < count) {
        uint64_t bits = slab->bit[word];

        while (bits && taken < count) {
            blocks[taken++] = base + (word * 64 + (uint32_t)__builtin_ctzll(bits)) * bytes;
            bits &= bits - 1;
        }
        slab->bit[word] = bits;
        word += bits == 0 && taken < count;
    }
    slab->hint = word;
    slab->here = (uint16_t)(slab->here - count);
    return count;
}

uint32_t wr_slabs_take(struct wr_slabs *slabs, uint32_t number, uint32_t count, void **blocks)
{
    struct wr_class *class = &slabs->class[number];
    const size_t bytes = wr_class_bytes(number);
    uint32_t taken = 0;

    pthread_mutex_lock(&class->lock);
    while (taken < count) {
        uint32_t unit = class->roomy;

        if (unit == WR_UNIT_NONE) {
            if (!cut_one(slabs, number))
                break;
            unit = class->roomy;
        }
        taken += take_from(&slabs->slab[unit], slabs->units->base + unit * WR_UNIT_BYTES, bytes,
                           count - taken, blocks + taken);
        if (slabs->slab[unit].here == 0)
            list_remove(slabs, class, unit);
    }
    pthread_mutex_unlock(&class->lock);
    return taken;
}

/* --- Put ------------------------------------------------------------------------------------- */

static uint32_t put_one(struct wr_slabs *slabs, uint32_t number, void *block)
{
    const uint64_t offset = (uint64_t)((char *)block - slabs->units->base);
    const uint32_t unit = (uint32_t)(offset >> WR_UNIT_SHIFT);
    const uint32_t within = (uint32_t)(offset & (WR_UNIT_BYTES - 1));
    const uint32_t bytes = (uint32_t)wr_class_bytes(number), index = within / bytes;
    struct wr_slab *slab = &slabs->slab[unit];

    if (slabs->units->kind[unit] != number)
        wr_heap_die(block, "was freed twice");
    if (index * bytes != within || index >= slab->capacity)
        wr_heap_die(block, "is freed, but no block begins there");
    if (slab->bit[index / 64] >> (index % 64) & 1)
        wr_heap_die(block, "was freed twice");
    slab->bit[index / 64] |= 1ull << (index % 64);
    slab->here++;
    if (slab->hint > index / 64)
        slab->hint = index / 64;
    return unit;
}

/* It has one more here. The last slab with room is kept, even if it is whole. */
static void settle(struct wr_slabs *slabs, struct wr_class *class, uint32_t unit)
{
    struct wr_slab *slab = &slabs->slab[unit];

    if (slab->here == 1)
        list_add(slabs, class, unit);
    if (slab->here < slab->capacity || (slab->next == WR_UNIT_NONE && slab->prev == WR_UNIT_NONE))
        return;
    list_remove(slabs, class, unit);
    wr_units_put(slabs->units, unit);
}

void wr_slabs_put(struct wr_slabs *slabs, uint32_t number, uint32_t count, void *const *blocks)
{
    struct wr_class *class = &slabs->class[number];

    pthread_mutex_lock(&class->lock);
    for (uint32_t i = 0; i < count; i++)
        settle(slabs, class, put_one(slabs, number, blocks[i]));
    pthread_mutex_unlock(&class->lock);
    if (slabs->units->untold_count > slabs->units->untold_max)
        wr_units_tell(slabs->units, false);
}

void wr_slabs_trim(struct wr_slabs *slabs)
{
    for (uint32_t number = 1; number < WR_CLASS_COUNT; number++) {
        struct wr_class *class = &slabs->class[number];
        uint32_t unit, next;

        pthread_mutex_lock(&class->lock);
        for (unit = class->roomy; unit != WR_UNIT_NONE; unit = next) {
            next = slabs->slab[unit].next;
            if (slabs->slab[unit].here == slabs->slab[unit].capacity) {
                list_remove(slabs, class, unit);
                wr_units_put(slabs->units, unit);
            }
        }
        pthread_mutex_unlock(&class->lock);
    }
}

/* --- Life ------------------------------------------------------------------------------------ */

size_t wr_slabs_metadata(const struct wr_slabs *slabs)
{
    return (size_t)slabs->units->total * sizeof(struct wr_slab);
}

bool wr_slabs_init(struct wr_slabs *slabs, struct wr_units *units)
{
    slabs->units = units;
    slabs->slab = wr_units_reserve(wr_slabs_metadata(slabs));
    if (!slabs->slab)
        return false;
    for (uint32_t number = 0; number < WR_CLASS_COUNT; number++) {
        pthread_mutex_init(&slabs->class[number].lock, NULL);
        slabs->class[number].roomy = WR_UNIT_NONE;
    }
    return true;
}

void wr_slabs_fini(struct wr_slabs *slabs)
{
    if (!slabs->slab)
        return;
    for (uint32_t number = 0; number < WR_CLASS_COUNT; number++)
        pthread_mutex_destroy(&slabs->class[number].lock);
    wr_units_unreserve(slabs->slab, wr_slabs_metadata(slabs));
    slabs->slab = NULL;
}
