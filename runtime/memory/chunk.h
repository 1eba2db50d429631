/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Chunk: 512 neighbouring pages held together: 2 MiB of addresses, one page table of the kernel,
 * and exactly two pages of descriptors. What nobody needs of these is given back here (seed E30).
 *
 *   table   does the kernel keep a page table for these addresses? NONE: certainly not, and no page
 *           is being mapped. USED: perhaps. QUIET: it was USED, and nothing was mapped since
 *   held    all pages of it are locked, by one thread that never waits for any of them
 *
 * Always: while a chunk is held, nobody sleeps on one of its pages until he is woken; those who
 * want one look again after a moment, because a descriptor that is given back could not wake them.
 */

#include "runtime/memory/page.h"

enum wr_table { WR_TABLE_NONE, WR_TABLE_USED, WR_TABLE_QUIET };

enum wr_chunk_want {
    WR_CHUNK_EMPTY,   /* every page is EMPTY                                              */
    WR_CHUNK_UNMAPPED /* no page has a frame mapped, and none is being read: RESIDENT_ZERO may be */
};

/* Hold the chunk, if it is so and nobody has a page of it. Inside the gate. */
bool wr_chunk_take(const struct wr_pages *pages, uint32_t chunk, enum wr_chunk_want want);
/* Let go. is_dropped: nothing of it is mapped any more, and its page table went. */
void wr_chunk_put(const struct wr_pages *pages, uint32_t chunk, bool is_dropped);
/* Let go of a chunk of EMPTY pages that was dropped, and give its descriptors' memory back. */
void wr_chunk_forget(const struct wr_pages *pages, uint32_t chunk);

/* Before an EMPTY page is mapped, by the holder of its lock: nobody may take the chunk for one that
 * was never touched, though the page is still EMPTY. Signal. */
void wr_chunk_mark(const struct wr_pages *pages, uint32_t page);

/* Was no page of it touched since it was mapped, or forgotten? */
static inline bool wr_chunk_is_untouched(const struct wr_pages *pages, uint32_t chunk)
{
    /* Relaxed: whoever has stored to a page, or seen a store to it, comes after the mark. */
    return atomic_load_explicit(&pages->chunks[chunk].touched, memory_order_relaxed) == 0 &&
           atomic_load_explicit(&pages->chunks[chunk].table, memory_order_relaxed) == WR_TABLE_NONE;
}
