/* SPDX-License-Identifier: MIT */

/* Can touches of shared memory be trapped, and stores to what is mapped? Tried, like the rest. */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/host/linux.h"
#include "runtime/host/uapi.h"

#define PAGE  ((size_t)WEIR_PAGE_BYTES)
#define BYTES (2 * PAGE)

/* One object of two pages, two views of it, and a pipe through which the kernel touches them. */
struct trial {
    int uffd, object;
    int pipe[2];
    char *view[2];
};

/* Who is given the descriptor may neither change the size nor forbid us anything: such a seal would
 * keep us from freeing pages. */
int wr_object_memory(const char *name, uint64_t bytes)
{
    struct rlimit limit;
    int fd;

    /* Beyond it the kernel would send SIGXFSZ. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < bytes) {
        errno = EFBIG;
        return -1;
    }
    fd = memfd_create(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && (ftruncate(fd, (off_t)bytes) != 0 ||
                    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)) {
        int error = errno;

        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

bool wr_object_hole(int object, uint64_t offset, uint64_t bytes)
{
    while (syscall(SYS_fallocate, object, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                   bytes) != 0)
        if (errno != EINTR)
            return false;
    return true;
}

static bool load_gives(const struct trial *t, const char *page, char expected)
{
    char byte = (char)~expected;

    return write(t->pipe[1], page, 1) == 1 && read(t->pipe[0], &byte, 1) == 1 && byte == expected;
}

static bool load_traps(const struct trial *t, const char *page)
{
    char byte;

    if (write(t->pipe[1], page, 1) == -1)
        return errno == EFAULT;
    return read(t->pipe[0], &byte, 1) != 1;
}

static bool store(const struct trial *t, char *page, char byte)
{
    if (write(t->pipe[1], &byte, 1) != 1)
        return false;
    if (read(t->pipe[0], page, 1) == 1)
        return true;
    (void)!read(t->pipe[0], &byte, 1);
    return false;
}

static bool copy(const struct trial *t, char *page, const char *from, uint64_t mode)
{
    struct uffdio_copy request = {
        .dst = (uintptr_t)page, .src = (uintptr_t)from, .len = PAGE, .mode = mode};

    return ioctl(t->uffd, UFFDIO_COPY, &request) == 0;
}

static bool reveal(const struct trial *t, const char *page, uint64_t mode)
{
    struct uffdio_continue request = {.range = {.start = (uintptr_t)page, .len = PAGE},
                                      .mode = mode};

    return ioctl(t->uffd, UFFDIO_CONTINUE, &request) == 0;
}

static bool unprotect(const struct trial *t, const char *page)
{
    struct uffdio_writeprotect request = {.range = {.start = (uintptr_t)page, .len = PAGE}};

    return ioctl(t->uffd, UFFDIO_WRITEPROTECT, &request) == 0;
}

static bool trial_open(struct trial *t, const struct wr_probe *probe, uint64_t mode)
{
    bool works;

    *t = (struct trial){.pipe = {-1, -1}};
    t->uffd = wr_probe_uffd_open(probe);
    t->object = wr_object_memory("weir-trial", BYTES);
    works = t->uffd >= 0 && t->object >= 0 && pipe2(t->pipe, O_CLOEXEC | O_NONBLOCK) == 0;
    for (int i = 0; i < 2; i++) {
        struct uffdio_register request = {.range.len = BYTES, .mode = mode};
        void *area;

        if (!works || wr_object_map_quiet(t->object, 0, BYTES, &area) != 0)
            return false;
        t->view[i] = area;
        request.range.start = (uintptr_t)area;
        works = ioctl(t->uffd, UFFDIO_REGISTER, &request) == 0 &&
                mprotect(area, BYTES, PROT_READ | PROT_WRITE) == 0;
    }
    return works;
}

static void trial_close(const struct trial *t)
{
    const int fds[4] = {t->uffd, t->object, t->pipe[0], t->pipe[1]};

    for (int i = 0; i < 2; i++)
        if (t->view[i])
            munmap(t->view[i], BYTES);
    for (int i = 0; i < 4; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* A page that is filled through one view is there for all, traps in those that have not mapped it,
 * can be unmapped from one, read when none maps it, and freed under all. */
static bool try_views(const struct wr_probe *probe, const char *bytes)
{
    struct trial t;
    char back = 0;
    bool works = trial_open(&t, probe, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
    char *a = t.view[0], *b = t.view[1];

    works = works && load_traps(&t, a) && copy(&t, a, bytes, 0) && load_gives(&t, a, bytes[0]) &&
            !copy(&t, b, bytes, 0) && errno == EEXIST;
    works = works && load_traps(&t, b) && reveal(&t, b, 0) && store(&t, b, 22) &&
            load_gives(&t, a, 22);
    works = works && madvise(a, PAGE, MADV_DONTNEED) == 0 && load_traps(&t, a) &&
            load_gives(&t, b, 22) && madvise(b, PAGE, MADV_DONTNEED) == 0 &&
            pread(t.object, &back, 1, 0) == 1 && back == 22 && load_traps(&t, a);
    works = works && reveal(&t, a, 0) && wr_object_hole(t.object, 0, PAGE) && load_traps(&t, a) &&
            !reveal(&t, a, 0) && errno == EFAULT && load_traps(&t, b);
    trial_close(&t);
    return works;
}

/* Both ways to map a page also map it protected, and each view is protected for itself. */
static bool try_protection(const struct wr_probe *probe, const char *bytes)
{
    struct trial t;
    bool works = trial_open(&t, probe,
                            UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
                                UFFDIO_REGISTER_MODE_WP);
    char *a = t.view[0], *b = t.view[1];

    works = works && copy(&t, a, bytes, UFFDIO_COPY_MODE_WP) && !store(&t, a, 23) &&
            reveal(&t, b, UFFDIO_CONTINUE_MODE_WP) && !store(&t, b, 23) &&
            load_gives(&t, b, bytes[0]);
    works = works && unprotect(&t, b) && store(&t, b, 24) && !store(&t, a, 25) &&
            load_gives(&t, a, 24) && unprotect(&t, a) && store(&t, a, 25);
    /* What was protected once comes back as it is asked for. */
    works = works && wr_object_hole(t.object, 0, PAGE) && copy(&t, b, bytes, 0) &&
            store(&t, b, 26) && madvise(b, PAGE, MADV_DONTNEED) == 0 && reveal(&t, b, 0) &&
            store(&t, b, 27);
    trial_close(&t);
    return works;
}

void wr_probe_views(struct wr_probe *probe)
{
    uint64_t wanted = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_SHMEM;
    char *bytes = aligned_alloc(PAGE, PAGE);

    probe->has_objects = probe->protects_views = false;
    if (bytes && (probe->features & wanted) == wanted) {
        memset(bytes, 21, PAGE);
        probe->has_objects = try_views(probe, bytes);
        probe->protects_views = probe->has_objects &&
                                (probe->features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM) &&
                                try_protection(probe, bytes);
    }
    free(bytes);
#ifdef WR_TESTING
    /* As older kernels are. */
    if (getenv("WR_TEST_NO_OBJECTS"))
        probe->has_objects = probe->protects_views = false;
    if (getenv("WR_TEST_NO_VIEW_PROTECTION"))
        probe->protects_views = false;
#endif
}
