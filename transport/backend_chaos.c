/* SPDX-License-Identifier: MIT */

/*
 * chaos: wraps another back end. The nouns and the law of its draws are in chaos.h.
 *
 *   item      our copy of one accepted request: what the inner back end is given
 *   outbox    items that the inner back end has not accepted yet
 *   flying    items that it has
 *   held      items that it has finished, or that it never sees; they wait until they are due
 *
 * Always: free + outbox + flying + held items == depth; the timer is set for the first held item
 * that becomes due, so that the wait descriptor polls readable when there is one to hand back.
 */

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir_backend.h>

#include "transport/chaos.h"
#include "transport/dice.h"
#include "transport/request.h"
#include "transport/spec.h"
#include "transport/tell.h"

#define NS_PER_S 1000000000ull
#define RETRY_NS 1000000ull /* until the inner back end is asked again that accepted nothing */

struct chaos {
    struct weir_backend base;

    /* Constant while open. */
    struct weir_backend *inner;
    uint64_t slots;

    struct wr_dice dice;
};

struct item {
    struct weir_io io; /* the inner back end's; first, so that done() finds the item */
    struct weir_io *outer;
    struct item *next; /* in the free list or the outbox */
    struct wr_fate fate;
    struct iovec part;      /* when the only element of a vector is cut */
    uint32_t pages_to_come; /* behind the part that is flying           */
};

struct chaos_channel {
    struct weir_channel base;

    /* Constant while open. */
    struct weir_channel *inner;
    int inner_fd; /* -1: the next poll() finishes everything       */
    int timer_fd;
    int wait_fd; /* timer_fd, or an epoll of it and inner_fd      */

    /* Kept by the channel's thread. */
    struct item *items;
    struct item *free;
    struct item *outbox, **outbox_end;
    struct item **held;
    uint32_t held_count;
    uint64_t choices;  /* made by reorder: numbers its draws */
    uint64_t armed_ns; /* what the timer is set to; 0: nothing */
};

struct chaos_options {
    uint64_t seed;
    uint64_t dials[WR_CHAOS_DIALS];
};

static const struct wr_spec_row rows[] = {
    {"seed", WR_SPEC_COUNT, offsetof(struct chaos_options, seed), 0, UINT64_MAX, NULL},
#define DIAL_ROW(name, key, unit, initial, most, text)                                      \
    {key, unit, offsetof(struct chaos_options, dials) + sizeof(uint64_t) * WR_CHAOS_##name, \
     0,   most, NULL},
    WR_CHAOS_DIAL_MAP(DIAL_ROW)
#undef DIAL_ROW
};
static const struct wr_spec_kind kind = {"chaos", rows, sizeof(rows) / sizeof(rows[0])};

static struct chaos *chaos_of(struct weir_backend *backend)
{
    return (struct chaos *)backend;
}

static struct chaos_channel *channel_of(struct weir_channel *channel)
{
    return (struct chaos_channel *)channel;
}

void wr_chaos_set(struct weir_backend *backend, enum wr_chaos_dial dial, uint64_t value)
{
    atomic_store_explicit(&chaos_of(backend)->dice.dials[dial], value, memory_order_relaxed);
}

uint64_t wr_chaos_get(struct weir_backend *backend, enum wr_chaos_did did)
{
    return atomic_load_explicit(&chaos_of(backend)->dice.did[did], memory_order_relaxed);
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

/* The bytes of a read that failed are undefined: make sure that nobody lives on them. */
static void spoil(const struct iovec *iov, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        memset(iov[i].iov_base, 0xdb, iov[i].iov_len);
}

static void damage(const struct iovec *iov, uint32_t pages, uint64_t where)
{
    uint64_t byte = wr_dice_below(where, (uint64_t)pages * WEIR_SLOT_BYTES);

    while (byte >= iov->iov_len)
        byte -= iov++->iov_len;
    ((unsigned char *)iov->iov_base)[byte] ^= (unsigned char)(1u << (where & 7));
}

/* --- read() ---------------------------------------------------------------------------------- */

/* Raw, since the C library's is a cancellation point; again, in case everything came to hang. */
static void sleep_to(const struct chaos *chaos, uint64_t drawn)
{
    uint64_t due = wr_dice_due_ns(&chaos->dice, drawn);

    while (wr_dice_now_ns() < due) {
        const struct timespec end = timespec_of(due);

        syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
        due = wr_dice_due_ns(&chaos->dice, drawn);
    }
}

static int read_inner(const struct chaos *chaos, const struct wr_fate *fate, uint64_t slot,
                      uint32_t pages, char *bytes)
{
    int (*read)(struct weir_backend *, uint64_t, uint32_t, void *) = chaos->inner->ops->read;
    uint32_t first = pages;
    int error;

    if (fate->is_short)
        first = 1 + (uint32_t)wr_dice_below(fate->where, pages - 1);
    error = read(chaos->inner, slot, first, bytes);
    if (!error && first < pages)
        error = read(chaos->inner, slot + first, pages - first,
                     bytes + (size_t)first * WEIR_SLOT_BYTES);
    return error;
}

static int chaos_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    struct chaos *chaos = chaos_of(backend);
    const int saved_errno = errno;
    struct iovec iov = {bytes, (size_t)pages * WEIR_SLOT_BYTES};
    struct wr_fate fate;
    int error;

    if (!wr_request_is_inside(chaos->slots, slot, pages))
        return WEIR_EINVAL;
    fate = wr_dice_draw_fate(&chaos->dice, WR_CHAOS_DID_READ, pages);
    error = fate.error;
    if (error)
        spoil(&iov, 1);
    else
        error = read_inner(chaos, &fate, slot, pages, bytes);
    if (!error && fate.is_lie)
        damage(&iov, pages, fate.where);
    sleep_to(chaos, fate.due_ns);
    errno = saved_errno;
    return error;
}

/* --- Channel: to the inner back end ---------------------------------------------------------- */

static void hold(struct chaos_channel *channel, struct item *item)
{
    channel->held[channel->held_count++] = item;
}

static void outbox_put(struct chaos_channel *channel, struct item *item)
{
    item->next = NULL;
    *channel->outbox_end = item;
    channel->outbox_end = &item->next;
}

static void outbox_send(struct chaos_channel *channel)
{
    const struct weir_backend_ops *ops = channel->inner->backend->ops;

    while (channel->outbox) {
        struct item *item = channel->outbox;
        struct item *next = item->next;
        struct weir_io *io = &item->io;

        if (ops->submit(channel->inner, &io, 1) == 0)
            return;
        channel->outbox = next;
        if (!next)
            channel->outbox_end = &channel->outbox;
    }
}

/*
 * The first part of a request, and what remains: whole elements of its vector or, when that has
 * only one, pages of it. The caller's vector itself is not ours to change.
 */
static void cut(struct item *item)
{
    struct weir_io *io = &item->io;
    const uint64_t where = item->fate.where;

    if (io->iov_count > 1) {
        io->iov_count = 1 + (uint32_t)wr_dice_below(where, io->iov_count - 1);
        io->pages = 0;
        for (uint32_t i = 0; i < io->iov_count; i++)
            io->pages += (uint32_t)(io->iov[i].iov_len / WEIR_SLOT_BYTES);
    } else {
        io->pages = 1 + (uint32_t)wr_dice_below(where, io->pages - 1);
        item->part = (struct iovec){io->iov->iov_base, (size_t)io->pages * WEIR_SLOT_BYTES};
        io->iov = &item->part;
    }
    item->pages_to_come = item->outer->pages - io->pages;
}

static void cut_rest(struct item *item)
{
    const struct weir_io *outer = item->outer;
    struct weir_io *io = &item->io;

    io->slot += io->pages;
    if (outer->iov_count > 1) {
        io->iov += io->iov_count;
        io->iov_count = outer->iov_count - io->iov_count;
    } else {
        item->part.iov_base = (char *)outer->iov->iov_base + (size_t)io->pages * WEIR_SLOT_BYTES;
        item->part.iov_len = (size_t)item->pages_to_come * WEIR_SLOT_BYTES;
    }
    io->pages = item->pages_to_come;
    item->pages_to_come = 0;
}

static void inner_done(struct weir_io *io)
{
    struct item *item = (struct item *)io;
    struct chaos_channel *channel = io->owner;

    if (!io->error && item->pages_to_come) {
        cut_rest(item);
        outbox_put(channel, item);
        return;
    }
    if (!io->error && item->fate.is_lie)
        damage(item->outer->iov, item->outer->pages, item->fate.where);
    hold(channel, item);
}

/* Let the inner back end finish what it can, and give it what came out of that. */
static void drive_inner(struct chaos_channel *channel)
{
    const struct weir_backend_ops *ops = channel->inner->backend->ops;

    do
        outbox_send(channel);
    while (ops->poll(channel->inner, UINT32_MAX) && channel->outbox);
}

static void accept(struct chaos_channel *channel, struct weir_io *outer)
{
    struct chaos *chaos = chaos_of(channel->base.backend);
    struct item *item = channel->free;
    struct weir_io *io = &item->io;

    channel->free = item->next;
    item->outer = outer;
    item->pages_to_come = 0;
    *io = (struct weir_io){.slot = outer->slot,
                           .pages = outer->pages,
                           .is_write = outer->is_write,
                           .iov = outer->iov,
                           .iov_count = outer->iov_count,
                           .done = inner_done,
                           .owner = channel};
    if (!wr_request_is_sound(outer, chaos->slots)) {
        io->error = WEIR_EINVAL;
        io->os_error = EINVAL;
        item->fate = (struct wr_fate){.due_ns = 1};
        hold(channel, item);
        return;
    }
    item->fate = wr_dice_draw_fate(
        &chaos->dice, outer->is_write ? WR_CHAOS_DID_WRITE : WR_CHAOS_DID_FETCH, outer->pages);
    if (item->fate.error || (item->fate.is_lie && outer->is_write)) {
        io->error = item->fate.error;
        io->os_error = item->fate.os_error;
        if (!outer->is_write)
            spoil(outer->iov, outer->iov_count);
        hold(channel, item);
        return;
    }
    if (item->fate.is_short)
        cut(item);
    outbox_put(channel, item);
}

/* --- Channel: back to the caller ------------------------------------------------------------- */

static bool is_due(const struct chaos_channel *channel, uint32_t position, uint64_t now)
{
    const struct chaos *chaos = chaos_of(channel->base.backend);

    return wr_dice_due_ns(&chaos->dice, channel->held[position]->fate.due_ns) <= now;
}

/* Any of those that are due, of which there are due_count. */
static uint32_t choose_any(struct chaos_channel *channel, uint64_t now, uint32_t due_count)
{
    const struct wr_dice *dice = &chaos_of(channel->base.backend)->dice;
    uint64_t nth = wr_dice_below(wr_dice_draw_spare(dice, channel->choices++), due_count);
    uint32_t i = 0;

    while (!is_due(channel, i, now) || nth-- > 0)
        i++;
    return i;
}

/* The held item that is handed back next, by its position; held_count: none is due. */
static uint32_t choose(struct chaos_channel *channel, uint64_t now)
{
    struct chaos *chaos = chaos_of(channel->base.backend);
    uint32_t first = channel->held_count, due_count = 0, any;

    for (uint32_t i = 0; i < channel->held_count; i++) {
        if (!is_due(channel, i, now))
            continue;
        due_count++;
        if (first == channel->held_count ||
            channel->held[i]->fate.due_ns < channel->held[first]->fate.due_ns)
            first = i;
    }
    if (due_count < 2 || !wr_dice_dial(&chaos->dice, WR_CHAOS_REORDER))
        return first;
    any = choose_any(channel, now, due_count);
    if (any != first)
        wr_dice_count(&chaos->dice, WR_CHAOS_DID_REORDER);
    return any;
}

/* One settime() cancels what the timer had counted, so that the descriptor is readable again only
 * when the first of those that are still held is due. */
static void arm(struct chaos_channel *channel)
{
    const struct chaos *chaos = chaos_of(channel->base.backend);
    uint64_t first = UINT64_MAX;
    struct itimerspec timer = {0};

    for (uint32_t i = 0; i < channel->held_count; i++)
        if (channel->held[i]->fate.due_ns < first)
            first = channel->held[i]->fate.due_ns;
    if (first != UINT64_MAX)
        first = wr_dice_due_ns(&chaos->dice, first);
    if (channel->outbox && wr_dice_now_ns() + RETRY_NS < first)
        first = wr_dice_now_ns() + RETRY_NS;
    if (first == UINT64_MAX)
        first = 0;
    if (first == channel->armed_ns)
        return;
    timer.it_value = timespec_of(first);
    timerfd_settime(channel->timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
    channel->armed_ns = first;
}

static void hand_back(struct chaos_channel *channel, uint32_t position)
{
    struct item *item = channel->held[position];
    struct weir_io *outer = item->outer;

    /* The others keep their order: those due at the same time come back as they were finished. */
    channel->held_count--;
    memmove(&channel->held[position], &channel->held[position + 1],
            (channel->held_count - position) * sizeof(channel->held[0]));
    outer->error = item->io.error;
    outer->os_error = item->io.os_error;
    item->next = channel->free;
    channel->free = item;
    outer->done(outer);
}

static uint32_t chaos_poll(struct weir_channel *base, uint32_t max)
{
    struct chaos_channel *channel = channel_of(base);
    uint32_t finished;
    uint64_t now;

    drive_inner(channel);
    now = wr_dice_now_ns();
    for (finished = 0; finished < max; finished++) {
        uint32_t position = choose(channel, now);

        if (position == channel->held_count)
            break;
        hand_back(channel, position);
    }
    arm(channel);
    return finished;
}

static uint32_t chaos_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct chaos_channel *channel = channel_of(base);
    uint32_t accepted;

    for (accepted = 0; accepted < count && channel->free; accepted++)
        accept(channel, ios[accepted]);
    if (channel->inner_fd < 0)
        drive_inner(channel); /* nothing else would tell us that it has finished */
    else
        outbox_send(channel);
    arm(channel);
    return accepted;
}

static int chaos_wait_fd(struct weir_channel *channel)
{
    return channel_of(channel)->wait_fd;
}

/* --- Channel: life --------------------------------------------------------------------------- */

static int watch(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int open_fds(struct chaos_channel *channel)
{
    channel->inner_fd = channel->inner->backend->ops->wait_fd(channel->inner);
    channel->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    channel->wait_fd = channel->timer_fd;
    if (channel->timer_fd < 0)
        return WEIR_ENOMEM;
    if (channel->inner_fd < 0)
        return WEIR_OK;
    channel->wait_fd = epoll_create1(EPOLL_CLOEXEC);
    if (channel->wait_fd < 0 || watch(channel->wait_fd, channel->timer_fd) != 0 ||
        watch(channel->wait_fd, channel->inner_fd) != 0)
        return WEIR_ENOMEM;
    return WEIR_OK;
}

/* Also of one that is half built. */
static void destroy(struct chaos_channel *channel)
{
    if (channel->wait_fd >= 0 && channel->wait_fd != channel->timer_fd)
        close(channel->wait_fd);
    if (channel->timer_fd >= 0)
        close(channel->timer_fd);
    if (channel->inner)
        channel->inner->backend->ops->channel_close(channel->inner);
    free(channel->held);
    free(channel->items);
    free(channel);
}

static void chaos_channel_close(struct weir_channel *base)
{
    destroy(channel_of(base));
}

static int chaos_channel_open(struct weir_backend *backend, uint32_t depth,
                              struct weir_channel **channel_p)
{
    struct weir_backend *inner = chaos_of(backend)->inner;
    struct chaos_channel *channel = calloc(1, sizeof(*channel));
    int error = WEIR_ENOMEM;

    if (!channel)
        return WEIR_ENOMEM;
    channel->base.backend = backend;
    channel->timer_fd = channel->wait_fd = -1;
    channel->outbox_end = &channel->outbox;
    channel->items = calloc(depth, sizeof(*channel->items));
    channel->held = calloc(depth, sizeof(struct item *));
    if (channel->items && channel->held)
        error = inner->ops->channel_open(inner, depth, &channel->inner);
    if (!error)
        error = open_fds(channel);
    if (error) {
        destroy(channel);
        return error;
    }
    for (uint32_t i = 0; i < depth; i++) {
        channel->items[i].next = channel->free;
        channel->free = &channel->items[i];
    }
    *channel_p = &channel->base;
    return WEIR_OK;
}

/* --- Back end -------------------------------------------------------------------------------- */

static int open_inner(struct chaos *chaos, const char *spec, const struct weir_backend_env *env)
{
    struct chaos_options options = {.seed = 0,
                                    .dials = {
#define DIAL_DEFAULT(name, key, unit, initial, most, text) [WR_CHAOS_##name] = (initial),
                                        WR_CHAOS_DIAL_MAP(DIAL_DEFAULT)
#undef DIAL_DEFAULT
                                    }};
    struct weir_backend_info info;
    char *inner;
    const char *rest;
    int error = wr_spec_inner(&kind, spec, env, &inner, &rest);

    if (error)
        return error;
    error = wr_spec_options(&kind, rest, env, &options);
    if (!error)
        error = weir_backend_open(inner, env, &chaos->inner);
    free(inner);
    if (error)
        return error;
    wr_dice_init(&chaos->dice, options.seed, options.dials);
    chaos->inner->ops->describe(chaos->inner, &info);
    chaos->slots = info.slots;
    return WEIR_OK;
}

static int chaos_open(const char *spec, const struct weir_backend_env *env,
                      struct weir_backend **backend_p)
{
    struct chaos *chaos = calloc(1, sizeof(*chaos));
    int error;

    if (!chaos) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "chaos: out of memory");
        return WEIR_ENOMEM;
    }
    chaos->base.ops = &weir_backend_chaos;
    error = open_inner(chaos, spec, env);
    if (error) {
        free(chaos);
        return error;
    }
    *backend_p = &chaos->base;
    return WEIR_OK;
}

static void chaos_close(struct weir_backend *backend)
{
    struct weir_backend *inner = chaos_of(backend)->inner;

    inner->ops->close(inner);
    free(backend);
}

static void chaos_describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    struct chaos *chaos = chaos_of(backend);
    struct weir_backend_info inner;

    chaos->inner->ops->describe(chaos->inner, &inner);
    *info_p = inner;
    info_p->flags &= ~(uint32_t)WEIR_BACKEND_VOLATILE; /* a dial can make reads slow at any time */
    snprintf(info_p->how, sizeof(info_p->how), "chaos seed %llu over %.60s",
             (unsigned long long)chaos->dice.seed, inner.how);
}

static int chaos_discard(struct weir_backend *backend, uint64_t slot, uint64_t count)
{
    struct weir_backend *inner = chaos_of(backend)->inner;

    return inner->ops->discard ? inner->ops->discard(inner, slot, count) : WEIR_OK;
}

const struct weir_backend_ops weir_backend_chaos = {
    .abi = WEIR_BACKEND_ABI,
    .name = "chaos",
    .open = chaos_open,
    .close = chaos_close,
    .describe = chaos_describe,
    .read = chaos_read,
    .channel_open = chaos_channel_open,
    .channel_close = chaos_channel_close,
    .submit = chaos_submit,
    .poll = chaos_poll,
    .wait_fd = chaos_wait_fd,
    .discard = chaos_discard,
};
