/* SPDX-License-Identifier: MIT */

/* The cache: the oldest chunk goes first, and what it held is OUT, unless somebody wanted it. */

#include "runtime/memory/cache.h"

#include <criterion/criterion.h>
#include <pthread.h>

#include "tests/unit/room_kit.h"

static uint32_t frame_of_chunk(uint32_t chunk)
{
    return ROOM_READERS + chunk * WR_CACHE_CHUNK;
}

static uint64_t count(enum wr_counter counter)
{
    return wr_stats_sum(&room_stats, counter);
}

/* --- Order ----------------------------------------------------------------------------------- */

Test(cache, the_slab_is_readers_and_chunks)
{
    room_open();
    cr_expect_eq(wr_cache_frames(ROOM_READERS, ROOM_CHUNKS), ROOM_FRAMES);
    for (uint32_t frame = ROOM_READERS; frame < ROOM_FRAMES; frame++)
        cr_expect_eq(wr_cache_chunk_end(&room_space.cache, frame),
                     frame_of_chunk((frame - ROOM_READERS) / WR_CACHE_CHUNK + 1));
}

Test(cache, each_chunk_is_taken_once)
{
    room_open();
    for (uint32_t i = 0; i < ROOM_CHUNKS; i++)
        cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), frame_of_chunk(i));
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), WR_FRAME_NONE);
    wr_cache_put(&room_space.cache, frame_of_chunk(9), true);
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), frame_of_chunk(9));
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), WR_FRAME_NONE);
}

Test(cache, the_youngest_comes_last_and_the_useless_first)
{
    room_open();
    for (uint32_t i = 0; i < 4; i++)
        wr_cache_take(&room_space.cache, WR_CACHE_AHEAD);
    wr_cache_put(&room_space.cache, frame_of_chunk(2), true);
    wr_cache_put(&room_space.cache, frame_of_chunk(0), true);
    wr_cache_put(&room_space.cache, frame_of_chunk(3), false);
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), frame_of_chunk(3));
    wr_cache_put(&room_space.cache, frame_of_chunk(1), false);
    wr_cache_put(&room_space.cache, frame_of_chunk(3), true);
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), frame_of_chunk(1));
    for (uint32_t i = 4; i < ROOM_CHUNKS; i++)
        cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), frame_of_chunk(i));
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), frame_of_chunk(2));
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), frame_of_chunk(0));
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), frame_of_chunk(3));
    cr_expect_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), WR_FRAME_NONE);
}

/* Take so many for a use and put them back as useful. */
static void turn_over(enum wr_cache_use use, uint32_t times)
{
    while (times-- > 0)
        wr_cache_put(&room_space.cache, wr_cache_take(&room_space.cache, use), true);
}

static uint32_t owned_by(enum wr_cache_use use)
{
    return room_space.cache.owned[use];
}

Test(cache, a_stream_takes_no_more_than_half_from_second_chances)
{
    room_open();
    for (uint32_t i = 0; i < ROOM_CHUNKS; i++) /* until there is no spare one */
        turn_over(WR_CACHE_CHANCE, 1);
    cr_expect_eq(owned_by(WR_CACHE_CHANCE), ROOM_CHUNKS);
    for (uint32_t i = 0; i < 1000; i++) {
        turn_over(WR_CACHE_AHEAD, 50);
        turn_over(WR_CACHE_CHANCE, 1);
    }
    cr_expect_geq(owned_by(WR_CACHE_CHANCE), 1);
    cr_expect_geq(owned_by(WR_CACHE_AHEAD), ROOM_CHUNKS / 2);
}

Test(cache, both_uses_get_their_half_while_both_ask)
{
    room_open();
    for (uint32_t i = 0; i < 1000; i++) {
        turn_over(WR_CACHE_AHEAD, 2);
        turn_over(WR_CACHE_CHANCE, 1);
    }
    cr_expect_eq(owned_by(WR_CACHE_AHEAD), ROOM_CHUNKS / 2);
    cr_expect_eq(owned_by(WR_CACHE_CHANCE), ROOM_CHUNKS / 2);
}

Test(cache, what_a_stream_left_is_taken_back_when_it_is_over)
{
    room_open();
    for (uint32_t i = 0; i < 100; i++) {
        turn_over(WR_CACHE_AHEAD, 1);
        turn_over(WR_CACHE_CHANCE, 1);
    }
    turn_over(WR_CACHE_CHANCE, 10 * ROOM_CHUNKS);
    cr_expect_eq(owned_by(WR_CACHE_CHANCE), ROOM_CHUNKS);
}

static void put(void *context)
{
    wr_cache_put(&room_space.cache, *(uint32_t *)context, true);
}

Test(cache, what_is_no_chunk_or_was_not_taken_is_not_put)
{
    uint32_t inside = frame_of_chunk(1) + 1, taken = frame_of_chunk(0);

    room_open();
    cr_expect(room_dies(put, &taken), "all are in the queue");
    cr_assert_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), taken);
    cr_expect(room_dies(put, &inside));
    cr_expect_not(room_dies(put, &taken));
}

/* --- The second chance ----------------------------------------------------------------------- */

static void own(uint32_t frame, uint32_t page)
{
    wr_cache_own(&room_space.cache, frame, page);
    room_bring_with(page, WR_PAGE_CACHED_CLEAN, 1000 + page, frame);
}

/* Make the chunk the oldest and take it: what was in it goes. */
static void take_again(uint32_t first)
{
    wr_cache_put(&room_space.cache, first, false);
    cr_assert_eq(wr_cache_take(&room_space.cache, WR_CACHE_AHEAD), first);
}

Test(cache, what_nobody_wanted_is_out)
{
    uint32_t first, page;

    room_open();
    page = room_map(100)->first;
    first = wr_cache_take(&room_space.cache, WR_CACHE_AHEAD);
    for (uint32_t i = 0; i < WR_CACHE_CHUNK; i++)
        own(first + i, page + i);
    room_set_flag(page + 3, WR_PAGE_AHEAD, true);
    take_again(first);
    for (uint32_t i = 0; i < WR_CACHE_CHUNK; i++) {
        struct wr_hold hold = room_look(page + i);

        cr_expect_eq(wr_hold_state(&hold), WR_PAGE_OUT);
        cr_expect_eq(wr_hold_frame(&hold), WR_FRAME_NONE);
        cr_expect_eq(wr_hold_slot(&hold), 1000 + page + i, "its slot has it");
        cr_expect_not(wr_hold_has(&hold, WR_PAGE_AHEAD));
    }
    cr_expect_eq(count(WR_COUNT_cache_deleted), WR_CACHE_CHUNK);
    cr_expect_eq(count(WR_COUNT_reads_ahead_wasted), 1);
    take_again(first); /* and is gone once */
    cr_expect_eq(count(WR_COUNT_cache_deleted), WR_CACHE_CHUNK);
}

Test(cache, who_left_it_is_left_alone)
{
    uint32_t first, page;
    struct wr_hold hold;

    room_open();
    page = room_map(100)->first;
    first = wr_cache_take(&room_space.cache, WR_CACHE_AHEAD);
    for (uint32_t i = 0; i < 4; i++)
        wr_cache_own(&room_space.cache, first + i, page + i);
    room_bring(page, WR_PAGE_RESIDENT_DIRTY);                       /* touched since      */
    room_bring_with(page + 1, WR_PAGE_CACHED_CLEAN, 5, first + 20); /* cached elsewhere   */
    room_bring_with(page + 2, WR_PAGE_CACHED_DIRTY, WR_SLOT_NONE, first + 2); /* and not clean */
    room_bring_with(page + 3, WR_PAGE_CACHED_CLEAN, 6, first + 3); /* the one that goes  */
    take_again(first);
    cr_expect_eq(wr_page_peek(&room_space.pages, page), WR_PAGE_RESIDENT_DIRTY);
    hold = room_look(page + 1);
    cr_expect_eq(wr_hold_state(&hold), WR_PAGE_CACHED_CLEAN);
    cr_expect_eq(wr_hold_frame(&hold), first + 20);
    hold = room_look(page + 2);
    cr_expect_eq(wr_hold_state(&hold), WR_PAGE_CACHED_DIRTY);
    cr_expect_eq(wr_hold_frame(&hold), first + 2);
    cr_expect_eq(wr_page_peek(&room_space.pages, page + 3), WR_PAGE_OUT);
    cr_expect_eq(count(WR_COUNT_cache_deleted), 1);
}

/* Descriptors of a region that went belong to nobody: not even their locks are touched. */
Test(cache, a_page_without_a_region_is_not_looked_at)
{
    uint32_t first;

    room_open();
    first = wr_cache_take(&room_space.cache, WR_CACHE_AHEAD);
    own(first, 17); /* nothing is mapped there */
    take_again(first);
    cr_expect_eq(wr_page_peek(&room_space.pages, 17), WR_PAGE_CACHED_CLEAN);
}

/* --- Readers --------------------------------------------------------------------------------- */

struct reader {
    pthread_t thread;
    uint32_t frame;
    _Atomic(bool) is_done;
};

static void *take_reader(void *argument)
{
    struct reader *reader = argument;

    reader->frame = wr_cache_reader_take(&room_space.cache);
    reader->is_done = true;
    return NULL;
}

Test(cache, readers_are_waited_for)
{
    struct weir_stats stats = {.size = sizeof(stats)};
    struct reader waiting[2] = {0};
    uint32_t seen = 0;

    room_open();
    for (uint32_t i = 0; i < ROOM_READERS; i++)
        seen |= 1u << wr_cache_reader_take(&room_space.cache);
    cr_expect_eq(seen, (1u << ROOM_READERS) - 1, "each another, and none of a chunk");
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&waiting[i].thread, NULL, take_reader, &waiting[i]), 0);
    ROOM_AWAIT(room_host.parks >= 2);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_not(waiting[0].is_done || waiting[1].is_done);
    wr_cache_reader_put(&room_space.cache, 2);
    ROOM_AWAIT(waiting[0].is_done || waiting[1].is_done);
    room_sleep_us(ROOM_NOT_YET_US);
    cr_expect_neq(waiting[0].is_done, waiting[1].is_done, "one frame is for one");
    wr_cache_reader_put(&room_space.cache, 0);
    for (int i = 0; i < 2; i++)
        pthread_join(waiting[i].thread, NULL);
    cr_expect_eq(waiting[0].frame + waiting[1].frame, 2);
    wr_stats_collect(&room_stats, &stats);
    cr_expect_eq(stats.time_reader.count, 2);
}

static void put_a_chunk_as_reader(void *context)
{
    (void)context;
    wr_cache_reader_put(&room_space.cache, ROOM_READERS);
}

Test(cache, a_frame_of_a_chunk_is_no_reader)
{
    room_open();
    cr_expect(room_dies(put_a_chunk_as_reader, NULL));
}

Test(cache, as_many_readers_as_bits)
{
    struct wr_cache cache;
    uint64_t seen = 0;

    room_open();
    cr_assert_eq(wr_cache_init(&cache, &room_space.pages, WR_READERS_MAX, 1), WEIR_OK);
    for (uint32_t i = 0; i < WR_READERS_MAX; i++)
        seen |= 1ull << wr_cache_reader_take(&cache);
    cr_expect_eq(seen, UINT64_MAX);
    wr_cache_fini(&cache);
    wr_cache_fini(&cache); /* half-built or gone: harmless */
}

#define THREADS 6
#define ROUNDS  4000

static _Atomic(uint32_t) users[ROOM_READERS];
static _Atomic(uint32_t) shared;

static void *use_readers(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t frame = wr_cache_reader_take(&room_space.cache);

        shared += atomic_fetch_add(&users[frame], 1) != 0;
        atomic_fetch_sub(&users[frame], 1);
        wr_cache_reader_put(&room_space.cache, frame);
    }
    return NULL;
}

Test(cache, a_reader_is_for_one)
{
    pthread_t threads[THREADS];

    room_open();
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, use_readers, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(shared, 0);
    cr_expect_eq(room_space.cache.readers_wanted, 0);
    cr_expect_eq(room_space.cache.readers_free, (1u << ROOM_READERS) - 1);
}
