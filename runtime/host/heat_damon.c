/* SPDX-License-Identifier: MIT */

/*
 * DAMON: a kernel thread that samples accessed bits and finds regions of one temperature by itself
 * (Documentation/admin-guide/mm/damon/usage.rst). We have it watch the addresses of this process,
 * with a scheme that only counts (action "stat"), and read the regions that it tried.
 *
 * There is one of it for the machine, set up by files: we touch nothing if somebody else has.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/host/file.h"
#include "runtime/host/heat_source.h"

#define ADMIN        "/sys/kernel/mm/damon/admin/kdamonds"
#define REGIONS_MOST 1000u
#define SAMPLE_US    5000u
#define AGGREGATE_US 100000u
#define UPDATE_US    1000000u
/* Of an aggregation's samples, how many must have found it used: one. The kernel clears accessed
 * bits without flushing TLBs, so that what is used all the time is seen seldom. */
#define WARM_LEAST   1u

struct damon {
    struct wr_heat_source source; /* first */
    bool is_ours;                 /* the kernel thread's files exist because of us */
    char root[WR_HEAT_PATH / 2];
};

/* A path below the one thread's directory. */
static const char *at(const struct damon *damon, char *buffer, const char *path)
{
    struct wr_text text;

    wr_text_init(&text, buffer, WR_HEAT_PATH);
    wr_text_add(&text, damon->root);
    wr_text_add(&text, ADMIN "/");
    wr_text_add(&text, path);
    return buffer;
}

static bool tell(const struct damon *damon, const char *path, const char *text)
{
    char whole[WR_HEAT_PATH];

    return wr_file_tell(at(damon, whole, path), text);
}

static bool tell_number(const struct damon *damon, const char *path, uint64_t number)
{
    char whole[WR_HEAT_PATH];

    return wr_file_tell_number(at(damon, whole, path), number);
}

/* What we want of it. NULL, or the step that failed. */
static const char *set_up(const struct damon *damon)
{
#define CONTEXT "0/contexts/0/"
#define SCHEME  CONTEXT "schemes/0/"
    static const struct {
        const char *path;
        uint64_t number;
    } numbers[] = {
        {CONTEXT "monitoring_attrs/intervals/sample_us", SAMPLE_US},
        {CONTEXT "monitoring_attrs/intervals/aggr_us", AGGREGATE_US},
        {CONTEXT "monitoring_attrs/intervals/update_us", UPDATE_US},
        {CONTEXT "monitoring_attrs/nr_regions/max", REGIONS_MOST},
        {CONTEXT "schemes/nr_schemes", 1},
        {SCHEME "access_pattern/sz/max", UINT64_MAX},
        {SCHEME "access_pattern/nr_accesses/min", WARM_LEAST},
        {SCHEME "access_pattern/nr_accesses/max", UINT32_MAX},
        {SCHEME "access_pattern/age/max", UINT32_MAX},
    };

    if (!tell(damon, "0/contexts/nr_contexts", "1"))
        return "damon: it takes no context";
    if (!tell(damon, CONTEXT "operations", "vaddr"))
        return "damon: needs CONFIG_DAMON_VADDR";
    if (!tell(damon, CONTEXT "targets/nr_targets", "1") ||
        !tell_number(damon, CONTEXT "targets/0/pid_target", (uint64_t)getpid()))
        return "damon: it takes no process as its target";
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (!tell_number(damon, numbers[i].path, numbers[i].number))
            return "damon: its files are not as expected";
    if (!tell(damon, SCHEME "action", "stat"))
        return "damon: it has no scheme that only counts";
    if (!tell(damon, "0/state", "on"))
        return "damon: it cannot be started";
    if (!tell(damon, "0/state", "update_schemes_tried_regions"))
        return "damon: it does not tell its regions; needs Linux 6.2";
    return NULL;
}

static void damon_close(struct wr_heat_source *source)
{
    struct damon *damon = (struct damon *)(void *)source;
    char path[WR_HEAT_PATH];

    if (damon->is_ours) {
        (void)tell(damon, "0/state", "off");
        (void)wr_file_tell(wr_heat_path(path, damon->root, ADMIN "/nr_kdamonds"), "0");
    }
    free(damon);
}

static int try_damon(struct damon *damon, struct wr_text *why)
{
    char path[WR_HEAT_PATH];
    const char *failed;
    uint64_t others;

    (void)wr_heat_path(path, damon->root, ADMIN "/nr_kdamonds");
    if (!wr_file_read_number(path, &others))
        return wr_heat_refuse(why, "damon: needs CONFIG_DAMON_SYSFS and root");
    if (others > 0) {
        errno = 0;
        return wr_heat_refuse(why, "damon: somebody else uses it");
    }
    if (!wr_file_tell(path, "1"))
        return wr_heat_refuse(why, "damon: needs root");
    damon->is_ours = true;
    failed = set_up(damon);
    return failed ? wr_heat_refuse(why, failed) : WEIR_OK;
}

static int damon_open(const char *root, struct wr_heat_source **source_p, struct wr_text *why)
{
    struct damon *damon = calloc(1, sizeof(*damon));
    int error;

    if (!damon)
        return WEIR_ENOMEM;
    damon->source.ops = &wr_heat_damon;
    snprintf(damon->root, sizeof(damon->root), "%s", root);
    error = try_damon(damon, why);
    if (error != WEIR_OK) {
        damon_close(&damon->source);
        return error;
    }
    *source_p = &damon->source;
    return WEIR_OK;
}

static bool read_number(const struct damon *damon, uint32_t region, const char *what,
                        uint64_t *number_p)
{
    char path[WR_HEAT_PATH / 2], whole[WR_HEAT_PATH];

    snprintf(path, sizeof(path), SCHEME "tried_regions/%u/%s", region, what);
    return wr_file_read_number(at(damon, whole, path), number_p);
}

static void damon_step(struct wr_heat_source *source, const struct wr_heat_ask *ask)
{
    struct damon *damon = (struct damon *)(void *)source;
    uint64_t start, end;

    /* What the scheme's pattern lets through is warm; the others are not shown. */
    for (uint32_t i = 0; i < REGIONS_MOST; i++) {
        if (!read_number(damon, i, "start", &start) || !read_number(damon, i, "end", &end))
            break;
        if (end > start)
            ask->used(ask->context, start,
                      (end - start) / WEIR_PAGE_BYTES < UINT32_MAX
                          ? (uint32_t)((end - start) / WEIR_PAGE_BYTES)
                          : UINT32_MAX);
    }
    /* For the next step: it waits for the kernel's thread, for as long as an aggregation. */
    (void)tell(damon, "0/state", "update_schemes_tried_regions");
}

const struct wr_heat_source_ops wr_heat_damon = {"damon", damon_open, damon_step, damon_close};
