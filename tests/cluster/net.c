/* SPDX-License-Identifier: MIT */

/* Streams: see net.h. Descriptors and epoll are in files.c. */

#include "tests/cluster/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cluster/files.h"

#define ROOM_LEAST     4096u
#define AGAIN_NS       (400 * LOOP_MS) /* the longest until a sender tries again */
#define GIVE_UP_NS     (5 * LOOP_SECOND)
#define GIVE_UP_TOO_NS (8 * LOOP_SECOND) /* at most so much later */
#define LOST_NS        LOOP_SECOND       /* a knock that is not heard is repeated after so long */
#define FIRST_PORT     40000u

static struct net_way ways[NET_HOSTS_MOST][NET_HOSTS_MOST];
static struct net_counts counts;
static uint32_t next_port;

void net_begin(void)
{
    files_begin();
    next_port = FIRST_PORT;
    for (uint32_t i = 0; i < NET_HOSTS_MOST; i++)
        for (uint32_t k = 0; k < NET_HOSTS_MOST; k++)
            ways[i][k] = (struct net_way){.delay_ns = 50000, .jitter_ns = 50000};
}

/* More hosts than ways: then they share them, and nothing is held. */
struct net_way *net_way(uint32_t from, uint32_t to)
{
    return &ways[from % NET_HOSTS_MOST][to % NET_HOSTS_MOST];
}

const struct net_counts *net_counts(void)
{
    return &counts;
}

static uint64_t arrival(uint32_t from, uint32_t to)
{
    const struct net_way *way = net_way(from, to);

    return way->is_held ? LOOP_NEVER : loop_now() + way->delay_ns + loop_draw(way->jitter_ns + 1);
}

/* --- Ends ------------------------------------------------------------------------------------ */

static void drop_segments(struct net_end *end)
{
    struct net_segment *next;

    for (struct net_segment *each = end->first; each; each = next) {
        next = each->next;
        free(each);
    }
    end->first = end->last = NULL;
    end->coming = 0;
}

static void fail_at(struct net_end *end, uint64_t ns, int error)
{
    if (ns >= end->error_ns)
        return;
    end->error_ns = ns;
    end->error = error;
}

/* It hears nothing: in a while it gives up by itself. */
static void doubt(struct net_end *end)
{
    if (end->is_connected)
        fail_at(end, loop_now() + GIVE_UP_NS + loop_draw(GIVE_UP_TOO_NS - GIVE_UP_NS), ETIMEDOUT);
}

static struct net_end *new_end(void)
{
    struct net_end *end = calloc(1, sizeof(*end));

    if (!end)
        loop_fail("the simulator is out of memory");
    end->connected_ns = end->over_ns = end->error_ns = LOOP_NEVER;
    end->room = ROOM_LEAST << loop_draw(8);
    return end;
}

int net_socket(void)
{
    int fd;
    struct net_file *file = files_new(NET_END, &fd);

    file->end = new_end();
    file->end->host = loop_process()->host;
    return fd;
}

int net_listen(int fd, uint16_t port)
{
    struct net_file *file = files_get(fd);
    const uint32_t host = file->process->host;

    if (port && files_listener(host, port))
        return -EADDRINUSE;
    free(file->end);
    file->end = NULL;
    file->kind = NET_LISTENER;
    file->port = port ? port : (uint16_t)next_port++;
    return 0;
}

uint16_t net_port_of(int fd)
{
    return files_get(fd)->port;
}

int net_connect(int fd, uint32_t host, uint16_t port)
{
    struct net_end *end = files_get(fd)->end, *other;
    struct net_file *listener = files_listener(host, port);
    uint64_t there_ns = arrival(end->host, host), back_ns;

    loop_note("connect", host, port);
    if (there_ns != LOOP_NEVER && loop_chance(16))
        there_ns += LOST_NS;
    end->peer_host = host;
    end->port = (uint16_t)next_port++;
    if (!listener) {
        /* A host that is not there says nothing. */
        if (files_is_up(host) && there_ns != LOOP_NEVER)
            fail_at(end, arrival(host, end->host), ECONNREFUSED);
        return -EINPROGRESS;
    }
    other = new_end();
    other->host = host;
    other->peer_host = end->host;
    other->port = end->port;
    other->peer = end;
    other->is_connected = true;
    other->connected_ns = there_ns;
    end->peer = other;
    back_ns = arrival(host, end->host);
    if (there_ns != LOOP_NEVER && back_ns != LOOP_NEVER)
        end->connected_ns = there_ns + back_ns - loop_now();
    other->next = listener->waiting;
    listener->waiting = other;
    counts.connections++;
    return -EINPROGRESS;
}

/* The first who came. */
int net_accept(int fd, uint32_t *host_p, uint16_t *port_p)
{
    struct net_file *listener = files_get(fd), *file;
    struct net_end **first = NULL, *end;
    int accepted;

    for (struct net_end **at = &listener->waiting; *at; at = &(*at)->next)
        if ((*at)->connected_ns <= loop_now() &&
            (!first || (*at)->connected_ns <= (*first)->connected_ns))
            first = at;
    if (!first)
        return -EAGAIN;
    end = *first;
    *first = end->next;
    end->next = NULL;
    file = files_new(NET_END, &accepted);
    file->end = end;
    *host_p = end->peer_host;
    *port_p = end->port;
    loop_note("accept", end->peer_host, end->port);
    return accepted;
}

static bool is_connected(struct net_end *end)
{
    if (!end->is_connected && end->connected_ns <= loop_now())
        end->is_connected = true;
    return end->is_connected;
}

static bool has_failed(const struct net_end *end)
{
    return end->error_ns <= loop_now();
}

int net_error_of(int fd)
{
    struct net_end *end = files_get(fd)->end;

    if (has_failed(end))
        return end->error;
    return is_connected(end) ? 0 : EINPROGRESS;
}

/* --- Bytes ----------------------------------------------------------------------------------- */

/* Behind all that was sent before. */
static uint64_t arrival_behind(const struct net_end *to)
{
    uint64_t ns = arrival(to->peer_host, to->host);

    ns = ns < to->stalled_ns ? to->stalled_ns : ns;
    return to->last && to->last->due_ns > ns ? to->last->due_ns : ns;
}

static void put_segment(struct net_end *to, const struct iovec *iov, size_t count, size_t bytes)
{
    struct net_segment *segment = malloc(sizeof(*segment) + bytes);
    size_t at = 0;

    if (!segment)
        loop_fail("the simulator is out of memory");
    *segment = (struct net_segment){.due_ns = arrival_behind(to), .to = bytes};
    for (size_t i = 0; i < count && at < bytes; i++) {
        size_t part = iov[i].iov_len < bytes - at ? iov[i].iov_len : bytes - at;

        memcpy(segment->bytes + at, iov[i].iov_base, part);
        at += part;
    }
    if (to->last)
        to->last->next = segment;
    else
        to->first = segment;
    to->last = segment;
    to->coming += bytes;
}

long net_send(int fd, const struct iovec *iov, size_t count)
{
    struct net_end *end = files_get(fd)->end;
    size_t bytes = 0, room;

    for (size_t i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    if (end->is_shut)
        return -EPIPE;
    if (has_failed(end))
        return -end->error;
    if (!is_connected(end))
        return -EAGAIN;
    counts.sends++;
    if (!end->peer) { /* nobody is there: a closed end answers by a reset, a lost host by nothing */
        if (files_is_up(end->peer_host))
            fail_at(end, arrival(end->peer_host, end->host), ECONNRESET);
        doubt(end);
        return (long)bytes;
    }
    if (end->peer->is_cut) /* what was sent before has been lost: nothing can come behind it */
        return (long)bytes;
    room = end->room > end->peer->coming ? end->room - end->peer->coming : 0;
    if (room == 0)
        return -EAGAIN;
    bytes = bytes < room ? bytes : room;
    if (bytes > 1 && loop_chance(16))
        bytes = 1 + loop_draw(bytes);
    put_segment(end->peer, iov, count, bytes);
    if (end->peer->last->due_ns == LOOP_NEVER)
        doubt(end);
    counts.bytes += bytes;
    return (long)bytes;
}

static size_t take(struct net_end *end, const struct iovec *iov, size_t count)
{
    size_t took = 0;

    for (size_t i = 0; i < count; i++) {
        size_t at = 0;

        while (at < iov[i].iov_len && end->first && end->first->due_ns <= loop_now()) {
            struct net_segment *segment = end->first;
            size_t part = segment->to - segment->from;

            part = part < iov[i].iov_len - at ? part : iov[i].iov_len - at;
            memcpy((char *)iov[i].iov_base + at, segment->bytes + segment->from, part);
            at += part;
            took += part;
            segment->from += part;
            if (segment->from < segment->to)
                continue;
            end->first = segment->next;
            end->last = end->first ? end->last : NULL;
            free(segment);
        }
    }
    end->coming -= took;
    return took;
}

long net_receive(int fd, const struct iovec *iov, size_t count)
{
    struct net_end *end = files_get(fd)->end;
    size_t took = take(end, iov, count);

    if (took)
        return (long)took;
    if (end->is_shut)
        return 0;
    if (has_failed(end))
        return -end->error;
    return !end->first && end->over_ns <= loop_now() ? 0 : -EAGAIN;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t net_end_when(const struct net_end *end, uint32_t wanted)
{
    uint64_t ns = end->error_ns;

    if (end->is_shut)
        return 0;
    if ((wanted & EPOLLIN) && end->first)
        ns = earlier(ns, end->first->due_ns);
    else if (wanted & EPOLLIN)
        ns = earlier(ns, end->over_ns);
    if ((wanted & EPOLLOUT) && !end->is_connected)
        ns = earlier(ns, end->connected_ns);
    else if ((wanted & EPOLLOUT) && (!end->peer || end->peer->coming < end->room))
        ns = 0;
    return ns;
}

uint32_t net_end_events(struct net_end *end, uint32_t wanted)
{
    const uint64_t now = loop_now();
    uint32_t events = 0;

    if (end->is_shut || has_failed(end))
        return (wanted & (EPOLLIN | EPOLLOUT)) | EPOLLHUP | (has_failed(end) ? EPOLLERR : 0);
    if (end->first ? end->first->due_ns <= now : end->over_ns <= now)
        events |= EPOLLIN;
    if (is_connected(end) && (!end->peer || end->peer->coming < end->room))
        events |= EPOLLOUT;
    return events & wanted;
}

/* --- Ends of ends ---------------------------------------------------------------------------- */

/* What was sent still arrives; then the end of it. A reset where nobody reads what came. */
void net_end_close(struct net_end *end)
{
    struct net_end *peer = end->peer;

    if (peer) {
        if (end->first || end->error_ns <= loop_now())
            fail_at(peer, arrival(end->host, end->peer_host), ECONNRESET);
        peer->over_ns = earlier(peer->over_ns, arrival_behind(peer));
        peer->peer = NULL;
        if (net_way(end->host, peer->host)->is_held)
            doubt(peer);
    }
    drop_segments(end);
    free(end);
}

/* Its host is lost, and a part of what it sent with it. */
void net_end_vanish(struct net_end *end)
{
    struct net_end *peer = end->peer;

    if (peer) {
        for (struct net_segment *each = peer->first; each; each = each->next)
            if (each->due_ns > loop_now())
                each->due_ns = LOOP_NEVER;
        peer->peer = NULL;
        doubt(peer);
    }
    drop_segments(end);
    free(end);
}

int net_shutdown(int fd)
{
    struct net_end *end = files_get(fd)->end;

    if (!end || end->is_shut)
        return -ENOTCONN;
    end->is_shut = true;
    if (end->peer)
        end->peer->over_ns = earlier(end->peer->over_ns, arrival_behind(end->peer));
    return 0;
}

/* --- Links ----------------------------------------------------------------------------------- */

static void let_through(struct net_end *to)
{
    uint64_t ns = loop_now() + loop_draw(AGAIN_NS);

    for (struct net_segment *each = to->first; each; each = each->next)
        if (each->due_ns == LOOP_NEVER)
            each->due_ns = ns;
    if (to->over_ns == LOOP_NEVER && (!to->peer || to->peer->is_shut))
        to->over_ns = ns;
    if (!to->is_connected && to->peer && to->connected_ns == LOOP_NEVER) {
        to->connected_ns = ns + loop_draw(AGAIN_NS);
        to->peer->connected_ns = ns;
    }
}

static void hold_end(struct net_end *to)
{
    for (struct net_segment *each = to->first; each; each = each->next)
        if (each->due_ns > loop_now())
            each->due_ns = LOOP_NEVER;
    if (to->over_ns > loop_now())
        to->over_ns = LOOP_NEVER;
    if (to->peer)
        doubt(to->peer);
    doubt(to);
}

/* The end whose bytes go that way, if the stream is one between the two. */
static void turn(struct net_end *to, uint32_t from, uint32_t host, bool is_held)
{
    if (to->host != host || to->peer_host != from)
        return;
    if (is_held) {
        hold_end(to);
        return;
    }
    let_through(to);
    if (to->peer && !net_way(host, from)->is_held) { /* both ways are open: nobody doubts */
        if (to->error_ns > loop_now() && to->error == ETIMEDOUT)
            to->error_ns = LOOP_NEVER;
        if (to->peer->error_ns > loop_now() && to->peer->error == ETIMEDOUT)
            to->peer->error_ns = LOOP_NEVER;
    }
}

void net_hold(uint32_t from, uint32_t to, bool is_held)
{
    if (net_way(from, to)->is_held == is_held)
        return;
    net_way(from, to)->is_held = is_held;
    loop_note(is_held ? "hold" : "let through", from, to);
    for (struct net_end *each = files_first_end(); each; each = files_next_end())
        turn(each, from, to, is_held);
}

void net_cut(uint32_t a, uint32_t b)
{
    loop_note("cut", a, b);
    for (struct net_end *each = files_first_end(); each; each = files_next_end())
        if ((each->host == a && each->peer_host == b) ||
            (each->host == b && each->peer_host == a)) {
            if (loop_chance(2)) {
                drop_segments(each);
                each->is_cut = true;
            }
            each->over_ns = LOOP_NEVER;
            fail_at(each, loop_now() + loop_draw(LOOP_MS), ECONNRESET);
        }
}

void net_stall(uint32_t a, uint32_t b, uint64_t ns)
{
    loop_note("stall", a, b);
    for (struct net_end *each = files_first_end(); each; each = files_next_end()) {
        if (!((each->host == a && each->peer_host == b) ||
              (each->host == b && each->peer_host == a)) ||
            !loop_chance(3))
            continue;
        each->stalled_ns = loop_now() + loop_draw(ns);
        for (struct net_segment *segment = each->first; segment; segment = segment->next)
            if (segment->due_ns > loop_now() && segment->due_ns < each->stalled_ns)
                segment->due_ns = each->stalled_ns;
        if (each->over_ns > loop_now() && each->over_ns < each->stalled_ns)
            each->over_ns = each->stalled_ns;
    }
}

uint32_t net_streams(uint32_t a, uint32_t b)
{
    uint32_t streams = 0;

    for (struct net_end *each = files_first_end(); each; each = files_next_end())
        streams += each->host == a && each->peer_host == b && each->peer && !has_failed(each);
    return streams;
}
