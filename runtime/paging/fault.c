/* SPDX-License-Identifier: MIT */
#include "runtime/paging/fault.h"

#include "runtime/base/text.h"
#include "runtime/base/usdt.h"
#include "runtime/memory/gate.h"
#include "runtime/paging/touch.h"

#define KERNEL_FULL_TRIES 200 /* of a millisecond each */
/* The region is being unmapped: beside the errors of the list, and not for outside. */
#define REGION_GOES       2
/* A try would have to wait: likewise. */
#define WOULD_WAIT        3
#define NS_MILLISECOND    1000000ull

/* The last touch of this thread that found nothing to do. */
static _Thread_local uint64_t stale_addr;

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

/* --- Being read, or mapped already ----------------------------------------------------------- */

/* Somebody else reads it: wait for that. */
static int join_read(struct fault *f)
{
    uint64_t begun = wr_touch_now(f);

    while (wr_page_peek(&f->space->pages, f->page) == WR_PAGE_READING)
        wr_page_wait(&f->space->pages, f->page);
    wr_stats_time(f->space->stats, WR_TIME_join, wr_touch_now(f) - begun);
    f->has_joined = true;
    wr_touch_was(f, WEIR_TRACE_JOINED);
    wr_touch_count(f, WR_COUNT_swap_faults);
    wr_touch_count(f, WR_COUNT_reads_joined);
    wr_touch_count_here(f, WR_REGION_swap_faults);
    return WEIR_EAGAIN;
}

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
    wr_touch_put(f, hold);
    wr_touch_count(f, WR_COUNT_foreign_discards);
    return WEIR_EAGAIN;
}

/* The descriptor says mapped, yet the touch trapped: another thread was faster, or the page was
 * dropped behind our back. The second time at one place, ask the kernel. */
static int touch_stale(struct fault *f, struct wr_hold *hold)
{
    uint64_t addr = wr_touch_addr(f);

    if (f->is_pin)
        return wr_touch_done(f, hold);
    if (stale_addr == addr && !f->space->host->ops->is_mapped(f->space->host, addr)) {
        stale_addr = 0;
        return forget_foreign(f, hold);
    }
    stale_addr = addr;
    wr_touch_count(f, WR_COUNT_faults_stale);
    return wr_touch_done(f, hold);
}

static void written_clean(struct fault *f, struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);

    wr_page_move(hold, state, WR_PAGE_RESIDENT_DIRTY);
    if (state == WR_PAGE_RESIDENT_CLEAN)
        f->space->pager->ops->forget(f->space->pager, wr_hold_slot(hold));
    wr_hold_set_slot(hold, WR_SLOT_NONE);
    wr_touch_count(f, WR_COUNT_slots_doomed);
}

/* The first store to pages that were mapped read-only: one, or what a writing stream has ahead. */
static int store_protected(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    struct wr_run run;
    uint32_t mapped;
    int error;

    wr_run_gather(&run, f->region, hold, plan);
    error = wr_touch_judge(
        f, f->space->host->ops->protect(f->space->host, wr_run_addr(&run), run.count, false));
    for (uint32_t i = 0; i < run.count && error == WEIR_OK; i++)
        if (wr_hold_state(&run.hold[i]) != WR_PAGE_RESIDENT_DIRTY)
            written_clean(f, &run.hold[i]);
    mapped = run.count;
    wr_run_put_neighbours(&run);
    if (error != WEIR_OK) {
        wr_touch_put(f, &run.hold[0]);
        return error;
    }
    wr_hold_set(&run.hold[0], WR_PAGE_FREED, false);
    wr_touch_count(f, WR_COUNT_faults_write);
    wr_touch_was(f, WEIR_TRACE_WRITTEN);
    wr_ahead_mapped(f->space->ahead, plan, f->page, mapped);
    return wr_touch_done(f, &run.hold[0]);
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
        hosted = f->space->host->ops->reveal(f->space->host, wr_touch_addr(f), 1, protect,
                                             &done_count);
    }
    if (hosted == WR_HOST_HOLE)
        return forget_foreign(f, hold);
    if (hosted == WR_HOST_EXISTS)
        return is_store(f, wr_hold_state(hold)) && f->space->host->protects_views
                   ? store_protected(f, hold, plan)
                   : touch_stale(f, hold);
    if (hosted != WR_HOST_OK) {
        int error = wr_touch_judge(f, hosted);

        wr_touch_put(f, hold);
        return error;
    }
    if (plan->around > 1 && !(is_clean && !f->space->host->protects_views))
        reveal_ahead(f, hold, plan);
    if (store && is_clean)
        written_clean(f, hold);
    if (store)
        wr_hold_set(hold, WR_PAGE_FREED, false);
    wr_touch_count(f, WR_COUNT_views_mapped);
    wr_touch_was(f, WEIR_TRACE_VIEW);
    return wr_touch_done(f, hold);
}

static int touch_resident(struct fault *f, struct wr_hold *hold, const struct wr_plan *plan)
{
    enum wr_page_state state = wr_hold_state(hold);

    if (f->region->object)
        return touch_view(f, hold, plan);
    if (f->presence == WR_PAGE_ABSENT)
        return touch_stale(f, hold);
    if (f->presence == WR_PRESENCE_UNKNOWN &&
        !f->space->host->ops->is_mapped(f->space->host, wr_touch_addr(f)))
        return forget_foreign(f, hold);
    if (state == WR_PAGE_RESIDENT_ZERO && (f->is_pin || is_store(f, state)))
        return wr_touch_zero(f, hold);
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
        step = WR_STEP_VIEW;
    else if (state != WR_PAGE_RESIDENT_CLEAN || f->presence == WR_PAGE_ABSENT)
        return (struct wr_plan){.around = 1, .direction = 1};
    return wr_ahead_note(f->space->ahead, f->region, f->page, step, is_store(f, state));
}

static int resolve(struct fault *f, struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);
    struct wr_plan plan = plan_for(f, state, wr_hold_has(hold, WR_PAGE_AHEAD));

    switch (state) {
    case WR_PAGE_EMPTY: return wr_touch_empty(f, hold, &plan);
    case WR_PAGE_OUT: return wr_touch_out(f, hold);
    case WR_PAGE_CACHED_DIRTY:
    case WR_PAGE_CACHED_WRITING:
    case WR_PAGE_CACHED_CLEAN: return wr_touch_cached(f, hold, &plan);
    case WR_PAGE_RESIDENT_ZERO:
    case WR_PAGE_RESIDENT_DIRTY:
    case WR_PAGE_RESIDENT_CLEAN:
    case WR_PAGE_RESIDENT_WRITING: return touch_resident(f, hold, &plan);
    case WR_PAGE_READING: wr_touch_put(f, hold); return join_read(f);
    case WR_PAGE_POISONED: wr_touch_put(f, hold); return WEIR_EIO;
    case WR_PAGE_STATE_COUNT: break;
    }
    wr_check_failed("a page is in no state");
}

/* Let a millisecond go by; it is a wait like any other. */
static void wait_a_little(struct wr_space *space, enum wr_time reason)
{
    static const uint32_t nothing;
    struct wr_host *host = space->host;
    uint64_t begun = host->ops->now_ns(host);

    host->ops->park(host, &nothing, 0, begun + NS_MILLISECOND);
    wr_stats_time(space->stats, reason, host->ops->now_ns(host) - begun);
}

/* The kernel could not give us memory that the budget allows: a cgroup or the machine is full. */
static void await_memory(struct fault *f)
{
    f->space->frames.pressure(f->space->frames.pressure_context);
    wait_a_little(f->space, WR_TIME_memory);
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
    if (f->is_try)
        error = wr_frames_take_spare(&f->space->frames, 1) == 1 ? WEIR_OK : WOULD_WAIT;
    else
        error = wr_frames_take(&f->space->frames, use_of(seen));
    f->has_frame = error == WEIR_OK;
    return error;
}

/* Lock the page; a try does so only if nobody has it, and nobody reads it or would have to. */
static bool take_page(const struct fault *f, struct wr_hold *hold)
{
    if (!f->is_try) {
        wr_page_take(&f->space->pages, f->page, hold);
        return true;
    }
    if (!wr_page_take_try(&f->space->pages, f->page, hold))
        return false;
    if (wr_hold_state(hold) != WR_PAGE_OUT && wr_hold_state(hold) != WR_PAGE_READING)
        return true;
    wr_touch_put(f, hold);
    return false;
}

static int serve_once(struct fault *f)
{
    struct wr_hold hold;
    int error = take_frame(f, wr_page_peek(&f->space->pages, f->page));

    if (error != WEIR_OK)
        return error;
    if (!take_page(f, &hold))
        return WOULD_WAIT;
    /* Once its pages have no owner, frames of staging that they name are released and used again:
     * nothing may be mapped from them. */
    if (atomic_load(&f->region->is_going)) {
        wr_touch_put(f, &hold);
        return REGION_GOES;
    }
    if (!f->has_frame && needs_frame(f, wr_hold_state(&hold))) {
        wr_touch_put(f, &hold);
        return WEIR_EAGAIN;
    }
    error = resolve(f, &hold);
    if (error == WR_KERNEL_FULL && f->is_try)
        return WOULD_WAIT;
    if (error == WR_KERNEL_FULL)
        await_memory(f);
    return error;
}

/* One load and a branch for who wants no trace. */
static void record(const struct fault *f)
{
    struct wr_trace *trace = f->space->pages.trace;

    if (trace && f->kind)
        wr_trace_put(trace, wr_touch_now(f),
                     f->kind | (f->access == WR_ACCESS_WRITE ? WEIR_TRACE_STORE : 0),
                     f->region->number, f->page);
}

static int serve(struct fault *f)
{
    struct wr_waited before = wr_stats_waited(), after;
    int refusals = 0;
    int error;

    do {
        error = serve_once(f);
        if (error == WR_KERNEL_FULL)
            refusals++;
    } while (error == WEIR_EAGAIN || (error == WR_KERNEL_FULL && refusals < KERNEL_FULL_TRIES));
    if (f->has_frame)
        wr_frames_put(&f->space->frames, 1);
    after = wr_stats_waited();
    if (after.count != before.count) {
        wr_region_add(f->region, WR_REGION_waits, after.count - before.count);
        wr_region_add(f->region, WR_REGION_wait_ns, after.ns - before.ns);
    }
    record(f);
    return error == WR_KERNEL_FULL ? WEIR_ENOMEM : error;
}

/* Which page, and what can be done about it. */
static void add_lost(struct wr_text *text, const struct fault *f)
{
    wr_text_add(text, "; page ");
    wr_text_number(text, f->page - f->region->first);
    wr_text_add(text, " of ");
    wr_text_add(text, *f->region->name ? "region \"" : "a region without a name");
    wr_text_add(text, f->region->name);
    wr_text_add(text, *f->region->name ? "\"" : "");
    wr_text_add(text, "; weir_advise(WEIR_DISCARD) gives a page of zeros in its place");
}

static void tell(const struct fault *f, int error)
{
    char line[400];
    struct wr_text text;

    if (wr_is_away(wr_touch_addr(f)) && error == WEIR_ENOENT)
        return; /* a process that has just ended */
    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text,
                wr_is_away(wr_touch_addr(f)) ? "an attached process's touch of " : "a touch of ");
    wr_text_hex(&text, wr_peer_home(wr_touch_addr(f)));
    wr_text_add(&text, " cannot be served: ");
    wr_text_add(&text, weir_error_text(error));
    if (error == WEIR_EFULL)
        wr_text_add(&text, "; add a back end or make it larger (size=)");
    if (error == WEIR_ENOMEM)
        wr_text_add(&text, "; too much is pinned, or a memory cgroup is smaller than the budget");
    if (error == WEIR_EIO)
        add_lost(&text, f);
    wr_event(&f->space->events,
             !wr_is_away(wr_touch_addr(f)) && wr_trap_is_last() ? WEIR_FATAL : WEIR_FAILURE, error,
             0, wr_peer_home(wr_touch_addr(f)), line);
}

/* Where stores to what is mapped cannot be trapped, every touch of a view may be one. */
static enum wr_access access_to(const struct wr_region *region, enum wr_access access)
{
    return region->object && !region->space->host->protects_views ? WR_ACCESS_WRITE : access;
}

/* The region, or this end of it, is being unmapped, or moved elsewhere. Let the thread try again
 * until the kernel says that nothing is there: a touch of memory that goes ends as it would without
 * us, in SIGSEGV. */
static void await_end(struct wr_space *space)
{
    wait_a_little(space, WR_TIME_going);
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
    uint64_t begun = wr_touch_now(&f), took;
    int error;

    WR_PROBE2(fault_begin, touch->addr, touch->access);
    error = serve(&f);
    if (error == REGION_GOES) {
        await_end(f.space);
        return WR_TRAP_RETRY;
    }
    took = wr_touch_now(&f) - begun;
    wr_touch_count(&f, WR_COUNT_faults);
    wr_touch_count_here(&f, WR_REGION_faults);
    wr_stats_time(f.space->stats, WR_TIME_fault, took);
    WR_PROBE3(fault_done, touch->addr, error, took);
    if (error != WEIR_OK)
        tell(&f, error);
    return error == WEIR_OK ? WR_TRAP_RETRY : WR_TRAP_REFUSED;
}

enum wr_trap_answer wr_fault_on_touch(const struct wr_touch *touch)
{
    struct wr_pass pass = wr_gate_enter();
    struct wr_region *region = wr_region_find(touch->addr);
    enum wr_trap_answer answer = WR_TRAP_FOREIGN;

    if (region && (atomic_load(&region->is_going) || atomic_load(&region->is_moving) ||
                   touch->addr - region->addr >= atomic_load(&region->bytes))) {
        await_end(region->space);
        answer = WR_TRAP_RETRY;
    } else if (region) {
        answer = serve_touch(region, touch);
    }
    wr_gate_leave(pass);
    return answer;
}

int wr_fault_pin(struct wr_region *region, uint32_t page, enum wr_access access, bool is_try)
{
    struct fault f = {
        .space = region->space,
        .region = region,
        .page = page,
        .access = access_to(region, access),
        .presence = WR_PRESENCE_UNKNOWN,
        .is_pin = true,
        .is_try = is_try,
    };
    int error = serve(&f);

    if (error == WOULD_WAIT)
        return WEIR_EAGAIN;
    return error == REGION_GOES ? WEIR_EINVAL : error;
}
