/* SPDX-License-Identifier: MIT */
#include "runtime/paging/touch.h"

#include "runtime/base/bug.h"
#include "runtime/base/usdt.h"
#include "runtime/memory/chunk.h"

/* What a store into a page that was never written is mapped onto. Never written to. */
static _Alignas(4096) uint8_t zeros[WR_RUN_MAX * WEIR_PAGE_BYTES];

/* The kernel's answer to mapping a page, as an error of ours. */
int wr_touch_judge(const struct fault *f, enum wr_hosted hosted)
{
    switch (hosted) {
    case WR_HOST_OK: return WEIR_OK;
    case WR_HOST_NOMEM: return WR_KERNEL_FULL;
    case WR_HOST_GONE:
        if (wr_is_away(wr_touch_addr(f)))
            return WEIR_ENOENT; /* its process has ended, or unmapped it: its own business */
        wr_event(&f->space->events, WEIR_FAILURE, WEIR_ENOENT, 0, wr_touch_addr(f),
                 "the program has unmapped or remapped part of a region by its own munmap, mmap or "
                 "mremap; use weir_unmap() and weir_advise()");
        return WEIR_ENOENT;
    case WR_HOST_EXISTS:
        if (!f->region->object)
            break;
        /* Who has attached the object has its memory, too; our own pages are not touched by it. */
        wr_event(&f->space->events, WEIR_FAILURE, WEIR_EIO, 0, wr_touch_addr(f),
                 "a process has put bytes of its own into an object, past the views: through its "
                 "descriptor, or a trap of its own");
        return WEIR_EIO;
    case WR_HOST_HOLE: break;
    }
    wr_check_failed("a page is mapped that should not be");
}

/* The page is as the touch wants it. Pin it if that was the wish. */
int wr_touch_done(const struct fault *f, struct wr_hold *hold)
{
    int error = WEIR_OK;

    if (f->is_pin) {
        if (wr_hold_pins(hold) < WR_PIN_MAX)
            wr_hold_set_pins(hold, wr_hold_pins(hold) + 1);
        else
            error = WEIR_EBUSY;
    }
    wr_touch_put(f, hold);
    return error;
}

/* --- What the policy learns ------------------------------------------------------------------ */

/* The bug: what was wanted again goes to the wrong end of the queue. */
static void be_oldest(struct wr_aging *aging, uint32_t page)
{
    struct wr_arrivals *small = &aging->small;
    uint64_t begin = atomic_load_explicit(&small->begin, memory_order_relaxed);

    /* Not before the first that ever came, nor over the youngest. */
    if (begin == 0 || wr_arrivals_count(small) >= small->room / 2 ||
        !atomic_compare_exchange_strong_explicit(&small->begin, &begin, begin - 1,
                                                 memory_order_relaxed, memory_order_relaxed))
        wr_aging_arrived(aging, page, 1, 1, false);
    else
        atomic_store_explicit(&small->pages[(begin - 1) & (small->room - 1)], page + 1,
                              memory_order_relaxed);
}

/* The page was wanted again: it belongs to the main queue, and its neighbours are warm. */
static void prove(const struct fault *f, struct wr_hold *hold)
{
    if (wr_bug(WR_BUG_lru_lost)) {
        be_oldest(f->space->aging, hold->number);
        return;
    }
    wr_hold_set(hold, WR_PAGE_MAIN, true);
    wr_page_warm(&f->space->pages, hold->number);
}

/* The same, of a page that kswapd had asked. */
static void prove_wanted(const struct fault *f, struct wr_hold *hold)
{
    wr_aging_wanted(f->space->aging);
    prove(f, hold);
}

/* Pages were mapped: count of them, from this one on, for a stream or not. Those that are not
 * proven go to the queues of arrivals; all of them do, but perhaps the first. */
static void arrived(const struct fault *f, uint32_t count, const struct wr_plan *plan,
                    bool is_first_proven)
{
    uint32_t first = is_first_proven ? f->page + (uint32_t)plan->direction : f->page;

    if (count > is_first_proven)
        wr_aging_arrived(f->space->aging, first, count - is_first_proven, plan->direction,
                         plan->stream != NULL);
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
    int error = wr_touch_judge(f, f->space->host->ops->place_zero(f->space->host, wr_run_addr(run),
                                                                  run->count, &placed, &owned));

    for (uint32_t i = 0; i < placed; i++) {
        bool is_owned = owned >> i & 1;

        owned_count += is_owned;
        wr_page_move(run_page(run, i), WR_PAGE_EMPTY,
                     is_owned ? WR_PAGE_RESIDENT_DIRTY : WR_PAGE_RESIDENT_ZERO);
    }
    if (owned_count) {
        wr_frames_overdraw(&f->space->frames, owned_count);
        wr_aging_lost(f->space->aging);
    }
    return trim_run(run, placed, error);
}

static int first_store(struct fault *f, struct wr_run *run)
{
    uint32_t placed = 0;
    int error;

    wr_run_take_frames(run);
    error = wr_touch_judge(
        f, wr_touch_place(f, run_page(run, 0)->number, zeros, run->count, false, &placed));
    WR_CHECK(error != WEIR_OK || placed == run->count);
    for (uint32_t i = 0; i < placed; i++)
        wr_page_move(run_page(run, i), WR_PAGE_EMPTY, WR_PAGE_RESIDENT_DIRTY);
    f->has_frame = !is_first_placed(run, placed);
    if (f->has_frame && placed > 0)
        wr_aging_lost(f->space->aging); /* they stay, and nobody says that they have arrived */
    wr_frames_put(&f->space->frames, run->count - placed - f->has_frame);
    return trim_run(run, placed, error);
}

int wr_touch_empty(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    struct wr_run run;
    uint32_t mapped;
    bool is_store;
    int error;

    wr_run_gather(&run, f->region, hold, plan);
    is_store = f->has_frame;
    wr_chunk_mark(&f->space->pages, run.hold[0].number);
    wr_chunk_mark(&f->space->pages, run.hold[run.count - 1].number);
    error = is_store ? first_store(f, &run) : first_load(f, &run);
    mapped = run.count;
    wr_run_put_neighbours(&run);
    if (error != WEIR_OK) {
        wr_touch_put(f, &run.hold[0]);
        return error;
    }
    wr_touch_count(f, WR_COUNT_faults_first_touch);
    wr_touch_was(f, is_store ? WEIR_TRACE_FIRST : WEIR_TRACE_ZERO);
    wr_ahead_mapped(f->space->ahead, plan, f->page, mapped);
    error = wr_touch_done(f, &run.hold[0]);
    if (is_store)
        arrived(f, mapped, plan, false);
    return error;
}

/* The shared zero page becomes a page of the application's own. */
int wr_touch_zero(struct fault *f, struct wr_hold *hold)
{
    const struct wr_span span = {wr_touch_addr(f), 1};
    uint32_t placed;
    int error;

    f->space->host->ops->drop(f->space->host, &span, 1);
    error = wr_touch_judge(f, wr_touch_place(f, f->page, zeros, 1, false, &placed));
    if (error != WEIR_OK) {
        wr_page_move(hold, WR_PAGE_RESIDENT_ZERO, WR_PAGE_EMPTY);
        wr_touch_put(f, hold);
        return error;
    }
    f->has_frame = false;
    wr_page_move(hold, WR_PAGE_RESIDENT_ZERO, WR_PAGE_RESIDENT_DIRTY);
    wr_touch_count(f, WR_COUNT_faults_write);
    wr_touch_was(f, WEIR_TRACE_WRITTEN);
    error = wr_touch_done(f, hold);
    wr_aging_arrived(f->space->aging, f->page, 1, 1, false);
    return error;
}

/* --- From the cache -------------------------------------------------------------------------- */

/* Map what a staged page's frame holds. The frame is left to be released with its segment, which is
 * cheap; but while memory is low, at once: when nothing can be written, nothing else frees it. */
static int restore_one(struct fault *f, struct wr_hold *hold, bool store)
{
    enum wr_page_state state = wr_hold_state(hold);
    bool protect = !store && state == WR_PAGE_CACHED_WRITING;
    uint32_t frame = wr_hold_frame(hold);
    uint32_t placed;
    int error = wr_touch_judge(
        f, wr_touch_place(f, f->page, wr_host_frame(f->space->host, frame), 1, protect, &placed));

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
    wr_hold_set(hold, WR_PAGE_AHEAD, false);
    prove_wanted(f, hold);
    if (state == WR_PAGE_CACHED_DIRTY && wr_frames_is_low(&f->space->frames))
        wr_staging_release_one(&f->space->staging, frame);
    return WEIR_OK;
}

static void restored_clean(struct fault *f, struct wr_hold *hold, bool writable)
{
    if (wr_hold_has(hold, WR_PAGE_AHEAD))
        wr_touch_count(f, WR_COUNT_reads_ahead_hit);
    wr_hold_set_frame(hold, WR_FRAME_NONE);
    if (writable) {
        wr_page_move(hold, WR_PAGE_CACHED_CLEAN, WR_PAGE_RESIDENT_DIRTY);
        f->space->pager->ops->forget(f->space->pager, wr_hold_slot(hold));
        wr_hold_set_slot(hold, WR_SLOT_NONE);
        wr_touch_count(f, WR_COUNT_slots_doomed);
    } else {
        wr_page_move(hold, WR_PAGE_CACHED_CLEAN, WR_PAGE_RESIDENT_CLEAN);
        wr_touch_count(f, WR_COUNT_slots_kept);
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
    int error = wr_touch_judge(f, wr_touch_place(f, f->page,
                                                 wr_host_frame(host, wr_hold_frame(&run->hold[0])),
                                                 1, !writable, &placed));

    if (error != WEIR_OK) {
        wr_frames_put(&f->space->frames, others);
        return error;
    }
    f->has_frame = false;
    placed = 0;
    if (others)
        (void)wr_touch_place(f, run->hold[low].number,
                             wr_host_frame(host, wr_hold_frame(&run->hold[low])), others,
                             !writables, &placed);
    /* Fewer than asked is no error: the rest stays cached. wr_touch_place() goes upward. */
    wr_frames_put(&f->space->frames, others - placed);
    if (!wr_hold_has(&run->hold[0], WR_PAGE_AHEAD))
        prove_wanted(f, &run->hold[0]);
    restored_clean(f, &run->hold[0], writable);
    for (uint32_t i = 0; i < placed; i++)
        restored_clean(f, &run->hold[run->direction > 0 ? 1 + i : others - i], writables);
    wr_hold_set(&run->hold[0], WR_PAGE_AHEAD, false);
    wr_stats_add(f->space->stats, WR_COUNT_cache_deleted, 1 + placed);
    return WEIR_OK;
}

static void count_found(struct fault *f, enum wr_page_state state)
{
    wr_touch_was(f, WEIR_TRACE_FOUND);
    wr_touch_count(f, WR_COUNT_swap_faults);
    wr_touch_count(f, WR_COUNT_cache_found);
    wr_touch_count_here(f, WR_REGION_swap_faults);
    wr_touch_count_here(f, WR_REGION_cache_found);
    if (state != WR_PAGE_CACHED_CLEAN)
        wr_touch_count(f, WR_COUNT_cache_found_marked);
    if (state == WR_PAGE_CACHED_WRITING)
        wr_touch_count(f, WR_COUNT_pages_rescued_writing);
}

/* The bug: nothing is done with a page before its write is over. */
static int await_write(struct fault *f, struct wr_hold *hold)
{
    uint64_t begun = wr_touch_now(f);

    wr_touch_put(f, hold);
    while (wr_page_peek(&f->space->pages, f->page) == WR_PAGE_CACHED_WRITING)
        f->space->host->ops->yield(f->space->host);
    wr_stats_time(f->space->stats, WR_TIME_page_lock, wr_touch_now(f) - begun);
    wr_touch_count(f, WR_COUNT_pages_rescued_writing);
    return WEIR_EAGAIN;
}

int wr_touch_cached(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    enum wr_page_state state = wr_hold_state(hold);
    bool store = f->access == WR_ACCESS_WRITE, frees_slots, is_proven;
    struct wr_run run;
    uint32_t mapped;
    int error;

    if (state == WR_PAGE_CACHED_WRITING && wr_bug(WR_BUG_lookup_blocks))
        return await_write(f, hold);
    if (state != WR_PAGE_CACHED_CLEAN) {
        error = restore_one(f, hold, store);
        if (error != WEIR_OK) {
            wr_touch_put(f, hold);
            return error;
        }
        wr_touch_count(f, WR_COUNT_cache_deleted);
        count_found(f, state);
        return wr_touch_done(f, hold);
    }
    frees_slots = !f->space->pager->ops->keeps(f->space->pager, wr_hold_slot(hold));
    wr_run_gather(&run, f->region, hold, plan);
    wr_run_take_frames(&run);
    error = restore_clean_run(f, &run, store || frees_slots, plan->stores || frees_slots);
    mapped = run.count;
    wr_run_put_neighbours(&run);
    if (error != WEIR_OK) {
        wr_touch_put(f, &run.hold[0]);
        return error;
    }
    count_found(f, state);
    wr_ahead_mapped(f->space->ahead, plan, f->page, mapped);
    is_proven = wr_hold_has(&run.hold[0], WR_PAGE_MAIN);
    error = wr_touch_done(f, &run.hold[0]);
    /* Those of the run that were not mapped stay cached; kpaged passes over them. */
    arrived(f, mapped, plan, is_proven);
    return error;
}

/* --- From a back end ------------------------------------------------------------------------- */

/* The bytes are here, or not; the page is READING and ours. */
static int finish_read(struct fault *f, struct wr_hold *hold, int read_error, const void *bytes)
{
    struct wr_pager *pager = f->space->pager;
    bool store = f->access == WR_ACCESS_WRITE;
    bool keep = !store && read_error != WR_READ_OTHER &&
                pager->ops->keeps(pager, wr_hold_slot(hold));
    uint32_t placed;
    int error;

    if (wr_hold_has(hold, WR_PAGE_CANCELLED)) {
        wr_page_move(hold, WR_PAGE_READING, WR_PAGE_EMPTY);
        wr_hold_set(hold, WR_PAGE_CANCELLED, false);
        pager->ops->forget(pager, wr_hold_slot(hold));
        wr_hold_set_slot(hold, WR_SLOT_NONE);
        return WEIR_EAGAIN;
    }
    if (read_error != WEIR_OK && read_error != WR_READ_OTHER) {
        wr_page_move(hold, WR_PAGE_READING, WR_PAGE_POISONED);
        return read_error;
    }
    error = wr_touch_judge(f, wr_touch_place(f, f->page, bytes, 1, keep, &placed));
    if (error != WEIR_OK) {
        wr_page_move(hold, WR_PAGE_READING, WR_PAGE_OUT);
        return error;
    }
    f->has_frame = false;
    if (wr_aging_rises(f->space->aging, wr_page_distance(&f->space->pages, hold)))
        prove(f, hold);
    wr_page_move(hold, WR_PAGE_READING, keep ? WR_PAGE_RESIDENT_CLEAN : WR_PAGE_RESIDENT_DIRTY);
    if (keep) {
        wr_touch_count(f, WR_COUNT_slots_kept);
    } else {
        pager->ops->forget(pager, wr_hold_slot(hold));
        wr_hold_set_slot(hold, WR_SLOT_NONE);
        wr_touch_count(f, WR_COUNT_slots_doomed);
    }
    return WEIR_OK;
}

int wr_touch_out(struct fault *f, struct wr_hold *hold)
{
    uint64_t slot = wr_hold_slot(hold);
    uint32_t sum = wr_hold_sum(hold);
    uint64_t begun, took;
    uint32_t frame;
    bool is_proven;
    void *bytes;
    int error;

    wr_page_move(hold, WR_PAGE_OUT, WR_PAGE_READING);
    wr_touch_put(f, hold);
    frame = wr_cache_reader_take(&f->space->cache);
    bytes = wr_host_frame(f->space->host, frame);
    WR_PROBE3(read_begin, f->page, 1, 0);
    begun = wr_touch_now(f);
    error = f->space->pager->ops->read(f->space->pager, slot, f->page, sum, bytes);
    took = wr_touch_now(f) - begun;
    wr_stats_time(f->space->stats, WR_TIME_read, took);
    WR_PROBE3(read_done, f->page, error, took);
    wr_page_take(&f->space->pages, f->page, hold);
    error = finish_read(f, hold, error, bytes);
    wr_cache_reader_put(&f->space->cache, frame);
    if (error != WEIR_OK) {
        wr_touch_put(f, hold);
        return error;
    }
    wr_touch_count(f, WR_COUNT_swap_faults);
    wr_touch_count(f, WR_COUNT_reads_demand);
    wr_touch_was(f, WEIR_TRACE_READ);
    wr_touch_count_here(f, WR_REGION_swap_faults);
    wr_touch_count_here(f, WR_REGION_reads);
    is_proven = wr_hold_has(hold, WR_PAGE_MAIN);
    error = wr_touch_done(f, hold);
    if (!is_proven)
        wr_aging_arrived(f->space->aging, f->page, 1, 1, false);
    return error;
}
