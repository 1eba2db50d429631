/* SPDX-License-Identifier: MIT */

/* Pages: only drawn edges, 16 bytes that keep everything, a lock that is handed over. */

#include "runtime/memory/page.h"

#include <criterion/criterion.h>
#include <pthread.h>

#include "tests/unit/room_kit.h"

#define SLOT_MOST  (((uint64_t)1 << 36) - 2)
#define FRAME_MOST ((1u << 28) - 2)

/* --- Edges ----------------------------------------------------------------------------------- */

#define S(name) WR_PAGE_##name

/* The drawing of page.h, once more, read from there and not from the code. */
static const struct {
    enum wr_page_state from, to;
} drawn[] = {
    /* touch */
    {S(EMPTY), S(RESIDENT_ZERO)},
    {S(EMPTY), S(RESIDENT_DIRTY)},
    {S(OUT), S(READING)},
    {S(READING), S(RESIDENT_CLEAN)},
    {S(READING), S(RESIDENT_DIRTY)},
    {S(CACHED_DIRTY), S(RESIDENT_DIRTY)},
    {S(CACHED_WRITING), S(RESIDENT_WRITING)},
    {S(CACHED_WRITING), S(RESIDENT_DIRTY)},
    {S(CACHED_CLEAN), S(RESIDENT_CLEAN)},
    {S(CACHED_CLEAN), S(RESIDENT_DIRTY)},
    {S(RESIDENT_ZERO), S(RESIDENT_DIRTY)},
    {S(RESIDENT_CLEAN), S(RESIDENT_DIRTY)},
    {S(RESIDENT_WRITING), S(RESIDENT_DIRTY)},
    /* readahead */
    {S(READING), S(CACHED_CLEAN)},
    {S(READING), S(OUT)},
    /* reclaim */
    {S(RESIDENT_CLEAN), S(CACHED_CLEAN)},
    {S(CACHED_CLEAN), S(OUT)},
    {S(RESIDENT_CLEAN), S(OUT)},
    {S(RESIDENT_DIRTY), S(CACHED_DIRTY)},
    {S(CACHED_DIRTY), S(CACHED_WRITING)},
    {S(CACHED_WRITING), S(OUT)},
    {S(CACHED_WRITING), S(CACHED_DIRTY)},
    {S(RESIDENT_WRITING), S(RESIDENT_CLEAN)},
    /* discard: any but READING */
    {S(OUT), S(EMPTY)},
    {S(CACHED_DIRTY), S(EMPTY)},
    {S(CACHED_WRITING), S(EMPTY)},
    {S(CACHED_CLEAN), S(EMPTY)},
    {S(RESIDENT_ZERO), S(EMPTY)},
    {S(RESIDENT_DIRTY), S(EMPTY)},
    {S(RESIDENT_CLEAN), S(EMPTY)},
    {S(RESIDENT_WRITING), S(EMPTY)},
    {S(POISONED), S(EMPTY)},
    /* cancelled, unreadable, drain */
    {S(READING), S(EMPTY)},
    {S(READING), S(POISONED)},
    {S(READING), S(CACHED_DIRTY)},
};

static bool is_drawn(enum wr_page_state from, enum wr_page_state to)
{
    for (size_t i = 0; i < sizeof(drawn) / sizeof(drawn[0]); i++)
        if (drawn[i].from == from && drawn[i].to == to)
            return true;
    return false;
}

struct edge {
    enum wr_page_state from, to;
};

static void walk_edge(void *context)
{
    const struct edge *edge = context;
    struct wr_hold hold;

    wr_page_take(&room_space.pages, edge->from, &hold);
    wr_page_move(&hold, edge->from, edge->to);
    if (wr_hold_state(&hold) == edge->to)
        wr_page_put(&room_space.pages, &hold);
}

Test(page, every_undrawn_edge_dies)
{
    uint32_t died = 0;

    room_open();
    /* Page n is in state n. */
    for (uint32_t from = 0; from < WR_PAGE_STATE_COUNT; from++)
        room_bring(from, (enum wr_page_state)from);
    for (uint32_t from = 0; from < WR_PAGE_STATE_COUNT; from++)
        for (uint32_t to = 0; to < WR_PAGE_STATE_COUNT; to++) {
            struct edge edge = {(enum wr_page_state)from, (enum wr_page_state)to};
            bool dies = room_dies(walk_edge, &edge);

            cr_expect_eq(dies, !is_drawn(edge.from, edge.to), "%u -> %u", from, to);
            cr_expect_eq(dies, !wr_page_may_move(edge.from, edge.to), "%u -> %u", from, to);
            died += dies;
        }
    cr_expect_eq(died,
                 WR_PAGE_STATE_COUNT * WR_PAGE_STATE_COUNT - sizeof(drawn) / sizeof(drawn[0]));
}

/* "Clean from birth": nothing that was ever writable becomes clean or is written in place. */
Test(page, only_what_was_never_writable_is_clean)
{
    static const enum wr_page_state writable[] = {S(RESIDENT_DIRTY), S(RESIDENT_ZERO), S(EMPTY),
                                                  S(CACHED_DIRTY)};

    for (size_t i = 0; i < sizeof(writable) / sizeof(writable[0]); i++) {
        cr_expect_not(wr_page_may_move(writable[i], S(RESIDENT_CLEAN)));
        cr_expect_not(wr_page_may_move(writable[i], S(RESIDENT_WRITING)));
    }
}

static void believe_wrongly(void *context)
{
    struct wr_hold *hold = context;

    wr_page_move(hold, S(OUT), S(EMPTY));
}

Test(page, a_wrong_belief_dies)
{
    struct wr_hold hold;

    room_open();
    room_bring(0, S(RESIDENT_CLEAN)); /* which may become EMPTY, too */
    wr_page_take(&room_space.pages, 0, &hold);
    cr_expect(room_dies(believe_wrongly, &hold));
    wr_page_put(&room_space.pages, &hold);
}

/* --- Sixteen bytes --------------------------------------------------------------------------- */

struct values {
    uint64_t slot;
    uint32_t frame, sum, pins, flags;
};

static const struct values extremes[] = {
    {SLOT_MOST, FRAME_MOST, UINT32_MAX, WR_PIN_MAX, 15},
    {0, FRAME_MOST, 0, 0, WR_PAGE_MAIN},
    {WR_SLOT_NONE, WR_FRAME_NONE, 0, 0, 0},
    {0, 0, 1, 1, WR_PAGE_AHEAD},
    {SLOT_MOST, 0, 0, WR_PIN_MAX, WR_PAGE_FREED},
    {0, FRAME_MOST, UINT32_MAX, 0, WR_PAGE_CANCELLED},
    {WR_SLOT_NONE, FRAME_MOST, 0x80000001u, 0x8001, WR_PAGE_AHEAD | WR_PAGE_CANCELLED},
};

static void set_values(struct wr_hold *hold, const struct values *values)
{
    wr_hold_set_pins(hold, values->pins);
    wr_hold_set_sum(hold, values->sum);
    wr_hold_set_slot(hold, values->slot);
    wr_hold_set_frame(hold, values->frame);
    for (uint32_t flag = 1; flag <= WR_PAGE_MAIN; flag *= 2)
        wr_hold_set(hold, (enum wr_page_flag)flag, values->flags & flag);
}

static void expect_values(const struct wr_hold *hold, const struct values *values, size_t number)
{
    enum wr_page_state state = wr_hold_state(hold);
    bool has_shadow = state == WR_PAGE_OUT || state == WR_PAGE_READING;

    cr_expect_eq(wr_hold_pins(hold), values->pins, "%zu", number);
    cr_expect_eq(wr_hold_sum(hold), values->sum, "%zu", number);
    cr_expect_eq(wr_hold_slot(hold), values->slot, "%zu", number);
    cr_expect_eq(wr_hold_frame(hold), has_shadow ? WR_FRAME_NONE : values->frame, "%zu", number);
    for (uint32_t flag = 1; flag <= WR_PAGE_MAIN; flag *= 2)
        cr_expect_eq(wr_hold_has(hold, (enum wr_page_flag)flag), (values->flags & flag) != 0,
                     "%zu, flag %u", number, flag);
}

Test(page, every_field_keeps_its_extremes_beside_the_others)
{
    const size_t count = sizeof(extremes) / sizeof(extremes[0]);

    room_open();
    for (uint32_t state = 0; state < WR_PAGE_STATE_COUNT; state++)
        room_bring(state, (enum wr_page_state)state);
    for (size_t i = 0; i < count * WR_PAGE_STATE_COUNT; i++) {
        uint32_t page = (uint32_t)(i % WR_PAGE_STATE_COUNT);
        struct wr_hold hold;

        wr_page_take(&room_space.pages, page, &hold);
        set_values(&hold, &extremes[i % count]);
        wr_page_put(&room_space.pages, &hold);
        hold = room_look(page);
        expect_values(&hold, &extremes[i % count], i % count);
        cr_expect_eq(wr_hold_state(&hold), (enum wr_page_state)page);
        cr_expect_eq(wr_page_peek(&room_space.pages, page), (enum wr_page_state)page);
    }
}

Test(page, a_fresh_descriptor_is_an_empty_page)
{
    static const struct values nothing = {WR_SLOT_NONE, WR_FRAME_NONE, 0, 0, 0};
    struct wr_hold hold;

    room_open();
    hold = room_look(ROOM_PAGES - 1);
    expect_values(&hold, &nothing, 0);
    cr_expect_eq(wr_hold_state(&hold), WR_PAGE_EMPTY);
}

static void pin_too_often(void *context)
{
    wr_hold_set_pins(context, WR_PIN_MAX + 1);
}

static void set_too_high_a_slot(void *context)
{
    wr_hold_set_slot(context, SLOT_MOST + 1);
}

static void set_too_high_a_frame(void *context)
{
    wr_hold_set_frame(context, FRAME_MOST + 1);
}

Test(page, what_does_not_fit_dies)
{
    struct wr_hold hold;

    room_open();
    wr_page_take(&room_space.pages, 0, &hold);
    cr_expect(room_dies(pin_too_often, &hold));
    cr_expect(room_dies(set_too_high_a_slot, &hold));
    cr_expect(room_dies(set_too_high_a_frame, &hold));
    wr_page_put(&room_space.pages, &hold);
}

/* --- The lock -------------------------------------------------------------------------------- */

Test(page, what_is_held_is_not_taken)
{
    struct wr_hold hold, other;

    room_open();
    wr_page_take(&room_space.pages, 7, &hold);
    cr_expect_not(wr_page_take_try(&room_space.pages, 7, &other));
    cr_expect(wr_page_take_try(&room_space.pages, 8, &other), "another page is another lock");
    wr_page_put(&room_space.pages, &other);
    wr_page_move(&hold, WR_PAGE_EMPTY, WR_PAGE_RESIDENT_DIRTY);
    cr_expect_eq(wr_page_peek(&room_space.pages, 7), WR_PAGE_EMPTY, "not published yet");
    wr_page_put(&room_space.pages, &hold);
    cr_expect_eq(wr_page_peek(&room_space.pages, 7), WR_PAGE_RESIDENT_DIRTY);
    cr_expect(wr_page_take_try(&room_space.pages, 7, &other));
    wr_page_put(&room_space.pages, &other);
}

static void put_twice(void *context)
{
    struct wr_hold first = *(struct wr_hold *)context, second = first;

    wr_page_put(&room_space.pages, &first);
    wr_page_put(&room_space.pages, &second);
}

Test(page, what_is_not_held_cannot_be_put)
{
    struct wr_hold hold;

    room_open();
    wr_page_take(&room_space.pages, 3, &hold);
    cr_expect(room_dies(put_twice, &hold));
    wr_page_put(&room_space.pages, &hold);
}

struct taker {
    pthread_t thread;
    uint64_t slot; /* that he found */
    enum wr_page_state state;
    _Atomic(bool) is_done;
};

static void *take_and_look(void *argument)
{
    struct taker *taker = argument;
    struct wr_hold hold;

    wr_page_take(&room_space.pages, 5, &hold);
    taker->slot = wr_hold_slot(&hold);
    taker->state = wr_hold_state(&hold);
    wr_page_put(&room_space.pages, &hold);
    taker->is_done = true;
    return NULL;
}

Test(page, who_waits_is_woken_and_sees_everything)
{
    struct taker takers[3] = {0};
    struct wr_hold hold;
    struct weir_stats stats = {.size = sizeof(stats)};

    room_open();
    room_bring(5, WR_PAGE_OUT);
    wr_page_take(&room_space.pages, 5, &hold);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&takers[i].thread, NULL, take_and_look, &takers[i]), 0);
    ROOM_AWAIT(room_host.parks >= 3);
    for (int i = 0; i < 3; i++)
        cr_expect_not(takers[i].is_done);
    wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
    wr_hold_set_slot(&hold, 4711);
    wr_page_put(&room_space.pages, &hold);
    for (int i = 0; i < 3; i++) {
        pthread_join(takers[i].thread, NULL);
        cr_expect_eq(takers[i].slot, 4711);
        cr_expect_eq(takers[i].state, WR_PAGE_READING);
    }
    /* Neither lock nor waiters are left, and nobody is woken for nothing from now on. */
    cr_expect_eq(atomic_load(&room_space.pages.table[5].w0) & 3, 0);
    wr_stats_collect(&room_stats, &stats);
    cr_expect_eq(stats.time_page_lock.count, 3);
}

#define ROUNDS 20000

/* The slot is the counter: a plain field that only the lock protects. */
static void *count_up(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        struct wr_hold hold;

        wr_page_take(&room_space.pages, 5, &hold);
        wr_hold_set_slot(&hold, wr_hold_slot(&hold) + 1);
        wr_page_put(&room_space.pages, &hold);
    }
    return NULL;
}

Test(page, the_lock_is_for_one)
{
    pthread_t threads[3];
    struct wr_hold hold;

    room_open();
    room_bring_with(5, WR_PAGE_OUT, 0, WR_FRAME_NONE);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, count_up, NULL), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    hold = room_look(5);
    cr_expect_eq(wr_hold_slot(&hold), 3 * ROUNDS);
    cr_expect_eq(wr_hold_state(&hold), WR_PAGE_OUT);
}

static void *wait_for_reading(void *argument)
{
    struct taker *taker = argument;

    while (wr_page_peek(&room_space.pages, 5) == WR_PAGE_READING)
        wr_page_wait(&room_space.pages, 5);
    taker->state = wr_page_peek(&room_space.pages, 5);
    taker->is_done = true;
    return NULL;
}

Test(page, a_read_is_waited_for)
{
    struct taker takers[2] = {0};
    struct wr_hold hold;

    room_open();
    wr_page_wait(&room_space.pages, 5); /* not READING: returns at once */
    cr_expect_eq(room_host.parks, 0);
    room_bring(5, WR_PAGE_READING);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&takers[i].thread, NULL, wait_for_reading, &takers[i]), 0);
    ROOM_AWAIT(room_host.parks >= 2);
    cr_expect_not(takers[0].is_done || takers[1].is_done);
    wr_page_take(&room_space.pages, 5, &hold); /* though they wait, its lock is free */
    wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_CACHED_CLEAN);
    wr_page_put(&room_space.pages, &hold);
    for (int i = 0; i < 2; i++) {
        pthread_join(takers[i].thread, NULL);
        cr_expect_eq(takers[i].state, WR_PAGE_CACHED_CLEAN);
    }
    cr_expect_eq(atomic_load(&room_space.pages.table[5].w0) & 3, 0, "nobody waits any more");
}

/* --- Counts and hints ------------------------------------------------------------------------ */

static bool occupies_a_frame(enum wr_page_state state)
{
    return state == WR_PAGE_RESIDENT_DIRTY || state == WR_PAGE_RESIDENT_CLEAN ||
           state == WR_PAGE_RESIDENT_WRITING;
}

Test(page, a_chunk_counts_its_residents)
{
    uint32_t expected = 0;

    room_open();
    for (uint32_t state = 0; state < WR_PAGE_STATE_COUNT; state++) {
        room_bring(WR_CHUNK_PAGES + state, (enum wr_page_state)state);
        expected += occupies_a_frame((enum wr_page_state)state);
        cr_expect_eq(wr_state_is_charged((enum wr_page_state)state),
                     occupies_a_frame((enum wr_page_state)state));
        cr_expect_eq(room_space.pages.chunks[1].resident, expected, "after %u", state);
    }
    for (uint32_t state = 1; state < WR_PAGE_STATE_COUNT; state++) {
        struct wr_hold hold;

        wr_page_take(&room_space.pages, WR_CHUNK_PAGES + state, &hold);
        wr_page_move(&hold, (enum wr_page_state)state, WR_PAGE_EMPTY);
        wr_page_put(&room_space.pages, &hold);
    }
    cr_expect_eq(room_space.pages.chunks[1].resident, 0);
    cr_expect_eq(room_space.pages.chunks[0].resident, 0);
}

Test(page, who_may_be_evicted)
{
    struct wr_hold hold;
    bool is_dirty = false;

    room_open();
    for (uint32_t state = 0; state < WR_PAGE_STATE_COUNT; state++) {
        bool may = state == WR_PAGE_RESIDENT_DIRTY || state == WR_PAGE_RESIDENT_CLEAN;

        room_bring(state, (enum wr_page_state)state);
        cr_expect_eq(wr_page_peek_evictable(&room_space.pages, state, &is_dirty), may, "%u", state);
        if (may)
            cr_expect_eq(is_dirty, state == WR_PAGE_RESIDENT_DIRTY);
    }
    room_set_flag(WR_PAGE_RESIDENT_DIRTY, WR_PAGE_FREED, true);
    cr_expect(wr_page_peek_evictable(&room_space.pages, WR_PAGE_RESIDENT_DIRTY, &is_dirty));
    cr_expect_not(is_dirty, "a free hint: it need not be written");
    wr_page_take(&room_space.pages, WR_PAGE_RESIDENT_CLEAN, &hold);
    cr_expect_not(wr_page_peek_evictable(&room_space.pages, WR_PAGE_RESIDENT_CLEAN, &is_dirty));
    wr_hold_set_pins(&hold, 1);
    wr_page_put(&room_space.pages, &hold);
    cr_expect_not(wr_page_peek_evictable(&room_space.pages, WR_PAGE_RESIDENT_CLEAN, &is_dirty));
}

static void forget_part_of_a_chunk(void *context)
{
    (void)context;
    wr_pages_forget(&room_space.pages, 8, WR_CHUNK_PAGES);
}

Test(page, what_is_forgotten_is_empty)
{
    room_open();
    for (uint32_t page = 0; page < 3 * WR_CHUNK_PAGES; page++)
        room_bring(page, WR_PAGE_POISONED);
    wr_pages_forget(&room_space.pages, WR_CHUNK_PAGES, WR_CHUNK_PAGES);
    for (uint32_t page = 0; page < 3 * WR_CHUNK_PAGES; page++)
        cr_expect_eq(wr_page_peek(&room_space.pages, page),
                     page / WR_CHUNK_PAGES == 1 ? WR_PAGE_EMPTY : WR_PAGE_POISONED, "%u", page);
    cr_expect(room_dies(forget_part_of_a_chunk, NULL));
}
