/* SPDX-License-Identifier: MIT */

/* Traces that are good, and traces that are not. */

#include "tests/policy/trace_file.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(8) uint8_t bytes[4096];
static size_t used;
static char why[TRACE_WHY_ROOM];
static struct trace_file trace;

static void add(const void *what, size_t count)
{
    cr_assert_leq(used + count, sizeof(bytes));
    memcpy(bytes + used, what, count);
    used += count;
}

static void add_record(uint8_t kind, uint32_t page)
{
    const struct weir_trace_record record = {.page = page, .region = 1, .kind = kind};

    add(&record, sizeof(record));
}

static void add_region(uint32_t first, uint32_t pages, const char *name)
{
    struct weir_trace_region region = {.pages = pages, .serial = 9};

    memcpy(region.name, name, strnlen(name, sizeof(region.name)));
    add_record(WEIR_TRACE_REGION, first);
    add(&region, sizeof(region));
}

static struct weir_trace_head *head(void)
{
    return (struct weir_trace_head *)(void *)bytes;
}

static void begin(void)
{
    const struct weir_trace_head fresh = {
        .magic = WEIR_TRACE_MAGIC,
        .byte_order = WEIR_TRACE_BYTE_ORDER,
        .version = WEIR_TRACE_VERSION,
        .head_bytes = sizeof(fresh),
        .record_bytes = sizeof(struct weir_trace_record),
        .page_bytes = 4096,
        .region_bytes = sizeof(struct weir_trace_region),
        .budget_pages = 2000,
    };

    used = 0;
    add(&fresh, sizeof(fresh));
}

static void end(uint64_t records, uint64_t lost)
{
    const struct weir_trace_end last = {records, lost};

    add_record(WEIR_TRACE_END, 0);
    add(&last, sizeof(last));
}

static void good(void)
{
    begin();
    add_region(512, 2000, "heap");
    add_record(WEIR_TRACE_ZERO, 513);
    add_record(WEIR_TRACE_FIRST | WEIR_TRACE_STORE, 512);
    add_record(WEIR_TRACE_EVICTED, 512);
    add_record(WEIR_TRACE_LOST, 4);
    add_record(WEIR_TRACE_READ, 1u << 31);
    add_record(WEIR_TRACE_WRITTEN | WEIR_TRACE_STORE, 513);
    end(5, 6);
}

static void expect_refused(const char *word)
{
    cr_expect_not(trace_bytes_read(bytes, used, &trace, why), "%s", word);
    cr_expect_not_null(strstr(why, word), "%s, and not: %s", word, why);
}

Test(trace_file, what_was_written_is_read)
{
    good();
    cr_assert(trace_bytes_read(bytes, used, &trace, why), "%s", why);
    cr_expect(trace.is_closed);
    cr_expect_eq(trace.records, 5u);
    cr_expect_eq(trace.evicted, 1u);
    cr_expect_eq(trace.lost, 6u);
    cr_expect_eq(trace.budget_pages, 2000u);
    cr_expect_eq(trace.region_count, 1u);
    cr_expect_str_eq(trace.regions[0].name, "heap");
    cr_assert_eq(trace.touch_count, 3u);
    cr_expect_eq(trace.pages, 1024u, "two chunks were touched");
    cr_expect_eq(trace.touches[0], 0u);
    cr_expect_eq(trace.touches[1], 512u);
    cr_expect_eq(trace.touches[2], 1u, "neighbours stay neighbours");
    trace_file_free(&trace);
}

Test(trace_file, one_that_was_not_closed_is_read_and_said_so)
{
    good();
    used -= sizeof(struct weir_trace_record) + sizeof(struct weir_trace_end);
    cr_assert(trace_bytes_read(bytes, used, &trace, why), "%s", why);
    cr_expect_not(trace.is_closed);
    cr_expect_eq(trace.lost, 4u);
    cr_expect_eq(trace.touch_count, 3u);
    trace_file_free(&trace);
}

Test(trace_file, what_is_wrong_is_named)
{
    good();
    bytes[0] = 'w';
    expect_refused("no trace");
    good();
    used = 20;
    expect_refused("no trace");
    good();
    head()->byte_order = __builtin_bswap32(WEIR_TRACE_BYTE_ORDER);
    expect_refused("other byte order");
    good();
    head()->version = 2;
    expect_refused("version 2");
    good();
    head()->record_bytes = 24;
    expect_refused("records are of 24");
    good();
    head()->page_bytes = 65536;
    expect_refused("65536");
    good();
    head()->head_bytes = 8;
    expect_refused("head");
    good();
    used -= 1;
    expect_refused("in the middle");
    good();
    add_record(WEIR_TRACE_READ, 1);
    expect_refused("follows its end");
    begin();
    add_record(77, 0);
    expect_refused("kind 77");
    begin();
    add_record(WEIR_TRACE_READ, 0);
    end(2, 0);
    expect_refused("2 records were written");
    begin();
    add_region(513, 1, "odd");
    expect_refused("begins at page 513");
    begin();
    add_region(UINT32_MAX - 511, 1000, "long");
    expect_refused("1000 pages");
    begin();
    add_region(0, 1, "a name of thirty-two characters..");
    expect_refused("no end");
    cr_expect_not(trace_file_read("/nowhere/at/all", &trace, why));
    cr_expect_not_null(strstr(why, "cannot be read"));
}

/* Whatever is in the file: it is read, or refused with a word, and memory stays whole. */
Test(trace_file, damaged_ones_do_no_harm)
{
    uint32_t read = 0, refused = 0;

    srand(3);
    for (int round = 0; round < 2000; round++) {
        good();
        for (int i = rand() % 4; i >= 0; i--)
            bytes[(size_t)rand() % used] = (uint8_t)rand();
        used -= rand() % 4 == 0 ? (size_t)rand() % used : 0;
        why[0] = '\0';
        if (trace_bytes_read(bytes, used, &trace, why)) {
            for (uint64_t i = 0; i < trace.touch_count; i++)
                cr_assert_lt(trace.touches[i], trace.pages);
            trace_file_free(&trace);
            read++;
        } else {
            cr_assert_neq(why[0], '\0');
            refused++;
        }
    }
    cr_expect_gt(read, 50u);
    cr_expect_gt(refused, 50u);
}
