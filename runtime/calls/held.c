/* SPDX-License-Identifier: MIT */
#include "runtime/calls/held.h"

#include <errno.h>

static void *plain(const void *memory)
{
    return (void *)(uintptr_t)memory;
}

bool wr_is_far(const void *memory, size_t bytes)
{
    return bytes > 0 && weir_region_rest(plain(memory)) >= bytes;
}

static int errno_of(int error)
{
    switch (error) {
    case WEIR_ENOMEM: return ENOMEM;
    case WEIR_EBUSY: return EAGAIN;
    case WEIR_EFULL: return ENOSPC;
    case WEIR_EIO: return EIO;
    default: return EFAULT;
    }
}

bool wr_hold(const void *memory, size_t bytes, enum weir_access access)
{
    const int kept_errno = errno;
    int error;

    if (!wr_is_far(memory, bytes))
        return true;
    error = weir_pin(plain(memory), bytes, access);
    errno = error == WEIR_OK ? kept_errno : errno_of(error);
    return error == WEIR_OK;
}

void wr_let_go(const void *memory, size_t bytes)
{
    const int kept_errno = errno;

    if (wr_is_far(memory, bytes))
        (void)weir_unpin(plain(memory), bytes);
    errno = kept_errno;
}

size_t wr_hold_part(const void *memory, size_t bytes, enum weir_access access)
{
    if (!wr_is_far(memory, bytes))
        return bytes;
    if (bytes > WR_PART_BYTES)
        bytes = WR_PART_BYTES;
    while (!wr_hold(memory, bytes, access)) {
        if (errno != ENOMEM || bytes <= WEIR_PAGE_BYTES)
            return 0;
        /* Whole pages, for who asked past the page cache. */
        bytes = bytes / 2 / WEIR_PAGE_BYTES * WEIR_PAGE_BYTES;
        if (bytes == 0)
            bytes = WEIR_PAGE_BYTES;
    }
    return bytes;
}

bool wr_hold_all(const struct iovec *iov, size_t count, enum weir_access access)
{
    size_t held = 0;

    if (!wr_hold(iov, count * sizeof(*iov), WEIR_READ))
        return false;
    while (held < count && wr_hold(iov[held].iov_base, iov[held].iov_len, access))
        held++;
    if (held == count)
        return true;
    while (held-- > 0)
        wr_let_go(iov[held].iov_base, iov[held].iov_len);
    wr_let_go(iov, count * sizeof(*iov));
    return false;
}

void wr_let_all_go(const struct iovec *iov, size_t count)
{
    for (size_t i = 0; i < count; i++)
        wr_let_go(iov[i].iov_base, iov[i].iov_len);
    wr_let_go(iov, count * sizeof(*iov));
}
