/* SPDX-License-Identifier: MIT */

/* Memory: what servers map for their leases. It is real, and is given back when a process dies. */

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/cluster/calls.h"
#include "tests/cluster/real.h"

#define PIECES_MOST   4096u
#define CLUSTER_BYTES ((size_t)2 << 20)

struct piece {
    char *start; /* NULL: none */
    size_t bytes;
    const struct process *process; /* NULL: nobody's, and its bytes are kept */
};

static struct piece pieces[PIECES_MOST];
static bool keeps_bytes;

void memory_keeps_bytes(bool does)
{
    keeps_bytes = does;
}

static struct piece *piece_at(const char *start)
{
    for (struct piece *each = pieces; each < pieces + PIECES_MOST; each++)
        if (each->start && start >= each->start && start < each->start + each->bytes)
            return each;
    return NULL;
}

static struct piece *free_piece(void)
{
    for (struct piece *each = pieces; each < pieces + PIECES_MOST; each++)
        if (!each->start)
            return each;
    loop_fail("the simulator has too few pieces of memory");
}

/* One that somebody gave away. */
static void *old_piece(size_t bytes)
{
    for (struct piece *each = pieces; each < pieces + PIECES_MOST; each++)
        if (each->start && !each->process && each->bytes == bytes - CLUSTER_BYTES) {
            each->process = loop_process();
            each->bytes = bytes; /* its end is given back at once, as of a new one */
            return each->start;
        }
    return NULL;
}

/* Aligned to a cluster, so that the server has nothing to cut off before it. */
static char *new_memory(size_t length, int prot, int flags)
{
    char *start = real_mmap(NULL, length + CLUSTER_BYTES, prot, flags, -1, 0);
    size_t before;

    if (start == MAP_FAILED)
        return MAP_FAILED;
    before = -(uintptr_t)start % CLUSTER_BYTES;
    if (before)
        (void)real_munmap(start, before);
    (void)real_munmap(start + before + length, CLUSTER_BYTES - before);
    return start + before;
}

void *__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    char *start;

    if (!loop_self() || fd >= 0)
        return real_mmap(addr, length, prot, flags, fd, offset);
    loop_point();
    if (flags & MAP_HUGETLB) { /* none are reserved */
        errno = ENOMEM;
        return MAP_FAILED;
    }
    start = keeps_bytes ? old_piece(length) : NULL;
    if (start)
        return start;
    start = new_memory(length, prot, flags);
    if (start != MAP_FAILED)
        *free_piece() = (struct piece){start, length, loop_process()};
    return start;
}

int __wrap_munmap(void *addr, size_t length)
{
    struct piece *piece = loop_self() ? piece_at(addr) : NULL;

    if (!piece)
        return real_munmap(addr, length);
    loop_point();
    if (addr == piece->start && length == piece->bytes) {
        if (keeps_bytes) {
            piece->process = NULL;
            return 0;
        }
        piece->start = NULL;
    } else if (addr == piece->start) {
        piece->start += length;
        piece->bytes -= length;
    } else {
        piece->bytes -= length;
        if (keeps_bytes)
            return 0;
    }
    return real_munmap(addr, length);
}

/* Huge pages would only be slow here. */
int __wrap_madvise(void *addr, size_t length, int advice)
{
    if (!loop_self())
        return __real_madvise(addr, length, advice);
    loop_point();
    if (advice != MADV_DONTNEED || (keeps_bytes && length >= CLUSTER_BYTES))
        return 0;
    return __real_madvise(addr, length, advice);
}

uint64_t memory_mapped(const struct process *process)
{
    uint64_t bytes = 0;

    for (const struct piece *each = pieces; each < pieces + PIECES_MOST; each++)
        bytes += each->start && each->process == process ? each->bytes : 0;
    return bytes;
}

void memory_gone(const struct process *process)
{
    for (struct piece *each = pieces; each < pieces + PIECES_MOST; each++)
        if (each->start && each->process == process) {
            (void)real_munmap(each->start, each->bytes);
            each->start = NULL;
        }
}
