/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Aging: which pages are to leave.
 *
 *   hand     a place in the address space from which victims are taken, going round (CLOCK)
 *   write    the hand that takes whatever is mapped, so also pages that must be written
 *   clean    the hand that runs ahead of it and takes only what costs nothing to drop
 *   window   how far ahead: 1 / cache_scan_ratio of the chunks that hold anything
 *
 * Always: the clean hand never moves the write hand (seed E20), and stays within the window before
 * it, so that clean pages that are in use are not all sacrificed to dirty ones that are not.
 *
 * Without accessed bits a hand cannot ask who was used. Order of arrival would serve no better:
 * first in, first out and random choice lose equally to LRU on every skewed load, and random wins
 * on scans and loops. So the hands go by addresses: neighbours leave together, by one system call,
 * into neighbouring slots, and no list is needed. Hot pages that were hit come back from the
 * cache, their second chance, without I/O. A better policy replaces this file and nothing else.
 */

#include <stdint.h>

#include "runtime/memory/space.h"

enum wr_victims {
    WR_VICTIMS_CLEAN, /* what can be dropped; within the window     */
    WR_VICTIMS_SWEEP, /* the same, but all of memory: overload (J)  */
    WR_VICTIMS_ANY    /* clean or dirty                             */
};

/* Kept by kswapd alone. */
struct wr_aging {
    struct wr_space *space;
    uint32_t scan_ratio;
    uint32_t write_hand; /* chunk numbers */
    uint32_t clean_hand;
};

void wr_aging_init(struct wr_aging *aging, struct wr_space *space, uint32_t scan_ratio);

/* Collect up to want page numbers. Inside the gate. They are candidates: each must be judged again
 * under its lock. */
uint32_t wr_aging_collect(struct wr_aging *aging, enum wr_victims kind, uint32_t want,
                          uint32_t *pages);

/* The write hand found only pages that nobody can evict now: let it go on. */
void wr_aging_skip(struct wr_aging *aging);

enum wr_aging_mode { WR_AGING_GREEN, WR_AGING_YELLOW, WR_AGING_ORANGE, WR_AGING_RED };

/* The colour of this moment (seed C29). Arithmetic: no clock, no lock. */
enum wr_aging_mode wr_aging_mode(int64_t free, int64_t min, int64_t low, int64_t high,
                                 bool is_wanted);
