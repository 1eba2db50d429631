/* SPDX-License-Identifier: MIT */
#pragma once

/* Calls: what calls.c and memory.c need of the world, and the other way round. */

#include "tests/cluster/loop.h"

/* Of a process that is gone: its locks, and who slept. */
void calls_gone(const struct process *process);
/* Likewise: what it had mapped. */
void memory_gone(const struct process *process);
uint64_t memory_mapped(const struct process *process);
/* The planted mistake: memory comes back as it was given away. */
void memory_keeps_bytes(bool does);

/* The world says: is memory short on that process's machine? */
bool calls_is_short(const struct process *process);
