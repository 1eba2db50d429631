/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Sheet: the file in which a runtime tells of itself (weir_watch.h), as bytes, and the directory
 * that such files are in.
 *
 *   head    struct wr_sheet_head; the rest follows it, each part at a multiple of 8:
 *   names   of the statistics: counters, gauges, times; each ended by 0
 *   values  one number for each counter and gauge, then for each time: its count, sum_ns and its
 * buckets back ends, then names of what is counted for a region, then regions: struct
 * wr_sheet_region, each followed by one number for each name
 *
 * Always: a sheet is written by one call and has a sum: who reads half of it sees that, and reads
 * again. Neither side maps it, so that a file that somebody cuts short kills nobody. Numbers are
 * found by name: a tool of another version shows what it knows. What is read is judged, never
 * believed: anything may be in the file.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <weir/weir_watch.h>

#include "runtime/base/check.h"

#define WR_SHEET_MAGIC      "WEIRSHT" /* and the final 0 */
#define WR_SHEET_BYTE_ORDER 0x01020304u
#define WR_SHEET_VERSION    1u
#define WR_SHEET_BYTES_MAX  (256u << 10)
#define WR_SHEET_PATH_ROOM  256u

struct wr_sheet_head {
    char magic[8];
    uint32_t byte_order, version;
    uint64_t sum; /* of all that follows this field */
    uint32_t head_bytes, all_bytes;
    uint64_t sequence, opened_ns, published_ns;
    /* Who writes it: when that thread is gone, so is the runtime, even after an exec(). */
    uint64_t pid_space; /* a process in another one cannot judge of pid and thread */
    uint64_t started;   /* of the thread, in ticks since boot                      */
    int32_t pid, thread;
    char program[32], release[16], how[512];
    uint32_t names_bytes, value_count, time_count, bucket_count;
    uint32_t backend_count, backends_shown, backend_bytes; /* a row has so many bytes */
    uint32_t region_names_bytes, region_value_count;
    uint32_t region_count, regions_shown, region_bytes; /* likewise, numbers included */
};

_Static_assert(sizeof(struct wr_sheet_head) % 8 == 0, "what follows is at a multiple of 8");

struct wr_sheet_backend {
    uint64_t bytes_total, bytes_used, errors;
    uint32_t number, draining, sick, reserved;
    char spec[256];
};

struct wr_sheet_region {
    uint64_t address, bytes, reserve_bytes, reattached;
    char name[32];
};

/* --- The directory --------------------------------------------------------------------------- */

/* "/dev/shm/weir.UID". */
void wr_sheet_directory(char *path, size_t room);
/* Open it, or make it first. WEIR_ENOENT: there is none. WEIR_EDENIED: it is not ours alone, or may
 * not be made; errno says why. */
int wr_sheet_directory_open(const char *path, bool is_made, int *directory_p);

/* Call back for each sheet whose runtime may be there; remove what dead ones have left. */
typedef void (*wr_sheet_fn)(void *context, const struct weir_watched *which);
int wr_sheet_visit(int directory, wr_sheet_fn found, void *context);

/* All bytes of one, checked but for what lies between head and end; free() them. Errors as of
 * weir_watch_read(). */
int wr_sheet_read(int directory, const struct weir_watched *which, struct wr_sheet_head **sheet_p);

/* --- The writer ------------------------------------------------------------------------------ */

struct wr_sheet {
    int directory, file; /* -1: none                  */
    char name[48];
};

/* Fill in the head what tells who writes: the calling thread. */
void wr_sheet_sign(struct wr_sheet_head *head);
/* Make a file of a name that nobody had. WEIR_EDENIED: errno says why. */
int wr_sheet_create(const char *directory, uint64_t number, struct wr_sheet *sheet);
/* False: no room, or worse; errno says it. Computes the sum. */
bool wr_sheet_write(const struct wr_sheet *sheet, struct wr_sheet_head *head);
void wr_sheet_remove(struct wr_sheet *sheet);
/* The calling thread may be woken a little late, together with others: it only looks. */
void wr_sheet_be_lazy(void);
