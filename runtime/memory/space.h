/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Space: the nouns of one runtime together, as the verbs need them.
 *
 * Always: regions own disjoint runs of whole chunks of page numbers. A chunk names its region, so
 * that whoever comes from a page (reclaim, drain) finds the address; inside the gate only.
 */

#include "runtime/memory/cache.h"
#include "runtime/memory/frame.h"
#include "runtime/memory/page.h"
#include "runtime/memory/pager.h"
#include "runtime/memory/region.h"
#include "runtime/memory/staging.h"

#define WR_OBJECTS_MAX 1024u /* of one runtime */

struct wr_ahead; /* readahead and aging, of the floor above: only carried here */
struct wr_aging;

/* Where a region is, for who may not enter the gate: relaxed, and true only while the chunks of its
 * pages have its number. Address 0: there is none. */
struct wr_place {
    _Atomic(uint64_t) addr;
    _Atomic(uint32_t) first, pages;
};

struct wr_space {
    /* Constant while the runtime is open. */
    struct wr_host *host;
    struct wr_events events;
    struct wr_stats *stats;
    struct wr_pager *pager;
    struct wr_ahead *ahead;
    struct wr_aging *aging;
    uint32_t fault_around_pages; /* at least 1 */
    uint32_t readahead_pages;    /* 0: off     */

    struct wr_pages pages;
    struct wr_frames frames;
    struct wr_cache cache;
    struct wr_staging staging;

    /* Kept by WR_RANK_RUNTIME; entries of by_number are read inside the gate. */
    struct wr_region *by_page[WR_REGIONS_MAX]; /* sorted */
    uint32_t region_count;
    _Atomic(uint32_t) chunk_end;    /* beyond the last chunk in use */
    _Atomic(uint64_t) mapped_bytes; /* sum of all regions but those that are kept */
    _Atomic(uint64_t) kept_bytes;   /* and of those                               */
    _Atomic(uint32_t) kept_count;   /* until they are removed or mapped again     */
    uint32_t keeps;                 /* how many ever were kept: a clock           */
    _Atomic(struct wr_region *) by_number[WR_REGIONS_MAX + 1]; /* 0 stays NULL */
    _Atomic(uint32_t) number_end;               /* the highest number that was ever used */
    struct wr_place places[WR_REGIONS_MAX + 1]; /* by number, too */
    /* Each entry is read by who has locked one of its pages, or is inside the gate. */
    _Atomic(struct weir_object *) objects[WR_OBJECTS_MAX];
    _Atomic(uint64_t) objects_bytes; /* of the objects' own tables */
};

/* Map addresses, take page numbers, publish; of all this the reserve, if it is more than bytes.
 * Under WR_RANK_RUNTIME. */
int wr_space_map(struct wr_space *space, uint64_t bytes, uint64_t reserve, const char *name,
                 struct wr_region **region_p);
/* Are there page numbers for it? Also true if there can never be so many. Under WR_RANK_RUNTIME. */
bool wr_space_has_room(const struct wr_space *space, uint64_t bytes, uint64_t reserve);
/* The region ends elsewhere from now on, within its reserve: no more than that. By whoever has set
 * is_changing. Whoever still acts on the old end is inside the gate. */
void wr_space_set_end(struct wr_space *space, struct wr_region *region, uint64_t bytes);
/* Addresses for a reserve, of which only bytes can be touched. */
int wr_space_map_addresses(struct wr_space *space, uint64_t bytes, uint64_t reserve_bytes,
                           uint64_t *addr_p);
/* The region has so many page numbers from now on, of which those beyond what it had, or are taken
 * away, were never used. WEIR_ENOMEM: they are another's. Under WR_RANK_RUNTIME. */
int wr_space_set_reserve(struct wr_space *space, struct wr_region *region, uint32_t pages);
/* The region is at another address now, with another reserve: wr_region_readdress(), and who looks
 * for it without the gate finds it there, too. By whoever has set is_changing. */
void wr_space_readdress(struct wr_space *space, struct wr_region *region, uint64_t addr,
                        uint64_t reserve_bytes);
/* As wr_space_map() for the pages of an object, whose memory is there already: with an address that
 * is only a number, and not published. */
int wr_space_map_object(struct wr_space *space, uint64_t bytes, const char *name,
                        struct weir_object *object, uint64_t addr, struct wr_region **region_p);
/* The region, which is hidden (region.h), is kept from now on; or (not is_kept), published again,
 * it no longer is. Under WR_RANK_RUNTIME, as finding one by its name. */
void wr_space_set_kept(struct wr_space *space, struct wr_region *region, bool is_kept);
struct wr_region *wr_space_find_kept(const struct wr_space *space, const char *name,
                                     enum wr_keep keep);
/* The oldest that is kept so, or NULL; of all, or (kswapd) of those that his hand is not through
 * with. Inside the gate, or under WR_RANK_RUNTIME. */
struct wr_region *wr_space_oldest_kept(const struct wr_space *space, enum wr_keep keep, bool all);
/* The region has another address, which is not to be looked at by whoever goes by `places` if it is
 * kept. */
void wr_space_set_place(struct wr_space *space, const struct wr_region *region, bool is_there);
/* The region is going: from here on touches of it are not served, and nobody comes to its pages by
 * what a frame or a slot remembers. Waits for faults: under no lock; by whoever set is_going. */
void wr_space_abandon(struct wr_space *space, struct wr_region *region);
/* Every page is EMPTY: give addresses and page numbers back. Waits as above. */
void wr_space_unmap(struct wr_space *space, struct wr_region *region);
/* Take it from the lists and free it. Under WR_RANK_RUNTIME. */
void wr_space_remove(struct wr_space *space, struct wr_region *region);

/* Pages in memory by class (tally.h). Inside the gate. Signal. */
struct wr_classes {
    uint64_t private_pages, shared, ahead, reusable, pending;
};
struct wr_classes wr_space_classes(const struct wr_space *space);

/* Where the pages of a region are, in pages. */
struct wr_census {
    uint64_t resident, zeros, cached, out;
};

/* Count them by chunks, while they move. Inside the gate. Signal. */
struct wr_census wr_space_census(const struct wr_space *space, const struct wr_region *region);

/* The region of a page, or NULL when it is going or gone. Inside the gate. */
struct wr_region *wr_space_region(struct wr_space *space, uint32_t page);

/* Bytes that descriptors and tables occupy, descriptors of all mapped pages included. Signal. */
uint64_t wr_space_metadata(const struct wr_space *space);
