/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Tally: what is counted of neighbouring pages, so that walks pass over those without.
 *
 *   chunk     512 neighbouring pages: 2 MiB of addresses, of one region (chunk.h)
 *   area      512 chunks, 1 GiB of addresses: passed over at once
 *   class     what a page in memory is there for (seed C2). PENDING: unmapped and not yet written.
 *             AHEAD: read ahead, not known to have been used. All others have their region's
 *             class: PRIVATE, SHARED (an object's) or REUSABLE (of a region that is kept)
 *
 * Always: a page in memory, resident or cached, is of one class. No descriptor has it: it follows
 * from state, flag and region, and a region that changes its class takes its count along.
 */

#include <stdatomic.h>
#include <stdint.h>

#define WR_CHUNK_PAGES 512u /* 2 MiB of addresses: what one page table reaches          */
#define WR_HEAT_PAGES  64u  /* pages that share one heat                                 */
#define WR_CHUNK_HEATS (WR_CHUNK_PAGES / WR_HEAT_PAGES)
#define WR_AREA_CHUNKS 512u /* 1 GiB of addresses: skipped at once where nothing is        */

/* 512 neighbouring pages, of one region. */
struct wr_chunk {
    _Atomic(uint16_t) resident; /* pages of it that are RESIDENT_DIRTY, _CLEAN or _WRITING */
    _Atomic(uint16_t) region;   /* number of the region, 0: none; set by WR_RANK_RUNTIME   */
    _Atomic(uint16_t) touched;  /* pages that are not EMPTY                                */
    _Atomic(uint16_t) cached;   /* pages that are CACHED_*                                 */
    _Atomic(uint16_t) zeros;    /* pages that are RESIDENT_ZERO                            */
    _Atomic(uint16_t) table;    /* enum wr_table, see chunk.h                              */
    _Atomic(uint8_t) heat[WR_CHUNK_HEATS]; /* relaxed: an update that is lost is no harm      */
};

/* Of each region, by its number: pages in memory that are neither PENDING nor AHEAD. A line of the
 * processor's cache for itself; relaxed. */
struct wr_present {
    _Alignas(64) _Atomic(uint32_t) pages;
};
