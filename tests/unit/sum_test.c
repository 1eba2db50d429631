/* SPDX-License-Identifier: MIT */

/* Sum: several pages together have the sums that the library's own XXH3 gives each. */

#include "runtime/swap/sum.h"

#include <criterion/criterion.h>
#include <string.h>
#include <weir/weir.h>
#include <xxhash.h>

#define PAGES WR_SUM_TOGETHER

static uint8_t memory[PAGES + 1][WEIR_PAGE_BYTES];
static uint32_t pages[PAGES], sums[PAGES];
static const uint8_t *bytes[PAGES];

static void fill(uint64_t random)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        for (uint32_t k = 0; k < WEIR_PAGE_BYTES; k++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            memory[i][k] = (uint8_t)(random >> 56);
        }
        pages[i] = (uint32_t)random;
        bytes[i] = memory[i];
    }
}

static void expect_sums(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        cr_expect_eq(sums[i], (uint32_t)XXH3_64bits_withSeed(bytes[i], WEIR_PAGE_BYTES, pages[i]),
                     "page %u of %u", i, count);
}

Test(sum, of_any_number_of_pages_is_that_of_each)
{
    for (uint32_t count = 0; count <= PAGES; count++) {
        fill(count + 1);
        wr_sums(count, pages, bytes, count % 2 ? NULL : memory[0], sums);
        expect_sums(count);
    }
}

Test(sum, of_the_extreme_page_numbers_and_bytes)
{
    static const uint32_t numbers[] = {0, 1, INT32_MAX, 0x80000000u, UINT32_MAX};

    fill(1);
    memset(memory[0], 0, WEIR_PAGE_BYTES);
    memset(memory[1], 0xff, WEIR_PAGE_BYTES);
    for (uint32_t i = 0; i < PAGES; i++) {
        pages[i] = numbers[i % 5];
        bytes[i] = memory[i % 4];
    }
    wr_sums(PAGES, pages, bytes, NULL, sums);
    expect_sums(PAGES);
}

Test(sum, pages_may_lie_anywhere)
{
    fill(2);
    for (uint32_t i = 0; i < PAGES; i++)
        bytes[i] = &memory[PAGES - 1 - i][i]; /* backwards, and not aligned */
    wr_sums(PAGES, pages, bytes, NULL, sums);
    expect_sums(PAGES);
}

Test(sum, every_byte_and_the_page_count)
{
    fill(3);
    for (uint32_t k = 0; k < WEIR_PAGE_BYTES; k++) {
        uint32_t before = wr_sum(pages[0], memory[0]);

        memory[0][k] ^= 0x10;
        wr_sums(PAGES, pages, bytes, NULL, sums);
        cr_expect_neq(sums[0], before, "byte %u", k);
        cr_expect_eq(sums[0], wr_sum(pages[0], memory[0]));
    }
    wr_sums(PAGES, pages, bytes, NULL, sums);
    pages[0]++;
    cr_expect_neq(wr_sum(pages[0], memory[0]), sums[0]);
}
