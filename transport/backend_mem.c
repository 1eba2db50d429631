/* SPDX-License-Identifier: MIT */

/*
 * mem: memory of this process. The reference, the smallest back end that keeps its word, and the
 * baseline for what the software above it costs.
 *
 * Bytes move in poll() and not in submit(), so that a caller who changes them before done() is
 * found out here rather than on a disk.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <weir/weir_backend.h>

#include "transport/queue.h"
#include "transport/request.h"
#include "transport/spec.h"
#include "transport/tell.h"

struct mem {
    struct weir_backend base;
    /* Constant while open. */
    char *store;
    uint64_t slots;
};

struct mem_channel {
    struct weir_channel base;
    uint32_t room; /* requests that may still be accepted */
    struct wr_queue accepted;
};

struct mem_options {
    uint64_t size;
};

static const struct wr_spec_row rows[] = {
    {"size", WR_SPEC_BYTES, offsetof(struct mem_options, size), WEIR_SLOT_BYTES, 1ull << 46, NULL},
};
static const struct wr_spec_kind kind = {"mem", rows, sizeof(rows) / sizeof(rows[0])};

static struct mem *mem_of(struct weir_backend *backend)
{
    return (struct mem *)backend;
}

static int parse(const char *spec, const struct weir_backend_env *env, struct mem_options *options)
{
    char *location;
    const char *rest;
    int error = wr_spec_location(&kind, spec, env, &location, &rest);

    if (error)
        return error;
    if (*location) {
        wr_tell(env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "mem: \"%s\" is no place; write mem:?size=1G, for example", location);
        error = WEIR_EINVAL;
    } else {
        error = wr_spec_options(&kind, rest, env, options);
    }
    free(location);
    return error;
}

static int mem_open(const char *spec, const struct weir_backend_env *env,
                    struct weir_backend **backend_p)
{
    struct mem_options options = {.size = 1ull << 30};
    struct mem *mem;
    uint64_t bytes;
    int error = parse(spec, env, &options);

    if (error)
        return error;
    mem = calloc(1, sizeof(*mem));
    if (!mem) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "mem: out of memory");
        return WEIR_ENOMEM;
    }
    mem->slots = options.size / WEIR_SLOT_BYTES;
    bytes = mem->slots * WEIR_SLOT_BYTES;
    mem->store = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem->store == MAP_FAILED) {
        error = wr_tell_errno(env, errno,
                              "mem: cannot reserve %llu bytes of addresses; ask for "
                              "a smaller size",
                              (unsigned long long)bytes);
        free(mem);
        return error;
    }
    /* A child must not inherit it, a core dump not hold it, and huge pages would make one stored
     * page cost 2 MiB. None of these is worth failing for. */
    madvise(mem->store, bytes, MADV_DONTFORK);
    madvise(mem->store, bytes, MADV_DONTDUMP);
    madvise(mem->store, bytes, MADV_NOHUGEPAGE);
    mem->base.ops = &weir_backend_mem;
    *backend_p = &mem->base;
    return WEIR_OK;
}

static void mem_close(struct weir_backend *backend)
{
    struct mem *mem = mem_of(backend);

    munmap(mem->store, mem->slots * WEIR_SLOT_BYTES);
    free(mem);
}

static void mem_describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    *info_p = (struct weir_backend_info){
        .slots = mem_of(backend)->slots,
        .cluster_slots = WEIR_CLUSTER_SLOTS,
        .flags = WEIR_BACKEND_VOLATILE,
        .how = "memory of this process",
    };
}

static int mem_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    const struct mem *mem = mem_of(backend);

    if (!wr_request_is_inside(mem->slots, slot, pages))
        return WEIR_EINVAL;
    memcpy(bytes, mem->store + slot * WEIR_SLOT_BYTES, (size_t)pages * WEIR_SLOT_BYTES);
    return WEIR_OK;
}

static int mem_channel_open(struct weir_backend *backend, uint32_t depth,
                            struct weir_channel **channel_p)
{
    struct mem_channel *channel;

    if (depth == 0)
        return WEIR_EINVAL;
    channel = calloc(1, sizeof(*channel));
    if (!channel)
        return WEIR_ENOMEM;
    channel->base.backend = backend;
    channel->room = depth;
    *channel_p = &channel->base;
    return WEIR_OK;
}

static void mem_channel_close(struct weir_channel *base)
{
    free(base);
}

static uint32_t mem_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct mem_channel *channel = (struct mem_channel *)base;

    if (count > channel->room)
        count = channel->room;
    channel->room -= count;
    for (uint32_t i = 0; i < count; i++)
        wr_queue_put(&channel->accepted, ios[i]);
    return count;
}

static void move(const struct mem *mem, struct weir_io *io)
{
    char *place;

    io->os_error = 0;
    io->error = wr_request_is_sound(io, mem->slots) ? WEIR_OK : WEIR_EINVAL;
    if (io->error)
        return;
    place = mem->store + io->slot * WEIR_SLOT_BYTES;
    for (uint32_t i = 0; i < io->iov_count; i++) {
        if (io->is_write)
            memcpy(place, io->iov[i].iov_base, io->iov[i].iov_len);
        else
            memcpy(io->iov[i].iov_base, place, io->iov[i].iov_len);
        place += io->iov[i].iov_len;
    }
}

static uint32_t mem_poll(struct weir_channel *base, uint32_t max)
{
    struct mem_channel *channel = (struct mem_channel *)base;
    uint32_t finished;

    for (finished = 0; finished < max && channel->accepted.first; finished++) {
        struct weir_io *io = wr_queue_take(&channel->accepted);

        move(mem_of(base->backend), io);
        channel->room++;
        io->done(io);
    }
    return finished;
}

static int mem_wait_fd(struct weir_channel *channel)
{
    (void)channel;
    return -1;
}

static int mem_discard(struct weir_backend *backend, uint64_t slot, uint64_t count)
{
    const struct mem *mem = mem_of(backend);

    if (slot > mem->slots || count > mem->slots - slot)
        return WEIR_EINVAL;
    if (count)
        madvise(mem->store + slot * WEIR_SLOT_BYTES, count * WEIR_SLOT_BYTES, MADV_DONTNEED);
    return WEIR_OK;
}

const struct weir_backend_ops weir_backend_mem = {
    .abi = WEIR_BACKEND_ABI,
    .name = "mem",
    .open = mem_open,
    .close = mem_close,
    .describe = mem_describe,
    .read = mem_read,
    .channel_open = mem_channel_open,
    .channel_close = mem_channel_close,
    .submit = mem_submit,
    .poll = mem_poll,
    .wait_fd = mem_wait_fd,
    .discard = mem_discard,
};
