/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Heat: what is remembered of pages that were wanted, and of pages that left.
 *
 *   heat      0 to 255 for each 64 neighbouring pages: rises when one of them proves itself, falls
 *             when one leaves that nobody wanted
 *   shadow    the time at which a page left: the count of evictions then, 28 bits of it
 *   distance  evictions since (Denning's; Linux's workingset.c calls it refault distance)
 *
 * Always: hints for the policy (paging/policy.h), and nothing else depends on them.
 */

#include "runtime/memory/page.h"

/* Nobody wanted the page: it is OUT from here on. One that had not proven itself leaves a shadow;
 * one that was only read ahead, and never mapped, does not. */
void wr_page_evict(struct wr_pages *pages, struct wr_hold *hold, enum wr_page_state from);

/* Evictions since the page left. */
#define WR_DISTANCE_NONE UINT32_MAX /* it left no shadow */
uint32_t wr_page_distance(const struct wr_pages *pages, const struct wr_hold *hold);

/* The heat of a page's group; and a page of it proves itself. Any thread. Signal. */
uint8_t wr_page_heat(const struct wr_pages *pages, uint32_t number);
void wr_page_warm(const struct wr_pages *pages, uint32_t number);
