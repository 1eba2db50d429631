/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Weir, by the block: malloc on far memory. A library of its own, libweir_heap (-lweir_heap -lweir,
 * or pkg-config weir_heap).
 *
 *   heap    a region that is given out in blocks; a program may have several
 *   block   what weir_heap_malloc() gives: memory as from malloc(), of this heap
 *
 * Always: nothing but what the program stores is ever in a heap's pages. Where blocks lie and which
 * are free is kept in local memory, so that to allocate or to free touches no page: freeing what is
 * at a back end does not bring it back. Freed memory is told to Weir (WEIR_FREE), which then never
 * writes it to a back end; a little of it not at once: see weir_heap_trim().
 *
 *     struct weir_heap *heap;
 *
 *     if (weir_heap_create(rt, 64ull << 30, NULL, &heap) == WEIR_OK) {
 *         struct node *node = weir_heap_malloc(heap, sizeof(*node));
 *         ...
 *         weir_heap_destroy(heap);    // all blocks at once
 *     }
 *
 * Threads: any thread may allocate, and free what any other has allocated; blocks stay when the
 * thread that allocated them ends. Signals: none of these may be called from a signal handler.
 * System calls: blocks are memory of a region, and what weir.h says of pins holds for them. Fork
 * children have no regions: there allocating gives NULL, freeing does nothing.
 */

#include <stddef.h>
#include <stdint.h>

#include <weir/weir.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct weir_heap;

struct weir_heap_options {
    size_t size;      /* sizeof(struct weir_heap_options) of the caller                       */
    const char *name; /* of the heap's region, for reports; copied; NULL: "heap"              */
    /* Freed memory that may wait to be told to Weir, because it is likely to be used again.
     * 0: a 32nd of the budget, at least 1 MiB                                                */
    uint64_t untold_bytes;
};

/*
 * Make a heap of so many bytes, rounded up to 64 KiB: a region, mapped by weir_map(), whose bytes
 * are only addresses until blocks are written. Local memory beside it: 13 bytes for each 64 KiB
 * that have been in use, and up to 528 for each 64 KiB of blocks of at most 32 KiB. options may be
 * NULL. The caller owns *heap_p, and destroys it before the runtime is closed. WEIR_EINVAL: bytes
 * is 0, or a pointer is NULL; WEIR_ENOMEM: out of addresses or memory; others as weir_map() has.
 */
int weir_heap_create(struct weir_runtime *runtime, uint64_t bytes,
                     const struct weir_heap_options *options, struct weir_heap **heap_p);

/*
 * Unmap the heap with all its blocks, whoever has allocated them, and free what was kept about it.
 * Nobody may use the heap or a block during or after it; threads that have used it need do nothing.
 * NULL is allowed. WEIR_EFORKED: in a fork child, it does nothing. WEIR_EBUSY: as weir_unmap() has.
 */
int weir_heap_destroy(struct weir_heap *heap);

/*
 * A block of at least size bytes, aligned to 16; its contents are anything. size 0 gives a block,
 * too. Up to 32 KiB a block has at most a quarter more (at least 16 bytes); larger ones begin at
 * multiples of 64 KiB, whose rest is addresses only. NULL, and errno is ENOMEM: the heap is full,
 * or this is a fork child.
 */
void *weir_heap_malloc(struct weir_heap *heap, size_t size) __attribute__((malloc));

/* The same for count things of that size, all bytes zero. Large ones are zeroed without being
 * brought back or written (WEIR_DISCARD). NULL also if the product is too large for a number. */
void *weir_heap_calloc(struct weir_heap *heap, size_t count, size_t size) __attribute__((malloc));

/* The same with an alignment, any power of two (else NULL, and errno is EINVAL). */
void *weir_heap_aligned_alloc(struct weir_heap *heap, size_t alignment, size_t size)
    __attribute__((malloc));

/*
 * Make the block so large, where it is if there is room, else somewhere else, with what it holds as
 * far as both reach. block NULL: weir_heap_malloc(). An alignment over 16 is not kept when it
 * moves. NULL, and errno is ENOMEM: there is no room; the block is as it was. (size 0 gives a
 * block.)
 */
void *weir_heap_realloc(struct weir_heap *heap, void *block, size_t size);

/*
 * Give a block back. NULL is allowed. What is no block of this heap, or was freed already, ends the
 * program with a line on standard error, now or when its neighbours are freed, if it is noticed: as
 * with free(), it may not be.
 */
void weir_heap_free(struct weir_heap *heap, void *block);

/* How many bytes of the block may be used: at least what was asked for. 0 for NULL. */
size_t weir_heap_usable_size(struct weir_heap *heap, const void *block);

/*
 * Tell Weir of all freed memory now, what the calling thread keeps at hand included. Without it,
 * untold_bytes of the heap, and of each thread at most about 64 KiB for each of 40 sizes of block
 * (256 KiB of the largest), are treated like memory in use; and a page whose neighbours within
 * 64 KiB are in use is told of when they are freed, too. Costs a system call for each 64 pages.
 */
void weir_heap_trim(struct weir_heap *heap);

struct weir_heap_stats {
    size_t size;             /* sizeof(struct weir_heap_stats) of the caller: set before the call */
    uint64_t bytes;          /* of addresses                                                      */
    uint64_t used_bytes;     /* blocks, and what is cut to be blocks; in steps of 64 KiB          */
    uint64_t untold_bytes;   /* freed, and not yet told to Weir                                   */
    uint64_t told_bytes;     /* freed and told to Weir, since the heap was made: a counter        */
    uint64_t metadata_bytes; /* local memory reserved for the heap; most of it is never touched   */
};

/* Read the statistics of a heap. WEIR_EINVAL: stats->size is not set. */
int weir_heap_stats(struct weir_heap *heap, struct weir_heap_stats *stats);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
