/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Policy: which pages are worth their memory, as arithmetic. No clock, no lock, no page.
 *
 *   passing   the queue of pages that a stream brought: a twentieth of memory, first in, first out
 *   small     the queue of pages that were needed once: likewise
 *   main      those that proved themselves: wanted while they were cached, or back soon after
 *   heat      of 64 neighbouring pages, 0 to 255: rises when one of them proves itself, falls when
 *             one leaves that nobody wanted
 *   generation  the heat in four steps; the coldest leaves first
 *   distance  evictions since a page left (Denning; Linux's workingset.c: refault distance)
 *   deferred  dirty pages that are unmapped and not yet written: they may be wanted again
 *
 * Without accessed bits a page can be asked one thing only: unmap it, keep its bytes, and see
 * whether it is touched (Babaoglu and Joy, 1981). So the rules are those in which a hit costs
 * nothing until the page is about to leave: S3-FIFO (Yang et al., 2023) for the two queues, and the
 * heat of neighbours, because programs place together what they use together.
 */

#include <stdbool.h>
#include <stdint.h>

#define WR_GENERATIONS 4u

/* Is it the turn of what streams brought to give a victim? Before all others (seed E23). */
bool wr_policy_is_passing_due(uint64_t passing, uint64_t frames);

/* Is it the small queue's turn to give a victim? */
bool wr_policy_is_small_due(uint64_t small, uint64_t frames);

/* Has a page that comes back so soon proven itself? Only when a quarter of memory has left
 * meanwhile: of pages that are touched at random, as many as are touched often, and not all that
 * are touched at all. */
bool wr_policy_is_soon(uint32_t distance, uint64_t frames);

/* Is it vain to ask pages, because next to none that was unmapped was wanted while it was cached?
 * (It ends later than it begins: a hand may run just ahead of a loop for a while, and find many.)
 * So it is in a loop over more than memory: every page is back soon, and each that rises for that
 * takes the place of one that would have been wanted before. Then only one of so many may rise, but
 * however long it was away, and the others pass: most of memory stays as it is, and is hit once in
 * every round (the bimodal insertion of Qureshi et al., 2007). Whoever is wanted while it is cached
 * rises all the same. */
#define WR_VAIN_RISE 16u
bool wr_policy_is_vain(bool is_vain, uint64_t wanted, uint64_t unmapped);

uint32_t wr_policy_generation(uint8_t heat);

/* In which generation the n-th victim of the main queue is looked for first. The warmer ones are
 * probed now and then, so that heat from long ago does not protect for ever. */
uint32_t wr_policy_probe(uint32_t n);

/* How many dirty pages to defer next, given what became of those that were: grows while more than a
 * tenth of them are wanted again, shrinks while less than a fiftieth are (seed C26). */
uint64_t wr_policy_defer(uint64_t deferred, uint64_t found, uint64_t marked, uint64_t frames);
