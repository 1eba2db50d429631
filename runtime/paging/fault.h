/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Fault: one touch, from event to return.
 *
 * What a fault never does: wait for a write, wait for another page's work, submit a write, scan a
 * list, allocate memory, take a ranked lock. What it may wait for: its own read, a frame, the work
 * of another thread on the same page (one system call), a reader while all are in use; and, when
 * the kernel has no memory or the region is being taken away, a millisecond before it looks again.
 * Each wait is a histogram in the statistics (seed A12, A13); there are no others, and a test reads
 * the sources for one (tests/lint/check_waits.py).
 */

#include "runtime/host/trap.h"
#include "runtime/memory/space.h"

/* What the trap calls: find the region, serve, answer. Signal. */
enum wr_trap_answer wr_fault_on_touch(const struct wr_touch *touch);

/*
 * Make a page resident for this access and pin it once. Inside the gate; not in a signal handler,
 * with all signals blocked. WEIR_EIO, WEIR_EFULL, WEIR_ENOMEM, WEIR_EBUSY (too many pins).
 * A try waits for nothing: WEIR_EAGAIN, where it would have to (seed C20).
 */
int wr_fault_pin(struct wr_region *region, uint32_t page, enum wr_access access, bool is_try);
