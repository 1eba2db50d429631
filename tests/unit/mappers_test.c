/* SPDX-License-Identifier: MIT */

/* Mappers: the word names every view that was added, whatever else it may name. */

#include "runtime/memory/mappers.h"

#include <criterion/criterion.h>

static uint32_t named(uint64_t word, uint32_t end)
{
    uint32_t count = 0;

    for (uint32_t i = wr_mappers_next(word, 0, end); i < end; i = wr_mappers_next(word, i + 1, end))
        count++;
    return count;
}

Test(mappers, nobody_is_in_an_empty_word)
{
    cr_expect_eq(wr_mappers_next(0, 0, WR_VIEWS_MAX), WR_VIEWS_MAX);
    for (uint32_t i = 0; i < WR_VIEWS_MAX; i++)
        cr_expect_not(wr_mappers_has(0, i));
}

Test(mappers, five_are_exact)
{
    static const uint32_t views[WR_MAPPERS_EXACT] = {4095, 0, 60, 120, 7};
    uint64_t word = 0;

    for (uint32_t i = 0; i < WR_MAPPERS_EXACT; i++) {
        word = wr_mappers_add(word, views[i]);
        cr_expect_eq(wr_mappers_add(word, views[i]), word, "once is enough");
        cr_expect_eq(named(word, WR_VIEWS_MAX), i + 1);
    }
    for (uint32_t i = 0; i < WR_MAPPERS_EXACT; i++)
        cr_expect(wr_mappers_has(word, views[i]));
    cr_expect_eq(wr_mappers_next(word, 0, 4096), 0);
    cr_expect_eq(wr_mappers_next(word, 1, 4096), 7);
    cr_expect_eq(wr_mappers_next(word, 61, 4096), 120);
    cr_expect_eq(wr_mappers_next(word, 121, 4096), 4095);
    cr_expect_eq(wr_mappers_next(word, 121, 4095), 4095, "none below the end");
}

/* Beyond that all are named still, and at most those of their groups: saturation forgets nobody,
 * at any number of sharers (seed B4). */
Test(mappers, a_sixth_saturates_and_nobody_is_lost)
{
    for (uint32_t step = 1; step < 300; step += 13) {
        bool is_in[WR_VIEWS_MAX] = {false};
        bool is_in_group[WR_MAPPERS_GROUPS] = {false};
        uint32_t view = 0, count = 0;
        uint64_t word = 0;

        for (; view < WR_VIEWS_MAX; view += step, count++) {
            word = wr_mappers_add(word, view);
            is_in[view] = is_in_group[view % WR_MAPPERS_GROUPS] = true;
        }
        for (uint32_t i = 0; i < WR_VIEWS_MAX; i++) {
            cr_expect(!is_in[i] || wr_mappers_has(word, i), "step %u: %u is lost", step, i);
            if (count > WR_MAPPERS_EXACT)
                cr_expect_eq(wr_mappers_has(word, i), is_in_group[i % WR_MAPPERS_GROUPS]);
        }
        cr_expect_geq(named(word, WR_VIEWS_MAX), count);
    }
}

Test(mappers, next_and_has_agree)
{
    uint64_t random = 1, word = 0;

    for (int round = 0; round < 200; round++) {
        uint32_t expected = 0;

        random = random * 6364136223846793005u + 1442695040888963407u;
        word = round % 12 ? wr_mappers_add(word, (uint32_t)(random >> 40) % WR_VIEWS_MAX) : 0;
        for (uint32_t i = 0; i < WR_VIEWS_MAX; i++)
            expected += wr_mappers_has(word, i);
        cr_expect_eq(named(word, WR_VIEWS_MAX), expected);
    }
}
