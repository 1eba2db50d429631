/* SPDX-License-Identifier: MIT */
#include "runtime/paging/policy.h"

#define PASSING_SHARE 20u /* a twentieth of memory */
#define SMALL_SHARE   20u /* likewise */
#define SOON_SHARE    4u  /* a quarter as many evictions as there is memory */

#define HEAT_MOST 255u

#define VAIN_SHARE     400u /* begins: less than a quarter of a percent was wanted */
#define VAIN_END_SHARE 40u  /* ends: a fortieth                                      */

#define PROBE_FIRST  8u /* every 8th victim is looked for in the second coldest generation, ... */
#define PROBE_SECOND 16u
#define PROBE_THIRD  32u

#define DEFER_LEAST_SHARE 200u /* of memory: half a percent */
#define DEFER_MOST_SHARE  10u
#define DEFER_GROW_SHARE  10u /* wanted again: more than a tenth */
#define DEFER_SHRINK      50u /* less than a fiftieth           */

bool wr_policy_is_passing_due(uint64_t passing, uint64_t frames)
{
    return passing > frames / PASSING_SHARE;
}

bool wr_policy_is_small_due(uint64_t small, uint64_t frames)
{
    return small > frames / SMALL_SHARE;
}

bool wr_policy_is_soon(uint32_t distance, uint64_t frames)
{
    return distance < frames / SOON_SHARE;
}

bool wr_policy_is_vain(bool is_vain, uint64_t wanted, uint64_t unmapped)
{
    return wanted * (is_vain ? VAIN_END_SHARE : VAIN_SHARE) < unmapped;
}

uint32_t wr_policy_generation(uint8_t heat)
{
    return heat * WR_GENERATIONS / (HEAT_MOST + 1);
}

uint32_t wr_policy_probe(uint32_t n)
{
    if (n % PROBE_THIRD == 0)
        return 3;
    if (n % PROBE_SECOND == PROBE_FIRST)
        return 2;
    return n % PROBE_FIRST == PROBE_FIRST / 2 ? 1 : 0;
}

uint64_t wr_policy_defer(uint64_t deferred, uint64_t found, uint64_t marked, uint64_t frames)
{
    uint64_t least = frames / DEFER_LEAST_SHARE, most = frames / DEFER_MOST_SHARE;

    if (found * DEFER_GROW_SHARE > marked)
        deferred += deferred / 4 + 1;
    else if (found * DEFER_SHRINK < marked)
        deferred -= deferred / 4;
    if (deferred < least)
        return least;
    return deferred < most ? deferred : most;
}
