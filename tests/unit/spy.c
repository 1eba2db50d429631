/* SPDX-License-Identifier: MIT */
#include "tests/unit/spy.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "transport/queue.h"
#include "transport/request.h"

#define STORE_BYTES ((size_t)SPY_SLOTS * WEIR_SLOT_BYTES)

struct spy_channel {
    struct weir_channel base;
    struct wr_queue accepted;
    uint32_t depth, flying;
};

struct spying spying;

static const struct weir_backend_ops spy_ops;

unsigned char *spy_slot(const struct spy *spy, uint64_t slot)
{
    return spy->store + slot * WEIR_SLOT_BYTES;
}

static int spy_open(const char *spec, const struct weir_backend_env *env,
                    struct weir_backend **backend_p)
{
    struct spy *spy = calloc(1, sizeof(*spy));

    (void)env;
    cr_assert_not_null(spy);
    spy->base.ops = &spy_ops;
    spy->flags = WEIR_BACKEND_VOLATILE | WEIR_BACKEND_FREE_ON_READ;
    if (strcmp(spec, "far") == 0)
        spy->flags |= WEIR_BACKEND_REMOTE;
    else
        cr_assert_str_eq(spec, "near");
    spy->store = mmap(NULL, STORE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                      0);
    cr_assert_neq(spy->store, MAP_FAILED);
    spying.last = spy;
    spying.open++;
    *backend_p = &spy->base;
    return WEIR_OK;
}

static void spy_close(struct weir_backend *backend)
{
    struct spy *spy = (struct spy *)backend;

    munmap(spy->store, STORE_BYTES);
    free(spy);
    spying.open--;
}

static void spy_describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    *info_p = (struct weir_backend_info){.slots = SPY_SLOTS,
                                         .cluster_slots = WEIR_CLUSTER_SLOTS,
                                         .flags = ((struct spy *)backend)->flags,
                                         .how = "a spy"};
}

static int spy_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    if (!wr_request_is_inside(SPY_SLOTS, slot, pages))
        return WEIR_EINVAL;
    memcpy(bytes, spy_slot((struct spy *)backend, slot), (size_t)pages * WEIR_SLOT_BYTES);
    return WEIR_OK;
}

static int spy_channel_open(struct weir_backend *backend, uint32_t depth,
                            struct weir_channel **channel_p)
{
    struct spy_channel *channel = calloc(1, sizeof(*channel));

    cr_assert_not_null(channel);
    channel->base.backend = backend;
    channel->depth = depth;
    *channel_p = &channel->base;
    return WEIR_OK;
}

static void spy_channel_close(struct weir_channel *channel)
{
    cr_assert_eq(((struct spy_channel *)channel)->flying, 0);
    free(channel);
}

/* What the first bytes of each page are: of zeros under a stream cipher, the stream itself. */
static void note(const struct weir_io *io)
{
    for (uint32_t e = 0; e < io->iov_count; e++)
        for (size_t at = 0; at < io->iov[e].iov_len; at += WEIR_SLOT_BYTES)
            if (spying.seen < SPY_SEEN)
                memcpy(spying.starts[spying.seen++], (char *)io->iov[e].iov_base + at, 16);
}

static uint32_t spy_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct spy_channel *channel = (struct spy_channel *)base;
    uint32_t taken = 0;

    while (!spying.refuses && taken < count && channel->flying < channel->depth) {
        if (ios[taken]->is_write)
            note(ios[taken]);
        wr_queue_put(&channel->accepted, ios[taken++]);
        channel->flying++;
        if (channel->flying > spying.flying_most)
            spying.flying_most = channel->flying;
    }
    return taken;
}

static void move(const struct spy *spy, struct weir_io *io)
{
    unsigned char *place = spy_slot(spy, io->slot);
    uint32_t left = io->pages;

    io->os_error = 0;
    io->error = wr_request_is_sound(io, SPY_SLOTS) ? WEIR_OK : WEIR_EINVAL;
    if (!io->error && io->is_write && spying.fails > 0) {
        spying.fails--;
        left /= 2;
        io->error = WEIR_EIO;
    } else if (io->error) {
        return;
    }
    for (uint32_t e = 0; e < io->iov_count; e++)
        for (size_t at = 0; at < io->iov[e].iov_len && left > 0; at += WEIR_SLOT_BYTES, left--) {
            char *bytes = (char *)io->iov[e].iov_base + at;

            memcpy(io->is_write ? (char *)place : bytes, io->is_write ? bytes : (char *)place,
                   WEIR_SLOT_BYTES);
            place += WEIR_SLOT_BYTES;
        }
}

static uint32_t spy_poll(struct weir_channel *base, uint32_t max)
{
    struct spy_channel *channel = (struct spy_channel *)base;
    uint32_t finished;

    for (finished = 0; !spying.holds && finished < max && channel->accepted.first; finished++) {
        struct weir_io *io = wr_queue_take(&channel->accepted);

        move((struct spy *)base->backend, io);
        channel->flying--;
        io->done(io);
    }
    return finished;
}

static int spy_wait_fd(struct weir_channel *channel)
{
    (void)channel;
    return -1;
}

static const struct weir_backend_ops spy_ops = {
    .abi = WEIR_BACKEND_ABI,
    .name = "spy",
    .open = spy_open,
    .close = spy_close,
    .describe = spy_describe,
    .read = spy_read,
    .channel_open = spy_channel_open,
    .channel_close = spy_channel_close,
    .submit = spy_submit,
    .poll = spy_poll,
    .wait_fd = spy_wait_fd,
};

void spy_register(void)
{
    cr_assert_eq(weir_backend_register(&spy_ops), WEIR_OK);
}
