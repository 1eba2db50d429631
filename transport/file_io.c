/* SPDX-License-Identifier: MIT */
#include "transport/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport/request.h"

/* The back end's words of a request; the first belongs to queue.h. */
enum { WORD_LINK, WORD_MOVED, WORD_STAGE, WORD_RETRIES };

/* The raw system calls below pass an offset as one register. */
_Static_assert(sizeof(long) == 8, "a 64-bit system");

static uint64_t bytes_of(const struct weir_io *io)
{
    return (uint64_t)io->pages * WEIR_SLOT_BYTES;
}

/* Nobody here cancels a request. The kernel does, when it could not start a worker for it: for want
 * of memory, or because the thread that asked has a signal pending, and that three times in a row.
 */
static bool is_transient(int os_error)
{
    return os_error == EINTR || os_error == EAGAIN || os_error == ECANCELED;
}

static int error_of(int os_error)
{
    switch (os_error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return WEIR_EFULL;
    default: return WEIR_EIO;
    }
}

void wr_file_io_begin(const struct wr_file *file, struct weir_io *io)
{
    io->error = WEIR_OK;
    io->os_error = 0;
    io->backend_words[WORD_MOVED] = 0;
    io->backend_words[WORD_RETRIES] = 0;
    io->backend_words[WORD_STAGE] = WR_FILE_MOVE;
    if (!wr_request_is_sound(io, file->slots)) {
        wr_file_io_fail(io, EINVAL);
        io->error = WEIR_EINVAL;
    }
}

enum wr_file_stage wr_file_io_stage(const struct weir_io *io)
{
    return (enum wr_file_stage)io->backend_words[WORD_STAGE];
}

void wr_file_io_fail(struct weir_io *io, int os_error)
{
    io->error = error_of(os_error);
    io->os_error = os_error;
    io->backend_words[WORD_STAGE] = WR_FILE_FINISHED;
}

/*
 * After a short transfer the caller's vector, which is constant, begins in the middle of an
 * element. The rest of that element is a transfer of its own, then the whole elements follow:
 * no second vector is needed.
 */
struct wr_file_piece wr_file_io_piece(const struct wr_file *file, const struct weir_io *io)
{
    uint64_t moved = io->backend_words[WORD_MOVED];
    uint64_t inside = moved;
    uint32_t i = 0;
    struct wr_file_piece piece = {
        .offset = file->data_offset + io->slot * WEIR_SLOT_BYTES + moved,
    };

    while (inside >= io->iov[i].iov_len)
        inside -= io->iov[i++].iov_len;
    if (inside == 0 && io->iov_count - i > 1) {
        piece.whole = &io->iov[i];
        piece.count = io->iov_count - i;
    } else {
        piece.part.iov_base = (char *)io->iov[i].iov_base + inside;
        piece.part.iov_len = io->iov[i].iov_len - inside;
    }
    return piece;
}

static void moved_some(const struct wr_file *file, struct weir_io *io, uint64_t bytes)
{
    uint64_t *words = io->backend_words;

    words[WORD_RETRIES] = 0;
    words[WORD_MOVED] += bytes;
    if (words[WORD_MOVED] < bytes_of(io))
        return;
    if (file->is_direct)
        words[WORD_STAGE] = WR_FILE_FINISHED;
    else
        words[WORD_STAGE] = io->is_write ? WR_FILE_SYNC : WR_FILE_FORGET;
}

static void after_sync(struct weir_io *io, int64_t result)
{
    /* Written back, or a file system that has nothing to write back to. */
    if (result >= 0 || result == -EINVAL || result == -ESPIPE || result == -ENOSYS ||
        result == -EOPNOTSUPP)
        io->backend_words[WORD_STAGE] = WR_FILE_FORGET;
    else
        wr_file_io_fail(io, (int)-result);
}

enum wr_file_stage wr_file_io_advance(const struct wr_file *file, struct weir_io *io,
                                      int64_t result)
{
    if (result < 0 && is_transient((int)-result) &&
        io->backend_words[WORD_RETRIES]++ < WR_FILE_RETRIES_MAX)
        return wr_file_io_stage(io);

    switch (wr_file_io_stage(io)) {
    case WR_FILE_MOVE:
        if (result > 0)
            moved_some(file, io, (uint64_t)result);
        else /* nothing: the file has become shorter than we made it */
            wr_file_io_fail(io, result ? (int)-result : ENODATA);
        break;
    case WR_FILE_SYNC: after_sync(io, result); break;
    case WR_FILE_FORGET: io->backend_words[WORD_STAGE] = WR_FILE_FINISHED; break;
    case WR_FILE_FINISHED: break;
    }
    return wr_file_io_stage(io);
}

/*
 * Raw system calls, because the C library's pread() is a cancellation point and the thread that
 * faulted belongs to the application. errno is its own, too.
 */
int wr_file_io_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    const struct wr_file *file = (const struct wr_file *)backend;
    const uint64_t total = (uint64_t)pages * WEIR_SLOT_BYTES;
    const uint64_t offset = file->data_offset + slot * WEIR_SLOT_BYTES;
    const int saved_errno = errno;
    uint64_t moved = 0;
    uint32_t retries = 0;
    int error = WEIR_OK;

    if (!wr_request_is_inside(file->slots, slot, pages))
        return WEIR_EINVAL;
    while (moved < total && !error) {
        long count = syscall(SYS_pread64, file->fd, (char *)bytes + moved, total - moved,
                             (long)(offset + moved));

        if (count > 0)
            moved += (uint64_t)count;
        else if (count == 0 || !is_transient(errno) || retries++ >= WR_FILE_RETRIES_MAX)
            error = WEIR_EIO;
    }
    if (!file->is_direct)
        syscall(SYS_fadvise64, file->fd, (long)offset, (long)total, POSIX_FADV_DONTNEED);
    errno = saved_errno;
    return error;
}
