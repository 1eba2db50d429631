/* SPDX-License-Identifier: MIT */
#pragma once

/* The next function of a name, behind ours. Looked for once: dlsym() may allocate. */

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static inline void *wr_next(_Atomic(void *) *found, const char *name)
{
    void *next = atomic_load_explicit(found, memory_order_relaxed);

    if (next)
        return next;
    next = dlsym(RTLD_NEXT, name);
    if (!next)
        abort(); /* who calls it was linked to a C library that has it */
    atomic_store_explicit(found, next, memory_order_relaxed);
    return next;
}

#define NEXT(name)                             \
    __extension__({                            \
        static _Atomic(void *) found_;         \
        void *next_ = wr_next(&found_, #name); \
        __typeof__(&name) call_;               \
        memcpy(&call_, &next_, sizeof(call_)); \
        call_;                                 \
    })
