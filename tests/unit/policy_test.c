/* SPDX-License-Identifier: MIT */

/* Policy: the arithmetic of ageing. */

#include "runtime/paging/policy.h"

#include <criterion/criterion.h>

Test(policy, the_small_queue_is_a_twentieth)
{
    cr_expect(!wr_policy_is_small_due(50, 1000));
    cr_expect(wr_policy_is_small_due(51, 1000));
    cr_expect(!wr_policy_is_small_due(0, 0));
}

Test(policy, soon_is_within_a_quarter_as_many_evictions_as_there_are_frames)
{
    cr_expect(wr_policy_is_soon(249, 1000));
    cr_expect(!wr_policy_is_soon(250, 1000));
    cr_expect(!wr_policy_is_soon(UINT32_MAX, 1u << 31), "no shadow");
}

Test(policy, asking_is_vain_below_a_fourhundredth_and_worth_it_again_from_a_fortieth_on)
{
    cr_expect(wr_policy_is_vain(false, 0, 1000));
    cr_expect(wr_policy_is_vain(false, 2, 1000));
    cr_expect(!wr_policy_is_vain(false, 3, 1000));
    cr_expect(wr_policy_is_vain(true, 24, 1000));
    cr_expect(!wr_policy_is_vain(true, 25, 1000));
    cr_expect(!wr_policy_is_vain(false, 0, 0), "nobody was asked");
    cr_expect(!wr_policy_is_vain(true, 0, 0));
}

Test(policy, generations_part_the_heat_evenly)
{
    uint32_t counts[WR_GENERATIONS] = {0};

    for (uint32_t heat = 0; heat < 256; heat++)
        counts[wr_policy_generation((uint8_t)heat)]++;
    for (uint32_t i = 0; i < WR_GENERATIONS; i++)
        cr_expect_eq(counts[i], 64u);
    cr_expect_eq(wr_policy_generation(0), 0u);
    cr_expect_eq(wr_policy_generation(255), 3u);
}

Test(policy, each_generation_is_probed_half_as_often_as_the_colder)
{
    uint32_t counts[WR_GENERATIONS] = {0};

    for (uint32_t n = 0; n < 3200; n++)
        counts[wr_policy_probe(n)]++;
    cr_expect_eq(counts[1], 400u);
    cr_expect_eq(counts[2], 200u);
    cr_expect_eq(counts[3], 100u);
    cr_expect_eq(counts[0], 2500u);
}

Test(policy, deferring_grows_while_it_saves_and_shrinks_while_it_does_not)
{
    const uint64_t frames = 100000, least = frames / 200, most = frames / 10;
    uint64_t deferred = 0;

    deferred = wr_policy_defer(deferred, 0, 1000, frames);
    cr_expect_eq(deferred, least);
    for (int i = 0; i < 50; i++) {
        uint64_t before = deferred;

        deferred = wr_policy_defer(deferred, 101, 1000, frames);
        cr_expect(deferred > before || deferred == most);
    }
    cr_expect_eq(deferred, most);
    cr_expect_eq(wr_policy_defer(deferred, 50, 1000, frames), most, "between: as it is");
    for (int i = 0; i < 50; i++)
        deferred = wr_policy_defer(deferred, 19, 1000, frames);
    cr_expect_eq(deferred, least);
}
