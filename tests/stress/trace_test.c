/* SPDX-License-Identifier: MIT */

/* A trace of a known sequence of touches, on the real kernel. */

#include <stdlib.h>
#include <unistd.h>

#include "tests/policy/trace_file.h"
#include "tests/stress/real.h"

#define BUDGET (4 * MIB)
#define PAGES  ((size_t)4096) /* 16 MiB: four times the budget */

static char path[64];

static struct weir_runtime *open_traced(void)
{
    struct weir_options options;
    int file;

    strcpy(path, "/tmp/weir-trace-XXXXXX");
    file = mkstemp(path);
    cr_assert_geq(file, 0);
    close(file);
    real_options(&options, BUDGET, "mem:?size=64M");
    options.trace = path;
    options.readahead_bytes = 0;
    options.fault_around_bytes = 0;
    return real_open_with(&options);
}

static struct trace_file read_trace(void)
{
    char why[TRACE_WHY_ROOM];
    struct trace_file trace;

    cr_assert(trace_file_read(path, &trace, why), "%s", why);
    unlink(path);
    return trace;
}

/* Every page is away, or cached, when its turn comes: each touch is a fault. */
Test(trace, every_touch_of_a_page_that_is_away_is_a_record)
{
    struct weir_runtime *rt = open_traced();
    struct weir_region_options named = {.size = sizeof(named), .name = "walked"};
    volatile uint64_t *memory;
    struct trace_file trace;
    char report[8192];
    void *address;

    cr_assert_eq(weir_map(rt, PAGES * PAGE, &named, &address), WEIR_OK);
    memory = address;
    for (size_t round = 0; round < 2; round++)
        for (size_t i = 0; i < PAGES; i++)
            memory[i * PAGE / 8] = i + 1;
    weir_report(rt, report, sizeof(report));
    cr_expect_not_null(strstr(report, path), "%s", report);
    cr_assert_eq(weir_close(rt), WEIR_OK);

    trace = read_trace();
    cr_expect(trace.is_closed);
    cr_expect_eq(trace.lost, 0u);
    cr_expect_eq(trace.region_count, 1u);
    cr_expect_str_eq(trace.regions[0].name, "walked");
    cr_expect_eq(trace.regions[0].pages, PAGES);
    cr_expect_eq(trace.pages, PAGES);
    /* The first round is there whole; of the second what had not stayed by luck. */
    cr_assert_geq(trace.touch_count, PAGES + PAGES / 2);
    for (size_t i = 0; i < PAGES; i++)
        cr_assert_eq(trace.touches[i], i);
    for (uint64_t i = PAGES + 1; i < trace.touch_count; i++)
        cr_assert_gt(trace.touches[i], trace.touches[i - 1], "the second round goes upward, too");
    cr_expect_geq(trace.evicted, PAGES, "%llu", (unsigned long long)trace.evicted);
    trace_file_free(&trace);
}

Test(trace, loads_of_zeros_and_first_stores_are_told_apart)
{
    struct weir_runtime *rt = open_traced();
    volatile unsigned char *memory = real_map(rt, 100 * PAGE);
    struct trace_file trace;

    for (size_t i = 0; i < 20; i++)
        cr_assert_eq(memory[i * PAGE], 0);
    for (size_t i = 10; i < 30; i++)
        memory[i * PAGE] = 1;
    cr_assert_eq(weir_close(rt), WEIR_OK);
    trace = read_trace();
    cr_expect_eq(trace.records, 40u);
    cr_assert_eq(trace.touch_count, 20u, "a page of zeros has no memory");
    for (uint64_t i = 0; i < 20; i++)
        cr_expect_eq(trace.touches[i], 10 + i);
    trace_file_free(&trace);
}

Test(trace, two_runtimes_cannot_write_one_file)
{
    struct weir_runtime *rt = open_traced(), *second;
    struct weir_options options;

    real_options(&options, BUDGET, "mem:?size=64M");
    options.trace = path;
    cr_expect_eq(weir_open(&options, &second), WEIR_EBUSY);
    cr_expect_not_null(strstr(real_events.text[WEIR_FAILURE], "another runtime"));
    options.trace = "/nowhere/at/all";
    cr_expect_eq(weir_open(&options, &second), WEIR_EINVAL);
    weir_close(rt);
    unlink(path);
}

Test(trace, none_is_written_unasked)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    char report[8192];

    weir_report(rt, report, sizeof(report));
    cr_expect_null(strstr(report, "trace:"));
    weir_close(rt);
}
