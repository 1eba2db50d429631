/* SPDX-License-Identifier: MIT */

/*
 * A channel by threads, for systems that refuse io_uring.
 *
 *   waiting    accepted, no worker has it
 *   finished   worked off; poll() has not handed it back
 *
 * Always: the event descriptor is readable exactly while finished is not empty, seen under lock.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "transport/file.h"
#include "transport/queue.h"

#define WORKERS 4

struct pool_channel {
    struct wr_file_channel head;
    /* Constant while open. */
    struct wr_file *file;
    uint32_t depth;
    int event_fd;
    pthread_t workers[WORKERS];
    /* Kept by the channel's thread. */
    uint32_t flying;
    /* Kept by lock: what the channel's thread and the workers share. */
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct wr_queue waiting;
    struct wr_queue finished;
    bool is_stopping;
};

static struct pool_channel *pool_of(struct weir_channel *channel)
{
    return (struct pool_channel *)channel;
}

/* --- Workers --------------------------------------------------------------------------------- */

static int64_t move(const struct wr_file *file, const struct weir_io *io)
{
    const struct wr_file_piece piece = wr_file_io_piece(file, io);
    const struct iovec *iov = piece.count ? piece.whole : &piece.part;
    const int count = piece.count ? (int)piece.count : 1;
    const off_t offset = (off_t)piece.offset;

    return io->is_write ? pwritev(file->fd, iov, count, offset)
                        : preadv(file->fd, iov, count, offset);
}

static int64_t perform(const struct wr_file *file, const struct weir_io *io)
{
    const off_t offset = (off_t)(file->data_offset + io->slot * WEIR_SLOT_BYTES);
    const off_t bytes = (off_t)io->pages * WEIR_SLOT_BYTES;
    int64_t result = 0;

    switch (wr_file_io_stage(io)) {
    case WR_FILE_MOVE: result = move(file, io); break;
    case WR_FILE_SYNC:
        result = sync_file_range(file->fd, offset, bytes,
                                 SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                     SYNC_FILE_RANGE_WAIT_AFTER);
        break;
    case WR_FILE_FORGET: return -posix_fadvise(file->fd, offset, bytes, POSIX_FADV_DONTNEED);
    case WR_FILE_FINISHED: break;
    }
    return result < 0 ? -errno : result;
}

static void put_finished_locked(struct pool_channel *channel, struct weir_io *io)
{
    const uint64_t one = 1;

    if (!channel->finished.first && write(channel->event_fd, &one, sizeof(one)) < 0)
        abort(); /* the counter is 0: only a closed descriptor can fail */
    wr_queue_put(&channel->finished, io);
}

static void *work(void *argument)
{
    struct pool_channel *channel = argument;

    pthread_mutex_lock(&channel->lock);
    for (;;) {
        struct weir_io *io;

        while (!channel->waiting.first && !channel->is_stopping)
            pthread_cond_wait(&channel->more, &channel->lock);
        if (!channel->waiting.first)
            break;
        io = wr_queue_take(&channel->waiting);
        pthread_mutex_unlock(&channel->lock);
        while (wr_file_io_stage(io) != WR_FILE_FINISHED)
            wr_file_io_advance(channel->file, io, perform(channel->file, io));
        pthread_mutex_lock(&channel->lock);
        put_finished_locked(channel, io);
    }
    pthread_mutex_unlock(&channel->lock);
    return NULL;
}

/* --- The channel's thread -------------------------------------------------------------------- */

static uint32_t pool_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct pool_channel *channel = pool_of(base);

    if (count > channel->depth - channel->flying)
        count = channel->depth - channel->flying;
    channel->flying += count;
    pthread_mutex_lock(&channel->lock);
    for (uint32_t i = 0; i < count; i++) {
        wr_file_io_begin(channel->file, ios[i]);
        wr_queue_put(&channel->waiting, ios[i]);
        pthread_cond_signal(&channel->more);
    }
    pthread_mutex_unlock(&channel->lock);
    return count;
}

static struct weir_io *take_finished(struct pool_channel *channel)
{
    struct weir_io *io = NULL;
    uint64_t count;

    pthread_mutex_lock(&channel->lock);
    if (channel->finished.first) {
        io = wr_queue_take(&channel->finished);
        if (!channel->finished.first && read(channel->event_fd, &count, sizeof(count)) < 0)
            abort(); /* it was readable */
    }
    pthread_mutex_unlock(&channel->lock);
    return io;
}

static uint32_t pool_poll(struct weir_channel *base, uint32_t max)
{
    struct pool_channel *channel = pool_of(base);
    uint32_t finished;

    for (finished = 0; finished < max; finished++) {
        struct weir_io *io = take_finished(channel);

        if (!io)
            break;
        channel->flying--;
        io->done(io);
    }
    return finished;
}

static int pool_wait_fd(struct weir_channel *channel)
{
    return pool_of(channel)->event_fd;
}

/* --- Life ------------------------------------------------------------------------------------ */

static void stop_workers(struct pool_channel *channel, uint32_t count)
{
    pthread_mutex_lock(&channel->lock);
    channel->is_stopping = true;
    pthread_cond_broadcast(&channel->more);
    pthread_mutex_unlock(&channel->lock);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(channel->workers[i], NULL);
}

/* The application's signals are none of the workers' business. */
static int start_workers(struct pool_channel *channel)
{
    sigset_t all, before;
    int error = 0;
    uint32_t i;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (i = 0; i < WORKERS && !error; i++)
        error = pthread_create(&channel->workers[i], NULL, work, channel);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        stop_workers(channel, i - 1);
        return error;
    }
    for (i = 0; i < WORKERS; i++)
        pthread_setname_np(channel->workers[i], "weir-io");
    return 0;
}

static void destroy(struct pool_channel *channel)
{
    pthread_cond_destroy(&channel->more);
    pthread_mutex_destroy(&channel->lock);
    close(channel->event_fd);
    free(channel);
}

static void pool_close(struct weir_channel *base)
{
    struct pool_channel *channel = pool_of(base);

    stop_workers(channel, WORKERS);
    destroy(channel);
}

static const struct wr_file_channel_ops pool_ops = {pool_close, pool_submit, pool_poll,
                                                    pool_wait_fd};

int wr_file_pool_open(struct wr_file *file, uint32_t depth, struct weir_channel **channel_p)
{
    struct pool_channel *channel;
    int error;

    if (depth == 0)
        return EINVAL;
    channel = calloc(1, sizeof(*channel));
    if (!channel)
        return ENOMEM;
    channel->head.base.backend = &file->base;
    channel->head.ops = &pool_ops;
    channel->file = file;
    channel->depth = depth;
    channel->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (channel->event_fd < 0) {
        error = errno;
        free(channel);
        return error;
    }
    pthread_mutex_init(&channel->lock, NULL);
    pthread_cond_init(&channel->more, NULL);
    error = start_workers(channel);
    if (error) {
        destroy(channel);
        return error;
    }
    *channel_p = &channel->head.base;
    return 0;
}
