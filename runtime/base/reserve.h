/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Reserve: large areas of addresses that cost memory only where they are touched.
 *
 * Private, zero, not counted against overcommit, not inherited by a fork child, not in a core dump,
 * and not filled at once even when the program has called mlockall(MCL_FUTURE).
 */

#include <stdint.h>

/* bytes is rounded up to whole pages, alignment is a power of two of at least a page. Returns an
 * errno, 0 on success. Not in a signal handler. */
int wr_reserve(uint64_t bytes, uint64_t alignment, void **area_p);
/* The same bytes. NULL is allowed. */
void wr_unreserve(void *area, uint64_t bytes);
