/* SPDX-License-Identifier: MIT */

/* The reverse map: see object.h. */

#include "runtime/base/bug.h"
#include "runtime/host/peer.h"
#include "runtime/memory/object.h"

#define PAGE        WEIR_PAGE_BYTES
#define OFFSET_MASK (WR_OBJECT_BYTES - 1)

/* Spans of views that are unmapped by one call. */
#define SPANS 32u
/* Holes that one call to free pages goes over, rather than to be made a second time: each visits
 * all views, whether they map anything there or not. */
#define HOLES 64u

static bool is_object(uint64_t addr)
{
    return (addr & WR_OBJECT_ADDR) != 0;
}

static struct weir_object *object_of(const struct wr_space *space, uint64_t addr)
{
    struct weir_object *object = atomic_load(
        &space->objects[(addr & ~WR_OBJECT_ADDR) >> WR_OBJECT_SHIFT]);

    WR_CHECK(object);
    return object;
}

/* The number of the page within its object. */
static uint32_t index_of(uint64_t addr)
{
    return (uint32_t)((addr & OFFSET_MASK) / PAGE);
}

/* --- All views of some pages ----------------------------------------------------------------- */

typedef enum wr_hosted (*wr_in_view)(struct wr_space *space, const struct wr_span *spans,
                                     uint32_t count);

/* Spans that are gathered for one call. */
struct gathering {
    struct wr_space *space;
    wr_in_view call; /* NULL: they are only counted */
    struct wr_span spans[SPANS];
    uint32_t count;
    uint64_t pages; /* (page, view) pairs altogether */
    enum wr_hosted result;
};

static void flush(struct gathering *g)
{
    if (g->call && g->count > 0 && g->result == WR_HOST_OK)
        g->result = g->call(g->space, g->spans, g->count);
    g->count = 0;
}

/* The part of neighbouring pages that a view covers: its number may have been another's when the
 * pages were mapped. */
static void add_view(struct gathering *g, const struct wr_region *view, uint32_t first,
                     uint32_t end)
{
    if (first < view->first)
        first = view->first;
    if (end > wr_region_end(view))
        end = wr_region_end(view);
    if (first >= end)
        return;
    if (g->count == SPANS)
        flush(g);
    g->spans[g->count++] = (struct wr_span){wr_region_addr(view, first), end - first};
    g->pages += end - first;
}

/* Neighbours with the same mappers. */
static void add_alike(struct gathering *g, const struct weir_object *object, uint32_t index,
                      uint32_t pages)
{
    uint64_t word = object->mappers[index];
    uint32_t end = atomic_load(&object->views_end);
    uint32_t first = object->region->first + index;

    for (uint32_t i = wr_mappers_next(word, 0, end); i < end;
         i = wr_mappers_next(word, i + 1, end)) {
        const struct wr_region *view = atomic_load(&object->views[i]);

        if (view)
            add_view(g, view, first, first + pages);
    }
}

static void add_pages(struct gathering *g, const struct weir_object *object, uint32_t index,
                      uint32_t pages)
{
    while (pages > 0) {
        uint32_t alike = 1;

        while (alike < pages && object->mappers[index + alike] == object->mappers[index])
            alike++;
        add_alike(g, object, index, alike);
        index += alike;
        pages -= alike;
    }
}

/* No store gets through any more. What another process maps cannot be unmapped from here alone; it
 * is protected, and who frees the page unmaps it there too. */
static enum wr_hosted close_spans(struct wr_space *space, const struct wr_span *spans,
                                  uint32_t count)
{
    enum wr_hosted result = WR_HOST_OK;
    struct wr_span near[SPANS];
    uint32_t near_count = 0;

    for (uint32_t i = 0; i < count && result == WR_HOST_OK; i++) {
        if (wr_is_away(spans[i].addr))
            result = space->host->ops->protect(space->host, spans[i].addr, spans[i].pages, true);
        else
            near[near_count++] = spans[i];
    }
    if (near_count > 0 && result == WR_HOST_OK)
        space->host->ops->drop(space->host, near, near_count);
    return result;
}

static enum wr_hosted protect_spans(struct wr_space *space, const struct wr_span *spans,
                                    uint32_t count)
{
    enum wr_hosted result = WR_HOST_OK;

    for (uint32_t i = 0; i < count && result == WR_HOST_OK; i++)
        result = space->host->ops->protect(space->host, spans[i].addr, spans[i].pages, true);
    return result;
}

/* --- Freeing pages --------------------------------------------------------------------------- */

/* Pages of one object that go by one call, and the locks of the holes between them, without which
 * a fault could make one of those a page in the same moment. */
struct punch {
    struct weir_object *object;
    uint32_t index, pages; /* none: 0 */
    struct wr_hold holes[HOLES];
    uint32_t hole_count;
};

static void punch_now(struct punch *punch)
{
    struct weir_object *object = punch->object;
    struct wr_space *space = object->space;

    if (punch->pages > 0)
        space->host->ops->object_punch(space->host, object->memory, (uint64_t)punch->index * PAGE,
                                       punch->pages);
    while (punch->hole_count > 0)
        wr_page_put(&space->pages, &punch->holes[--punch->hole_count]);
    punch->pages = 0;
}

/* Lock everything up to there, if nothing there is resident. */
static bool bridge(struct punch *punch, uint32_t index)
{
    struct weir_object *object = punch->object;
    struct wr_pages *pages = &object->space->pages;
    uint32_t end = punch->index + punch->pages, had = punch->hole_count;

    if (punch->pages == 0 || index < end || index - end > HOLES - had)
        return false;
    for (; end < index; end++) {
        struct wr_hold *hole = &punch->holes[punch->hole_count];

        if (!wr_page_take_try(pages, object->region->first + end, hole))
            break;
        punch->hole_count++;
        if (wr_state_is_charged(wr_hold_state(hole)))
            break;
    }
    if (end == index)
        return true;
    while (punch->hole_count > had)
        wr_page_put(pages, &punch->holes[--punch->hole_count]);
    return false;
}

static void punch_add(struct punch *punch, uint32_t index, uint32_t pages)
{
    if (!bridge(punch, index)) {
        punch_now(punch);
        punch->index = index;
    }
    punch->pages = index + pages - punch->index;
    for (uint32_t i = 0; i < pages; i++)
        punch->object->mappers[index + i] = 0;
}

/* --- The verbs ------------------------------------------------------------------------------- */

/* How many entries from the first on are of one object, or of none? */
static uint32_t alike(const struct wr_space *space, const uint64_t *addr, size_t stride,
                      uint32_t count, struct weir_object **object_p)
{
    const uint8_t *at = (const uint8_t *)addr;
    uint64_t kind = *addr >> WR_OBJECT_SHIFT;
    uint32_t n = 1;

    *object_p = is_object(*addr) ? object_of(space, *addr) : NULL;
    for (; n < count; n++) {
        uint64_t next = *(const uint64_t *)(const void *)(at + n * stride);

        if (*object_p ? next >> WR_OBJECT_SHIFT != kind : is_object(next))
            break;
    }
    return n;
}

static void count_unmapped(const struct weir_object *object, const struct gathering *g)
{
    wr_stats_add(object->space->stats, WR_COUNT_views_unmapped, g->pages);
}

/* The kernel's own reverse map does all of it: what is dropped is clean, or not wanted. */
static void drop_of_object(struct weir_object *object, const struct wr_span *spans, uint32_t count)
{
    struct gathering g = {.space = object->space};
    struct punch punch = {.object = object};

    for (uint32_t i = 0; i < count; i++) {
        add_pages(&g, object, index_of(spans[i].addr), spans[i].pages);
        punch_add(&punch, index_of(spans[i].addr), spans[i].pages);
    }
    punch_now(&punch);
    count_unmapped(object, &g);
}

void wr_rmap_drop(struct wr_space *space, const struct wr_span *spans, uint32_t count)
{
    while (count > 0) {
        struct weir_object *object;
        uint32_t n = alike(space, &spans->addr, sizeof(*spans), count, &object);

        if (object)
            drop_of_object(object, spans, n);
        else
            space->host->ops->drop(space->host, spans, n);
        spans += n;
        count -= n;
    }
}

/* How many are neighbours both as pages and as frames? */
static uint32_t run_length(const struct wr_revoke *list, uint32_t count)
{
    uint32_t n = 1;

    while (n < count && list[n].addr == list[0].addr + (uint64_t)n * PAGE &&
           list[n].frame == list[0].frame + n)
        n++;
    return n;
}

/* Unmapped everywhere: into the frames. */
static void read_pages(struct weir_object *object, struct wr_revoke *list, uint32_t count)
{
    struct wr_host *host = object->space->host;

    for (uint32_t i = 0; i < count;) {
        uint32_t n = run_length(list + i, count - i);
        bool is_read;

        if (list[i].frame == WR_FRAME_NONE) {
            i++;
            continue;
        }
        is_read = host->ops->object_read(host, object->memory, list[i].addr & OFFSET_MASK,
                                         list[i].frame, n);
        if (!is_read)
            host->ops->release(host, list[i].frame, n);
        for (uint32_t end = i + n; i < end; i++)
            list[i].result = is_read ? WR_REVOKED : WR_REVOKE_FAILED;
    }
}

/* The bug: every page of the object, whether it is a victim or not. */
static void unmap_all(const struct weir_object *object)
{
    struct gathering g = {.space = object->space, .call = close_spans};
    struct wr_pages *pages = &object->space->pages;

    for (uint32_t i = 0; i < object->region->pages; i++) {
        struct wr_hold hold;

        if (object->mappers[i] == 0 || !wr_page_take_try(pages, object->region->first + i, &hold))
            continue;
        add_pages(&g, object, i, 1);
        flush(&g);
        if (object->peer_count == 0) /* theirs are only protected */
            object->mappers[i] = 0;
        wr_page_put(pages, &hold);
        wr_stats_count(object->space->stats, WR_COUNT_reclaim_marked);
    }
    count_unmapped(object, &g);
}

/* Unmap what is to be read. */
static enum wr_hosted close_kept(struct weir_object *object, const struct wr_revoke *list,
                                 uint32_t count)
{
    struct gathering g = {.space = object->space, .call = close_spans};

    for (uint32_t i = 0; i < count; i++)
        if (list[i].frame != WR_FRAME_NONE)
            add_pages(&g, object, index_of(list[i].addr), 1);
    flush(&g);
    count_unmapped(object, &g);
    return g.result;
}

/* The kernel unmaps the others when they are freed. */
static void count_dropped(struct weir_object *object, const struct wr_revoke *list, uint32_t count)
{
    struct gathering g = {.space = object->space};

    for (uint32_t i = 0; i < count; i++)
        if (list[i].frame == WR_FRAME_NONE)
            add_pages(&g, object, index_of(list[i].addr), 1);
    count_unmapped(object, &g);
}

static void revoke_of_object(struct weir_object *object, struct wr_revoke *list, uint32_t count)
{
    struct punch punch = {.object = object};
    bool is_closed;

    if (wr_bug(WR_BUG_unmap_all))
        unmap_all(object);
    is_closed = close_kept(object, list, count) == WR_HOST_OK;
    count_dropped(object, list, count);
    for (uint32_t i = 0; i < count; i++)
        list[i].result = list[i].frame == WR_FRAME_NONE ? WR_REVOKED : WR_REVOKE_FAILED;
    /* No view lets a store through any more, and no fault gets past their locks: the bytes stay as
     * they are. A page that cannot be read is resident all the same, and its mappers stay named:
     * its next touch reveals it, or unprotects it where it is away. */
    if (is_closed)
        read_pages(object, list, count);
    for (uint32_t i = 0; i < count; i++)
        if (list[i].result == WR_REVOKED)
            punch_add(&punch, index_of(list[i].addr), 1);
    punch_now(&punch);
}

/* As many as there may be two copies of. */
static uint32_t lot_of(const struct wr_revoke *list, uint32_t count)
{
    uint32_t n = 0, copies = 0;

    while (n < count && (copies += list[n].frame != WR_FRAME_NONE) <= WR_RMAP_GROUP)
        n++;
    return n;
}

void wr_rmap_revoke(struct wr_space *space, struct wr_revoke *list, uint32_t count)
{
    while (count > 0) {
        struct weir_object *object;
        uint32_t n = alike(space, &list->addr, sizeof(*list), count, &object);

        if (object) {
            n = lot_of(list, n);
            revoke_of_object(object, list, n);
        } else {
            space->host->ops->revoke(space->host, list, n);
        }
        list += n;
        count -= n;
    }
}

uint32_t wr_rmap_copy(struct wr_space *space, const struct wr_copy *list, uint32_t count)
{
    struct wr_host *host = space->host;
    uint32_t done = 0;

    while (done < count) {
        struct weir_object *object;
        uint32_t n = alike(space, &list[done].addr, sizeof(*list), count - done, &object);
        uint32_t copied = 0;

        if (!object)
            copied = host->ops->copy(host, list + done, n);
        while (object && copied < n &&
               host->ops->object_read(host, object->memory, list[done + copied].addr & OFFSET_MASK,
                                      list[done + copied].frame, 1))
            copied++;
        done += copied;
        if (copied < n)
            break;
    }
    return done;
}

enum wr_hosted wr_rmap_protect(struct wr_space *space, uint64_t addr, uint32_t pages)
{
    struct gathering g = {.space = space, .call = protect_spans};

    if (!is_object(addr))
        return space->host->ops->protect(space->host, addr, pages, true);
    if (!space->host->protects_views)
        return WR_HOST_NOMEM;
    add_pages(&g, object_of(space, addr), index_of(addr), pages);
    flush(&g);
    return g.result;
}

/* A view of this process that shows the page and is not going. Inside the gate, it stays. */
static const struct wr_region *some_view(const struct weir_object *object, uint32_t page)
{
    uint32_t end = atomic_load(&object->views_end);

    for (uint32_t i = 0; i < end; i++) {
        const struct wr_region *view = atomic_load(&object->views[i]);

        if (view && !wr_is_away(view->addr) && page >= view->first && page < wr_region_end(view) &&
            !atomic_load(&view->is_going))
            return view;
    }
    return NULL;
}

enum wr_hosted wr_rmap_place(struct wr_space *space, uint64_t addr, const void *bytes)
{
    struct wr_host *host = space->host;
    const struct wr_region *view;
    uint32_t placed, page;

    if (!is_object(addr))
        return host->ops->place(host, addr, bytes, 1, true, &placed);
    page = object_of(space, addr)->region->first + index_of(addr);
    view = host->protects_views ? some_view(object_of(space, addr), page) : NULL;
    if (!view)
        return WR_HOST_NOMEM;
    wr_object_mapped(view, page, 1);
    return host->ops->place(host, wr_region_addr(view, page), bytes, 1, true, &placed);
}
