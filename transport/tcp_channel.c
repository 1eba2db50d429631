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
 * Several requests are sent by one system call, and several answers received by one: straight to
 * where they are to be if they are what is hoped for. Nothing is taken for a page before the header
 * before it was found sound; what came behind a refusal has gone astray, and the line with it: from
 * then on nothing is hoped for.
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
#define PIECES    64     /* of one system call */
#define HEADERS   32     /* likewise           */
#define IDLE_LOOK 16u    /* polls, of which one looks at a line that is idle */
#define TOGETHER  65536u /* bytes: with as many no further message is sent, or received */

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
    uint64_t first, next, end;
    uint64_t sealed;     /* before it all headers are made; at most HEADERS behind next */
    uint64_t broken_ns;  /* since when nothing moves; 0: it does                        */
    uint64_t lost_ns;    /* when it was left without a line, the last time              */
    uint64_t answer_ns;  /* since when an answer is waited for                          */
    size_t sent, got;    /* bytes of the messages at next and at first                  */
    uint32_t idle_polls; /* with nothing on its way                                     */
    bool wants_room;     /* the poll_fd tells of room to send, too                      */
    bool is_careful;     /* no page is received before its header is known              */
    uint8_t headers_out[HEADERS][WR_MESSAGE_BYTES], headers_in[HEADERS][WR_MESSAGE_BYTES];
    struct wr_message answer; /* to the oldest, once its header is known */
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
    c->lost_ns = wr_line_now_ns();
    if (c->broken_ns == 0)
        c->broken_ns = c->lost_ns;
    c->next = c->sealed = c->first;
    c->sent = c->got = 0;
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

/* The part of a message that is left behind so many bytes of its header, and of the pages. */
static uint32_t pieces_of(void *header, const struct weir_io *io, bool has_pages, size_t done,
                          struct iovec *pieces, uint32_t room)
{
    uint32_t count = 0;

    if (done < WR_MESSAGE_BYTES) {
        pieces[count++] = (struct iovec){(char *)header + done, WR_MESSAGE_BYTES - done};
        done = 0;
    } else {
        done -= WR_MESSAGE_BYTES;
    }
    for (uint32_t i = 0; has_pages && i < io->iov_count && count < room; i++) {
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

static size_t request_bytes(const struct weir_io *io)
{
    return WR_MESSAGE_BYTES + (io->is_write ? (size_t)io->pages * WEIR_SLOT_BYTES : 0);
}

/* The next that has none. */
static void make_header(struct wr_tcp_channel *c)
{
    const struct weir_io *io = io_at(c, c->sealed);
    uint8_t *header = c->headers_out[c->sealed % HEADERS];
    const struct wr_message message = {
        .type = io->is_write ? WR_MESSAGE_WRITE : WR_MESSAGE_READ,
        .length = io->is_write ? io->pages * WEIR_SLOT_BYTES : 0,
        .pages = io->pages,
        .id = ++c->sealed,
        .epoch = c->line.epoch,
        .slot = io->slot,
    };

    wr_message_put(&message, header);
    wr_session_seal(&c->line.session, header, NULL, 0);
}

/* What is to be sent next, of as many requests as one call takes. */
static uint32_t gather(struct wr_tcp_channel *c, struct iovec pieces[PIECES])
{
    size_t done = c->sent, bytes = 0;
    uint32_t count = 0;

    for (uint64_t i = c->next;
         i < c->end && i < c->next + HEADERS && count < PIECES && bytes < TOGETHER; i++) {
        const struct weir_io *io = io_at(c, i);

        if (c->sealed == i) {
            if (io->is_write && atomic_load(&c->tcp->unsure) > 0)
                break; /* the keeper rings */
            make_header(c);
        }
        count += pieces_of(c->headers_out[i % HEADERS], io, io->is_write, done, pieces + count,
                           PIECES - count);
        bytes += request_bytes(io) - done;
        done = 0;
    }
    return count;
}

static void note_sent(struct wr_tcp_channel *c, size_t bytes)
{
    c->sent += bytes;
    while (c->next < c->end && c->sent >= request_bytes(io_at(c, c->next)))
        c->sent -= request_bytes(io_at(c, c->next++));
}

/* As much as the line takes; *full_p: it takes no more. False: it has broken. */
static bool send_next(struct wr_tcp_channel *c, bool *full_p)
{
    struct iovec pieces[PIECES];
    struct msghdr message = {.msg_iov = pieces};

    while ((message.msg_iovlen = gather(c, pieces)) > 0) {
        const ssize_t sent = sendmsg(c->line.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent < 0) {
            *full_p = true;
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
        }
        note_sent(c, (size_t)sent);
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

/* The header of the answer to the oldest is there. False: it is none. */
static bool hear_header(struct wr_tcp_channel *c)
{
    const uint8_t *header = c->headers_in[c->first % HEADERS];

    return wr_session_check(&c->line.session, header, NULL, 0) &&
           wr_message_parse(header, &c->answer) && is_answer(c, io_at(c, c->first));
}

/* Where what comes next is to go, of as many answers as one call takes. */
static uint32_t scatter(struct wr_tcp_channel *c, struct iovec pieces[PIECES])
{
    size_t done = c->got, bytes = 0;
    uint32_t count = 0;

    for (uint64_t i = c->first;
         i < c->next && i < c->first + HEADERS && count < PIECES && bytes < TOGETHER; i++) {
        const struct weir_io *io = io_at(c, i);
        const bool is_known = done >= WR_MESSAGE_BYTES;
        const bool has_pages = !io->is_write && (is_known || !c->is_careful);

        count += pieces_of(c->headers_in[i % HEADERS], io, has_pages, done, pieces + count,
                           PIECES - count);
        if (!io->is_write && !has_pages)
            break;
        bytes += WR_MESSAGE_BYTES + (has_pages ? io->pages * WEIR_SLOT_BYTES : 0) - done;
        done = 0;
    }
    return count;
}

/* The answer to the oldest is whole. */
static void end_first(struct wr_tcp_channel *c)
{
    end_io(c, io_at(c, c->first), wr_message_error(&c->answer), 0);
    c->first++;
    c->got = 0;
    c->broken_ns = 0;
}

/* So many bytes have come, where they were to go. False: they are no answers, or not where they
 * were to go. */
static bool take(struct wr_tcp_channel *c, size_t bytes, uint32_t *ended)
{
    while (bytes > 0) {
        const bool is_known = c->got >= WR_MESSAGE_BYTES;
        const size_t all = WR_MESSAGE_BYTES + (is_known ? c->answer.length : 0);
        const size_t part = bytes < all - c->got ? bytes : all - c->got;

        c->got += part;
        bytes -= part;
        if (!is_known && c->got == WR_MESSAGE_BYTES && !hear_header(c))
            return false;
        if (c->got < WR_MESSAGE_BYTES || c->got < WR_MESSAGE_BYTES + c->answer.length)
            continue;
        if (c->answer.length == 0 && !io_at(c, c->first)->is_write && bytes > 0) {
            c->is_careful = true;
            return false;
        }
        end_first(c);
        ++*ended;
    }
    return true;
}

static size_t bytes_of(const struct iovec *pieces, uint32_t count)
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < count; i++)
        bytes += pieces[i].iov_len;
    return bytes;
}

static void receive(struct wr_tcp_channel *c, uint32_t most)
{
    struct iovec pieces[PIECES];
    struct msghdr message = {.msg_iov = pieces};
    uint32_t ended = 0;
    bool is_empty = false;

    while (is_open(c) && c->first < c->next && ended < most && !is_empty) {
        ssize_t got;

        message.msg_iovlen = scatter(c, pieces);
        got = recvmsg(c->line.fd, &message, MSG_DONTWAIT);
        is_empty = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
        if (is_empty)
            return;
        if (got > 0) {
            is_empty = (size_t)got < bytes_of(pieces, (uint32_t)message.msg_iovlen);
            c->answer_ns = wr_line_now_ns();
        }
        if (got <= 0 || !take(c, (size_t)got, &ended))
            break_line(c);
    }
}

/* Nothing comes unasked on a line but its end; which would make wait_fd() readable for ever, while
 * what is to be sent has to wait. */
static void look_at_idle(struct wr_tcp_channel *c)
{
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (!is_open(c) || c->first < c->next || ++c->idle_polls % IDLE_LOOK != 0)
        return;
    if (recvmsg(c->line.fd, &message, MSG_DONTWAIT) >= 0 ||
        (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        break_line(c);
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
    return wr_tcp_is_given_up(c->tcp) ||
           (!is_open(c) && wr_tcp_is_barred_from(c->tcp, c->lost_ns)) ||
           (c->broken_ns != 0 && c->first < c->end &&
            wr_line_now_ns() - c->broken_ns > c->tcp->options.patience * NS_SECOND);
}

static void fail_all(struct wr_tcp_channel *c)
{
    if (is_open(c))
        break_line(c);
    while (c->first < c->end)
        end_io(c, io_at(c, c->first++), WEIR_EIO, ETIMEDOUT);
    c->next = c->sealed = c->first;
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
    look_at_idle(c);
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
    c->broken_ns = c->lost_ns = wr_line_now_ns();
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
