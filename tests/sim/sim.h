/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Sim: the runtime on a world that is made up, so that one seed replays everything.
 *
 *   world     kernel, clock, back ends and applications of one seed; one process holds one world
 *   point     where another thread may run: every atomic operation and lock of the runtime, every
 *             step of the kernel and of a back end, every touch
 *   baton     what a thread must have to run; who gets it next is drawn from the seed
 *   free      the other mode: threads run as they like, on the same kernel and back ends
 *   oracle    what each word of each page must hold
 *   profile   what is drawn once for a seed: sizes, speeds, and which faults are injected
 *
 * Always: with the baton, nothing depends on real time, real addresses or the real scheduler. None
 * of these files is instrumented by ThreadSanitizer and none orders memory for the runtime, so that
 * it judges the runtime alone, in both modes.
 */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/memory/page.h"
#include "runtime/runtime.h"

#define SIM_THREADS_MAX 24u
#define SIM_PAGE        ((uint64_t)WEIR_PAGE_BYTES)
#define SIM_RING        1024u
#define SIM_WORDS       8u

enum sim_engine { SIM_MOVE, SIM_WP, SIM_NAIVE };

struct sim_options {
    uint64_t seed;
    uint32_t steps; /* operations of each application thread; 0: drawn */
    enum sim_engine engine;
    bool is_free, is_verbose;
};

/* How often: one in so many, 0 never. */
struct sim_profile {
    uint32_t budget_pages, budget_min_pages, shared_pages, hint_pages;
    uint32_t threads, operations, hot_pages, slots;
    uint32_t view_count, object_pages; /* no views: a kernel without objects */
    uint32_t switch_every, stall_every, wakes_early;
    uint32_t io_ns_least, io_ns_most;
    bool is_large;    /* a budget in which several writes may be in flight              */
    bool is_shy;      /* the processor does not say what a touch was                    */
    bool has_hints;   /* discard and free by many threads on the same pages             */
    bool has_foreign; /* and the program's own madvise()                                */
    bool has_drains, has_resizes, has_regions, has_pins, has_devices, has_walks, has_keeps;
    uint32_t views_many;           /* of how many views on neighbours go together */
    bool protects_views, is_tight; /* tight: no page numbers for all that is kept */
    bool is_hasty;                 /* closed as soon as the load has ended, without a look */
    bool may_refuse;  /* a touch may fail for want of memory, slots or a working device */
    bool may_lose;    /* a page may be lost                                             */
    bool is_quiet_fd; /* wait_fd() is -1: finished by the next poll()                   */
    uint32_t fail_write, fail_read, damage, refuse_submit, no_memory, revoke_fails, copy_stops;
};

struct sim_event {
    uint64_t now_ns;
    uint32_t thread;
    const char *what;
    uint64_t a, b;
};

/* What a world leaves behind, in memory that the parent process shares. */
struct sim_result {
    bool is_finished, has_failed;
    char why[400];
    uint64_t hash, operations, switches, points, faults, refused, lost;
    uint64_t cleaned, discarded, migrated, reattached, forgotten;
    uint64_t edges[WR_PAGE_STATE_COUNT][WR_PAGE_STATE_COUNT];
    struct sim_event ring[SIM_RING];
    char names[SIM_THREADS_MAX][16];
    _Atomic(uint64_t) ring_count;
};

struct sim_world {
    struct sim_options options;
    struct sim_profile profile;
    struct sim_result *result;
    struct weir_runtime *rt;
    struct wr_host *host;
    bool is_over;              /* the load has ended: nothing is injected any more */
    _Atomic(uint32_t) resizes; /* in progress: the budget is in between */
};

extern struct sim_world sim;

/* --- sim_world.c: chance, trace, verdict ----------------------------------------------------- */

void sim_draw_profile(void);
uint64_t sim_draw(void);
uint64_t sim_below(uint64_t limit); /* limit 0: 0 */
bool sim_one_in(uint32_t n);        /* 0: never */
bool sim_inject(uint32_t n);        /* the same, but never once the load is over */

/* A line of the trace, and of the hash that tells runs apart. No real addresses. */
void sim_event(const char *what, uint64_t a, uint64_t b);
/* The seed has failed: remember why and end the process. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_copy_page(void *to, const void *from);
void sim_fill_page(void *to, uint64_t word);

/* --- sim_sched.c: threads and time ----------------------------------------------------------- */

struct sim_thread;
void sim_sched_open(void);
void sim_point(void);
uint64_t sim_now_ns(void);
/* Sleep while *word == expect, until a wake or the deadline. */
void sim_block(const void *word, uint32_t expect, uint64_t deadline_ns);
void sim_wake(const void *word, uint32_t count);
void sim_sleep(uint64_t ns);
void sim_yield(void);
struct sim_thread *sim_thread_start(const char *name, void (*run)(void *), void *context);
void sim_thread_join(struct sim_thread *thread);
uint32_t sim_thread_index(void);
uint64_t *sim_thread_random(void);
uint32_t sim_threads_alive(void);
/* True: everybody else sleeps because he has nothing to do, and stays asleep until the thaw. In
 * free mode nobody can tell. */
bool sim_freeze(void);
void sim_thaw(void);
void sim_sched_dump(void); /* what every thread is about */
/* What the machine does at once: nothing with the baton, a lock in free mode. */
void sim_machine_take(void);
void sim_machine_drop(void);

/* --- sim_host.c: the kernel ------------------------------------------------------------------ */

/* One page table entry. */
struct sim_entry {
    bool is_present, is_protected, is_zero;
    uint16_t devices; /* that hold the frame (FOLL_PIN)      */
    uint32_t frame;   /* grows when another frame is mapped  */
};

struct sim_area {
    uint64_t addr, serial;
    uint32_t pages, guarded; /* the last so many of them may not be touched */
    bool is_sealed;
    struct sim_entry *entries;
    uint8_t *bytes;
    struct sim_object *object; /* of a view, whose bytes these are; or NULL */
};

struct wr_host *sim_host_open(void);
/* The area of an address, or NULL. With the machine taken, as all below. */
struct sim_area *sim_area_find(uint64_t addr);
/* A store to a mapped, writable page may need a frame first. */
void sim_area_own(struct sim_area *area, uint32_t page);
void sim_area_drop(struct sim_area *area, uint32_t page); /* the program's own madvise() */
/* Frames that the kernel has given out: to applications, and in staging. */
uint32_t sim_frames_mapped(void);
uint32_t sim_frames_staged(void);
/* Is this address in a staging frame that holds nothing? */
bool sim_frame_is_empty(const void *bytes);
void sim_host_check_closed(void);

/* --- sim_backend.c --------------------------------------------------------------------------- */

#define SIM_FD_FIRST 100000
extern const struct weir_backend_ops sim_backend_ops;

uint64_t sim_fd_due_ns(int fd); /* when there is something to read */
void sim_backend_check_closed(void);

/* --- sim_oracle.c: pages and what they must hold --------------------------------------------- */

struct sim_region;

enum sim_touched { SIM_TOUCHED, SIM_REFUSED, SIM_NOT_THERE };

struct sim_region *sim_region_map(uint32_t pages);
/* By the thread that is to unmap it; touches of others may still come. */
void sim_region_unmap(struct sim_region *region);
/* By the one who mapped it. How many pages it has then. */
uint32_t sim_region_resize(struct sim_region *region, uint32_t pages);
uint32_t sim_region_pages(const struct sim_region *region);

enum sim_touched sim_load(struct sim_region *region, uint32_t page);
enum sim_touched sim_store(struct sim_region *region, uint32_t page, bool zero);
void sim_advise(struct sim_region *region, uint32_t page, uint32_t count, enum weir_hint hint);
void sim_foreign_drop(struct sim_region *region, uint32_t page, uint32_t count);
void sim_region_audit(const struct sim_region *region);
/* Pin, let a device read or write, unpin. */
void sim_pin(struct sim_region *region, uint32_t page, uint32_t count, enum weir_access access);
/* A device gets hold of a page without a pin of ours (O_DIRECT) and writes it a while later. */
void sim_device(struct sim_region *region, uint32_t page);

/* --- sim_load.c and sim_check.c -------------------------------------------------------------- */
void sim_check_unmapped(void);
/* Do descriptors and page tables agree? At any moment, where nobody drops pages of his own. */
void sim_audit(uint64_t addr);

/* One seed, in this process, from open to close. */
void sim_world_run(const struct sim_options *options, struct sim_result *result);
