/* SPDX-License-Identifier: MIT */

/* Api: every function of weir_share.h: judge the arguments, then one call inward. */

#include <weir/weir_share.h>

#include "runtime/host/attach.h"
#include "runtime/host/link.h"
#include "runtime/share.h"

int weir_object_share(struct weir_object *object, const char *name)
{
    if (!object || !name || !wr_link_is_name(name))
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    return wr_share_show(object, name);
}

int weir_object_unshare(struct weir_object *object)
{
    if (!object)
        return WEIR_EINVAL;
    if (wr_runtime_is_forked())
        return WEIR_EFORKED;
    return wr_share_hide(wr_runtime_of(object->space), object);
}

int weir_attach(const char *name, const struct weir_attach_options *options,
                struct weir_attached **attached_p)
{
    if (!name || !wr_link_is_name(name) || !attached_p ||
        (options && options->size != sizeof(struct weir_attach_options)))
        return WEIR_EINVAL;
    return wr_attach(name, options, attached_p);
}

int weir_detach(struct weir_attached *attached)
{
    if (!attached)
        return WEIR_OK;
    if (wr_attached_is_forked(attached))
        return WEIR_EFORKED;
    wr_detach(attached);
    return WEIR_OK;
}

uint64_t weir_attached_bytes(const struct weir_attached *attached)
{
    return attached ? wr_attached_bytes(attached) : 0;
}

int weir_attached_map(struct weir_attached *attached, uint64_t offset, uint64_t bytes,
                      void **address_p)
{
    uint64_t addr;
    int error;

    if (!attached || bytes == 0 || !address_p)
        return WEIR_EINVAL;
    if (wr_attached_is_forked(attached))
        return WEIR_EFORKED;
    if (offset % WEIR_PAGE_BYTES != 0 || offset >= wr_attached_bytes(attached) ||
        bytes > wr_attached_bytes(attached) - offset)
        return WEIR_EINVAL;
    bytes = (bytes + WEIR_PAGE_BYTES - 1) / WEIR_PAGE_BYTES * WEIR_PAGE_BYTES;
    error = wr_attached_map(attached, offset, bytes, &addr);
    if (error == WEIR_OK)
        *address_p = (void *)(uintptr_t)addr;
    return error;
}

int weir_attached_pin(struct weir_attached *attached, void *address, uint64_t bytes,
                      enum weir_access access)
{
    if (!attached || (access != WEIR_READ && access != WEIR_WRITE))
        return WEIR_EINVAL;
    if (wr_attached_is_forked(attached))
        return WEIR_EFORKED;
    return wr_attached_pin(attached, (uintptr_t)address, bytes, access == WEIR_WRITE);
}

int weir_attached_unpin(struct weir_attached *attached, void *address, uint64_t bytes)
{
    if (!attached)
        return WEIR_EINVAL;
    if (wr_attached_is_forked(attached))
        return WEIR_EFORKED;
    return wr_attached_unpin(attached, (uintptr_t)address, bytes);
}

int weir_attached_unmap(struct weir_attached *attached, void *address)
{
    if (!attached || !address)
        return WEIR_EINVAL;
    if (wr_attached_is_forked(attached))
        return WEIR_EFORKED;
    return wr_attached_unmap(attached, (uintptr_t)address);
}
