/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Weir objects: memory that shows at several places of a program at once.
 *
 *   object   pages that may be seen at any number of places; it counts against the budget of its
 *            runtime, and goes to its back ends, like the pages of regions
 *   view     a range of addresses that shows a part of an object; used with plain loads and stores
 *
 * Always: what is stored through one view is loaded through every other, at once, as from memory
 * that a machine's own threads share. A page is in memory once, however many views show it, and
 * when it leaves, it leaves all of them, and no other page does. (Andrea Arcangeli's "big iron":
 * half a million pages, "mapped some hundred times".)
 *
 *     struct weir_object *object;
 *     void *all, *part;
 *
 *     weir_object_create(rt, 2ull << 30, NULL, &object);
 *     weir_view_map(object, 0, 2ull << 30, &all);
 *     weir_view_map(object, 1ull << 30, 1ull << 20, &part);
 *     ((char *)all)[1ull << 30] = 1;       // and now *(char *)part is 1
 *     weir_object_close(object);           // it lives until its last view is unmapped
 *
 * weir_unmap(), weir_advise() and weir_pin() take a view as they take a region: see there. Advice
 * about contents and places (WILLNEED, COLD, FREE, DISCARD) is about the object's pages, that is,
 * for all views; NORMAL, RANDOM and SEQUENTIAL are about the one view. A pin keeps the pages in
 * memory for all views, and mapped in the one that it was made through. docs/LIMITS.md says what is
 * different from a region's pages: devices above all.
 *
 * Threads and signals: as in weir.h.
 */

#include <weir/weir.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define WEIR_OBJECT_VIEWS_MAX 4096u

struct weir_object;

/*
 * Create an object of bytes of zeros, rounded up to whole pages; only what is stored to needs
 * memory. It cannot be touched but through views. The runtime owns it; the caller ends his use of
 * it by weir_object_close(), or closes the runtime. options may be NULL.
 * WEIR_EINVAL: bytes is 0, or over 16 TiB, or over the limit for files (ulimit -f).
 * WEIR_ENOSUPPORT: before Linux 5.14; an event says so. WEIR_ENOMEM: as weir_map(). WEIR_EBUSY:
 * 1024 are open.
 */
int weir_object_create(struct weir_runtime *runtime, uint64_t bytes,
                       const struct weir_region_options *options, struct weir_object **object_p);

/*
 * Give the object up: no more views can be mapped. Those that are there stay, and with the last of
 * them the object goes and its contents are lost; without any, at once. The pointer is void. NULL
 * is allowed. Waits for reads that are in flight.
 */
int weir_object_close(struct weir_object *object);

/*
 * Map a view of [offset, offset + bytes) of the object, at an address of the library's choice,
 * aligned to 2 MiB. offset is a multiple of the page size; bytes is rounded up to whole pages. A
 * view costs no descriptors; page tables of its own as far as it is touched. Unmap it by
 * weir_unmap() of its first address; unpin first what was pinned through it: a pin that is not
 * undone stays with the object's page.
 * WEIR_EINVAL: bytes is 0, offset is not a whole page's, or the range is not inside the object.
 * WEIR_EBUSY: the object has WEIR_OBJECT_VIEWS_MAX views. WEIR_ENOMEM: no addresses (ulimit -v,
 * vm.max_map_count), or 16384 regions and views in the process.
 */
int weir_view_map(struct weir_object *object, uint64_t offset, uint64_t bytes, void **address_p);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
