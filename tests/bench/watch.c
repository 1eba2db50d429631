/* SPDX-License-Identifier: MIT */
#include "watch.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir.h>
#include <weir/weir_backend.h>

#include "bench.h"

struct watch {
    struct weir_backend base;
    struct weir_backend *inner;
};

struct watch_channel {
    struct weir_channel base;
    struct weir_channel *inner;
};

static const struct weir_backend_ops watch_ops;
static _Atomic(uint64_t) writes, bytes_written, bytes_written_whole, bytes_read;

static void (*first_write)(void *context);
static void *first_write_context;

static struct weir_backend *inner_of(struct weir_backend *backend)
{
    return ((struct watch *)backend)->inner;
}

static struct weir_channel *inner_channel(struct weir_channel *channel)
{
    return ((struct watch_channel *)channel)->inner;
}

static int watch_open(const char *spec, const struct weir_backend_env *env,
                      struct weir_backend **backend_p)
{
    size_t length = strlen(spec);
    struct watch *watch;
    char *inside;
    int error;

    if (length < 2 || spec[0] != '(' || spec[length - 1] != ')')
        return WEIR_EINVAL;
    watch = calloc(1, sizeof(*watch));
    inside = strndup(spec + 1, length - 2);
    error = watch && inside ? weir_backend_open(inside, env, &watch->inner) : WEIR_ENOMEM;
    free(inside);
    if (error != WEIR_OK) {
        free(watch);
        return error;
    }
    watch->base.ops = &watch_ops;
    *backend_p = &watch->base;
    return WEIR_OK;
}

static void watch_close(struct weir_backend *backend)
{
    inner_of(backend)->ops->close(inner_of(backend));
    free(backend);
}

static void watch_describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    inner_of(backend)->ops->describe(inner_of(backend), info_p);
}

static int watch_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    atomic_fetch_add_explicit(&bytes_read, (uint64_t)pages * WEIR_SLOT_BYTES, memory_order_relaxed);
    return inner_of(backend)->ops->read(inner_of(backend), slot, pages, bytes);
}

static int watch_channel_open(struct weir_backend *backend, uint32_t depth,
                              struct weir_channel **channel_p)
{
    struct watch_channel *channel = calloc(1, sizeof(*channel));
    int error = WEIR_ENOMEM;

    if (channel)
        error = inner_of(backend)->ops->channel_open(inner_of(backend), depth, &channel->inner);
    if (error != WEIR_OK) {
        free(channel);
        return error;
    }
    channel->base.backend = backend;
    *channel_p = &channel->base;
    return WEIR_OK;
}

static void watch_channel_close(struct weir_channel *channel)
{
    inner_channel(channel)->backend->ops->channel_close(inner_channel(channel));
    free(channel);
}

static void note(const struct weir_io *io)
{
    const uint64_t bytes = (uint64_t)io->pages * WEIR_SLOT_BYTES;

    if (!io->is_write) {
        atomic_fetch_add(&bytes_read, bytes);
        return;
    }
    if (atomic_fetch_add(&writes, 1) == 0 && first_write)
        first_write(first_write_context);
    atomic_fetch_add(&bytes_written, bytes);
    if (io->pages == WEIR_CLUSTER_SLOTS && io->slot % WEIR_CLUSTER_SLOTS == 0)
        atomic_fetch_add(&bytes_written_whole, bytes);
}

/* Noted before they are handed on: an accepted request is no longer ours to look at. What is not
 * accepted is submitted again, so it is handed on one by one. */
static uint32_t watch_submit(struct weir_channel *channel, struct weir_io *const *ios,
                             uint32_t count)
{
    struct weir_channel *inner = inner_channel(channel);

    for (uint32_t i = 0; i < count; i++) {
        const struct weir_io kept = *ios[i];

        if (inner->backend->ops->submit(inner, &ios[i], 1) != 1)
            return i;
        note(&kept);
    }
    return count;
}

static uint32_t watch_poll(struct weir_channel *channel, uint32_t max)
{
    return inner_channel(channel)->backend->ops->poll(inner_channel(channel), max);
}

static int watch_wait_fd(struct weir_channel *channel)
{
    return inner_channel(channel)->backend->ops->wait_fd(inner_channel(channel));
}

static int watch_discard(struct weir_backend *backend, uint64_t slot, uint64_t count)
{
    struct weir_backend *inner = inner_of(backend);

    return inner->ops->discard ? inner->ops->discard(inner, slot, count) : WEIR_OK;
}

static const struct weir_backend_ops watch_ops = {
    .abi = WEIR_BACKEND_ABI,
    .name = "watch",
    .open = watch_open,
    .close = watch_close,
    .describe = watch_describe,
    .read = watch_read,
    .channel_open = watch_channel_open,
    .channel_close = watch_channel_close,
    .submit = watch_submit,
    .poll = watch_poll,
    .wait_fd = watch_wait_fd,
    .discard = watch_discard,
};

void bench_watch_register(void)
{
    int error = weir_backend_register(&watch_ops);

    if (error != WEIR_OK && error != WEIR_EBUSY)
        bench_fail("cannot register a back end: %s", weir_error_text(error));
}

void bench_watch_first_write(void (*called)(void *context), void *context)
{
    first_write = called;
    first_write_context = context;
}

void bench_watch_get(struct bench_watch *watch_p)
{
    *watch_p = (struct bench_watch){
        .writes = atomic_load(&writes),
        .bytes_written = atomic_load(&bytes_written),
        .bytes_written_whole = atomic_load(&bytes_written_whole),
        .bytes_read = atomic_load(&bytes_read),
    };
}
