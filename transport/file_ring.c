/* SPDX-License-Identifier: MIT */

/*
 * A channel by io_uring: one ring, one system call for each submit().
 *
 *   flying    accepted requests; each has exactly one entry in the ring, of its present stage
 *
 * The file is not registered with the ring. That would save a reference count for each request,
 * which is nothing beside a page; but a ring goes away in the kernel's own time, tens of
 * milliseconds after its owner, and until then would hold the lock on the file or device: whoever
 * restarts after a crash would find it in use.
 *
 * Always: flying <= depth <= entries of the ring, so that neither queue can overflow; and outside
 * submit() and resend() the kernel has taken every entry that was filled.
 */

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "transport/file.h"
#include "transport/tell.h"

#define DEPTH_MAX 4096u

struct ring_channel {
    struct wr_file_channel head;
    /* Constant while open. */
    struct wr_file *file;
    uint32_t depth;
    /* Kept by the channel's thread. */
    uint32_t flying;
    struct io_uring ring;
};

/*
 * Rings that were unmapped so far. The kernel may map a new ring where an old one lay, in another
 * thread, and liburing does both by system calls of its own; this is how ThreadSanitizer learns
 * which came first. Release in unmap(), before; acquire in map(), after.
 */
static _Atomic(uint32_t) unmapped_count;

static struct ring_channel *ring_of(struct weir_channel *channel)
{
    return (struct ring_channel *)channel;
}

/* --- Into the ring --------------------------------------------------------------------------- */

static void fill_move(struct io_uring_sqe *sqe, const struct wr_file *file,
                      const struct weir_io *io)
{
    const struct wr_file_piece piece = wr_file_io_piece(file, io);
    const unsigned bytes = (unsigned)piece.part.iov_len;

    if (piece.count && io->is_write)
        io_uring_prep_writev(sqe, file->fd, piece.whole, piece.count, piece.offset);
    else if (piece.count)
        io_uring_prep_readv(sqe, file->fd, piece.whole, piece.count, piece.offset);
    else if (io->is_write)
        io_uring_prep_write(sqe, file->fd, piece.part.iov_base, bytes, piece.offset);
    else
        io_uring_prep_read(sqe, file->fd, piece.part.iov_base, bytes, piece.offset);
}

static void fill(struct ring_channel *channel, struct weir_io *io)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&channel->ring);
    const struct wr_file *file = channel->file;
    const uint64_t offset = file->data_offset + io->slot * WEIR_SLOT_BYTES;
    const unsigned bytes = io->pages * WEIR_SLOT_BYTES;

    switch (wr_file_io_stage(io)) {
    case WR_FILE_MOVE: fill_move(sqe, file, io); break;
    case WR_FILE_SYNC:
        io_uring_prep_sync_file_range(sqe, file->fd, bytes, offset,
                                      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                          SYNC_FILE_RANGE_WAIT_AFTER);
        break;
    case WR_FILE_FORGET:
        io_uring_prep_fadvise(sqe, file->fd, offset, bytes, POSIX_FADV_DONTNEED);
        break;
    case WR_FILE_FINISHED:
        /* Refused before it began; its completion still has to make the ring readable. */
        io_uring_prep_nop(sqe);
        break;
    }
    io_uring_sqe_set_data(sqe, io);
}

/*
 * Give the kernel the count entries that were filled; return how many it took. It refuses only
 * when it is out of memory. Those entries are then taken back out of the ring, which is ours to
 * do: without a polling thread in the kernel, nobody reads the tail but io_uring_enter().
 */
static uint32_t give(struct ring_channel *channel, uint32_t count)
{
    struct io_uring_sq *sq = &channel->ring.sq;
    uint32_t left = count;

    while (left) {
        int taken = io_uring_submit(&channel->ring);

        if (taken > 0)
            left -= (uint32_t)taken;
        else if (taken != -EINTR)
            break;
    }
    if (left) {
        sq->sqe_tail -= left;
        sq->sqe_head = sq->sqe_tail;
        io_uring_smp_store_release(sq->ktail, sq->sqe_tail);
    }
    return count - left;
}

/* The next stage of a request that is flying. That the kernel has no memory for it passes, and
 * nobody on the way of a fault comes here: so it is waited for, a tenth of a second at most. */
static void resend(struct ring_channel *channel, struct weir_io *io)
{
    const struct timespec a_moment = {.tv_nsec = 1000000};

    for (uint32_t tries = 0; tries < WR_FILE_RETRIES_MAX; tries++) {
        fill(channel, io);
        if (give(channel, 1) == 1)
            return;
        (void)nanosleep(&a_moment, NULL);
    }
    wr_file_io_fail(io, EAGAIN);
}

static uint32_t ring_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct ring_channel *channel = ring_of(base);

    if (count > channel->depth - channel->flying)
        count = channel->depth - channel->flying;
    for (uint32_t i = 0; i < count; i++) {
        wr_file_io_begin(channel->file, ios[i]);
        fill(channel, ios[i]);
    }
    count = give(channel, count);
    channel->flying += count;
    return count;
}

/* --- Out of the ring ------------------------------------------------------------------------- */

/* Takes one completion. false: there is none. *io_p: the request that is finished by it, or NULL.
 */
static bool reap(struct ring_channel *channel, struct weir_io **io_p)
{
    struct io_uring_cqe *cqe;
    struct weir_io *io;
    int result;

    *io_p = NULL;
    if (io_uring_peek_cqe(&channel->ring, &cqe) != 0)
        return false;
    io = io_uring_cqe_get_data(cqe);
    result = cqe->res;
    io_uring_cqe_seen(&channel->ring, cqe);
    if (wr_file_io_advance(channel->file, io, result) != WR_FILE_FINISHED)
        resend(channel, io);
    if (wr_file_io_stage(io) == WR_FILE_FINISHED)
        *io_p = io;
    return true;
}

static uint32_t ring_poll(struct weir_channel *base, uint32_t max)
{
    struct ring_channel *channel = ring_of(base);
    uint32_t finished = 0;
    struct weir_io *io;

    while (finished < max && reap(channel, &io)) {
        if (!io)
            continue;
        finished++;
        channel->flying--;
        io->done(io);
    }
    return finished;
}

static int ring_wait_fd(struct weir_channel *channel)
{
    return ring_of(channel)->ring.ring_fd;
}

/* --- Life ------------------------------------------------------------------------------------ */

static int map(struct ring_channel *channel)
{
    int error = -io_uring_queue_init(channel->depth, &channel->ring, 0);

    (void)atomic_load_explicit(&unmapped_count, memory_order_acquire);
    return error;
}

static void unmap(struct ring_channel *channel)
{
    atomic_fetch_add_explicit(&unmapped_count, 1, memory_order_release);
    io_uring_queue_exit(&channel->ring);
}

static void ring_close(struct weir_channel *base)
{
    struct ring_channel *channel = ring_of(base);

    unmap(channel);
    free(channel);
}

/*
 * As many empty requests as the channel is deep, all at once. The kernel keeps their memory for
 * the ring, so that it need not ask for any later, when memory is what is missing; and a filter
 * that allows to set up a ring but not to enter it is found out now.
 */
static int warm(struct ring_channel *channel)
{
    struct io_uring_cqe *cqe;
    int error = 0;

    for (uint32_t i = 0; i < channel->depth; i++)
        io_uring_prep_nop(io_uring_get_sqe(&channel->ring));
    if (give(channel, channel->depth) != channel->depth)
        return EAGAIN;
    for (uint32_t i = 0; i < channel->depth && !error; i++) {
        do
            error = io_uring_wait_cqe(&channel->ring, &cqe);
        while (error == -EINTR);
        if (!error)
            io_uring_cqe_seen(&channel->ring, cqe);
    }
    return -error;
}

static const struct wr_file_channel_ops ring_ops = {ring_close, ring_submit, ring_poll,
                                                    ring_wait_fd};

int wr_file_ring_open(struct wr_file *file, uint32_t depth, struct weir_channel **channel_p)
{
    struct ring_channel *channel;
    int error;

    if (depth == 0 || depth > DEPTH_MAX)
        return EINVAL;
    channel = calloc(1, sizeof(*channel));
    if (!channel)
        return ENOMEM;
    channel->head.base.backend = &file->base;
    channel->head.ops = &ring_ops;
    channel->file = file;
    channel->depth = depth;
    error = map(channel);
    if (error)
        goto err_channel;
    error = -io_uring_ring_dontfork(&channel->ring);
    if (!error)
        error = warm(channel);
    if (error)
        goto err_ring;
    *channel_p = &channel->head.base;
    return 0;

err_ring:
    unmap(channel);
err_channel:
    free(channel);
    return error;
}

static void note_done(struct weir_io *io)
{
    (void)io;
}

/* One page by the very path that later reads take: an old kernel may lack the operation. */
static int read_once(struct weir_channel *channel, char *page)
{
    const struct iovec iov = {page, WEIR_SLOT_BYTES};
    struct weir_io io = {.pages = 1, .iov = &iov, .iov_count = 1, .done = note_done};
    struct weir_io *ios[] = {&io};
    struct io_uring_cqe *cqe;

    if (ring_submit(channel, ios, 1) != 1)
        return EAGAIN;
    while (ring_poll(channel, 1) == 0)
        io_uring_wait_cqe(&ring_of(channel)->ring, &cqe);
    return io.os_error;
}

/* Does a ring really read the first slot here? 0 or the errno of the refusal. */
static int try_ring(struct wr_file *file)
{
    struct weir_channel *channel;
    char *page = aligned_alloc(WEIR_SLOT_BYTES, WEIR_SLOT_BYTES);
    int error = page ? wr_file_ring_open(file, 1, &channel) : ENOMEM;

    if (!error) {
        error = read_once(channel, page);
        ring_close(channel);
    }
    free(page);
    return error;
}

int wr_file_ring_choose(struct wr_file *file)
{
    int os_error;

    if (file->options.uring == WR_FILE_OFF)
        return WEIR_OK;
    os_error = try_ring(file);
    if (!os_error) {
        file->is_ring = true;
        return WEIR_OK;
    }
    if (file->options.uring == WR_FILE_ON) {
        wr_tell(file->env, WEIR_FAILURE, WEIR_ENOSUPPORT, os_error,
                "file: io_uring is refused here (%s): see kernel.io_uring_disabled, the "
                "container's seccomp profile and ulimit -l, or say uring=auto",
                strerrordesc_np(os_error));
        return WEIR_ENOSUPPORT;
    }
    wr_tell(file->env, WEIR_NOTE, WEIR_OK, os_error,
            "file: io_uring is refused here (%s); threads do its work", strerrordesc_np(os_error));
    return WEIR_OK;
}
