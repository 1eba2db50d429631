/* SPDX-License-Identifier: MIT */

/* file: pages in a file or on a block device. The nouns are in file.h. */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "transport/file.h"
#include "transport/spec.h"
#include "transport/tell.h"

#define CHOICE    "auto\0on\0off\0"
#define NO_OR_YES "no\0yes\0"

static const struct wr_spec_row rows[] = {
    {"size", WR_SPEC_BYTES, offsetof(struct wr_file_options, size), WEIR_SLOT_BYTES, 1ull << 62,
     NULL},
    {"direct", WR_SPEC_WORD, offsetof(struct wr_file_options, direct), 0, 0, CHOICE},
    {"uring", WR_SPEC_WORD, offsetof(struct wr_file_options, uring), 0, 0, CHOICE},
    {"discard", WR_SPEC_WORD, offsetof(struct wr_file_options, discard), 0, 0, CHOICE},
    {"overwrite", WR_SPEC_WORD, offsetof(struct wr_file_options, overwrite), 0, 0, NO_OR_YES},
    {"keep", WR_SPEC_WORD, offsetof(struct wr_file_options, keep), 0, 0, NO_OR_YES},
};
static const struct wr_spec_kind kind = {"file", rows, sizeof(rows) / sizeof(rows[0])};

static struct wr_file *file_of(struct weir_backend *backend)
{
    return (struct wr_file *)backend;
}

static const struct wr_file_channel_ops *channel_ops(const struct weir_channel *channel)
{
    return ((const struct wr_file_channel *)channel)->ops;
}

/* --- Life ------------------------------------------------------------------------------------ */

static int open_path(struct wr_file *file, const char *path)
{
    if (!*path) {
        wr_tell(file->env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "file: no path; write file:/var/tmp?size=64G, for example");
        return WEIR_EINVAL;
    }
    return wr_file_place_open(file, path);
}

static int file_open(const char *spec, const struct weir_backend_env *env,
                     struct weir_backend **backend_p)
{
    struct wr_file *file;
    char *path;
    const char *rest;
    int error = wr_spec_location(&kind, spec, env, &path, &rest);

    if (error)
        return error;
    file = calloc(1, sizeof(*file));
    if (!file) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "file: out of memory");
        free(path);
        return WEIR_ENOMEM;
    }
    file->base.ops = &weir_backend_file;
    file->env = env;
    error = wr_spec_options(&kind, rest, env, &file->options);
    if (!error)
        error = open_path(file, path);
    free(path);
    if (error) {
        free(file);
        return error;
    }
    *backend_p = &file->base;
    return WEIR_OK;
}

static void file_close(struct weir_backend *backend)
{
    wr_file_place_close(file_of(backend));
    free(backend);
}

static void file_describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    const struct wr_file *file = file_of(backend);

    *info_p = (struct weir_backend_info){
        .slots = file->slots,
        .cluster_slots = WEIR_CLUSTER_SLOTS,
    };
    snprintf(info_p->how, sizeof(info_p->how), "%s, %s",
             file->is_direct ? "O_DIRECT" : "page cache", file->is_ring ? "io_uring" : "threads");
}

/* --- Channels -------------------------------------------------------------------------------- */

static int file_channel_open(struct weir_backend *backend, uint32_t depth,
                             struct weir_channel **channel_p)
{
    struct wr_file *file = file_of(backend);
    int os_error;

    if (depth == 0)
        return WEIR_EINVAL;
    os_error = file->is_ring ? wr_file_ring_open(file, depth, channel_p) : ENOSYS;
    if (os_error && file->is_ring && file->options.uring == WR_FILE_ON)
        return wr_tell_errno(file->env, os_error, "file: cannot set up io_uring for %u requests",
                             depth);
    if (os_error && file->is_ring)
        wr_tell(file->env, WEIR_NOTE, WEIR_OK, os_error,
                "file: io_uring is refused for %u requests (%s); threads do its work", depth,
                strerrordesc_np(os_error));
    if (os_error)
        os_error = wr_file_pool_open(file, depth, channel_p);
    if (os_error)
        return wr_tell_errno(file->env, os_error, "file: cannot start the threads of a channel");
    return WEIR_OK;
}

static void file_channel_close(struct weir_channel *channel)
{
    channel_ops(channel)->close(channel);
}

static uint32_t file_submit(struct weir_channel *channel, struct weir_io *const *ios,
                            uint32_t count)
{
    return channel_ops(channel)->submit(channel, ios, count);
}

static uint32_t file_poll(struct weir_channel *channel, uint32_t max)
{
    return channel_ops(channel)->poll(channel, max);
}

static int file_wait_fd(struct weir_channel *channel)
{
    return channel_ops(channel)->wait_fd(channel);
}

/* --- Discard --------------------------------------------------------------------------------- */

/* 0 or an errno. */
static int give_back(const struct wr_file *file, uint64_t offset, uint64_t bytes)
{
    uint64_t range[2] = {offset, bytes};
    int result;

    if (file->is_device)
        result = ioctl(file->fd, BLKDISCARD, range);
    else
        result = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                           (off_t)bytes);
    return result == 0 ? 0 : errno;
}

/* By itself for files, whose room others may need: it is asked of whole clusters that have stayed
 * free, so that it costs one call for 2 MiB or more that nobody waits for. For devices only where
 * it was asked for: some take long over a TRIM, and then hold up reads. */
static bool discards(const struct wr_file *file)
{
    if (file->options.discard == WR_FILE_AUTO)
        return !file->is_device;
    return file->options.discard == WR_FILE_ON;
}

static int file_discard(struct weir_backend *backend, uint64_t slot, uint64_t count)
{
    struct wr_file *file = file_of(backend);
    int os_error;

    if (slot > file->slots || count > file->slots - slot)
        return WEIR_EINVAL;
    if (!discards(file) || count == 0 ||
        atomic_load_explicit(&file->is_discard_refused, memory_order_relaxed))
        return WEIR_OK;
    os_error = give_back(file, file->data_offset + slot * WEIR_SLOT_BYTES, count * WEIR_SLOT_BYTES);
    if (!os_error || os_error == EINTR)
        return WEIR_OK;
    /* A hint that is not taken is no failure; it is told once. */
    if (!atomic_exchange(&file->is_discard_refused, true))
        wr_tell(file->env, WEIR_NOTE, WEIR_OK, os_error,
                "file: discard is refused (%s) and will not be tried again",
                strerrordesc_np(os_error));
    return WEIR_OK;
}

const struct weir_backend_ops weir_backend_file = {
    .abi = WEIR_BACKEND_ABI,
    .name = "file",
    .open = file_open,
    .close = file_close,
    .describe = file_describe,
    .read = wr_file_io_read,
    .channel_open = file_channel_open,
    .channel_close = file_channel_close,
    .submit = file_submit,
    .poll = file_poll,
    .wait_fd = file_wait_fd,
    .discard = file_discard,
};
