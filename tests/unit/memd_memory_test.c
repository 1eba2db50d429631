/* SPDX-License-Identifier: MIT */

/* The memory of leases: huge pages of either kind, and nodes. */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport/memd/memory.h"

#define CLUSTER  ((size_t)2 << 20)
#define PAGE     ((size_t)4096)
#define CLUSTERS ((size_t)6)
#define BYTES    (CLUSTERS * CLUSTER)
#define RESERVED "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

static struct memd_ground ground;
static bool is_reserved;

static bool is_zero(const char *bytes, size_t count)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

static char *map_filled(enum memd_huge_pages huge_pages)
{
    char *memory;

    memd_ground_look(&ground, huge_pages, MEMD_NUMA_LOCAL);
    memory = memd_memory_map(&ground, BYTES, &is_reserved);
    cr_assert_not_null(memory);
    cr_expect_eq((uintptr_t)memory % CLUSTER, 0);
    cr_expect(is_zero(memory, BYTES), "it is mapped anew");
    memset(memory, 'x', BYTES);
    return memory;
}

/* From the midst of one cluster to that of another; what is around stays. */
static void expect_emptied(char *memory)
{
    const size_t from = CLUSTER - 3 * PAGE, bytes = 2 * CLUSTER + 5 * PAGE;

    memd_memory_empty(memory + from, bytes, is_reserved);
    cr_expect(is_zero(memory + from, bytes));
    cr_expect_eq(memory[from - 1], 'x');
    cr_expect_eq(memory[from + bytes], 'x');
    memd_memory_empty(memory + 5 * CLUSTER + PAGE, PAGE, is_reserved);
    cr_expect(is_zero(memory + 5 * CLUSTER + PAGE, PAGE), "less than a cluster");
    cr_expect_eq(memory[5 * CLUSTER], 'x');
    cr_expect_eq(memory[5 * CLUSTER + 2 * PAGE], 'x');
}

static char *read_line(const char *path)
{
    static char line[64];
    FILE *file = fopen(path, "r");

    line[0] = '\0';
    if (file) {
        (void)!fgets(line, sizeof(line), file);
        fclose(file);
    }
    return line;
}

/* Bytes of the mapping at this address that are in transparent huge pages. */
static unsigned long long transparent_at(const void *address)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    unsigned long long from, to, kib = 0;
    bool is_here = false, is_found = false;
    char line[512];

    cr_assert_not_null(file);
    while (!is_found && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%llx-%llx ", &from, &to) == 2)
            is_here = from <= (uintptr_t)address && (uintptr_t)address < to;
        is_found = is_here && sscanf(line, "AnonHugePages: %llu", &kib) == 1;
    }
    fclose(file);
    return kib * 1024;
}

/* How many there are to be; false: that is not ours to say. */
static bool reserve(unsigned long count)
{
    FILE *file = fopen(RESERVED, "w");
    bool is_done = file && fprintf(file, "%lu\n", count) > 0;

    if (file)
        is_done &= fclose(file) == 0;
    return is_done && strtoul(read_line(RESERVED), NULL, 10) >= count;
}

Test(memd_memory, transparent_ones_are_had_where_the_kernel_has_them)
{
    char *memory = map_filled(MEMD_HUGE_TRANSPARENT);
    struct memd_memory_use use = memd_memory_measure();

    cr_expect_not(is_reserved);
    cr_expect(use.resident == 0 || use.resident >= BYTES);
    cr_expect(use.resident == 0 || use.huge >= transparent_at(memory));
    if (strstr(read_line("/sys/kernel/mm/transparent_hugepage/enabled"), "[never]"))
        printf("memd_memory: this kernel makes no huge pages: not tested\n");
    else
        cr_expect_gt(transparent_at(memory), 0);
    expect_emptied(memory);
    memd_memory_unmap(memory, BYTES);
}

Test(memd_memory, none_are_had_when_none_are_wanted)
{
    char *memory = map_filled(MEMD_HUGE_OFF);

    cr_expect_not(is_reserved);
    cr_expect_eq(transparent_at(memory), 0);
    expect_emptied(memory);
    memd_memory_unmap(memory, BYTES);
}

/* Those are set aside for the test, where it may. */
Test(memd_memory, reserved_ones_are_taken_whole_or_not_at_all)
{
    int one_at_a_time = open(RESERVED, O_RDONLY | O_CLOEXEC);
    unsigned long before;
    char *memory, *more;

    if (one_at_a_time >= 0)
        flock(one_at_a_time, LOCK_EX);
    before = strtoul(read_line(RESERVED), NULL, 10);
    if (before > 0 || !reserve(CLUSTERS + 1)) {
        printf("memd_memory: huge pages cannot be reserved here: not tested\n");
        return;
    }
    memory = map_filled(MEMD_HUGE_AUTO);
    cr_expect(is_reserved);
    cr_expect_geq(memd_memory_measure().huge, BYTES);
    expect_emptied(memory);
    more = memd_memory_map(&ground, BYTES, &is_reserved);
    cr_assert_not_null(more);
    cr_expect_not(is_reserved, "one was left, and six are wanted");
    memset(more, 'y', BYTES);
    memd_memory_unmap(more, BYTES);
    memd_memory_unmap(memory, BYTES);
    cr_expect(reserve(before));
    close(one_at_a_time);
}

/* --- Nodes ----------------------------------------------------------------------------------- */

Test(memd_memory, a_list_of_nodes)
{
    unsigned long nodes[MEMD_NODE_WORDS];

    cr_expect_eq(memd_ground_parse("0\n", nodes), 1);
    cr_expect_eq(nodes[0], 1);
    cr_expect_eq(memd_ground_parse("0-3,8,64-65\n", nodes), 7);
    cr_expect_eq(nodes[0], 0x10f);
    cr_expect_eq(nodes[1], 3);
    cr_expect_eq(memd_ground_parse("\n", nodes), 0);
    cr_expect_eq(memd_ground_parse("1000-9999\n", nodes), 24, "no more than there is room for");
}

static int policy_at(void *address)
{
    int mode = -1;

    return syscall(SYS_get_mempolicy, &mode, NULL, 0, address, MPOL_F_ADDR) == 0 ? mode : -1;
}

/* As on a machine with several: here they may all be the first. */
Test(memd_memory, what_is_spread_is_spread)
{
    char *memory;

    memd_ground_look(&ground, MEMD_HUGE_TRANSPARENT, MEMD_NUMA_SPREAD);
    cr_expect_eq(ground.is_spread, ground.node_count > 1);
    ground.is_spread = ground.node_count > 0;
    memory = memd_memory_map(&ground, BYTES, &is_reserved);
    cr_assert_not_null(memory);
    if (policy_at(memory) < 0 || !ground.is_spread) {
        printf("memd_memory: this kernel knows no nodes, or does not tell: not tested\n");
    } else {
        cr_expect_eq(policy_at(memory), MPOL_INTERLEAVE);
        cr_expect_eq(policy_at(memory + BYTES - 1), MPOL_INTERLEAVE);
    }
    memset(memory, 'x', BYTES);
    memd_memory_unmap(memory, BYTES);
    memd_ground_look(&ground, MEMD_HUGE_TRANSPARENT, MEMD_NUMA_LOCAL);
    cr_expect_not(ground.is_spread);
}
