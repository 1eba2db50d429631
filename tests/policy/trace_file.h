/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Trace file: read what include/weir/weir_trace.h describes, and believe none of it unseen.
 *
 *   touch     a fault as the policy is to see it: of a page that had, or is given, memory
 *   page      renumbered: chunks of 512 in the order in which they first show, so that a trace of
 *             terabytes needs tables for what it touches only; neighbours stay neighbours
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <weir/weir_trace.h>

#define TRACE_WHY_ROOM 200

struct trace_named {
    uint16_t number;
    uint32_t serial;
    uint32_t pages;
    char name[33];
};

struct trace_file {
    uint32_t *touches; /* pages, in the order of the file */
    uint64_t touch_count;
    uint32_t pages;            /* all of them are below this: a multiple of 512 */
    uint64_t records, evicted; /* faults of all kinds and evictions; of those, evictions */
    uint64_t lost;
    uint64_t budget_pages;
    struct trace_named *regions;
    uint32_t region_count;
    bool is_closed; /* false: the run ended without weir_close() */
};

/* Read it whole. False: why says what is wrong with it and at which byte, and nothing was made. */
bool trace_file_read(const char *path, struct trace_file *trace_p, char why[TRACE_WHY_ROOM]);
/* The same of bytes in memory. */
bool trace_bytes_read(const uint8_t *bytes, size_t count, struct trace_file *trace_p,
                      char why[TRACE_WHY_ROOM]);
void trace_file_free(struct trace_file *trace);
