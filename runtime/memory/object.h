/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Object: memory that shows at several places (seed 004: shared memory, "mapped some hundred
 * times").
 *
 *   object   pages with a region of their own, which nobody can touch: its addresses are numbers
 *            that only this file understands, so that whatever decides about pages need not know
 *   view     a range of addresses at which a part of an object shows; faults find it like a region,
 *            and its page numbers are the object's
 *   reveal   map a resident page in one more view
 *   rmap     the reverse map: from a page to the views that map it; it takes a page from all of
 *            them, and no other page (seed E3, E4, E8)
 *
 * Always: one descriptor a page, whatever the number of views; an entry of `views` is constant
 * while somebody inside the gate may have read it; a view that maps a page is named in its
 * `mappers`.
 *
 * Why no store is lost when a page is taken: the evictor holds the page's lock; he unmaps the page
 * in every view that is named (a view of another process he protects), and on return of that call
 * no processor has a translation left that lets a store through, so that every later one traps, and
 * its fault waits for the lock. Only then are the bytes copied, and only then is the page given
 * back to the kernel, which unmaps it in every process.
 */

#include "runtime/memory/mappers.h"
#include "runtime/memory/space.h"

/* Addresses of an object's own region are none: no processor has so many bits. They say which of
 * the space's objects, and where in it. */
#define WR_OBJECT_ADDR  (1ull << 62)
#define WR_OBJECT_SHIFT 44
#define WR_OBJECT_BYTES (1ull << WR_OBJECT_SHIFT) /* it has less */

/* Pages of which there are two copies while they are taken. */
#define WR_RMAP_GROUP 32u

struct weir_object {
    /* Constant while it is open. */
    struct wr_space *space;
    struct wr_region *region; /* its own */
    uint64_t bytes;
    uint32_t place; /* among the space's objects */
    int memory;     /* the host's name for it    */

    uint64_t *mappers; /* of each page, kept by the page's lock; reserved, filled by first use */

    _Atomic(struct wr_region *) views[WR_VIEWS_MAX]; /* by number */
    _Atomic(uint32_t) views_end;                     /* beyond the highest that was ever in use */

    /* Kept by WR_RANK_RUNTIME; the report looks at the count. */
    _Atomic(uint32_t) view_count;
    uint32_t peer_count; /* processes that are attached */
    bool is_closed;      /* it goes with the last of both */
};

/* An object of zeros. Under WR_RANK_RUNTIME. */
int wr_object_open(struct wr_space *space, uint64_t bytes, const char *name,
                   struct weir_object **object_p);
/* Its region has been unmapped, and it has no view. Its region is not freed. Waits for the gate:
 * under no lock. */
void wr_object_close(struct weir_object *object);

/* A view of the object's pages from offset on. Under WR_RANK_RUNTIME. */
int wr_object_map_view(struct weir_object *object, uint64_t offset, uint64_t bytes,
                       struct wr_region **view_p);
/* A view that another process has mapped, at an address that is away (peer.h). */
int wr_object_adopt_view(struct weir_object *object, uint64_t offset, uint64_t bytes, uint64_t addr,
                         struct wr_region **view_p);
/* Nobody is served in the view any more. Waits for faults: under no lock. */
void wr_object_unmap_view(struct wr_region *view);

/* The region that holds the descriptors of a region's pages: an object's own, for a view. */
struct wr_region *wr_object_home(struct wr_region *region);

/* The pages are about to be mapped at these places of a region, if it is a view. Under their
 * locks. Signal. */
void wr_object_mapped(const struct wr_region *region, uint32_t page, uint32_t pages);

/*
 * What reclaim and hints do to pages, in every view that maps them; pages of ordinary regions go
 * straight to the host's function of the same name (host.h). Under the pages' locks, inside the
 * gate; pages in rising order share system calls. Pages of an object that are to be dropped may be
 * among those that are revoked, with no frame to keep their bytes: to free neighbours costs no more
 * than to free one.
 */
void wr_rmap_drop(struct wr_space *space, const struct wr_span *spans, uint32_t count);
void wr_rmap_revoke(struct wr_space *space, struct wr_revoke *list, uint32_t count);
uint32_t wr_rmap_copy(struct wr_space *space, const struct wr_copy *list, uint32_t count);
enum wr_hosted wr_rmap_protect(struct wr_space *space, uint64_t addr, uint32_t pages);
/* As place(), protected; a page of an object, in any view that shows it. NOMEM also: none does. */
enum wr_hosted wr_rmap_place(struct wr_space *space, uint64_t addr, const void *bytes);
