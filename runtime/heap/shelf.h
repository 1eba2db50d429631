/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Shelves: what a thread keeps at hand of a heap, so that it need not ask others.
 *
 *   shelf    of one thread and one heap: a stack of blocks for each class
 *   number   of a heap: never used again, so that a shelf of a heap that is gone is not mistaken
 * for one of another that lies at the same address book     of one thread: its shelves, by the
 * heap's number living   the list of heaps that are not destroyed
 *
 * Always: only its thread uses a shelf, until the thread ends (then it puts everything back) or the
 * heap is destroyed (then all its shelves go, and books may still have their numbers). A book's
 * entry is followed only if its number is that of a heap the caller was given, or of a living one.
 */

#include "runtime/heap/slabs.h"

/* No heap has it: of heaps in a fork child, whose regions are not there. */
#define WR_HEAP_FORKED UINT64_MAX

struct wr_stack {
    uint32_t count, limit;
    void **block;
};

struct wr_shelf {
    struct wr_shelf *next, *prev; /* of the same heap; kept by the lock of the living */
    struct wr_stack stack[WR_CLASS_COUNT];
    void *block[];
};

struct weir_heap {
    /* Constant, but for a fork child, where there is one thread. */
    uint64_t number;
    char *base;
    uint64_t bytes;

    struct wr_units units;
    struct wr_slabs slabs;

    /* Kept by the lock of the living. */
    struct weir_heap *next, *prev;
    struct wr_shelf *shelves;
};

struct wr_book {
    uint64_t last_number; /* 0: none */
    struct wr_shelf *last;
    struct wr_book_entry *entry;
    uint32_t count, room;
};

extern _Thread_local struct wr_book wr_book;

/* Once before all else; false: the system has no key for threads. */
bool wr_shelf_ready(void);
/* The heap gets a number, and lives. */
void wr_heap_enter(struct weir_heap *heap);
/* The heap lives no more, and all its shelves are gone. */
void wr_heap_leave(struct weir_heap *heap);

/* The calling thread's, made if need be. NULL: a fork child, or no memory for one. */
struct wr_shelf *wr_shelf_find(struct weir_heap *heap);
static inline struct wr_shelf *wr_shelf_of(struct weir_heap *heap)
{
    return wr_book.last_number == heap->number ? wr_book.last : wr_shelf_find(heap);
}

/* Put some back, the oldest first, until so many are left in each stack. */
void wr_shelf_put(struct weir_heap *heap, struct wr_shelf *shelf, uint32_t class, uint32_t left);
void wr_shelf_empty(struct weir_heap *heap, struct wr_shelf *shelf);
