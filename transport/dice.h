/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Dice: what chaos draws for each request. The nouns and the law of the draws are in chaos.h.
 *
 * Everything but init may run inside a signal handler, in many threads at once.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/chaos.h"

struct wr_dice {
    uint64_t seed; /* constant */

    /* Written by many. A stale dial only means that a request goes by its former position; the
     * counters are the requests' numbers and therefore taken by fetch_add. Nothing else is
     * published through any of them: relaxed everywhere. */
    _Atomic(uint64_t) dials[WR_CHAOS_DIALS];
    _Atomic(uint64_t) did[WR_CHAOS_DIDS];
    _Atomic(uint64_t) idle_at_ns; /* when what was accepted has passed the bandwidth limit */
    _Atomic(uint64_t) hung_to_ns; /* nothing finishes before                               */
};

struct wr_fate {
    uint64_t due_ns; /* it is not finished before, by CLOCK_MONOTONIC            */
    uint64_t where;  /* random: the damaged byte, or where a request is cut      */
    int error;       /* not WEIR_OK: reported instead of doing anything          */
    int os_error;
    bool is_lie;
    bool is_short;
};

void wr_dice_init(struct wr_dice *dice, uint64_t seed, const uint64_t dials[WR_CHAOS_DIALS]);

/* The fate of the next request of this kind: WR_CHAOS_DID_READ, _FETCH or _WRITE. */
struct wr_fate wr_dice_draw_fate(struct wr_dice *dice, enum wr_chaos_did kind, uint32_t pages);

/* When a request with this due_ns is finished, now that everything may have come to hang. */
uint64_t wr_dice_due_ns(const struct wr_dice *dice, uint64_t due_ns);

uint64_t wr_dice_now_ns(void);
uint64_t wr_dice_dial(const struct wr_dice *dice, enum wr_chaos_dial dial);
uint64_t wr_dice_count(struct wr_dice *dice, enum wr_chaos_did did);

/* The draw with this number of those that belong to no request. */
uint64_t wr_dice_draw_spare(const struct wr_dice *dice, uint64_t number);

/* 0 to limit - 1, by a draw; limit is at most 2^32. */
uint64_t wr_dice_below(uint64_t drawn, uint64_t limit);
