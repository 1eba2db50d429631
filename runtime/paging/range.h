/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Range: what an application asks for many pages at once.
 *
 * All of these run on an application's thread, inside the gate, outside signal handlers and with
 * all signals blocked: a handler of the application that ran in between could touch a page that is
 * locked here; or, to discard what nobody can touch, on kswapd. Ranges are whole pages of one
 * region.
 */

#include "runtime/host/trap.h"
#include "runtime/memory/space.h"

/*
 * Zero the pages and free what they occupy; a chunk that is discarded whole gives back its page
 * table and its descriptors. WEIR_EBUSY in *error_p: some were pinned and are left alone. One step
 * of it: at least one page is done, at most WR_RANGE_CHUNKS chunks that were ever touched, and how
 * many pages are done is returned; the caller comes again for the rest, and lets signals and others
 * who want the gate in between (seed E32).
 */
#define WR_RANGE_CHUNKS 4u
uint32_t wr_range_discard(struct wr_region *region, uint32_t page, uint32_t count, int *error_p);
/* The bytes are not needed until the next store. One step, as above. */
uint32_t wr_range_free(struct wr_region *region, uint32_t page, uint32_t count);
/* Begin to bring the pages in. */
void wr_range_willneed(struct wr_region *region, uint32_t page, uint32_t count);
/* All or none. */
int wr_range_pin(struct wr_region *region, uint32_t page, uint32_t count, enum wr_access access);
/* The same without waiting for anything: WEIR_EAGAIN. */
int wr_range_pin_try(struct wr_region *region, uint32_t page, uint32_t count,
                     enum wr_access access);
/* WEIR_EINVAL: not all are pinned; none was unpinned. */
int wr_range_unpin(struct wr_region *region, uint32_t page, uint32_t count);

/*
 * The end of a region. First, while touches are still served: let go of all it occupies, pinned
 * pages too, so that nobody who waits for a frame waits for us. Then, abandoned: again, for what a
 * mistaken thread touched meanwhile; and, outside the gate, wait for reads that are in flight.
 */
uint32_t wr_range_release(struct wr_region *region, uint32_t page, uint32_t count); /* one step */
void wr_range_await_empty(struct wr_region *region, uint32_t page, uint32_t count);

/* The bytes of a held page that was mapped are gone: forget them. True: a frame of the budget is no
 * longer in use. */
bool wr_range_empty_mapped(struct wr_space *space, struct wr_hold *hold);

/* Is any of them pinned at this moment? */
bool wr_range_is_pinned(const struct wr_region *region, uint32_t page, uint32_t count);
