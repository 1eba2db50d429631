/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Soak: everything that tries Weir, for hours, one leg after the other.
 *
 *   leg     a child process with one engine, one set of back ends and one kind of load: trashers
 *           in a runtime that lives as long as the leg does, or weir_stress
 *   round   all legs once, with new seeds
 *   gauges  what would grow if anything leaked
 */

#include <stdbool.h>
#include <stdint.h>

#define SOAK_SKIPPED 77 /* exit code of a leg that this machine cannot run */

struct soak_gauges {
    long resident_kib, tables_kib; /* RssAnon, VmPTE */
    int descriptors, threads;
};

/* Of any process, 0: this one. False: it is gone. */
bool soak_gauges_read(int pid, struct soak_gauges *gauges);

struct soak_trash {
    const char *engine, *backends;
    const char *spare; /* the back end that is added when another is drained */
    bool may_fail;     /* failures are injected */
    unsigned seconds;
    uint64_t seed;
};

/* Run the leg, in a child process; never returns. */
_Noreturn void soak_trash(const struct soak_trash *leg);
