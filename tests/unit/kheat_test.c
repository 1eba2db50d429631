/* SPDX-License-Identifier: MIT */

/* From what a source of heat says to the groups of pages that become warm. */

#include "runtime/paging/kheat.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/memory/heat.h"
#include "tests/unit/room_kit.h"

#define CHUNK WR_CHUNK_PAGES

/* A made-up DAMON says what is warm: the source whose words are easiest to make up. */
#define ADMIN "/sys/kernel/mm/damon/admin/kdamonds"

static char root[64];
static struct wr_kheat *kheat;

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void shell(const char *format, ...)
{
    char command[1500];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    cr_assert_eq(system(command), 0, "%s", command);
}

static void make_damon(void)
{
    strcpy(root, "/tmp/weir-kheat-XXXXXX");
    cr_assert_not_null(mkdtemp(root));
    shell("mkdir -p %s" ADMIN " && cd %s" ADMIN " && echo 0 >nr_kdamonds && c=0/contexts/0 && "
          "mkdir -p $c/targets/0 $c/monitoring_attrs/intervals $c/monitoring_attrs/nr_regions "
          "$c/schemes/0/access_pattern/sz $c/schemes/0/access_pattern/nr_accesses "
          "$c/schemes/0/access_pattern/age $c/schemes/0/tried_regions && "
          "touch 0/state 0/contexts/nr_contexts $c/operations $c/targets/nr_targets "
          "$c/targets/0/pid_target $c/monitoring_attrs/intervals/sample_us "
          "$c/monitoring_attrs/intervals/aggr_us $c/monitoring_attrs/intervals/update_us "
          "$c/monitoring_attrs/nr_regions/max $c/schemes/nr_schemes $c/schemes/0/action "
          "$c/schemes/0/access_pattern/sz/max $c/schemes/0/access_pattern/nr_accesses/min "
          "$c/schemes/0/access_pattern/nr_accesses/max $c/schemes/0/access_pattern/age/max",
          root, root);
}

static void say_warm(uint32_t number, uint64_t start, uint64_t end)
{
    shell("cd %s" ADMIN "/0/contexts/0/schemes/0/tried_regions && mkdir -p %u && "
          "echo %llu >%u/start && echo %llu >%u/end",
          root, number, (unsigned long long)start, number, (unsigned long long)end, number);
}

static void close_all(void)
{
    wr_kheat_close(kheat);
    shell("rm -r %s", root);
}

static uint8_t heat(uint32_t page)
{
    return wr_page_heat(&room_space.pages, page);
}

Test(kheat, what_is_used_becomes_warm_and_nothing_else)
{
    struct wr_region *a, *b;

    room_open();
    a = room_map(CHUNK);
    b = room_map(2 * CHUNK);
    for (uint32_t i = 0; i < CHUNK; i++)
        room_bring(b->first + i, WR_PAGE_RESIDENT_DIRTY);
    make_damon();
    /* A page and a half of groups, from within one; and what lies outside of all regions. */
    say_warm(0, b->addr + 10ull * WEIR_PAGE_BYTES, b->addr + 100ull * WEIR_PAGE_BYTES);
    say_warm(1, 4096, 1 << 20);
    say_warm(2, a->addr, a->addr + 4096); /* nothing of it is resident */
    say_warm(3, b->addr + CHUNK * (uint64_t)WEIR_PAGE_BYTES, UINT64_MAX / 2);
    cr_assert_eq(wr_kheat_open(&room_space, "damon", root, &kheat), WEIR_OK);
    cr_assert_not_null(kheat);
    cr_expect_not_null(strstr(wr_kheat_how(kheat), "damon (asked for)"), "%s", wr_kheat_how(kheat));
    ROOM_AWAIT(wr_kheat_warmed(kheat) >= 2);
    cr_expect_gt(heat(b->first), 0);
    cr_expect_gt(heat(b->first + 64), 0);
    cr_expect_eq(heat(b->first + 128), 0);
    cr_expect_eq(heat(a->first), 0);
    cr_expect_eq(heat(b->first + CHUNK), 0);
    close_all();
}

Test(kheat, a_region_that_went_is_nobodys)
{
    struct wr_region *region;
    uint64_t warmed;

    room_open();
    region = room_map(CHUNK);
    room_bring(region->first, WR_PAGE_RESIDENT_DIRTY);
    make_damon();
    say_warm(0, region->addr, region->addr + 4096);
    cr_assert_eq(wr_kheat_open(&room_space, "auto", root, &kheat), WEIR_OK);
    ROOM_AWAIT(wr_kheat_warmed(kheat) >= 1);
    cr_expect_not_null(strstr(wr_kheat_how(kheat), "damon (chosen by itself; perf: "), "%s",
                       wr_kheat_how(kheat));
    cr_expect_null(strstr(wr_kheat_how(kheat), "; )"), "%s", wr_kheat_how(kheat));
    atomic_store(&region->is_going, true);
    wr_space_abandon(&room_space, region);
    room_sleep_us(300000); /* a step may be under way */
    warmed = wr_kheat_warmed(kheat);
    room_sleep_us(600000);
    cr_expect_eq(wr_kheat_warmed(kheat), warmed);
    close_all();
}

/* What is used is told by address: at the new one from the end of the move on. */
Test(kheat, a_region_that_moved_is_found_where_it_is)
{
    const uint64_t elsewhere = 1ull << 45;
    struct wr_region *region;
    uint64_t old;

    room_open();
    region = room_map(CHUNK);
    old = region->addr;
    for (uint32_t i = 0; i < 2 * CHUNK; i++)
        room_bring(region->first + i, WR_PAGE_RESIDENT_DIRTY);
    make_damon();
    say_warm(0, old + 128ull * WEIR_PAGE_BYTES, old + 129ull * WEIR_PAGE_BYTES);
    say_warm(1, elsewhere, elsewhere + WEIR_PAGE_BYTES);
    say_warm(2, elsewhere + CHUNK * (uint64_t)WEIR_PAGE_BYTES,
             elsewhere + (CHUNK + 1) * (uint64_t)WEIR_PAGE_BYTES);
    cr_assert_eq(wr_space_set_reserve(&room_space, region, 2 * CHUNK), WEIR_OK);
    wr_space_readdress(&room_space, region, elsewhere, 2 * CHUNK * (uint64_t)WEIR_PAGE_BYTES);
    cr_assert_eq(wr_kheat_open(&room_space, "damon", root, &kheat), WEIR_OK);
    ROOM_AWAIT(wr_kheat_warmed(kheat) >= 2);
    cr_expect_gt(heat(region->first), 0);
    cr_expect_gt(heat(region->first + CHUNK), 0, "what its reserve has more");
    cr_expect_eq(heat(region->first + 128), 0, "where it was is nobody's");
    close_all();
}

Test(kheat, what_is_not_there_is_no_failure)
{
    room_open();
    cr_assert_eq(wr_kheat_open(&room_space, "none", "/nowhere", &kheat), WEIR_OK);
    cr_expect_null(kheat);
    cr_assert_eq(wr_kheat_open(&room_space, "auto", "/nowhere", &kheat), WEIR_OK);
    cr_expect_not_null(strstr(wr_kheat_how(kheat), "none (chosen by itself; perf: "), "%s",
                       wr_kheat_how(kheat));
    cr_expect_not_null(strstr(wr_kheat_how(kheat), "; damon: needs"));
    cr_expect_eq(room_events.count, 0u, "nobody asked for one by name");
    wr_kheat_close(kheat);
    cr_assert_eq(wr_kheat_open(&room_space, "idle", "/nowhere", &kheat), WEIR_OK);
    cr_expect_eq(room_events.count, 1u);
    cr_expect_eq(room_events.severity, WEIR_NOTE);
    cr_expect_not_null(strstr(room_events.text, "CONFIG_IDLE_PAGE_TRACKING"));
    wr_kheat_close(kheat);
}

/* --- The sample ------------------------------------------------------------------------------ */

static int fd_of(const char *path, int flags)
{
    char whole[WR_HEAT_PATH];

    return open(wr_heat_path(whole, root, path), flags, 0644);
}

/* Idle page tracking marks what it is asked to watch: here a frame has the number of its page. */
static bool is_marked(int bitmap, uint64_t frame)
{
    uint64_t word = 0;

    return pread(bitmap, &word, 8, (off_t)(frame / 64 * 8)) == 8 && (word >> frame % 64 & 1);
}

Test(kheat, one_resident_page_of_each_group_is_watched)
{
    struct wr_region *region;
    uint64_t stack = (uint64_t)(uintptr_t)&region / WEIR_PAGE_BYTES;
    int bitmap, pagemap;

    room_open();
    region = room_map(4 * CHUNK);
    for (uint32_t i = 0; i < CHUNK; i++)
        room_bring(region->first + 2 * CHUNK + i, WR_PAGE_RESIDENT_DIRTY);
    strcpy(root, "/tmp/weir-kheat-XXXXXX");
    cr_assert_not_null(mkdtemp(root));
    shell("mkdir -p %s/sys/kernel/mm/page_idle %s/proc/self", root, root);
    bitmap = fd_of("/sys/kernel/mm/page_idle/bitmap", O_RDWR | O_CREAT);
    pagemap = fd_of("/proc/self/pagemap", O_RDWR | O_CREAT);
    for (uint64_t i = 0; i < 16; i++) {
        uint64_t entry = 1ull << 63 | 1;

        cr_assert_eq(pwrite(pagemap, &entry, 8, (off_t)((stack - 8 + i) * 8)), 8);
    }
    for (uint64_t i = 0; i < 4 * CHUNK; i++) {
        uint64_t entry = 1ull << 63 | (64 * (i + 10)); /* a word of the bitmap each */

        cr_assert_eq(pwrite(pagemap, &entry, 8, (off_t)((region->addr / WEIR_PAGE_BYTES + i) * 8)),
                     8);
    }
    cr_assert_eq(wr_kheat_open(&room_space, "idle", root, &kheat), WEIR_OK);
    cr_assert_not_null(strstr(wr_kheat_how(kheat), "idle (asked for)"), "%s", wr_kheat_how(kheat));
    ROOM_AWAIT(is_marked(bitmap, 64 * (2 * CHUNK + 7 * 64 + 10)));
    for (uint32_t group = 0; group < 8; group++)
        cr_expect(is_marked(bitmap, 64 * (2 * CHUNK + 64ull * group + 10)), "%u", group);
    cr_expect_not(is_marked(bitmap, 64 * (CHUNK + 10)), "not resident");
    /* In the next rounds other pages of the groups are asked about. */
    ROOM_AWAIT(is_marked(bitmap, 64 * (2 * CHUNK + 1 + 10)));
    close(bitmap);
    close(pagemap);
    close_all();
}
