/* SPDX-License-Identifier: MIT */
#include "runtime/paging/fault.h"

#include "runtime/base/text.h"
#include "runtime/memory/gate.h"
#include "runtime/memory/object.h"
#include "runtime/paging/run.h"

/* The kernel has no memory for a page: beside the errors of the list, and not for outside. */
#define KERNEL_FULL       1
#define KERNEL_FULL_TRIES 200 /* of a millisecond each */
/* The region is being unmapped: likewise. */
#define REGION_GOES       2
#define NS_MILLISECOND    1000000ull

/* One touch on its way. */
struct fault {
    struct wr_space *space;
    struct wr_region *region;
    uint32_t page;
    enum wr_access access;
    enum wr_presence presence;
    bool is_pin;
    bool has_joined; /* waited for a read of somebody else's                  */
    bool has_frame;  /* taken from the budget and not yet given to the page */
};

/* What a store into a page that was never written is mapped onto. Never written to. */
static _Alignas(4096) uint8_t zeros[WR_RUN_MAX * WEIR_PAGE_BYTES];

/* The last touch of this thread that found nothing to do. */
static _Thread_local uint64_t stale_addr;

static uint64_t now_ns(const struct fault *f)
{
    return f->space->host->ops->now_ns(f->space->host);
}

static uint64_t addr_of(const struct fault *f)
{
    return wr_region_addr(f->region, f->page);
}

static void count(const struct fault *f, enum wr_counter counter)
{
    wr_stats_count(f->space->stats, counter);
}

/* The host's place(), for pages that we have locked. */
static enum wr_hosted place(const struct fault *f, uint32_t page, const void *bytes, uint32_t pages,
                            bool protect, uint32_t *done_p)
{
    wr_object_mapped(f->region, page, pages);
    return f->space->host->ops->place(f->space->host, wr_region_addr(f->region, page), bytes, pages,
                                      protect, done_p);
}

static void put(const struct fault *f, struct wr_hold *hold)
{
    wr_page_put(&f->space->pages, hold);
}

/* Does a touch that finds the page in this state need one more frame? */
static bool needs_frame(const struct fault *f, enum wr_page_state state)
{
    switch (state) {
    case WR_PAGE_EMPTY:
    case WR_PAGE_RESIDENT_ZERO: /* shared memory has no page of zeros that costs nothing */
        return f->is_pin || f->access == WR_ACCESS_WRITE || f->region->object ||
               (state == WR_PAGE_RESIDENT_ZERO && f->access == WR_ACCESS_UNKNOWN);
    case WR_PAGE_OUT:
    case WR_PAGE_CACHED_DIRTY:
    case WR_PAGE_CACHED_WRITING:
    case WR_PAGE_CACHED_CLEAN: return true;
    case WR_PAGE_READING:
    case WR_PAGE_RESIDENT_DIRTY:
    case WR_PAGE_RESIDENT_CLEAN:
    case WR_PAGE_RESIDENT_WRITING:
    case WR_PAGE_POISONED:
    case WR_PAGE_STATE_COUNT: return false;
    }
    return false;
}

/* Was it a store, as far as one can tell? A processor that does not say leaves it to the page. */
static bool is_store(const struct fault *f, enum wr_page_state state)
{
    if (f->access != WR_ACCESS_UNKNOWN)
        return f->access == WR_ACCESS_WRITE;
    return state == WR_PAGE_RESIDENT_ZERO || state == WR_PAGE_RESIDENT_CLEAN ||
           state == WR_PAGE_RESIDENT_WRITING || state == WR_PAGE_RESIDENT_DIRTY;
}

/* The kernel's answer to mapping a page, as an error of ours. */
static int judge(const struct fault *f, enum wr_hosted hosted)
{
    switch (hosted) {
    case WR_HOST_OK: return WEIR_OK;
    case WR_HOST_NOMEM: return KERNEL_FULL;
    case WR_HOST_GONE:
        wr_event(&f->space->events, WEIR_FAILURE, WEIR_ENOENT, 0, addr_of(f),
                 "the program has unmapped or remapped part of a region by its own munmap, mmap or "
                 "mremap; use weir_unmap() and weir_advise()");
        return WEIR_ENOENT;
    case WR_HOST_EXISTS:
    case WR_HOST_HOLE: break;
    }
    wr_check_failed("a page is mapped that should not be");
}

/* The page is as the touch wants it. Pin it if that was the wish. */
static int done(const struct fault *f, struct wr_hold *hold)
{
    int error = WEIR_OK;

    if (f->is_pin) {
        if (wr_hold_pins(hold) < WR_PIN_MAX)
            wr_hold_set_pins(hold, wr_hold_pins(hold) + 1);
        else
            error = WEIR_EBUSY;
    }
    put(f, hold);
    return error;
}

/* --- First touch ----------------------------------------------------------------------------- */

/* The page of a run at this place, counted from the lowest. */
static struct wr_hold *run_page(struct wr_run *run, uint32_t i)
{
    return &run->hold[run->direction > 0 ? i : run->count - 1 - i];
}

static bool is_first_placed(const struct wr_run *run, uint32_t placed)
{
    return run->direction > 0 ? placed > 0 : placed == run->count;
}

/* The kernel mapped so many pages of a run, from the lowest on, and they stay, whatever became of
 * the rest: others may have stored to them already. An error counts when the page that was touched
 * is not among them. */
static int trim_run(struct wr_run *run, uint32_t placed, int error)
{
    if (!is_first_placed(run, placed))
        return error;
    while (run->count > placed)
        wr_page_put(&run->space->pages, &run->hold[--run->count]);
    return WEIR_OK;
}

static int first_load(struct fault *f, struct wr_run *run)
{
    uint32_t placed = 0, owned_count = 0;
    uint64_t owned = 0;
    int error = judge(f, f->space->host->ops->place_zero(f->space->host, wr_run_addr(run),
                                                         run->count, &placed, &owned));

    for (uint32_t i = 0; i < placed; i++) {
        bool is_owned = owned >> i & 1;

        owned_count += is_owned;
        wr_page_move(run_page(run, i), WR_PAGE_EMPTY,
                     is_owned ? WR_PAGE_RESIDENT_DIRTY : WR_PAGE_RESIDENT_ZERO);
    }
    if (owned_count)
        wr_frames_overdraw(&f->space->frames, owned_count);
    return trim_run(run, placed, error);
}

static int first_store(struct fault *f, struct wr_run *run)
{
    uint32_t placed = 0;
    int error;

    wr_run_take_frames(run);
    error = judge(f, place(f, run_page(run, 0)->number, zeros, run->count, false, &placed));
    WR_CHECK(error != WEIR_OK || placed == run->count);
    for (uint32_t i = 0; i < placed; i++)
        wr_page_move(run_page(run, i), WR_PAGE_EMPTY, WR_PAGE_RESIDENT_DIRTY);
    f->has_frame = !is_first_placed(run, placed);
    wr_frames_put(&f->space->frames, run->count - placed - f->has_frame);
    return trim_run(run, placed, error);
}

static int touch_empty(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    struct wr_run run;
    uint32_t mapped;
    int error;

    wr_run_gather(&run, f->region, hold, plan);
    error = f->has_frame ? first_store(f, &run) : first_load(f, &run);
    mapped = run.count;
    wr_run_put_neighbours(&run);
    if (error != WEIR_OK) {
        put(f, &run.hold[0]);
        return error;
    }
    count(f, WR_COUNT_faults_first_touch);
    wr_ahead_mapped(f->space->ahead, plan, f->page, mapped);
    return done(f, &run.hold[0]);
}

/* --- From the cache -------------------------------------------------------------------------- */

static bool memory_is_low(const struct wr_frames *frames)
{
    return wr_frames_free(frames) < atomic_load_explicit(&frames->low, memory_order_relaxed);
}

/* Map what a staged page's frame holds. The frame is left to be released with its segment, which is
 * cheap; but while memory is low, at once: when nothing can be written, nothing else frees it. */
static int restore_one(struct fault *f, struct wr_hold *hold, bool store)
{
    enum wr_page_state state = wr_hold_state(hold);
    bool protect = !store && state == WR_PAGE_CACHED_WRITING;
    uint32_t frame = wr_hold_frame(hold);
    uint32_t placed;
    int error = judge(f,
                      place(f, f->page, wr_host_frame(f->space->host, frame), 1, protect, &placed));

    if (error != WEIR_OK)
        return error;
    f->has_frame = false;
    if (state == WR_PAGE_CACHED_WRITING && !store) {
        wr_page_move(hold, state, WR_PAGE_RESIDENT_WRITING);
    } else {
        wr_page_move(hold, state, WR_PAGE_RESIDENT_DIRTY);
        /* A slot under write is only forgotten: its completion frees it. */
        wr_hold_set_slot(hold, WR_SLOT_NONE);
    }
    wr_hold_set_frame(hold, WR_FRAME_NONE);
    if (state == WR_PAGE_CACHED_DIRTY && memory_is_low(&f->space->frames))
        wr_staging_release_one(&f->space->staging, frame);
    return WEIR_OK;
}

static void restored_clean(struct fault *f, struct wr_hold *hold, bool writable)
{
    if (wr_hold_has(hold, WR_PAGE_AHEAD))
        count(f, WR_COUNT_reads_ahead_hit);
    wr_hold_set_frame(hold, WR_FRAME_NONE);
    if (writable) {
        wr_page_move(hold, WR_PAGE_CACHED_CLEAN, WR_PAGE_RESIDENT_DIRTY);
        f->space->pager->ops->forget(f->space->pager, wr_hold_slot(hold));
        wr_hold_set_slot(hold, WR_SLOT_NONE);
        count(f, WR_COUNT_slots_doomed);
    } else {
        wr_page_move(hold, WR_PAGE_CACHED_CLEAN, WR_PAGE_RESIDENT_CLEAN);
        count(f, WR_COUNT_slots_kept);
    }
}

/* A run of clean cached pages in neighbouring frames: what a stream finds at its edge. The page
 * that was touched is mapped as the touch wants it, the others as the stream does; but all of them
 * writable when they are not to keep their slots. */
static int restore_clean_run(struct fault *f, struct wr_run *run, bool writable, bool writables)
{
    struct wr_host *host = f->space->host;
    uint32_t others = run->count - 1;
    uint32_t placed = 0;
    uint32_t low = run->direction > 0 ? 1 : others; /* of the others, the lowest */
    int error = judge(f, place(f, f->page, wr_host_frame(host, wr_hold_frame(&run->hold[0])), 1,
                               !writable, &placed));

    if (error != WEIR_OK) {
        wr_frames_put(&f->space->frames, others);
        return error;
    }
    f->has_frame = false;
    placed = 0;
    if (others)
        (void)place(f, run->hold[low].number, wr_host_frame(host, wr_hold_frame(&run->hold[low])),
                    others, !writables, &placed);
    /* Fewer than asked is no error: the rest stays cached. place() goes upward. */
    wr_frames_put(&f->space->frames, others - placed);
    restored_clean(f, &run->hold[0], writable);
    for (uint32_t i = 0; i < placed; i++)
        restored_clean(f, &run->hold[run->direction > 0 ? 1 + i : others - i], writables);
    wr_hold_set(&run->hold[0], WR_PAGE_AHEAD, false);
    wr_stats_add(f->space->stats, WR_COUNT_cache_deleted, 1 + placed);
    return WEIR_OK;
}

static void count_found(const struct fault *f, enum wr_page_state state)
{
    count(f, WR_COUNT_swap_faults);
    count(f, WR_COUNT_cache_found);
    if (state != WR_PAGE_CACHED_CLEAN)
        count(f, WR_COUNT_cache_found_marked);
    if (state == WR_PAGE_CACHED_WRITING)
        count(f, WR_COUNT_pages_rescued_writing);
}

static int touch_cached(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    enum wr_page_state state = wr_hold_state(hold);
    bool store = f->access == WR_ACCESS_WRITE, frees_slots;
    struct wr_run run;
    uint32_t mapped;
    int error;

    if (state != WR_PAGE_CACHED_CLEAN) {
        error = restore_one(f, hold, store);
        if (error != WEIR_OK) {
            put(f, hold);
            return error;
        }
        count(f, WR_COUNT_cache_deleted);
        count_found(f, state);
        return done(f, hold);
    }
    frees_slots = !f->space->pager->ops->keeps(f->space->pager, wr_hold_slot(hold));
    wr_run_gather(&run, f->region, hold, plan);
    wr_run_take_frames(&run);
    error = restore_clean_run(f, &run, store || frees_slots, plan->stores || frees_slots);
    mapped = run.count;
    wr_run_put_neighbours(&run);
    if (error != WEIR_OK) {
        put(f, &run.hold[0]);
        return error;
    }
    count_found(f, state);
    wr_ahead_mapped(f->space->ahead, plan, f->page, mapped);
    return done(f, &run.hold[0]);
}

/* --- From a back end ------------------------------------------------------------------------- */

/* The bytes are here, or not; the page is READING and ours. */
static int finish_read(struct fault *f, struct wr_hold *hold, int read_error, const void *bytes)
{
    struct wr_pager *pager = f->space->pager;
    bool store = f->access == WR_ACCESS_WRITE;
    bool keep = !store && pager->ops->keeps(pager, wr_hold_slot(hold));
    uint32_t placed;
    int error;

    if (wr_hold_has(hold, WR_PAGE_CANCELLED)) {
        wr_page_move(hold, WR_PAGE_READING, WR_PAGE_EMPTY);
        wr_hold_set(hold, WR_PAGE_CANCELLED, false);
        pager->ops->forget(pager, wr_hold_slot(hold));
        wr_hold_set_slot(hold, WR_SLOT_NONE);
        return WEIR_EAGAIN;
    }
    if (read_error != WEIR_OK) {
        wr_page_move(hold, WR_PAGE_READING, WR_PAGE_POISONED);
        return read_error;
    }
    error = judge(f, place(f, f->page, bytes, 1, keep, &placed));
    if (error != WEIR_OK) {
        wr_page_move(hold, WR_PAGE_READING, WR_PAGE_OUT);
        return error;
    }
    f->has_frame = false;
    wr_page_move(hold, WR_PAGE_READING, keep ? WR_PAGE_RESIDENT_CLEAN : WR_PAGE_RESIDENT_DIRTY);
    if (keep) {
        count(f, WR_COUNT_slots_kept);
    } else {
        pager->ops->forget(pager, wr_hold_slot(hold));
        wr_hold_set_slot(hold, WR_SLOT_NONE);
        count(f, WR_COUNT_slots_doomed);
    }
    return WEIR_OK;
}

static int touch_out(struct fault *f, struct wr_hold *hold)
{
    uint64_t slot = wr_hold_slot(hold);
    uint32_t sum = wr_hold_sum(hold);
    uint64_t begun;
    uint32_t frame;
    void *bytes;
    int error;

    wr_page_move(hold, WR_PAGE_OUT, WR_PAGE_READING);
    put(f, hold);
    frame = wr_cache_reader_take(&f->space->cache);
    bytes = wr_host_frame(f->space->host, frame);
    begun = now_ns(f);
    error = f->space->pager->ops->read(f->space->pager, slot, f->page, sum, bytes);
    wr_stats_time(f->space->stats, WR_TIME_read, now_ns(f) - begun);
    wr_page_take(&f->space->pages, f->page, hold);
    error = finish_read(f, hold, error, bytes);
    wr_cache_reader_put(&f->space->cache, frame);
    if (error != WEIR_OK) {
        put(f, hold);
        return error;
    }
    count(f, WR_COUNT_swap_faults);
    count(f, WR_COUNT_reads_demand);
    return done(f, hold);
}

/* Somebody else reads it: wait for that. */
static int join_read(struct fault *f)
{
    uint64_t begun = now_ns(f);

    while (wr_page_peek(&f->space->pages, f->page) == WR_PAGE_READING)
        wr_page_wait(&f->space->pages, f->page);
    wr_stats_time(f->space->stats, WR_TIME_join, now_ns(f) - begun);
    f->has_joined = true;
    count(f, WR_COUNT_swap_faults);
    count(f, WR_COUNT_reads_joined);
    return WEIR_EAGAIN;
}

/* --- Mapped already -------------------------------------------------------------------------- */

/* The application has dropped a mapped page by a madvise of its own: it reads as zero now. */
static int forget_foreign(struct fault *f, struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);

    wr_page_move(hold, state, WR_PAGE_EMPTY);
    wr_hold_set(hold, WR_PAGE_AHEAD, false);
    wr_hold_set(hold, WR_PAGE_FREED, false);
    if (state == WR_PAGE_RESIDENT_CLEAN)
        f->space->pager->ops->forget(f->space->pager, wr_hold_slot(hold));
    wr_hold_set_slot(hold, WR_SLOT_NONE);
    if (wr_state_is_charged(state))
        wr_frames_put(&f->space->frames, 1);
    put(f, hold);
    count(f, WR_COUNT_foreign_discards);
    return WEIR_EAGAIN;
}

/* The descriptor says mapped, yet the touch trapped: another thread was faster, or the page was
 * dropped behind our back. The second time at one place, ask the kernel. */
static int touch_stale(struct fault *f, struct wr_hold *hold)
{
    uint64_t addr = addr_of(f);

    if (f->is_pin)
        return done(f, hold);
    if (stale_addr == addr && !f->space->host->ops->is_mapped(f->space->host, addr)) {
        stale_addr = 0;
        return forget_foreign(f, hold);
    }
    stale_addr = addr;
    count(f, WR_COUNT_faults_stale);
    return done(f, hold);
}

static void written_clean(struct fault *f, struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);

    wr_page_move(hold, state, WR_PAGE_RESIDENT_DIRTY);
    if (state == WR_PAGE_RESIDENT_CLEAN)
        f->space->pager->ops->forget(f->space->pager, wr_hold_slot(hold));
    wr_hold_set_slot(hold, WR_SLOT_NONE);
    count(f, WR_COUNT_slots_doomed);
}

/* The first store to pages that were mapped read-only: one, or what a writing stream has ahead. */
static int store_protected(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    struct wr_run run;
    uint32_t mapped;
    int error;

    wr_run_gather(&run, f->region, hold, plan);
    error = judge(
        f, f->space->host->ops->protect(f->space->host, wr_run_addr(&run), run.count, false));
    for (uint32_t i = 0; i < run.count && error == WEIR_OK; i++)
        if (wr_hold_state(&run.hold[i]) != WR_PAGE_RESIDENT_DIRTY)
            written_clean(f, &run.hold[i]);
    mapped = run.count;
    wr_run_put_neighbours(&run);
    if (error != WEIR_OK) {
        put(f, &run.hold[0]);
        return error;
    }
    wr_hold_set(&run.hold[0], WR_PAGE_FREED, false);
    count(f, WR_COUNT_faults_write);
    wr_ahead_mapped(f->space->ahead, plan, f->page, mapped);
    return done(f, &run.hold[0]);
}

/* The shared zero page becomes a page of the application's own. */
static int store_zero(struct fault *f, struct wr_hold *hold)
{
    const struct wr_span span = {addr_of(f), 1};
    uint32_t placed;
    int error;

    f->space->host->ops->drop(f->space->host, &span, 1);
    error = judge(f, place(f, f->page, zeros, 1, false, &placed));
    if (error != WEIR_OK) {
        wr_page_move(hold, WR_PAGE_RESIDENT_ZERO, WR_PAGE_EMPTY);
        put(f, hold);
        return error;
    }
    f->has_frame = false;
    wr_page_move(hold, WR_PAGE_RESIDENT_ZERO, WR_PAGE_RESIDENT_DIRTY);
    count(f, WR_COUNT_faults_write);
    return done(f, hold);
}

/* A walk through a view: its next pages, where they are in the same state. */
static void reveal_ahead(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    uint32_t others, done = 0;
    struct wr_run run;

    wr_run_gather(&run, f->region, hold, plan);
    others = run.count - 1;
    if (others > 0) {
        uint32_t low = run.hold[plan->direction > 0 ? 1 : others].number;

        wr_object_mapped(f->region, low, others);
        (void)f->space->host->ops->reveal(f->space->host, wr_region_addr(f->region, low), others,
                                          wr_hold_state(hold) != WR_PAGE_RESIDENT_DIRTY, &done);
    }
    wr_run_put_neighbours(&run);
    wr_ahead_mapped(f->space->ahead, plan, f->page, 1 + done);
}

/* A resident page of an object: this view may lack it, or have it protected though it was stored
 * to through another. A processor that does not say what the touch was, and a pin, ask first. */
static int touch_view(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    bool store = f->access == WR_ACCESS_WRITE;
    bool is_clean = wr_hold_state(hold) != WR_PAGE_RESIDENT_DIRTY;
    bool protect = !store && (is_clean || wr_hold_has(hold, WR_PAGE_FREED));
    enum wr_hosted hosted = WR_HOST_EXISTS;
    uint32_t done_count;

    if (f->presence != WR_PAGE_PRESENT) {
        wr_object_mapped(f->region, f->page, 1);
        hosted = f->space->host->ops->reveal(f->space->host, addr_of(f), 1, protect, &done_count);
    }
    if (hosted == WR_HOST_HOLE)
        return forget_foreign(f, hold);
    if (hosted == WR_HOST_EXISTS)
        return is_store(f, wr_hold_state(hold)) && f->space->host->protects_views
                   ? store_protected(f, hold, plan)
                   : touch_stale(f, hold);
    if (hosted != WR_HOST_OK) {
        int error = judge(f, hosted);

        put(f, hold);
        return error;
    }
    if (plan->around > 1 && !(is_clean && !f->space->host->protects_views))
        reveal_ahead(f, hold, plan);
    if (store && is_clean)
        written_clean(f, hold);
    if (store)
        wr_hold_set(hold, WR_PAGE_FREED, false);
    count(f, WR_COUNT_views_mapped);
    return done(f, hold);
}

static int touch_resident(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    enum wr_page_state state = wr_hold_state(hold);

    if (f->region->object)
        return touch_view(f, hold, plan);
    if (f->presence == WR_PAGE_ABSENT)
        return touch_stale(f, hold);
    if (f->presence == WR_PRESENCE_UNKNOWN &&
        !f->space->host->ops->is_mapped(f->space->host, addr_of(f)))
        return forget_foreign(f, hold);
    if (state == WR_PAGE_RESIDENT_ZERO && (f->is_pin || is_store(f, state)))
        return store_zero(f, hold);
    if (is_store(f, state))
        return store_protected(f, hold, plan);
    return touch_stale(f, hold);
}

/* --- The whole ------------------------------------------------------------------------------- */

static struct wr_plan plan_for(struct fault *f, enum wr_page_state state, bool is_ahead)
{
    enum wr_step step = WR_STEP_STORE;

    if (f->is_pin)
        return (struct wr_plan){.around = 1, .direction = 1};
    if (state == WR_PAGE_EMPTY)
        step = WR_STEP_FIRST;
    else if (state == WR_PAGE_OUT)
        step = WR_STEP_MISS;
    else if (wr_state_is_cached(state))
        step = !is_ahead ? WR_STEP_CACHED : f->has_joined ? WR_STEP_LATE : WR_STEP_HIT;
    else if (f->region->object && f->presence == WR_PAGE_ABSENT)
        step = WR_STEP_HIT;
    else if (state != WR_PAGE_RESIDENT_CLEAN || f->presence == WR_PAGE_ABSENT)
        return (struct wr_plan){.around = 1, .direction = 1};
    return wr_ahead_note(f->space->ahead, f->region, f->page, step, is_store(f, state));
}

static int resolve(struct fault *f, struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);
    struct wr_plan plan = plan_for(f, state, wr_hold_has(hold, WR_PAGE_AHEAD));

    switch (state) {
    case WR_PAGE_EMPTY: return touch_empty(f, hold, &plan);
    case WR_PAGE_OUT: return touch_out(f, hold);
    case WR_PAGE_CACHED_DIRTY:
    case WR_PAGE_CACHED_WRITING:
    case WR_PAGE_CACHED_CLEAN: return touch_cached(f, hold, &plan);
    case WR_PAGE_RESIDENT_ZERO:
    case WR_PAGE_RESIDENT_DIRTY:
    case WR_PAGE_RESIDENT_CLEAN:
    case WR_PAGE_RESIDENT_WRITING: return touch_resident(f, hold, &plan);
    case WR_PAGE_READING: put(f, hold); return join_read(f);
    case WR_PAGE_POISONED: put(f, hold); return WEIR_EIO;
    case WR_PAGE_STATE_COUNT: break;
    }
    wr_check_failed("a page is in no state");
}

/* The kernel could not give us memory that the budget allows: a cgroup or the machine is full. */
static void await_memory(struct fault *f)
{
    static const uint32_t nothing;
    struct wr_host *host = f->space->host;

    f->space->frames.pressure(f->space->frames.pressure_context);
    host->ops->park(host, &nothing, 0, now_ns(f) + NS_MILLISECOND);
}

static enum wr_frame_use use_of(enum wr_page_state seen)
{
    if (wr_state_is_cached(seen))
        return WR_FRAME_FOR_RESTORE;
    return seen == WR_PAGE_OUT ? WR_FRAME_FOR_READ : WR_FRAME_FOR_NEW;
}

/* Before the page's lock, so that nobody ever waits for a frame with a page locked. */
static int take_frame(struct fault *f, enum wr_page_state seen)
{
    int error;

    if (f->has_frame || !needs_frame(f, seen))
        return WEIR_OK;
    error = wr_frames_take(&f->space->frames, use_of(seen));
    f->has_frame = error == WEIR_OK;
    return error;
}

static int serve_once(struct fault *f)
{
    struct wr_hold hold;
    int error = take_frame(f, wr_page_peek(&f->space->pages, f->page));

    if (error != WEIR_OK)
        return error;
    wr_page_take(&f->space->pages, f->page, &hold);
    /* Once its pages have no owner, frames of staging that they name are released and used again:
     * nothing may be mapped from them. */
    if (atomic_load(&f->region->is_going)) {
        put(f, &hold);
        return REGION_GOES;
    }
    if (!f->has_frame && needs_frame(f, wr_hold_state(&hold))) {
        put(f, &hold);
        return WEIR_EAGAIN;
    }
    error = resolve(f, &hold);
    if (error == KERNEL_FULL)
        await_memory(f);
    return error;
}

static int serve(struct fault *f)
{
    int refusals = 0;
    int error;

    do {
        error = serve_once(f);
        if (error == KERNEL_FULL)
            refusals++;
    } while (error == WEIR_EAGAIN || (error == KERNEL_FULL && refusals < KERNEL_FULL_TRIES));
    if (f->has_frame)
        wr_frames_put(&f->space->frames, 1);
    return error == KERNEL_FULL ? WEIR_ENOMEM : error;
}

static void tell(const struct fault *f, int error)
{
    char line[200];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "a touch of ");
    wr_text_hex(&text, addr_of(f));
    wr_text_add(&text, " cannot be served: ");
    wr_text_add(&text, weir_error_text(error));
    if (error == WEIR_EFULL)
        wr_text_add(&text, "; add a back end or make it larger (size=)");
    if (error == WEIR_ENOMEM)
        wr_text_add(&text, "; too much is pinned, or a memory cgroup is smaller than the budget");
    wr_event(&f->space->events, wr_trap_is_last() ? WEIR_FATAL : WEIR_FAILURE, error, 0, addr_of(f),
             line);
}

/* Where stores to what is mapped cannot be trapped, every touch of a view may be one. */
static enum wr_access access_to(const struct wr_region *region, enum wr_access access)
{
    return region->object && !region->space->host->protects_views ? WR_ACCESS_WRITE : access;
}

/* The region is being unmapped. Let the thread try again until the kernel says that nothing is
 * there: a touch of memory that goes ends as it would without us, in SIGSEGV. */
static void await_end(struct wr_host *host)
{
    static const uint32_t nothing;

    host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + NS_MILLISECOND);
}

static enum wr_trap_answer serve_touch(struct wr_region *region, const struct wr_touch *touch)
{
    struct fault f = {
        .space = region->space,
        .region = region,
        .page = wr_region_page(region, touch->addr),
        .access = access_to(region, touch->access),
        .presence = touch->presence,
    };
    uint64_t begun = now_ns(&f);
    int error = serve(&f);

    if (error == REGION_GOES) {
        await_end(f.space->host);
        return WR_TRAP_RETRY;
    }
    count(&f, WR_COUNT_faults);
    wr_stats_time(f.space->stats, WR_TIME_fault, now_ns(&f) - begun);
    if (error != WEIR_OK)
        tell(&f, error);
    return error == WEIR_OK ? WR_TRAP_RETRY : WR_TRAP_REFUSED;
}

enum wr_trap_answer wr_fault_on_touch(const struct wr_touch *touch)
{
    struct wr_pass pass = wr_gate_enter();
    struct wr_region *region = wr_region_find(touch->addr);
    enum wr_trap_answer answer = WR_TRAP_FOREIGN;

    if (region && atomic_load(&region->is_going)) {
        await_end(region->space->host);
        answer = WR_TRAP_RETRY;
    } else if (region) {
        answer = serve_touch(region, touch);
    }
    wr_gate_leave(pass);
    return answer;
}

int wr_fault_pin(struct wr_region *region, uint32_t page, enum wr_access access)
{
    struct fault f = {
        .space = region->space,
        .region = region,
        .page = page,
        .access = access_to(region, access),
        .presence = WR_PRESENCE_UNKNOWN,
        .is_pin = true,
    };
    int error = serve(&f);

    return error == REGION_GOES ? WEIR_EINVAL : error;
}
