/* SPDX-License-Identifier: MIT */

/*
 * Objects: a memfd each, and views of it.
 *
 * Nothing of the runtime maps an object: it is read and written through its descriptor. So to free
 * a page costs no look at a mapping of ours, and no load of ours can meet a page that is gone.
 */

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/base/reserve.h"
#include "runtime/host/linux.h"
#include "runtime/host/uapi.h"

#define PAGE       ((uint64_t)WEIR_PAGE_BYTES)
#define VIEW_ALIGN (2ull << 20)
#define AGAIN_MAX  1000

static struct wr_linux_host *linux_host(struct wr_host *host)
{
    return (struct wr_linux_host *)(void *)host;
}

static int linux_object_open(struct wr_host *host, uint64_t bytes, int *object_p)
{
    int fd = wr_object_memory("weir", bytes);

    (void)host;
    if (fd < 0 && errno == EFBIG)
        return WEIR_EINVAL;
    if (fd < 0)
        return errno == EPERM || errno == EACCES ? WEIR_EDENIED : WEIR_ENOMEM;
    *object_p = fd;
    return WEIR_OK;
}

static void linux_object_close(struct wr_host *host, int object)
{
    (void)host;
    close(object);
}

/* First without access: what mlockall() has asked for would be filled. */
int wr_object_map_quiet(int object, uint64_t offset, uint64_t bytes, void **area_p)
{
    void *area;
    int error = wr_reserve(bytes, VIEW_ALIGN, &area);

    if (error)
        return error;
    *area_p = area;
    if (mmap(area, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, object,
             (off_t)offset) == MAP_FAILED ||
        munlock(area, bytes) != 0 || madvise(area, bytes, MADV_DONTFORK) != 0) {
        error = errno;
        munmap(area, bytes);
        return error;
    }
    madvise(area, bytes, MADV_DONTDUMP);
    madvise(area, bytes, MADV_NOHUGEPAGE); /* EINVAL where there are none */
    return 0;
}

static int linux_view_map(struct wr_host *host, int object, uint64_t offset, uint64_t bytes,
                          uint64_t *addr_p)
{
    struct uffdio_register request = {
        .range.len = bytes,
        .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
                (host->protects_views ? UFFDIO_REGISTER_MODE_WP : 0),
    };
    void *area;
    int error = wr_object_map_quiet(object, offset, bytes, &area);

    if (error)
        return error == EPERM || error == EACCES ? WEIR_EDENIED : WEIR_ENOMEM;
    request.range.start = (uintptr_t)area;
    if (ioctl(linux_host(host)->uffd, UFFDIO_REGISTER, &request) != 0 ||
        mprotect(area, bytes, PROT_READ | PROT_WRITE) != 0) {
        munmap(area, bytes);
        return WEIR_ENOMEM;
    }
    *addr_p = (uintptr_t)area;
    return WEIR_OK;
}

static enum wr_hosted revealed_of(int error)
{
    switch (error) {
    case EEXIST: return WR_HOST_EXISTS;
    case EFAULT: return WR_HOST_HOLE;
    case EAGAIN:
    case ENOMEM: return WR_HOST_NOMEM;
    default: return WR_HOST_GONE;
    }
}

static enum wr_hosted linux_reveal(struct wr_host *host, uint64_t addr, uint32_t pages,
                                   bool protect, uint32_t *done_p)
{
    uint64_t length = pages * PAGE, done = 0;
    enum wr_hosted result = WR_HOST_OK;
    int trap = wr_linux_trap(linux_host(host), &addr);

    for (int again = 0; done < length && result == WR_HOST_OK;) {
        struct uffdio_continue request = {
            .range = {.start = addr + done, .len = length - done},
            .mode = UFFDIO_CONTINUE_MODE_DONTWAKE | (protect ? UFFDIO_CONTINUE_MODE_WP : 0),
        };

        if (ioctl(trap, UFFDIO_CONTINUE, &request) == 0)
            done = length;
        else if (request.mapped > 0)
            done += (uint64_t)request.mapped;
        else if (errno != EAGAIN || ++again > AGAIN_MAX)
            result = revealed_of(errno);
    }
    *done_p = (uint32_t)(done / PAGE);
    return result;
}

static bool linux_object_read(struct wr_host *host, int object, uint64_t offset, uint32_t frame,
                              uint32_t pages)
{
    uint8_t *to = wr_host_frame(host, frame);
    uint64_t done = 0;

    while (done < pages * PAGE) {
        ssize_t part = syscall(SYS_pread64, object, to + done, pages * PAGE - done, offset + done);

        if (part > 0)
            done += (uint64_t)part;
        else if (part == 0 || errno != EINTR)
            return false;
    }
    return true;
}

static void linux_object_punch(struct wr_host *host, int object, uint64_t offset, uint32_t pages)
{
    (void)host;
    WR_CHECK(wr_object_hole(object, offset, pages * PAGE));
}

void wr_linux_add_objects(struct wr_host_ops *ops)
{
    ops->object_open = linux_object_open;
    ops->object_close = linux_object_close;
    ops->view_map = linux_view_map;
    ops->reveal = linux_reveal;
    ops->object_read = linux_object_read;
    ops->object_punch = linux_object_punch;
}
