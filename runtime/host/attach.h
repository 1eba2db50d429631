/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Attach: an object of another process (include/weir/weir_share.h).
 *
 *   view     addresses of this process whose touches its owner serves, by our trap
 *   leaving  a view whose addresses map nothing any more, but stay taken until the owner has
 *            forgotten them: what he still does by our trap must not meet anything else there
 *   kwatch   the thread that hears the owner's answers, and of his end
 *
 * Always: a thread that touches a view sleeps in the kernel until the owner has served it; nothing
 * of ours runs on it. When the owner has ended, kwatch puts memory that ends in SIGBUS in place of
 * every view, in one step, and wakes who slept. Until then our own descriptor of the trap keeps
 * touches from finding the object's holes as zeros.
 */

#include <stdbool.h>

#include <weir/weir_share.h>

int wr_attach(const char *name, const struct weir_attach_options *options,
              struct weir_attached **attached_p);
void wr_detach(struct weir_attached *attached);
bool wr_attached_is_forked(const struct weir_attached *attached);
uint64_t wr_attached_bytes(const struct weir_attached *attached);
int wr_attached_map(struct weir_attached *attached, uint64_t offset, uint64_t bytes,
                    uint64_t *addr_p);
/* access: 0 to load, 1 to store. */
int wr_attached_pin(struct weir_attached *attached, uint64_t addr, uint64_t bytes, int access);
int wr_attached_unpin(struct weir_attached *attached, uint64_t addr, uint64_t bytes);
int wr_attached_unmap(struct weir_attached *attached, uint64_t addr);
