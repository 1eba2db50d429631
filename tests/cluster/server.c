/* SPDX-License-Identifier: MIT */

/* Servers: the whole weir-memd, as a simulated process. */

#include <stdio.h>
#include <stdlib.h>

#include "tests/cluster/files.h"
#include "tests/cluster/net.h"
#include "tests/cluster/world.h"
#include "transport/memd/server.h"

#define GRACE_NS (2 * LOOP_SECOND)

static void note_line(void *context, const char *line)
{
    (void)context;
    loop_note(line + 20, 0, 0); /* without the time of the real clock */
}

static uint64_t true_when(const void *flag)
{
    return *(const bool *)flag ? 0 : LOOP_NEVER;
}

/* What a server that has ended well leaves behind: nothing. */
static void check_ended(const struct server *server)
{
    if (net_open_files(server->process))
        loop_fail("server %u has ended, and %u descriptors are open", server->index,
                  net_open_files(server->process));
    if (memory_mapped(server->process))
        loop_fail("server %u has ended, and memory is mapped", server->index);
}

static void *serve(void *context)
{
    static const char *const listen[] = {"tcp://0.0.0.0:7070"};
    struct server *server = context;
    const struct memd_options options = {.listen = listen,
                                         .listen_count = 1,
                                         .key = &world.key,
                                         .limits = server->limits,
                                         .threads = 1 + (uint32_t)loop_draw(3),
                                         .spin_us = loop_chance(2) ? 20 : 0,
                                         .log = note_line};
    struct memd *memd;
    int error = memd_open(&options, &memd);

    if (error)
        loop_fail("server %u cannot be started: %d", server->index, error);
    server->memd = memd;
    (void)loop_wait(true_when, &server->wants_end, LOOP_NEVER);
    server->is_draining = true;
    memd_drain(memd);
    loop_sleep(loop_draw(GRACE_NS));
    server->memd = NULL;
    while (server->is_looked_at)
        loop_sleep(LOOP_MS);
    met.expired += memd->book.expired;
    memd_close(memd);
    check_ended(server);
    server->process->is_dead = true;
    return NULL;
}

void server_start(struct server *server)
{
    struct process *process = calloc(1, sizeof(*process));

    if (!process)
        loop_fail("the simulator is out of memory");
    snprintf(process->name, sizeof(process->name), "server%u", server->index);
    process->host = server->host;
    files_set_up(server->host, true);
    server->process = process;
    server->lives++;
    server->memory_most = server->limits.memory;
    server->wants_end = server->is_short = server->is_draining = false;
    server->main = loop_start(process, "main", serve, server);
}

void server_crash(struct server *server, bool with_host)
{
    loop_note("server crashes", server->index, with_host);
    met.crashes++;
    if (server->memd)
        met.expired += server->memd->book.expired;
    server->memd = NULL;
    loop_stop(server->process, false);
    loop_kill(server->process);
    net_gone(server->process, with_host);
    calls_gone(server->process);
    memory_gone(server->process);
}

void server_stop(struct server *server, bool is_stopped)
{
    loop_note("server stands", server->index, is_stopped);
    loop_stop(server->process, is_stopped);
    if (!is_stopped)
        server->continued_ns = loop_now();
}

bool calls_is_short(const struct process *process)
{
    for (uint32_t i = 0; i < world.server_count; i++)
        if (world.servers[i].process == process)
            return world.servers[i].is_short;
    return false;
}
