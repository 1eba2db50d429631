/* SPDX-License-Identifier: MIT */

/*
 * A channel: one line with many requests in flight.
 *
 *   ring     requests in the order in which they are sent, and answered: a server serves a line in
 *            order
 *   first    the oldest that has no answer
 *   next     the one that is being sent, or is to be sent next
 *   end      where the next request goes
 *   ended    requests whose done() is still to run
 *
 * Always: first <= next <= end <= first + depth. When the line breaks, next falls back to first:
 * everything that has no answer is sent again on the next line.
 */

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport/queue.h"
#include "transport/request.h"
#include "transport/tcp.h"
#include "transport/tcp_away.h"

#define NS_SECOND 1000000000ull
#define PIECES    64 /* of one system call */

struct wr_tcp_channel {
    struct weir_channel base; /* first */
    /* Constant while open. */
    struct wr_tcp *tcp;
    uint32_t depth, number; /* number: of its lines */
    int poll_fd, bell;      /* wait_fd(): readable when the line is, or the bell has rung */

    _Atomic(uint32_t) link; /* enum wr_link_state: whose the line is */
    struct wr_line line;
    _Atomic(bool) has_rung; /* the bell */
    _Atomic(bool) waits;    /* for an answer, or to be able to ask */

    /* Kept by the channel's thread. */
    struct weir_io **ring;
    uint64_t first, next, end, sealed; /* sealed: next + 1 once the header of next is made */
    uint64_t broken_ns;                /* since when nothing moves; 0: it does             */
    uint64_t answer_ns;                /* since when an answer is waited for               */
    size_t sent, got;                  /* bytes of the messages at next and at first        */
    bool wants_room;                   /* the poll_fd tells of room to send, too           */
    uint8_t header_out[WR_MESSAGE_BYTES], header_in[WR_MESSAGE_BYTES];
    struct wr_message answer;
    struct wr_queue ended;
};

static struct wr_tcp_channel *channel_of(struct weir_channel *channel)
{
    return (struct wr_tcp_channel *)channel;
}

static struct weir_io *io_at(const struct wr_tcp_channel *c, uint64_t number)
{
    return c->ring[number % c->depth];
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
    bool is_unsure = false;

    for (uint64_t i = c->first; i < c->next + (c->sent > 0) && !is_unsure; i++)
        is_unsure = io_at(c, i)->is_write;
    if (is_unsure)
        wr_tcp_note_unsure(c->tcp, c->number);
    if (c->broken_ns == 0)
        c->broken_ns = wr_line_now_ns();
    c->next = c->first;
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
    c->answer_ns = wr_line_now_ns();
    watch(c, EPOLL_CTL_ADD);
    atomic_store_explicit(&c->link, WR_LINK_OPEN, memory_order_relaxed);
}

void wr_tcp_channel_tend(struct weir_channel *base)
{
    struct wr_tcp_channel *c = channel_of(base);
    uint32_t link = atomic_load_explicit(&c->link, memory_order_acquire);
    bool is_away = atomic_load(&c->tcp->is_away);
    char why[WR_WHY_ROOM];

    if (link == WR_LINK_OPEN && is_away)
        wr_line_break(&c->line);
    if (link == WR_LINK_BROKEN) {
        wr_line_close(&c->line);
        if (!is_away && wr_tcp_attach(c->tcp, &c->line, c->number, why) == WEIR_OK)
            atomic_store_explicit(&c->link, WR_LINK_NEW, memory_order_release);
    }
    /* Who waits looks at the clock now and then: a line can be silent though the keeper's is not.
     */
    if (link != WR_LINK_OPEN || is_away || c->tcp->is_sure_again || atomic_load(&c->waits) ||
        atomic_load(&c->tcp->is_lost))
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
        .id = c->next + 1,
        .epoch = c->line.epoch,
        .slot = io->slot,
    };

    wr_message_put(&message, c->header_out);
    wr_session_seal(&c->line.session, c->header_out, NULL, 0);
    c->sealed = c->next + 1;
}

/* As much as the line takes; *full_p: it takes no more. False: it has broken. */
static bool send_next(struct wr_tcp_channel *c, bool *full_p)
{
    while (c->next < c->end) {
        const struct weir_io *io = io_at(c, c->next);
        size_t all = WR_MESSAGE_BYTES + (io->is_write ? (size_t)io->pages * WEIR_SLOT_BYTES : 0);
        struct iovec pieces[PIECES];
        struct msghdr message = {.msg_iov = pieces};
        ssize_t sent;

        if (c->sealed != c->next + 1) {
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
            c->next++;
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

static void end_io(struct wr_tcp_channel *c, struct weir_io *io, int error, int os_error)
{
    io->error = error;
    io->os_error = os_error;
    wr_queue_put(&c->ended, io);
}

/* Is it the answer to the oldest request? */
static bool is_answer(const struct wr_tcp_channel *c, const struct weir_io *io)
{
    const struct wr_message *answer = &c->answer;

    if (answer->id != c->first + 1 || answer->epoch != c->line.epoch)
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
    struct weir_io *io = io_at(c, c->first);
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
    c->answer_ns = wr_line_now_ns();
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

    while (is_open(c) && c->first < c->next && count < most && !is_empty) {
        bool is_done = false;

        if (!receive_some(c, &is_done, &is_empty)) {
            break_line(c);
        } else if (is_done) {
            end_io(c, io_at(c, c->first), wr_message_error(&c->answer), 0);
            c->first++;
            c->got = 0;
            c->broken_ns = 0;
            count++;
        }
    }
}

/* Has it been silent for too long, though the keeper's line is not? */
static bool is_silent(const struct wr_tcp_channel *c)
{
    return is_open(c) && c->first < c->next &&
           wr_line_now_ns() - c->answer_ns >
               wr_tcp_silence_ns(c->tcp, io_at(c, c->first)->is_write);
}

static bool is_hopeless(const struct wr_tcp_channel *c)
{
    return wr_tcp_is_given_up(c->tcp) || (!is_open(c) && wr_tcp_is_barred(c->tcp)) ||
           (c->broken_ns != 0 && c->first < c->end &&
            wr_line_now_ns() - c->broken_ns > c->tcp->options.patience * NS_SECOND);
}

static void fail_all(struct wr_tcp_channel *c)
{
    if (is_open(c))
        break_line(c);
    while (c->first < c->end)
        end_io(c, io_at(c, c->first++), WEIR_EIO, ETIMEDOUT);
    c->next = c->first;
}

/* What has no answer is for whoever else can do it; the rest waits. Whatever of the writes was sent
 * already is done, or ended with its line, before anything later is: see wr_tcp.unsure. */
static void put_off(struct wr_tcp_channel *c, bool writes, bool reads)
{
    uint64_t kept = c->first;

    if (is_open(c))
        break_line(c);
    for (uint64_t i = c->first; i < c->end; i++) {
        struct weir_io *io = io_at(c, i);

        if (io->is_write ? writes : reads)
            end_io(c, io, WEIR_EAGAIN, ETIMEDOUT);
        else
            c->ring[kept++ % c->depth] = io;
    }
    c->end = kept;
}

/* Relaxed: the keeper may well learn it a second later. */
static void note_waiting(struct wr_tcp_channel *c)
{
    atomic_store_explicit(&c->waits, c->first < c->end, memory_order_relaxed);
}

/* --- The channel's calls ---------------------------------------------------------------------- */

uint32_t wr_tcp_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct wr_tcp_channel *c = channel_of(base);
    uint32_t taken;

    adopt_line(c);
    if (c->first == c->end) { /* nobody has waited for anything until now */
        c->answer_ns = wr_line_now_ns();
        c->broken_ns = c->broken_ns ? c->answer_ns : 0;
    }
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
    send_some(c);
    note_waiting(c);
    return taken;
}

uint32_t wr_tcp_poll(struct weir_channel *base, uint32_t max)
{
    struct wr_tcp_channel *c = channel_of(base);
    uint32_t finished = 0;

    hear_bell(c);
    adopt_line(c);
    receive(c, max);
    if (is_silent(c))
        break_line(c);
    if (is_hopeless(c))
        fail_all(c);
    else if (wr_tcp_sends_away(c->tcp, is_open(c) ? 0 : c->broken_ns))
        put_off(c, c->tcp->env->flags & WEIR_ENV_PUTS_OFF, true);
    else if (wr_tcp_puts_off(c->tcp, is_open(c)))
        put_off(c, true, false);
    send_some(c);
    note_waiting(c);
    for (; finished < max && c->ended.first; finished++) {
        struct weir_io *io = wr_queue_take(&c->ended);

        io->done(io);
    }
    if (c->ended.first)
        ring_bell(c);
    return finished;
}

int wr_tcp_wait_fd(struct weir_channel *base)
{
    return channel_of(base)->poll_fd;
}

/* --- Life ------------------------------------------------------------------------------------- */

int wr_tcp_enlist(struct wr_tcp *tcp, struct weir_channel *channel, uint32_t *number_p)
{
    int error = WEIR_EBUSY;

    pthread_mutex_lock(&tcp->lock);
    for (uint32_t i = 0; i < WR_TCP_CHANNELS && error; i++) {
        if (tcp->channels[i])
            continue;
        tcp->channels[i] = channel;
        *number_p = WR_TCP_LINE_CHANNELS + i;
        error = WEIR_OK;
    }
    pthread_mutex_unlock(&tcp->lock);
    return error;
}

void wr_tcp_delist(struct wr_tcp *tcp, const struct weir_channel *channel)
{
    pthread_mutex_lock(&tcp->lock);
    for (uint32_t i = 0; i < WR_TCP_CHANNELS; i++)
        if (tcp->channels[i] == channel)
            tcp->channels[i] = NULL;
    pthread_mutex_unlock(&tcp->lock);
}

static void free_channel(struct wr_tcp_channel *c)
{
    wr_line_close(&c->line);
    if (c->poll_fd >= 0)
        close(c->poll_fd);
    if (c->bell >= 0)
        close(c->bell);
    free(c->ring);
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
    c->depth = depth;
    c->line.fd = -1;
    c->broken_ns = wr_line_now_ns();
    atomic_store(&c->link, WR_LINK_BROKEN);
    c->ring = calloc(depth, sizeof(struct weir_io *));
    c->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    c->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!c->ring || c->poll_fd < 0 || c->bell < 0 ||
        epoll_ctl(c->poll_fd, EPOLL_CTL_ADD, c->bell, &event) != 0) {
        free_channel(c);
        return WEIR_ENOMEM;
    }
    error = wr_tcp_enlist(tcp, &c->base, &c->number);
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

    wr_tcp_delist(c->tcp, base);
    free_channel(c);
}
