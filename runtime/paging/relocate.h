/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Relocate: the mapped pages of a region that moves go to its new addresses, a piece at a time.
 *
 *   piece   neighbouring pages of one chunk that are locked together
 *   moved   of the region: where the next piece begins. It passes a page only while that is locked,
 *           so that whoever has a page's lock knows where it is; reclaim, readahead and laundering
 *           go on meanwhile
 *
 * Only who has set is_moving calls these, after a wait for the gate: nobody touches, pins or hints,
 * and no page that is EMPTY can become another. Inside the gate, all signals blocked.
 */

#include "runtime/memory/space.h"

/*
 * One piece further. WEIR_OK: all of it. WEIR_EBUSY: a device holds the page at `moved`.
 * WEIR_EAGAIN: the kernel had no memory, or the page is contended; try again. WEIR_EFULL and the
 * like: no frame to copy with. In all cases `moved` says how far it is.
 */
int wr_relocate(struct wr_region *region);
/* The last page that was moved goes back. False: not at this moment. */
bool wr_relocate_back(struct wr_region *region);
