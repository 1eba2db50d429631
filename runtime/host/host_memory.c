/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "runtime/base/reserve.h"
#include "runtime/host/linux.h"
#include "runtime/host/uapi.h"

#define PAGE         ((uint64_t)WEIR_PAGE_BYTES)
#define REGION_ALIGN (2ull << 20) /* a page table's reach: whole tables can be given back */
#define DROP_VECTOR  128          /* spans of one process_madvise()                       */
#define COPY_VECTOR  64           /* pages of one process_vm_readv()                       */
#define AGAIN_MAX    1000         /* the address space changes under us: bounded patience */

static struct wr_linux_host *linux_host(struct wr_host *host)
{
    return (struct wr_linux_host *)(void *)host;
}

static void *pointer_of(uint64_t addr)
{
    return (void *)(uintptr_t)addr;
}

static int refused(int error)
{
    return error == EPERM || error == EACCES ? WEIR_EDENIED : WEIR_ENOMEM;
}

static int map_quiet(uint64_t bytes, uint64_t *addr_p)
{
    void *area;
    int error = wr_reserve(bytes, REGION_ALIGN, &area);

    if (error)
        return refused(error);
    madvise(area, bytes, MADV_NOHUGEPAGE); /* EINVAL where there are none */
    *addr_p = (uintptr_t)area;
    return WEIR_OK;
}

static int watch(struct wr_linux_host *linux, uint64_t addr, uint64_t bytes, uint64_t mode)
{
    struct uffdio_register request = {.range = {.start = addr, .len = bytes}, .mode = mode};

    return ioctl(linux->uffd, UFFDIO_REGISTER, &request) == 0 ? WEIR_OK : refused(errno);
}

static int linux_frames_map(struct wr_host *host, uint32_t slab_pages, uint32_t staging_pages)
{
    struct wr_linux_host *linux = linux_host(host);
    uint64_t slab = slab_pages * PAGE;
    uint64_t staging = staging_pages * PAGE;
    uint64_t addr;
    int error = map_quiet(slab + staging, &addr);

    if (error != WEIR_OK)
        return error;
    /* Staging is watched for stores only because UFFDIO_MOVE wants its target watched; nothing
     * there is ever protected, so nothing there ever traps. */
    error = watch(linux, addr + slab, staging, UFFDIO_REGISTER_MODE_WP);
    if (error != WEIR_OK) {
        munmap(pointer_of(addr), slab + staging);
        return error;
    }
    host->frames = pointer_of(addr);
    host->slab_pages = slab_pages;
    linux->frames_bytes = slab + staging;
    return WEIR_OK;
}

static void linux_frames_unmap(struct wr_host *host)
{
    if (host->frames)
        munmap(host->frames, linux_host(host)->frames_bytes);
    host->frames = NULL;
}

static int linux_region_map(struct wr_host *host, uint64_t bytes, uint64_t *addr_p)
{
    uint64_t addr;
    int error = map_quiet(bytes, &addr);

    if (error != WEIR_OK)
        return error;
    error = watch(linux_host(host), addr, bytes,
                  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
    if (error != WEIR_OK) {
        munmap(pointer_of(addr), bytes);
        return error;
    }
    *addr_p = addr;
    return WEIR_OK;
}

static int linux_region_guard(struct wr_host *host, uint64_t addr, uint64_t bytes, bool on)
{
    (void)host;
    return mprotect(pointer_of(addr), bytes, on ? PROT_NONE : PROT_READ | PROT_WRITE) == 0
               ? WEIR_OK
               : WEIR_ENOMEM;
}

static void linux_region_seal(struct wr_host *host, uint64_t addr, uint64_t bytes)
{
    (void)host;
    if (wr_is_away(addr))
        return;
    /* In one step: at no moment can anybody else be given these addresses. */
    if (mmap(pointer_of(addr), bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        mprotect(pointer_of(addr), bytes, PROT_NONE);
}

static void linux_region_unmap(struct wr_host *host, uint64_t addr, uint64_t bytes)
{
    (void)host;
    if (!wr_is_away(addr))
        munmap(pointer_of(addr), bytes);
}

static enum wr_hosted hosted_of(int error)
{
    switch (error) {
    case EEXIST: return WR_HOST_EXISTS;
    case ENOMEM: return WR_HOST_NOMEM;
    default: return WR_HOST_GONE; /* ENOENT, EINVAL, ESRCH: no such area of ours any more */
    }
}

static enum wr_hosted linux_place(struct wr_host *host, uint64_t addr, const void *bytes,
                                  uint32_t pages, bool protect, uint32_t *done_p)
{
    uint64_t length = pages * PAGE;
    uint64_t done = 0;
    enum wr_hosted result = WR_HOST_OK;
    int trap = wr_linux_trap(linux_host(host), &addr);

    for (int again = 0; done < length;) {
        struct uffdio_copy request = {
            .dst = addr + done,
            .src = (uintptr_t)bytes + done,
            .len = length - done,
            .mode = UFFDIO_COPY_MODE_DONTWAKE | (protect ? UFFDIO_COPY_MODE_WP : 0),
        };

        if (ioctl(trap, UFFDIO_COPY, &request) == 0) {
            done = length;
            break;
        }
        if (request.copy > 0) {
            done += (uint64_t)request.copy;
        } else if (errno != EAGAIN || ++again > AGAIN_MAX) {
            result = hosted_of(errno);
            break;
        }
    }
    *done_p = (uint32_t)(done / PAGE);
    return result;
}

/* 0, or errno. */
static int change_protection(int trap, uint64_t addr, uint64_t pages, bool on)
{
    struct uffdio_writeprotect request = {
        .range = {.start = addr, .len = pages * PAGE},
        .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : UFFDIO_WRITEPROTECT_MODE_DONTWAKE,
    };

    for (int again = 0; ioctl(trap, UFFDIO_WRITEPROTECT, &request) != 0;)
        if (errno != EAGAIN || ++again > AGAIN_MAX)
            return errno;
    return 0;
}

/* When this succeeds no store of that process can reach the pages: one that has ended maps nothing,
 * and nothing is mapped where it has unmapped some of them by itself. */
static enum wr_hosted protect_away(int trap, uint64_t addr, uint32_t pages)
{
    int error = change_protection(trap, addr, pages, true);

    if (error == 0 || error == ESRCH)
        return WR_HOST_OK;
    for (uint32_t i = 0; error == ENOENT && i < pages; i++) {
        error = change_protection(trap, addr + i * PAGE, 1, true);
        if (error == 0)
            error = ENOENT; /* the next */
    }
    return error == ENOENT || error == ESRCH ? WR_HOST_OK : WR_HOST_NOMEM;
}

static enum wr_hosted linux_protect(struct wr_host *host, uint64_t addr, uint32_t pages, bool on)
{
    bool is_away = wr_is_away(addr);
    int trap = wr_linux_trap(linux_host(host), &addr), error;

    if (is_away && on)
        return protect_away(trap, addr, pages);
    error = change_protection(trap, addr, pages, on);
    return error ? hosted_of(error) : WR_HOST_OK;
}

/* Which of these pages are not the system's zero page? All of them, where nobody can tell: a page
 * that was stored to must not be taken for one of zeros. */
static uint64_t owned_pages(const struct wr_linux_host *linux, uint64_t addr, uint32_t pages)
{
    uint64_t entry[64], owned = 0;
    ssize_t wanted = (ssize_t)(pages * sizeof(entry[0]));

    WR_CHECK(pages <= 64);
    if (!linux->probe.tells_zero_pages || pread(linux->pagemap_fd, entry, (size_t)wanted,
                                                (off_t)(addr / PAGE * sizeof(entry[0]))) != wanted)
        return UINT64_MAX;
    for (uint32_t i = 0; i < pages; i++)
        if (!wr_pagemap_is_zero_page(entry[i]))
            owned |= 1ull << i;
    return owned;
}

static enum wr_hosted linux_place_zero(struct wr_host *host, uint64_t addr, uint32_t pages,
                                       uint32_t *done_p, uint64_t *owned_p)
{
    struct wr_linux_host *linux = linux_host(host);
    enum wr_hosted result = WR_HOST_OK;
    uint64_t length = pages * PAGE, done = 0;

    for (int again = 0; done < length && result == WR_HOST_OK;) {
        struct uffdio_zeropage request = {.range = {.start = addr + done, .len = length - done},
                                          .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE};

        if (ioctl(linux->uffd, UFFDIO_ZEROPAGE, &request) == 0)
            done = length;
        else if (request.zeropage > 0)
            done += (uint64_t)request.zeropage;
        else if (errno != EAGAIN || ++again > AGAIN_MAX)
            result = hosted_of(errno);
    }
    /* What is mapped stays, even when not all of it is: it may have been stored to already. */
    *done_p = (uint32_t)(done / PAGE);
    *owned_p = UINT64_MAX;
    if (done > 0 && linux_protect(host, addr, *done_p, true) == WR_HOST_OK)
        *owned_p = owned_pages(linux, addr, *done_p);
    return result;
}

/* The kernel copies here too: a page that the program dropped ends it instead of raising SIGBUS. */
static uint32_t linux_copy(struct wr_host *host, const struct wr_copy *list, uint32_t count)
{
    struct iovec to[COPY_VECTOR], from[COPY_VECTOR];
    uint32_t done = 0;

    while (done < count) {
        uint32_t part = count - done < COPY_VECTOR ? count - done : COPY_VECTOR;
        ssize_t copied;

        for (uint32_t i = 0; i < part; i++) {
            to[i] = (struct iovec){wr_host_frame(host, list[done + i].frame), PAGE};
            from[i] = (struct iovec){pointer_of(list[done + i].addr), PAGE};
        }
        copied = syscall(SYS_process_vm_readv, getpid(), to, part, from, part, 0);
        if (copied > 0)
            done += (uint32_t)((uint64_t)copied / PAGE);
        if (copied < (ssize_t)(part * PAGE))
            break;
    }
    return done;
}

static void drop_one(const struct wr_span *span)
{
    if (madvise(pointer_of(span->addr), span->pages * PAGE, MADV_DONTNEED) == 0)
        return;
        /* The application has locked it in memory. */
#ifdef MADV_DONTNEED_LOCKED
    if (errno == EINVAL)
        madvise(pointer_of(span->addr), span->pages * PAGE, MADV_DONTNEED_LOCKED);
#endif
}

/* Up to DROP_VECTOR spans by one system call and one flush of the CPUs' translations. */
static bool drop_vector(struct wr_linux_host *linux, const struct wr_span *spans, uint32_t count)
{
    struct iovec iov[DROP_VECTOR];
    long length = 0;

    for (uint32_t i = 0; i < count; i++) {
        iov[i] = (struct iovec){pointer_of(spans[i].addr), spans[i].pages * PAGE};
        length += (long)iov[i].iov_len;
    }
    return syscall(SYS_process_madvise, linux->pidfd, iov, count, MADV_DONTNEED, 0) == length;
}

static void linux_drop(struct wr_host *host, const struct wr_span *spans, uint32_t count)
{
    struct wr_linux_host *linux = linux_host(host);

    while (count > 0) {
        uint32_t part = count < DROP_VECTOR ? count : DROP_VECTOR;

        /* After a partial success it is harmless to drop again: the pages are locked. */
        if (part == 1 || !linux->probe.has_vector_drop || !drop_vector(linux, spans, part))
            for (uint32_t i = 0; i < part; i++)
                drop_one(&spans[i]);
        spans += part;
        count -= part;
    }
}

static enum wr_hosted linux_stage(struct wr_host *host, uint32_t frame, const void *bytes)
{
    uint32_t placed;

    return linux_place(host, (uintptr_t)wr_host_frame(host, frame), bytes, 1, false, &placed);
}

static enum wr_hosted linux_populate(struct wr_host *host, uint32_t frame, uint32_t pages)
{
    /* One call for all of them. A kernel before 5.14 refuses it, and populates by the read. */
    if (madvise(wr_host_frame(host, frame), pages * PAGE, MADV_POPULATE_WRITE) == 0 ||
        errno == EINVAL)
        return WR_HOST_OK;
    return WR_HOST_NOMEM;
}

static const uint8_t *linux_look(struct wr_host *host, uint32_t frame, uint32_t pages,
                                 uint8_t *room)
{
    struct iovec from = {wr_host_frame(host, frame), pages * PAGE}, to = {room, pages * PAGE};

    WR_CHECK(pages <= WR_LOOK_PAGES);
    if (linux_host(host)->probe.looks_by_copy &&
        syscall(SYS_process_vm_readv, getpid(), &to, 1, &from, 1, 0) == (long)(pages * PAGE))
        return room;
    return from.iov_base;
}

static void linux_release(struct wr_host *host, uint32_t frame, uint32_t pages)
{
    madvise(wr_host_frame(host, frame), pages * PAGE, MADV_DONTNEED);
}

/* How many entries from the first on are neighbours both as pages and as frames? */
static uint32_t run_length(const struct wr_revoke *list, uint32_t count)
{
    uint32_t n = 1;

    while (n < count && list[n].addr == list[0].addr + n * PAGE &&
           list[n].frame == list[0].frame + n)
        n++;
    return n;
}

static enum wr_revoked revoked_of(int error)
{
    switch (error) {
    case EBUSY: return WR_REVOKE_PINNED;
    case EINVAL: return WR_REVOKE_PINNED; /* locked in memory by the application */
    case ENOENT: return WR_REVOKE_MISSING;
    default: return WR_REVOKE_FAILED;
    }
}

static void revoke_by_move(struct wr_linux_host *linux, struct wr_revoke *list, uint32_t count)
{
    int again = 0;

    for (uint32_t i = 0; i < count;) {
        uint32_t run = run_length(list + i, count - i);
        struct uffdio_move request = {
            .dst = (uintptr_t)wr_host_frame(&linux->host, list[i].frame),
            .src = list[i].addr,
            .len = run * PAGE,
            .mode = 1, /* do not wake anybody: nobody sleeps in SIGBUS mode */
        };
        int error = ioctl(linux->uffd, UFFDIO_MOVE, &request) == 0 ? 0 : errno;

        for (; request.move >= (int64_t)PAGE && run > 0; request.move -= (int64_t)PAGE, run--)
            list[i++].result = WR_REVOKED;
        if (run == 0 || error == 0)
            continue;
        if (error == EAGAIN && ++again < AGAIN_MAX)
            continue;
        list[i++].result = revoked_of(error);
    }
}

/* Those that are protected now are marked as if they were revoked already. */
static void protect_runs(struct wr_linux_host *linux, struct wr_revoke *list, uint32_t count)
{
    for (uint32_t i = 0; i < count;) {
        enum wr_hosted result;
        uint32_t run = 1;

        while (i + run < count && list[i + run].addr == list[i].addr + run * PAGE)
            run++;
        result = linux_protect(&linux->host, list[i].addr, run, true);
        for (uint32_t end = i + run; i < end; i++)
            list[i].result = result == WR_HOST_OK ? WR_REVOKED : WR_REVOKE_FAILED;
    }
}

/* The kernel copies, so that a page dropped by the application is an error and not a signal. */
static enum wr_revoked copy_page(struct wr_linux_host *linux, uint64_t from, uint64_t to)
{
    for (int again = 0; again < AGAIN_MAX; again++) {
        struct uffdio_copy request = {
            .dst = to,
            .src = from,
            .len = PAGE,
            .mode = UFFDIO_COPY_MODE_DONTWAKE,
        };

        if (ioctl(linux->uffd, UFFDIO_COPY, &request) == 0)
            return WR_REVOKED;
        if (errno == EFAULT)
            return WR_REVOKE_MISSING;
        if (errno != EAGAIN)
            break;
    }
    return WR_REVOKE_FAILED;
}

/* Between copy and drop. In tests others run here: what a store may do to a page that is being
 * taken, it then does (and to the naive engine, which does not protect, it must). */
static void linger(void)
{
#ifdef WR_TESTING
    sched_yield();
#endif
}

static void copy_and_drop(struct wr_linux_host *linux, struct wr_revoke *list, uint32_t count)
{
    struct wr_span spans[WR_TRANSIENT];
    uint32_t span_count = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (list[i].result == WR_REVOKED)
            list[i].result = copy_page(linux, list[i].addr,
                                       (uintptr_t)wr_host_frame(&linux->host, list[i].frame));
        if (list[i].result == WR_REVOKED)
            spans[span_count++] = (struct wr_span){list[i].addr, 1};
    }
    linger();
    linux_drop(&linux->host, spans, span_count);
}

static void linux_revoke(struct wr_host *host, struct wr_revoke *list, uint32_t count)
{
    struct wr_linux_host *linux = linux_host(host);

    if (linux->engine == WR_ENGINE_MOVE) {
        revoke_by_move(linux, list, count);
        return;
    }
    while (count > 0) {
        uint32_t part = count < WR_TRANSIENT ? count : WR_TRANSIENT;

        if (linux->engine == WR_ENGINE_WP)
            protect_runs(linux, list, part);
        else
            for (uint32_t i = 0; i < part; i++)
                list[i].result = WR_REVOKED; /* naive: as if there were nothing to protect from */
        copy_and_drop(linux, list, part);
        list += part;
        count -= part;
    }
}

static enum wr_revoked relocate_by_move(struct wr_linux_host *linux, uint64_t from, uint64_t to,
                                        uint32_t pages, uint32_t *done_p)
{
    uint64_t done = 0, length = pages * PAGE;
    int error = 0;

    for (int again = 0; done < length;) {
        struct uffdio_move request = {
            .dst = to + done, .src = from + done, .len = length - done, .mode = 1};

        error = ioctl(linux->uffd, UFFDIO_MOVE, &request) == 0 ? 0 : errno;
        if (error == 0)
            done = length;
        else if (request.move > 0)
            done += (uint64_t)request.move;
        else if (error != EAGAIN || ++again > AGAIN_MAX)
            break;
    }
    *done_p = (uint32_t)(done / PAGE);
    return done == length ? WR_REVOKED : revoked_of(error);
}

/* As wp revokes: who would store while it is copied traps, and waits for the page's lock. */
static enum wr_revoked relocate_by_copy(struct wr_linux_host *linux, uint64_t from, uint64_t to,
                                        uint32_t pages, uint32_t *done_p)
{
    enum wr_revoked result = WR_REVOKED;
    struct wr_span span = {from, 0};

    *done_p = 0;
    if (linux_protect(&linux->host, from, pages, true) != WR_HOST_OK)
        return WR_REVOKE_FAILED;
    while (span.pages < pages && result == WR_REVOKED) {
        result = copy_page(linux, from + span.pages * PAGE, to + span.pages * PAGE);
        span.pages += result == WR_REVOKED;
    }
    if (span.pages > 0)
        linux_drop(&linux->host, &span, 1);
    *done_p = span.pages;
    return result;
}

static enum wr_revoked linux_relocate(struct wr_host *host, uint64_t from, uint64_t to,
                                      uint32_t pages, uint32_t *done_p)
{
    struct wr_linux_host *linux = linux_host(host);

    if (host->relocates_by_copy)
        return relocate_by_copy(linux, from, to, pages, done_p);
    return relocate_by_move(linux, from, to, pages, done_p);
}

static bool linux_is_mapped(struct wr_host *host, uint64_t addr)
{
    unsigned char there = 0;

    (void)host;
    if (wr_is_away(addr)) /* the kernel has just said that something is there */
        return true;
    return mincore(pointer_of(addr), PAGE, &there) == 0 && (there & 1);
}

static int linux_facts(struct wr_host *host, uint64_t addr, uint32_t pages, uint8_t *facts)
{
    struct wr_linux_host *linux = linux_host(host);
    struct page_region found[64];
    uint64_t end = addr + pages * PAGE;

    if (!linux->probe.has_pagemap_scan)
        return WEIR_ENOSUPPORT;
    memset(facts, 0, pages);
    for (uint64_t from = addr; from < end;) {
        struct pm_scan_arg arg = {
            .size = sizeof(arg),
            .start = from,
            .end = end,
            .vec = (uintptr_t)found,
            .vec_len = 64,
            .category_mask = PAGE_IS_PRESENT,
            .return_mask = PAGE_IS_PRESENT | PAGE_IS_WRITTEN | PAGE_IS_PFNZERO,
        };
        int n = ioctl(linux->pagemap_fd, PAGEMAP_SCAN, &arg);

        if (n < 0)
            return WEIR_ENOSUPPORT;
        for (int i = 0; i < n; i++)
            for (uint64_t at = found[i].start; at < found[i].end; at += PAGE)
                facts[(at - addr) / PAGE] =
                    (uint8_t)(WR_FACT_PRESENT |
                              (found[i].categories & PAGE_IS_WRITTEN ? WR_FACT_WRITABLE : 0) |
                              (found[i].categories & PAGE_IS_PFNZERO ? WR_FACT_ZERO_PAGE : 0));
        from = arg.walk_end > from ? arg.walk_end : end;
    }
    return WEIR_OK;
}

const struct wr_host_ops wr_linux_memory_ops = {
    .frames_map = linux_frames_map,
    .frames_unmap = linux_frames_unmap,
    .region_map = linux_region_map,
    .region_guard = linux_region_guard,
    .region_seal = linux_region_seal,
    .region_unmap = linux_region_unmap,
    .place = linux_place,
    .place_zero = linux_place_zero,
    .protect = linux_protect,
    .revoke = linux_revoke,
    .copy = linux_copy,
    .drop = linux_drop,
    .relocate = linux_relocate,
    .stage = linux_stage,
    .populate = linux_populate,
    .look = linux_look,
    .release = linux_release,
    .is_mapped = linux_is_mapped,
    .facts = linux_facts,
};
