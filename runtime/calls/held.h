/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Held: memory that stays where it is while the kernel looks at it.
 *
 *   far    memory of a region; all other memory needs nothing
 *   hold   pin it if it is far, until it is let go
 *   part   as much as is held at a time, where a call may be done in several
 *
 * Always: what was held is let go by the same words; errno says why it could not be held.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include <weir/weir.h>

#define WR_PART_BYTES ((size_t)8 << 20)

#define WR_UNSEEN __attribute__((access(none, 1))) /* nobody here looks into it */

WR_UNSEEN bool wr_is_far(const void *memory, size_t bytes);
WR_UNSEEN bool wr_hold(const void *memory, size_t bytes, enum weir_access access);
WR_UNSEEN void wr_let_go(const void *memory, size_t bytes);

/* Hold as much of it from the front as can be: at most a part, at least a page. 0: nothing. */
WR_UNSEEN size_t wr_hold_part(const void *memory, size_t bytes, enum weir_access access);

/* The list, and all that it names; or nothing. */
bool wr_hold_all(const struct iovec *iov, size_t count, enum weir_access access);
void wr_let_all_go(const struct iovec *iov, size_t count);
