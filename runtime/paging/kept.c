/* SPDX-License-Identifier: MIT */
#include "runtime/paging/kept.h"

#include "runtime/memory/gate.h"
#include "runtime/paging/range.h"

struct wr_region *wr_kept_to_take(const struct wr_space *space)
{
    return wr_space_oldest_kept(space, WR_KEEP_KEPT, false);
}

/* Unless another is still being emptied: that may be enough. */
static void condemn(const struct wr_space *space)
{
    struct wr_region *region;
    uint8_t expected = WR_KEEP_KEPT;

    if (wr_space_oldest_kept(space, WR_KEEP_SPENT, false))
        return;
    region = wr_space_oldest_kept(space, WR_KEEP_KEPT, true);
    if (!region)
        return;
    /* Before it is seen to be condemned; one that is reattached now has no use for the hand. */
    region->kept_hand = region->first;
    if (atomic_compare_exchange_strong(&region->keep, &expected, WR_KEEP_SPENT))
        wr_stats_count(space->stats, WR_COUNT_regions_forgotten);
}

static bool empty_a_step(const struct wr_space *space)
{
    struct wr_region *region = wr_space_oldest_kept(space, WR_KEEP_SPENT, false);
    int error = WEIR_OK;

    if (!region)
        return false;
    region->kept_hand += wr_range_discard(region, region->kept_hand,
                                          wr_region_end(region) - region->kept_hand, &error);
    WR_CHECK(error == WEIR_OK); /* nobody can have pinned a page */
    return true;
}

bool wr_kept_relieve(const struct wr_space *space, bool is_needed)
{
    if (!wr_kept_any(space))
        return false;
    if (is_needed || space->pager->ops->is_crowded(space->pager))
        condemn(space);
    return empty_a_step(space);
}

bool wr_kept_relieve_idle(const struct wr_space *space)
{
    struct wr_pass pass;
    bool any;

    if (!wr_kept_any(space))
        return false;
    pass = wr_gate_enter();
    any = empty_a_step(space);
    wr_gate_leave(pass);
    return any;
}
