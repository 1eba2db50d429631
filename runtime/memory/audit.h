/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Audit: do the page tables and the descriptors tell the same story?
 *
 * A page that its descriptor calls resident must be mapped, one that it calls clean must be
 * write-protected, every other must not be mapped at all. Read from the kernel by PAGEMAP_SCAN
 * while the pages are locked, so that it may run at any time, beside everything else.
 */

#include "runtime/memory/space.h"

struct wr_audit {
    uint64_t pages;       /* looked at                                           */
    uint64_t differences; /* pages of which kernel and descriptor disagree       */
    uint32_t page;        /* the first of those, counted from the region's first */
    enum wr_page_state state;
    uint8_t facts; /* enum wr_fact                                        */
};

/* Inside the gate, signals blocked. WEIR_ENOSUPPORT: this kernel has no PAGEMAP_SCAN. */
int wr_audit_region(struct wr_region *region, struct wr_audit *audit_p);
