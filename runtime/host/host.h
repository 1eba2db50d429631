/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Host: the one seam to the world.
 *
 *   host      what the runtime needs of a kernel: page tables, time, sleeping, threads
 *   frames    local memory of the runtime itself, named by numbers: first the slab (always
 *             there), then staging (empty until a page is moved into it)
 *   place     give the application a page: copy bytes into a new frame and map it
 *   revoke    take a page that may have been written: its bytes end in a staging frame, the
 *             application's next touch traps, and no store in between is lost
 *   drop      unmap pages whose bytes are somewhere else, or not wanted any more
 *   object    memory that may be mapped at several places; a page of it is a hole, or resident
 *   view      a place of an object, whose touches trap; an address in it is one like any other
 *   bell      how a runtime thread is woken
 *
 * Always: only the holder of a page's lock calls place, protect, revoke or drop for it. An address
 * in a region is a number here; nobody above this line can dereference one by accident.
 *
 * host_linux.c is the real one; tests/sim has another, on which one seed replays everything.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/check.h"

struct wr_host;

enum wr_hosted {
    WR_HOST_OK,     /* all pages                                                                  */
    WR_HOST_EXISTS, /* something is mapped where the page should go: not by us                    */
    WR_HOST_HOLE,   /* the object has no such page                                                */
    WR_HOST_GONE,   /* the range is no longer ours: the application unmapped or remapped it       */
    WR_HOST_NOMEM   /* the kernel has no memory for it                                            */
};

enum wr_revoked {
    WR_REVOKED,        /* the bytes are in the frame, the page is unmapped                        */
    WR_REVOKE_PINNED,  /* a device holds the page; nothing changed                                */
    WR_REVOKE_MISSING, /* it was not mapped: dropped by the application's own madvise             */
    WR_REVOKE_FAILED   /* contention or no memory; nothing changed                                */
};

struct wr_revoke {
    uint64_t addr;
    uint32_t frame; /* a staging frame, empty */
    enum wr_revoked result;
};

struct wr_span {
    uint64_t addr;
    uint32_t pages;
};

/* One mapped page whose bytes are to be copied into a slab frame. */
struct wr_copy {
    uint64_t addr;
    uint32_t frame;
};

/* What the page tables say about a page, for the auditor. */
enum wr_fact { WR_FACT_PRESENT = 1, WR_FACT_WRITABLE = 2, WR_FACT_ZERO_PAGE = 4 };

struct wr_bell {
    int fd;
};

#define WR_FOREVER    UINT64_MAX
#define WR_LOOK_PAGES 16u /* what look() is given room for: it stays in a processor's cache */
#define WR_LOOK_BYTES (WR_LOOK_PAGES * WEIR_PAGE_BYTES)

struct wr_host_ops {
    uint64_t (*now_ns)(struct wr_host *host);

    /* slab_pages of zeros, then room for staging_pages; sets host->frames. */
    int (*frames_map)(struct wr_host *host, uint32_t slab_pages, uint32_t staging_pages);
    void (*frames_unmap)(struct wr_host *host);

    /* Addresses whose touches trap. bytes is a multiple of the page size. */
    int (*region_map)(struct wr_host *host, uint64_t bytes, uint64_t *addr_p);
    /* Touches of a part of it end in SIGSEGV (on), or trap again. What is mapped there stays. */
    int (*region_guard)(struct wr_host *host, uint64_t addr, uint64_t bytes, bool on);
    /* Free all its memory; touches end in SIGSEGV; the addresses stay taken. */
    void (*region_seal)(struct wr_host *host, uint64_t addr, uint64_t bytes);
    void (*region_unmap)(struct wr_host *host, uint64_t addr, uint64_t bytes);

    /* Map pages copies of bytes at addr, write-protected or writable. done_p: how many. Signal. */
    enum wr_hosted (*place)(struct wr_host *host, uint64_t addr, const void *bytes, uint32_t pages,
                            bool protect, uint32_t *done_p);
    /* Map the system's shared zero page, write-protected, at most 64 pages. done_p: how many, from
     * the lowest on. owned_p: a bit for each of them, the lowest first, that has, or may have, a
     * frame of its own and is writable: a store came before the protection. Signal. */
    enum wr_hosted (*place_zero)(struct wr_host *host, uint64_t addr, uint32_t pages,
                                 uint32_t *done_p, uint64_t *owned_p);
    /* Trap, or no longer trap, stores to mapped pages. On return every CPU obeys. Signal. */
    enum wr_hosted (*protect)(struct wr_host *host, uint64_t addr, uint32_t pages, bool on);
    void (*revoke)(struct wr_host *host, struct wr_revoke *list, uint32_t count);
    /* How many were copied, from the front: a page that the program dropped ends it. 0 where the
     * kernel forbids it. */
    uint32_t (*copy)(struct wr_host *host, const struct wr_copy *list, uint32_t count);
    void (*drop)(struct wr_host *host, const struct wr_span *spans, uint32_t count);
    /* Take neighbouring mapped pages to other addresses of ours, where nothing is mapped and nobody
     * touches anything yet. There they may be stored to; no store in between is lost. done_p: how
     * many, from the lowest on; the result is that of the page after them. */
    enum wr_revoked (*relocate)(struct wr_host *host, uint64_t from, uint64_t to, uint32_t pages,
                                uint32_t *done_p);
    /* Fill an empty staging frame with a page of bytes. */
    enum wr_hosted (*stage)(struct wr_host *host, uint32_t frame, const void *bytes);
    /* Give empty staging frames memory: a back end is about to read into them. */
    enum wr_hosted (*populate)(struct wr_host *host, uint32_t frame, uint32_t pages);
    /* The bytes of neighbouring staging frames, at most WR_LOOK_PAGES, to be read once: where they
     * are, or in `room`, for as many pages. A frame that is released meanwhile reads as anything,
     * others as what they hold. */
    const uint8_t *(*look)(struct wr_host *host, uint32_t frame, uint32_t pages, uint8_t *room);
    /* Free the memory of staging frames. */
    void (*release)(struct wr_host *host, uint32_t frame, uint32_t pages);
    /* Is a page mapped there? Signal. */
    bool (*is_mapped)(struct wr_host *host, uint64_t addr);
    /* facts[i] of each page. WEIR_ENOSUPPORT: this kernel cannot tell. */
    int (*facts)(struct wr_host *host, uint64_t addr, uint32_t pages, uint8_t *facts);

    /* An object of holes, and its name. WEIR_EINVAL: more than the process may (ulimit -f). */
    int (*object_open)(struct wr_host *host, uint64_t bytes, int *object_p);
    void (*object_close)(struct wr_host *host, int object);
    /* Addresses for a part of it, as region_map() gives them; they go like those of a region. In a
     * view place() makes the object's page resident and maps it there; drop() and protect() change
     * the view alone. */
    int (*view_map)(struct wr_host *host, int object, uint64_t offset, uint64_t bytes,
                    uint64_t *addr_p);
    /* Map resident pages in one more view, upward. EXISTS: one is there already; HOLE: no page.
     * done_p: how many before that. Signal. */
    enum wr_hosted (*reveal)(struct wr_host *host, uint64_t addr, uint32_t pages, bool protect,
                             uint32_t *done_p);
    /* Copy resident pages that nobody can change into frames, which may be empty ones of staging.
     * False: no memory for those. */
    bool (*object_read)(struct wr_host *host, int object, uint64_t offset, uint32_t frame,
                        uint32_t pages);
    /* Unmap pages in all views and free them. Cannot fail. */
    void (*object_punch)(struct wr_host *host, int object, uint64_t offset, uint32_t pages);

    /* Sleep while *word == expect, at most until the deadline; may return early. Signal. */
    void (*park)(struct wr_host *host, const void *word, uint32_t expect, uint64_t deadline_ns);
    void (*unpark)(struct wr_host *host, const void *word, uint32_t count);
    void (*yield)(struct wr_host *host);

    int (*bell_init)(struct wr_host *host, struct wr_bell *bell);
    void (*bell_fini)(struct wr_host *host, struct wr_bell *bell);
    void (*bell_ring)(struct wr_host *host, struct wr_bell *bell); /* Signal. */
    /* Until the bell rings, one of the descriptors is readable, or the deadline. */
    void (*bell_wait)(struct wr_host *host, struct wr_bell *bell, const int *fds, uint32_t fd_count,
                      uint64_t deadline_ns);

    /* A runtime thread, all signals blocked. Stop waits for its return. */
    int (*thread_start)(struct wr_host *host, const char *name, void (*run)(void *), void *context,
                        void **thread_p);
    void (*thread_stop)(struct wr_host *host, void *thread);
    /* The calling thread is to run only when no other wants the processor. */
    void (*thread_idle)(struct wr_host *host);

    void (*close)(struct wr_host *host);
};

struct wr_host {
    const struct wr_host_ops *ops;
    uint8_t *frames;           /* frame f begins at frames + f * WEIR_PAGE_BYTES                 */
    uint32_t slab_pages;       /* frames below this are the slab                                 */
    bool returns_tables;       /* drop() of a whole chunk frees its page table                   */
    uint32_t transient_frames; /* frames that revoke() may need beside those of the pages        */
    bool relocates_by_copy;    /* relocate() needs as many frames as pages in passing             */
    bool has_objects;          /* this kernel can trap touches of shared memory                  */
    bool protects_views;       /* and stores to a page that is mapped                            */
    bool has_peers;            /* and do both for another process: see peer.h                    */
    uint32_t views_many;       /* with so many, to free one page costs what its neighbours would */
    char how[512];             /* for the report: which engine and why                           */
};

static inline uint8_t *wr_host_frame(const struct wr_host *host, uint32_t frame)
{
    return host->frames + (uint64_t)frame * WEIR_PAGE_BYTES;
}

/* What wr_host_linux_open() is to use; words as in struct weir_options. */
struct wr_host_wish {
    const char *engine;
    const char *trap;
};

int wr_host_linux_open(const struct wr_host_wish *wish, const struct wr_events *events,
                       struct wr_host **host_p);
