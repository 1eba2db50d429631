/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Load: the same accesses for memory of either kind.
 *
 *   memory      pages, from a region of Weir or from plain mmap with pages of 4 KiB
 *   content     of a page: 512 words; half of them random, so that nothing compresses them well;
 *               the other half say whose page it is and which version
 *   stamp       words of a page that one thread owns: what it stored there last it finds there
 *   version     how often a thread wrote its stamps of a page; kept beside the memory
 *   touch       one load or store of a stamp of a page, and a look at other words of it
 *
 * Always: every read of a page compares what it finds with what was stored last; a difference ends
 * the run with BENCH_EXIT_WRONG.
 */

#include <stdatomic.h>

#include <weir/weir.h>

#include "bench.h"

#define BENCH_WORDS       512u
#define BENCH_THREADS_MAX 16u

struct bench_memory {
    struct weir_runtime *rt; /* NULL: the kernel's memory */
    char *base;
    uint64_t pages;
    unsigned threads;
    uint8_t *version; /* of each thread's stamps of each page */
};

/*
 * Open what the run's arguments name:
 *     memory=weir|kernel  pages=  threads=  and for weir: budget=  spec=  elision=  keep=
 * readahead= around=
 */
void bench_memory_open(struct bench_memory *memory);
/* Weir only: a runtime without any region, by the same arguments. */
struct weir_runtime *bench_runtime_open(void);
/* Pages that are there already, at this address. */
void bench_memory_adopt(struct bench_memory *memory, void *base, uint64_t pages, unsigned threads);
void bench_memory_map(struct bench_memory *memory, uint64_t pages, unsigned threads);
/* The same pages at another place: versions are shared with the first. */
struct bench_memory bench_memory_at(const struct bench_memory *first, void *base);
void bench_memory_close(struct bench_memory *memory);

/* Processor time of the library's own threads so far, in seconds. */
double bench_runtime_seconds(void);
/* What is wanted of it for each GB that is swapped out: a fifth of a processor at 1 GB/s. */
#define BENCH_CPU_PER_GB 0.2

/* Whole pages: 512 stores, or 512 loads whose sum is compared. Generations tell passes apart. */
void bench_page_fill(struct bench_memory *memory, uint64_t page, uint64_t generation);
void bench_page_check(struct bench_memory *memory, uint64_t page, uint64_t generation);
void bench_fill_all(struct bench_memory *memory);

/* One touch of a page that was filled with generation 0, by a thread that is named by a number.
 * Returns the time of its first access. */
uint64_t bench_touch_read(struct bench_memory *memory, unsigned thread, uint64_t page);
uint64_t bench_touch_write(struct bench_memory *memory, unsigned thread, uint64_t page);
/* The same without a clock, for memory that answers in nanoseconds. */
void bench_glance(struct bench_memory *memory, uint64_t page);

_Noreturn void bench_wrong(const struct bench_memory *memory, uint64_t page, uint64_t found,
                           uint64_t expected);

/* Uniformly random touches of all pages by some threads. */
struct bench_load {
    struct bench_memory *memory;
    unsigned threads, writes_percent;
    uint64_t warm_touches; /* before anything is measured: until the state is steady */
    uint64_t warm_ns_max;
    double seconds;

    /* Filled by bench_load_run(). */
    double rate;                   /* touches a second              */
    uint64_t touches;              /* that were measured            */
    struct bench_histogram faults; /* those that took BENCH_FAULT_NS */
    struct weir_stats before, after;
    uint64_t major_before, major_after; /* the kernel's count of faults that read */
};
void bench_load_run(struct bench_load *load);

void bench_stats(const struct bench_memory *memory, struct weir_stats *stats);
