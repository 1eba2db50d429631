/* SPDX-License-Identifier: MIT */

/*
 * Worker: moves the bytes of its connections.
 *
 * A connection is watched for exactly what its talk wishes: input, room to send, or nothing. One
 * bounded receive and a bounded send an event, and those in the midst of much come last: so that a
 * page that somebody waits for does not wait for clusters that are written.
 *
 * Who was asked just now is likely to be asked again: a worker looks for that for a while before it
 * sleeps, for to be woken up takes longer than to answer.
 */

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/memd/clock.h"
#include "transport/memd/server.h"

#define EVENTS_MOST 64
#define TICK_MS     250 /* how exact the times are that connections are given */
#define TICK_FEW_MS 20
#define STILL_MS    1000u         /* who ticks no more for so long was starved, or stopped */
#define SEND_MOST   (128u * 1024) /* bytes an event, or a little more */
#define TAKE_MOST   (128u * 1024) /* bytes of pages an event          */

/* --- A connection's life --------------------------------------------------------------------- */

static void link_in(struct memd_worker *worker, struct memd_connection *connection)
{
    connection->previous = NULL;
    connection->next = worker->connections;
    if (worker->connections)
        worker->connections->previous = connection;
    else
        worker->oldest = connection;
    worker->connections = connection;
}

static void link_out(struct memd_worker *worker, struct memd_connection *connection)
{
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        worker->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    else
        worker->oldest = connection->previous;
}

static bool watch(struct memd_worker *worker, struct memd_connection *connection, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};

    connection->events = events;
    return epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) == 0;
}

static void watch_for(struct memd_worker *worker, struct memd_connection *connection,
                      uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};

    if (connection->events == events)
        return;
    connection->events = events;
    (void)epoll_ctl(worker->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event);
}

/* Its place is not spare before the round of events is over: a later one may name it. */
static void end(struct memd_worker *worker, struct memd_connection *connection, const char *why)
{
    const bool is_proven = connection->talk.admission != MEMD_TURNED_AWAY;

    if (why)
        memd_log(&worker->memd->log, is_proven ? MEMD_LOG_UNSOUND : MEMD_LOG_DOOR,
                 "%s: connection closed: %s", connection->talk.client.who, why);
    if (!is_proven)
        memd_count(&worker->counts.unproven, 1);
    if (!connection->is_settled)
        worker->unproven--;
    link_out(worker, connection);
    atomic_fetch_sub(&worker->load, 1);
    close(connection->fd);
    connection->fd = -1;
    memd_talk_end(&connection->talk);
    connection->next = worker->ended;
    worker->ended = connection;
}

static void spare_ended(struct memd_worker *worker)
{
    struct memd_connection *next;

    for (struct memd_connection *each = worker->ended; each; each = next) {
        next = each->next;
        memd_pool_put(worker->memd, each);
    }
    worker->ended = NULL;
}

/* --- Bytes ----------------------------------------------------------------------------------- */

enum moved { MOVED, BLOCKED, BROKEN };

static enum moved judge(ssize_t bytes)
{
    if (bytes > 0)
        return MOVED;
    return bytes < 0 && (errno == EAGAIN || errno == EINTR) ? BLOCKED : BROKEN;
}

static enum moved send_some(struct memd_connection *connection, size_t *sent_p)
{
    struct msghdr message = {.msg_iov = NULL};
    uint32_t count;
    ssize_t bytes;

    message.msg_iov = memd_talk_unsent(&connection->talk, &count);
    message.msg_iovlen = count;
    bytes = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (bytes > 0) {
        memd_talk_sent(&connection->talk, (size_t)bytes);
        *sent_p += (size_t)bytes;
    }
    return judge(bytes);
}

static enum moved receive_some(struct memd_connection *connection)
{
    struct iovec iov[2];
    struct msghdr message = {.msg_iov = iov};
    ssize_t bytes;

    message.msg_iovlen = memd_talk_room(&connection->talk, iov);
    if (message.msg_iovlen > 1 && iov[0].iov_len > TAKE_MOST) {
        iov[0].iov_len = TAKE_MOST;
        message.msg_iovlen = 1;
    }
    bytes = recvmsg(connection->fd, &message, MSG_DONTWAIT);
    if (bytes > 0)
        memd_talk_took(&connection->talk, (size_t)bytes);
    return judge(bytes);
}

/* Why a connection whose other end is gone was closed, where that is worth a line. */
static const char *why_gone(const struct memd_connection *connection)
{
    if (connection->talk.state == MEMD_TALK_PROOF)
        return "it left without a proof of the key: is its key the same?";
    return connection->talk.why;
}

/* Do what the talk wishes, until that has to be waited for. False: the connection has ended. */
static bool run_heard(struct memd_worker *worker, struct memd_connection *connection,
                      bool has_input)
{
    struct memd_talk *talk = &connection->talk;
    size_t sent = 0;

    talk->now_ms = worker->now_ms;
    for (;;) {
        const enum memd_wish wish = memd_talk_go(talk);
        enum moved moved = BLOCKED;

        if (wish == MEMD_WISH_END) {
            memd_count(&worker->counts.unsound, talk->is_failed);
            end(worker, connection, talk->why);
            return false;
        }
        if (wish == MEMD_WISH_SEND && sent < SEND_MOST)
            moved = send_some(connection, &sent);
        else if (wish == MEMD_WISH_INPUT && has_input)
            moved = receive_some(connection);
        if (moved == BROKEN) {
            end(worker, connection, why_gone(connection));
            return false;
        }
        if (moved == BLOCKED) {
            watch_for(worker, connection,
                      wish == MEMD_WISH_SEND    ? EPOLLOUT
                      : wish == MEMD_WISH_INPUT ? EPOLLIN
                                                : 0);
            return true;
        }
        connection->progress_ms = worker->now_ms;
        has_input = has_input && wish == MEMD_WISH_SEND;
    }
}

static bool run(struct memd_worker *worker, struct memd_connection *connection, bool has_input)
{
    if (!memd_talk_enter(&connection->talk)) {
        end(worker, connection, NULL); /* its client has opened it anew */
        return false;
    }
    if (!run_heard(worker, connection, has_input))
        return false;
    memd_talk_leave(&connection->talk);
    return true;
}

/* --- From the first worker to the others ----------------------------------------------------- */

static void ring(const struct memd_worker *worker)
{
    const uint64_t one = 1;

    if (write(worker->bell_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        abort(); /* only a closed descriptor can fail */
}

void memd_workers_ring(void *context)
{
    const struct memd *memd = context;

    for (uint32_t i = 0; i < memd->worker_count; i++)
        ring(&memd->workers[i]);
}

static struct memd_worker *least_loaded(struct memd *memd)
{
    struct memd_worker *least = &memd->workers[0];

    for (uint32_t i = 1; i < memd->worker_count; i++)
        if (atomic_load(&memd->workers[i].load) < atomic_load(&least->load))
            least = &memd->workers[i];
    return least;
}

/* He has proven the key: from now on he is with the worker that has the least to do. */
static void settle(struct memd_worker *worker, struct memd_connection *connection)
{
    struct memd_worker *to;

    connection->is_settled = true;
    connection->since_ms = worker->now_ms;
    worker->unproven--;
    atomic_fetch_sub(&worker->load, 1);
    to = least_loaded(worker->memd);
    atomic_fetch_add(&to->load, 1);
    if (to == worker)
        return;
    link_out(worker, connection);
    (void)epoll_ctl(worker->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
    connection->talk.counts = &to->counts;
    pthread_mutex_lock(&to->lock);
    connection->next = to->inbox;
    to->inbox = connection;
    pthread_mutex_unlock(&to->lock);
    ring(to);
}

static void handle(struct memd_worker *worker, struct memd_connection *connection, uint32_t events)
{
    if (connection->fd < 0)
        return;
    /* It waits for nothing that it would learn this by. */
    if (connection->talk.state == MEMD_TALK_RETURNING && (events & (EPOLLHUP | EPOLLERR))) {
        end(worker, connection, NULL);
        return;
    }
    if (run(worker, connection, true) && connection->talk.admission && !connection->is_settled)
        settle(worker, connection);
}

/* --- The door -------------------------------------------------------------------------------- */

static void watch_doors(struct memd_worker *worker, bool is_open)
{
    for (uint32_t i = 0; i < worker->memd->door_count; i++) {
        struct memd_door *door = &worker->memd->doors[i];
        struct epoll_event event = {.events = is_open ? EPOLLIN : 0, .data.ptr = door};

        (void)epoll_ctl(worker->epoll_fd, EPOLL_CTL_MOD, door->fd, &event);
    }
    worker->is_door_shut = !is_open;
}

static struct memd_connection *oldest_unproven(struct memd_worker *worker)
{
    struct memd_connection *each = worker->oldest;

    while (each && each->is_settled)
        each = each->previous;
    return each;
}

/*
 * Is there room for one more who has not proven himself? The oldest of them is put out for him,
 * unless even that one has had no time yet: then whoever knocks waits in the system's queue.
 */
static bool make_room(struct memd_worker *worker)
{
    struct memd_connection *oldest;

    if (worker->unproven < MEMD_UNPROVEN_MOST)
        return true;
    oldest = oldest_unproven(worker);
    if (worker->now_ms - oldest->since_ms < MEMD_UNPROVEN_LEAST_MS)
        return false;
    end(worker, oldest, "it has not proven the key, and others want to");
    return true;
}

static void welcome(struct memd_worker *worker, const struct memd_door *door, int fd,
                    const char *where)
{
    struct memd_connection *connection = memd_pool_take(worker->memd);

    if (!connection) {
        memd_log(&worker->memd->log, MEMD_LOG_DOOR,
                 "%s: all %u connections are in use (see the setting `connections`)", where,
                 worker->memd->book.room.connections);
        close(fd);
        return;
    }
    connection->watched = MEMD_WATCHED_CONNECTION;
    connection->fd = fd;
    connection->is_settled = false;
    connection->since_ms = connection->progress_ms = worker->now_ms;
    memd_talk_begin(&connection->talk, &worker->memd->identity, &worker->memd->book,
                    &worker->counts, where);
    connection->talk.rdma_port = door->rdma_port;
    link_in(worker, connection);
    worker->unproven++;
    atomic_fetch_add(&worker->load, 1);
    memd_count(&worker->counts.accepted, 1);
    if (!watch(worker, connection, EPOLLIN))
        end(worker, connection, "epoll has no room for it: see fs.epoll.max_user_watches");
}

/* Everybody who stands there, or as many as there is room for. */
static void answer_door(struct memd_worker *worker, const struct memd_door *door)
{
    char where[MEMD_WHO_BYTES];

    while (!worker->is_door_shut) {
        int fd;

        if (!make_room(worker)) {
            watch_doors(worker, false);
            return;
        }
        fd = memd_door_accept(door, where);
        if (fd >= 0) {
            welcome(worker, door, fd, where);
            continue;
        }
        if (errno != EAGAIN) {
            memd_log(&worker->memd->log, MEMD_LOG_DOOR, "nobody can be let in: %s%s",
                     strerrordesc_np(errno), errno == EMFILE ? ": raise ulimit -n" : "");
            watch_doors(worker, false);
        }
        return;
    }
}

/* --- Bell and clock -------------------------------------------------------------------------- */

static void open_inbox(struct memd_worker *worker)
{
    struct memd_connection *connection, *next;

    pthread_mutex_lock(&worker->lock);
    connection = worker->inbox;
    worker->inbox = NULL;
    pthread_mutex_unlock(&worker->lock);
    for (; connection; connection = next) {
        next = connection->next;
        link_in(worker, connection);
        if (!watch(worker, connection, EPOLLIN))
            end(worker, connection, "epoll has no room for it: see fs.epoll.max_user_watches");
        else
            (void)run(worker, connection, false);
    }
}

/* Its client has opened it anew, or had it severed. It would notice by its next event, which may
 * never come. */
static bool is_overtaken(const struct memd_talk *talk)
{
    return talk->lease && talk->state != MEMD_TALK_RETURNING &&
           memd_line_is_over(talk->lease, talk->line, talk->turn);
}

/* Leases may be over, or gone; lines may be another's. */
static void look_at_leases(struct memd_worker *worker)
{
    struct memd_connection *connection, *next;

    for (connection = worker->connections; connection; connection = next) {
        struct memd_talk *talk = &connection->talk;

        next = connection->next;
        if (!talk->lease)
            continue;
        if (talk->state == MEMD_TALK_RETURNING && memd_lease_is_gone(talk->lease)) {
            memd_talk_returned(talk);
            connection->progress_ms = worker->now_ms;
            (void)run(worker, connection, false);
        } else if (talk->state != MEMD_TALK_RETURNING &&
                   (!memd_lease_is_lent(talk->lease) || is_overtaken(talk))) {
            end(worker, connection, NULL);
        }
    }
}

static void heed_bell(struct memd_worker *worker)
{
    uint64_t count;

    if (read(worker->bell_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        abort(); /* only a closed descriptor can fail */
    open_inbox(worker);
    look_at_leases(worker);
}

/* We ourselves stood still: what was said meanwhile waits in the sockets, and is not late. */
static void forgive(struct memd_worker *worker, uint64_t still_ms)
{
    for (struct memd_connection *each = worker->connections; each; each = each->next) {
        each->since_ms += still_ms;
        each->progress_ms += still_ms;
    }
}

/* A connection that another worker gave us may be of a later moment than ours. */
static uint64_t passed_ms(const struct memd_worker *worker, uint64_t since_ms)
{
    return worker->now_ms > since_ms ? worker->now_ms - since_ms : 0;
}

/* Why its time is over; NULL: it is not. */
static const char *why_late(const struct memd_worker *worker,
                            const struct memd_connection *connection, uint64_t lease_ms)
{
    const struct memd_talk *talk = &connection->talk;

    if (!connection->is_settled)
        return passed_ms(worker, connection->since_ms) > MEMD_UNPROVEN_MS
                   ? "it has not proven the key in time"
                   : NULL;
    if (talk->admission == MEMD_GUEST)
        return passed_ms(worker, connection->since_ms) > MEMD_UNPROVEN_MS
                   ? "it was let in to take the place of another, and has not"
                   : NULL;
    if (talk->state == MEMD_TALK_RETURNING ||
        passed_ms(worker, connection->progress_ms) <= lease_ms)
        return NULL;
    if (memd_talk_is_midway(talk))
        return "it stopped in the midst of a message";
    return talk->lease ? NULL : "it said nothing and has no lease";
}

static void look_at_clock(struct memd_worker *worker)
{
    const uint64_t lease_ms = memd_book_lease_ms(&worker->memd->book);
    struct memd_connection *connection, *next;

    for (connection = worker->connections; connection; connection = next) {
        const char *why = why_late(worker, connection, lease_ms);

        next = connection->next;
        if (why || is_overtaken(&connection->talk))
            end(worker, connection, why);
    }
    if (worker->is_door_shut)
        watch_doors(worker, true);
}

/* --- The thread ------------------------------------------------------------------------------ */

static void heed(struct memd_worker *worker, void *about, uint32_t events)
{
    switch (*(enum memd_watched *)about) {
    case MEMD_WATCHED_BELL: heed_bell(worker); break;
    case MEMD_WATCHED_DOOR: answer_door(worker, about); break;
    case MEMD_WATCHED_CONNECTION: handle(worker, about, events); break;
    }
}

static int tick_ms(const struct memd_worker *worker)
{
    if (worker->is_door_shut)
        return TICK_FEW_MS;
    return worker->connections ? TICK_MS : -1;
}

/* Is it a connection that moves more than one event lets it? */
static bool is_long(const void *about)
{
    return *(const enum memd_watched *)about == MEMD_WATCHED_CONNECTION &&
           memd_talk_is_midway(&((const struct memd_connection *)about)->talk);
}

static void heed_all(struct memd_worker *worker, struct epoll_event *events, int count)
{
    int left = 0;

    for (int i = 0; i < count; i++)
        if (is_long(events[i].data.ptr))
            events[left++] = events[i];
        else
            heed(worker, events[i].data.ptr, events[i].events);
    for (int i = 0; i < left; i++)
        heed(worker, events[i].data.ptr, events[i].events);
}

/* Look for what comes next, unless as many look already as there are processors to spare. */
static int look(struct memd_worker *worker, struct epoll_event *events)
{
    struct memd *memd = worker->memd;
    int count = 0;

    if (atomic_fetch_add(&memd->looking, 1) < memd->looking_most)
        while ((count = epoll_wait(worker->epoll_fd, events, EVENTS_MOST, 0)) == 0 &&
               memd_now_ns() < worker->look_until_ns)
            sched_yield(); /* who could run here may be the one that asks */
    atomic_fetch_sub(&memd->looking, 1);
    return count;
}

static int await_events(struct memd_worker *worker, struct epoll_event *events)
{
    int count = worker->look_until_ns ? look(worker, events) : 0;

    worker->look_until_ns = 0;
    return count != 0 ? count : epoll_wait(worker->epoll_fd, events, EVENTS_MOST, tick_ms(worker));
}

static void *work(void *argument)
{
    struct memd_worker *worker = argument;
    struct epoll_event events[EVENTS_MOST];
    uint64_t looked_ms = 0;

    while (!atomic_load(&worker->memd->is_stopping)) {
        int count = await_events(worker, events);
        uint64_t now_ms = memd_now_ms();

        if (now_ms - worker->now_ms > STILL_MS)
            forgive(worker, now_ms - worker->now_ms);
        worker->now_ms = now_ms;
        heed_all(worker, events, count);
        if (count > 0 && worker->memd->look_ns)
            worker->look_until_ns = memd_now_ns() + worker->memd->look_ns;
        if (worker->now_ms - looked_ms >=
            (uint64_t)(worker->is_door_shut ? TICK_FEW_MS : TICK_MS)) {
            look_at_clock(worker);
            looked_ms = worker->now_ms;
        }
        spare_ended(worker);
    }
    return NULL;
}

/* When all have ended: until then one can be given connections by another. */
static void end_all(struct memd_worker *worker)
{
    open_inbox(worker);
    while (worker->connections)
        end(worker, worker->connections, NULL);
}

static bool watch_own(struct memd_worker *worker)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = worker};

    if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->bell_fd, &event) != 0)
        return false;
    for (uint32_t i = 0; i < worker->memd->door_count && worker->index == 0; i++) {
        event.data.ptr = &worker->memd->doors[i];
        if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->memd->doors[i].fd, &event) != 0)
            return false;
    }
    return true;
}

static void close_worker(struct memd_worker *worker)
{
    if (worker->epoll_fd >= 0)
        close(worker->epoll_fd);
    if (worker->bell_fd >= 0)
        close(worker->bell_fd);
    pthread_mutex_destroy(&worker->lock);
}

static int start(struct memd *memd, uint32_t index)
{
    struct memd_worker *worker = &memd->workers[index];
    char name[16];
    int error = 0;

    *worker = (struct memd_worker){.watched = MEMD_WATCHED_BELL, .memd = memd, .index = index};
    pthread_mutex_init(&worker->lock, NULL);
    worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    worker->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    snprintf(name, sizeof(name), "memd-%u", index);
    if (worker->epoll_fd < 0 || worker->bell_fd < 0 || !watch_own(worker))
        error = errno;
    else
        error = memd_thread_start(&worker->thread, name, work, worker);
    if (error)
        close_worker(worker);
    return error;
}

static void stop(struct memd *memd, uint32_t from)
{
    atomic_store(&memd->is_stopping, true);
    for (uint32_t i = from; i < memd->worker_count; i++)
        ring(&memd->workers[i]);
    for (uint32_t i = from; i < memd->worker_count; i++)
        pthread_join(memd->workers[i].thread, NULL);
    for (uint32_t i = from; i < memd->worker_count; i++)
        end_all(&memd->workers[i]);
    for (uint32_t i = from; i < memd->worker_count; i++)
        close_worker(&memd->workers[i]);
    memd->worker_count = 0;
}

int memd_workers_start(struct memd *memd, uint32_t count)
{
    int error;

    memd->worker_count = count;
    /* The first one gives to the others: it comes last. */
    for (uint32_t i = count; i-- > 0;) {
        error = start(memd, i);
        if (error) {
            stop(memd, i + 1);
            return error;
        }
    }
    return 0;
}

void memd_workers_stop(struct memd *memd)
{
    stop(memd, 0);
}
