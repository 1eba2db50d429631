/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Range: what an application asks for many pages at once.
 *
 * All of these run on an application's thread, inside the gate, outside signal handlers and with
 * all signals blocked: a handler of the application that ran in between could touch a page that is
 * locked here. Ranges are whole pages of one region.
 */

#include "runtime/host/trap.h"
#include "runtime/memory/space.h"

/* Zero the pages and free what they occupy. WEIR_EBUSY: some were pinned and are left alone. */
int wr_range_discard(struct wr_region *region, uint32_t page, uint32_t count);
/* The bytes are not needed until the next store. */
void wr_range_free(struct wr_region *region, uint32_t page, uint32_t count);
/* Begin to bring the pages in. */
void wr_range_willneed(struct wr_region *region, uint32_t page, uint32_t count);
/* All or none. */
int wr_range_pin(struct wr_region *region, uint32_t page, uint32_t count, enum wr_access access);
/* WEIR_EINVAL: not all are pinned; none was unpinned. */
int wr_range_unpin(struct wr_region *region, uint32_t page, uint32_t count);

/*
 * The end of a region. First, while touches are still served: let go of all it occupies, pinned
 * pages too, so that nobody who waits for a frame waits for us. Then, abandoned: again, for what a
 * mistaken thread touched meanwhile; and, outside the gate, wait for reads that are in flight.
 */
void wr_range_release(struct wr_region *region);
void wr_range_await_empty(struct wr_region *region);
