/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Watch: a back end that hands everything on to another and counts what is asked of it, so that a
 * bench need not believe the library's own counters. "watch(file:/var/tmp?size=1G)".
 */

#include <stdint.h>

struct bench_watch {
    uint64_t writes;
    uint64_t bytes_written;
    uint64_t bytes_written_whole; /* by writes of a whole, aligned cluster of 2 MiB */
    uint64_t bytes_read;
};

void bench_watch_register(void);
/* Called once, by whoever writes, when the first write is handed on. Before a runtime is opened. */
void bench_watch_first_write(void (*called)(void *context), void *context);
/* Of all watching back ends of the process together. */
void bench_watch_get(struct bench_watch *watch_p);
