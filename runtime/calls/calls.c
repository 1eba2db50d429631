/* SPDX-License-Identifier: MIT */

/*
 * The calls that weir_calls.h names. Each finds the next of its name, which is the C library's or
 * that of another who interposes.
 */

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <weir/weir_calls.h>

#include "runtime/calls/held.h"
#include "runtime/calls/next.h"

#undef fread_unlocked /* macros, where the compiler optimises */
#undef fwrite_unlocked

#pragma GCC visibility push(default)

/* --- One buffer ------------------------------------------------------------------------------ */

/* A call on one buffer, whatever it is: so many bytes, from there, that many done before. */
struct mover {
    ssize_t (*move)(const struct mover *mover, char *memory, size_t bytes, size_t done);
    enum weir_access access; /* what the kernel does to the memory */
    bool is_filled;          /* goes on until all is moved: what a plain call would do */
    int fd, flags;
    off_t offset;
    FILE *file;
    const struct sockaddr *to;
    socklen_t to_bytes;
    struct sockaddr *from;
    socklen_t *from_bytes;
};

/* A datagram that is not moved whole is another one, or lost. */
static bool is_of_messages(int fd)
{
    int type = 0;
    socklen_t bytes = sizeof(type);

    return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 &&
           type != SOCK_STREAM;
}

/* As much as is moved at a time; 0: nothing, and errno says why. */
static size_t hold_next(const struct mover *mover, const char *memory, size_t bytes)
{
    const int kept_errno = errno;
    const size_t part = wr_hold_part(memory, bytes, mover->access);

    if (part > 0 && part < bytes && part < WR_PART_BYTES && is_of_messages(mover->fd)) {
        wr_let_go(memory, part);
        errno = ENOMEM;
        return 0;
    }
    if (part > 0)
        errno = kept_errno; /* that was of tries with more, and of what is no socket */
    return part;
}

__attribute__((access(none, 2))) static ssize_t move_all(const struct mover *mover,
                                                         const void *memory, size_t bytes)
{
    char *start = (char *)(uintptr_t)memory;
    size_t done = 0;

    do {
        const size_t part = hold_next(mover, start + done, bytes - done);
        ssize_t moved;

        if (part == 0 && bytes > done)
            return done ? (ssize_t)done : -1;
        moved = mover->move(mover, start + done, part, done);
        wr_let_go(start + done, part);
        if (moved < 0)
            return done ? (ssize_t)done : -1;
        done += (size_t)moved;
        if ((size_t)moved < part)
            break;
    } while (done < bytes && mover->is_filled);
    return (ssize_t)done;
}

static bool is_regular(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode));
}

static ssize_t move_read(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return NEXT(read)(m->fd, memory, bytes);
}

ssize_t read(int fd, void *memory, size_t bytes)
{
    struct mover mover = {.move = move_read, .access = WEIR_WRITE, .fd = fd};

    if (!wr_is_far(memory, bytes))
        return NEXT(read)(fd, memory, bytes);
    mover.is_filled = is_regular(fd); /* of others the rest may never come */
    return move_all(&mover, memory, bytes);
}

static ssize_t move_write(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return NEXT(write)(m->fd, memory, bytes);
}

ssize_t write(int fd, const void *memory, size_t bytes)
{
    const struct mover mover = {
        .move = move_write, .access = WEIR_READ, .is_filled = true, .fd = fd};

    if (!wr_is_far(memory, bytes))
        return NEXT(write)(fd, memory, bytes);
    return move_all(&mover, memory, bytes);
}

static ssize_t move_pread(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    return NEXT(pread)(m->fd, memory, bytes, m->offset + (off_t)done);
}

ssize_t pread(int fd, void *memory, size_t bytes, off_t offset)
{
    const struct mover mover = {
        .move = move_pread, .access = WEIR_WRITE, .is_filled = true, .fd = fd, .offset = offset};

    if (!wr_is_far(memory, bytes))
        return NEXT(pread)(fd, memory, bytes, offset);
    return move_all(&mover, memory, bytes);
}

static ssize_t move_pwrite(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    return NEXT(pwrite)(m->fd, memory, bytes, m->offset + (off_t)done);
}

ssize_t pwrite(int fd, const void *memory, size_t bytes, off_t offset)
{
    const struct mover mover = {
        .move = move_pwrite, .access = WEIR_READ, .is_filled = true, .fd = fd, .offset = offset};

    if (!wr_is_far(memory, bytes))
        return NEXT(pwrite)(fd, memory, bytes, offset);
    return move_all(&mover, memory, bytes);
}

static ssize_t move_recv(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return NEXT(recvfrom)(m->fd, memory, bytes, m->flags, m->from, m->from_bytes);
}

ssize_t recvfrom(int fd, void *restrict memory, size_t bytes, int flags, __SOCKADDR_ARG from_whom,
                 socklen_t *restrict from_bytes)
{
    struct sockaddr *const from = from_whom.__sockaddr__;
    const struct mover mover = {.move = move_recv,
                                .access = WEIR_WRITE,
                                .is_filled = (flags & (MSG_WAITALL | MSG_PEEK)) == MSG_WAITALL,
                                .fd = fd,
                                .flags = flags,
                                .from = from,
                                .from_bytes = from_bytes};
    const size_t room = from && from_bytes ? *from_bytes : 0;
    ssize_t moved = -1;

    if (!wr_hold(from_bytes, sizeof(*from_bytes), WEIR_WRITE))
        return -1;
    if (wr_hold(from, room, WEIR_WRITE)) {
        moved = move_all(&mover, memory, bytes);
        wr_let_go(from, room);
    }
    wr_let_go(from_bytes, sizeof(*from_bytes));
    return moved;
}

ssize_t recv(int fd, void *memory, size_t bytes, int flags)
{
    return recvfrom(fd, memory, bytes, flags, NULL, NULL);
}

static ssize_t move_send(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return NEXT(sendto)(m->fd, memory, bytes, m->flags, m->to, m->to_bytes);
}

ssize_t sendto(int fd, const void *memory, size_t bytes, int flags, __CONST_SOCKADDR_ARG to_whom,
               socklen_t to_bytes)
{
    const struct sockaddr *const to = to_whom.__sockaddr__;
    const struct mover mover = {.move = move_send,
                                .access = WEIR_READ,
                                .is_filled = true,
                                .fd = fd,
                                .flags = flags,
                                .to = to,
                                .to_bytes = to_bytes};
    ssize_t moved;

    if (!wr_hold(to, to_bytes, WEIR_READ))
        return -1;
    moved = move_all(&mover, memory, bytes);
    wr_let_go(to, to_bytes);
    return moved;
}

ssize_t send(int fd, const void *memory, size_t bytes, int flags)
{
    return sendto(fd, memory, bytes, flags, NULL, 0);
}

static ssize_t move_random(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return NEXT(getrandom)(memory, bytes, (unsigned)m->flags);
}

ssize_t getrandom(void *memory, size_t bytes, unsigned flags)
{
    const struct mover mover = {.move = move_random,
                                .access = WEIR_WRITE,
                                .is_filled = true,
                                .fd = -1,
                                .flags = (int)flags};

    return move_all(&mover, memory, bytes);
}

/* --- Streams: what they move past their own buffer is a system call, too -----------------------
 */

static ssize_t move_fread(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return (ssize_t)NEXT(fread)(memory, 1, bytes, m->file);
}

static ssize_t move_fread_unlocked(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return (ssize_t)NEXT(fread_unlocked)(memory, 1, bytes, m->file);
}

static ssize_t move_fwrite(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return (ssize_t)NEXT(fwrite)(memory, 1, bytes, m->file);
}

static ssize_t move_fwrite_unlocked(const struct mover *m, char *memory, size_t bytes, size_t done)
{
    (void)done;
    return (ssize_t)NEXT(fwrite_unlocked)(memory, 1, bytes, m->file);
}

/* Whole things of that size; all else as it is for bytes. */
__attribute__((access(none, 2))) static size_t
move_things(const struct mover *mover, const void *memory, size_t size, size_t count)
{
    ssize_t moved = move_all(mover, memory, size * count);

    return moved > 0 ? (size_t)moved / size : 0;
}

WR_UNSEEN static bool is_far_things(const void *memory, size_t size, size_t count)
{
    size_t bytes;

    return !__builtin_mul_overflow(size, count, &bytes) && wr_is_far(memory, bytes);
}

size_t fread(void *restrict memory, size_t size, size_t count, FILE *restrict file)
{
    const struct mover mover = {
        .move = move_fread, .access = WEIR_WRITE, .is_filled = true, .fd = -1, .file = file};

    if (!is_far_things(memory, size, count))
        return NEXT(fread)(memory, size, count, file);
    return move_things(&mover, memory, size, count);
}

size_t fread_unlocked(void *restrict memory, size_t size, size_t count, FILE *restrict file)
{
    const struct mover mover = {.move = move_fread_unlocked,
                                .access = WEIR_WRITE,
                                .is_filled = true,
                                .fd = -1,
                                .file = file};

    if (!is_far_things(memory, size, count))
        return NEXT(fread_unlocked)(memory, size, count, file);
    return move_things(&mover, memory, size, count);
}

size_t fwrite(const void *restrict memory, size_t size, size_t count, FILE *restrict file)
{
    const struct mover mover = {
        .move = move_fwrite, .access = WEIR_READ, .is_filled = true, .fd = -1, .file = file};

    if (!is_far_things(memory, size, count))
        return NEXT(fwrite)(memory, size, count, file);
    return move_things(&mover, memory, size, count);
}

size_t fwrite_unlocked(const void *restrict memory, size_t size, size_t count, FILE *restrict file)
{
    const struct mover mover = {.move = move_fwrite_unlocked,
                                .access = WEIR_READ,
                                .is_filled = true,
                                .fd = -1,
                                .file = file};

    if (!is_far_things(memory, size, count))
        return NEXT(fwrite_unlocked)(memory, size, count, file);
    return move_things(&mover, memory, size, count);
}

/* --- What other names lead to them ------------------------------------------------------------ */

ssize_t pread64(int fd, void *memory, size_t bytes, off64_t offset) __attribute__((alias("pread")));
ssize_t pwrite64(int fd, const void *memory, size_t bytes, off64_t offset)
    __attribute__((alias("pwrite")));

/* By _FORTIFY_SOURCE, with the room that the compiler knows of. */
_Noreturn void __chk_fail(void);
ssize_t __read_chk(int fd, void *memory, size_t bytes, size_t room);
ssize_t __pread_chk(int fd, void *memory, size_t bytes, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *memory, size_t bytes, off_t offset, size_t room)
    __attribute__((alias("__pread_chk")));
ssize_t __recv_chk(int fd, void *memory, size_t bytes, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *memory, size_t bytes, size_t room, int flags,
                       struct sockaddr *from, socklen_t *from_bytes);
size_t __fread_chk(void *memory, size_t room, size_t size, size_t count, FILE *file);
size_t __fread_unlocked_chk(void *memory, size_t room, size_t size, size_t count, FILE *file);

static void check_room(size_t bytes, size_t room)
{
    if (bytes > room)
        __chk_fail();
}

ssize_t __read_chk(int fd, void *memory, size_t bytes, size_t room)
{
    check_room(bytes, room);
    return read(fd, memory, bytes);
}

ssize_t __pread_chk(int fd, void *memory, size_t bytes, off_t offset, size_t room)
{
    check_room(bytes, room);
    return pread(fd, memory, bytes, offset);
}

ssize_t __recv_chk(int fd, void *memory, size_t bytes, size_t room, int flags)
{
    check_room(bytes, room);
    return recv(fd, memory, bytes, flags);
}

ssize_t __recvfrom_chk(int fd, void *memory, size_t bytes, size_t room, int flags,
                       struct sockaddr *from, socklen_t *from_bytes)
{
    check_room(bytes, room);
    return recvfrom(fd, memory, bytes, flags, from, from_bytes);
}

size_t __fread_chk(void *memory, size_t room, size_t size, size_t count, FILE *file)
{
    size_t bytes;

    check_room(__builtin_mul_overflow(size, count, &bytes) ? SIZE_MAX : bytes, room);
    return fread(memory, size, count, file);
}

size_t __fread_unlocked_chk(void *memory, size_t room, size_t size, size_t count, FILE *file)
{
    size_t bytes;

    check_room(__builtin_mul_overflow(size, count, &bytes) ? SIZE_MAX : bytes, room);
    return fread_unlocked(memory, size, count, file);
}

/* Who calls read() from where this library does not come first meets the C library's. */
int weir_calls_are_ours(void)
{
    ssize_t (*const mine)(int, void *, size_t) = read;
    void *found = dlsym(RTLD_DEFAULT, "read");

    return memcmp(&found, &mine, sizeof(mine)) == 0 && NEXT(read) != mine;
}

#pragma GCC visibility pop
