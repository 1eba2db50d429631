/* SPDX-License-Identifier: MIT */

/*
 * A channel: one queue with many works under way.
 *
 *   ring      of requests: a queue pair does its works in order
 *   next      of the ring, the one that is being cut into works; next_page of it are
 *   done, posted  works that were taken back, and handed over; a work's place is its number modulo
 *             the places
 *
 * Always: done <= posted <= done + places. When the line breaks, every request that is not done is
 * served again, from its first page, on the next line. While a work is under way the queue is
 * armed, so that wait_fd() tells.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "transport/rdma.h"
#include "transport/tcp_ring.h"
#include "transport/tell.h"

/* What a place is of. */
struct part {
    struct weir_io *io;
    uint32_t page, pages;
};

struct wr_rdma_channel {
    struct weir_channel base; /* first */
    /* Constant while open. */
    struct wr_tcp *tcp;
    int poll_fd, bell; /* wait_fd(): readable when the queue's or the own bell has rung */

    _Atomic(uint32_t) link; /* enum wr_link_state: whose the line is */
    struct wr_line line;
    bool is_unsure; /* likewise: it broke with a write under way            */
    bool is_told;   /* the keeper's: that it cannot be opened, and why      */

    /* Kept by the channel's thread. */
    struct wr_ring ring;
    uint32_t next_page;
    uint64_t done, posted;
    struct part parts[WR_RDMA_PLACES];
};

static struct wr_rdma_channel *channel_of(struct weir_channel *channel)
{
    return (struct wr_rdma_channel *)channel;
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

/* The keeper destroys its queue, and brings another. */
static void break_line(struct wr_rdma_channel *c)
{
    if (wr_ring_falls_back(&c->ring, c->next_page > 0) && !c->is_unsure) {
        c->is_unsure = true;
        atomic_fetch_add(&c->tcp->unsure, 1);
    }
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
    c->ring.answer_ns = wr_line_now_ns();
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

static void replace_line(struct wr_rdma_channel *c, uint64_t number)
{
    char why[WR_WHY_ROOM] = "";
    int error;

    wr_tcp_close_line(c->tcp, &c->line);
    if (atomic_load(&c->tcp->is_away) || atomic_load(&c->tcp->is_lost))
        return;
    error = wr_tcp_open_line(c->tcp, &c->line, number, c->ring.depth, why);
    if (error) {
        tell_of(c, error, why);
        return;
    }
    c->is_told = false;
    c->tcp->is_sure_again |= c->is_unsure;
    atomic_fetch_sub(&c->tcp->unsure, c->is_unsure);
    c->is_unsure = false;
    atomic_store_explicit(&c->link, WR_LINK_NEW, memory_order_release);
}

void wr_rdma_tend(struct weir_channel *base, uint64_t number)
{
    struct wr_rdma_channel *c = channel_of(base);
    uint32_t link = atomic_load_explicit(&c->link, memory_order_acquire);
    bool is_away = atomic_load(&c->tcp->is_away);

    if (link == WR_LINK_OPEN && (is_away || wr_rdma_is_ended(&c->line)))
        wr_rdma_interrupt(&c->line);
    if (link == WR_LINK_BROKEN)
        replace_line(c, number);
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

    if (c->ring.next == c->ring.end || number - c->done == queue->sizes.places)
        return false;
    io = wr_ring_at(&c->ring, c->ring.next);
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
        c->ring.next++;
    }
    return true;
}

static void post_some(struct wr_rdma_channel *c)
{
    struct wr_rdma_work works[WR_RDMA_BATCH];
    uint32_t count;

    while (is_open(c)) {
        if (c->done == c->posted)
            wr_ring_asks(&c->ring);
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

/* All up to this work are done. */
static void finish(struct wr_rdma_channel *c, uint64_t number)
{
    for (; c->done <= number && c->done < c->posted; c->done++) {
        const uint32_t place = (uint32_t)(c->done % c->line.queue->sizes.places);
        struct part *part = &c->parts[place];

        if (!part->io->is_write)
            copy_part(part, wr_rdma_place(c->line.queue, place), false);
        if (part->page + part->pages == part->io->pages) {
            wr_ring_end(&c->ring, part->io, WEIR_OK, 0);
            c->ring.first++;
        }
    }
    wr_ring_hears(&c->ring);
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
    if (c->ring.ended.first || c->done == c->posted)
        ring_bell(c);
}

/* Has it been silent for too long, though the keeper's line is not? */
static bool is_silent(const struct wr_rdma_channel *c)
{
    return is_open(c) && c->done < c->posted && wr_ring_is_silent(&c->ring, c->tcp);
}

/* What waits for a server that is gone fails, and what waits for one that is away is put off. */
static void give_up(struct wr_rdma_channel *c)
{
    const bool is_hopeless = wr_ring_is_hopeless(&c->ring, c->tcp);

    if (!is_hopeless && !wr_tcp_puts_off(c->tcp))
        return;
    if (is_open(c))
        break_line(c);
    if (is_hopeless)
        wr_ring_fail(&c->ring);
    else
        wr_ring_put_off(&c->ring);
}

/* --- The channel's calls ---------------------------------------------------------------------- */

uint32_t wr_rdma_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct wr_rdma_channel *c = channel_of(base);
    uint32_t taken;

    adopt_line(c);
    taken = wr_ring_take(&c->ring, ios, count, c->tcp->slots);
    if (c->ring.ended.first || wr_tcp_puts_off(c->tcp))
        ring_bell(c);
    post_some(c);
    stay_armed(c);
    return taken;
}

uint32_t wr_rdma_poll(struct weir_channel *base, uint32_t max)
{
    struct wr_rdma_channel *c = channel_of(base);
    uint32_t finished;
    eventfd_t rung;

    eventfd_read(c->bell, &rung);
    adopt_line(c);
    take_all(c);
    if (is_open(c) && c->line.queue->is_due)
        wr_rdma_quiet(c->line.queue);
    if (is_silent(c))
        break_line(c);
    give_up(c);
    post_some(c);
    finished = wr_ring_finish(&c->ring, max);
    stay_armed(c);
    if (c->ring.ended.first)
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
    wr_ring_fini(&c->ring);
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
    c->line.fd = -1;
    atomic_store(&c->link, WR_LINK_BROKEN);
    c->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    c->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wr_ring_init(&c->ring, depth) && c->poll_fd >= 0 && c->bell >= 0 &&
        epoll_ctl(c->poll_fd, EPOLL_CTL_ADD, c->bell, &event) == 0)
        error = wr_tcp_enlist(tcp, &c->base, &c->is_unsure);
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

    wr_tcp_delist(c->tcp, base, &c->is_unsure);
    free_channel(c);
}
