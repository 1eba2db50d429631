/* SPDX-License-Identifier: MIT */
#pragma once

/* Linux: what host_linux.c (time, sleep, threads), host_memory.c (page tables) and host_object.c
 * share. */

#include "runtime/host/host.h"
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
};

/* host_memory.c: the half of the table that is about page tables. */
extern const struct wr_host_ops wr_linux_memory_ops;

/* host_object.c: the part that is about objects and views. */
void wr_linux_add_objects(struct wr_host_ops *ops);
