/* SPDX-License-Identifier: MIT */

/*
 * The map of an erasure code, by itself: thousands of made-up stories in which members fail, come
 * back, and come back empty, beside a model that remembers every page.
 *
 *   unit   a page that is looked at: the first and the last of each data piece
 *   cell   what lies in one row of a place: of data, the version of its page; of parity, the
 *          versions of all pages from which it was made. So it is seen whether pieces fit together
 *   late   what a patch wrote to a cell, and was told has failed: it may come to pass at any time,
 *          before anything later is written there
 */

#include "transport/array_map.h"

#include <criterion/criterion.h>
#include <string.h>

#define CLUSTERS 6u
#define ROWS     2u
#define PLACES   14u
#define FLYING   3u
#define NEED     4u /* the most */
#define UNITS    (NEED * ROWS)
#define LATE     4u

enum { GARBAGE = -7, LOST = -1, ANYTHING = 0 };

struct cell {
    int of[NEED];
};

static uint64_t state;

static struct story {
    struct wr_map map;
    uint32_t members, places, units;
    struct cell cells[WR_MAP_MEMBERS][2][PLACES][ROWS]; /* by member, life, place */
    int oracle[CLUSTERS][UNITS];
    bool is_busy[CLUSTERS][UNITS];
    struct flight {
        struct wr_map_write write;
        int version;
        bool flies;
    } flights[FLYING];
    struct wr_map_job job;
    struct wr_map_patch patch;
    uint32_t from, to; /* units of the patch */
    bool has_job, has_patch;
    bool is_worked, is_sent; /* the job, the patch: half done, by what was there then */
    uint32_t sent_ok;
    int sent_version;
    struct late {
        struct cell *cell, value;
    } late[LATE];
    int version;
} story;

static uint32_t draw(uint32_t limit)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) % limit);
}

/* --- What lies where ---------------------------------------------------------------------------
 */

static uint32_t row_of(uint32_t unit)
{
    return unit % ROWS ? wr_map_piece_pages(&story.map, story.map.need - 1) - 1 : 0;
}

static uint32_t page_of(uint32_t unit)
{
    return unit / ROWS * story.map.rows + row_of(unit);
}

static bool is_written(uint32_t cluster, uint32_t unit)
{
    return wr_map_row(&story.map, cluster, row_of(unit)) >> unit / ROWS & 1;
}

static struct cell *cell_of(const struct wr_map_piece *piece, uint32_t row)
{
    return &story.cells[piece->member][piece->life & 1][piece->place][row];
}

static void set_cell(struct cell *cell, const struct cell *value)
{
    for (uint32_t i = 0; i < LATE; i++)
        if (story.late[i].cell == cell)
            story.late[i].cell = NULL;
    *cell = *value;
}

static void land(struct late *late)
{
    if (late->cell)
        *late->cell = late->value;
    late->cell = NULL;
}

static bool lives(const struct wr_map_piece *piece)
{
    return story.map.member[piece->member].life == piece->life;
}

static bool answers(const struct wr_map_piece *piece)
{
    return lives(piece) && story.map.member[piece->member].is_up && draw(10) > 0;
}

/* The version of a page by the piece that has it, or by parity; GARBAGE: by nobody. */
static int value_of(uint32_t cluster, uint32_t unit)
{
    const uint32_t number = unit / ROWS;

    if (!is_written(cluster, unit))
        return 0;
    for (uint32_t i = number; i < story.map.pieces;
         i = i < story.map.need ? story.map.need : i + 1) {
        const struct wr_map_piece piece = wr_map_piece(&story.map, cluster, i);

        if (piece.state == WR_PIECE_WHOLE)
            return cell_of(&piece, unit % ROWS)->of[i == number ? 0 : number];
    }
    return GARBAGE;
}

static struct cell parity_of(uint32_t cluster, uint32_t row)
{
    struct cell cell = {{0}};

    for (uint32_t i = 0; i < story.map.need; i++)
        cell.of[i] = value_of(cluster, i * ROWS + row);
    return cell;
}

/* There is always room: nobody is refused because others do not answer for now. */
static bool is_begun(int error)
{
    cr_assert(error == WEIR_OK || error == WEIR_EAGAIN, "a write gave %s", weir_error_name(error));
    return error == WEIR_OK;
}

/* --- Writes of everything ----------------------------------------------------------------------
 */

static bool are_busy(uint32_t cluster, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        if (story.is_busy[cluster][i])
            return true;
    return false;
}

static void set_busy(uint32_t cluster, uint32_t from, uint32_t to, bool is_busy)
{
    for (uint32_t i = from; i < to; i++)
        story.is_busy[cluster][i] = is_busy;
}

static void begin_write(void)
{
    struct flight *flight = &story.flights[draw(FLYING)];
    const uint32_t cluster = draw(CLUSTERS);

    if (flight->flies || are_busy(cluster, 0, story.units) ||
        !is_begun(wr_map_write_begin(&story.map, cluster, 0, WEIR_CLUSTER_SLOTS, &flight->write)))
        return;
    flight->flies = true;
    flight->version = ++story.version;
    set_busy(cluster, 0, story.units, true);
}

static void end_write(struct flight *flight)
{
    const struct wr_map_write *write = &flight->write;
    const uint32_t cluster = (uint32_t)write->cluster;
    uint32_t ok = 0;
    bool idle;
    int error;

    for (uint32_t i = 0; i < story.map.pieces; i++) {
        const struct wr_map_piece *piece = &write->piece[i];

        if (!(write->targets >> i & 1) || !lives(piece))
            continue;
        ok |= answers(piece) ? 1u << i : 0;
        /* One that fails may have been written all the same. */
        for (uint32_t row = 0; row < ROWS; row++) {
            struct cell cell = *cell_of(piece, row);

            for (uint32_t j = 0; j < story.map.need && (ok >> i & 1 || draw(2)); j++)
                cell.of[j] = flight->version;
            set_cell(cell_of(piece, row), &cell);
        }
    }
    error = wr_map_write_end(&story.map, write, ok, &idle);
    for (uint32_t i = 0; i < story.units; i++)
        story.oracle[cluster][i] = error ? ANYTHING : flight->version;
    set_busy(cluster, 0, story.units, false);
    flight->flies = false;
}

/* --- Patches -----------------------------------------------------------------------------------
 */

static void send_patch(void);

static void begin_patch(void)
{
    const uint32_t cluster = draw(CLUSTERS);

    story.from = draw(story.units);
    story.to = story.from + 1 + draw(draw(2) ? 1 : story.units - story.from);
    if (story.has_patch || are_busy(cluster, story.from, story.to) ||
        story.to - story.from == story.units ||
        !is_begun(wr_map_patch_begin(&story.map, cluster, page_of(story.from),
                                     page_of(story.to - 1) - page_of(story.from) + 1,
                                     &story.patch)))
        return;
    story.has_patch = true;
    story.is_sent = false;
    set_busy(cluster, story.from, story.to, true);
    if (draw(2))
        send_patch();
}

static bool is_own(uint32_t unit)
{
    return unit >= story.from && unit < story.to;
}

/* What the row should be, of data and of parity. False: it cannot be worked out. */
static bool gather(uint32_t row, int version, struct cell *cell_p)
{
    *cell_p = parity_of((uint32_t)story.patch.cluster, row);
    for (uint32_t i = 0; i < story.map.need; i++) {
        if (is_own(i * ROWS + row))
            cell_p->of[i] = version;
        if (cell_p->of[i] == GARBAGE)
            return false;
    }
    return true;
}

/* Has this piece something to get in this row? */
static bool is_to_get(uint32_t piece, uint32_t row)
{
    bool any = false;

    if (!story.patch.is_in_place)
        return true;
    if (piece < story.map.need)
        return is_own(piece * ROWS + row);
    for (uint32_t i = 0; i < story.map.need; i++)
        any |= is_own(i * ROWS + row);
    return any;
}

static uint32_t send_row(uint32_t row, const struct cell *cell, uint32_t ok)
{
    for (uint32_t i = 0; i < story.map.pieces; i++) {
        const struct wr_map_piece *target = &story.patch.target[i];
        struct cell value = *cell;

        if (!(ok >> i & 1) || !is_to_get(i, row))
            continue;
        if (!answers(target))
            ok &= ~(1u << i);
        if (!lives(target))
            continue;
        if (i < story.map.need)
            value.of[0] = cell->of[i];
        if (ok >> i & 1 || draw(3) == 0)
            set_cell(cell_of(target, row), &value);
        else if (draw(2))
            story.late[draw(LATE)] = (struct late){cell_of(target, row), value};
    }
    return ok;
}

static uint32_t send_rows(int version)
{
    uint32_t ok = 0;

    for (uint32_t i = 0; i < story.map.pieces; i++)
        ok |= story.patch.target[i].state != WR_PIECE_NONE ? 1u << i : 0;
    for (uint32_t row = 0; row < ROWS; row++) {
        struct cell cell;

        if (draw(20) == 0 || !gather(row, version, &cell))
            return 0;
        story.patch.has_sent = true;
        ok = send_row(row, &cell, ok);
    }
    return ok;
}

static void send_patch(void)
{
    story.is_sent = true;
    story.sent_version = ++story.version;
    story.sent_ok = send_rows(story.sent_version);
}

/* A patch that fails may also have lost what was on a member that was lost meanwhile. */
static void note_lost(uint32_t cluster)
{
    for (uint32_t i = 0; i < story.units; i++)
        if (story.oracle[cluster][i] > 0 &&
            wr_map_piece(&story.map, cluster, i / ROWS).state != WR_PIECE_WHOLE &&
            wr_map_readable(&story.map, cluster, page_of(i), 1) == WEIR_EIO)
            story.oracle[cluster][i] = LOST;
}

static void end_patch(void)
{
    const uint32_t cluster = (uint32_t)story.patch.cluster;
    bool waited;
    int error;

    if (!story.is_sent)
        send_patch();
    error = wr_map_patch_end(&story.map, &story.patch, story.sent_ok, &waited);
    if (!error && !story.patch.is_in_place)
        wr_map_patch_free(&story.map, &story.patch);
    for (uint32_t i = story.from; i < story.to; i++)
        story.oracle[cluster][i] = error ? ANYTHING : story.sent_version;
    if (error && story.patch.is_in_place)
        note_lost(cluster);
    set_busy(cluster, story.from, story.to, false);
    story.has_patch = false;
}

/* --- Jobs, losses ------------------------------------------------------------------------------
 */

static bool work_out(void)
{
    const struct wr_map_job *job = &story.job;
    bool is_done = answers(&job->target);

    for (uint32_t row = 0; row < ROWS && is_done; row++) {
        struct cell cell = parity_of((uint32_t)job->cluster, row);

        for (uint32_t i = 0; i < story.map.need; i++)
            is_done &= cell.of[i] != GARBAGE || (job->piece < story.map.need && i != job->piece);
        if (job->piece < story.map.need)
            cell.of[0] = cell.of[job->piece];
        set_cell(cell_of(&job->target, row), &cell);
    }
    return is_done;
}

static void begin_job(uint32_t cluster, bool may_move)
{
    int error = wr_map_job_begin(&story.map, cluster, may_move, &story.job);

    story.has_job = error == WEIR_OK;
    story.is_worked = story.has_job && draw(2) && work_out();
    if (error && draw(2))
        (void)wr_map_job_cancel(&story.map, cluster);
}

static void end_job(void)
{
    bool is_done = story.is_worked || work_out(), waited;

    if (wr_map_job_end(&story.map, &story.job, is_done, &waited))
        wr_map_job_free(&story.map, &story.job);
    story.has_job = false;
}

/* What was on pieces that are not whole, where too few others are sound. */
static void lose_pages(uint32_t cluster, uint32_t member)
{
    uint32_t whole = 0, sound;

    for (uint32_t i = 0; i < story.map.pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(&story.map, cluster, i);

        if (piece.state == WR_PIECE_WHOLE && piece.member != member)
            whole |= 1u << i;
    }
    sound = whole;
    for (uint32_t i = 0; i < story.map.need; i++)
        if (!is_written(cluster, i * ROWS) && !is_written(cluster, i * ROWS + 1))
            sound |= 1u << i;
    if ((uint32_t)__builtin_popcount(sound) >= story.map.need)
        return;
    for (uint32_t i = 0; i < story.units; i++)
        if (!(whole >> i / ROWS & 1) && story.oracle[cluster][i] > 0)
            story.oracle[cluster][i] = LOST;
}

static void lose(uint32_t member)
{
    static const struct cell garbage = {{GARBAGE, GARBAGE, GARBAGE, GARBAGE}};

    for (uint32_t c = 0; c < CLUSTERS; c++)
        lose_pages(c, member);
    cr_assert_eq(wr_map_member_renew(&story.map, member, story.places), WEIR_OK);
    for (uint32_t place = 0; place < PLACES; place++)
        for (uint32_t row = 0; row < ROWS; row++)
            set_cell(&story.cells[member][story.map.member[member].life & 1][place][row], &garbage);
}

static void discard(uint32_t cluster)
{
    struct wr_map_piece pieces[WR_MAP_MEMBERS];

    if (are_busy(cluster, 0, story.units) || (story.has_job && story.job.cluster == cluster))
        return;
    if (wr_map_discard_begin(&story.map, cluster, pieces))
        (void)wr_map_discard_end(&story.map, cluster);
    for (uint32_t i = 0; i < story.units; i++)
        story.oracle[cluster][i] = ANYTHING;
}

/* --- The law -----------------------------------------------------------------------------------
 */

static void check_pages(uint64_t seed, uint32_t cluster)
{
    for (uint32_t i = 0; i < story.units; i++) {
        const int wanted = story.oracle[cluster][i];
        const int readable = wr_map_readable(&story.map, cluster, page_of(i), 1);
        const struct wr_map_piece piece = wr_map_piece(&story.map, cluster, i / ROWS);

        if (story.is_busy[cluster][i] || wanted == ANYTHING)
            continue;
        cr_assert_eq(readable, wanted == LOST ? WEIR_EIO : WEIR_OK,
                     "seed %llu: cluster %u unit %u: %d, wanted %d", (unsigned long long)seed,
                     cluster, i, readable, wanted);
        cr_assert(wanted == LOST || piece.state != WR_PIECE_WHOLE ||
                      cell_of(&piece, i % ROWS)->of[0] == wanted,
                  "seed %llu: cluster %u unit %u holds %d, not %d", (unsigned long long)seed,
                  cluster, i, cell_of(&piece, i % ROWS)->of[0], wanted);
        cr_assert(wanted == LOST || value_of(cluster, i) == wanted,
                  "seed %llu: cluster %u unit %u is %d, not %d", (unsigned long long)seed, cluster,
                  i, value_of(cluster, i), wanted);
    }
}

/* All parity of a row was made from the pages that are there now. */
static void check_parity(uint64_t seed, uint32_t cluster, uint32_t row)
{
    const struct cell wanted = parity_of(cluster, row);

    for (uint32_t i = story.map.need; i < story.map.pieces; i++) {
        const struct wr_map_piece piece = wr_map_piece(&story.map, cluster, i);

        if (piece.state != WR_PIECE_WHOLE || !wr_map_row(&story.map, cluster, row_of(row)))
            continue;
        for (uint32_t j = 0; j < story.map.need; j++)
            cr_assert_eq(cell_of(&piece, row)->of[j], wanted.of[j],
                         "seed %llu: cluster %u row %u: parity %u was made with %d of piece %u, "
                         "where %d is",
                         (unsigned long long)seed, cluster, row, i, cell_of(&piece, row)->of[j], j,
                         wanted.of[j]);
    }
}

static void check(uint64_t seed)
{
    const char *wrong = story.has_job || story.has_patch ? NULL : wr_map_wrong(&story.map);

    cr_assert_null(wrong, "seed %llu: %s", (unsigned long long)seed, wrong);
    for (uint32_t c = 0; c < CLUSTERS; c++) {
        if (are_busy(c, 0, story.units))
            continue; /* in the middle of something */
        check_pages(seed, c);
        for (uint32_t row = 0; row < ROWS; row++)
            check_parity(seed, c, row);
    }
}

/* --- Stories -----------------------------------------------------------------------------------
 */

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

    if (draw(4) == 0)
        land(&story.late[draw(LATE)]);
    switch (draw(15)) {
    case 0: story.map.member[member].is_up = draw(4) && !story.map.member[member].is_closed; break;
    case 1: story.map.member[member].is_gone = draw(2); break;
    case 2: story.map.member[member].is_resting = draw(4) == 0; break;
    case 3:
        if (draw(8) == 0)
            lose(member);
        break;
    case 4:
        if (draw(3) == 0)
            discard(draw(CLUSTERS));
        break;
    case 5:
    case 6:
    case 7:
        if (story.has_job)
            end_job();
        else
            begin_job(draw(CLUSTERS), draw(2));
        break;
    case 8: begin_write(); break;
    case 9:
        if (flight->flies)
            end_write(flight);
        break;
    case 10:
        if (draw(4) == 0)
            leave(member);
        break;
    default:
        if (story.has_patch)
            end_patch();
        else
            begin_patch();
    }
}

static void be_well(void)
{
    for (uint32_t i = 0; i < story.members; i++) {
        if (story.map.member[i].is_closed)
            lose(i);
        story.map.member[i].is_up = true;
        story.map.member[i].is_resting = story.map.member[i].is_gone = false;
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

/* Everybody is well again: everything is whole after some jobs, and has come to its place after
 * some more. */
static void recover(uint64_t seed)
{
    uint32_t jobs = 0;

    if (story.has_patch)
        end_patch();
    for (uint32_t i = 0; i < FLYING; i++)
        if (story.flights[i].flies)
            end_write(&story.flights[i]);
    be_well();
    for (bool any = true; any; jobs++) {
        any = false;
        for (uint32_t c = 0; c < CLUSTERS && !any; c++) {
            if (!story.has_job)
                begin_job(c, story.map.missing == 0);
            any = story.has_job;
        }
        if (story.has_job)
            end_job();
        cr_assert_lt(jobs, 2000, "seed %llu: no end", (unsigned long long)seed);
    }
    cr_assert_eq(story.map.missing, 0, "seed %llu: never whole", (unsigned long long)seed);
    check(seed);
    check_leavers(seed);
}

static void open_map(void)
{
    const uint32_t need = 2 + draw(NEED - 1), pieces = need + 1 + draw(3);

    story.members = pieces + draw(3);
    /* All of the same size, and not one place too many; or room for everything anywhere. */
    story.places = story.members == pieces && draw(2) ? CLUSTERS + wr_map_reserve(need) : PLACES;
    story.units = need * ROWS;
    cr_assert_eq(wr_map_open(&story.map, pieces, need, CLUSTERS), WEIR_OK);
    for (uint32_t i = 0; i < story.members; i++) {
        char name[16] = "member ?";

        name[7] = (char)('a' + i);
        wr_map_member_add(&story.map, name, story.places);
        lose(i);
    }
    be_well();
}

static void tell_story(uint64_t seed)
{
    state = seed;
    memset(&story, 0, sizeof(story));
    open_map();
    for (uint32_t i = 0; i < 400; i++) {
        step();
        check(seed);
    }
    recover(seed);
    wr_map_close(&story.map);
}

Test(array_story, nothing_is_wrong_and_everything_is_whole_in_the_end, .timeout = 240)
{
    for (uint64_t seed = 1; seed <= 3000; seed++)
        tell_story(seed);
}
