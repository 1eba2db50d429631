/* SPDX-License-Identifier: MIT */

/* Doors: the addresses at which the server listens. */

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/memd/server.h"

#define HOST_BYTES 256
#define BACKLOG    256
#define KEEP_IDLE                                                                  \
    10 /* seconds of silence before the system asks whether the other end is there \
        */
#define KEEP_AGAIN 5
#define KEEP_COUNT 3

/* "HOST:PORT" or "[HOST]:PORT" into its parts; false: it is neither. */
static bool split(const char *place, char host[HOST_BYTES], const char **port_p)
{
    const bool is_bracketed = place[0] == '[';
    const char *start = place + is_bracketed, *end = strrchr(place, ':');
    size_t length;

    if (!end || end < start || !end[1] || strspn(end + 1, "0123456789") != strlen(end + 1))
        return false;
    length = (size_t)(end - start);
    if (is_bracketed && (length == 0 || start[length - 1] != ']'))
        return false;
    length -= is_bracketed;
    if (length == 0 || length >= HOST_BYTES || (!is_bracketed && memchr(start, ':', length)))
        return false;
    memcpy(host, start, length);
    host[length] = '\0';
    *port_p = end + 1;
    return true;
}

static int try_listen(const struct addrinfo *address, int *fd_p)
{
    const int one = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error;

    if (fd < 0)
        return errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (address->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) {
        *fd_p = fd;
        return 0;
    }
    error = errno;
    close(fd);
    return error;
}

static uint16_t port_of(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {.any = {0}};
    socklen_t bytes = sizeof(address);

    if (getsockname(fd, &address.any, &bytes) != 0)
        return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static int error_of(int os_error)
{
    switch (os_error) {
    case EADDRINUSE: return WEIR_EBUSY;
    case EACCES: return WEIR_EDENIED;
    case EADDRNOTAVAIL: return WEIR_ENOENT;
    default: return WEIR_EIO;
    }
}

static const char *advice(int os_error)
{
    switch (os_error) {
    case EADDRINUSE: return ": another program has that port; stop it or take another (0: any)";
    case EACCES: return ": ports below 1024 need a privilege; take another";
    case EADDRNOTAVAIL: return ": this machine has no such address; 0.0.0.0 or [::] means all";
    default: return "";
    }
}

int memd_listen(struct memd_log *log, const char *text, const char *place, int *fd_p,
                uint16_t *port_p)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    char host[HOST_BYTES];
    const char *port;
    struct addrinfo *found;
    int error, os_error;

    if (!split(place, host, &port)) {
        memd_log(log, MEMD_LOG_EVENT,
                 "\"%s\" is not understood; expected HOST:PORT with an IPv6 HOST in brackets, for "
                 "example 0.0.0.0:7070 or [::]:7070",
                 text);
        return WEIR_EINVAL;
    }
    error = getaddrinfo(host, port, &hints, &found);
    if (error) {
        memd_log(log, MEMD_LOG_EVENT, "%s: there is no such host: %s", text, gai_strerror(error));
        return WEIR_ENOENT;
    }
    os_error = EADDRNOTAVAIL;
    for (const struct addrinfo *each = found; each && os_error; each = each->ai_next)
        os_error = try_listen(each, fd_p);
    freeaddrinfo(found);
    if (os_error) {
        memd_log(log, MEMD_LOG_EVENT, "%s: %s%s", text, strerrordesc_np(os_error),
                 advice(os_error));
        return error_of(os_error);
    }
    *port_p = port_of(*fd_p);
    return WEIR_OK;
}

static int open_rdma(struct memd *memd, const char *text, struct memd_door *door)
{
    int error = WEIR_OK;

    if (!memd->identity.rdma)
        error = memd_rdma_open(&memd->identity.rdma, &memd->book, &memd->log, text);
    return error ? error : memd_rdma_listen(memd->identity.rdma, text, door->fd, &door->rdma_port);
}

static int open_door(struct memd *memd, const char *text, struct memd_door *door)
{
    static const char TCP[] = "tcp://", RDMA[] = "rdma://";
    const bool is_rdma = strncmp(text, RDMA, sizeof(RDMA) - 1) == 0;
    int error;

    if (!is_rdma && strncmp(text, TCP, sizeof(TCP) - 1) != 0) {
        memd_log(&memd->log, MEMD_LOG_EVENT,
                 "\"%s\" is not understood; expected tcp://HOST:PORT or rdma://HOST:PORT, for "
                 "example tcp://0.0.0.0:7070",
                 text);
        return WEIR_EINVAL;
    }
    error = memd_listen(&memd->log, text, text + (is_rdma ? sizeof(RDMA) : sizeof(TCP)) - 1,
                        &door->fd, &door->port);
    if (!error && is_rdma) {
        error = open_rdma(memd, text, door);
        if (error)
            close(door->fd);
    }
    if (error)
        return error;
    door->watched = MEMD_WATCHED_DOOR;
    memd_log(&memd->log, MEMD_LOG_EVENT, "listens at %.*s:%u", (int)(strrchr(text, ':') - text),
             text, door->port);
    return WEIR_OK;
}

int memd_doors_open(struct memd *memd, const struct memd_options *options)
{
    int error = WEIR_OK;

    if (options->listen_count == 0 || options->listen_count > MEMD_LISTEN_MOST) {
        memd_log(&memd->log, MEMD_LOG_EVENT,
                 "it has to listen at 1 to %u addresses, for example tcp://0.0.0.0:7070",
                 MEMD_LISTEN_MOST);
        return WEIR_EINVAL;
    }
    for (uint32_t i = 0; i < options->listen_count && !error; i++) {
        error = open_door(memd, options->listen[i], &memd->doors[i]);
        memd->door_count += !error;
    }
    return error;
}

void memd_doors_close(struct memd *memd)
{
    for (uint32_t i = 0; i < memd->door_count; i++)
        close(memd->doors[i].fd);
    memd->door_count = 0;
}

static void tune(int fd)
{
    const int one = 1, idle = KEEP_IDLE, again = KEEP_AGAIN, count = KEEP_COUNT;
    const unsigned timeout_ms = 1000u * (KEEP_IDLE + KEEP_AGAIN * KEEP_COUNT);

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &again, sizeof(again));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

int memd_door_accept(const struct memd_door *door, char where[MEMD_WHO_BYTES])
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof(address);
    char host[INET6_ADDRSTRLEN + 16], port[8];
    int fd;

    do
        fd = accept4(door->fd, (struct sockaddr *)&address, &bytes, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (fd < 0)
        return -1;
    tune(fd);
    if (getnameinfo((struct sockaddr *)&address, bytes, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(where, MEMD_WHO_BYTES, "somebody");
    else
        snprintf(where, MEMD_WHO_BYTES, "%s:%s", host, port);
    return fd;
}
