/* SPDX-License-Identifier: MIT */

/* Calls on several buffers at once, and on messages: all is held, or the call fails; where it may
 * return less than was asked for, the first buffer that is not empty is moved alone then. */

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <weir/weir_calls.h>

#include "runtime/calls/held.h"
#include "runtime/calls/next.h"

#pragma GCC visibility push(default)

#define VECTOR(access, call, alone)                     \
    do {                                                \
        ssize_t moved_;                                 \
        if (count <= 0 || count > IOV_MAX)              \
            return call;                                \
        if (!wr_hold_all(iov, (size_t)count, access)) { \
            if (errno != ENOMEM)                        \
                return -1;                              \
            while (count > 1 && iov->iov_len == 0) {    \
                iov++;                                  \
                count--;                                \
            }                                           \
            return alone;                               \
        }                                               \
        moved_ = call;                                  \
        wr_let_all_go(iov, (size_t)count);              \
        return moved_;                                  \
    } while (0)

ssize_t readv(int fd, const struct iovec *iov, int count)
{
    VECTOR(WEIR_WRITE, NEXT(readv)(fd, iov, count), read(fd, iov->iov_base, iov->iov_len));
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    VECTOR(WEIR_READ, NEXT(writev)(fd, iov, count), write(fd, iov->iov_base, iov->iov_len));
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    VECTOR(WEIR_WRITE, NEXT(preadv)(fd, iov, count, offset),
           pread(fd, iov->iov_base, iov->iov_len, offset));
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    VECTOR(WEIR_READ, NEXT(pwritev)(fd, iov, count, offset),
           pwrite(fd, iov->iov_base, iov->iov_len, offset));
}

/* One whose flags nobody else can be asked for: all, or ENOMEM. */
ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    VECTOR(WEIR_WRITE, NEXT(preadv2)(fd, iov, count, offset, flags), -1);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    VECTOR(WEIR_READ, NEXT(pwritev2)(fd, iov, count, offset, flags), -1);
}

ssize_t preadv64(int fd, const struct iovec *iov, int count, off64_t offset)
    __attribute__((alias("preadv")));
ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
    __attribute__((alias("pwritev")));
ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
    __attribute__((alias("preadv2")));
ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
    __attribute__((alias("pwritev2")));

/* --- Messages -------------------------------------------------------------------------------- */

/* What a message names, beside itself; its lengths are the caller's, for the kernel changes them.
 */
static bool hold_message(const struct msghdr *message, enum weir_access access)
{
    if (!wr_hold(message->msg_name, message->msg_namelen, access))
        return false;
    if (wr_hold(message->msg_control, message->msg_controllen, access)) {
        if (wr_hold_all(message->msg_iov, message->msg_iovlen, access))
            return true;
        wr_let_go(message->msg_control, message->msg_controllen);
    }
    wr_let_go(message->msg_name, message->msg_namelen);
    return false;
}

static void let_message_go(const struct msghdr *was)
{
    wr_let_all_go(was->msg_iov, was->msg_iovlen);
    wr_let_go(was->msg_control, was->msg_controllen);
    wr_let_go(was->msg_name, was->msg_namelen);
}

/* The header itself is copied: it is small, and may be far. */
ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    const struct msghdr was = *message;
    struct msghdr near = was;
    ssize_t moved;

    if (!hold_message(&was, WEIR_WRITE))
        return -1;
    moved = NEXT(recvmsg)(fd, &near, flags);
    let_message_go(&was);
    *message = near;
    return moved;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    const struct msghdr was = *message;
    ssize_t moved;

    if (!hold_message(&was, WEIR_READ))
        return -1;
    moved = NEXT(sendmsg)(fd, &was, flags);
    let_message_go(&was);
    return moved;
}

static bool is_far_list(const struct mmsghdr *list, unsigned count)
{
    bool is_far = wr_is_far(list, count * sizeof(*list));

    for (unsigned i = 0; i < count && !is_far; i++) {
        const struct msghdr *m = &list[i].msg_hdr;

        is_far = wr_is_far(m->msg_name, m->msg_namelen) ||
                 wr_is_far(m->msg_control, m->msg_controllen) ||
                 wr_is_far(m->msg_iov, m->msg_iovlen * sizeof(*m->msg_iov));
        for (size_t j = 0; j < m->msg_iovlen && !is_far; j++)
            is_far = wr_is_far(m->msg_iov[j].iov_base, m->msg_iov[j].iov_len);
    }
    return is_far;
}

/* One after the other, if any of it is far. The time is looked at between messages, as the kernel
 * does; here what is there when it is given is all that is waited for after the first. */
int recvmmsg(int fd, struct mmsghdr *list, unsigned count, int flags, struct timespec *timeout)
{
    int done = 0;

    if (!is_far_list(list, count))
        return NEXT(recvmmsg)(fd, list, count, flags, timeout);
    for (unsigned i = 0; i < count; i++) {
        const bool may_wait = i == 0 || !(timeout || (flags & MSG_WAITFORONE));
        const ssize_t got = recvmsg(fd, &list[i].msg_hdr,
                                    (flags & ~MSG_WAITFORONE) | (may_wait ? 0 : MSG_DONTWAIT));

        if (got < 0)
            return done ? done : -1;
        list[i].msg_len = (unsigned)got;
        done++;
    }
    return done;
}

int sendmmsg(int fd, struct mmsghdr *list, unsigned count, int flags)
{
    int done = 0;

    if (!is_far_list(list, count))
        return NEXT(sendmmsg)(fd, list, count, flags);
    for (unsigned i = 0; i < count; i++) {
        const ssize_t sent = sendmsg(fd, &list[i].msg_hdr, flags);

        if (sent < 0)
            return done ? done : -1;
        list[i].msg_len = (unsigned)sent;
        done++;
    }
    return done;
}

#pragma GCC visibility pop
