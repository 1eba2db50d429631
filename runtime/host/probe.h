/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Probe: what this kernel, in this container, can do.
 *
 * Always: a feature is tried, never guessed from a version; and what the runtime relies upon is
 * tried with real pages (probe_semantics), because a kernel that says it has userfaultfd may be
 * patched, filtered by seccomp or simply wrong.
 */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/check.h"

struct wr_probe {
    int uffd_flags;        /* for userfaultfd(2)                                              */
    uint64_t features;     /* for UFFDIO_API: SIGBUS, write protection, and MOVE if present   */
    bool has_move;         /* UFFDIO_MOVE works as needed: Linux 6.8                          */
    bool has_vector_drop;  /* process_madvise(MADV_DONTNEED) on oneself: Linux 6.13           */
    bool tells_zero_pages; /* /proc/self/pagemap tells the zero page from a page of our own   */
    bool returns_tables;   /* a drop of 2 MiB frees the page table: Linux 6.14              */
    bool has_pagemap_scan; /* PAGEMAP_SCAN: Linux 6.7; used by the auditor                   */
    bool looks_by_copy;    /* a first touch of a page is dearer than to have the kernel copy it */
    bool has_objects;      /* touches of shared memory trap: Linux 5.14                       */
    bool protects_views;   /* and stores to what is mapped of it: Linux 6.4                   */
    char found[200];       /* what was found, for the report                                  */
};

/*
 * Try everything. WEIR_ENOSUPPORT or WEIR_EDENIED, with an event that says what forbids it and
 * what to change, when faults cannot be trapped at all.
 */
int wr_probe_kernel(struct wr_probe *probe, const struct wr_events *events);

/* The same for shared memory: has_objects and protects_views. Part of wr_probe_kernel(). */
void wr_probe_views(struct wr_probe *probe);

/* An object's memory, or -1 and errno; and a hole in it, of whole pages. */
int wr_object_memory(const char *name, uint64_t bytes);
bool wr_object_hole(int object, uint64_t offset, uint64_t bytes);

/* A descriptor with the probed features, or -1 and errno. */
int wr_probe_uffd_open(const struct wr_probe *probe);

/* Is this entry of /proc/self/pagemap that of a page of private memory that is mapped to the
 * system's zero page? Such a page is present, and alone of those not ours exclusively. */
static inline bool wr_pagemap_is_zero_page(uint64_t entry)
{
    return (entry >> 63 & 1) && !(entry >> 61 & 1) && !(entry >> 56 & 1);
}
