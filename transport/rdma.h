/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * rdma: the memory of another machine, by one-sided reads and writes: its processors are not on the
 * way of a page. Lease, keeper and seats are those of tcp.h.
 *
 *   queue    a queue pair beside a line, connected by what was said on that line; with it a slab of
 *            places that the device knows, for it never learns of the memory of a region
 *   place    a piece of the slab: a page on its way, or a few
 *   work     one read or write of the device, between a place and a run of slots
 *
 * Always: a queue lives no longer than its line, at either end: the server destroys its half before
 * it welcomes the next line of that number. What was asked for and has not come to pass by then
 * never will; so that tcp.h's law holds here, too. Each queue has a protection domain of its own,
 * and its memory can be named by nobody else.
 */

#include "transport/tcp.h"
#include "transport/verbs.h"

#define WR_RDMA_PLACE_PAGES 8u
#define WR_RDMA_PLACE_BYTES (WR_RDMA_PLACE_PAGES * WEIR_SLOT_BYTES)
#define WR_RDMA_PLACES      64u /* of a channel: 2 MiB of memory that is locked */
#define WR_RDMA_BATCH       16u /* as many works are handed over, or taken back, at once */

/* How much of everything a queue has: what is wanted, as far as a device has it. */
struct wr_rdma_sizes {
    uint32_t places;       /* and as many works at a time           */
    uint32_t signal_every; /* so many works there is a completion   */
    uint8_t reads;         /* that the device has under way at once */
};

/* False: it has too little to be of use. */
bool wr_rdma_size(const struct ibv_device_attr *device, uint32_t places_wanted,
                  struct wr_rdma_sizes *sizes_p);

struct wr_rdma_queue {
    const struct wr_verbs *verbs;
    struct rdma_event_channel *events;
    struct rdma_cm_id *id;
    struct ibv_pd *pd;
    struct ibv_comp_channel *bell; /* its descriptor is readable when a completion was waited for */
    struct ibv_cq *cq;
    struct ibv_mr *mr;
    char *slab;
    struct wr_rdma_sizes sizes;
    uint64_t base; /* where the lease is, for the server */
    uint32_t key;
    bool is_armed, is_due;   /* it rings at the next completion; it will, or has: see rdma_wait.c */
    unsigned unacknowledged; /* rings */
    uint64_t asked;          /* by a seat: how often */
};

struct wr_rdma_work {
    uint64_t number, slot;
    uint32_t place, pages;
    bool is_write, is_signalled;
};

/* rdma_queue.c. The kind's: a queue for a line, with as many places as depth asks for. */
int wr_rdma_join(struct wr_tcp *tcp, struct wr_line *line, uint32_t depth, char why[WR_WHY_ROOM]);
void wr_rdma_part(struct wr_line *line);
bool wr_rdma_is_ended(const struct wr_line *line);
void wr_rdma_interrupt(const struct wr_line *line);

static inline char *wr_rdma_place(const struct wr_rdma_queue *queue, uint32_t place)
{
    return queue->slab + (size_t)place * WR_RDMA_PLACE_BYTES;
}

/* rdma_work.c. Hand over at most WR_RDMA_BATCH works, in order. False: the queue is broken. Signal.
 */
bool wr_rdma_post(struct wr_rdma_queue *queue, const struct wr_rdma_work *works, uint32_t count);
/* Take back at most WR_RDMA_BATCH completions: how many, and the number of the last work that is
 * done. -1: the queue is broken. Signal. */
int wr_rdma_take(struct wr_rdma_queue *queue, uint64_t *number_p);
/* Ring at the next completion; take once more afterwards. False: broken. Signal. */
bool wr_rdma_arm(struct wr_rdma_queue *queue);
/* It may have rung: the descriptor is not readable afterwards unless it rings again. Signal. */
void wr_rdma_quiet(struct wr_rdma_queue *queue);
/* The kind's: read by a seat. Signal. */
enum wr_asked wr_rdma_ask(struct wr_tcp *tcp, struct wr_line *line, uint64_t slot, uint32_t pages,
                          void *bytes, int *error_p);

/* rdma_channel.c */
int wr_rdma_channel_open(struct weir_backend *backend, uint32_t depth,
                         struct weir_channel **channel_p);
void wr_rdma_channel_close(struct weir_channel *channel);
uint32_t wr_rdma_submit(struct weir_channel *channel, struct weir_io *const *ios, uint32_t count);
uint32_t wr_rdma_poll(struct weir_channel *channel, uint32_t max);
int wr_rdma_wait_fd(struct weir_channel *channel);
void wr_rdma_tend(struct weir_channel *channel);
