/* SPDX-License-Identifier: MIT */
#include "runtime/base/reserve.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

static void unmap_between(uint64_t from, uint64_t to)
{
    if (to > from)
        munmap((void *)(uintptr_t)from, to - from);
}

static uint64_t whole_pages(uint64_t bytes)
{
    return (bytes + 4095) & ~(uint64_t)4095;
}

int wr_reserve(uint64_t given_bytes, uint64_t alignment, void **area_p)
{
    uint64_t bytes = whole_pages(given_bytes);
    uint64_t room = bytes + alignment;
    /* Without access first: what mlockall() has asked for would be filled before we could say no.
     */
    void *mapped = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint64_t begin = (uintptr_t)mapped;
    uint64_t at = (begin + alignment - 1) & ~(alignment - 1);
    void *area = (void *)(uintptr_t)at;

    if (mapped == MAP_FAILED)
        return errno;
    unmap_between(begin, at);
    unmap_between(at + bytes, begin + room);
    munlock(area, bytes);
    if (mprotect(area, bytes, PROT_READ | PROT_WRITE) != 0 ||
        madvise(area, bytes, MADV_DONTFORK) != 0) {
        int error = errno;

        munmap(area, bytes);
        return error;
    }
    madvise(area, bytes, MADV_DONTDUMP);
    *area_p = area;
    return 0;
}

void wr_unreserve(void *area, uint64_t bytes)
{
    if (area)
        munmap(area, whole_pages(bytes));
}
