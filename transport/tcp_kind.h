/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Kind: how pages go, where that is not the same for tcp and rdma, which share the rest of tcp.h.
 */

#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_backend.h>

#define WR_WHY_ROOM 160u /* of an error in words */

struct wr_line;
struct wr_rdma_queue;
struct wr_tcp;

enum wr_asked { WR_ASKED_OK, WR_ASKED_BROKEN, WR_ASKED_REFUSED };

/* How pages go, where that is not the same for all. NULL: there is nothing to do. */
struct wr_tcp_kind {
    /* Can this machine do it at all? Before anybody is asked for anything. */
    int (*prepare)(char why[WR_WHY_ROOM]);
    /* The keeper's: a line that was just attached is made ready for pages; the error that why says
     * leaves nothing behind. Before the line is closed. */
    int (*join)(struct wr_tcp *tcp, struct wr_line *line, uint32_t depth, char why[WR_WHY_ROOM]);
    void (*part)(struct wr_line *line);
    /* Has it ended, though nobody has noticed? Whoever waits on it, in another thread, gets up. */
    bool (*is_ended)(const struct wr_line *line);
    void (*interrupt)(const struct wr_line *line);
    /* Read pages on a seat's line. Signal. */
    enum wr_asked (*ask)(struct wr_tcp *tcp, struct wr_line *line, uint64_t slot, uint32_t pages,
                         void *bytes, int *error_p);
    /* The keeper, under `lock`: replace a channel's line if it has broken; break it if nobody
     * answers; have the channel look at the clock. */
    void (*tend)(struct weir_channel *channel);
};
