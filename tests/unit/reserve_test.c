/* SPDX-License-Identifier: MIT */

/* Reserved areas: aligned, zero, costing nothing until they are touched, and gone in a child. */

#include "runtime/base/reserve.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB 1048576ull

static unsigned char *reserve(uint64_t bytes, uint64_t alignment)
{
    void *area = NULL;

    cr_assert_eq(wr_reserve(bytes, alignment, &area), 0);
    cr_assert_not_null(area);
    return area;
}

/* Pages of it that are in memory. */
static uint32_t resident(void *area, uint64_t bytes)
{
    static unsigned char pages[16 * MIB / 4096];
    uint32_t count = 0;

    cr_assert_leq(bytes, 16 * MIB);
    cr_assert_eq(mincore(area, bytes, pages), 0);
    for (uint64_t i = 0; i < bytes / 4096; i++)
        count += pages[i] & 1;
    return count;
}

Test(reserve, it_is_aligned_and_zero)
{
    for (uint64_t alignment = 4096; alignment <= 64 * MIB; alignment *= 4) {
        unsigned char *area = reserve(5000, alignment);

        cr_expect_eq((uintptr_t)area % alignment, 0);
        cr_expect_eq(area[0] | area[8191], 0, "whole pages");
        area[8191] = 1;
        wr_unreserve(area, 5000);
    }
    wr_unreserve(NULL, 5000);
}

Test(reserve, what_is_given_back_is_gone)
{
    unsigned char *area = reserve(16 * MIB, 2 * MIB);
    unsigned char page;

    wr_unreserve(area, 16 * MIB);
    cr_expect_eq(mincore(area, 4096, &page), -1);
    cr_expect_eq(errno, ENOMEM);
}

Test(reserve, only_what_is_touched_costs_memory)
{
    unsigned char *area = reserve(16 * MIB, 4096);

    cr_expect_eq(resident(area, 16 * MIB), 0);
    area[5 * MIB] = 1;
    cr_expect_leq(resident(area, 16 * MIB), 512, "one page, or a huge one");
    cr_expect_gt(resident(area, 16 * MIB), 0);
    wr_unreserve(area, 16 * MIB);
}

Test(reserve, not_even_when_all_memory_is_locked)
{
    struct rlimit limit;
    unsigned char *area;

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (mlockall(MCL_FUTURE) != 0)
        cr_skip_test("this user may not lock memory");
    area = reserve(16 * MIB, 2 * MIB);
    cr_expect_eq(resident(area, 16 * MIB), 0);
    munlockall();
    wr_unreserve(area, 16 * MIB);
}

Test(reserve, a_child_does_not_have_it)
{
    unsigned char *area = reserve(8192, 4096);
    int status = 0;
    pid_t child;

    area[0] = 1;
    child = fork();
    if (child == 0) {
        unsigned char page;

        _exit(mincore(area, 4096, &page) == -1 && errno == ENOMEM ? 0 : 1);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect_eq(status, 0);
    wr_unreserve(area, 8192);
}

Test(reserve, too_much_is_refused)
{
    void *area = &area, *before = area;

    cr_expect_eq(wr_reserve((uint64_t)1 << 60, 4096, &area), ENOMEM);
    cr_expect_eq(area, before);
}
