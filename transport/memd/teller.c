/* SPDX-License-Identifier: MIT */

/*
 * Teller: the thread that tells who asks: status over a socket of this machine, metrics by HTTP.
 *
 * It serves one at a time, each for a bounded time. Who is slow keeps others waiting who want to
 * look, and nobody's pages.
 */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "transport/memd/clock.h"
#include "transport/memd/server.h"

#define PATIENCE_MS   2000u
#define REQUEST_BYTES 2048u

/* --- To one who asks ------------------------------------------------------------------------- */

/* Until fd can be read or written, or the time is over, or the server ends. */
static bool wait_for(const struct memd *memd, int fd, short events, uint64_t until_ms)
{
    const uint64_t now_ms = memd_now_ms();
    struct pollfd fds[] = {{fd, events, 0}, {memd->teller_bell, POLLIN, 0}};

    return now_ms < until_ms && poll(fds, 2, (int)(until_ms - now_ms)) > 0 && !fds[1].revents;
}

static void send_all(const struct memd *memd, int fd, const char *text, size_t bytes)
{
    const uint64_t until_ms = memd_now_ms() + PATIENCE_MS;

    while (bytes && wait_for(memd, fd, POLLOUT, until_ms)) {
        ssize_t sent = send(fd, text, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            return;
        if (sent > 0) {
            text += sent;
            bytes -= (size_t)sent;
        }
    }
}

static void tell(struct memd *memd, int fd, void (*print)(struct memd *memd, FILE *file))
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);

    if (!file)
        return;
    print(memd, file);
    if (fclose(file) == 0)
        send_all(memd, fd, text, bytes);
    free(text);
}

/* The whole head of a request; what follows it is of no interest. False: it is none. */
static bool read_request(const struct memd *memd, int fd, char request[REQUEST_BYTES])
{
    const uint64_t until_ms = memd_now_ms() + PATIENCE_MS;
    size_t bytes = 0;

    request[0] = '\0';
    while (bytes < REQUEST_BYTES - 1 && !strstr(request, "\r\n\r\n")) {
        ssize_t got;

        if (!wait_for(memd, fd, POLLIN, until_ms))
            return false;
        got = recv(fd, request + bytes, REQUEST_BYTES - 1 - bytes, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        bytes += got > 0 ? (size_t)got : 0;
        request[bytes] = '\0';
    }
    return true;
}

static void print_answer(struct memd *memd, FILE *file)
{
    fputs("HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
          "Connection: close\r\n\r\n",
          file);
    memd_print_metrics(memd, file);
}

static void print_refusal(struct memd *memd, FILE *file)
{
    (void)memd;
    fputs("HTTP/1.0 404 Not Found\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
          "GET /metrics\r\n",
          file);
}

static void answer_http(struct memd *memd, int fd)
{
    char request[REQUEST_BYTES];

    if (read_request(memd, fd, request))
        tell(memd, fd, strncmp(request, "GET /metrics ", 13) == 0 ? print_answer : print_refusal);
}

/* --- The thread ------------------------------------------------------------------------------ */

static void serve(struct memd *memd, int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    if (listener == memd->status_fd)
        tell(memd, fd, memd_print_status);
    else
        answer_http(memd, fd);
    close(fd);
}

static void *work(void *argument)
{
    struct memd *memd = argument;

    for (;;) {
        struct pollfd fds[] = {{memd->teller_bell, POLLIN, 0},
                               {memd->status_fd, POLLIN, 0},
                               {memd->metrics_fd, POLLIN, 0}};

        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            abort(); /* the system has no memory for three descriptors */
        if (fds[0].revents)
            return NULL;
        for (int i = 1; i < 3; i++)
            if (fds[i].revents)
                serve(memd, fds[i].fd);
    }
}

/* --- Life ------------------------------------------------------------------------------------ */

/* Of a server that did not end well. */
static bool is_abandoned(const struct sockaddr_un *address)
{
    struct stat stat;
    int fd;
    bool is_refused;

    if (lstat(address->sun_path, &stat) != 0 || !S_ISSOCK(stat.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    is_refused = connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 &&
                 errno == ECONNREFUSED;
    close(fd);
    return is_refused;
}

static int refuse_path(struct memd *memd, const char *path, int os_error)
{
    memd_log(&memd->log, MEMD_LOG_EVENT, "status socket %s: %s%s", path, strerrordesc_np(os_error),
             os_error == EADDRINUSE ? ": another server or a file has that name; take another"
                                    : "");
    return os_error == EADDRINUSE ? WEIR_EBUSY : WEIR_EIO;
}

static int open_status(struct memd *memd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path)) {
        memd_log(&memd->log, MEMD_LOG_EVENT, "status socket %s: a path has at most %zu characters",
                 path, sizeof(address.sun_path) - 1);
        return WEIR_EINVAL;
    }
    strcpy(address.sun_path, path);
    if (is_abandoned(&address))
        (void)unlink(path);
    memd->status_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (memd->status_fd < 0)
        return refuse_path(memd, path, errno);
    /* Before it can be connected to: who may look is its directory's matter and its owner's. */
    (void)fchmod(memd->status_fd, 0600);
    if (bind(memd->status_fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return refuse_path(memd, path, errno);
    memd->status_path = strdup(path);
    if (!memd->status_path || listen(memd->status_fd, 8) != 0)
        return refuse_path(memd, path, memd->status_path ? errno : ENOMEM);
    return WEIR_OK;
}

int memd_teller_open(struct memd *memd, const struct memd_options *options)
{
    int error = WEIR_OK;

    if (options->status_path)
        error = open_status(memd, options->status_path);
    if (!error && options->metrics)
        error = memd_listen(&memd->log, options->metrics, options->metrics, &memd->metrics_fd,
                            &memd->metrics_port);
    if (!error && options->metrics)
        memd_log(&memd->log, MEMD_LOG_EVENT, "metrics at http://%.*s:%u/metrics",
                 (int)(strrchr(options->metrics, ':') - options->metrics), options->metrics,
                 memd->metrics_port);
    return error;
}

int memd_teller_start(struct memd *memd)
{
    int error;

    if (memd->status_fd < 0 && memd->metrics_fd < 0)
        return 0;
    memd->teller_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (memd->teller_bell < 0)
        return errno;
    error = memd_thread_start(&memd->teller, "memd-teller", work, memd);
    memd->has_teller = !error;
    return error;
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void memd_teller_stop(struct memd *memd)
{
    const uint64_t one = 1;

    if (memd->has_teller) {
        if (write(memd->teller_bell, &one, sizeof(one)) < 0)
            abort(); /* the counter is 0: only a closed descriptor can fail */
        pthread_join(memd->teller, NULL);
        memd->has_teller = false;
    }
    if (memd->status_path)
        (void)unlink(memd->status_path);
    free(memd->status_path);
    memd->status_path = NULL;
    close_one(&memd->status_fd);
    close_one(&memd->metrics_fd);
    close_one(&memd->teller_bell);
}
