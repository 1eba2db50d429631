/* SPDX-License-Identifier: MIT */

/*
 * A channel: one line with many requests in flight, which is a ring of them: a server serves a line
 * in order.
 */

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport/tcp_ring.h"

#define PIECES 64 /* of one system call */

struct wr_tcp_channel {
    struct weir_channel base; /* first */
    /* Constant while open. */
    struct wr_tcp *tcp;
    int poll_fd, bell; /* wait_fd(): readable when the line is, or the bell has rung */

    _Atomic(uint32_t) link; /* enum wr_link_state: whose the line is */
    struct wr_line line;
    bool is_unsure;         /* likewise: it broke with a write on its way */
    _Atomic(bool) has_rung; /* the bell */

    /* Kept by the channel's thread. */
    struct wr_ring ring;
    uint64_t sealed;  /* next + 1 once the header of next is made */
    size_t sent, got; /* bytes of the messages at next and at first */
    bool wants_room;  /* the poll_fd tells of room to send, too     */
    uint8_t header_out[WR_MESSAGE_BYTES], header_in[WR_MESSAGE_BYTES];
    struct wr_message answer;
};

static struct wr_tcp_channel *channel_of(struct weir_channel *channel)
{
    return (struct wr_tcp_channel *)channel;
}

/* In this order: whoever has seen that it rang finds something to take off the descriptor; who has
 * not finds it readable, and looks again. */
static void ring_bell(struct wr_tcp_channel *c)
{
    eventfd_write(c->bell, 1);
    atomic_store(&c->has_rung, true);
}

static void hear_bell(struct wr_tcp_channel *c)
{
    eventfd_t rung;

    if (atomic_load(&c->has_rung) && atomic_exchange(&c->has_rung, false))
        eventfd_read(c->bell, &rung);
}

static bool is_open(const struct wr_tcp_channel *c)
{
    /* Acquire: pairs with the release in wr_tcp_channel_tend(); the line is whole. */
    return atomic_load_explicit(&c->link, memory_order_acquire) == WR_LINK_OPEN;
}

/* --- The line --------------------------------------------------------------------------------- */

static void watch(struct wr_tcp_channel *c, int how)
{
    struct epoll_event event = {.events = EPOLLIN | (c->wants_room ? EPOLLOUT : 0)};

    epoll_ctl(c->poll_fd, how, c->line.fd, &event);
}

/* The keeper closes it, which also takes it off the poll_fd, and brings another. */
static void break_line(struct wr_tcp_channel *c)
{
    if (wr_ring_falls_back(&c->ring, c->sent > 0) && !c->is_unsure) {
        c->is_unsure = true;
        atomic_fetch_add(&c->tcp->unsure, 1);
    }
    c->sealed = c->sent = c->got = 0;
    epoll_ctl(c->poll_fd, EPOLL_CTL_DEL, c->line.fd, NULL);
    /* Release: the keeper finds the line as we left it. */
    atomic_store_explicit(&c->link, WR_LINK_BROKEN, memory_order_release);
    wr_tcp_ring(c->tcp);
}

static void adopt_line(struct wr_tcp_channel *c)
{
    if (atomic_load_explicit(&c->link, memory_order_acquire) != WR_LINK_NEW)
        return;
    c->wants_room = false;
    c->ring.answer_ns = wr_line_now_ns();
    watch(c, EPOLL_CTL_ADD);
    atomic_store_explicit(&c->link, WR_LINK_OPEN, memory_order_relaxed);
}

void wr_tcp_channel_tend(struct weir_channel *base, uint64_t number)
{
    struct wr_tcp_channel *c = channel_of(base);
    uint32_t link = atomic_load_explicit(&c->link, memory_order_acquire);
    bool is_away = atomic_load(&c->tcp->is_away);
    char why[WR_WHY_ROOM];

    if (link == WR_LINK_OPEN && is_away)
        wr_line_break(&c->line);
    if (link == WR_LINK_BROKEN) {
        wr_line_close(&c->line);
        if (!is_away && wr_tcp_attach(c->tcp, &c->line, number, why) == WEIR_OK) {
            c->tcp->is_sure_again |= c->is_unsure;
            atomic_fetch_sub(&c->tcp->unsure, c->is_unsure);
            c->is_unsure = false;
            atomic_store_explicit(&c->link, WR_LINK_NEW, memory_order_release);
        }
    }
    if (link != WR_LINK_OPEN || is_away || c->tcp->is_sure_again || atomic_load(&c->tcp->is_lost))
        ring_bell(c);
}

/* --- Sending ---------------------------------------------------------------------------------- */

/* The part of a message that is left: of its header behind so many bytes, and of the pages. */
static int pieces_of(void *header, const struct weir_io *io, bool has_pages, size_t done,
                     struct iovec *pieces)
{
    int count = 0;

    if (done < WR_MESSAGE_BYTES) {
        pieces[count++] = (struct iovec){(char *)header + done, WR_MESSAGE_BYTES - done};
        done = 0;
    } else {
        done -= WR_MESSAGE_BYTES;
    }
    for (uint32_t i = 0; has_pages && i < io->iov_count && count < PIECES; i++) {
        if (done >= io->iov[i].iov_len) {
            done -= io->iov[i].iov_len;
            continue;
        }
        pieces[count++] = (struct iovec){(char *)io->iov[i].iov_base + done,
                                         io->iov[i].iov_len - done};
        done = 0;
    }
    return count;
}

static void make_header(struct wr_tcp_channel *c, const struct weir_io *io)
{
    const struct wr_message message = {
        .type = io->is_write ? WR_MESSAGE_WRITE : WR_MESSAGE_READ,
        .length = io->is_write ? io->pages * WEIR_SLOT_BYTES : 0,
        .pages = io->pages,
        .id = c->ring.next + 1,
        .epoch = c->line.epoch,
        .slot = io->slot,
    };

    wr_message_put(&message, c->header_out);
    wr_session_seal(&c->line.session, c->header_out, NULL, 0);
    wr_ring_asks(&c->ring);
    c->sealed = c->ring.next + 1;
}

/* As much as the line takes; *full_p: it takes no more. False: it has broken. */
static bool send_next(struct wr_tcp_channel *c, bool *full_p)
{
    while (c->ring.next < c->ring.end) {
        const struct weir_io *io = wr_ring_at(&c->ring, c->ring.next);
        size_t all = WR_MESSAGE_BYTES + (io->is_write ? (size_t)io->pages * WEIR_SLOT_BYTES : 0);
        struct iovec pieces[PIECES];
        struct msghdr message = {.msg_iov = pieces};
        ssize_t sent;

        if (c->sealed != c->ring.next + 1) {
            if (io->is_write && atomic_load(&c->tcp->unsure) > 0)
                return true; /* the keeper rings */
            make_header(c, io);
        }
        message.msg_iovlen = (size_t)pieces_of(c->header_out, io, io->is_write, c->sent, pieces);
        sent = sendmsg(c->line.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            *full_p = true;
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
        }
        c->sent += (size_t)sent;
        if (c->sent == all) {
            c->sent = 0;
            c->ring.next++;
        }
    }
    return true;
}

static void send_some(struct wr_tcp_channel *c)
{
    bool wants_room = false;

    if (!is_open(c))
        return;
    if (!send_next(c, &wants_room)) {
        break_line(c);
        return;
    }
    if (wants_room != c->wants_room) {
        c->wants_room = wants_room;
        watch(c, EPOLL_CTL_MOD);
    }
}

/* --- Receiving -------------------------------------------------------------------------------- */

/* Is it the answer to the oldest request? */
static bool is_answer(const struct wr_tcp_channel *c, const struct weir_io *io)
{
    const struct wr_message *answer = &c->answer;

    if (answer->id != c->ring.first + 1 || answer->epoch != c->line.epoch)
        return false;
    if (answer->error)
        return answer->length == 0;
    return answer->type == (io->is_write ? WR_MESSAGE_WRITTEN : WR_MESSAGE_CONTENT) &&
           answer->slot == io->slot && answer->pages == io->pages;
}

static size_t bytes_of(const struct iovec *pieces, size_t count)
{
    size_t bytes = 0;

    for (size_t i = 0; i < count; i++)
        bytes += pieces[i].iov_len;
    return bytes;
}

/* Some of the answer to the oldest; done_p: it is whole; empty_p: no more has come. False: the line
 * has broken, or says what is none. */
static bool receive_some(struct wr_tcp_channel *c, bool *done_p, bool *empty_p)
{
    struct weir_io *io = wr_ring_at(&c->ring, c->ring.first);
    bool has_pages = c->got >= WR_MESSAGE_BYTES;
    struct iovec pieces[PIECES];
    struct msghdr message = {.msg_iov = pieces};
    ssize_t got;

    message.msg_iovlen = (size_t)pieces_of(c->header_in, io, has_pages, c->got, pieces);
    got = recvmsg(c->line.fd, &message, MSG_DONTWAIT);
    *empty_p = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    if (*empty_p)
        return true;
    if (got <= 0)
        return false;
    *empty_p = (size_t)got < bytes_of(pieces, message.msg_iovlen);
    c->ring.answer_ns = wr_line_now_ns();
    c->got += (size_t)got;
    if (!has_pages && c->got == WR_MESSAGE_BYTES &&
        (!wr_session_check(&c->line.session, c->header_in, NULL, 0) ||
         !wr_message_parse(c->header_in, &c->answer) || !is_answer(c, io)))
        return false;
    *done_p = c->got >= WR_MESSAGE_BYTES && c->got == WR_MESSAGE_BYTES + c->answer.length;
    return true;
}

static void receive(struct wr_tcp_channel *c, uint32_t most)
{
    uint32_t count = 0;
    bool is_empty = false;

    while (is_open(c) && c->ring.first < c->ring.next && count < most && !is_empty) {
        bool is_done = false;

        if (!receive_some(c, &is_done, &is_empty)) {
            break_line(c);
        } else if (is_done) {
            wr_ring_end(&c->ring, wr_ring_at(&c->ring, c->ring.first), wr_message_error(&c->answer),
                        0);
            c->ring.first++;
            c->got = 0;
            c->ring.broken_ns = 0;
            count++;
        }
    }
}

/* Has it been silent for too long, though the keeper's line is not? */
static bool is_silent(const struct wr_tcp_channel *c)
{
    return is_open(c) && c->ring.first < c->ring.next && wr_ring_is_silent(&c->ring, c->tcp);
}

/* What waits for a server that is gone fails, and what waits for one that is away is put off. */
static void give_up(struct wr_tcp_channel *c)
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

uint32_t wr_tcp_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct wr_tcp_channel *c = channel_of(base);
    uint32_t taken;

    adopt_line(c);
    taken = wr_ring_take(&c->ring, ios, count, c->tcp->slots);
    if (c->ring.ended.first || wr_tcp_puts_off(c->tcp))
        ring_bell(c);
    send_some(c);
    return taken;
}

uint32_t wr_tcp_poll(struct weir_channel *base, uint32_t max)
{
    struct wr_tcp_channel *c = channel_of(base);
    uint32_t finished;

    hear_bell(c);
    adopt_line(c);
    receive(c, max);
    if (is_silent(c))
        break_line(c);
    give_up(c);
    send_some(c);
    finished = wr_ring_finish(&c->ring, max);
    if (c->ring.ended.first)
        ring_bell(c);
    return finished;
}

int wr_tcp_wait_fd(struct weir_channel *base)
{
    return channel_of(base)->poll_fd;
}

/* --- Life ------------------------------------------------------------------------------------- */

int wr_tcp_enlist(struct wr_tcp *tcp, struct weir_channel *channel, bool *is_unsure_p)
{
    int error = WEIR_EBUSY;

    pthread_mutex_lock(&tcp->lock);
    for (uint32_t i = 0; i < WR_TCP_CHANNELS && error; i++) {
        if (tcp->channels[i])
            continue;
        tcp->channels[i] = channel;
        *is_unsure_p = tcp->has_ghost[i];
        tcp->has_ghost[i] = false;
        error = WEIR_OK;
    }
    pthread_mutex_unlock(&tcp->lock);
    return error;
}

void wr_tcp_delist(struct wr_tcp *tcp, const struct weir_channel *channel, const bool *is_unsure)
{
    pthread_mutex_lock(&tcp->lock);
    for (uint32_t i = 0; i < WR_TCP_CHANNELS; i++)
        if (tcp->channels[i] == channel) {
            tcp->channels[i] = NULL;
            tcp->has_ghost[i] = *is_unsure; /* which the keeper clears under the lock */
        }
    pthread_mutex_unlock(&tcp->lock);
}

static void free_channel(struct wr_tcp_channel *c)
{
    wr_line_close(&c->line);
    if (c->poll_fd >= 0)
        close(c->poll_fd);
    if (c->bell >= 0)
        close(c->bell);
    wr_ring_fini(&c->ring);
    free(c);
}

/* Its line is the keeper's to bring, as any later one: requests wait for it. */
int wr_tcp_channel_open(struct weir_backend *backend, uint32_t depth,
                        struct weir_channel **channel_p)
{
    struct wr_tcp *tcp = (struct wr_tcp *)backend;
    struct epoll_event event = {.events = EPOLLIN};
    struct wr_tcp_channel *c;
    int error;

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
    if (!wr_ring_init(&c->ring, depth) || c->poll_fd < 0 || c->bell < 0 ||
        epoll_ctl(c->poll_fd, EPOLL_CTL_ADD, c->bell, &event) != 0) {
        free_channel(c);
        return WEIR_ENOMEM;
    }
    error = wr_tcp_enlist(tcp, &c->base, &c->is_unsure);
    if (error) {
        free_channel(c);
        return error;
    }
    wr_tcp_ring(tcp);
    *channel_p = &c->base;
    return WEIR_OK;
}

void wr_tcp_channel_close(struct weir_channel *base)
{
    struct wr_tcp_channel *c = channel_of(base);

    wr_tcp_delist(c->tcp, base, &c->is_unsure);
    free_channel(c);
}
