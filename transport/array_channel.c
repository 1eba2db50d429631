/* SPDX-License-Identifier: MIT */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "transport/array_channel.h"
#include "transport/request.h"

#define LEG_DEPTH_MOST 256u

static struct wr_array_channel *channel_of(struct weir_channel *channel)
{
    return (struct wr_array_channel *)channel;
}

/* --- Ends --------------------------------------------------------------------------------------
 */

void wr_array_end_part(struct wr_array_channel *c, struct wr_array_part *part, int error)
{
    struct wr_array_item *item = part->item;
    struct weir_io *outer = item->outer;

    if (error && !outer->error) {
        outer->error = error;
        outer->os_error = part->os_error;
    }
    if (--item->pending > 0)
        return;
    item->next = c->free;
    c->free = item;
    wr_queue_put(&c->ended, outer);
}

void wr_array_make_ready(struct wr_array_channel *c, struct wr_array_part *part)
{
    part->next = c->ready;
    c->ready = part;
}

/* Until somebody rings: who lets go of a cluster, or the keeper, now and then. */
static void wait_with(struct wr_array_channel *c, struct wr_array_part *part)
{
    part->next = c->waiting;
    c->waiting = part;
}

/* Until the keeper has looked around. */
static void wait_for_members(struct wr_array_channel *c, struct wr_array_part *part)
{
    pthread_mutex_lock(&c->array->lock);
    c->legs.is_waiting = true;
    pthread_mutex_unlock(&c->array->lock);
    wait_with(c, part);
}

static bool is_worth_a_try(struct wr_array_channel *c, struct wr_array_part *part)
{
    bool is_worth;

    if (!part->item->outer->is_write || part->error == WEIR_EFULL)
        return false;
    pthread_mutex_lock(&c->array->lock);
    is_worth = wr_array_is_worth_a_try(c->array, &part->tries);
    pthread_mutex_unlock(&c->array->lock);
    return is_worth;
}

/* No member has done it, or too few. If one may yet, and nobody around us would do it elsewhere, we
 * wait. */
static void fail_part(struct wr_array_channel *c, struct wr_array_part *part, int error)
{
    const bool is_write = part->item->outer->is_write;
    const uint32_t flag = is_write ? WEIR_ENV_PUTS_OFF : WEIR_ENV_HAS_COPIES;

    if (part->has_hope ? !(c->array->env_flags & flag) : is_worth_a_try(c, part))
        wait_for_members(c, part);
    else if (part->has_hope)
        wr_array_end_part(c, part, WEIR_EAGAIN);
    else
        wr_array_end_part(c, part, part->error ? part->error : error);
}

static void end_write(struct wr_array_channel *c, struct wr_array_part *part)
{
    struct wr_array *array = c->array;
    bool is_idle;
    int error;

    pthread_mutex_lock(&array->lock);
    error = wr_map_write_end(&array->map, &part->write, part->ok, &is_idle);
    if (is_idle)
        pthread_cond_signal(&array->work);
    pthread_mutex_unlock(&array->lock);
    wr_array_parity_give(c, part);
    if (error)
        fail_part(c, part, error);
    else
        wr_array_end_part(c, part, WEIR_OK);
}

static void sub_ended(struct wr_array_channel *c, struct wr_array_sub *sub)
{
    struct wr_array_part *part = sub->part;
    const struct weir_io *io = &sub->io;

    if (io->error) {
        if (part->error != WEIR_EFULL) { /* that helps most: it goes elsewhere */
            part->error = io->error;
            part->os_error = io->os_error;
        }
        part->has_hope |= io->error == WEIR_EAGAIN;
        if (io->error != WEIR_EFULL && io->os_error != ENOTCONN)
            wr_array_suspect(c->array, sub->member);
        part->tried |= 1u << sub->piece;
        part->has_failed = true;
    } else {
        part->ok |= 1u << sub->piece;
    }
    if (--part->pending > 0)
        return;
    if (io->is_write) {
        end_write(c, part);
        return;
    }
    wr_array_leave(c->array, part->side);
    if (part->has_failed)
        wr_array_make_ready(c, part);
    else
        wr_array_end_part(c, part, WEIR_OK);
    part->has_failed = false;
}

static void sub_done(struct weir_io *io)
{
    struct wr_array_sub *sub = (struct wr_array_sub *)io;
    struct wr_array_channel *c = io->owner;

    c->legs.leg[sub->member].flying--;
    sub_ended(c, sub);
}

/* --- Sending -----------------------------------------------------------------------------------
 */

void wr_array_send(struct wr_array_channel *c, struct wr_array_part *part, uint32_t number,
                   const struct wr_map_piece *piece, struct weir_io io)
{
    struct wr_array_leg *leg = &c->legs.leg[piece->member];
    struct wr_array_sub *sub = &part->subs[number];

    *sub = (struct wr_array_sub){.io = io, .part = part, .piece = number, .member = piece->member};
    sub->io.slot = wr_array_slot(c->array, piece, (uint32_t)io.slot);
    sub->io.is_write = part->item->outer->is_write;
    sub->io.done = sub_done;
    sub->io.owner = c;
    if (!leg->channel || (leg->life & 1) != (piece->life & 1)) {
        /* The member has just begun another life, and the keeper is still to bring the leg. */
        sub->io.error = WEIR_EIO;
        sub->io.os_error = ENOTCONN;
        sub->next = c->failed;
        c->failed = sub;
        return;
    }
    leg->flying++;
    *leg->outbox_end = sub;
    leg->outbox_end = &sub->next;
}

/* To a copy. */
static void send_all(struct wr_array_channel *c, struct wr_array_part *part, uint32_t number,
                     const struct wr_map_piece *piece)
{
    wr_array_send(c, part, number, piece,
                  (struct weir_io){.slot = part->first,
                                   .pages = part->pages,
                                   .iov = part->iov,
                                   .iov_count = part->iov_count});
}

/* --- Beginnings --------------------------------------------------------------------------------
 */

static void begin_write(struct wr_array_channel *c, struct wr_array_part *part)
{
    struct wr_array *array = c->array;
    int error;

    if (wr_array_is_coded(array) && !wr_array_parity_take(c, part))
        return;
    pthread_mutex_lock(&array->lock);
    error = wr_map_write_begin(&array->map, part->cluster, part->first, part->pages, &part->write);
    if (error == WEIR_EAGAIN)
        c->legs.is_waiting = true; /* before he who is to ring has the lock */
    pthread_mutex_unlock(&array->lock);
    if (error)
        wr_array_parity_give(c, part);
    if (error == WEIR_EAGAIN) {
        wait_with(c, part);
        return;
    }
    if (error) {
        wr_array_end_part(c, part, error);
        return;
    }
    part->pending = (uint32_t)__builtin_popcount(part->write.targets);
    if (wr_array_is_coded(array)) {
        wr_array_send_pieces(c, part);
        return;
    }
    for (uint32_t i = 0; i < array->map.pieces; i++)
        if (part->write.targets >> i & 1)
            send_all(c, part, i, &part->write.piece[i]);
}

static void fill_with_zeros(const struct wr_array_part *part)
{
    for (uint32_t i = 0; i < part->iov_count; i++)
        memset(part->iov[i].iov_base, 0, part->iov[i].iov_len);
}

static void begin_read(struct wr_array_channel *c, struct wr_array_part *part)
{
    struct wr_array *array = c->array;
    struct wr_map_piece piece;
    uint32_t number = WR_MAP_NOBODY;
    int error;

    part->side = wr_array_enter(array);
    error = wr_map_readable(&array->map, part->cluster, part->first, part->pages);
    if (error != WEIR_EIO)
        number = wr_array_choose(array, part->cluster, part->tried, &piece);
    if (number != WR_MAP_NOBODY) {
        part->pending = 1;
        send_all(c, part, number, &piece);
        return;
    }
    wr_array_leave(array, part->side);
    if (error == WEIR_ENOENT && !part->tried) {
        fill_with_zeros(part);
        wr_array_end_part(c, part, WEIR_OK);
    } else {
        part->error = WEIR_EIO;
        fail_part(c, part, WEIR_EIO);
    }
}

static void begin(struct wr_array_channel *c, struct wr_array_part *part)
{
    const bool is_write = part->item->outer->is_write, is_coded = wr_array_is_coded(c->array);

    if (is_write && is_coded && part->pages < WEIR_CLUSTER_SLOTS)
        wr_array_hand_over(c, part);
    else if (is_write)
        begin_write(c, part);
    else if (is_coded)
        wr_array_begin_read_coded(c, part);
    else
        begin_read(c, part);
}

/* --- Cutting -----------------------------------------------------------------------------------
 */

uint32_t wr_array_cut(const struct weir_io *outer, uint32_t skip, uint32_t pages, struct iovec *iov)
{
    size_t before = (size_t)skip * WEIR_SLOT_BYTES, wanted = (size_t)pages * WEIR_SLOT_BYTES;
    uint32_t count = 0;

    for (const struct iovec *from = outer->iov; wanted > 0; from++) {
        size_t length = from->iov_len;

        if (before >= length) {
            before -= length;
            continue;
        }
        length -= before;
        length = length < wanted ? length : wanted;
        iov[count++] = (struct iovec){(char *)from->iov_base + before, length};
        wanted -= length;
        before = 0;
    }
    return count;
}

static void accept(struct wr_array_channel *c, struct weir_io *outer)
{
    struct wr_array_item *item = c->free;
    const uint32_t first = outer->slot % WEIR_CLUSTER_SLOTS;
    const uint32_t room = WEIR_CLUSTER_SLOTS - first;
    uint32_t skip = 0;

    c->free = item->next;
    outer->error = outer->os_error = 0;
    item->outer = outer;
    item->iov_used = 0;
    item->pending = outer->pages > room ? 2 : 1;
    for (uint32_t i = 0; i < item->pending; i++) {
        struct wr_array_part *part = &item->parts[i];

        part->item = item;
        part->cluster = outer->slot / WEIR_CLUSTER_SLOTS + i;
        part->first = i ? 0 : first;
        part->pages = i ? outer->pages - room : outer->pages < room ? outer->pages : room;
        part->pending = part->ok = part->tried = part->tries = 0;
        part->has_failed = false;
        part->skip = skip;
        part->error = part->os_error = 0;
        part->has_hope = false;
        part->iov = outer->iov;
        part->iov_count = outer->iov_count;
        if (item->pending == 2 && !wr_array_is_coded(c->array)) {
            part->iov = &item->iov[item->iov_used];
            part->iov_count = wr_array_cut(outer, skip, part->pages, &item->iov[item->iov_used]);
            item->iov_used += part->iov_count;
        }
        skip += part->pages;
    }
    for (uint32_t i = outer->pages > room ? 2 : 1; i-- > 0;)
        begin(c, &item->parts[i]);
}

/* --- Driving -----------------------------------------------------------------------------------
 */

static void empty_outbox(struct wr_array_leg *leg)
{
    const struct weir_backend_ops *ops = leg->channel->backend->ops;

    while (leg->outbox) {
        struct wr_array_sub *sub = leg->outbox, *next = sub->next;
        struct weir_io *io = &sub->io;

        if (ops->submit(leg->channel, &io, 1) == 0)
            return;
        leg->outbox = next;
        if (!next)
            leg->outbox_end = &leg->outbox;
    }
}

/* Which legs have something to say, though nothing flies there? */
static uint32_t look_around(const struct wr_array_channel *c)
{
    struct epoll_event events[WR_MAP_MEMBERS + 1];
    int count = epoll_wait(c->legs.poll_fd, events, WR_MAP_MEMBERS + 1, 0);
    uint32_t members = 0;

    for (int i = 0; i < count; i++)
        if (events[i].data.u32 != WR_MAP_NOBODY)
            members |= 1u << events[i].data.u32;
    return members;
}

static uint32_t drive_legs(struct wr_array_channel *c, uint32_t loud)
{
    uint32_t finished = 0;

    for (uint32_t i = 0; i < c->array->members; i++) {
        struct wr_array_leg *leg = &c->legs.leg[i];

        if (!leg->channel || (leg->flying == 0 && !(loud >> i & 1)))
            continue;
        empty_outbox(leg);
        finished += leg->channel->backend->ops->poll(leg->channel, UINT32_MAX);
        empty_outbox(leg);
    }
    return finished;
}

static bool drive_parts(struct wr_array_channel *c)
{
    bool any = c->failed || c->ready;

    if (wr_array_is_coded(c->array))
        any |= wr_array_fetch_back(c);

    while (c->failed) {
        struct wr_array_sub *sub = c->failed;

        c->failed = sub->next;
        sub_ended(c, sub);
    }
    while (c->ready) {
        struct wr_array_part *part = c->ready;

        c->ready = part->next;
        begin(c, part);
    }
    return any;
}

/* Those that wait are tried again; whoever lets go of a cluster afterwards rings. */
static void retry_waiting(struct wr_array_channel *c)
{
    struct wr_array_part *parts = c->waiting;

    if (!parts)
        return;
    pthread_mutex_lock(&c->array->lock);
    c->legs.is_waiting = false;
    pthread_mutex_unlock(&c->array->lock);
    c->waiting = NULL;
    while (parts) {
        struct wr_array_part *part = parts;

        parts = part->next;
        part->ok = part->tried = 0;
        part->error = part->os_error = 0;
        part->has_hope = false;
        begin(c, part);
    }
}

/* Is there a leg that no descriptor speaks for, and that has something? */
static bool has_mute_leg(const struct wr_array_channel *c)
{
    for (uint32_t i = 0; i < c->array->members; i++)
        if (c->legs.leg[i].flying > 0 && c->legs.leg[i].fd < 0)
            return true;
    return false;
}

static void drive(struct wr_array_channel *c)
{
    uint32_t loud = look_around(c);

    retry_waiting(c);
    for (;;) {
        uint32_t finished = drive_legs(c, loud);

        loud = 0;
        if (!drive_parts(c) && finished == 0)
            break;
    }
}

uint32_t wr_array_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct wr_array_channel *c = channel_of(base);
    const uint64_t slots = c->array->map.clusters * WEIR_CLUSTER_SLOTS;
    uint32_t taken;

    pthread_mutex_lock(&c->legs.lock);
    for (taken = 0; taken < count && c->room > 0; taken++) {
        c->room--;
        if (wr_request_is_sound(ios[taken], slots)) {
            accept(c, ios[taken]);
        } else {
            ios[taken]->error = WEIR_EINVAL;
            ios[taken]->os_error = EINVAL;
            wr_queue_put(&c->ended, ios[taken]);
        }
    }
    for (uint32_t i = 0; i < c->array->members; i++)
        if (c->legs.leg[i].outbox)
            empty_outbox(&c->legs.leg[i]);
    if (c->failed || c->ready || c->ended.first || has_mute_leg(c))
        eventfd_write(c->legs.bell, 1);
    pthread_mutex_unlock(&c->legs.lock);
    return taken;
}

uint32_t wr_array_poll(struct weir_channel *base, uint32_t max)
{
    struct wr_array_channel *c = channel_of(base);
    struct wr_queue ended = {NULL, NULL};
    uint32_t finished = 0;
    eventfd_t rung;

    pthread_mutex_lock(&c->legs.lock);
    (void)eventfd_read(c->legs.bell, &rung);
    drive(c);
    for (; finished < max && c->ended.first; finished++)
        wr_queue_put(&ended, wr_queue_take(&c->ended));
    c->room += finished;
    if (c->ended.first || has_mute_leg(c))
        eventfd_write(c->legs.bell, 1);
    pthread_mutex_unlock(&c->legs.lock);
    while (ended.first) {
        struct weir_io *io = wr_queue_take(&ended);

        io->done(io); /* may submit */
    }
    return finished;
}

int wr_array_wait_fd(struct weir_channel *base)
{
    return channel_of(base)->legs.poll_fd;
}

/* --- Life --------------------------------------------------------------------------------------
 */

static void free_channel(struct wr_array_channel *c)
{
    wr_array_parities_close(c);
    free(c->items);
    free(c->subs);
    free(c);
}

int wr_array_channel_open(struct weir_backend *backend, uint32_t depth,
                          struct weir_channel **channel_p)
{
    struct wr_array *array = (struct wr_array *)backend;
    const uint32_t pieces = array->map.pieces;
    struct wr_array_channel *c;
    int error = WEIR_ENOMEM;

    if (depth == 0 || depth > UINT16_MAX / 2)
        return WEIR_EINVAL;
    c = calloc(1, sizeof(*c));
    if (!c)
        return WEIR_ENOMEM;
    c->base.backend = backend;
    c->array = array;
    c->room = depth;
    c->items = calloc(depth, sizeof(*c->items));
    c->subs = calloc((size_t)depth * 2 * pieces, sizeof(*c->subs));
    if (c->items && c->subs)
        error = wr_array_parities_open(c);
    if (!error)
        error = wr_array_legs_open(array, depth < LEG_DEPTH_MOST ? depth : LEG_DEPTH_MOST,
                                   &c->legs);
    if (error) {
        free_channel(c);
        return error;
    }
    for (uint32_t i = depth; i-- > 0;) {
        c->items[i].parts[0].subs = &c->subs[(size_t)i * 2 * pieces];
        c->items[i].parts[1].subs = &c->subs[((size_t)i * 2 + 1) * pieces];
        c->items[i].next = c->free;
        c->free = &c->items[i];
    }
    *channel_p = &c->base;
    return WEIR_OK;
}

void wr_array_channel_close(struct weir_channel *base)
{
    struct wr_array_channel *c = channel_of(base);

    wr_array_legs_close(&c->legs);
    free_channel(c);
}
