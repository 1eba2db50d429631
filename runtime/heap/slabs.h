/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Slabs: units that are cut into blocks of one size.
 *
 *   class   a size of block: 1 to 8 are multiples of 16 bytes, then four for each doubling
 *   slab    a unit of a class, with a bit for each block: is it here, or given out?
 *   roomy   a slab that has some here; these are in a list, one for each class
 *
 * Always: a block is here (its bit is set), on one thread's shelf, or the program's. What is here
 * twice was freed twice, and ends the program.
 */

#include "runtime/heap/units.h"

#define WR_CLASS_COUNT 41u /* 0 is none */
#define WR_SMALL_MAX   ((size_t)32768)
#define WR_SLAB_WORDS  (WR_UNIT_BYTES / 16 / 64)

/* The smallest class that holds so many bytes, 1 to WR_SMALL_MAX. */
static inline uint32_t wr_class_of(size_t size)
{
    uint32_t log = 63u - (uint32_t)__builtin_clzll((uint64_t)(size - 1) | 1);

    return size <= 128 ? (uint32_t)((size + 15) >> 4)
                       : 9 + (log - 7) * 4 + (uint32_t)((size - 1) >> (log - 2) & 3);
}

static inline size_t wr_class_bytes(uint32_t class)
{
    uint32_t k = class - 9;

    return class <= 8 ? (size_t) class << 4 : (size_t)(4 + k % 4 + 1) << (7 + k / 4 - 2);
}

struct wr_slab {
    uint32_t next, prev; /* in the list of roomy ones   */
    uint16_t here, capacity;
    uint32_t hint; /* no word before it has a bit */
    uint64_t bit[WR_SLAB_WORDS];
};

struct wr_class {
    _Alignas(64) pthread_mutex_t lock; /* before the units' */
    uint32_t roomy;
};

struct wr_slabs {
    struct wr_units *units;
    struct wr_slab *slab; /* one for each unit; untouched where it is none */
    struct wr_class class[WR_CLASS_COUNT];
};

bool wr_slabs_init(struct wr_slabs *slabs, struct wr_units *units);
void wr_slabs_fini(struct wr_slabs *slabs);
size_t wr_slabs_metadata(const struct wr_slabs *slabs);

/* Take up to so many blocks; how many there were. Fewer: the heap is full. */
uint32_t wr_slabs_take(struct wr_slabs *slabs, uint32_t class, uint32_t count, void **blocks);
/* Give blocks of one class back. What is no block of it ends the program. */
void wr_slabs_put(struct wr_slabs *slabs, uint32_t class, uint32_t count, void *const *blocks);
/* Give units back of which no block is given out. (One is kept for each class without this.) */
void wr_slabs_trim(struct wr_slabs *slabs);

/* The program has given us a pointer that cannot be. */
_Noreturn void wr_heap_die(const void *block, const char *what);
