/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Options: the words by which weir-memd is told what to do, on its command line and in its file.
 *
 *   word      a key and its value: --memory 64G, or the line `memory = 64G`
 *   settings  what all words together mean
 *
 * Always: the command line rules over the file; what is not understood is refused, with a text that
 * says what is allowed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transport/memd/memd.h"

#define MEMD_WHY_BYTES 640u

struct memd_word {
    const char *key, *value;
};

struct memd_settings {
    uint64_t memory, quota;             /* bytes   */
    uint64_t lease, grace;              /* seconds */
    uint64_t keep_free;                 /* percent */
    uint64_t threads;                   /* 0: as many as fit */
    uint64_t huge_pages, numa;          /* enum memd_huge_pages, enum memd_numa */
    uint64_t spin_us;                   /* microseconds      */
    uint64_t connections, leases;       /* for how many there is room */
    const char *key_file, *status_path; /* texts are this structure's own */
    const char *metrics;
    const char *listen[MEMD_LISTEN_MOST];
    uint32_t listen_count;
};

/*
 * Defaults, then the words of the file (NULL: none), then the others. WEIR_OK; or an error, and why
 * says it in words; then there is nothing to free.
 */
int memd_settings_read(const char *file, const struct memd_word *words, uint32_t count,
                       struct memd_settings *settings_p, char why[MEMD_WHY_BYTES]);
void memd_settings_free(struct memd_settings *settings);

struct memd_limits memd_settings_limits(const struct memd_settings *settings);

/* The first setting that differs and cannot change while the server runs, by its key; NULL: none.
 */
const char *memd_settings_fixed(const struct memd_settings *one, const struct memd_settings *other);
