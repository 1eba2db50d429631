/* SPDX-License-Identifier: MIT */
#include "runtime/memory/page.h"

#include <sys/mman.h>

#include "runtime/base/lock.h"
#include "runtime/base/reserve.h"
#include "runtime/memory/chunk.h"

#define LOCKED      ((uint64_t)1)
#define WAITED      ((uint64_t)2)
#define STATE_SHIFT 2
#define STATE_MASK  ((uint64_t)15 << STATE_SHIFT)
#define FLAG_SHIFT  6
#define PIN_SHIFT   16
#define PIN_MASK    ((uint64_t)0xffff << PIN_SHIFT)
#define SUM_SHIFT   32

/* The last flag, which only this file knows: a page of a chunk that is held. */
#define WHOLE         ((uint64_t)1 << 15)
#define WHOLE_LOOK_NS 20000 /* about as long as it is held */

#define TABLES_TOLD 256 /* so many new page tables are worth a look */

#define SLOT_BITS  36
#define SLOT_MASK  (((uint64_t)1 << SLOT_BITS) - 1)
#define FRAME_MASK (((uint64_t)1 << 28) - 1)

#define SPINS_MAX 64

#define TO(state) (1u << WR_PAGE_##state)

static const uint16_t moves[WR_PAGE_STATE_COUNT] = {
    [WR_PAGE_EMPTY] = TO(RESIDENT_ZERO) | TO(RESIDENT_DIRTY),
    [WR_PAGE_OUT] = TO(READING) | TO(EMPTY),
    [WR_PAGE_READING] = TO(RESIDENT_CLEAN) | TO(RESIDENT_DIRTY) | TO(CACHED_CLEAN) |
                        TO(CACHED_DIRTY) | TO(OUT) | TO(EMPTY) | TO(POISONED),
    [WR_PAGE_CACHED_DIRTY] = TO(RESIDENT_DIRTY) | TO(CACHED_WRITING) | TO(EMPTY),
    [WR_PAGE_CACHED_WRITING] = TO(RESIDENT_WRITING) | TO(RESIDENT_DIRTY) | TO(OUT) |
                               TO(CACHED_DIRTY) | TO(EMPTY),
    [WR_PAGE_CACHED_CLEAN] = TO(RESIDENT_CLEAN) | TO(RESIDENT_DIRTY) | TO(OUT) | TO(EMPTY),
    [WR_PAGE_RESIDENT_ZERO] = TO(RESIDENT_DIRTY) | TO(EMPTY),
    [WR_PAGE_RESIDENT_DIRTY] = TO(CACHED_DIRTY) | TO(EMPTY),
    [WR_PAGE_RESIDENT_CLEAN] = TO(RESIDENT_DIRTY) | TO(CACHED_CLEAN) | TO(OUT) | TO(EMPTY),
    [WR_PAGE_RESIDENT_WRITING] = TO(RESIDENT_CLEAN) | TO(RESIDENT_DIRTY) | TO(EMPTY),
    [WR_PAGE_POISONED] = TO(EMPTY),
};

#define TABLE_ALIGN 4096u

static uint64_t table_bytes(const struct wr_pages *pages)
{
    return (uint64_t)pages->count * sizeof(*pages->table);
}

static uint64_t chunk_bytes(const struct wr_pages *pages)
{
    uint64_t chunks = (pages->count + WR_CHUNK_PAGES - 1) / WR_CHUNK_PAGES;

    return chunks * sizeof(*pages->chunks);
}

static uint64_t area_bytes(const struct wr_pages *pages)
{
    return (pages->count / WR_CHUNK_PAGES / WR_AREA_CHUNKS + 1) * sizeof(*pages->areas);
}

#define PRESENT_BYTES ((UINT16_MAX + 1ull) * sizeof(struct wr_present))

int wr_pages_init(struct wr_pages *pages, uint32_t count, struct wr_host *host,
                  struct wr_stats *stats)
{
    void *table, *chunks, *areas, *present;

    *pages = (struct wr_pages){.count = count, .host = host, .stats = stats};
    if (wr_reserve(table_bytes(pages), TABLE_ALIGN, &table) != 0)
        return WEIR_ENOMEM;
    pages->table = table;
    if (wr_reserve(chunk_bytes(pages), TABLE_ALIGN, &chunks) != 0) {
        wr_pages_fini(pages);
        return WEIR_ENOMEM;
    }
    pages->chunks = chunks;
    if (wr_reserve(area_bytes(pages), TABLE_ALIGN, &areas) != 0) {
        wr_pages_fini(pages);
        return WEIR_ENOMEM;
    }
    pages->areas = areas;
    if (wr_reserve(PRESENT_BYTES, TABLE_ALIGN, &present) != 0) {
        wr_pages_fini(pages);
        return WEIR_ENOMEM;
    }
    pages->present = present;
    return WEIR_OK;
}

void wr_pages_fini(struct wr_pages *pages)
{
    wr_unreserve(pages->table, table_bytes(pages));
    wr_unreserve(pages->chunks, chunk_bytes(pages));
    wr_unreserve(pages->areas, area_bytes(pages));
    wr_unreserve(pages->present, PRESENT_BYTES);
    pages->present = NULL;
    pages->table = NULL;
    pages->chunks = NULL;
    pages->areas = NULL;
}

void wr_pages_forget(struct wr_pages *pages, uint32_t first, uint32_t count)
{
    /* 512 descriptors fill two pages of memory exactly, and regions begin at whole chunks. */
    WR_CHECK(first % WR_CHUNK_PAGES == 0 && count % WR_CHUNK_PAGES == 0);
    madvise(&pages->table[first], (uint64_t)count * sizeof(*pages->table), MADV_DONTNEED);
    for (uint32_t i = first / WR_CHUNK_PAGES; i < (first + count) / WR_CHUNK_PAGES; i++)
        if (atomic_exchange_explicit(&pages->chunks[i].table, WR_TABLE_NONE,
                                     memory_order_relaxed) != WR_TABLE_NONE)
            atomic_fetch_sub_explicit(&pages->stats->tables, 1, memory_order_relaxed);
}

bool wr_page_is_owned(const struct wr_pages *pages, uint32_t number)
{
    return atomic_load(&pages->chunks[number / WR_CHUNK_PAGES].region) != 0;
}

static enum wr_page_state state_of(uint64_t w0)
{
    return (enum wr_page_state)((w0 & STATE_MASK) >> STATE_SHIFT);
}

enum wr_page_state wr_page_peek(const struct wr_pages *pages, uint32_t number)
{
    WR_CHECK_DEBUG(number < pages->count);
    /* Acquire: pairs with the release in wr_page_put(). A stale state only sends the caller to
     * take the lock and look again. */
    return state_of(atomic_load_explicit(&pages->table[number].w0, memory_order_acquire));
}

bool wr_page_peek_untouched(const struct wr_pages *pages, uint32_t number)
{
    /* Acquire: as above. Who has stored to a page that is being mapped sees that it is locked. */
    uint64_t w0 = atomic_load_explicit(&pages->table[number].w0, memory_order_acquire);

    return state_of(w0) == WR_PAGE_EMPTY && !(w0 & LOCKED);
}

bool wr_page_peek_pinned(const struct wr_pages *pages, uint32_t number)
{
    return (atomic_load_explicit(&pages->table[number].w0, memory_order_acquire) & PIN_MASK) != 0;
}

bool wr_page_peek_evictable(const struct wr_pages *pages, uint32_t number, bool *dirty_p)
{
    /* Relaxed: only a hint; the victim is judged again under its lock. */
    uint64_t w0 = atomic_load_explicit(&pages->table[number].w0, memory_order_relaxed);
    enum wr_page_state state = state_of(w0);
    bool is_freed = (w0 >> FLAG_SHIFT) & WR_PAGE_FREED;

    if ((w0 & (LOCKED | PIN_MASK)) != 0)
        return false;
    *dirty_p = state == WR_PAGE_RESIDENT_DIRTY && !is_freed;
    return state == WR_PAGE_RESIDENT_DIRTY || state == WR_PAGE_RESIDENT_CLEAN;
}

bool wr_page_peek_flag(const struct wr_pages *pages, uint32_t number, enum wr_page_flag flag)
{
    /* Relaxed: a hint, as above. */
    return (atomic_load_explicit(&pages->table[number].w0, memory_order_relaxed) >> FLAG_SHIFT) &
           flag;
}

bool wr_page_peek_locked(const struct wr_pages *pages, uint32_t number)
{
    return (atomic_load_explicit(&pages->table[number].w0, memory_order_relaxed) & LOCKED) != 0;
}

static const void *futex_word(const struct wr_page *page)
{
    /* The low half: lock, waiters, state, flags and pins. */
    _Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the futex word is the low half");
    return &page->w0;
}

static bool lock_try(struct wr_page *page, uint64_t *was_p)
{
    uint64_t w0 = atomic_load_explicit(&page->w0, memory_order_relaxed);

    /* Acquire: pairs with the release in wr_page_put(); w1 and the page's bytes are visible. */
    while (!(w0 & LOCKED))
        if (atomic_compare_exchange_weak_explicit(&page->w0, &w0, w0 | LOCKED, memory_order_acquire,
                                                  memory_order_relaxed)) {
            *was_p = w0;
            return true;
        }
    return false;
}

/* Ask to be woken by the next put, if the word is still as seen, and sleep. */
static void sleep_on(const struct wr_pages *pages, struct wr_page *page, uint64_t seen)
{
    static const uint32_t nothing;
    struct wr_host *host = pages->host;

    /* See chunk.h. It is not enough to yield: a thread of real-time priority would for ever. */
    if (seen & WHOLE) {
        host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + WHOLE_LOOK_NS);
        return;
    }
    if (!(seen & WAITED) &&
        !atomic_compare_exchange_strong_explicit(&page->w0, &seen, seen | WAITED,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    host->ops->park(host, futex_word(page), (uint32_t)(seen | WAITED), WR_FOREVER);
}

static uint64_t lock_slowly(const struct wr_pages *pages, struct wr_page *page)
{
    uint64_t begun = pages->host->ops->now_ns(pages->host);
    uint64_t was;

    for (int spins = 0; !lock_try(page, &was); spins++) {
        uint64_t seen = atomic_load_explicit(&page->w0, memory_order_relaxed);

        if (!(seen & LOCKED))
            continue;
        if (spins < SPINS_MAX)
            wr_lock_relax();
        else if (spins == SPINS_MAX)
            pages->host->ops->yield(pages->host); /* on one CPU the holder must run first */
        else
            sleep_on(pages, page, seen);
        wr_lock_point();
    }
    wr_stats_time(pages->stats, WR_TIME_page_lock, pages->host->ops->now_ns(pages->host) - begun);
    return was;
}

static void begin_hold(const struct wr_pages *pages, uint32_t number, uint64_t was,
                       struct wr_hold *hold)
{
    struct wr_page *page = &pages->table[number];

    *hold = (struct wr_hold){
        .page = page,
        .number = number,
        .was = was,
        .w0 = was & ~WAITED,
        .w1 = page->w1,
    };
}

void wr_page_take(const struct wr_pages *pages, uint32_t number, struct wr_hold *hold)
{
    uint64_t was;

    WR_CHECK_DEBUG(number < pages->count);
    wr_lock_point();
    if (!lock_try(&pages->table[number], &was))
        was = lock_slowly(pages, &pages->table[number]);
    begin_hold(pages, number, was, hold);
}

bool wr_page_take_try(const struct wr_pages *pages, uint32_t number, struct wr_hold *hold)
{
    uint64_t was;

    wr_lock_point();
    if (!lock_try(&pages->table[number], &was))
        return false;
    begin_hold(pages, number, was, hold);
    return true;
}

static void ask_about_tables(const struct wr_pages *pages)
{
    if (pages->idle_table)
        pages->idle_table(pages->idle_table_context);
}

void wr_chunk_mark(const struct wr_pages *pages, uint32_t page)
{
    _Atomic(uint16_t) *table = &pages->chunks[page / WR_CHUNK_PAGES].table;

    /* Relaxed: the kernel maps the page later, and who gets to it by that comes after. It becomes
     * NONE only by one who holds the whole chunk, and the caller has a page of it. */
    if (atomic_load_explicit(table, memory_order_relaxed) == WR_TABLE_USED)
        return;
    if (atomic_exchange_explicit(table, WR_TABLE_USED, memory_order_relaxed) == WR_TABLE_NONE &&
        atomic_fetch_add_explicit(&pages->stats->tables, 1, memory_order_relaxed) % TABLES_TOLD ==
            TABLES_TOLD - 1)
        ask_about_tables(pages);
}

static bool is_mapped(enum wr_page_state state)
{
    return state == WR_PAGE_RESIDENT_ZERO || wr_state_is_charged(state);
}

/* Relaxed: the hands that look for victims skip areas and chunks by these; a stale count costs one
 * look. */
static void count_area(const struct wr_pages *pages, uint32_t number, bool was, bool is)
{
    _Atomic(uint32_t) *area = &pages->areas[number / WR_CHUNK_PAGES / WR_AREA_CHUNKS];

    if (is && !was)
        atomic_fetch_add_explicit(area, 1, memory_order_relaxed);
    else if (was && !is)
        WR_CHECK(atomic_fetch_sub_explicit(area, 1, memory_order_relaxed) > 0);
}

static void count_one(_Atomic(uint16_t) *counter, bool was, bool is)
{
    if (is && !was)
        atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
    else if (was && !is)
        WR_CHECK(atomic_fetch_sub_explicit(counter, 1, memory_order_relaxed) > 0);
}

static bool is_cached_dirty(enum wr_page_state state)
{
    return state == WR_PAGE_CACHED_DIRTY || state == WR_PAGE_CACHED_WRITING;
}

enum content { CONTENT_NONE, CONTENT_OF_REGION, CONTENT_AHEAD, CONTENT_PENDING };

static enum content content_of(uint64_t w0)
{
    enum wr_page_state state = state_of(w0);

    if (is_cached_dirty(state))
        return CONTENT_PENDING;
    if (!wr_state_is_charged(state) && !wr_state_is_cached(state))
        return CONTENT_NONE;
    return (w0 >> FLAG_SHIFT) & WR_PAGE_AHEAD ? CONTENT_AHEAD : CONTENT_OF_REGION;
}

/* A chunk has the number of its region from before the first of its pages is there until after the
 * last has gone, but for what a mistaken thread touched at the end: that is counted for number 0,
 * which is nobody's. */
static void count_classes(const struct wr_pages *pages, const struct wr_hold *hold)
{
    enum content was = content_of(hold->was), is = content_of(hold->w0);
    uint32_t region;

    if (was == is)
        return;
    if ((was == CONTENT_AHEAD) != (is == CONTENT_AHEAD))
        atomic_fetch_add_explicit(&pages->stats->ahead, is == CONTENT_AHEAD ? 1 : -1,
                                  memory_order_relaxed);
    if ((was == CONTENT_OF_REGION) == (is == CONTENT_OF_REGION))
        return;
    region = atomic_load_explicit(&pages->chunks[hold->number / WR_CHUNK_PAGES].region,
                                  memory_order_relaxed);
    atomic_fetch_add_explicit(&pages->present[region].pages,
                              is == CONTENT_OF_REGION ? 1u : UINT32_MAX, memory_order_relaxed);
}

static void count_states(const struct wr_pages *pages, const struct wr_hold *hold)
{
    enum wr_page_state was = state_of(hold->was), is = state_of(hold->w0);
    struct wr_chunk *chunk = &pages->chunks[hold->number / WR_CHUNK_PAGES];
    int dirty = (int)is_cached_dirty(is) - (int)is_cached_dirty(was);

    count_classes(pages, hold);
    if (was == is)
        return;
    count_area(pages, hold->number, wr_state_is_charged(was), wr_state_is_charged(is));
    count_one(&chunk->resident, wr_state_is_charged(was), wr_state_is_charged(is));
    count_one(&chunk->touched, was != WR_PAGE_EMPTY, is != WR_PAGE_EMPTY);
    count_one(&chunk->cached, wr_state_is_cached(was), wr_state_is_cached(is));
    count_one(&chunk->zeros, was == WR_PAGE_RESIDENT_ZERO, is == WR_PAGE_RESIDENT_ZERO);
    if (dirty)
        atomic_fetch_add_explicit(&pages->stats->cached_dirty, dirty, memory_order_relaxed);
    if (is_mapped(is) && !is_mapped(was))
        wr_chunk_mark(pages, hold->number);
    else if (is_mapped(was) && !is_mapped(is) &&
             atomic_load_explicit(&chunk->resident, memory_order_relaxed) == 0)
        ask_about_tables(pages);
}

void wr_page_put(const struct wr_pages *pages, struct wr_hold *hold)
{
    uint64_t before;

    count_states(pages, hold);
    hold->page->w1 = hold->w1;
    /* Release: w1 and the page's bytes are in place before the lock is free. Pairs with the
     * acquires in lock_try() and wr_page_peek(). */
    before = atomic_exchange_explicit(&hold->page->w0, hold->w0, memory_order_release);
    WR_CHECK(before & LOCKED);
    if (before & WAITED)
        pages->host->ops->unpark(pages->host, futex_word(hold->page), UINT32_MAX);
    hold->page = NULL;
    wr_lock_point();
}

void wr_page_wait(const struct wr_pages *pages, uint32_t number)
{
    struct wr_page *page = &pages->table[number];
    uint64_t seen = atomic_load_explicit(&page->w0, memory_order_acquire);

    if (state_of(seen) == WR_PAGE_READING)
        sleep_on(pages, page, seen);
    wr_lock_point();
}

/* States in which the frame's bits hold a shadow instead. */
static bool has_shadow(enum wr_page_state state)
{
    return state == WR_PAGE_OUT || state == WR_PAGE_READING;
}

bool wr_page_may_move(enum wr_page_state from, enum wr_page_state to)
{
    return (moves[from] & (1u << to)) != 0;
}

void wr_page_move(struct wr_hold *hold, enum wr_page_state from, enum wr_page_state to)
{
    WR_CHECK(hold->page);
    WR_CHECK(state_of(hold->w0) == from);
    WR_CHECK(wr_page_may_move(from, to));
    hold->w0 = (hold->w0 & ~STATE_MASK) | ((uint64_t)to << STATE_SHIFT);
    if (!wr_state_is_cached(to) && !(has_shadow(from) && has_shadow(to)))
        hold->w1 &= SLOT_MASK;
    if (to == WR_PAGE_EMPTY) {
        wr_hold_set(hold, WR_PAGE_MAIN, false);
        wr_hold_set(hold, WR_PAGE_AHEAD, false);
    }
}

enum wr_page_state wr_hold_state(const struct wr_hold *hold)
{
    return state_of(hold->w0);
}

bool wr_hold_has(const struct wr_hold *hold, enum wr_page_flag flag)
{
    return ((hold->w0 >> FLAG_SHIFT) & flag) != 0;
}

void wr_hold_set(struct wr_hold *hold, enum wr_page_flag flag, bool on)
{
    uint64_t bit = (uint64_t)flag << FLAG_SHIFT;

    hold->w0 = on ? hold->w0 | bit : hold->w0 & ~bit;
}

uint32_t wr_hold_pins(const struct wr_hold *hold)
{
    return (uint32_t)((hold->w0 & PIN_MASK) >> PIN_SHIFT);
}

void wr_hold_set_pins(struct wr_hold *hold, uint32_t pins)
{
    WR_CHECK(pins <= WR_PIN_MAX);
    hold->w0 = (hold->w0 & ~PIN_MASK) | ((uint64_t)pins << PIN_SHIFT);
}

uint32_t wr_hold_sum(const struct wr_hold *hold)
{
    return (uint32_t)(hold->w0 >> SUM_SHIFT);
}

void wr_hold_set_sum(struct wr_hold *hold, uint32_t sum)
{
    hold->w0 = (hold->w0 & 0xffffffffu) | ((uint64_t)sum << SUM_SHIFT);
}

uint64_t wr_hold_slot(const struct wr_hold *hold)
{
    return (hold->w1 & SLOT_MASK) ? (hold->w1 & SLOT_MASK) - 1 : WR_SLOT_NONE;
}

void wr_hold_set_slot(struct wr_hold *hold, uint64_t slot)
{
    uint64_t stored = slot == WR_SLOT_NONE ? 0 : slot + 1;

    WR_CHECK(stored <= SLOT_MASK);
    hold->w1 = (hold->w1 & ~SLOT_MASK) | stored;
}

uint32_t wr_hold_frame(const struct wr_hold *hold)
{
    uint64_t stored = has_shadow(state_of(hold->w0)) ? 0 : hold->w1 >> SLOT_BITS;

    return stored ? (uint32_t)(stored - 1) : WR_FRAME_NONE;
}

void wr_hold_set_frame(struct wr_hold *hold, uint32_t frame)
{
    uint64_t stored = frame == WR_FRAME_NONE ? 0 : (uint64_t)frame + 1;

    WR_CHECK(stored <= FRAME_MASK);
    hold->w1 = (hold->w1 & SLOT_MASK) | (stored << SLOT_BITS);
}

uint32_t wr_hold_shadow(const struct wr_hold *hold)
{
    return has_shadow(state_of(hold->w0)) ? (uint32_t)(hold->w1 >> SLOT_BITS) : WR_SHADOW_NONE;
}

void wr_hold_set_shadow(struct wr_hold *hold, uint32_t shadow)
{
    WR_CHECK(has_shadow(state_of(hold->w0)) && shadow <= WR_SHADOW_MAX);
    hold->w1 = (hold->w1 & SLOT_MASK) | ((uint64_t)shadow << SLOT_BITS);
}

/* --- Chunks ---------------------------------------------------------------------------------- */

static bool is_wanted(uint64_t w0, enum wr_chunk_want want)
{
    enum wr_page_state state = state_of(w0);

    if (w0 & (LOCKED | WAITED | PIN_MASK))
        return false;
    if (want == WR_CHUNK_EMPTY)
        return state == WR_PAGE_EMPTY;
    return !wr_state_is_charged(state) && state != WR_PAGE_READING;
}

static bool whole_lock_try(struct wr_page *page, enum wr_chunk_want want)
{
    uint64_t w0 = atomic_load_explicit(&page->w0, memory_order_relaxed);

    /* Acquire: as in lock_try(). */
    while (is_wanted(w0, want))
        if (atomic_compare_exchange_weak_explicit(&page->w0, &w0, w0 | LOCKED | WHOLE,
                                                  memory_order_acquire, memory_order_relaxed))
            return true;
    return false;
}

/* The first so many pages. Nobody sleeps on them. */
static void whole_unlock(struct wr_page *page, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        atomic_fetch_and_explicit(&page[i].w0, ~(LOCKED | WHOLE), memory_order_release);
}

bool wr_chunk_take(const struct wr_pages *pages, uint32_t chunk, enum wr_chunk_want want)
{
    struct wr_page *page = &pages->table[(uint64_t)chunk * WR_CHUNK_PAGES];

    wr_lock_point();
    for (uint32_t i = 0; i < WR_CHUNK_PAGES; i++)
        if (!whole_lock_try(&page[i], want)) {
            whole_unlock(page, i);
            return false;
        }
    return true;
}

/* Where the kernel keeps tables, what was used stays so. */
static void table_went(const struct wr_pages *pages, uint32_t chunk)
{
    if (!pages->host->returns_tables)
        return;
    if (atomic_exchange_explicit(&pages->chunks[chunk].table, WR_TABLE_NONE,
                                 memory_order_relaxed) == WR_TABLE_NONE)
        return;
    atomic_fetch_sub_explicit(&pages->stats->tables, 1, memory_order_relaxed);
    wr_stats_count(pages->stats, WR_COUNT_tables_returned);
}

void wr_chunk_put(const struct wr_pages *pages, uint32_t chunk, bool is_dropped)
{
    uint32_t first = chunk * WR_CHUNK_PAGES;

    if (is_dropped)
        table_went(pages, chunk);
    for (uint32_t i = 0; i < WR_CHUNK_PAGES; i++) {
        struct wr_page *page = &pages->table[first + i];
        uint64_t w0 = atomic_load_explicit(&page->w0, memory_order_relaxed);
        struct wr_hold hold;

        if (!is_dropped || state_of(w0) != WR_PAGE_RESIDENT_ZERO) {
            whole_unlock(page, 1);
            continue;
        }
        begin_hold(pages, first + i, w0 & ~(LOCKED | WHOLE), &hold);
        wr_page_move(&hold, WR_PAGE_RESIDENT_ZERO, WR_PAGE_EMPTY);
        wr_page_put(pages, &hold);
    }
    wr_lock_point();
}

void wr_chunk_forget(const struct wr_pages *pages, uint32_t chunk)
{
    struct wr_page *page = &pages->table[(uint64_t)chunk * WR_CHUNK_PAGES];

    table_went(pages, chunk);
    /* In one step each of these becomes a page that is EMPTY and free. A thread that tries its lock
     * by an old translation finds it locked, and nobody's store is lost: nobody else may store. */
    if (madvise(page, WR_CHUNK_PAGES * sizeof(*page), MADV_DONTNEED) != 0)
        whole_unlock(page, WR_CHUNK_PAGES);
    wr_lock_point();
}
