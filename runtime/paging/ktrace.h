/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * ktrace: the thread that writes the trace of a run (include/weir/weir_trace.h has the format).
 *
 * Always: nobody waits for it. It looks into the ring a hundred times a second, so that no fault
 * has to wake it; what does not find room there meanwhile is counted, and told in the file.
 */

#include "runtime/memory/space.h"
#include "runtime/memory/trace.h"

struct wr_ktrace;

/*
 * Begin a trace in this file and start the thread; faults put their records from here on. An event
 * says why not: WEIR_EBUSY, another runtime writes the file; WEIR_EDENIED, WEIR_EINVAL, it cannot
 * be made; WEIR_ENOMEM.
 */
int wr_ktrace_open(struct wr_space *space, const char *path, struct wr_ktrace **ktrace_p);
/* Write what is left and the end. Nobody faults any more. */
void wr_ktrace_close(struct wr_ktrace *ktrace);

struct wr_ktrace_told {
    const char *path;
    uint64_t records, lost;
    bool is_failed; /* the file could not be written on */
};

/* Any thread. Signal. */
struct wr_ktrace_told wr_ktrace_told(const struct wr_ktrace *ktrace);
uint64_t wr_ktrace_metadata(const struct wr_ktrace *ktrace);
