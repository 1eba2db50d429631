/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Memory: where the bytes of leases are: in which pages, on which nodes.
 *
 *   reserved     huge pages that the administrator has set aside (vm.nr_hugepages); a lease has
 *                them whole or not at all
 *   transparent  huge pages that the kernel makes where it can, of ordinary memory
 *   node         processors and the memory that is near them; most machines have one
 *   spread       each piece of a lease on another node, in turns: a lease is served by threads of
 *                every node, and no node's memory is used up before the others'
 *
 * Always: what is mapped is zero, begins on a huge page's boundary, and is nobody else's. Huge
 * pages and nodes are wishes: without them it is slower, and no less right.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum memd_huge_pages { MEMD_HUGE_AUTO, MEMD_HUGE_TRANSPARENT, MEMD_HUGE_OFF };
enum memd_numa { MEMD_NUMA_SPREAD, MEMD_NUMA_LOCAL };

#define MEMD_NODES_MOST 1024u
#define MEMD_NODE_WORDS (MEMD_NODES_MOST / (8 * sizeof(unsigned long)))

/* How a server's memory is to be had. Constant while it runs. */
struct memd_ground {
    enum memd_huge_pages huge_pages;
    bool is_spread;
    uint32_t node_count; /* with memory */
    unsigned long nodes[MEMD_NODE_WORDS];
};

/* What the process has at this moment, in bytes; 0 where the kernel does not tell. */
struct memd_memory_use {
    uint64_t resident, huge; /* huge: of resident, in huge pages of either kind */
};

void memd_ground_look(struct memd_ground *ground, enum memd_huge_pages huge_pages,
                      enum memd_numa numa);
/* Nodes of a list as the kernel writes it: "0-1,4". 0: it is none. For memd_ground_look(). */
uint32_t memd_ground_parse(const char *list, unsigned long nodes[MEMD_NODE_WORDS]);

/* So many bytes, of whole clusters. NULL: there are no addresses left. *is_reserved_p: in reserved
 * huge pages. */
char *memd_memory_map(const struct memd_ground *ground, size_t bytes, bool *is_reserved_p);
/* Zero again, and without memory as far as that can be. */
void memd_memory_empty(char *memory, size_t bytes, bool is_reserved);
void memd_memory_unmap(char *memory, size_t bytes);

/* Costs time for all pages that the process has: for who looks seldom. */
struct memd_memory_use memd_memory_measure(void);
