/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Weir: a memory larger than its machine.
 *
 *   runtime   one budget of local memory, its back ends, and the threads that keep them
 *   region    a range of addresses; used with plain loads and stores, like memory from malloc
 *   page      4096 bytes of a region: the unit that leaves and comes back
 *   budget    how much local memory all regions of a runtime may occupy together
 *   back end  where pages go that do not fit: a file, a disk, in time other machines
 *
 * Always: a load from a region gives what was last stored there, zero if nothing was. A page that
 * cannot be brought back raises SIGBUS and an event; it is never replaced by other bytes.
 *
 *     struct weir_runtime *rt;
 *     void *memory;
 *
 *     if (weir_open(NULL, &rt) == WEIR_OK && weir_map(rt, 64ull << 30, NULL, &memory) == WEIR_OK)
 *         use(memory);        // as if the machine had 64 GiB more
 *     weir_close(rt);
 *
 * Threads: every function may be called from any thread at the same time as any other, except that
 * a region must not be unmapped, nor a runtime closed, while somebody still relies on it. Signals:
 * none may be called from a signal handler, but for those that say so. System calls: the kernel
 * does not wait for pages that are away; pin a range (weir_pin) before it is given to read(),
 * write() and their like, or they may fail with EFAULT. docs/LIMITS.md has the whole list.
 */

#include <stddef.h>
#include <stdint.h>

#include <weir/weir_error.h>
#include <weir/weir_region.h>
#include <weir/weir_stats.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define WEIR_PAGE_BYTES 4096u

struct weir_runtime;

/* --- Events ---------------------------------------------------------------------------------- */

enum weir_severity {
    WEIR_NOTE,    /* worth a line in a log                                                      */
    WEIR_WARNING, /* works, but not as asked for or not as well                                 */
    WEIR_FAILURE, /* something was refused or lost; the message says what to do                 */
    WEIR_FATAL    /* the process is about to die; printed on standard error if nobody listens   */
};

struct weir_event {
    size_t size; /* sizeof(struct weir_event) of the library                    */
    enum weir_severity severity;
    int error;           /* of the closed list, or WEIR_OK                              */
    int os_error;        /* errno of the system, or 0                                   */
    const void *address; /* the page concerned, or NULL                                 */
    const char *text;    /* one line without newline; valid only during the call        */
};

/*
 * Takes one event. The library itself never prints, but for WEIR_FATAL when no listener is set.
 * Called on whatever thread noticed, perhaps inside a signal handler: it must be
 * async-signal-safe and must not touch a region or call weir_*() but for the error texts.
 */
typedef void (*weir_event_fn)(void *context, const struct weir_event *event);

/* --- Options --------------------------------------------------------------------------------- */

/*
 * What a runtime is opened with. weir_options_init() fills every field from its environment
 * variable or, where that is not set, its default; what the program then assigns counts most.
 * weir_setting() tells name, variable, default, unit and meaning of each field at run time, and
 * docs/SETTINGS.md prints them. Strings belong to the caller and are copied by weir_open().
 */
struct weir_options {
    size_t size; /* sizeof(struct weir_options) of the caller */

    uint64_t budget_bytes;        /* local memory for all regions; 0: 80 % of what is available */
    const char *backends;         /* separated by spaces, used in this order; "": file:/var/tmp */
    const char *engine;           /* "auto", "move", "wp": how pages are taken from the program */
    const char *trap;             /* "auto", "sigbus": how the runtime learns of a touch        */
    uint64_t address_space_bytes; /* sum of all regions at one time; costs only addresses       */

    uint64_t watermark_min_bytes;  /* free memory kept from new pages, for those that come back; 0:
                                      auto */
    uint64_t watermark_low_bytes;  /* reclaim begins below this; 0: auto                         */
    uint64_t watermark_high_bytes; /* reclaim ends above this; 0: auto                           */
    uint64_t writes_in_flight;     /* clusters of 2 MiB on their way to one back end             */
    uint64_t drop_batch_pages;     /* clean pages that leave by one system call                  */
    uint64_t cache_scan_ratio;     /* look for clean ones among 1/N of the victims before writing */
    uint64_t second_chance_permille; /* of the budget: clean victims kept a while after unmapping */
    uint64_t zero_elision;      /* 1: a page of zeros is forgotten instead of written         */
    uint64_t checksums;         /* 1: every page is summed when it leaves, checked on return  */
    uint64_t slot_keep_percent; /* a read page keeps its slot while a back end is not fuller  */
    uint64_t clean_percent;     /* clusters are cleaned while a back end is not fuller; 0: no */

    uint64_t readahead_bytes;    /* largest single read ahead of a stream; 0: none             */
    uint64_t fault_around_bytes; /* most that one touch of a stream maps at once; 0: one page  */
    uint64_t fault_readers;      /* faults that may wait for a back end at the same time       */
    uint64_t report_signal;      /* number of a signal that prints the report to stderr; 0: no */
    const char *trace;           /* a file for a trace of all faults (weir_trace.h); "": none    */
    const char *heat;    /* "none", "auto", "idle", "damon", "perf": who else tells of use */
    const char *publish; /* "1", "0", a directory: let `weir` watch it (weir_watch.h)        */

    weir_event_fn on_event; /* NULL: nobody listens                                       */
    void *event_context;
};

void weir_options_init_sized(struct weir_options *options, size_t size);

/* Fill the options from environment and defaults. Any thread. */
static inline void weir_options_init(struct weir_options *options)
{
    weir_options_init_sized(options, sizeof(*options));
}

/* One row of the table of settings. The strings are constant. */
struct weir_setting {
    const char *name;        /* of the field                                                    */
    const char *environment; /* for example WEIR_BUDGET                                         */
    const char *initial;     /* the default, as it would be written in the variable             */
    const char *unit;        /* "bytes", "pages", "count", "permille", "percent", "0/1", "text" */
    const char *help;        /* one sentence                                                    */
};

/* The row with this index; NULL after the last. Any thread, any signal handler. */
const struct weir_setting *weir_setting(size_t index);

/* --- Runtime --------------------------------------------------------------------------------- */

/*
 * Open a runtime: probe the kernel, open the back ends, start the threads. options NULL means all
 * defaults. A process may have several. The caller owns *runtime_p and ends it by weir_close().
 * On failure nothing is left behind and an event has said why and what to do.
 * WEIR_EINVAL: a bad setting. WEIR_ENOSUPPORT: no usable way to trap faults. WEIR_ENOMEM,
 * WEIR_EDENIED, WEIR_EBUSY, WEIR_EIO: the back end or the kernel refused.
 */
int weir_open(const struct weir_options *options, struct weir_runtime **runtime_p);

/*
 * Unmap all regions, stop the threads, close the back ends, free everything. Contents are lost.
 * Waits for reads that are in flight. A thread that still uses a region afterwards gets SIGSEGV,
 * as with any unmapped memory. NULL is allowed. In a fork child: does nothing, WEIR_EFORKED.
 */
int weir_close(struct weir_runtime *runtime);

/*
 * Change the budget while running. Growing is at once. Shrinking begins at once and is complete
 * when enough pages have left: waits at most timeout_ms for that (0: not at all) and returns
 * WEIR_EAGAIN when they have not all left yet; it goes on by itself.
 * WEIR_EINVAL: smaller than the runtime needs to work at all.
 */
int weir_budget_set(struct weir_runtime *runtime, uint64_t bytes, uint32_t timeout_ms);

/* --- Regions --------------------------------------------------------------------------------- */

struct weir_region_options {
    size_t size;            /* sizeof(struct weir_region_options) of the caller */
    const char *name;       /* for reports; copied; NULL: none                  */
    uint64_t reserve_bytes; /* what weir_resize() may make of it; less than bytes: just bytes */
    int reattach;           /* 1: what weir_unmap_keep() has kept by this name, if it is there */
};

/*
 * Map a region: bytes of zeros, rounded up to whole pages, at an address of the library's choice,
 * aligned to 2 MiB. It may be many times larger than budget, memory and back ends; only what is
 * written needs a place. Not inherited by fork children, not in core dumps. options may be NULL.
 * A reserve counts against address_space_bytes, and costs nothing else until it is used.
 * WEIR_EINVAL: bytes is 0. WEIR_ENOMEM: out of addresses (address_space_bytes, ulimit -v).
 */
int weir_map(struct weir_runtime *runtime, uint64_t bytes,
             const struct weir_region_options *options, void **address_p);

/*
 * Unmap the whole region that begins at address. Its contents and slots are freed. Pins are
 * forgotten. Waits for reads of its pages that are in flight. WEIR_ENOENT: no region begins there.
 * WEIR_EBUSY: it is being resized or moved; nothing was done.
 */
int weir_unmap(void *address);

/* --- Hints and pins -------------------------------------------------------------------------- */

enum weir_hint {
    WEIR_NORMAL,     /* forget RANDOM and SEQUENTIAL for the region                               */
    WEIR_RANDOM,     /* the region: do not read ahead                                             */
    WEIR_SEQUENTIAL, /* the region: read ahead from the first touch on                            */
    WEIR_WILLNEED,   /* the range: begin to read it now, as far as memory is free                 */
    WEIR_COLD,       /* the range: let it leave first                                             */
    WEIR_FREE,       /* the range: contents are not needed; reads give old bytes or zero until
                        the next write, and nothing is written to a back end                      */
    WEIR_DISCARD     /* the range: zero it now and free all it occupies                           */
};

/*
 * Tell about the whole pages inside [address, address + bytes). RANDOM, SEQUENTIAL and NORMAL
 * hold for the region. Pinned pages are left out of COLD and FREE; a range that holds one is not
 * discarded (WEIR_EBUSY, nothing was done to the pinned page; others may be discarded).
 * FREE and DISCARD cost time for what is there, not for the addresses; they go step by step, and
 * signals are held off for no more than a step. WEIR_EINVAL: not inside one region.
 */
int weir_advise(void *address, uint64_t bytes, enum weir_hint hint);

enum weir_access { WEIR_READ, WEIR_WRITE };

/*
 * Bring every page of [address, address + bytes) into memory and keep it there until the same
 * range is unpinned as often: for system calls, devices and anything else that must not meet an
 * absent page. WEIR_WRITE is for memory that a system call or device will write. All pages or
 * none. At most 65535 pins a page (WEIR_EBUSY beyond). Pinned memory counts against the budget:
 * pinning more than about nine tenths of it fails with WEIR_ENOMEM.
 * WEIR_EIO: a page could not be read. WEIR_EFULL: nothing could make room.
 */
int weir_pin(void *address, uint64_t bytes, enum weir_access access);

/* The same, but never waiting: for a back end, for free memory, for another thread. WEIR_EAGAIN: it
 * would have had to; nothing is pinned. What is away is not asked for: say WEIR_WILLNEED, and try
 * again later. Undone by weir_unpin(). (The "atomic" allocation that "Ludo" leaves out.) */
int weir_pin_try(void *address, uint64_t bytes, enum weir_access access);

/* Undo one weir_pin() of exactly this range. WEIR_EINVAL: it is not pinned. */
int weir_unpin(void *address, uint64_t bytes);

/* --- Back ends ------------------------------------------------------------------------------- */

/*
 * Add a back end, for example "file:/mnt/nvme?size=64G", behind those already there. The number
 * that names it is written to *number_p (may be NULL). docs/BACKENDS.md lists kinds and options.
 */
int weir_backend_add(struct weir_runtime *runtime, const char *spec, uint32_t *number_p);

/*
 * Add a member to a back end that is made of several (mirror, spread, ec), while the program runs:
 * it gets its share of what lies there, in the background, and takes the place of members that are
 * lost. The back end has room for no more pages than before. Blocks until the member is open. Any
 * thread, not in a signal handler. WEIR_ENOENT: no such back end. WEIR_ENOSUPPORT: it is not made
 * of several. WEIR_EBUSY: it has as many as it can. WEIR_EDENIED: the member is remote, and the
 * back end was opened without a seal, for none was. Other errors: as the member's open has them.
 * Nothing has changed then, and an event has said why.
 */
int weir_backend_extend(struct weir_runtime *runtime, uint32_t number, const char *spec);

/*
 * Take a member off such a back end: what lies there moves to the others, in the background, and
 * then it is closed; an event says when, another if the others have no room. member: its
 * specification, or that without its options. Returns at once, unless another back end is added,
 * extended or drained at the time. Any thread, not in a signal handler.
 * WEIR_ENOENT: no such back end, or member. WEIR_ENOSUPPORT: it is not made of several. WEIR_EFULL:
 * too few members would be left for the copies, or pieces, that it keeps. Nothing has changed then,
 * and an event has said why.
 */
int weir_backend_retire(struct weir_runtime *runtime, uint32_t number, const char *member);

/*
 * Take every page off a back end and close it, while the program runs on. Costs time for the
 * pages on it, not for the addresses mapped. Blocks until done. WEIR_EFULL: the other back ends
 * and the budget cannot take them; the back end stays in use. WEIR_EIO: some pages could not be
 * read; they stay where they are. WEIR_EAGAIN: for seconds nothing came off it, though nothing
 * failed: its device hangs; the back end stays in use, try again. (Riel's swapoff without scanning
 * addresses.)
 */
int weir_backend_drain(struct weir_runtime *runtime, uint32_t number);

/*
 * Take at most bytes of live pages off one back end, to be written to another, while the program
 * runs on; the first one takes no new pages meanwhile. Pages that are mapped stay as they are, and
 * what is just being read or written is left out. Blocks until the pages are in memory or at the
 * other one; the last of them are written when memory is needed. How many bytes left is written to
 * *moved_p (may be NULL), whatever is returned. When the target is full or fails, pages go where
 * any others go. Any thread, not in a signal handler. WEIR_ENOENT: no such back end. WEIR_EINVAL:
 * from and to are the same. WEIR_EFULL, WEIR_EIO: as for a drain. (After Riel: one place knows
 * where a page lies, so that it can be moved and nobody else need be told.)
 */
int weir_backend_move(struct weir_runtime *runtime, uint32_t from, uint32_t to, uint64_t bytes,
                      uint64_t *moved_p);

struct weir_backend_state {
    uint32_t number;
    char spec[256];       /* as given, shortened if need be            */
    uint64_t bytes_total; /* room                                      */
    uint64_t bytes_used;  /* slots that hold a page                    */
    uint64_t errors;      /* failed requests since it was added        */
    int draining;         /* 1: takes no new pages                     */
    int sick;             /* 1: recent writes failed; tried again soon */
};

/* Describe the back end at this position, 0 first; WEIR_ENOENT after the last. */
int weir_backend_get(struct weir_runtime *runtime, uint32_t position,
                     struct weir_backend_state *state_p);

/* --- Statistics ------------------------------------------------------------------------------ */

/*
 * Read all statistics. Counters only grow; they are summed while threads count on, so that two of
 * them may disagree by what happened in between. WEIR_EINVAL: stats->size is not set.
 */
int weir_stats(struct weir_runtime *runtime, struct weir_stats *stats);

/* Upper bound in ns of the bucket that holds this share (0.5, 0.99 ...) of the samples. */
uint64_t weir_histogram_quantile(const struct weir_histogram *histogram, double share);

/*
 * Write the report: which engine was chosen and why, the budget, the back ends, the first 32
 * regions, the four lines that "Ludo" gave Alt-SysReq-M in 2000, and every reason to wait.
 * weir_report() fills at most bytes characters and a final 0 and returns the length that the whole
 * report has (like snprintf). weir_report_fd() writes it to a file descriptor. Both may be called
 * from a signal handler.
 */
size_t weir_report(struct weir_runtime *runtime, char *text, size_t bytes);
int weir_report_fd(struct weir_runtime *runtime, int fd);

/* "0.1.0": of the library that runs, which may be newer than this header. */
const char *weir_version(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
