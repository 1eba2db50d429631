/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Workload: a sequence of page numbers, made by arithmetic alone.
 *
 *   kind       which of the eight that the policy was designed with
 *   memory     how many pages fit at a time; loops and hot sets are sized by it
 *   seed       the story: which page has which rank, what is drawn
 *   stream     who tells it: streams of one seed agree on which pages are hot, and draw for
 * themselves
 *
 * The same pages, memory, seed and stream give the same sequence, wherever it is replayed: on the
 * runtime, on the kernel's swap, in a simulator of the policy. No memory is needed, no clock, no
 * file; a workload is a value, and belongs to one thread.
 *
 * Where it matters which page a rank is, ranks are spread over all addresses, so that what is hot
 * does not lie together; except in clustered, where 256 KiB are hot or cold as a whole.
 */

#include <stdbool.h>
#include <stdint.h>

/* What workload_name() says, the kind, what it does. Every share is one of accesses. */
#define WORKLOAD_MAP(X)                                                                          \
    X(zipf_08, "zipf 0.8", "the page of rank k is touched 1 / k^0.8 as often as the first")      \
    X(zipf_10, "zipf 1.0", "the same with 1 / k")                                                \
    X(zipf_12, "zipf 1.2", "the same with 1 / k^1.2")                                            \
    X(scans, "zipf 1.0 + scans", "zipf 1.0, and walks in order that go on where the last ended") \
    X(loop, "loop 1.2x memory", "one page after the other, of 1.2 times the memory")             \
    X(shifting, "shifting hot set", "nine of ten touches in 60 % of the memory, which moves")    \
    X(uniform, "uniform", "every page alike")                                                    \
    X(clustered, "clustered hot", "zipf 1.0 of clusters of 64 pages, uniform within them")

enum workload_kind {
#define WORKLOAD_KIND(kind, name, help) WORKLOAD_##kind,
    WORKLOAD_MAP(WORKLOAD_KIND)
#undef WORKLOAD_KIND
        WORKLOAD_COUNT
};

#define WORKLOAD_CLUSTER_PAGES 64u

/* Scans: a walk is a quarter of the memory long; 24 % of all touches belong to one. */
#define WORKLOAD_WALK(memory)       ((memory) / 4)
#define WORKLOAD_WALK_EVERY(memory) (25ull * (memory) / 24)
/* Shifting: how large the hot set is, and after how many touches another one follows. */
#define WORKLOAD_HOT(memory)        (3ull * (memory) / 5)
#define WORKLOAD_SHIFT(memory)      (75ull * (memory) / 2)

/*
 * As the design has it: 40 % of the pages fit. Exact LRU then misses 25.6, 11.1, 3.2, 29.8, 100,
 * 7.6, 60.2 and 16.8 % of the touches; a test replays it. (The design does not give the lengths of
 * its scans and shifts; those above were chosen so that LRU and FIFO miss as often as there.)
 */
#define WORKLOAD_PAGES    100000u
#define WORKLOAD_MEMORY   40000u
#define WORKLOAD_ACCESSES 6000000u

/* Zipf: ranks 1 to count, by rejection-inversion. */
struct workload_zipf {
    double exponent, low, high, shortcut;
    uint32_t count;
};

/* A permutation of 0 to count - 1 that needs no table. */
struct workload_shuffle {
    uint64_t key;
    uint32_t count, bits;
};

struct workload {
    enum workload_kind kind;
    uint32_t pages, memory_pages;
    uint64_t random, step;
    struct workload_zipf zipf;
    struct workload_shuffle shuffle;
};

/*
 * Begin. pages: at least 128; memory_pages: at least 8 and at most pages. False: they are not, and
 * nothing was made.
 */
bool workload_open(struct workload *w, enum workload_kind kind, uint32_t pages,
                   uint32_t memory_pages, uint64_t seed, uint32_t stream);
/* The page that is touched next: 0 to pages - 1. */
uint32_t workload_next(struct workload *w);

const char *workload_name(enum workload_kind kind);
