/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Heat source: something beside our own traps that knows which pages are used.
 *
 *   source    a way to learn of it that this machine may offer, or not: the accessed bits of the
 *             kernel (idle page tracking, DAMON), the processor's samples of loads (perf)
 *   sample    pages of ours, by their addresses, of which the caller would like to know
 *   used      an address that was touched lately; or a range, of which a part was
 *
 * Always: optional. A source is opened by trying, and says why not; what it tells is a hint, of
 * addresses that may be nobody's by now. One thread steps it, which holds no lock (aging.h).
 *
 * Each is told where the kernel's files are, so that tests can give it others.
 */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/text.h"
#include "runtime/host/host.h"

#define WR_HEAT_SAMPLE 512u /* addresses a step, at most */

struct wr_heat_source;

struct wr_heat_ask {
    const uint64_t *sample;
    uint32_t sample_count;
    void (*used)(void *context, uint64_t addr, uint32_t pages);
    void *context;
};

struct wr_heat_source_ops {
    const char *name; /* the word of the setting */

    /* root: what /sys and /proc are below; "" but in tests. WEIR_ENOSUPPORT: why says so, in words
     * that name what to change; and nothing is left behind. */
    int (*open)(const char *root, struct wr_heat_source **source_p, struct wr_text *why);
    /* Tell of what was used since the step before, and begin to watch the sample. Bounded work. */
    void (*step)(struct wr_heat_source *source, const struct wr_heat_ask *ask);
    void (*close)(struct wr_heat_source *source);
};

struct wr_heat_source {
    const struct wr_heat_source_ops *ops;
};

/* /sys/kernel/mm/page_idle: accessed bits, page by page. Root, and CONFIG_IDLE_PAGE_TRACKING. */
extern const struct wr_heat_source_ops wr_heat_idle;
/* /sys/kernel/mm/damon: accessed bits, by regions that the kernel finds. Root, Linux 6.2, and
 * CONFIG_DAMON_VADDR and CONFIG_DAMON_SYSFS. */
extern const struct wr_heat_source_ops wr_heat_damon;
/* perf_event_open(2): every so many loads their address. A processor that samples them. */
extern const struct wr_heat_source_ops wr_heat_perf;

/* A path below the root, in a buffer of WR_HEAT_PATH bytes. */
#define WR_HEAT_PATH 320u
const char *wr_heat_path(char *buffer, const char *root, const char *path);
/* "CANNOT (Permission denied)": why, from errno. */
int wr_heat_refuse(struct wr_text *why, const char *what);
