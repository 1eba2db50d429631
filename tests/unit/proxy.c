/* SPDX-License-Identifier: MIT */
#include "tests/unit/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAIRS 256
#define ROOM  65536

/* One direction: bytes that were read and not yet written. */
struct way {
    size_t from, to;
    char bytes[ROOM];
};

struct pair {
    int fd[2];                 /* the client's, the server's; -1: none */
    bool is_stalled, has_left; /* has_left: the client, while it was stalled */
    struct way way[2];         /* from fd[0], from fd[1] */
};

struct proxy {
    int door;
    uint16_t port;
    _Atomic(uint16_t) target;
    pthread_t thread;
    _Atomic(bool) stop, is_shut, is_held;
    _Atomic(int) spared;
    _Atomic(uint32_t) delay_us;
    pthread_mutex_t lock; /* keeps the pairs */
    struct pair pairs[PAIRS];
};

static void end_pair(struct pair *pair)
{
    for (int i = 0; i < 2; i++) {
        close(pair->fd[i]);
        pair->fd[i] = -1;
    }
}

static void make_quick(int fd)
{
    int on = 1;

    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void accept_one(struct proxy *p)
{
    int fd = accept4(p->door, NULL, NULL, SOCK_CLOEXEC), server = -1;

    if (fd < 0)
        return;
    if (!atomic_load(&p->is_shut))
        server = connect_to(atomic_load(&p->target));
    for (int i = 0; i < PAIRS && server >= 0; i++) {
        struct pair *pair = &p->pairs[i];

        if (pair->fd[0] >= 0)
            continue;
        make_quick(fd);
        make_quick(server);
        pair->fd[0] = fd;
        pair->fd[1] = server;
        pair->is_stalled = atomic_load(&p->is_held);
        pair->has_left = false;
        pair->way[0].from = pair->way[0].to = pair->way[1].from = pair->way[1].to = 0;
        return;
    }
    close(fd);
    if (server >= 0)
        close(server);
}

/* False: the pair has ended. */
static bool pass(struct pair *pair, int i)
{
    struct way *way = &pair->way[i];
    ssize_t moved;

    if (way->from == way->to) {
        moved = recv(pair->fd[i], way->bytes, ROOM, 0);
        if (moved == 0 || (moved < 0 && errno != EAGAIN && errno != EINTR)) {
            pair->has_left = i == 0 && pair->is_stalled;
            return pair->has_left; /* that, too, is passed on later */
        }
        way->from = 0;
        way->to = moved > 0 ? (size_t)moved : 0;
    }
    if (way->from == way->to || (i == 0 && pair->is_stalled))
        return true;
    moved = send(pair->fd[1 - i], way->bytes + way->from, way->to - way->from, MSG_NOSIGNAL);
    if (moved > 0)
        way->from += (size_t)moved;
    return moved >= 0 || errno == EAGAIN || errno == EINTR;
}

static short wanted(const struct pair *pair, int fd_index)
{
    const struct way *in = &pair->way[fd_index], *out = &pair->way[1 - fd_index];
    short events = 0;

    if (in->from == in->to)
        events |= POLLIN;
    if (out->from != out->to && !(fd_index == 1 && pair->is_stalled))
        events |= POLLOUT;
    return events;
}

static void serve(struct proxy *p)
{
    static _Thread_local struct pollfd waits[1 + 2 * PAIRS];
    nfds_t count = 1;

    waits[0] = (struct pollfd){.fd = p->door, .events = POLLIN};
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < 2 * PAIRS; i++)
        waits[count++] = (struct pollfd){
            .fd = i % 2 == 0 && p->pairs[i / 2].has_left ? -1 : p->pairs[i / 2].fd[i % 2],
            .events = wanted(&p->pairs[i / 2], i % 2)};
    pthread_mutex_unlock(&p->lock);
    poll(waits, count, 5);
    if (atomic_load(&p->delay_us))
        usleep(atomic_load(&p->delay_us));
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < PAIRS; i++)
        if (p->pairs[i].fd[0] >= 0 && (!pass(&p->pairs[i], 0) || !pass(&p->pairs[i], 1)))
            end_pair(&p->pairs[i]);
    if (waits[0].revents)
        accept_one(p);
    pthread_mutex_unlock(&p->lock);
}

static void *run(void *context)
{
    struct proxy *p = context;

    while (!atomic_load(&p->stop))
        serve(p);
    return NULL;
}

struct proxy *proxy_open(uint16_t to)
{
    struct proxy *p = calloc(1, sizeof(*p));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(address);

    if (!p)
        abort();
    for (int i = 0; i < PAIRS; i++)
        p->pairs[i].fd[0] = p->pairs[i].fd[1] = -1;
    pthread_mutex_init(&p->lock, NULL);
    atomic_store(&p->target, to);
    p->door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (p->door < 0 || bind(p->door, (struct sockaddr *)&address, length) != 0 ||
        listen(p->door, 128) != 0 ||
        getsockname(p->door, (struct sockaddr *)&address, &length) != 0 ||
        pthread_create(&p->thread, NULL, run, p) != 0)
        abort();
    p->port = ntohs(address.sin_port);
    return p;
}

void proxy_close(struct proxy *p)
{
    atomic_store(&p->stop, true);
    pthread_join(p->thread, NULL);
    proxy_spare(p, 0);
    proxy_cut(p);
    close(p->door);
    free(p);
}

uint16_t proxy_port(const struct proxy *p)
{
    return p->port;
}

void proxy_cut(struct proxy *p)
{
    pthread_mutex_lock(&p->lock);
    for (int i = atomic_load(&p->spared); i < PAIRS; i++)
        if (p->pairs[i].fd[0] >= 0)
            end_pair(&p->pairs[i]);
    pthread_mutex_unlock(&p->lock);
}

static void set_stalled(struct proxy *p, int from, bool is_stalled)
{
    pthread_mutex_lock(&p->lock);
    for (int i = from; i < PAIRS; i++)
        p->pairs[i].is_stalled = is_stalled;
    pthread_mutex_unlock(&p->lock);
}

void proxy_stall(struct proxy *p)
{
    set_stalled(p, atomic_load(&p->spared), true);
}

void proxy_release(struct proxy *p)
{
    set_stalled(p, 0, false);
}

void proxy_spare(struct proxy *p, uint32_t count)
{
    atomic_store(&p->spared, (int)count);
}

void proxy_hold(struct proxy *p, int is_held)
{
    atomic_store(&p->is_held, is_held);
}

uint32_t proxy_pairs(struct proxy *p)
{
    uint32_t count = 0;

    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < PAIRS; i++)
        count += p->pairs[i].fd[0] >= 0;
    pthread_mutex_unlock(&p->lock);
    return count;
}

void proxy_shut(struct proxy *p, int is_shut)
{
    atomic_store(&p->is_shut, is_shut);
}

void proxy_retarget(struct proxy *p, uint16_t to)
{
    atomic_store(&p->target, to);
}

void proxy_delay(struct proxy *p, uint32_t us)
{
    atomic_store(&p->delay_us, us);
}
