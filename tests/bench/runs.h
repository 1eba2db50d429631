/* SPDX-License-Identifier: MIT */
#pragma once

/* Runs: what a child process can be asked to do, and the benches that ask. */

#include "tests/workload/workload.h"

#include "load.h"

#define RAW_PIECE (2 * BENCH_MIB)

/* name, written with - for _, and one line for those who ask for the list */
#define BENCH_MAP(X)                                                                          \
    X(swapin, "a random miss of one page, beside a raw read of one page from the same file")  \
    X(thrash, "random touches over 4x the budget on a file, beside the kernel's swap file")   \
    X(software, "random touches over 4x the budget on mem, beside the kernel's swap on zram") \
    X(scan, "one end to the other of 4x the budget, beside the kernel's swap file")           \
    X(wbfault, "a fault on a page that is being written, for 0 to 1000 ms")                   \
    X(zero, "bytes written for pages of zeros")                                               \
    X(align, "how much is written in whole aligned clusters, and how fast")                   \
    X(drain, "taking a back end out of use, beside reading it from end to end")               \
    X(cycle, "bytes written for pages that are only read")                                    \
    X(hit, "a working set within the budget, beside plain memory")                            \
    X(meta, "bytes of bookkeeping a page")                                                    \
    X(budget, "the most memory that was ever used, beside the budget")                        \
    X(policy, "how often each of eight workloads misses, beside the kernel's policy")         \
    X(trash, "eight trashers and a heartbeat, beside the kernel's swap file")                 \
    X(lowend, "budgets of 32 MiB, 256 MiB and 8 GiB, beside the kernel's swap file")          \
    X(copystream, "a stream of clean pages beside a hot set, as a copy beside a database")    \
    X(failures, "a back end that fails, fills up, is slow, hangs and reorders")               \
    X(bigiron, "an object of twice the budget, in 200 views, beside the kernel's swap file")  \
    X(rastride, "reading in five orders, with readahead and without")                         \
    X(remote, "a random miss at a weir-memd over TCP, beside a bare request and reply")       \
    X(remote_thrash, "random touches at a weir-memd, beside the kernel's swap and a file")    \
    X(remote_scan, "4x the budget read from a weir-memd, beside a bare stream")               \
    X(seal, "pages that are encrypted before they leave, beside pages that are not")          \
    X(rdma, "pages at a weir-memd over RDMA, beside bare reads; with a device at $WEIR_RDMA") \
    X(rebuild, "a mirror of two memory servers, one of which is lost and comes back empty")   \
    X(heap, "blocks of the heap, within the budget and over it, beside mimalloc")

/* Each prints its lines. False: it could not be finished, and why has been said. */
#define BENCH_DECLARE(name, help) bool bench_drive_##name(struct bench *bench);
BENCH_MAP(BENCH_DECLARE)
#undef BENCH_DECLARE

#define BENCH_RUN_MAP(X) \
    X(raw)               \
    X(raw_scan)          \
    X(swapin)            \
    X(load)              \
    X(scan)              \
    X(wbfault)           \
    X(zero)              \
    X(align)             \
    X(drain)             \
    X(swapoff)           \
    X(cycle)             \
    X(bigiron)           \
    X(hit)               \
    X(meta)              \
    X(budget)            \
    X(policy)            \
    X(trash)             \
    X(rastride)          \
    X(copystream)        \
    X(failures)          \
    X(remote)            \
    X(bare_scan)         \
    X(seal)              \
    X(rdma)              \
    X(rebuild)           \
    X(heap)              \
    X(heap_over)

#define BENCH_DECLARE(name) void bench_run_##name(void);
BENCH_RUN_MAP(BENCH_DECLARE)
#undef BENCH_DECLARE

int bench_raw_open(const char *path, int flags);

/*
 * Sides that several benches have. missing: what was found out before, or "". The kernel's runs in
 * a cgroup of the budget and the allowance; a raw one has a file of its own.
 */
void bench_kernel_side(struct bench_side *side, const char *name, const char *run,
                       const char *missing, uint64_t budget, uint64_t pages);
void bench_raw_side(struct bench_side *side, const char *name, const char *run, const char *missing,
                    const char *file, uint64_t bytes);
/* A weir-memd that lends so many bytes, in a process of its own, and the specification that leads
 * there. */
struct server;
void bench_server_start(const struct bench *bench, uint64_t bytes, struct server *server_p,
                        char spec[400]);
/* Append to the arguments of a side. */
void bench_side_more(struct bench_side *side, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Room enough at a file back end that slots are kept (see slot_keep_percent). */
void bench_file_spec(const struct bench *bench, uint64_t pages, char spec[300]);
