/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Request: is it one that a back end with so many slots can serve?
 *
 * The runtime never makes an unsound one. Authors who drive a back end by hand do, and a store
 * through a wrong slot number would hit foreign memory or a foreign part of a disk.
 */

#include <stdbool.h>

#include <weir/weir_backend.h>

static inline bool wr_request_is_inside(uint64_t slots, uint64_t slot, uint32_t pages)
{
    return pages > 0 && pages <= WEIR_CLUSTER_SLOTS && slot < slots && pages <= slots - slot;
}

/* The run lies inside, and the vector moves exactly its bytes. */
bool wr_request_is_sound(const struct weir_io *io, uint64_t slots);
