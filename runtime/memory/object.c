/* SPDX-License-Identifier: MIT */
#include "runtime/memory/object.h"

#include <stdlib.h>

#include "runtime/base/reserve.h"
#include "runtime/memory/gate.h"

#define PAGE WEIR_PAGE_BYTES

static int refuse(struct wr_space *space, int error, const char *what)
{
    wr_event(&space->events, WEIR_FAILURE, error, 0, 0, what);
    return error;
}

/* --- Opening and closing --------------------------------------------------------------------- */

static uint32_t free_place(const struct wr_space *space)
{
    uint32_t i = 0;

    while (i < WR_OBJECTS_MAX && atomic_load(&space->objects[i]))
        i++;
    return i;
}

static uint64_t mappers_bytes(const struct weir_object *object)
{
    return object->bytes / PAGE * sizeof(*object->mappers);
}

static int build(struct weir_object *object, const char *name)
{
    struct wr_space *space = object->space;
    uint64_t addr = WR_OBJECT_ADDR | (uint64_t)object->place << WR_OBJECT_SHIFT;
    void *mappers;
    int error;

    if (wr_reserve(mappers_bytes(object), PAGE, &mappers) != 0)
        return refuse(space, WEIR_ENOMEM,
                      "the object's tables cannot be had: look at ulimit -v and "
                      "vm.overcommit_memory");
    object->mappers = mappers;
    error = space->host->ops->object_open(space->host, object->bytes, &object->memory);
    if (error != WEIR_OK)
        return refuse(space, error,
                      "the object's memory cannot be had: look at ulimit -n, ulimit -f and the "
                      "container's seccomp profile (memfd_create)");
    error = wr_space_map_object(space, object->bytes, name, object, addr, &object->region);
    if (error != WEIR_OK)
        space->host->ops->object_close(space->host, object->memory);
    return error;
}

int wr_object_open(struct wr_space *space, uint64_t bytes, const char *name,
                   struct weir_object **object_p)
{
    uint32_t place = free_place(space);
    struct weir_object *object;
    int error;

    if (!space->host->has_objects)
        return refuse(space, WEIR_ENOSUPPORT,
                      "this kernel cannot trap touches of shared memory: objects need Linux 5.14 "
                      "or later, and an ulimit -f that allows them; regions work");
    if (place == WR_OBJECTS_MAX)
        return refuse(space, WEIR_EBUSY, "a runtime has at most 1024 objects; close one first");
    if (bytes >= WR_OBJECT_BYTES - PAGE)
        return refuse(space, WEIR_EINVAL, "an object has less than 16 TiB");
    object = calloc(1, sizeof(*object));
    if (!object)
        return WEIR_ENOMEM;
    object->space = space;
    object->place = place;
    object->bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    error = build(object, name);
    if (error != WEIR_OK) {
        wr_unreserve(object->mappers, mappers_bytes(object));
        free(object);
        return error;
    }
    atomic_store(&space->objects[place], object);
    atomic_fetch_add(&space->objects_bytes, sizeof(*object) + mappers_bytes(object));
    *object_p = object;
    return WEIR_OK;
}

void wr_object_close(struct weir_object *object)
{
    struct wr_space *space = object->space;

    atomic_store(&space->objects[object->place], NULL);
    atomic_fetch_sub(&space->objects_bytes, sizeof(*object) + mappers_bytes(object));
    wr_gate_wait(space->host); /* a report may be counting it */
    space->host->ops->object_close(space->host, object->memory);
    wr_unreserve(object->mappers, mappers_bytes(object));
    free(object);
}

/* --- Views ----------------------------------------------------------------------------------- */

static uint32_t free_view(const struct weir_object *object)
{
    uint32_t i = 0;

    while (i < WR_VIEWS_MAX && atomic_load(&object->views[i]))
        i++;
    return i;
}

/* addr 0: at an address of the host's choice. */
static int add_view(struct weir_object *object, uint64_t offset, uint64_t bytes, uint64_t addr,
                    struct wr_region **view_p)
{
    struct wr_space *space = object->space;
    uint32_t number = free_view(object);
    struct wr_region *view;
    int error;

    if (number == WR_VIEWS_MAX)
        return refuse(space, WEIR_EBUSY, "an object has at most 4096 views; unmap one first");
    view = calloc(1, sizeof(*view));
    if (!view)
        return WEIR_ENOMEM;
    /* What knows a region by its serial, as readahead does, is about the object's pages. */
    *view = (struct wr_region){
        .space = space,
        .addr = addr,
        .bytes = bytes,
        .reserve_bytes = bytes,
        .first = object->region->first + (uint32_t)(offset / PAGE),
        .pages = (uint32_t)(bytes / PAGE),
        .reserve_pages = (uint32_t)(bytes / PAGE),
        .serial = object->region->serial,
        .number = object->region->number,
        .object = object,
        .view = number,
    };
    error = addr ? WEIR_OK
                 : space->host->ops->view_map(space->host, object->memory, offset, bytes, &addr);
    if (error == WEIR_OK) {
        view->addr = addr;
        atomic_store(&object->views[number], view);
        if (number >= atomic_load(&object->views_end))
            atomic_store(&object->views_end, number + 1);
        error = wr_region_publish(view);
        if (error != WEIR_OK) {
            atomic_store(&object->views[number], NULL);
            wr_gate_wait(space->host); /* reclaim may have seen it */
            space->host->ops->region_unmap(space->host, addr, bytes);
        }
    }
    if (error != WEIR_OK) {
        free(view);
        return refuse(space, error,
                      "the view could not be mapped: look at ulimit -v and vm.max_map_count; a "
                      "process has at most 16384 regions and views");
    }
    object->view_count++;
    *view_p = view;
    return WEIR_OK;
}

int wr_object_map_view(struct weir_object *object, uint64_t offset, uint64_t bytes,
                       struct wr_region **view_p)
{
    return add_view(object, offset, bytes, 0, view_p);
}

int wr_object_adopt_view(struct weir_object *object, uint64_t offset, uint64_t bytes, uint64_t addr,
                         struct wr_region **view_p)
{
    return add_view(object, offset, bytes, addr, view_p);
}

void wr_object_unmap_view(struct wr_region *view)
{
    struct wr_host *host = view->space->host;

    WR_CHECK(atomic_load(&view->is_going));
    wr_gate_wait(host); /* who was being served is done; who comes now sees that it is going */
    host->ops->region_seal(host, view->addr, view->bytes);
    /* Whoever takes a page now need not know the view any more; who has looked it up already leaves
     * the gate before its addresses are given to anybody else: retracting waits for that. */
    atomic_store(&view->object->views[view->view], NULL);
    wr_region_retract(view);
    host->ops->region_unmap(host, view->addr, view->bytes);
}

struct wr_region *wr_object_home(struct wr_region *region)
{
    return region->object ? region->object->region : region;
}

void wr_object_mapped(const struct wr_region *region, uint32_t page, uint32_t pages)
{
    struct weir_object *object = region->object;

    for (uint32_t i = 0; object && i < pages; i++) {
        uint64_t *word = &object->mappers[page + i - object->region->first];

        *word = wr_mappers_add(*word, region->view);
    }
}
