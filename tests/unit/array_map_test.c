/* SPDX-License-Identifier: MIT */

/*
 * The map of an array, by itself: where clusters lie, and thousands of made-up stories in which
 * members fail, come back, and come back empty, beside a model that remembers every byte.
 */

#include "transport/array_map.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static uint32_t draw(uint32_t limit)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) % limit);
}

/* --- Where -------------------------------------------------------------------------------------
 */

static void open_map(struct wr_map *map, uint32_t pieces, uint64_t clusters, uint32_t members,
                     uint32_t places)
{
    cr_assert_eq(wr_map_open(map, pieces, 1, clusters), WEIR_OK);
    for (uint32_t i = 0; i < members; i++) {
        char name[16] = "member ?";

        name[7] = (char)('a' + i);
        wr_map_member_add(map, name, places);
        cr_assert_eq(wr_map_member_renew(map, i, places), WEIR_OK);
        map->member[i].is_up = true;
    }
}

Test(array_map, each_member_wins_by_its_size)
{
    const uint32_t clusters = 20000;
    uint32_t wins[3] = {0};
    struct wr_map map;

    open_map(&map, 1, 1, 3, 1000);
    map.member[1].weight = 2000;
    for (uint32_t i = 0; i < clusters; i++) {
        uint32_t order[WR_MAP_MEMBERS];

        wr_map_order(&map, i, order);
        wins[order[0]]++;
    }
    cr_expect(abs((int)wins[0] - 5000) < 300, "%u", wins[0]);
    cr_expect(abs((int)wins[1] - 10000) < 300, "%u", wins[1]);
    cr_expect(abs((int)wins[2] - 5000) < 300, "%u", wins[2]);
    wr_map_close(&map);
}

Test(array_map, one_more_member_takes_its_share_and_moves_nothing_else)
{
    const uint32_t clusters = 20000;
    struct wr_map before, after;
    uint32_t moved = 0;

    open_map(&before, 1, 1, 4, 1000);
    open_map(&after, 1, 1, 5, 1000);
    for (uint32_t i = 0; i < clusters; i++) {
        uint32_t then[WR_MAP_MEMBERS], now[WR_MAP_MEMBERS];

        wr_map_order(&before, i, then);
        wr_map_order(&after, i, now);
        moved += now[0] == 4;
        cr_expect(now[0] == 4 || now[0] == then[0]);
    }
    cr_expect(abs((int)moved - 4000) < 300, "%u", moved);
    wr_map_close(&before);
    wr_map_close(&after);
}

Test(array_map, capacity)
{
    cr_expect_eq(wr_map_capacity(1, (uint32_t[]){3, 4, 5}, 3), 12);
    cr_expect_eq(wr_map_capacity(2, (uint32_t[]){3, 5}, 2), 3);
    cr_expect_eq(wr_map_capacity(2, (uint32_t[]){10, 10, 10}, 3), 15);
    cr_expect_eq(wr_map_capacity(2, (uint32_t[]){100, 10, 10}, 3), 20);
    cr_expect_eq(wr_map_capacity(3, (uint32_t[]){1, 2}, 2), 0);
}

/* To the last place, also where the draws alone would leave places that no cluster can use. */
Test(array_map, everything_can_be_placed)
{
    for (uint32_t pieces = 1; pieces <= 3; pieces++)
        for (uint32_t members = pieces; members <= 5; members++) {
            const uint32_t places[5] = {40, 40, 40, 40, 40};
            const uint64_t clusters = wr_map_capacity(pieces, places, members);
            struct wr_map_write write;
            struct wr_map map;

            open_map(&map, pieces, clusters, members, 40);
            for (uint64_t i = 0; i < clusters; i++)
                cr_assert_eq(wr_map_write_begin(&map, i, 0, 1, &write), WEIR_OK, "%u of %u: %u",
                             pieces, members, (unsigned)i);
            cr_expect_eq(map.missing, 0);
            cr_expect_null(wr_map_wrong(&map));
            wr_map_close(&map);
        }
}

/* A member that does not answer for a moment has what it had, if the one that does is lost in the
 * midst of a write. */
Test(array_map, the_last_good_copy_may_be_that_of_one_who_was_away)
{
    struct wr_map_write write;
    struct wr_map map;
    bool is_idle;

    open_map(&map, 2, 4, 2, 8);
    cr_assert_eq(wr_map_write_begin(&map, 1, 0, 64, &write), WEIR_OK);
    cr_assert_eq(wr_map_write_end(&map, &write, 3, &is_idle), WEIR_OK);
    map.member[1].is_up = false;
    cr_assert_eq(wr_map_write_begin(&map, 1, 64, 64, &write), WEIR_OK);
    cr_expect_eq(__builtin_popcount(write.targets), 1);
    cr_assert_eq(wr_map_member_renew(&map, 0, 8), WEIR_OK);
    cr_expect_eq(wr_map_write_end(&map, &write, 0, &is_idle), WEIR_EIO);
    cr_expect_eq(wr_map_readable(&map, 1, 0, 64), WEIR_OK);
    cr_expect_eq(map.lost, 0);
    cr_expect_null(wr_map_wrong(&map));
    /* One that succeeds elsewhere leaves it behind. */
    map.member[1].is_up = true;
    wr_map_close(&map);
}

/* Nobody answers for now: a new cluster is placed all the same, and elsewhere once somebody does.
 */
Test(array_map, what_holds_nothing_stays_with_nobody_who_is_silent)
{
    struct wr_map_write write;
    struct wr_map map;
    bool is_idle;

    open_map(&map, 1, 4, 2, 8);
    map.member[0].is_up = map.member[1].is_up = false;
    cr_assert_eq(wr_map_write_begin(&map, 1, 0, 8, &write), WEIR_OK);
    cr_expect_eq(wr_map_write_end(&map, &write, 0, &is_idle), WEIR_EIO);
    map.member[1 - write.piece[0].member].is_up = true;
    cr_assert_eq(wr_map_write_begin(&map, 1, 0, 8, &write), WEIR_OK);
    cr_expect(map.member[write.piece[0].member].is_up);
    cr_expect_eq(wr_map_write_end(&map, &write, 1, &is_idle), WEIR_OK);
    cr_expect_null(wr_map_wrong(&map));
    wr_map_close(&map);
}

/* It may still come to pass, after the parity was made anew with what was there before. */
Test(array_map, what_failed_to_be_patched_is_no_part_of_a_code)
{
    struct wr_map_patch patch;
    struct wr_map_write write;
    struct wr_map map;
    bool is_idle;

    cr_assert_eq(wr_map_open(&map, 3, 2, 4), WEIR_OK);
    for (uint32_t i = 0; i < 3; i++) {
        wr_map_member_add(&map, i == 0 ? "a" : i == 1 ? "b" : "c", 8);
        cr_assert_eq(wr_map_member_renew(&map, i, 8), WEIR_OK);
        map.member[i].is_up = true;
    }
    cr_assert_eq(wr_map_write_begin(&map, 1, 0, WEIR_CLUSTER_SLOTS, &write), WEIR_OK);
    cr_assert_eq(wr_map_write_end(&map, &write, 7, &is_idle), WEIR_OK);
    cr_assert_eq(wr_map_patch_begin(&map, 1, 10, 4, &patch), WEIR_OK);
    cr_assert(patch.is_in_place);
    patch.has_sent = true;
    cr_expect_eq(wr_map_patch_end(&map, &patch, 1u << 1, &is_idle), WEIR_EIO);
    cr_expect_eq(wr_map_readable(&map, 1, 10, 4), WEIR_ENOENT, "anything, and a zero of the code");
    cr_expect_eq(wr_map_readable(&map, 1, 0, 10), WEIR_OK);
    cr_expect_eq(wr_map_readable(&map, 1, 14, 400), WEIR_OK);
    cr_expect_eq(wr_map_piece(&map, 1, 2).state, WR_PIECE_STALE, "its parity");
    cr_expect_null(wr_map_wrong(&map));
    wr_map_close(&map);
}

/* --- Stories -----------------------------------------------------------------------------------
 */

#define CLUSTERS 8u
#define UNITS    4u /* runs of pages that are written and looked at together */
#define UNIT     (WEIR_CLUSTER_SLOTS / UNITS)
#define PLACES   16u
#define FLYING   6u

enum { ANYTHING = 0, LOST = -1 };

static struct story {
    struct wr_map map;
    uint32_t members;
    int bytes[WR_MAP_MEMBERS][2][PLACES][UNITS]; /* by member, life, place */
    int oracle[CLUSTERS][UNITS];
    bool is_busy[CLUSTERS][UNITS];
    struct flight {
        struct wr_map_write write;
        int version;
        bool flies;
    } flights[FLYING];
    struct wr_map_job job;
    bool has_job;
    int version;
} story;

static int *bytes_of(const struct wr_map_piece *piece)
{
    return story.bytes[piece->member][piece->life & 1][piece->place];
}

static bool answers(const struct wr_map_piece *piece)
{
    return story.map.member[piece->member].life == piece->life &&
           story.map.member[piece->member].is_up && draw(10) > 0;
}

static bool are_all_closed(void)
{
    for (uint32_t i = 0; i < story.members; i++)
        if (!story.map.member[i].is_closed)
            return false;
    return true;
}

static void begin_write(void)
{
    struct flight *flight = &story.flights[draw(FLYING)];
    const uint32_t cluster = draw(CLUSTERS);
    uint32_t first = draw(UNITS), count = 1 + draw(UNITS - first);
    int error;

    if (draw(3) == 0)
        first = 0, count = UNITS;
    for (uint32_t i = first; i < first + count; i++)
        if (story.is_busy[cluster][i])
            return;
    if (flight->flies)
        return;
    error = wr_map_write_begin(&story.map, cluster, first * UNIT, count * UNIT, &flight->write);
    cr_assert(error != WEIR_EFULL || are_all_closed(), "there is room, whoever answers for now");
    if (error)
        return;
    flight->flies = true;
    flight->version = ++story.version;
    for (uint32_t i = first; i < first + count; i++)
        story.is_busy[cluster][i] = true;
}

static void end_write(struct flight *flight)
{
    const struct wr_map_write *write = &flight->write;
    uint32_t ok = 0;
    bool idle;
    int error;

    for (uint32_t p = 0; p < story.map.pieces; p++) {
        bool is_target = write->targets >> p & 1;

        if (!is_target)
            continue;
        ok |= answers(&write->piece[p]) ? 1u << p : 0;
        /* One that fails may have been written all the same. */
        if (story.map.member[write->piece[p].member].life == write->piece[p].life &&
            (ok >> p & 1 || draw(2)))
            for (uint32_t i = 0; i < write->pages / UNIT; i++)
                bytes_of(&write->piece[p])[write->first / UNIT + i] = flight->version;
    }
    error = wr_map_write_end(&story.map, write, ok, &idle);
    for (uint32_t i = 0; i < write->pages / UNIT; i++) {
        story.oracle[write->cluster][write->first / UNIT + i] = error ? ANYTHING : flight->version;
        story.is_busy[write->cluster][write->first / UNIT + i] = false;
    }
    flight->flies = false;
}

static bool is_flying(uint32_t cluster)
{
    for (uint32_t i = 0; i < FLYING; i++)
        if (story.flights[i].flies && story.flights[i].write.cluster == cluster)
            return true;
    return false;
}

static void begin_job(uint32_t cluster, bool may_move)
{
    int error = wr_map_job_begin(&story.map, cluster, may_move, &story.job);

    story.has_job = error == WEIR_OK;
    if (error == WEIR_EAGAIN && draw(2))
        (void)wr_map_job_cancel(&story.map, cluster);
}

static void end_job(void)
{
    const struct wr_map_piece *from = &story.job.from[draw(story.job.from_count)];
    bool is_done = answers(from) && answers(&story.job.target), waited;

    if (is_done)
        memcpy(bytes_of(&story.job.target), bytes_of(from), sizeof(int) * UNITS);
    if (wr_map_job_end(&story.map, &story.job, is_done, &waited))
        wr_map_job_free(&story.map, &story.job);
    story.has_job = false;
}

/* What had its last whole piece there is lost. */
static void lose(uint32_t member)
{
    bool is_lost[CLUSTERS];

    for (uint32_t c = 0; c < CLUSTERS; c++) {
        uint32_t there = 0, others = 0;

        for (uint32_t p = 0; p < story.map.pieces; p++) {
            struct wr_map_piece piece = wr_map_piece(&story.map, c, p);

            if (piece.state == WR_PIECE_WHOLE)
                *(piece.member == member ? &there : &others) += 1;
        }
        is_lost[c] = there && !others;
    }
    cr_assert_eq(wr_map_member_renew(&story.map, member, story.map.member[member].places), WEIR_OK);
    for (uint32_t place = 0; place < PLACES; place++)
        for (uint32_t i = 0; i < UNITS; i++)
            story.bytes[member][story.map.member[member].life & 1][place][i] = -7;
    for (uint32_t c = 0; c < CLUSTERS; c++)
        for (uint32_t i = 0; i < UNITS; i++)
            if (is_lost[c] && story.oracle[c][i] > 0)
                story.oracle[c][i] = LOST;
}

static void discard(uint32_t cluster)
{
    struct wr_map_piece pieces[WR_MAP_MEMBERS];

    if (is_flying(cluster) || (story.has_job && story.job.cluster == cluster))
        return;
    if (wr_map_discard_begin(&story.map, cluster, pieces))
        (void)wr_map_discard_end(&story.map, cluster);
    for (uint32_t i = 0; i < UNITS; i++)
        story.oracle[cluster][i] = ANYTHING;
}

/* One more, from now on. */
static void come(void)
{
    char name[16];

    if (story.members == WR_MAP_MEMBERS)
        return;
    snprintf(name, sizeof(name), "late %u", story.members++);
    wr_map_member_add(&story.map, name, PLACES);
    cr_assert_eq(wr_map_member_renew(&story.map, story.members - 1, PLACES), WEIR_OK);
}

/* It is to be empty, or no longer; when it is, it is closed until it begins another life. */
static void leave(uint32_t member)
{
    if (story.map.member[member].is_closed)
        lose(member);
    else if (!wr_map_member_close(&story.map, member))
        story.map.member[member].is_leaving = draw(2);
}

static void step(void)
{
    struct flight *flight = &story.flights[draw(FLYING)];
    const uint32_t member = draw(story.members);

    switch (draw(13)) {
    case 0: story.map.member[member].is_up = draw(3) && !story.map.member[member].is_closed; break;
    case 1: story.map.member[member].is_gone = draw(2); break;
    case 2: story.map.member[member].is_resting = draw(4) == 0; break;
    case 3:
        if (draw(8) == 0)
            lose(member);
        else if (draw(16) == 0)
            come();
        break;
    case 4: discard(draw(CLUSTERS)); break;
    case 5:
    case 6:
        if (story.has_job)
            end_job();
        else
            begin_job(draw(CLUSTERS), draw(2));
        break;
    case 7:
    case 8:
    case 9: begin_write(); break;
    case 10:
        if (draw(4) == 0)
            leave(member);
        break;
    default:
        if (flight->flies)
            end_write(flight);
    }
}

static void check(uint64_t seed)
{
    const char *wrong = story.has_job ? NULL : wr_map_wrong(&story.map);

    cr_assert_null(wrong, "seed %llu: %s", (unsigned long long)seed, wrong);
    for (uint32_t c = 0; c < CLUSTERS; c++)
        for (uint32_t i = 0; i < UNITS; i++) {
            const int wanted = story.oracle[c][i];
            int readable = wr_map_readable(&story.map, c, i * UNIT, UNIT);

            if (story.is_busy[c][i] || wanted == ANYTHING)
                continue;
            cr_assert_eq(readable, wanted == LOST ? WEIR_EIO : WEIR_OK,
                         "seed %llu: cluster %u unit %u: %d", (unsigned long long)seed, c, i,
                         readable);
            for (uint32_t p = 0; p < story.map.pieces && wanted > 0; p++) {
                struct wr_map_piece piece = wr_map_piece(&story.map, c, p);

                cr_assert(piece.state != WR_PIECE_WHOLE || bytes_of(&piece)[i] == wanted,
                          "seed %llu: cluster %u unit %u piece %u holds %d, not %d",
                          (unsigned long long)seed, c, i, p, bytes_of(&piece)[i], wanted);
            }
        }
}

/* Who leaves is empty, if the others are enough. */
static void check_leavers(uint64_t seed)
{
    for (uint32_t i = 0; i < story.members; i++)
        if (story.map.member[i].is_leaving && !story.map.member[i].is_closed &&
            wr_map_others(&story.map, i) >= story.map.pieces)
            cr_assert(wr_map_member_close(&story.map, i), "seed %llu: member %u is not empty",
                      (unsigned long long)seed, i);
}

/* Everybody is well again: everything is whole after as many jobs as there are pieces, and has
 * come to its place after some more. */
static void recover(uint64_t seed)
{
    uint32_t jobs = 0;

    for (uint32_t i = 0; i < FLYING; i++)
        if (story.flights[i].flies)
            end_write(&story.flights[i]);
    for (uint32_t i = 0; i < story.members; i++) {
        if (story.map.member[i].is_closed)
            lose(i);
        story.map.member[i].is_up = true;
        story.map.member[i].is_resting = story.map.member[i].is_gone = false;
    }
    for (bool any = true; any; jobs++) {
        any = false;
        for (uint32_t c = 0; c < CLUSTERS && !any; c++) {
            if (!story.has_job)
                begin_job(c, story.map.missing == 0);
            any = story.has_job;
        }
        while (story.has_job)
            end_job();
        cr_assert_lt(jobs, 2000, "seed %llu: no end", (unsigned long long)seed);
    }
    cr_assert_eq(story.map.missing, 0, "seed %llu: never whole", (unsigned long long)seed);
    check(seed);
    check_leavers(seed);
}

static void tell_story(uint64_t seed)
{
    uint32_t pieces;

    state = seed;
    memset(&story, 0, sizeof(story));
    pieces = 1 + draw(3);
    story.members = pieces + draw(3);
    open_map(&story.map, pieces, CLUSTERS, story.members, PLACES);
    for (uint32_t i = 0; i < 400; i++) {
        step();
        check(seed);
    }
    recover(seed);
    wr_map_close(&story.map);
}

Test(array_map, nothing_is_wrong_and_everything_is_whole_in_the_end, .timeout = 240)
{
    for (uint64_t seed = 1; seed <= 3000; seed++)
        tell_story(seed);
}
