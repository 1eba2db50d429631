/* SPDX-License-Identifier: MIT */
#include "runtime/swap/carry.h"

#include <stdlib.h>
#include <string.h>

/* So far from one live slot to the next, the dead ones between are read with them. */
#define STEP_MAX 32u

enum claimed {
    CLAIM_DEAD,    /* nobody lies there, or not any more   */
    CLAIM_READ,    /* the page is READING and ours         */
    CLAIM_BLOCKED, /* written or read by somebody just now */
};

static struct wr_space *space_of(const struct wr_carrier *c)
{
    return c->lane->swap->space;
}

struct wr_carrier *wr_carrier_new(struct wr_swap_lane *lane, enum wr_counter counter,
                                  uint32_t target)
{
    struct wr_carrier *c = aligned_alloc(_Alignof(struct wr_carrier), sizeof(*c));

    if (!c)
        return NULL;
    memset(c, 0, sizeof(*c));
    c->lane = lane;
    c->counter = counter;
    c->target = target;
    c->takes_mapped = target == 0;
    c->arrived_end = &c->arrived;
    return c;
}

/* --- Extents --------------------------------------------------------------------------------- */

static void queue_if_done(struct wr_carrier *c, struct wr_carry_extent *into)
{
    if (!into->is_closed || into->flying > 0)
        return;
    wr_staging_queue(&space_of(c)->staging, into->extent, into->live);
    *into = (struct wr_carry_extent){0};
}

void wr_carrier_flush(struct wr_carrier *c)
{
    struct wr_carry_extent *filling = c->filling;

    if (!filling)
        return;
    c->filling = NULL;
    filling->is_closed = true;
    queue_if_done(c, filling);
}

/* An empty one, or NULL: all are on their way. */
static struct wr_carry_extent *open_extent(struct wr_carrier *c)
{
    for (uint32_t i = 0; i < WR_CARRY_EXTENTS; i++)
        if (!c->extents[i].extent) {
            c->extents[i].extent = wr_staging_take(&space_of(c)->staging);
            if (!c->extents[i].extent)
                return NULL;
            c->extents[i].extent->target = c->target;
            return &c->extents[i];
        }
    return NULL;
}

/* One with an empty frame, or NULL. */
static struct wr_carry_extent *extent_to_fill(struct wr_carrier *c)
{
    if (c->filling && c->filling->extent->fill == WR_EXTENT_FRAMES)
        wr_carrier_flush(c);
    if (!c->filling)
        c->filling = open_extent(c);
    return c->filling;
}

/* Where the i-th page of a carry goes. */
static struct wr_carry_extent *place_of(const struct wr_carry *carry, uint32_t i, uint32_t *index_p)
{
    if (i < carry->split) {
        *index_p = carry->index + i;
        return carry->into[0];
    }
    *index_p = i - carry->split;
    return carry->into[1];
}

static uint32_t frame_of(const struct wr_carry *carry, uint32_t i)
{
    uint32_t index;
    const struct wr_carry_extent *into = place_of(carry, i, &index);

    return into->extent->first_frame + index;
}

/* --- Arriving -------------------------------------------------------------------------------- */

/* The bytes of the i-th page; those of the pages after it are looked at together. */
static const uint8_t *look_at(struct wr_carry *carry, uint32_t i)
{
    uint32_t end = i < carry->split ? carry->split : carry->count;
    uint32_t begin = i < carry->split ? 0 : carry->split;
    uint32_t at = (i - begin) % WR_LOOK_PAGES, rest;
    struct wr_host *host = space_of(carry->carrier)->host;

    end = end < carry->count ? end : carry->count;
    rest = end - i;
    if (at == 0)
        carry->looked = host->ops->look(host, frame_of(carry, i),
                                        rest < WR_LOOK_PAGES ? rest : WR_LOOK_PAGES,
                                        carry->carrier->look);
    return carry->looked + at * WEIR_PAGE_BYTES;
}

/* Are the i-th page's bytes in its frame as they left, or can they be had? */
static int check(struct wr_carry *carry, uint32_t i, int error)
{
    struct wr_swap *swap = carry->carrier->lane->swap;
    struct wr_host *host = swap->space->host;

    if (error == WEIR_OK) {
        if (wr_swap_sum(swap, carry->pages[i], look_at(carry, i)) == carry->sums[i])
            return WEIR_OK;
        wr_stats_count(swap->space->stats, WR_COUNT_checksum_errors);
        error = WEIR_EIO;
    }
    return error != WEIR_EIO
               ? error
               : wr_swap_reread(swap, wr_slot_make(carry->from->number, carry->places[i]),
                                carry->pages[i], carry->sums[i],
                                wr_host_frame(host, frame_of(carry, i)));
}

/* The page's bytes are in its frame, or not. True: they stay there. */
static bool settle(struct wr_carry *carry, uint32_t i, int error)
{
    struct wr_carrier *c = carry->carrier;
    struct wr_space *space = space_of(c);
    uint32_t index;
    struct wr_carry_extent *into = place_of(carry, i, &index);
    uint32_t frame = into->extent->first_frame + index;
    bool is_gone, is_staged = false;
    struct wr_hold hold;

    error = check(carry, i, error);
    wr_page_take(&space->pages, carry->pages[i], &hold);
    is_gone = wr_hold_has(&hold, WR_PAGE_CANCELLED);
    if (is_gone) {
        wr_hold_set(&hold, WR_PAGE_CANCELLED, false);
        wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_EMPTY);
    } else if (error == WEIR_OK) {
        is_staged = true;
        into->live++;
        wr_staging_hold(&space->staging, into->extent, index, hold.number);
        wr_hold_set_frame(&hold, frame);
        wr_hold_set(&hold, WR_PAGE_AHEAD, true); /* nobody used it: it leaves no shadow */
        wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_CACHED_DIRTY);
        wr_stats_count(space->stats, WR_COUNT_cache_added);
        wr_stats_count(space->stats, c->counter);
    } else {
        wr_page_move(&hold, WR_PAGE_READING, WR_PAGE_OUT);
        c->lost += error == WEIR_EIO;
    }
    if (is_gone || is_staged) {
        wr_swap_free_slot(c->lane->swap, carry->from, carry->places[i]);
        wr_hold_set_slot(&hold, WR_SLOT_NONE);
        c->moved++;
    }
    wr_page_put(&space->pages, &hold);
    return is_staged;
}

static void settle_all(struct wr_carry *carry)
{
    struct wr_carrier *c = carry->carrier;
    struct wr_space *space = space_of(c);
    uint32_t empty = 0;

    for (uint32_t i = 0; i < carry->count; i++) {
        if (settle(carry, i, carry->io.error))
            continue;
        space->host->ops->release(space->host, frame_of(carry, i), 1);
        empty++;
    }
    wr_frames_put(&space->frames, empty);
    for (uint32_t k = 0; k < 2 && carry->into[k]; k++) {
        carry->into[k]->flying--;
        queue_if_done(c, carry->into[k]);
    }
    carry->is_busy = false;
    c->busy--;
}

bool wr_carrier_settle(struct wr_carrier *c)
{
    struct wr_carry *carry = c->arrived;

    if (!carry)
        return false;
    c->arrived = carry->next_arrived;
    if (!c->arrived)
        c->arrived_end = &c->arrived;
    settle_all(carry);
    return true;
}

static void carry_done(struct weir_io *io)
{
    struct wr_carry *carry = io->owner;
    struct wr_carrier *c = carry->carrier;

    c->lane->in_flight[carry->from->number]--;
    c->flying--;
    if (io->error != WEIR_OK && io->error != WEIR_EAGAIN) {
        atomic_fetch_add_explicit(&carry->from->errors, 1, memory_order_relaxed);
        wr_stats_count(space_of(c)->stats, WR_COUNT_read_errors);
    }
    carry->next_arrived = NULL;
    *c->arrived_end = carry;
    c->arrived_end = &carry->next_arrived;
    if (!c->settles_later)
        wr_carrier_settle(c);
}

/* --- Beginning ------------------------------------------------------------------------------- */

/* What needs no read is done with at once. */
static enum claimed claim(struct wr_carrier *c, struct wr_swap_backend *from, uint32_t place,
                          struct wr_carry *carry)
{
    struct wr_space *space = space_of(c);
    enum claimed claimed = CLAIM_BLOCKED;
    struct wr_hold hold;
    uint32_t page;

    if (!wr_slots_owner(&from->slots, place, &page))
        return CLAIM_DEAD;
    if (!wr_page_is_owned(&space->pages, page))
        return CLAIM_BLOCKED;
    wr_page_take(&space->pages, page, &hold);
    if (wr_hold_slot(&hold) == wr_slot_make(from->number, place)) {
        if (wr_hold_state(&hold) == WR_PAGE_CACHED_CLEAN) {
            wr_page_move(&hold, WR_PAGE_CACHED_CLEAN, WR_PAGE_OUT);
            wr_hold_set_frame(&hold, WR_FRAME_NONE);
            wr_hold_set(&hold, WR_PAGE_AHEAD, false);
            wr_stats_count(space->stats, WR_COUNT_cache_deleted);
        }
        if (wr_hold_state(&hold) == WR_PAGE_OUT) {
            wr_page_move(&hold, WR_PAGE_OUT, WR_PAGE_READING);
            carry->pages[carry->count] = page;
            carry->places[carry->count] = place;
            carry->sums[carry->count++] = wr_hold_sum(&hold);
            claimed = CLAIM_READ;
        } else if (wr_hold_state(&hold) == WR_PAGE_RESIDENT_CLEAN && c->takes_mapped) {
            wr_page_move(&hold, WR_PAGE_RESIDENT_CLEAN, WR_PAGE_RESIDENT_DIRTY);
            wr_hold_set_slot(&hold, WR_SLOT_NONE);
            wr_swap_free_slot(c->lane->swap, from, place);
            c->moved++;
            claimed = CLAIM_DEAD;
        }
    }
    wr_page_put(&space->pages, &hold);
    return claimed;
}

/* The page that was claimed last goes to the next frame; dead slots since the one before, nowhere.
 */
static void add_iov(struct wr_carry *carry, struct wr_host *host)
{
    uint32_t i = carry->count - 1;
    uint32_t gap = i > 0 ? carry->places[i] - carry->places[i - 1] - 1 : 0;

    for (uint32_t k = 0; k < gap; k++)
        carry->iov[carry->iov_count++] = (struct iovec){carry->carrier->nowhere, WEIR_PAGE_BYTES};
    if (i > 0 && gap == 0 && i != carry->split)
        carry->iov[carry->iov_count - 1].iov_len += WEIR_PAGE_BYTES;
    else
        carry->iov[carry->iov_count++] = (struct iovec){wr_host_frame(host, frame_of(carry, i)),
                                                        WEIR_PAGE_BYTES};
}

/* Give the frames memory, and fix which they are. */
static bool fill_extents(struct wr_carry *carry)
{
    struct wr_host *host = space_of(carry->carrier)->host;
    uint32_t pages[2] = {carry->count, 0};
    bool is_filled = true;

    if (carry->into[1]) {
        pages[0] = carry->split;
        pages[1] = carry->count - carry->split;
    }
    for (uint32_t k = 0; k < 2 && pages[k] > 0; k++) {
        struct wr_extent *extent = carry->into[k]->extent;
        uint32_t frame = extent->first_frame + extent->fill;

        extent->fill += pages[k];
        is_filled = is_filled && host->ops->populate(host, frame, pages[k]) == WR_HOST_OK;
    }
    return is_filled;
}

static void submit(struct wr_carry *carry)
{
    struct wr_carrier *c = carry->carrier;
    struct weir_channel *channel = wr_lane_channel(c->lane, carry->from);
    struct weir_io *io = &carry->io;
    bool is_filled = fill_extents(carry);

    *io = (struct weir_io){
        .slot = carry->places[0],
        .pages = carry->places[carry->count - 1] - carry->places[0] + 1,
        .iov = carry->iov,
        .iov_count = carry->iov_count,
        .done = carry_done,
        .owner = carry,
    };
    carry->is_busy = true;
    c->busy++;
    c->flying++;
    c->lane->in_flight[carry->from->number]++;
    if (!channel || !is_filled || channel->backend->ops->submit(channel, &io, 1) != 1) {
        io->error = WEIR_EAGAIN;
        carry_done(io);
    }
}

static struct wr_carry *free_carry(struct wr_carrier *c)
{
    for (uint32_t i = 0; i < WR_CARRIES; i++)
        if (!c->carries[i].is_busy)
            return &c->carries[i];
    return NULL;
}

bool wr_carrier_is_free(const struct wr_carrier *c)
{
    return c->flying < WR_CARRIES_FLYING && c->busy < WR_CARRIES;
}

bool wr_carrier_is_idle(const struct wr_carrier *c)
{
    return c->busy == 0;
}

/* The first extent is full, but the cluster goes on: so does the read, in another. */
static bool begin_second(struct wr_carry *carry)
{
    struct wr_carrier *c = carry->carrier;

    carry->into[1] = open_extent(c);
    if (!carry->into[1])
        return false;
    carry->into[0]->is_closed = true;
    c->filling = carry->into[1];
    return true;
}

/* Is there a frame for one more page? */
static bool has_room(struct wr_carry *carry, uint32_t frames)
{
    return carry->count < frames && (carry->count != carry->split || begin_second(carry));
}

/* Dead slots are all read to one place, where a seal would find none of them. */
static uint32_t step_max(const struct wr_swap_backend *from)
{
    return from->info.flags & WEIR_BACKEND_SEALED ? 1 : STEP_MAX;
}

/* Claim pages from this place on. The first that was not looked at. */
static uint32_t claim_run(struct wr_carry *carry, uint32_t place, uint32_t end, uint32_t frames)
{
    struct wr_carrier *c = carry->carrier;

    for (; place < end && has_room(carry, frames); place++) {
        enum claimed claimed;

        if (carry->count > 0 && place - carry->places[carry->count - 1] > step_max(carry->from))
            break;
        claimed = claim(c, carry->from, place, carry);
        if (claimed == CLAIM_READ)
            add_iov(carry, space_of(c)->host);
        else if (claimed == CLAIM_BLOCKED && carry->count > 0)
            return place + 1;
    }
    return place;
}

uint32_t wr_carry(struct wr_carrier *c, struct wr_swap_backend *from, uint32_t *place_p,
                  uint32_t end, uint32_t frames)
{
    struct wr_carry *carry = wr_carrier_is_free(c) ? free_carry(c) : NULL;
    struct wr_carry_extent *into = carry && frames > 0 ? extent_to_fill(c) : NULL;

    if (!into)
        return 0;
    carry->carrier = c;
    carry->from = from;
    carry->into[0] = into;
    carry->into[1] = NULL;
    carry->index = into->extent->fill;
    carry->split = WR_EXTENT_FRAMES - into->extent->fill;
    carry->count = carry->iov_count = 0;
    *place_p = claim_run(carry, *place_p, end, frames);
    if (carry->into[1] && carry->count == carry->split)
        carry->into[1] = NULL; /* begun for the next one */
    into->flying += carry->count > 0;
    if (carry->into[1])
        carry->into[1]->flying++;
    if (carry->count > 0)
        submit(carry);
    return carry->count;
}
