/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Trashers: programs that once brought systems to their knees, and must not.
 *
 *   trasher     one way of touching more memory than there is, by some threads at a time
 *   step        one touch of one page; it checks what it finds, so a trasher is a test, too
 *   progress    how many steps a thread has made, and its longest gap between two of them
 *   heartbeat   a thread that wants to be on time, every 10 ms, as somebody at a terminal would
 */

#include "tests/workload/workload.h"

#include "load.h"

/* name on the command line, for people, whether pages are filled first */
#define TRASHER_MAP(X)                                 \
    X(sieve, "sieve", false)                           \
    X(uniform, "uniform random write", true)           \
    X(zipf, "zipf 1.0, half writes", true)             \
    X(shifting, "shifting hot set, half writes", true) \
    X(loop, "loop 1.2x memory, half writes", true)     \
    X(scan_hot, "scan and hot set, half writes", true) \
    X(writeback, "fault on writeback", true)           \
    X(flapping, "zero and non-zero flapping", false)   \
    X(random, "random read/write", true)

enum trasher_kind {
#define TRASHER_KIND(kind, name, is_filled) TRASHER_##kind,
    TRASHER_MAP(TRASHER_KIND)
#undef TRASHER_KIND
        TRASHER_COUNT
};

struct trasher;
const char *trasher_name(enum trasher_kind kind);
bool trasher_is_filled(enum trasher_kind kind);

/*
 * The state of one thread among so many; memory_pages: how many fit. NULL: no memory. Freed by
 * the caller with free().
 */
struct trasher *trasher_open(enum trasher_kind kind, struct bench_memory *memory, unsigned thread,
                             uint64_t memory_pages);
void trasher_step(struct trasher *t);

/* --- The run "trash", and benches of it: trash.c --------------------------------------------- */

struct trash_plan {
    enum trasher_kind kind;
    uint64_t budget, pages;
    unsigned threads;
    double seconds, sample_s; /* how long is measured, how long a sample of the rate is */
};

enum { TRASH_WEIR, TRASH_KERNEL, TRASH_SIDES };

/* spec: of Weir's back end. missing: why there is no kernel's swap, or "". */
void trash_sides(struct bench_side sides[TRASH_SIDES], const struct trash_plan *plan,
                 const char *spec, const char *missing);
/* mean, heartbeat_p99_9, cov, max_gap */
void trash_print(const struct bench *bench, const struct bench_side sides[TRASH_SIDES],
                 const char *point);
