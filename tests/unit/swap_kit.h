/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the tests of swap share: a pager over real back ends in a room without a kernel, one lane,
 * and one region of four clusters of pages, each of which knows its own bytes.
 */

#include "runtime/swap/swap.h"
#include "tests/unit/room_kit.h"

#define C WEIR_CLUSTER_SLOTS

extern struct wr_swap *swap;
extern struct wr_lane *lane;
extern struct wr_region *region;

/* The room, the pager, the lane, the region; and a back end, unless spec is NULL. */
void open_swap(const char *spec);
uint32_t add(const char *spec);
uint64_t count_of(enum wr_counter counter);

void stamp(uint8_t *bytes, uint32_t page);
bool is_stamped(const uint8_t *bytes, uint32_t page);

/* Pages are counted from the region's first. Revoke so many into a new extent; it is the caller's.
 */
struct wr_extent *stage(uint32_t first, uint32_t count);
/* Inspect and put in the queue: how many need a write. */
uint32_t put_in_queue(struct wr_extent *extent);
enum wr_laundered launder(void);
/* Until nothing is in flight on the lane. */
void finish(void);
enum wr_page_state state_of(uint32_t page);
int read_page(uint32_t page, uint8_t *bytes);
/* A store to a cached page. */
void touch(uint32_t page, enum wr_page_state from);
void expect_all_returned(void);
