/* SPDX-License-Identifier: MIT */
#include "transport/memd/memory.h"

#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <weir/weir_backend.h>

#define CLUSTER_BYTES ((size_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)
/* Memory goes back in steps: to give back much at once keeps others from faulting for long. */
#define STEP_BYTES    (32 * CLUSTER_BYTES)
#define WORD_BITS     (8 * sizeof(unsigned long))
/* linux/mman.h has it, and other names of sys/mman.h. */
#define HUGE_2M       (21 << MAP_HUGE_SHIFT)

/* --- The ground ------------------------------------------------------------------------------ */

uint32_t memd_ground_parse(const char *list, unsigned long nodes[MEMD_NODE_WORDS])
{
    uint32_t count = 0;

    memset(nodes, 0, MEMD_NODE_WORDS * sizeof(*nodes));
    while (*list >= '0' && *list <= '9') {
        char *end;
        unsigned long first = strtoul(list, &end, 10), last = first;

        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long i = first; i <= last && i < MEMD_NODES_MOST; i++, count++)
            nodes[i / WORD_BITS] |= 1ul << i % WORD_BITS;
        list = *end == ',' ? end + 1 : end;
    }
    return count;
}

void memd_ground_look(struct memd_ground *ground, enum memd_huge_pages huge_pages,
                      enum memd_numa numa)
{
    FILE *file = fopen("/sys/devices/system/node/has_memory", "re");
    char list[512] = "";

    *ground = (struct memd_ground){.huge_pages = huge_pages};
    if (file) {
        if (!fgets(list, sizeof(list), file))
            list[0] = '\0';
        fclose(file);
    }
    ground->node_count = memd_ground_parse(list, ground->nodes);
    ground->is_spread = numa == MEMD_NUMA_SPREAD && ground->node_count > 1;
}

/* --- Mapping --------------------------------------------------------------------------------- */

/* Without MAP_NORESERVE: the pages are set aside for us now, or it fails. */
static char *map_reserved(size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | HUGE_2M, -1, 0);

    return start == MAP_FAILED ? NULL : start;
}

static char *map_ordinary(size_t bytes, bool wants_huge)
{
    char *start = mmap(NULL, bytes + CLUSTER_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t before;

    if (start == MAP_FAILED)
        return NULL;
    before = -(uintptr_t)start % CLUSTER_BYTES;
    if (before)
        munmap(start, before);
    munmap(start + before + bytes, CLUSTER_BYTES - before);
    start += before;
    (void)madvise(start, bytes, wants_huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return start;
}

char *memd_memory_map(const struct memd_ground *ground, size_t bytes, bool *is_reserved_p)
{
    char *start = ground->huge_pages == MEMD_HUGE_AUTO ? map_reserved(bytes) : NULL;

    *is_reserved_p = start != NULL;
    if (!start)
        start = map_ordinary(bytes, ground->huge_pages != MEMD_HUGE_OFF);
    if (!start)
        return NULL;
    /* The kernel reads one bit less than it is told of. */
    if (ground->is_spread)
        (void)syscall(SYS_mbind, start, bytes, MPOL_INTERLEAVE, ground->nodes, MEMD_NODES_MOST + 1,
                      0);
    (void)madvise(start, bytes, MADV_DONTDUMP);
    return start;
}

/* A huge page is given back whole. What is left of one, and all of it where the kernel cannot do
 * that (before 5.18), is written over. */
static void empty_reserved(char *memory, size_t bytes)
{
    size_t before = -(uintptr_t)memory % CLUSTER_BYTES, whole;

    if (before > bytes)
        before = bytes;
    whole = (bytes - before) / CLUSTER_BYTES * CLUSTER_BYTES;
    memset(memory, 0, before);
    if (whole && madvise(memory + before, whole, MADV_DONTNEED) != 0)
        memset(memory + before, 0, whole);
    memset(memory + before + whole, 0, bytes - before - whole);
}

void memd_memory_empty(char *memory, size_t bytes, bool is_reserved)
{
    for (size_t at = 0; at < bytes; at += STEP_BYTES) {
        size_t step = bytes - at < STEP_BYTES ? bytes - at : STEP_BYTES;

        if (is_reserved)
            empty_reserved(memory + at, step);
        else
            (void)madvise(memory + at, step, MADV_DONTNEED);
    }
}

void memd_memory_unmap(char *memory, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += STEP_BYTES)
        munmap(memory + at, bytes - at < STEP_BYTES ? bytes - at : STEP_BYTES);
}

/* --- What was got ---------------------------------------------------------------------------- */

struct memd_memory_use memd_memory_measure(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    struct memd_memory_use use = {0, 0};
    char line[256];

    if (!file)
        return use;
    while (fgets(line, sizeof(line), file)) {
        unsigned long long kib;

        if (sscanf(line, "Rss: %llu", &kib) == 1) {
            use.resident += kib * 1024;
        } else if (sscanf(line, "AnonHugePages: %llu", &kib) == 1) {
            use.huge += kib * 1024;
        } else if (sscanf(line, "Private_Hugetlb: %llu", &kib) == 1) { /* not in Rss */
            use.resident += kib * 1024;
            use.huge += kib * 1024;
        }
    }
    fclose(file);
    return use;
}
