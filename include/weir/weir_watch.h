/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Weir, watched from outside: what running programs of the same user say of themselves. The command
 * `weir` is made of this, and so may be other tools.
 *
 *   sheet       a small file that each open runtime writes a few times a second: all statistics,
 * its back ends and its first regions. WEIR_PUBLISH=0 leaves it away (docs/SETTINGS.md) directory
 * where sheets are: /dev/shm/weir.UID, which only its user may enter
 *
 * Always: what is read was written at one time, never half of it. Who reads wakes nobody and waits
 * for nobody; a program does not notice that it is watched. A sheet whose runtime is gone, by
 * weir_close(), a crash or exec(), is not shown.
 *
 *     struct weir_watched list[100];
 *     struct weir_watch *watch;
 *     size_t count;
 *
 *     if (weir_watch_list(NULL, list, 100, &count) == WEIR_OK)
 *         for (size_t i = 0; i < count && i < 100; i++)
 *             if (weir_watch_read(NULL, &list[i], &watch) == WEIR_OK) {
 *                 printf("%d %s\n", watch->pid, watch->program);
 *                 weir_watch_free(watch);
 *             }
 *
 * Threads: any. Signals: none of these may be called from a signal handler. No runtime is needed.
 */

#include <weir/weir.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Of so many a sheet has the particulars; the statistics count all of them. */
#define WEIR_WATCH_BACKENDS 16u
#define WEIR_WATCH_REGIONS  64u

/* One runtime that somebody has open. A process may have several. */
struct weir_watched {
    int32_t pid;
    uint64_t number; /* tells the runtimes of a process apart; never used twice */
};

/* What one runtime said last. Made by weir_watch_read() and owned by the caller; nothing in it
 * changes. Times are those of CLOCK_MONOTONIC, in nanoseconds. */
struct weir_watch {
    size_t size; /* sizeof(struct weir_watch) of the library */
    int32_t pid;
    uint64_t number;
    char program[32];      /* its name, as the kernel has it                         */
    char library[16];      /* the version of its library, as weir_version() gives it */
    char how[512];         /* which engine it has and why, as in the report          */
    uint64_t opened_ns;    /* when the runtime was opened                               */
    uint64_t published_ns; /* when this was written: at least once a second; older: the
                              program is stopped, or gets no processor                  */
    uint64_t sequence;     /* how often it has been written                             */
    uint32_t backend_count, region_count;   /* so many there are                          */
    uint32_t backends_shown, regions_shown; /* and so many are in these arrays          */
    const struct weir_stats *stats;         /* what its library did not know yet is 0           */
    const struct weir_backend_state *backends;
    const struct weir_region_stats *regions;
};

/*
 * The runtimes of this user whose sheets are in the directory (NULL: the usual one), ordered by pid
 * and number: at most room of them go to list, and how many there are to *count_p. Sheets that were
 * left behind by a process that died are removed. No directory: none is running, which is no error.
 * WEIR_EDENIED: the directory is not this user's alone, so that nothing in it can be believed.
 * WEIR_EINVAL: an argument. WEIR_ENOMEM.
 */
int weir_watch_list(const char *directory, struct weir_watched *list, size_t room, size_t *count_p);

/*
 * Read one sheet; weir_watch_free() ends it. WEIR_ENOENT: that runtime is gone. WEIR_ENOSUPPORT:
 * its library writes sheets of another kind; use the tools of its version. WEIR_EIO: the file is
 * damaged, or somebody else put it there. WEIR_EDENIED, WEIR_EINVAL, WEIR_ENOMEM: as above.
 */
int weir_watch_read(const char *directory, const struct weir_watched *which,
                    struct weir_watch **watch_p);

/* NULL is allowed. */
void weir_watch_free(struct weir_watch *watch);

/* The usual directory of this user, as the calls above and WEIR_PUBLISH=1 have it: at most bytes
 * characters with the final 0. */
void weir_watch_directory(char *path, size_t bytes);

/* What happened between two readings of one time: all that its counts have grown by. What did not
 * grow is 0. Any thread, any signal handler. */
struct weir_histogram weir_histogram_since(const struct weir_histogram *now,
                                           const struct weir_histogram *before);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
