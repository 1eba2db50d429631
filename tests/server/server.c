/* SPDX-License-Identifier: MIT */
#include "tests/server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transport/memd/memd.h"

#define LEASE_MS 300000u /* no test is as long */

static int make_key(const char *path, struct wr_key *key_p)
{
    uint8_t bytes[WR_KEY_BYTES];
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    const char *why;
    ssize_t written;

    if (fd < 0)
        return errno;
    wr_random(bytes, sizeof(bytes));
    written = write(fd, bytes, sizeof(bytes));
    close(fd);
    return written == (ssize_t)sizeof(bytes) && wr_key_read(path, key_p, &why) == WEIR_OK ? 0 : EIO;
}

/* Ask for memory back (SIGUSR1), no longer (SIGUSR2); end when all is returned (SIGTERM). */
static _Noreturn void obey(struct memd *memd, const struct memd_limits *limits)
{
    const struct memd_limits few = {.memory = 1, .lease_ms = LEASE_MS};
    struct memd_gauges gauges;
    sigset_t signals;
    int which;

    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    do {
        which = sigwaitinfo(&signals, NULL);
        if (which == SIGUSR1 || which == SIGUSR2)
            memd_tune(memd, which == SIGUSR1 ? &few : limits);
    } while (which != SIGTERM);
    memd_drain(memd);
    do {
        usleep(10000);
        memd_measure(memd, &gauges);
    } while (gauges.leases > 0);
    memd_close(memd);
    _exit(0);
}

static _Noreturn void serve(const struct wr_key *key, uint64_t bytes, int port_fd)
{
    const char *const listen[] = {"tcp://127.0.0.1:0"};
    const struct memd_options options = {.listen = listen,
                                         .listen_count = 1,
                                         .key = key,
                                         .spin_us = 20,
                                         .limits = {.memory = bytes, .lease_ms = LEASE_MS}};
    struct memd *memd;
    uint16_t port = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (memd_open(&options, &memd) == WEIR_OK)
        port = memd_port(memd, 0);
    if (write(port_fd, &port, sizeof(port)) != (ssize_t)sizeof(port))
        _exit(1);
    obey(memd, &options.limits);
}

int server_start(const char *key_path, uint64_t bytes, struct server *server_p)
{
    struct server server = {.port = 0};
    struct wr_key key;
    int fd[2], error;

    if (!wr_session_begin())
        return EIO;
    error = make_key(key_path, &key);
    if (error)
        return error;
    if (pipe(fd) != 0)
        return errno;
    server.process = fork();
    if (server.process == 0)
        serve(&key, bytes, fd[1]);
    close(fd[1]);
    if (server.process < 0 ||
        read(fd[0], &server.port, sizeof(server.port)) != (ssize_t)sizeof(server.port) ||
        server.port == 0) {
        if (server.process > 0)
            server_end(&server);
        error = ECHILD;
    }
    close(fd[0]);
    if (!error)
        *server_p = server;
    return error;
}

void server_end(const struct server *server)
{
    kill(server->process, SIGKILL);
    waitpid(server->process, NULL, 0);
}

bool server_has_ended(const struct server *server, unsigned seconds)
{
    int status;

    for (unsigned i = 0; i < 100 * seconds; i++) {
        if (waitpid(server->process, &status, WNOHANG) == server->process)
            return WIFEXITED(status) && WEXITSTATUS(status) == 0;
        usleep(10000);
    }
    return false;
}
