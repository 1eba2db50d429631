/* SPDX-License-Identifier: MIT */
#include "transport/tcp_ring.h"

#include <errno.h>
#include <stdlib.h>

#include "transport/request.h"

#define NS_SECOND 1000000000ull

bool wr_ring_init(struct wr_ring *ring, uint32_t depth)
{
    *ring = (struct wr_ring){.depth = depth, .broken_ns = wr_line_now_ns()};
    ring->ios = calloc(depth, sizeof(struct weir_io *));
    return ring->ios;
}

void wr_ring_fini(struct wr_ring *ring)
{
    free(ring->ios);
}

uint32_t wr_ring_take(struct wr_ring *ring, struct weir_io *const *ios, uint32_t count,
                      uint64_t slots)
{
    uint32_t taken;

    if (ring->first == ring->end && ring->broken_ns) /* nobody has waited for it until now */
        ring->broken_ns = wr_line_now_ns();
    for (taken = 0; taken < count && ring->end - ring->first < ring->depth; taken++) {
        struct weir_io *io = ios[taken];

        if (wr_request_is_sound(io, slots))
            ring->ios[ring->end++ % ring->depth] = io;
        else
            wr_ring_end(ring, io, WEIR_EINVAL, 0);
    }
    return taken;
}

void wr_ring_asks(struct wr_ring *ring)
{
    if (ring->first == ring->next) /* no answer was waited for until now */
        ring->answer_ns = wr_line_now_ns();
}

void wr_ring_hears(struct wr_ring *ring)
{
    ring->broken_ns = 0;
    ring->answer_ns = wr_line_now_ns();
}

void wr_ring_end(struct wr_ring *ring, struct weir_io *io, int error, int os_error)
{
    io->error = error;
    io->os_error = os_error;
    wr_queue_put(&ring->ended, io);
}

uint32_t wr_ring_finish(struct wr_ring *ring, uint32_t max)
{
    uint32_t finished = 0;

    for (; finished < max && ring->ended.first; finished++) {
        struct weir_io *io = wr_queue_take(&ring->ended);

        io->done(io);
    }
    return finished;
}

bool wr_ring_falls_back(struct wr_ring *ring, bool is_midway)
{
    const uint64_t to = ring->next + is_midway;
    bool has_write = false;

    for (uint64_t i = ring->first; i < to && !has_write; i++)
        has_write = wr_ring_at(ring, i)->is_write;
    if (ring->broken_ns == 0)
        ring->broken_ns = wr_line_now_ns();
    ring->next = ring->first;
    return has_write;
}

bool wr_ring_is_silent(const struct wr_ring *ring, const struct wr_tcp *tcp)
{
    return wr_line_now_ns() - ring->answer_ns > 2 * tcp->options.timeout * NS_SECOND;
}

bool wr_ring_is_hopeless(const struct wr_ring *ring, const struct wr_tcp *tcp)
{
    return wr_tcp_is_given_up(tcp) ||
           (ring->broken_ns != 0 && ring->first < ring->end &&
            wr_line_now_ns() - ring->broken_ns > tcp->options.patience * NS_SECOND);
}

void wr_ring_fail(struct wr_ring *ring)
{
    while (ring->first < ring->end)
        wr_ring_end(ring, wr_ring_at(ring, ring->first++), WEIR_EIO, ETIMEDOUT);
    ring->next = ring->first;
}

void wr_ring_put_off(struct wr_ring *ring)
{
    uint64_t kept = ring->first;

    for (uint64_t i = ring->first; i < ring->end; i++) {
        struct weir_io *io = wr_ring_at(ring, i);

        if (io->is_write)
            wr_ring_end(ring, io, WEIR_EAGAIN, ETIMEDOUT);
        else
            ring->ios[kept++ % ring->depth] = io;
    }
    ring->end = kept;
}
