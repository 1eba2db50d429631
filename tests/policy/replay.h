/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Replay: how often a sequence of touches would miss, by the runtime's own policy and by others.
 *
 *   frames    pages that fit in memory at a time, cached ones included
 *   miss      a touch of a page that had been in memory and is away; the very first is none
 *   soft      a touch of a page that is unmapped, and still cached
 *
 * The rule "weir" runs the runtime's code (aging.c, victims.c, policy.c, heat.c) over real
 * descriptors; only moving bytes is left out, and kpaged and kswapd take turns instead of running
 * at once. The other rules are what it is compared with: LRU needs to see every touch, which no
 * pager without accessed bits does; FIFO and random do not.
 */

#include <stdbool.h>
#include <stdint.h>

enum replay_rule { REPLAY_WEIR, REPLAY_LRU, REPLAY_FIFO, REPLAY_RANDOM, REPLAY_RULES };

struct replay_result {
    uint64_t touches, misses, soft, first;
};

struct replay;

/* NULL: out of memory, or fewer than 1024 frames. */
struct replay *replay_open(enum replay_rule rule, uint32_t pages, uint32_t frames);
/* True: it was a miss. */
bool replay_touch(struct replay *replay, uint32_t page);
struct replay_result replay_close(struct replay *replay);

const char *replay_rule_name(enum replay_rule rule);

/* --- Between the files of this folder -------------------------------------------------------- */

struct replay_ops {
    void *(*open)(uint32_t pages, uint32_t frames);
    /* 0: a hit, 1: soft, 2: away. */
    int (*touch)(void *state, uint32_t page);
    void (*close)(void *state);
};

extern const struct replay_ops replay_weir, replay_lru, replay_fifo, replay_random;
