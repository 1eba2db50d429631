/* SPDX-License-Identifier: MIT */

/* Objects of a runtime: they go with their last view. */

#include <stdlib.h>

#include "runtime/memory/gate.h"
#include "runtime/share.h"

int wr_runtime_create(struct weir_runtime *rt, uint64_t bytes, const char *name,
                      struct weir_object **object_p)
{
    int error;

    wr_lock_take(&rt->lock);
    wr_runtime_make_room(rt, bytes, 0);
    error = wr_object_open(&rt->space, bytes, name, object_p);
    wr_lock_drop(&rt->lock);
    return error;
}

int wr_runtime_map_view(struct weir_object *object, uint64_t offset, uint64_t bytes,
                        struct wr_region **view_p)
{
    struct weir_runtime *rt = wr_runtime_of(object->space);
    int error;

    wr_lock_take(&rt->lock);
    error = wr_object_map_view(object, offset, bytes, view_p);
    wr_lock_drop(&rt->lock);
    return error;
}

int wr_runtime_adopt_view(struct weir_object *object, uint64_t offset, uint64_t bytes,
                          uint64_t addr)
{
    struct weir_runtime *rt = wr_runtime_of(object->space);
    struct wr_region *view;
    int error;

    wr_lock_take(&rt->lock);
    error = wr_object_adopt_view(object, offset, bytes, addr, &view);
    wr_lock_drop(&rt->lock);
    return error;
}

/* Under WR_RANK_RUNTIME. */
static bool is_last_use(const struct weir_object *object)
{
    return object->is_closed && object->view_count == 0 && object->peer_count == 0;
}

static void end_object(struct weir_runtime *rt, struct weir_object *object)
{
    struct wr_region *region = object->region;

    atomic_store(&region->is_going, true);
    wr_runtime_empty(rt, region);
    wr_space_unmap(&rt->space, region);
    wr_object_close(object);
    wr_lock_take(&rt->lock);
    wr_space_remove(&rt->space, region);
    wr_lock_drop(&rt->lock);
}

void wr_runtime_close_object(struct weir_object *object)
{
    struct weir_runtime *rt = wr_runtime_of(object->space);
    bool is_last;

    wr_share_hide(rt, object);
    wr_lock_take(&rt->lock);
    object->is_closed = true;
    is_last = is_last_use(object);
    wr_lock_drop(&rt->lock);
    if (is_last)
        end_object(rt, object);
}

void wr_runtime_leave_object(struct weir_object *object)
{
    struct weir_runtime *rt = wr_runtime_of(object->space);
    bool is_last;

    wr_lock_take(&rt->lock);
    object->peer_count--;
    is_last = is_last_use(object);
    wr_lock_drop(&rt->lock);
    if (is_last)
        end_object(rt, object);
}

/* The view that begins there and that nobody else unmaps, marked as going; or NULL. */
static struct wr_region *claim_view(struct weir_runtime *rt, uint64_t addr)
{
    struct wr_region *view;
    struct wr_pass pass;

    wr_lock_take(&rt->lock);
    pass = wr_gate_enter();
    view = wr_region_find(addr);
    if (view && (view->addr != addr || view->space != &rt->space || !view->object ||
                 atomic_exchange(&view->is_going, true)))
        view = NULL;
    wr_gate_leave(pass);
    wr_lock_drop(&rt->lock);
    return view;
}

int wr_runtime_unmap_view(struct weir_runtime *rt, uint64_t addr)
{
    struct wr_region *view = claim_view(rt, addr);
    struct weir_object *object;
    bool is_last;

    if (!view)
        return WEIR_ENOENT;
    object = view->object;
    wr_object_unmap_view(view);
    wr_lock_take(&rt->lock);
    object->view_count--;
    is_last = is_last_use(object);
    wr_lock_drop(&rt->lock);
    free(view);
    if (is_last)
        end_object(rt, object);
    return WEIR_OK;
}

void wr_runtime_end_objects(struct weir_runtime *rt)
{
    for (uint32_t i = 0; i < WR_OBJECTS_MAX; i++) {
        struct weir_object *object = atomic_load(&rt->space.objects[i]);
        uint32_t end = object ? atomic_load(&object->views_end) : 0;

        if (!object)
            continue;
        object->is_closed = false; /* it is ended here */
        for (uint32_t k = 0; k < end; k++) {
            const struct wr_region *view = atomic_load(&object->views[k]);

            if (view)
                WR_CHECK(wr_runtime_unmap_view(rt, view->addr) == WEIR_OK);
        }
        end_object(rt, object);
    }
}
