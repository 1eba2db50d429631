/* SPDX-License-Identifier: MIT */
#include "runtime/paging/relocate.h"

#include "runtime/memory/chunk.h"
#include "runtime/paging/range.h"

#define PIECE_MAX     64u
#define UNTOUCHED_MAX 16384u /* chunks that were never touched cost next to nothing */

struct piece {
    struct wr_space *space;
    struct wr_region *region;
    uint64_t from, to; /* the address of the region's first page, before and after        */
    uint32_t first;    /* page number                                                     */
    uint32_t end;      /* beyond the last; when all is done, beyond the last that is moved */
    uint32_t frames;   /* for copies in passing                                           */
    int error;         /* why it ended early                                              */
    struct wr_hold hold[PIECE_MAX]; /* of pages that were ever touched, in rising order   */
    uint32_t count;
};

static uint64_t addr_in(const struct piece *piece, uint64_t base, uint32_t page)
{
    return base + (uint64_t)(page - piece->region->first) * WEIR_PAGE_BYTES;
}

static void piece_take(struct piece *piece)
{
    struct wr_pages *pages = &piece->space->pages;

    piece->count = 0;
    for (uint32_t page = piece->first; page < piece->end; page++)
        if (!wr_page_peek_untouched(pages, page))
            wr_page_take(pages, page, &piece->hold[piece->count++]);
}

static void piece_put(struct piece *piece)
{
    for (uint32_t i = 0; i < piece->count; i++)
        wr_page_put(&piece->space->pages, &piece->hold[i]);
}

/* --- What becomes of a page ------------------------------------------------------------------ */

/* Stores to it trap, because of its state or of a hint. */
static bool is_protected(const struct wr_hold *hold)
{
    return wr_hold_state(hold) != WR_PAGE_RESIDENT_DIRTY || wr_hold_has(hold, WR_PAGE_FREED);
}

/* It arrived, and could not be protected: as if it had been stored to. */
static void becomes_dirty(struct wr_space *space, struct wr_hold *hold)
{
    enum wr_page_state state = wr_hold_state(hold);

    wr_hold_set(hold, WR_PAGE_FREED, false);
    if (state == WR_PAGE_RESIDENT_DIRTY)
        return;
    wr_page_move(hold, state, WR_PAGE_RESIDENT_DIRTY);
    /* A slot under write is only forgotten: its completion frees it. */
    if (state == WR_PAGE_RESIDENT_CLEAN)
        space->pager->ops->forget(space->pager, wr_hold_slot(hold));
    wr_hold_set_slot(hold, WR_SLOT_NONE);
}

/* Nothing is mapped: of a page of zeros, or because the program dropped it by its own madvise. */
static void becomes_empty(struct wr_space *space, struct wr_hold *hold)
{
    if (wr_range_empty_mapped(space, hold))
        wr_frames_put(&space->frames, 1);
}

/* --- Runs of neighbours ---------------------------------------------------------------------- */

static bool is_like(const struct wr_hold *first, const struct wr_hold *next)
{
    enum wr_page_state state = wr_hold_state(next);

    if (wr_hold_state(first) == WR_PAGE_RESIDENT_ZERO)
        return state == WR_PAGE_RESIDENT_ZERO;
    return wr_state_is_charged(state) && wr_hold_pins(next) == 0 &&
           is_protected(next) == is_protected(first);
}

static uint32_t run_at(const struct piece *piece, uint32_t i)
{
    const struct wr_hold *first = &piece->hold[i];
    uint32_t n = 1;

    while (i + n < piece->count && first[n].number == first->number + n &&
           is_like(first, &first[n]))
        n++;
    return n;
}

/* A page of zeros costs nothing to come by again. */
static void drop_zeros(struct piece *piece, struct wr_hold *hold, uint32_t count)
{
    const struct wr_span span = {addr_in(piece, piece->from, hold->number), count};

    piece->space->host->ops->drop(piece->space->host, &span, 1);
    for (uint32_t i = 0; i < count; i++)
        becomes_empty(piece->space, &hold[i]);
}

/* Nobody knows the new address yet, so that nobody can have stored to a page, or pinned it, before
 * it is protected: what is clean stays clean from birth. */
static void protect_again(struct piece *piece, struct wr_hold *hold, uint32_t count)
{
    struct wr_host *host = piece->space->host;

    if (count > 0 && is_protected(hold) &&
        host->ops->protect(host, addr_in(piece, piece->to, hold->number), count, true) !=
            WR_HOST_OK)
        for (uint32_t i = 0; i < count; i++)
            becomes_dirty(piece->space, &hold[i]);
}

/* How many of them are done; all, unless piece->error says why not. */
static uint32_t relocate_run(struct piece *piece, struct wr_hold *hold, uint32_t count)
{
    struct wr_host *host = piece->space->host;
    uint32_t done = 0;

    while (done < count && piece->error == WEIR_OK) {
        uint32_t part = count - done, arrived = 0, page = hold[done].number;
        enum wr_revoked result;

        if (host->relocates_by_copy && part > piece->frames)
            part = piece->frames;
        result = part ? host->ops->relocate(host, addr_in(piece, piece->from, page),
                                            addr_in(piece, piece->to, page), part, &arrived)
                      : WR_REVOKE_FAILED;
        protect_again(piece, hold + done, arrived);
        done += arrived;
        switch (result) {
        case WR_REVOKED: break;
        case WR_REVOKE_MISSING:
            becomes_empty(piece->space, &hold[done++]);
            wr_stats_count(piece->space->stats, WR_COUNT_foreign_discards);
            break;
        case WR_REVOKE_PINNED: piece->error = WEIR_EBUSY; break;
        case WR_REVOKE_FAILED: piece->error = WEIR_EAGAIN; break;
        }
    }
    return done;
}

static void piece_relocate(struct piece *piece)
{
    for (uint32_t i = 0; i < piece->count && piece->error == WEIR_OK;) {
        struct wr_hold *hold = &piece->hold[i];
        enum wr_page_state state = wr_hold_state(hold);
        uint32_t run = 1;

        if (wr_hold_pins(hold) > 0) {
            piece->error = WEIR_EBUSY;
            run = 0;
        } else if (state == WR_PAGE_RESIDENT_ZERO) {
            run = run_at(piece, i);
            drop_zeros(piece, hold, run);
        } else if (wr_state_is_charged(state)) {
            run = relocate_run(piece, hold, run_at(piece, i));
        }
        i += run;
        if (piece->error != WEIR_OK)
            piece->end = piece->hold[i].number;
    }
}

/* --- Frames to copy with --------------------------------------------------------------------- */

/* Before any page is locked; what the pages are is looked at afterwards (seed E35). */
static int piece_pay(struct piece *piece)
{
    const struct wr_pages *pages = &piece->space->pages;
    struct wr_frames *frames = &piece->space->frames;
    int error;

    piece->frames = 0;
    if (!piece->space->host->relocates_by_copy ||
        atomic_load_explicit(&pages->chunks[piece->first / WR_CHUNK_PAGES].resident,
                             memory_order_relaxed) == 0)
        return WEIR_OK;
    error = wr_frames_take(frames, WR_FRAME_FOR_RESTORE);
    if (error != WEIR_OK)
        return error;
    piece->frames = 1 + wr_frames_take_spare(frames, piece->end - piece->first - 1);
    return WEIR_OK;
}

static void piece_repay(const struct piece *piece)
{
    wr_frames_put(&piece->space->frames, piece->frames);
}

/* --- The whole ------------------------------------------------------------------------------- */

/* Chunks without anything in them: nobody can come to a page of theirs. */
static uint32_t skip_untouched(const struct wr_region *region, uint32_t page)
{
    const struct wr_pages *pages = &region->space->pages;
    uint32_t end = wr_region_end(region), chunks = 0;

    while (page < end && chunks++ < UNTOUCHED_MAX &&
           wr_chunk_is_untouched(pages, page / WR_CHUNK_PAGES))
        page = (page / WR_CHUNK_PAGES + 1) * WR_CHUNK_PAGES;
    return page < end ? page : end;
}

/* Release: who sees that a page is moved sees where to. */
static void set_moved(struct wr_region *region, uint32_t page)
{
    atomic_store_explicit(&region->moved, page, memory_order_release);
}

int wr_relocate(struct wr_region *region)
{
    uint32_t first = skip_untouched(region, region->moved);
    uint32_t end = (first / PIECE_MAX + 1) * PIECE_MAX;
    struct piece piece = {
        .space = region->space,
        .region = region,
        .from = region->addr,
        .to = region->moves_to,
        .first = first,
        .end = end < wr_region_end(region) ? end : wr_region_end(region),
        .error = WEIR_OK,
    };
    int error;

    set_moved(region, first);
    if (first == wr_region_end(region))
        return WEIR_OK;
    error = piece_pay(&piece);
    if (error != WEIR_OK)
        return error;
    piece_take(&piece);
    piece_relocate(&piece);
    set_moved(region, piece.end);
    piece_put(&piece);
    piece_repay(&piece);
    return piece.error;
}

bool wr_relocate_back(struct wr_region *region)
{
    struct piece piece = {
        .space = region->space,
        .region = region,
        .from = region->moves_to,
        .to = region->addr,
        .first = region->moved - 1,
        .end = region->moved,
        .error = WEIR_OK,
    };

    if (wr_chunk_is_untouched(&piece.space->pages, piece.first / WR_CHUNK_PAGES)) {
        set_moved(region, piece.first / WR_CHUNK_PAGES * WR_CHUNK_PAGES);
        return true;
    }
    if (piece_pay(&piece) != WEIR_OK) {
        /* It must go back, though reclaim has given up: over the budget by this one. */
        piece.frames = 1;
        wr_frames_overdraw(&piece.space->frames, 1);
    }
    piece_take(&piece);
    piece_relocate(&piece);
    if (piece.error == WEIR_OK)
        set_moved(region, piece.first);
    piece_put(&piece);
    piece_repay(&piece);
    return piece.error == WEIR_OK;
}
