/* SPDX-License-Identifier: MIT */
#include "runtime/host/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/reserve.h"
#include "runtime/base/text.h"
#include "runtime/host/uapi.h"

#define NEEDED (UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP)
#define WANTED                                                                   \
    (UFFD_FEATURE_MOVE | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

/* The trial: eight pages whose touches trap, eight that take what is moved, one to copy from, and
 * a pipe through which the kernel touches them, so that a trap shows as EFAULT instead of a signal.
 */
#define TRIAL_PAGES 8
#define PAGE        ((size_t)WEIR_PAGE_BYTES)
#define TRIAL_BYTES ((2 * TRIAL_PAGES + 1) * PAGE)

#define LOOK_PAGES 16
#define LOOK_BYTES (LOOK_PAGES * PAGE)
#define LOOK_TRIES 5

#define TABLES      32
#define TABLE_REACH ((uint64_t)2 << 20)

struct trial {
    int uffd;
    int pidfd;
    int pipe[2];
    char *region;
    char *staging;
    char *source;
};

static int uffd_create(int flags)
{
    return (int)syscall(SYS_userfaultfd, flags);
}

static int uffd_enable(int uffd, uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};

    return ioctl(uffd, UFFDIO_API, &api);
}

int wr_probe_uffd_open(const struct wr_probe *probe)
{
    int uffd = uffd_create(probe->uffd_flags);

    if (uffd >= 0 && uffd_enable(uffd, probe->features) != 0) {
        int error = errno;

        close(uffd);
        errno = error;
        return -1;
    }
    return uffd;
}

/* Which flags does userfaultfd(2) take, and which features does it offer? */
static int find_features(struct wr_probe *probe, uint64_t *offered_p)
{
    struct uffdio_api api = {.api = UFFD_API};
    int uffd;

    probe->uffd_flags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
    uffd = uffd_create(probe->uffd_flags);
    if (uffd < 0 && errno == EINVAL) { /* before Linux 5.11 */
        probe->uffd_flags = O_CLOEXEC | O_NONBLOCK;
        uffd = uffd_create(probe->uffd_flags);
    }
    if (uffd < 0)
        return -1;
    if (ioctl(uffd, UFFDIO_API, &api) != 0) {
        close(uffd);
        return -1;
    }
    close(uffd);
    *offered_p = api.features;
    return 0;
}

/* Does a store by the kernel to this page trap? */
static bool store_traps(struct trial *t, char *page)
{
    char byte = 7;

    if (write(t->pipe[1], &byte, 1) != 1)
        return false;
    if (read(t->pipe[0], page, 1) == -1 && errno == EFAULT)
        return read(t->pipe[0], &byte, 1) == 1;
    return false;
}

static bool store_works(struct trial *t, char *page, char byte)
{
    return write(t->pipe[1], &byte, 1) == 1 && read(t->pipe[0], page, 1) == 1;
}

static bool load_traps(struct trial *t, const char *page)
{
    char byte;

    if (write(t->pipe[1], page, 1) == -1)
        return errno == EFAULT;
    return read(t->pipe[0], &byte, 1) != 1;
}

/* Loaded through the kernel, so that a failed trial is an answer and not a crash. */
static bool load_gives(struct trial *t, const char *page, char expected)
{
    char byte = (char)~expected;

    return write(t->pipe[1], page, 1) == 1 && read(t->pipe[0], &byte, 1) == 1 && byte == expected;
}

static bool copy(struct trial *t, char *page, uint64_t mode)
{
    struct uffdio_copy request = {
        .dst = (uintptr_t)page, .src = (uintptr_t)t->source, .len = PAGE, .mode = mode};

    return ioctl(t->uffd, UFFDIO_COPY, &request) == 0;
}

static bool protect(struct trial *t, char *page, bool on)
{
    struct uffdio_writeprotect request = {
        .range = {.start = (uintptr_t)page, .len = PAGE},
        .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };

    return ioctl(t->uffd, UFFDIO_WRITEPROTECT, &request) == 0;
}

static bool zeropage(struct trial *t, char *page)
{
    struct uffdio_zeropage request = {.range = {.start = (uintptr_t)page, .len = PAGE}};

    return ioctl(t->uffd, UFFDIO_ZEROPAGE, &request) == 0;
}

/* Missing pages trap; a protected copy reads, traps stores, and obeys when unprotected. */
static const char *try_traps(struct trial *t)
{
    char *page = t->region;

    t->source[0] = 11;
    if (!load_traps(t, page) || !store_traps(t, page))
        return "a touch of a missing page does not trap";
    if (!copy(t, page, UFFDIO_COPY_MODE_WP) || !load_gives(t, page, 11) || !store_traps(t, page))
        return "UFFDIO_COPY does not map write-protected";
    if (copy(t, page, 0) || errno != EEXIST)
        return "UFFDIO_COPY replaces a mapped page";
    if (!protect(t, page, false) || !store_works(t, page, 12) || !load_gives(t, page, 12))
        return "a page does not become writable again";
    if (!protect(t, page, true) || !store_traps(t, page))
        return "a dirty page cannot be write-protected";
    page += PAGE;
    if (!zeropage(t, page) || !protect(t, page, true) || !load_gives(t, page, 0) ||
        !store_traps(t, page))
        return "a zero page cannot be write-protected";
    if (madvise(t->region, 2 * PAGE, MADV_DONTNEED) != 0 || !load_traps(t, t->region))
        return "a dropped page does not trap";
    return NULL;
}

/* A moved page takes its bytes along, leaves a trap behind, and arrives writable. */
static bool try_move(struct trial *t)
{
    struct uffdio_move request = {
        .dst = (uintptr_t)t->staging, .src = (uintptr_t)t->region, .len = PAGE};
    bool moved;

    if (!copy(t, t->region, 0) || !store_works(t, t->region, 13))
        return false;
    moved = ioctl(t->uffd, UFFDIO_MOVE, &request) == 0 && request.move == (int64_t)PAGE &&
            load_traps(t, t->region) && load_gives(t, t->staging, 13);
    madvise(t->region, PAGE, MADV_DONTNEED);
    madvise(t->staging, PAGE, MADV_DONTNEED);
    return moved;
}

static bool try_vector_drop(struct trial *t)
{
    struct iovec spans[2] = {{t->region, PAGE}, {t->region + 2 * PAGE, PAGE}};

    if (t->pidfd < 0 || !copy(t, t->region, UFFDIO_COPY_MODE_WP) ||
        !copy(t, t->region + 2 * PAGE, UFFDIO_COPY_MODE_WP))
        return false;
    return syscall(SYS_process_madvise, t->pidfd, spans, 2, MADV_DONTNEED, 0) == (long)(2 * PAGE) &&
           load_traps(t, t->region) && load_traps(t, t->region + 2 * PAGE);
}

static bool try_pagemap_scan(struct trial *t)
{
    struct page_region found[2];
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = (uintptr_t)t->region,
        .end = (uintptr_t)t->region + TRIAL_PAGES * PAGE,
        .vec = (uintptr_t)found,
        .vec_len = 2,
        .category_mask = PAGE_IS_PRESENT,
        .return_mask = PAGE_IS_PRESENT | PAGE_IS_WRITTEN | PAGE_IS_PFNZERO,
    };
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool works;

    if (fd < 0)
        return false;
    works = ioctl(fd, PAGEMAP_SCAN, &arg) >= 0;
    close(fd);
    return works;
}

/* A zero page and two pages of our own, one of them protected: are they told apart? */
static bool try_zero_pages(struct trial *t)
{
    static const bool expected[3] = {true, false, false};
    uint64_t entry[3] = {0};
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool works;

    madvise(t->region, 3 * PAGE, MADV_DONTNEED);
    works = fd >= 0 && zeropage(t, t->region) && protect(t, t->region, true) &&
            copy(t, t->region + PAGE, 0) && copy(t, t->region + 2 * PAGE, UFFDIO_COPY_MODE_WP) &&
            pread(fd, entry, sizeof(entry), (off_t)((uintptr_t)t->region / PAGE * 8)) ==
                (ssize_t)sizeof(entry);
    for (int i = 0; i < 3; i++)
        works = works && wr_pagemap_is_zero_page(entry[i]) == expected[i];
    madvise(t->region, 3 * PAGE, MADV_DONTNEED);
    if (fd >= 0)
        close(fd);
    return works;
}

/* The KiB of page tables that this process has, or 0. */
static long table_kib(void)
{
    char text[4096], *line;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;

    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    line = strstr(text, "VmPTE:");
    return line ? strtol(line + strlen("VmPTE:"), NULL, 10) : 0;
}

/* Page tables come and are dropped: is most of them gone? Other threads may take some meanwhile. */
static bool try_table_return(void)
{
    const uint64_t bytes = TABLES * TABLE_REACH;
    long full, empty;
    char *area;
    void *found;

    if (wr_reserve(bytes, TABLE_REACH, &found) != 0)
        return false;
    area = found;
    madvise(area, bytes, MADV_NOHUGEPAGE);
    for (uint64_t at = 0; at < bytes; at += TABLE_REACH)
        *(volatile char *)(area + at) = 1;
    full = table_kib();
    for (uint64_t at = 0; at < bytes; at += TABLE_REACH)
        madvise(area + at, TABLE_REACH, MADV_DONTNEED);
    empty = table_kib();
    wr_unreserve(area, bytes);
    return full - empty >= (long)(TABLES * PAGE / 1024 / 2);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* How long a look at pages takes that nobody touched since the kernel mapped them. */
static uint64_t time_look(char *pages, char *room, bool by_copy)
{
    struct iovec from = {pages, LOOK_BYTES}, to = {room, LOOK_BYTES};
    const volatile char *bytes = by_copy ? room : pages;
    uint64_t begun, took;

    if (madvise(pages, LOOK_BYTES, MADV_POPULATE_WRITE) != 0) /* Linux before 5.14 */
        return UINT64_MAX;
    begun = now_ns();
    if (by_copy && syscall(SYS_process_vm_readv, getpid(), &to, 1, &from, 1, 0) != (long)LOOK_BYTES)
        return UINT64_MAX;
    for (size_t at = 0; at < LOOK_BYTES; at += PAGE)
        (void)bytes[at];
    took = now_ns() - begun;
    madvise(pages, LOOK_BYTES, MADV_DONTNEED);
    return took;
}

/* Where the hypervisor makes page tables of its own from the guest's (shadow paging), the first
 * touch of a page takes some microseconds, and a copy by the kernel, which has all memory mapped, a
 * tenth of that; elsewhere it takes half of a copy. The best of a few: others run meanwhile. */
static bool try_looks(void)
{
    uint64_t touched = UINT64_MAX, copied = UINT64_MAX;
    void *area;

    if (wr_reserve(2 * LOOK_BYTES, PAGE, &area) != 0)
        return false;
    madvise(area, 2 * LOOK_BYTES, MADV_NOHUGEPAGE);
    memset((char *)area + LOOK_BYTES, 0, LOOK_BYTES);
    for (int i = 0; i < LOOK_TRIES; i++) {
        uint64_t touch = time_look(area, (char *)area + LOOK_BYTES, false);
        uint64_t copy = time_look(area, (char *)area + LOOK_BYTES, true);

        touched = touch < touched ? touch : touched;
        copied = copy < copied ? copy : copied;
    }
    wr_unreserve(area, 2 * LOOK_BYTES);
    return copied < touched / 2;
}

static bool trial_register(const struct trial *t, char *area, uint64_t mode)
{
    struct uffdio_register request = {
        .range = {.start = (uintptr_t)area, .len = TRIAL_PAGES * PAGE}, .mode = mode};

    return ioctl(t->uffd, UFFDIO_REGISTER, &request) == 0;
}

static const char *trial_open(struct trial *t, const struct wr_probe *probe)
{
    void *area;

    *t = (struct trial){.uffd = -1, .pidfd = -1, .pipe = {-1, -1}};
    if (wr_reserve(TRIAL_BYTES, PAGE, &area) != 0)
        return "no memory for a trial";
    t->region = area;
    t->staging = t->region + TRIAL_PAGES * PAGE;
    t->source = t->staging + TRIAL_PAGES * PAGE;
    t->uffd = wr_probe_uffd_open(probe);
    t->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (t->uffd < 0 || pipe2(t->pipe, O_CLOEXEC | O_NONBLOCK) != 0)
        return "no file descriptor for a trial";
    madvise(t->region, TRIAL_BYTES, MADV_NOHUGEPAGE);
    if (!trial_register(t, t->region, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP) ||
        !trial_register(t, t->staging, UFFDIO_REGISTER_MODE_WP))
        return "UFFDIO_REGISTER is refused for private anonymous memory";
    return NULL;
}

static void trial_close(struct trial *t)
{
    int fds[4] = {t->uffd, t->pidfd, t->pipe[0], t->pipe[1]};

    wr_unreserve(t->region, TRIAL_BYTES);
    for (int i = 0; i < 4; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* NULL, or why the trap cannot be used. */
static const char *probe_semantics(struct wr_probe *probe)
{
    struct trial t;
    const char *why = trial_open(&t, probe);

    if (!why)
        why = try_traps(&t);
    if (!why) {
        probe->has_move = (probe->features & UFFD_FEATURE_MOVE) && try_move(&t);
        probe->has_vector_drop = try_vector_drop(&t);
        probe->has_pagemap_scan = try_pagemap_scan(&t);
        probe->tells_zero_pages = try_zero_pages(&t);
        probe->returns_tables = try_table_return();
        probe->looks_by_copy = try_looks();
    }
    trial_close(&t);
    return why;
}

static int refuse_userfaultfd(const struct wr_events *events, int error)
{
    switch (error) {
    case EPERM:
        wr_event(events, WEIR_FAILURE, WEIR_EDENIED, error, 0,
                 "userfaultfd is forbidden here, probably by the container's seccomp profile: "
                 "allow the system call userfaultfd (before Linux 5.11 also set "
                 "vm.unprivileged_userfaultfd=1)");
        return WEIR_EDENIED;
    case ENOSYS:
        wr_event(events, WEIR_FAILURE, WEIR_ENOSUPPORT, error, 0,
                 "this kernel has no userfaultfd (CONFIG_USERFAULTFD), or a sandbox hides it");
        return WEIR_ENOSUPPORT;
    default:
        wr_event(events, WEIR_FAILURE, WEIR_ENOSUPPORT, error, 0, "userfaultfd cannot be opened");
        return WEIR_ENOSUPPORT;
    }
}

int wr_probe_kernel(struct wr_probe *probe, const struct wr_events *events)
{
    uint64_t offered = 0;
    const char *why;
    struct wr_text text;

    *probe = (struct wr_probe){0};
    if (find_features(probe, &offered) != 0)
        return refuse_userfaultfd(events, errno);
    if ((offered & NEEDED) != NEEDED) {
        wr_event(events, WEIR_FAILURE, WEIR_ENOSUPPORT, 0, 0,
                 "this kernel's userfaultfd cannot write-protect anonymous memory: Linux 5.7 or "
                 "later on x86-64 or arm64 is needed");
        return WEIR_ENOSUPPORT;
    }
    probe->features = offered & (NEEDED | WANTED);
    why = probe_semantics(probe);
    if (why) {
        wr_event(events, WEIR_FAILURE, WEIR_ENOSUPPORT, 0, 0, why);
        return WEIR_ENOSUPPORT;
    }
    wr_probe_views(probe);
    wr_text_init(&text, probe->found, sizeof(probe->found));
    wr_text_add(&text, "userfaultfd SIGBUS+WP");
    wr_text_add(&text, probe->uffd_flags & UFFD_USER_MODE_ONLY ? " unprivileged" : "");
    wr_text_add(&text, probe->has_move ? ", MOVE" : ", no MOVE");
    wr_text_add(&text, probe->has_vector_drop ? ", vectored drop" : ", no vectored drop");
    wr_text_add(&text, probe->has_pagemap_scan ? ", PAGEMAP_SCAN" : ", no PAGEMAP_SCAN");
    wr_text_add(&text, probe->returns_tables ? ", page tables are given back"
                                             : ", page tables stay (Linux before 6.14)");
    wr_text_add(&text, probe->looks_by_copy ? ", first touches are dear" : "");
    wr_text_add(&text, !probe->has_objects     ? ", no objects"
                       : probe->protects_views ? ", objects"
                                               : ", objects without protection");
    return WEIR_OK;
}
