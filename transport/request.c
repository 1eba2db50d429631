/* SPDX-License-Identifier: MIT */
#include "transport/request.h"

bool wr_request_is_sound(const struct weir_io *io, uint64_t slots)
{
    uint64_t bytes = 0;

    if (!wr_request_is_inside(slots, io->slot, io->pages))
        return false;
    if (io->iov_count == 0 || io->iov_count > io->pages)
        return false;
    for (uint32_t i = 0; i < io->iov_count; i++) {
        uint64_t both = (uintptr_t)io->iov[i].iov_base | io->iov[i].iov_len;

        /* Bounded first, so that the sum cannot wrap. */
        if (both % WEIR_SLOT_BYTES || io->iov[i].iov_len > WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)
            return false;
        bytes += io->iov[i].iov_len;
    }
    return bytes == (uint64_t)io->pages * WEIR_SLOT_BYTES;
}
