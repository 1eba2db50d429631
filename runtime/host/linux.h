/* SPDX-License-Identifier: MIT */
#pragma once

/* Linux: what host_linux.c (time, sleep, threads), host_memory.c (page tables) and host_object.c
 * share. */

#include "runtime/host/peer.h"
#include "runtime/host/probe.h"

/* How dirty pages are taken. */
enum wr_engine {
    WR_ENGINE_MOVE, /* UFFDIO_MOVE: atomic, refuses pages that a device holds                     */
    WR_ENGINE_WP, /* write-protect, copy, drop: the page's lock holds off writers meanwhile      */
#ifdef WR_TESTING
    WR_ENGINE_NAIVE /* copy, drop: loses stores; shows that the stress test would find that */
#endif
};

/* Pages that are in two places at once while they are copied: by the wp engine, and those of
 * objects. */
#define WR_TRANSIENT 32

struct wr_linux_host {
    struct wr_host host; /* first */
    struct wr_probe probe;
    enum wr_engine engine;
    int uffd;
    int pidfd;      /* of this process, for process_madvise() */
    int pagemap_fd; /* -1 when it tells nothing that we need  */
    uint64_t frames_bytes;
    _Atomic(int) peers[WR_PEERS_MAX]; /* their descriptors, plus 1; 0: none */
};

/* The descriptor by which page tables are changed at this address, which becomes its owner's. Who
 * has an address that is away keeps its peer open. */
static inline int wr_linux_trap(struct wr_linux_host *linux, uint64_t *addr)
{
    uint64_t given = *addr;

    if (!wr_is_away(given))
        return linux->uffd;
    *addr = wr_peer_home(given);
    return atomic_load_explicit(&linux->peers[given >> WR_PEER_SHIFT & (WR_PEERS_MAX - 1)],
                                memory_order_relaxed) -
           1;
}

/* host_memory.c: the half of the table that is about page tables. */
extern const struct wr_host_ops wr_linux_memory_ops;

/* Map a part of an object where nobody is, without access. 0, or errno. host_object.c */
int wr_object_map_quiet(int object, uint64_t offset, uint64_t bytes, void **area_p);

/* host_object.c: the part that is about objects and views. */
void wr_linux_add_objects(struct wr_host_ops *ops);
