/* SPDX-License-Identifier: MIT */

/* Api: every function of weir_object.h: judge the arguments, then one call inward. */

#include <weir/weir_object.h>

#include "runtime/base/signals.h"
#include "runtime/runtime.h"

int weir_object_create(struct weir_runtime *rt, uint64_t bytes,
                       const struct weir_region_options *options, struct weir_object **object_p)
{
    sigset_t before;
    int error;

    if (!rt || bytes == 0 || !object_p ||
        (options && options->size != sizeof(struct weir_region_options)))
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    if (options && options->reattach)
        return WEIR_ENOSUPPORT;
    wr_signals_hold(&before);
    error = wr_runtime_create(rt, bytes, options ? options->name : NULL, object_p);
    wr_signals_let(&before);
    return error;
}

int weir_object_close(struct weir_object *object)
{
    sigset_t before;

    if (!object)
        return WEIR_OK;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    wr_signals_hold(&before);
    wr_runtime_close_object(object);
    wr_signals_let(&before);
    return WEIR_OK;
}

int weir_view_map(struct weir_object *object, uint64_t offset, uint64_t bytes, void **address_p)
{
    struct wr_region *view;
    uint64_t rest;
    int error;

    if (!object || bytes == 0 || !address_p)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    if (offset % WEIR_PAGE_BYTES != 0 || offset >= object->bytes)
        return WEIR_EINVAL;
    rest = object->bytes - offset;
    if (bytes > rest)
        return WEIR_EINVAL;
    bytes = (bytes + WEIR_PAGE_BYTES - 1) / WEIR_PAGE_BYTES * WEIR_PAGE_BYTES;
    error = wr_runtime_map_view(object, offset, bytes, &view);
    if (error == WEIR_OK)
        *address_p = (void *)(uintptr_t)view->addr;
    return error;
}
