/* SPDX-License-Identifier: MIT */

/* The ring of a trace, and the thread that writes it. */

#include "runtime/memory/trace.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/memory/heat.h"
#include "runtime/paging/ktrace.h"
#include "tests/unit/room_kit.h"

static struct wr_trace trace;

static void put(uint32_t page)
{
    wr_trace_put(&trace, 1000 + page, WEIR_TRACE_READ, 7, page);
}

/* --- The ring -------------------------------------------------------------------------------- */

Test(trace, records_come_out_as_they_went_in)
{
    struct weir_trace_record record;

    cr_assert_eq(wr_trace_init(&trace, 1000), WEIR_OK);
    cr_expect_not(wr_trace_take(&trace, &record));
    for (uint32_t round = 0; round < 3 * WR_TRACE_ROOM / 100; round++) {
        for (uint32_t i = 0; i < 100; i++)
            put(100 * round + i);
        for (uint32_t i = 0; i < 100; i++) {
            cr_assert(wr_trace_take(&trace, &record));
            cr_assert_eq(record.page, 100 * round + i);
            cr_assert_eq(record.ns, record.page, "from when it began");
            cr_assert_eq(record.region, 7);
            cr_assert_eq(record.kind, WEIR_TRACE_READ);
        }
        cr_assert_not(wr_trace_take(&trace, &record));
    }
    cr_expect_eq(trace.lost, 0u);
    wr_trace_fini(&trace);
}

Test(trace, a_full_ring_counts_what_it_loses_and_keeps_what_it_has)
{
    struct weir_trace_record record;

    cr_assert_eq(wr_trace_init(&trace, 0), WEIR_OK);
    for (uint32_t i = 0; i < WR_TRACE_ROOM + 5; i++)
        put(i);
    cr_expect_eq(trace.lost, 5u);
    cr_assert(wr_trace_take(&trace, &record));
    cr_expect_eq(record.page, 0u);
    put(12345);
    put(12346);
    cr_expect_eq(trace.lost, 6u, "room for one");
    for (uint32_t i = 1; i < WR_TRACE_ROOM; i++) {
        cr_assert(wr_trace_take(&trace, &record));
        cr_assert_eq(record.page, i);
    }
    cr_assert(wr_trace_take(&trace, &record));
    cr_expect_eq(record.page, 12345u);
    cr_expect_not(wr_trace_take(&trace, &record));
    wr_trace_fini(&trace);
}

#define PUTTERS 4u
#define EACH    100000u

static void *put_many(void *context)
{
    uint32_t who = *(const uint32_t *)context;

    for (uint32_t i = 0; i < EACH; i++)
        put(who * EACH + i);
    return NULL;
}

/* Every record comes once or is counted as lost, whole, and those of one thread in their order. */
Test(trace, many_threads_put_while_one_takes)
{
    static uint32_t whos[PUTTERS];
    uint32_t next[PUTTERS] = {0};
    pthread_t threads[PUTTERS];
    struct weir_trace_record record;
    uint64_t taken = 0;
    bool is_over = false;

    cr_assert_eq(wr_trace_init(&trace, 1000), WEIR_OK);
    for (uint32_t i = 0; i < PUTTERS; i++) {
        whos[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, put_many, &whos[i]), 0);
    }
    for (uint32_t joined = 0; !is_over;) {
        is_over = joined == PUTTERS;
        if (joined < PUTTERS && pthread_tryjoin_np(threads[joined], NULL) == 0)
            joined++;
        while (wr_trace_take(&trace, &record)) {
            uint32_t who = record.page / EACH;

            cr_assert_lt(who, PUTTERS);
            cr_assert_geq(record.page % EACH, next[who]);
            cr_assert_eq(record.ns, record.page);
            next[who] = record.page % EACH + 1;
            taken++;
        }
    }
    cr_expect_eq(taken + trace.lost, PUTTERS * EACH);
    wr_trace_fini(&trace);
}

/* --- The thread ------------------------------------------------------------------------------ */

static char path[64];

static void name_file(void)
{
    int file;

    strcpy(path, "/tmp/weir-trace-XXXXXX");
    file = mkstemp(path);
    cr_assert_geq(file, 0);
    close(file);
}

static size_t read_file(uint8_t *bytes, size_t room)
{
    FILE *file = fopen(path, "re");
    size_t count = fread(bytes, 1, room, file);

    fclose(file);
    unlink(path);
    return count;
}

static const void *record_at(const uint8_t *bytes, size_t at)
{
    return bytes + sizeof(struct weir_trace_head) + at;
}

Test(trace, the_file_has_a_head_the_regions_the_records_and_an_end)
{
    static _Alignas(8) uint8_t bytes[65536];
    const size_t record_bytes = sizeof(struct weir_trace_record);
    const struct weir_trace_record *record;
    const struct weir_trace_region *named;
    const struct weir_trace_end *end;
    struct wr_ktrace *ktrace;
    struct wr_region *region;
    size_t count;

    room_open();
    region = room_map(600);
    name_file();
    cr_assert_eq(wr_ktrace_open(&room_space, path, &ktrace), WEIR_OK);
    cr_assert_not_null(room_space.pages.trace);
    for (uint32_t i = 0; i < 3; i++)
        wr_trace_put(room_space.pages.trace, room_space.pages.trace->begun_ns + i,
                     WEIR_TRACE_FIRST | WEIR_TRACE_STORE, region->number, region->first + i);
    ROOM_AWAIT(wr_ktrace_told(ktrace).records == 3);
    cr_expect_eq(wr_ktrace_told(ktrace).lost, 0u);
    wr_ktrace_close(ktrace);
    cr_expect_null(room_space.pages.trace);

    count = read_file(bytes, sizeof(bytes));
    cr_assert_eq(count,
                 sizeof(struct weir_trace_head) + 5 * record_bytes + sizeof(*named) + sizeof(*end));
    cr_expect_str_eq(((const struct weir_trace_head *)(const void *)bytes)->magic, "WEIRTRC");
    record = record_at(bytes, 0);
    named = record_at(bytes, record_bytes);
    cr_expect_eq(record->kind, WEIR_TRACE_REGION);
    cr_expect_eq(record->page, region->first);
    cr_expect_eq(named->pages, 600u);
    cr_expect_eq(named->serial, region->serial);
    cr_expect_eq(named->address, region->addr);
    cr_expect_str_eq(named->name, region->name);
    for (uint32_t i = 0; i < 3; i++) {
        record = record_at(bytes, record_bytes * (1 + i) + sizeof(*named));
        cr_expect_eq(record->ns, i);
        cr_expect_eq(record->page, region->first + i);
        cr_expect_eq(record->kind, WEIR_TRACE_FIRST | WEIR_TRACE_STORE);
    }
    record = record_at(bytes, 4 * record_bytes + sizeof(*named));
    end = record_at(bytes, 5 * record_bytes + sizeof(*named));
    cr_expect_eq(record->kind, WEIR_TRACE_END);
    cr_expect_eq(end->records, 3u);
    cr_expect_eq(end->lost, 0u);
}

Test(trace, a_page_that_leaves_is_a_record)
{
    struct weir_trace_record record;
    struct wr_region *region;
    struct wr_hold hold;

    room_open();
    region = room_map(600);
    cr_assert_eq(wr_trace_init(&trace, 0), WEIR_OK);
    room_space.pages.trace = &trace;
    room_bring_with(region->first + 5, WR_PAGE_CACHED_CLEAN, 1, 0);
    wr_page_take(&room_space.pages, region->first + 5, &hold);
    wr_page_evict(&room_space.pages, &hold, WR_PAGE_CACHED_CLEAN);
    wr_page_put(&room_space.pages, &hold);
    cr_assert(wr_trace_take(&trace, &record));
    cr_expect_eq(record.kind, WEIR_TRACE_EVICTED);
    cr_expect_eq(record.page, region->first + 5);
    cr_expect_eq(record.region, region->number);
    wr_trace_fini(&trace);
}

Test(trace, a_file_that_cannot_be_had_is_refused_by_name)
{
    struct wr_ktrace *first, *second;

    room_open();
    cr_expect_eq(wr_ktrace_open(&room_space, "/nowhere/at/all", &first), WEIR_EINVAL);
    cr_expect_not_null(strstr(room_events.text, "/nowhere/at/all"));
    cr_expect_null(room_space.pages.trace);
    name_file();
    cr_assert_eq(wr_ktrace_open(&room_space, path, &first), WEIR_OK);
    cr_expect_eq(wr_ktrace_open(&room_space, path, &second), WEIR_EBUSY);
    cr_expect_not_null(strstr(room_events.text, "another runtime"));
    unlink(path);
}
