/* SPDX-License-Identifier: MIT */

/*
 * A channel: one queue with many works under way.
 *
 *   ring      requests in the order in which they are served: a queue pair does its works in order
 *   first     the oldest that is not done
 *   next      the one that is being cut into works, or is to be next; next_page of it are
 *   end       where the next request goes
 *   done, posted  works that were taken back, and handed over; a work's place is its number modulo
 *             the places
 *   ended     requests whose done() is still to run
 *
 * Always: first <= next <= end <= first + depth; done <= posted <= done + places. When the line
 * breaks, next falls back to first: every request that is not done is served again, from its first
 * page, on the next line. While a work is under way the queue is armed, so that wait_fd() tells.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "transport/queue.h"
#include "transport/rdma.h"
#include "transport/request.h"
#include "transport/tcp_away.h"
#include "transport/tell.h"

#define NS_SECOND 1000000000ull

/* What a place is of. */
struct part {
    struct weir_io *io;
    uint32_t page, pages;
};

struct wr_rdma_channel {
    struct weir_channel base; /* first */
    /* Constant while open. */
    struct wr_tcp *tcp;
    uint32_t depth, number; /* number: of its lines */
    int poll_fd, bell;      /* wait_fd(): readable when the queue's or the own bell has rung */

    _Atomic(uint32_t) link; /* enum wr_link_state: whose the line is */
    struct wr_line line;
    bool is_told; /* the keeper's: that it cannot be opened, and why */

    /* Kept by the channel's thread. */
    struct weir_io **ring;
    uint64_t first, next, end;
    uint32_t next_page;
    uint64_t done, posted;
    struct part parts[WR_RDMA_PLACES];
    uint64_t broken_ns; /* since when nothing moves; 0: it does           */
    uint64_t lost_ns;   /* when it was left without a line, the last time */
    uint64_t answer_ns; /* since when a completion is waited for          */
    struct wr_queue ended;
};

static struct wr_rdma_channel *channel_of(struct weir_channel *channel)
{
    return (struct wr_rdma_channel *)channel;
}

static struct weir_io *io_at(const struct wr_rdma_channel *c, uint64_t number)
{
    return c->ring[number % c->depth];
}

static void ring_bell(const struct wr_rdma_channel *c)
{
    eventfd_write(c->bell, 1);
}

static bool is_open(const struct wr_rdma_channel *c)
{
    /* Acquire: pairs with the release in wr_rdma_tend(); the line is whole. */
    return atomic_load_explicit(&c->link, memory_order_acquire) == WR_LINK_OPEN;
}

/* --- The line --------------------------------------------------------------------------------- */

static bool has_writes_posted(const struct wr_rdma_channel *c)
{
    for (uint64_t i = c->first; i < c->next + (c->next_page > 0); i++)
        if (io_at(c, i)->is_write)
            return true;
    return false;
}

/* The keeper destroys its queue, and brings another. */
static void break_line(struct wr_rdma_channel *c)
{
    if (has_writes_posted(c))
        wr_tcp_note_unsure(c->tcp, c->number);
    c->lost_ns = wr_line_now_ns();
    if (c->broken_ns == 0)
        c->broken_ns = c->lost_ns;
    c->next = c->first;
    c->next_page = 0;
    c->done = c->posted;
    epoll_ctl(c->poll_fd, EPOLL_CTL_DEL, c->line.queue->bell->fd, NULL);
    /* Release: the keeper finds the line as we left it. */
    atomic_store_explicit(&c->link, WR_LINK_BROKEN, memory_order_release);
    wr_tcp_ring(c->tcp);
}

static void adopt_line(struct wr_rdma_channel *c)
{
    struct epoll_event event = {.events = EPOLLIN};

    if (atomic_load_explicit(&c->link, memory_order_acquire) != WR_LINK_NEW)
        return;
    c->answer_ns = wr_line_now_ns();
    epoll_ctl(c->poll_fd, EPOLL_CTL_ADD, c->line.queue->bell->fd, &event);
    atomic_store_explicit(&c->link, WR_LINK_OPEN, memory_order_relaxed);
}

static void tell_of(struct wr_rdma_channel *c, int error, const char *why)
{
    if (!c->is_told && !atomic_load(&c->tcp->is_lost))
        wr_tell(c->tcp->env, WEIR_WARNING, error, 0, "rdma: a connection to %s:%s: %s",
                c->tcp->target.host, c->tcp->target.port, why);
    c->is_told = true;
}

static void replace_line(struct wr_rdma_channel *c)
{
    char why[WR_WHY_ROOM] = "";
    int error;

    wr_tcp_close_line(c->tcp, &c->line);
    if (atomic_load(&c->tcp->is_away) || atomic_load(&c->tcp->is_lost))
        return;
    error = wr_tcp_open_line(c->tcp, &c->line, c->number, c->depth, why);
    if (error) {
        if (error != WEIR_EAGAIN)
            tell_of(c, error, why);
        return;
    }
    c->is_told = false;
    atomic_store_explicit(&c->link, WR_LINK_NEW, memory_order_release);
}

void wr_rdma_tend(struct weir_channel *base)
{
    struct wr_rdma_channel *c = channel_of(base);
    uint32_t link = atomic_load_explicit(&c->link, memory_order_acquire);
    bool is_away = atomic_load(&c->tcp->is_away);

    if (link == WR_LINK_OPEN && (is_away || wr_rdma_is_ended(&c->line)))
        wr_rdma_interrupt(&c->line);
    if (link == WR_LINK_BROKEN)
        replace_line(c);
    if (link != WR_LINK_OPEN || is_away || c->tcp->is_sure_again || atomic_load(&c->tcp->is_lost))
        ring_bell(c);
}

/* --- Handing over ----------------------------------------------------------------------------- */

/* Between a part's place and the request's memory. */
static void copy_part(const struct part *part, char *place, bool is_out)
{
    size_t skip = (size_t)part->page * WEIR_SLOT_BYTES;
    size_t left = (size_t)part->pages * WEIR_SLOT_BYTES;

    for (uint32_t i = 0; left > 0 && i < part->io->iov_count; i++) {
        const struct iovec *iov = &part->io->iov[i];
        char *memory = (char *)iov->iov_base + skip;
        size_t count;

        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        count = iov->iov_len - skip < left ? iov->iov_len - skip : left;
        memcpy(is_out ? place : memory, is_out ? memory : place, count);
        place += count;
        left -= count;
        skip = 0;
    }
}

/* The next work into its place; false: there is none, or no place, or it has to wait. */
static bool cut_work(struct wr_rdma_channel *c, uint64_t number, struct wr_rdma_work *work_p)
{
    const struct wr_rdma_queue *queue = c->line.queue;
    const uint32_t place = (uint32_t)(number % queue->sizes.places);
    struct part *part = &c->parts[place];
    struct weir_io *io;

    if (c->next == c->end || number - c->done == queue->sizes.places)
        return false;
    io = io_at(c, c->next);
    if (io->is_write && c->next_page == 0 && atomic_load(&c->tcp->unsure) > 0)
        return false; /* the keeper rings */
    *part = (struct part){.io = io, .page = c->next_page, .pages = io->pages - c->next_page};
    if (part->pages > WR_RDMA_PLACE_PAGES)
        part->pages = WR_RDMA_PLACE_PAGES;
    *work_p = (struct wr_rdma_work){.number = number,
                                    .slot = io->slot + part->page,
                                    .place = place,
                                    .pages = part->pages,
                                    .is_write = io->is_write,
                                    .is_signalled = number % queue->sizes.signal_every == 0};
    if (io->is_write)
        copy_part(part, wr_rdma_place(queue, place), true);
    c->next_page += part->pages;
    if (c->next_page == io->pages) {
        c->next_page = 0;
        c->next++;
    }
    return true;
}

static void post_some(struct wr_rdma_channel *c)
{
    struct wr_rdma_work works[WR_RDMA_BATCH];
    uint32_t count;

    while (is_open(c)) {
        for (count = 0; count < WR_RDMA_BATCH && cut_work(c, c->posted + count, &works[count]);)
            count++;
        if (count == 0)
            return;
        works[count - 1].is_signalled = true;
        c->posted += count;
        if (!wr_rdma_post(c->line.queue, works, count))
            break_line(c);
    }
}

/* --- Taking back ------------------------------------------------------------------------------ */

static void end_io(struct wr_rdma_channel *c, struct weir_io *io, int error, int os_error)
{
    io->error = error;
    io->os_error = os_error;
    wr_queue_put(&c->ended, io);
}

/* All up to this work are done. */
static void finish(struct wr_rdma_channel *c, uint64_t number)
{
    for (; c->done <= number && c->done < c->posted; c->done++) {
        const uint32_t place = (uint32_t)(c->done % c->line.queue->sizes.places);
        struct part *part = &c->parts[place];

        if (!part->io->is_write)
            copy_part(part, wr_rdma_place(c->line.queue, place), false);
        if (part->page + part->pages == part->io->pages) {
            end_io(c, part->io, WEIR_OK, 0);
            c->first++;
        }
    }
    c->broken_ns = 0;
    c->answer_ns = wr_line_now_ns();
}

static void take_all(struct wr_rdma_channel *c)
{
    int count = 1;

    while (is_open(c) && c->done < c->posted && count > 0) {
        uint64_t number = 0;

        count = wr_rdma_take(c->line.queue, &number);
        if (count < 0)
            break_line(c);
        else if (count > 0)
            finish(c, number);
    }
}

/* While something is under way wait_fd() will tell. */
static void stay_armed(struct wr_rdma_channel *c)
{
    if (!is_open(c) || c->done == c->posted || c->line.queue->is_armed)
        return;
    if (!wr_rdma_arm(c->line.queue)) {
        break_line(c);
        return;
    }
    /* What came before it was armed does not ring. */
    take_all(c);
    if (c->ended.first || c->done == c->posted)
        ring_bell(c);
}

/* Has it been silent for too long, though the keeper's line is not? */
static bool is_silent(const struct wr_rdma_channel *c)
{
    return is_open(c) && c->done < c->posted &&
           wr_line_now_ns() - c->answer_ns >
               wr_tcp_silence_ns(c->tcp, io_at(c, c->first)->is_write);
}

static bool is_hopeless(const struct wr_rdma_channel *c)
{
    return wr_tcp_is_given_up(c->tcp) ||
           (!is_open(c) && wr_tcp_is_barred_from(c->tcp, c->lost_ns)) ||
           (c->broken_ns != 0 && c->first < c->end &&
            wr_line_now_ns() - c->broken_ns > c->tcp->options.patience * NS_SECOND);
}

/* Writes, or reads, or both; the rest waits. */
static void fail(struct wr_rdma_channel *c, bool writes, bool reads, int error)
{
    uint64_t kept = c->first;

    if (is_open(c))
        break_line(c);
    for (uint64_t i = c->first; i < c->end; i++) {
        struct weir_io *io = io_at(c, i);

        if (io->is_write ? writes : reads)
            end_io(c, io, error, ETIMEDOUT);
        else
            c->ring[kept++ % c->depth] = io;
    }
    c->end = kept;
}

/* --- The channel's calls ---------------------------------------------------------------------- */

uint32_t wr_rdma_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct wr_rdma_channel *c = channel_of(base);
    uint32_t taken;

    adopt_line(c);
    if (c->done == c->posted) /* nobody has waited for anything until now */
        c->answer_ns = wr_line_now_ns();
    if (c->first == c->end)
        c->broken_ns = c->broken_ns ? wr_line_now_ns() : 0;
    for (taken = 0; taken < count && c->end - c->first < c->depth; taken++) {
        struct weir_io *io = ios[taken];

        if (wr_request_is_sound(io, c->tcp->slots)) {
            c->ring[c->end++ % c->depth] = io;
        } else {
            end_io(c, io, WEIR_EINVAL, 0);
            ring_bell(c);
        }
    }
    if (is_hopeless(c) || wr_tcp_puts_off(c->tcp, is_open(c)) || wr_tcp_sends_away(c->tcp, 0))
        ring_bell(c);
    post_some(c);
    stay_armed(c);
    return taken;
}

uint32_t wr_rdma_poll(struct weir_channel *base, uint32_t max)
{
    struct wr_rdma_channel *c = channel_of(base);
    uint32_t finished = 0;
    eventfd_t rung;

    eventfd_read(c->bell, &rung);
    adopt_line(c);
    take_all(c);
    if (is_open(c) && c->line.queue->is_due)
        wr_rdma_quiet(c->line.queue);
    if (is_silent(c))
        break_line(c);
    if (is_hopeless(c))
        fail(c, true, true, WEIR_EIO);
    else if (wr_tcp_sends_away(c->tcp, is_open(c) ? 0 : c->broken_ns))
        fail(c, c->tcp->env->flags & WEIR_ENV_PUTS_OFF, true, WEIR_EAGAIN);
    else if (wr_tcp_puts_off(c->tcp, is_open(c)))
        fail(c, true, false, WEIR_EAGAIN);
    post_some(c);
    for (; finished < max && c->ended.first; finished++) {
        struct weir_io *io = wr_queue_take(&c->ended);

        io->done(io);
    }
    stay_armed(c);
    if (c->ended.first)
        ring_bell(c);
    return finished;
}

int wr_rdma_wait_fd(struct weir_channel *base)
{
    return channel_of(base)->poll_fd;
}

/* --- Life ------------------------------------------------------------------------------------- */

static void free_channel(struct wr_rdma_channel *c)
{
    wr_tcp_close_line(c->tcp, &c->line);
    if (c->poll_fd >= 0)
        close(c->poll_fd);
    if (c->bell >= 0)
        close(c->bell);
    free(c->ring);
    free(c);
}

/* Its line is the keeper's to bring, as any later one: requests wait for it. */
int wr_rdma_channel_open(struct weir_backend *backend, uint32_t depth,
                         struct weir_channel **channel_p)
{
    struct wr_tcp *tcp = (struct wr_tcp *)backend;
    struct epoll_event event = {.events = EPOLLIN};
    struct wr_rdma_channel *c;
    int error = WEIR_ENOMEM;

    if (depth == 0 || depth > WR_TCP_DEPTH)
        return WEIR_EINVAL;
    c = calloc(1, sizeof(*c));
    if (!c)
        return WEIR_ENOMEM;
    c->base.backend = backend;
    c->tcp = tcp;
    c->depth = depth;
    c->line.fd = -1;
    c->broken_ns = c->lost_ns = wr_line_now_ns();
    atomic_store(&c->link, WR_LINK_BROKEN);
    c->ring = calloc(depth, sizeof(struct weir_io *));
    c->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    c->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->ring && c->poll_fd >= 0 && c->bell >= 0 &&
        epoll_ctl(c->poll_fd, EPOLL_CTL_ADD, c->bell, &event) == 0)
        error = wr_tcp_enlist(tcp, &c->base, &c->number);
    if (error) {
        free_channel(c);
        return error;
    }
    wr_tcp_ring(tcp);
    *channel_p = &c->base;
    return WEIR_OK;
}

void wr_rdma_channel_close(struct weir_channel *base)
{
    struct wr_rdma_channel *c = channel_of(base);

    wr_tcp_delist(c->tcp, base);
    free_channel(c);
}
