/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Kept: what kswapd does with regions that nobody has mapped (keep.c, on the roof, has the rest).
 *
 *   take     their mapped pages leave before any others, the oldest region's first: his hand goes
 *            through each region once, and what it could not take ages like other pages
 *   condemn  the oldest region's content goes, whole and unwritten, because a back end is nearly
 *            full or nothing else can be freed
 *   empty    a step of that: it is done in steps, as all that may be long
 *
 * Always: a condemned region is nobody's to reattach, and is emptied to its end, whether memory is
 * still short or not.
 */

#include "runtime/memory/space.h"

/* Any kept region at all? */
static inline bool wr_kept_any(const struct wr_space *space)
{
    /* Relaxed: one that is seen late is as good as one that was kept later. */
    return atomic_load_explicit(&space->kept_count, memory_order_relaxed) > 0;
}

/* All of these: kswapd, inside the gate but for the last. */

/* The region whose pages are to be taken next, by its hand, or NULL. */
struct wr_region *wr_kept_to_take(const struct wr_space *space);
/* The end of a round: condemn, if nothing else can be done (is_needed) or room is scarce; and one
 * step of emptying what is condemned. False: there was none. */
bool wr_kept_relieve(const struct wr_space *space, bool is_needed);
/* Such a step when there is no round. */
bool wr_kept_relieve_idle(const struct wr_space *space);
