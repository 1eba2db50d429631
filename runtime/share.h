/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Share: the owner's side of objects that show in several processes.
 *
 *   listener  a name by which an object can be attached
 *   peer      an attached process: it has handed over its trap, and has views
 *   kshare    the thread that meets peers, and maps and unmaps their views
 *   kserve    one of the threads that serve their touches, as a fault of our own would
 *
 * Always: one runtime owns the pages, their budget and back ends; a peer owns nothing but its page
 * tables, and those are changed from here, by its trap. So a peer need not answer for a page to be
 * taken: it may be stopped, or be dying. What a touch waits for is what a fault waits for, and a
 * thread of ours that may serve it.
 *
 * A peer is taken away in this order: nobody finds it; its views go, each of which waits for who is
 * in the gate; its trap is closed; its link is closed, which tells it that we are out of its page
 * tables for good.
 */

#include "runtime/runtime.h"

#define WR_LISTENERS_MAX 64u
#define WR_SERVERS       8u
#define WR_PEER_PINS     65536u /* ranges, of one attached process */

/* Let other processes of the same user attach the object by this name. WEIR_EBUSY: the name is in
 * use, the object has one, or there are too many. The errors of wr_link_listen(). */
int wr_share_show(struct weir_object *object, const char *name);
/* Let no more attach. WEIR_ENOENT: none could. */
int wr_share_hide(struct weir_runtime *rt, const struct weir_object *object);
/* Send all peers away and stop. */
void wr_share_close(struct weir_runtime *rt);
