/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A channel of an array: requests are cut at clusters, and each part goes to one member, or to all
 * that have a copy. Of a code, a part that reads goes to the members of its pages; one that writes
 * a whole cluster to all, with its parity; all others to the patcher.
 *
 *   item     an accepted request
 *   part     what of it lies in one cluster
 *   parity   memory for that of one cluster. There are a few in each channel
 *   starved  writes of whole clusters that wait for such memory
 *   back     parts that the patcher has done
 *   sub      a request to a leg, for a part
 *   failed   subs that no leg could take; they end as if a member had refused them
 *   waiting  writes to clusters that the builder holds, and parts for which no member answers now
 *   ended    requests whose done() is still to run
 *
 * Always: a part that reads is inside the gate while a sub of it flies; one that writes holds its
 * cluster. What is called for a sub that ended never sends for itself: it puts the part on a list,
 * so that nothing recurs.
 */

#include "transport/array.h"
#include "transport/array_coded.h"
#include "transport/queue.h"

#define WR_ARRAY_PARITIES 4u /* whole clusters of a code that are written at a time */

struct wr_array_sub {
    struct weir_io io; /* first, so that done() finds the sub */
    struct wr_array_part *part;
    struct wr_array_sub *next; /* in an outbox, or among the failed */
    uint32_t piece, member, life;
};

struct wr_array_part {
    struct wr_array_item *item;
    uint64_t cluster;
    uint32_t first, pages;
    const struct iovec *iov;
    uint32_t iov_count;
    struct wr_array_sub *subs; /* one for each piece */
    uint32_t pending, ok, tried, side;
    bool has_failed;
    int error, os_error;
    bool has_hope;  /* a member that did not do it may yet */
    uint32_t tries; /* of a write that failed              */
    struct wr_array_part *next;
    struct wr_map_write write;
    /* Of a code. */
    uint32_t skip; /* pages of the request before it */
    unsigned char *parity;
    struct wr_array_patch patch;
};

struct wr_array_item {
    struct weir_io *outer;
    struct wr_array_item *next;
    struct wr_array_part parts[2];
    uint32_t pending, iov_used;
    struct iovec iov[WEIR_CLUSTER_SLOTS + 2 * WR_MAP_MEMBERS]; /* of a request that is cut */
};

struct wr_array_channel {
    struct weir_channel base; /* first */
    struct wr_array *array;
    struct wr_array_legs legs;
    uint32_t room; /* requests that may still be accepted */
    struct wr_array_item *items, *free;
    struct wr_array_sub *subs, *failed;
    struct wr_array_part *waiting,
        *ready; /* ready: reads that are to be tried elsewhere, and the like */
    struct wr_queue ended;
    /* Of a code. */
    unsigned char *parities, *parity[WR_ARRAY_PARITIES]; /* all the memory; what of it is free */
    uint32_t parity_count;
    struct wr_array_part *starved;
    struct wr_array_patch *back; /* kept by the array's lock */
    unsigned char *page[WEIR_CLUSTER_SLOTS];
};

/* array_channel.c */
void wr_array_end_part(struct wr_array_channel *c, struct wr_array_part *part, int error);
/* It is begun again, by whoever drives the channel. */
void wr_array_make_ready(struct wr_array_channel *c, struct wr_array_part *part);
/* io: which pages of the piece, from 0, and their memory. */
void wr_array_send(struct wr_array_channel *c, struct wr_array_part *part, uint32_t number,
                   const struct wr_map_piece *piece, struct weir_io io);
/* So many pages of a vector, behind so many others, as a vector. How many elements it has. */
uint32_t wr_array_cut(const struct weir_io *outer, uint32_t skip, uint32_t pages,
                      struct iovec *iov);

/* array_stripe.c: of a code. */
int wr_array_parities_open(struct wr_array_channel *c);
void wr_array_parities_close(struct wr_array_channel *c);
/* False: there is none, and the part waits for it. */
bool wr_array_parity_take(struct wr_array_channel *c, struct wr_array_part *part);
void wr_array_parity_give(struct wr_array_channel *c, struct wr_array_part *part);
/* A whole cluster, whose write has begun. */
void wr_array_send_pieces(struct wr_array_channel *c, struct wr_array_part *part);
void wr_array_begin_read_coded(struct wr_array_channel *c, struct wr_array_part *part);
/* To the patcher; and what it has done. True: something. */
void wr_array_hand_over(struct wr_array_channel *c, struct wr_array_part *part);
bool wr_array_fetch_back(struct wr_array_channel *c);
