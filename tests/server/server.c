/* SPDX-License-Identifier: MIT */
#include "tests/server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/server/net.h"
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

static _Noreturn void serve(const char *listen, const struct wr_key *key, uint64_t bytes,
                            int port_fd)
{
    const struct memd_options options = {.listen = &listen,
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

/* beyond: at the other end of a net. */
static int start(const struct wr_key *key, const char *listen, uint64_t bytes, bool is_beyond,
                 struct server *server_p)
{
    struct server server = {.port = 0};
    int fd[2], error = 0;

    if (pipe2(fd, O_CLOEXEC) != 0)
        return errno;
    server.process = fork();
    if (server.process == 0 && is_beyond && !net_enter())
        _exit(1);
    if (server.process == 0)
        serve(listen, key, bytes, fd[1]);
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

int server_start(const char *key_path, uint64_t bytes, struct server *server_p)
{
    return server_start_at("tcp://127.0.0.1:0", key_path, bytes, server_p);
}

static int start_with_new_key(const char *listen, const char *key_path, uint64_t bytes,
                              bool is_beyond, struct server *server_p)
{
    struct wr_key key;
    int error;

    if (!wr_session_begin())
        return EIO;
    error = make_key(key_path, &key);
    return error ? error : start(&key, listen, bytes, is_beyond, server_p);
}

int server_start_at(const char *listen, const char *key_path, uint64_t bytes,
                    struct server *server_p)
{
    return start_with_new_key(listen, key_path, bytes, false, server_p);
}

int server_start_beyond(const char *key_path, uint64_t bytes, struct server *server_p)
{
    return start_with_new_key("tcp://0.0.0.0:0", key_path, bytes, true, server_p);
}

int server_again(const char *key_path, uint64_t bytes, uint16_t port, struct server *server_p)
{
    struct wr_key key;
    const char *why;
    char listen[32];

    if (!wr_session_begin() || wr_key_read(key_path, &key, &why) != WEIR_OK)
        return EIO;
    snprintf(listen, sizeof(listen), "tcp://127.0.0.1:%u", port);
    return start(&key, listen, bytes, false, server_p);
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

/* --- A nurse ---------------------------------------------------------------------------------- */

/* What is asked of a nurse: this times NURSE_SERVERS, and the server's number. */
enum { KILL, AGAIN, STOP, GO };

static _Noreturn void nurse_servers(const char *key_path, uint64_t bytes, int asked, int answer)
{
    struct server server[NURSE_SERVERS];
    unsigned char number;
    int error = server_start(key_path, bytes, &server[0]);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 1; i < NURSE_SERVERS && !error; i++)
        error = server_again(key_path, bytes, 0, &server[i]);
    for (int i = 0; i < NURSE_SERVERS && !error; i++)
        if (write(answer, &server[i].port, sizeof(uint16_t)) != sizeof(uint16_t))
            error = errno;
    while (!error && read(asked, &number, 1) == 1) {
        struct server *patient = &server[number % NURSE_SERVERS];

        switch (number / NURSE_SERVERS) {
        case KILL: server_end(patient); break;
        case AGAIN: error = server_again(key_path, bytes, patient->port, patient); break;
        case STOP: kill(patient->process, SIGSTOP); break;
        default: kill(patient->process, SIGCONT);
        }
        if (!error && write(answer, &number, 1) != 1)
            error = errno;
    }
    _exit(error != 0); /* the servers end with it */
}

int nurse_start(const char *key_path, uint64_t bytes, struct nurse *nurse_p)
{
    int ask[2], answer[2];

    if (pipe(ask) != 0 || pipe(answer) != 0)
        return errno;
    nurse_p->process = fork();
    if (nurse_p->process < 0)
        return errno;
    if (nurse_p->process == 0) {
        close(ask[1]);
        close(answer[0]);
        nurse_servers(key_path, bytes, ask[0], answer[1]);
    }
    close(ask[0]);
    close(answer[1]);
    nurse_p->ask = ask[1];
    nurse_p->answer = answer[0];
    for (int i = 0; i < NURSE_SERVERS; i++)
        if (read(nurse_p->answer, &nurse_p->port[i], sizeof(uint16_t)) != sizeof(uint16_t))
            return ECHILD;
    return 0;
}

static bool tell(const struct nurse *nurse, unsigned what, unsigned number)
{
    unsigned char asked = (unsigned char)(what * NURSE_SERVERS + number);

    return write(nurse->ask, &asked, 1) == 1 && read(nurse->answer, &asked, 1) == 1;
}

bool nurse_kill(const struct nurse *nurse, unsigned number)
{
    return tell(nurse, KILL, number);
}

bool nurse_again(const struct nurse *nurse, unsigned number)
{
    return tell(nurse, AGAIN, number);
}

bool nurse_stop(const struct nurse *nurse, unsigned number)
{
    return tell(nurse, STOP, number);
}

bool nurse_go(const struct nurse *nurse, unsigned number)
{
    return tell(nurse, GO, number);
}

void nurse_end(const struct nurse *nurse)
{
    close(nurse->ask);
    close(nurse->answer);
    waitpid(nurse->process, NULL, 0);
}
