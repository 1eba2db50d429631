/* SPDX-License-Identifier: MIT */

/*
 * Reading of a code: from the piece that has the page, or from others, out of which it is worked
 * out. What is called here runs in signal handlers; nothing takes a lock or memory.
 *
 *   source   a piece from which another one is worked out; any `need` of them do
 *   scratch  room for what one source has. There is a fixed number; who finds none waits until
 *            somebody has read
 *
 * Always: no slot is read while it is written. Who works a page out reads other pages than he was
 * asked for, which may be about to be patched in place. So he is inside a second gate (sums)
 * meanwhile, and only while the version is even; the patcher makes it odd, and waits until nobody
 * is in there any more. Who waits for it to be even again is outside.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "transport/array.h"
#include "transport/array_coded.h"

#define SCRATCHES     64u
#define SCRATCH_BYTES ((size_t)WR_ARRAY_SCRATCH_PAGES * WEIR_SLOT_BYTES)

/* --- Scratch -----------------------------------------------------------------------------------
 */

struct wr_array_scratch {
    _Atomic(uint64_t) free; /* bits */
    unsigned char *bytes;
};

int wr_array_scratch_open(struct wr_array *array)
{
    struct wr_array_scratch *scratch = malloc(sizeof(*scratch));

    if (!scratch)
        return WEIR_ENOMEM;
    atomic_init(&scratch->free, UINT64_MAX);
    scratch->bytes = mmap(NULL, SCRATCHES * SCRATCH_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (scratch->bytes == MAP_FAILED) {
        free(scratch);
        return WEIR_ENOMEM;
    }
    array->scratch = scratch;
    return WEIR_OK;
}

void wr_array_scratch_close(struct wr_array *array)
{
    if (!array->scratch)
        return;
    munmap(array->scratch->bytes, SCRATCHES * SCRATCH_BYTES);
    free(array->scratch);
}

static void rest(void)
{
    const struct timespec moment = {0, 50000};
    const int saved_errno = errno;

    (void)syscall(SYS_nanosleep, &moment, NULL); /* raw: no cancellation point */
    errno = saved_errno;
}

static uint32_t take_scratch(struct wr_array_scratch *scratch)
{
    for (;;) {
        uint64_t free = atomic_load(&scratch->free);

        if (!free)
            rest();
        else if (atomic_compare_exchange_weak(&scratch->free, &free, free & (free - 1)))
            return (uint32_t)__builtin_ctzll(free);
    }
}

static void give_scratch(struct wr_array_scratch *scratch, uint32_t number)
{
    atomic_fetch_or(&scratch->free, 1ull << number);
}

/* --- Working out -------------------------------------------------------------------------------
 */

/* Rows of a piece of which the same data pieces have a page: bits. */
struct sum {
    struct wr_array *array;
    uint64_t cluster;
    uint32_t piece, row, rows, bits;
    void *bytes, *scratch;
    bool has_hope; /* a source that failed may yet answer */
};

/* Those that need not be read, as their page is not written; those that answer; others. None: they
 * are too few. */
static uint32_t choose_sources(const struct sum *sum, uint32_t tried)
{
    const struct wr_array *array = sum->array;
    uint32_t from = ((1u << array->need) - 1) & ~sum->bits & ~tried;

    for (uint32_t round = 0; round < 2; round++)
        for (uint32_t i = 0; i < array->pieces; i++) {
            const struct wr_map_piece piece = wr_map_piece(&array->map, sum->cluster, i);

            if ((uint32_t)__builtin_popcount(from) == array->need)
                return from;
            if (piece.state == WR_PIECE_WHOLE && !((from | tried) >> i & 1) &&
                (round == 1 || wr_array_is_good(array, piece.member)))
                from |= 1u << i;
        }
    return (uint32_t)__builtin_popcount(from) == array->need ? from : 0;
}

/* The source that failed; NOBODY: none. */
static uint32_t add_up(struct sum *sum, uint32_t from)
{
    struct wr_array *array = sum->array;
    struct wr_code_recipe recipe;

    wr_code_solve(&array->code, sum->piece, from, &recipe);
    memset(sum->bytes, 0, (size_t)sum->rows * WEIR_SLOT_BYTES);
    for (uint32_t i = 0; i < recipe.count; i++) {
        const uint32_t number = recipe.piece[i];
        const struct wr_map_piece piece = wr_map_piece(&array->map, sum->cluster, number);
        int error;

        if (number < array->need && !(sum->bits >> number & 1))
            continue; /* zeros */
        error = piece.state == WR_PIECE_WHOLE
                    ? wr_array_read_piece(array, &piece, sum->row, sum->rows, sum->scratch)
                    : WEIR_EIO;
        sum->has_hope |= error == WEIR_EAGAIN;
        if (error)
            return number;
        wr_code_add(&recipe, i, sum->rows * WEIR_SLOT_BYTES, sum->scratch, sum->bytes);
    }
    return WR_MAP_NOBODY;
}

/* Of those that are not to be asked: bits. */
static int work_out(struct sum *sum, uint32_t but)
{
    const bool is_data = sum->piece < sum->array->need;
    uint32_t tried = 1u << sum->piece | but;

    if (is_data ? !(sum->bits >> sum->piece & 1) : sum->bits == 0) {
        memset(sum->bytes, 0, (size_t)sum->rows * WEIR_SLOT_BYTES);
        return WEIR_OK;
    }
    for (;;) {
        const uint32_t from = choose_sources(sum, tried);
        uint32_t failed;

        if (!from)
            return sum->has_hope ? WEIR_EAGAIN : WEIR_EIO;
        failed = add_up(sum, from);
        if (failed == WR_MAP_NOBODY)
            return WEIR_OK;
        tried |= 1u << failed;
    }
}

static int work_out_rows(struct wr_array *array, uint64_t cluster, uint32_t piece, uint32_t row,
                         uint32_t rows, char *bytes, void *scratch)
{
    const uint32_t end = row + rows;
    int error = WEIR_OK;

    while (row < end && !error) {
        struct sum sum = {.array = array,
                          .cluster = cluster,
                          .piece = piece,
                          .row = row,
                          .rows = 1,
                          .bits = wr_map_row(&array->map, cluster, row),
                          .bytes = bytes,
                          .scratch = scratch};

        while (row + sum.rows < end && wr_map_row(&array->map, cluster, row + sum.rows) == sum.bits)
            sum.rows++;
        error = work_out(&sum, 0);
        row += sum.rows;
        bytes += (size_t)sum.rows * WEIR_SLOT_BYTES;
    }
    return error;
}

int wr_array_recover(struct wr_array *array, uint64_t cluster, uint32_t piece, uint32_t row,
                     uint32_t rows, void *bytes, void *scratch)
{
    const struct wr_map_piece here = wr_map_piece(&array->map, cluster, piece);
    const bool is_here = here.state == WR_PIECE_WHOLE;
    const bool is_first = is_here && wr_array_is_good(array, here.member);
    int first = WEIR_EIO, error;

    if (is_first)
        first = wr_array_read_piece(array, &here, row, rows, bytes);
    if (is_first && !first)
        return WEIR_OK;
    error = work_out_rows(array, cluster, piece, row, rows, bytes, scratch);
    if (!error)
        return WEIR_OK;
    if (is_here && !is_first)
        first = wr_array_read_piece(array, &here, row, rows, bytes);
    return !first || first == WEIR_EAGAIN ? first : error;
}

/* --- Reading -----------------------------------------------------------------------------------
 */

/* Into the gate of those who work pages out, when pages and parity fit together. The version. */
static uint32_t enter_even(struct wr_array *array, uint64_t cluster, uint32_t *side_p)
{
    for (;;) {
        uint32_t version;

        *side_p = wr_array_gate_enter(&array->sums);
        version = wr_map_version(&array->map, cluster);
        if (!(version & 1))
            return version;
        wr_array_gate_leave(&array->sums, *side_p);
        rest();
    }
}

/* At most as many pages as there is scratch for, of one piece. */
static int recover_pages(struct wr_array *array, uint64_t cluster, uint32_t first, uint32_t pages,
                         void *bytes, void *scratch)
{
    const uint32_t rows = array->map.rows;

    for (;;) {
        uint32_t side;
        const uint32_t version = enter_even(array, cluster, &side);
        int error = wr_map_readable(&array->map, cluster, first, pages);

        if (error != WEIR_EIO)
            error = wr_array_recover(array, cluster, first / rows, first % rows, pages, bytes,
                                     scratch);
        wr_array_gate_leave(&array->sums, side);
        if (wr_map_version(&array->map, cluster) == version)
            return error;
    }
}

/* Pages of one piece. */
static int read_piece(struct wr_array *array, uint64_t cluster, uint32_t first, uint32_t pages,
                      char *bytes)
{
    const uint32_t rows = array->map.rows;
    const struct wr_map_piece piece = wr_map_piece(&array->map, cluster, first / rows);
    uint32_t number;
    int error = WEIR_OK;

    if (piece.state == WR_PIECE_WHOLE && wr_array_is_good(array, piece.member) &&
        wr_array_read_piece(array, &piece, first % rows, pages, bytes) == WEIR_OK)
        /* Perhaps it was whole again only after it had been lost. */
        return wr_map_readable(&array->map, cluster, first, pages) == WEIR_EIO ? WEIR_EIO : WEIR_OK;
    number = take_scratch(array->scratch);
    while (pages > 0 && !error) {
        const uint32_t some = pages < WR_ARRAY_SCRATCH_PAGES ? pages : WR_ARRAY_SCRATCH_PAGES;

        error = recover_pages(array, cluster, first, some, bytes,
                              array->scratch->bytes + number * SCRATCH_BYTES);
        first += some;
        pages -= some;
        bytes += (size_t)some * WEIR_SLOT_BYTES;
    }
    give_scratch(array->scratch, number);
    return error;
}

int wr_array_read_coded(struct wr_array *array, uint64_t cluster, uint32_t first, uint32_t pages,
                        void *bytes)
{
    const uint32_t rows = array->map.rows;
    char *to = bytes;
    int error = wr_map_readable(&array->map, cluster, first, pages);

    if (error == WEIR_ENOENT)
        error = WEIR_OK;
    while (pages > 0 && !error) {
        const uint32_t some = pages < rows - first % rows ? pages : rows - first % rows;

        error = read_piece(array, cluster, first, some, to);
        first += some;
        pages -= some;
        to += (size_t)some * WEIR_SLOT_BYTES;
    }
    return error;
}

/* Without the piece itself; and, where there is parity enough, without another one each time. */
static int work_out_without(struct wr_array *array, uint64_t cluster, uint32_t page,
                            uint32_t attempt, void *bytes, void *scratch)
{
    const struct wr_map *map = &array->map;
    const uint32_t piece = page / map->rows, row = page % map->rows;
    const uint32_t other = (piece + attempt) % array->pieces;

    for (;;) {
        uint32_t side;
        const uint32_t version = enter_even(array, cluster, &side);
        struct sum sum = {.array = array,
                          .cluster = cluster,
                          .piece = piece,
                          .row = row,
                          .rows = 1,
                          .bits = wr_map_row(map, cluster, row),
                          .bytes = bytes,
                          .scratch = scratch};
        const int error = work_out(&sum, array->pieces - array->need > 1 ? 1u << other : 0);

        wr_array_gate_leave(&array->sums, side);
        if (wr_map_version(map, cluster) == version)
            return wr_map_readable(map, cluster, page, 1) == WEIR_EIO ? WEIR_EIO : error;
    }
}

int wr_array_reread_coded(struct wr_array *array, uint64_t cluster, uint32_t page, uint32_t attempt,
                          void *bytes)
{
    const uint32_t rows = array->map.rows;
    const struct wr_map_piece piece = wr_map_piece(&array->map, cluster, page / rows);
    uint32_t number;
    int error;

    if (attempt == 0)
        return piece.state == WR_PIECE_WHOLE
                   ? wr_array_read_piece(array, &piece, page % rows, 1, bytes)
                   : WEIR_EIO;
    number = take_scratch(array->scratch);
    error = work_out_without(array, cluster, page, attempt, bytes,
                             array->scratch->bytes + number * SCRATCH_BYTES);
    give_scratch(array->scratch, number);
    return error;
}
