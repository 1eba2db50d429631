/* SPDX-License-Identifier: MIT */

/*
 * A channel of sealed pages.
 *
 *   item      our side of one accepted request: what the inner back end is given
 *   waiting   items of writes for which there is no bounce; their bytes are still the caller's
 *   flying    items that the inner back end has
 *
 * Always: free + waiting + flying items == depth; while one waits, another flies that holds bounce,
 * and wakes us when it is done. Reads go straight into the caller's memory and are made plain
 * there.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "transport/request.h"
#include "transport/seal.h"

/* Writes that are on their way at a time. Memory is taken when it is first used. */
#define BOUNCE_PAGES (4 * WEIR_CLUSTER_SLOTS)
#define SCRATCH      BOUNCE_PAGES /* one page more: where a read goes that must fail */

struct item {
    struct weir_io io; /* the inner back end's; first, so that done() finds the item */
    struct weir_io *outer;
    struct item *next; /* in the free list, or waiting                             */
    struct iovec piece;
    uint64_t version; /* of a write: of its first page                             */
    uint32_t bounce;  /* likewise: where its sealed pages are                      */
    bool is_unsound;
};

struct seal_channel {
    struct weir_channel base; /* first */
    /* Constant while open. */
    struct wr_seal *seal;
    struct weir_channel *inner;
    char *bounce;
    struct item *items;

    /* Kept by the channel's thread. */
    struct item *free;
    struct item *waiting, **waiting_end;
    uint8_t tags[BOUNCE_PAGES][WR_TAG_BYTES]; /* of what is in the bounce */
    bool used[BOUNCE_PAGES];
};

enum begun {
    BEGUN,   /* the inner back end has it                                 */
    NO_ROOM, /* no bounce is free, and nothing was done                   */
    REFUSED  /* the inner back end does not take it, and nothing was done */
};

static struct seal_channel *channel_of(struct weir_channel *channel)
{
    return (struct seal_channel *)channel;
}

static char *bounce_at(const struct seal_channel *channel, uint32_t page)
{
    return channel->bounce + (size_t)page * WEIR_SLOT_BYTES;
}

/* --- Bounce ---------------------------------------------------------------------------------- */

/* The first run that is free: what is never needed is never touched. */
static bool take_bounce(struct seal_channel *channel, uint32_t pages, uint32_t *page_p)
{
    uint32_t run = 0;

    for (uint32_t i = 0; i < BOUNCE_PAGES; i++) {
        run = channel->used[i] ? 0 : run + 1;
        if (run == pages) {
            *page_p = i + 1 - pages;
            memset(&channel->used[*page_p], true, pages);
            return true;
        }
    }
    return false;
}

static void give_bounce(struct seal_channel *channel, const struct item *item)
{
    memset(&channel->used[item->bounce], false, item->outer->pages);
}

static void seal_pages(struct seal_channel *channel, struct item *item)
{
    struct wr_seal *seal = channel->seal;
    const struct weir_io *outer = item->outer;
    uint32_t i = 0;

    item->version = 1 +
                    atomic_fetch_add_explicit(&seal->versions, outer->pages, memory_order_relaxed);
    for (uint32_t e = 0; e < outer->iov_count; e++)
        for (size_t at = 0; at < outer->iov[e].iov_len; at += WEIR_SLOT_BYTES, i++)
            wr_cipher_seal(seal->cipher, outer->slot + i, item->version + i,
                           (const char *)outer->iov[e].iov_base + at,
                           bounce_at(channel, item->bounce + i), channel->tags[item->bounce + i]);
}

/* The write is over: what lies in its slots now? */
static void set_records(struct seal_channel *channel, const struct item *item, bool is_written)
{
    struct wr_record *records = &channel->seal->records[item->outer->slot];

    for (uint32_t i = 0; i < item->outer->pages; i++) {
        records[i].version = is_written ? item->version + i : 0;
        if (is_written)
            memcpy(records[i].tag, channel->tags[item->bounce + i], WR_TAG_BYTES);
    }
}

/* --- To the inner back end ------------------------------------------------------------------- */

static void inner_done(struct weir_io *io);

/* A request that the inner back end refuses by itself, in its own time: so that whoever waits by
 * its descriptor is woken. No byte of the caller's is in it. */
static void make_unsound(const struct seal_channel *channel, struct item *item)
{
    item->piece = (struct iovec){bounce_at(channel, SCRATCH), WEIR_SLOT_BYTES};
    item->io.slot = UINT64_MAX;
    item->io.pages = 1;
    item->io.is_write = 0;
    item->io.iov = &item->piece;
    item->io.iov_count = 1;
}

static bool make_write(struct seal_channel *channel, struct item *item)
{
    const uint32_t pages = item->outer->pages;

    if (!take_bounce(channel, pages, &item->bounce))
        return false;
    seal_pages(channel, item);
    item->piece = (struct iovec){bounce_at(channel, item->bounce), (size_t)pages * WEIR_SLOT_BYTES};
    item->io.iov = &item->piece;
    item->io.iov_count = 1;
    return true;
}

static enum begun begin(struct seal_channel *channel, struct item *item)
{
    const struct weir_io *outer = item->outer;
    struct weir_io *io = &item->io;

    *io = (struct weir_io){.slot = outer->slot,
                           .pages = outer->pages,
                           .is_write = outer->is_write,
                           .iov = outer->iov,
                           .iov_count = outer->iov_count,
                           .done = inner_done,
                           .owner = channel};
    item->is_unsound = !wr_request_is_sound(outer, channel->seal->info.slots);
    if (item->is_unsound)
        make_unsound(channel, item);
    else if (outer->is_write && !make_write(channel, item))
        return NO_ROOM;
    if (channel->inner->backend->ops->submit(channel->inner, &io, 1) == 1)
        return BEGUN;
    if (!item->is_unsound && outer->is_write)
        give_bounce(channel, item);
    return REFUSED;
}

static void wait_for_bounce(struct seal_channel *channel, struct item *item)
{
    item->next = NULL;
    *channel->waiting_end = item;
    channel->waiting_end = &item->next;
}

static bool accept(struct seal_channel *channel, struct weir_io *outer)
{
    struct item *item = channel->free;
    struct item *next = item->next;
    enum begun begun;

    item->outer = outer;
    /* Writes in their order, so that none waits for ever. */
    begun = channel->waiting && outer->is_write ? NO_ROOM : begin(channel, item);
    if (begun == REFUSED)
        return false;
    channel->free = next;
    if (begun == NO_ROOM)
        wait_for_bounce(channel, item);
    return true;
}

uint32_t wr_seal_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct seal_channel *channel = channel_of(base);
    uint32_t accepted = 0;

    while (accepted < count && channel->free && accept(channel, ios[accepted]))
        accepted++;
    return accepted;
}

/* --- Back to the caller ---------------------------------------------------------------------- */

static void hand_back(struct seal_channel *channel, struct item *item)
{
    struct weir_io *outer = item->outer;

    item->next = channel->free;
    channel->free = item;
    outer->done(outer);
}

static int unseal_vector(struct seal_channel *channel, const struct weir_io *outer)
{
    uint64_t slot = outer->slot;
    int error = WEIR_OK;

    for (uint32_t e = 0; e < outer->iov_count; e++) {
        const uint32_t pages = (uint32_t)(outer->iov[e].iov_len / WEIR_SLOT_BYTES);

        if (wr_seal_unseal(channel->seal, slot, pages, outer->iov[e].iov_base) != WEIR_OK)
            error = WEIR_EIO;
        slot += pages;
    }
    return error;
}

static void inner_done(struct weir_io *io)
{
    struct item *item = (struct item *)io;
    struct seal_channel *channel = io->owner;
    struct weir_io *outer = item->outer;

    outer->error = io->error;
    outer->os_error = io->os_error;
    if (item->is_unsound) {
        outer->error = WEIR_EINVAL;
        outer->os_error = EINVAL;
    } else if (outer->is_write) {
        set_records(channel, item, io->error == WEIR_OK);
        give_bounce(channel, item);
    } else if (io->error == WEIR_OK) {
        outer->error = unseal_vector(channel, outer);
        outer->os_error = outer->error ? EBADMSG : 0;
    }
    hand_back(channel, item);
}

/* Writes for which there is bounce now. How many were begun, or, since the inner back end does not
 * take them though it has room for all our requests and must be broken, given back as failed: of
 * those at most max. */
static uint32_t begin_waiting(struct seal_channel *channel, uint32_t max, uint32_t *failed_p)
{
    uint32_t count = 0;

    *failed_p = 0;
    while (channel->waiting) {
        struct item *item = channel->waiting;
        struct item *next = item->next;
        enum begun begun = *failed_p < max ? begin(channel, item) : NO_ROOM;

        if (begun == NO_ROOM)
            break;
        channel->waiting = next;
        if (!next)
            channel->waiting_end = &channel->waiting;
        count++;
        if (begun == REFUSED) {
            item->outer->error = WEIR_EIO;
            item->outer->os_error = 0;
            ++*failed_p;
            hand_back(channel, item);
        }
    }
    return count;
}

uint32_t wr_seal_poll(struct weir_channel *base, uint32_t max)
{
    struct seal_channel *channel = channel_of(base);
    const struct weir_backend_ops *ops = channel->inner->backend->ops;
    uint32_t finished = 0, failed;

    do {
        finished += ops->poll(channel->inner, max - finished);
        if (begin_waiting(channel, max - finished, &failed) == 0)
            break;
        finished += failed;
    } while (finished < max);
    return finished;
}

int wr_seal_wait_fd(struct weir_channel *base)
{
    struct weir_channel *inner = channel_of(base)->inner;

    return inner->backend->ops->wait_fd(inner);
}

/* --- Life ------------------------------------------------------------------------------------ */

/* Also of one that is half built. */
static void destroy(struct seal_channel *channel)
{
    if (channel->inner)
        channel->inner->backend->ops->channel_close(channel->inner);
    if (channel->bounce)
        munmap(channel->bounce, (BOUNCE_PAGES + 1) * WEIR_SLOT_BYTES);
    free(channel->items);
    free(channel);
}

void wr_seal_channel_close(struct weir_channel *base)
{
    destroy(channel_of(base));
}

static int map_bounce(struct seal_channel *channel)
{
    void *bounce = mmap(NULL, (BOUNCE_PAGES + 1) * WEIR_SLOT_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (bounce == MAP_FAILED)
        return WEIR_ENOMEM;
    channel->bounce = bounce;
    /* A child must not inherit it while a device reads it, nor a core dump be full of it. */
    madvise(bounce, (BOUNCE_PAGES + 1) * WEIR_SLOT_BYTES, MADV_DONTFORK);
    madvise(bounce, (BOUNCE_PAGES + 1) * WEIR_SLOT_BYTES, MADV_DONTDUMP);
    return WEIR_OK;
}

int wr_seal_channel_open(struct weir_backend *backend, uint32_t depth,
                         struct weir_channel **channel_p)
{
    struct wr_seal *seal = (struct wr_seal *)backend;
    struct seal_channel *channel;
    int error = WEIR_ENOMEM;

    if (depth == 0)
        return WEIR_EINVAL;
    channel = calloc(1, sizeof(*channel));
    if (!channel)
        return WEIR_ENOMEM;
    channel->base.backend = backend;
    channel->seal = seal;
    channel->waiting_end = &channel->waiting;
    channel->items = calloc(depth, sizeof(*channel->items));
    if (channel->items)
        error = map_bounce(channel);
    if (!error)
        error = seal->inner->ops->channel_open(seal->inner, depth, &channel->inner);
    if (error) {
        destroy(channel);
        return error;
    }
    for (uint32_t i = 0; i < depth; i++) {
        channel->items[i].next = channel->free;
        channel->free = &channel->items[i];
    }
    *channel_p = &channel->base;
    return WEIR_OK;
}
