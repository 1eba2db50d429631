/* SPDX-License-Identifier: MIT */
#include "runtime/memory/audit.h"

#include "runtime/memory/object.h"

#define LOT 64u

/* A view need not map what is resident. */
static bool agrees(enum wr_page_state state, uint8_t facts, bool is_view)
{
    bool is_present = facts & WR_FACT_PRESENT;
    bool is_writable = facts & WR_FACT_WRITABLE;

    if (is_view && !is_present)
        return true;

    switch (state) {
    case WR_PAGE_EMPTY:
    case WR_PAGE_OUT:
    case WR_PAGE_READING:
    case WR_PAGE_CACHED_DIRTY:
    case WR_PAGE_CACHED_WRITING:
    case WR_PAGE_CACHED_CLEAN:
    case WR_PAGE_POISONED: return !is_present;
    case WR_PAGE_RESIDENT_ZERO: return is_present && !is_writable && (facts & WR_FACT_ZERO_PAGE);
    case WR_PAGE_RESIDENT_DIRTY: return is_present;
    case WR_PAGE_RESIDENT_CLEAN:
    case WR_PAGE_RESIDENT_WRITING: return is_present && !is_writable;
    case WR_PAGE_STATE_COUNT: break;
    }
    return false;
}

/* Does the object know that this view maps the page? Or nobody would take it from here. */
static bool is_named(const struct wr_region *region, uint32_t page, uint8_t facts)
{
    const struct weir_object *object = region->object;

    return !object || !(facts & WR_FACT_PRESENT) ||
           wr_mappers_has(object->mappers[page - object->region->first], region->view);
}

static int audit_lot(struct wr_region *region, uint32_t first, uint32_t count,
                     struct wr_audit *audit)
{
    struct wr_space *space = region->space;
    struct wr_hold holds[LOT];
    uint8_t facts[LOT] = {0};
    int error;

    for (uint32_t i = 0; i < count; i++)
        wr_page_take(&space->pages, first + i, &holds[i]);
    error = space->host->ops->facts(space->host, wr_region_addr(region, first), count, facts);
    for (uint32_t i = 0; i < count; i++) {
        enum wr_page_state state = wr_hold_state(&holds[i]);

        if (error == WEIR_OK &&
            !(agrees(state, facts[i], region->object) && is_named(region, first + i, facts[i])) &&
            audit->differences++ == 0) {
            audit->page = first + i - region->first;
            audit->state = state;
            audit->facts = facts[i];
        }
        wr_page_put(&space->pages, &holds[i]);
    }
    audit->pages += count;
    return error;
}

int wr_audit_region(struct wr_region *region, struct wr_audit *audit_p)
{
    struct wr_audit audit = {0};
    int error = WEIR_OK;

    for (uint32_t i = 0; i < region->pages && error == WEIR_OK; i += LOT) {
        uint32_t rest = region->pages - i;

        error = audit_lot(region, region->first + i, rest < LOT ? rest : LOT, &audit);
    }
    if (error == WEIR_OK)
        *audit_p = audit;
    return error;
}
