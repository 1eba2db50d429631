/* SPDX-License-Identifier: MIT */

/* Clients: what a runtime does with a back end, as a simulated process. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir.h>

#include "tests/cluster/files.h"
#include "tests/cluster/net.h"
#include "tests/cluster/world.h"

#define CLUSTER_BYTES ((uint64_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)

static uint32_t borrowers;

void request_begin(struct client *client, uint32_t which, const char *what, uint64_t most_ns)
{
    client->requests[which] = (struct request){what, loop_now(), loop_stood_ns(client->process),
                                               most_ns};
}

void request_end(struct client *client, uint32_t which)
{
    client->requests[which].what = NULL;
}

static void hear(void *context, int severity, int error, int os_error, const char *text)
{
    struct client *client = context;

    (void)error, (void)os_error;
    loop_note(text, (uint64_t)severity, 0);
    if (strstr(text, "are lost")) {
        client->is_lost = true;
        checks_lost(client);
    }
    client->was_away |= strstr(text, "does not answer") != NULL;
    met.returns += client->was_away && strstr(text, "answers again");
    met.asked_back += strstr(text, "asks for its memory back") != NULL;
}

/* --- Threads that fault ---------------------------------------------------------------------- */

static int read_some(struct client *client, uint32_t which, uint64_t slot, uint32_t pages)
{
    char *bytes = calloc(pages, WEIR_SLOT_BYTES);
    const uint64_t most_ns = (client->patience + 2 * client->timeout + 3) * LOOP_SECOND;
    const bool was_lost = client->is_lost;
    int error;

    if (!bytes)
        loop_fail("the simulator is out of memory");
    request_begin(client, which, "a read by a fault", most_ns);
    error = client->backend->ops->read(client->backend, slot, pages, bytes);
    request_end(client, which);
    loop_note("read", slot, (uint64_t)-error);
    met.reads += !error;
    met.failed_reads += error != WEIR_OK;
    if (error && error != WEIR_EIO && error != WEIR_ENOENT)
        loop_fail("a read by a fault failed with %d", error);
    if (!error && was_lost)
        loop_fail("a read succeeded after the pages were lost");
    if (!error)
        slots_check(&client->slots, slot, pages, bytes);
    free(bytes);
    return error;
}

static void *fault(void *context)
{
    struct client *client = context;
    const uint32_t which = loop_self() == client->workers[1] ? 1 : 2;

    while (!client->is_ending) {
        uint64_t slot;
        const uint32_t pages = slots_take(&client->slots, false, 4, &slot);

        if (pages) {
            read_some(client, which, slot, pages);
            slots_give(&client->slots, slot, pages, false);
        }
        if (!loop_chance(3) || client->is_resting)
            loop_sleep(loop_draw(world.is_healing ? LOOP_SECOND : 150 * LOOP_MS));
    }
    return NULL;
}

void client_look_through(struct client *client)
{
    for (uint64_t slot = 0; slot < client->slots.count; slot++)
        if (client->slots.at[slot].last || loop_chance(64)) {
            const int error = read_some(client, REQUESTS_MOST - 1, slot, 1);

            if (error && !client->is_lost && !world.is_healed)
                return;
            if (error && !client->is_lost)
                loop_fail("slot %llu cannot be read, though all is well again",
                          (unsigned long long)slot);
        }
    met.seen_whole += !client->is_lost;
}

/* --- The one that opens and closes ----------------------------------------------------------- */

/* May the server say that? */
static void check_refusal(const struct client *client, uint64_t bytes, int error)
{
    const struct memd_limits *limits = &client->server->limits;

    switch (error) {
    case WEIR_OK:
        if (limits->quota && bytes > limits->quota)
            loop_fail("%llu bytes were lent, over the quota", (unsigned long long)bytes);
        return;
    case WEIR_EDENIED: /* also where the connection broke before the proof was answered */
    case WEIR_EFULL:
    case WEIR_EIO: return;
    default: break;
    }
    loop_fail("opening failed with %d", error);
}

static bool open_it(struct client *client)
{
    const uint64_t bytes = CLUSTER_BYTES * (1 + loop_draw(3));
    char spec[160];
    int error;

    snprintf(spec, sizeof(spec), "//h%u:%u?size=%llu&key=%s&patience=%u&timeout=%u",
             client->server->host, PORT, (unsigned long long)bytes, world.key_path,
             client->patience, client->timeout);
    client->env = (struct weir_backend_env){
        .context = client, .tell = hear, .flags = client->puts_off ? WEIR_ENV_PUTS_OFF : 0};
    client->is_lost = client->was_away = client->is_ending = false;
    client->discarded = 0;
    client->loan = checks_ask(client, bytes);
    request_begin(client, 0, "open()", 10 * client->timeout * LOOP_SECOND);
    error = weir_backend_tcp.open(spec, &client->env, &client->backend);
    request_end(client, 0);
    loop_note("open", bytes, (uint64_t)-error);
    check_refusal(client, bytes, error);
    met.refused_opens += error == WEIR_EDENIED || error == WEIR_EFULL;
    if (error) {
        client->backend = NULL;
        checks_ended(client->loan);
        return false;
    }
    slots_begin(&client->slots, bytes / WEIR_SLOT_BYTES, ++borrowers);
    return true;
}

static uint64_t workers_when(const void *context)
{
    const struct client *client = context;

    for (uint32_t i = 0; i < 1 + READERS; i++)
        if (!loop_has_ended(client->workers[i]))
            return LOOP_NEVER;
    return 0;
}

static uint64_t unwanted_when(const void *context)
{
    const struct client *client = context;

    return client->wants_end || client->is_lost ? 0 : LOOP_NEVER;
}

static void use(struct client *client)
{
    client->workers[0] = loop_start(client->process, "channel", client_use_channel, client);
    for (uint32_t i = 1; i <= READERS; i++)
        client->workers[i] = loop_start(client->process, "fault", fault, client);
    (void)loop_wait(unwanted_when, client,
                    loop_chance(3) ? loop_now() + loop_draw(20 * LOOP_SECOND) : LOOP_NEVER);
    loop_sleep(loop_draw(LOOP_SECOND));
    client->is_ending = true;
    (void)loop_wait(workers_when, client, LOOP_NEVER);
}

static void close_it(struct client *client)
{
    client_look_through(client);
    request_begin(client, 0, "close()", 20 * client->timeout * LOOP_SECOND);
    client->backend->ops->close(client->backend);
    request_end(client, 0);
    client->backend = NULL;
    checks_ended(client->loan);
    if (net_open_files(client->process))
        loop_fail("client %u has closed, and descriptors are open", client->index);
}

static void *borrow(void *context)
{
    struct client *client = context;

    while (!client->wants_end) {
        if (open_it(client)) {
            use(client);
            close_it(client);
        }
        loop_sleep(loop_draw(LOOP_SECOND));
    }
    client->process->is_dead = true;
    return NULL;
}

void client_start(struct client *client)
{
    struct process *process = calloc(1, sizeof(*process));

    if (!client->bytes)
        client->bytes = aligned_alloc(4096, (size_t)BATCH_MOST * RUN_MOST * WEIR_SLOT_BYTES);
    if (!process || !client->bytes)
        loop_fail("the simulator is out of memory");
    snprintf(process->name, sizeof(process->name), "client%u", client->index);
    process->host = client->host;
    files_set_up(client->host, true);
    client->process = process;
    client->server = &world.servers[loop_draw(world.server_count)];
    client->patience = 2 + (uint32_t)loop_draw(6);
    client->puts_off = loop_chance(3);
    client->timeout = 1 + (uint32_t)loop_draw(2);
    client->loan = -1;
    memset(client->requests, 0, sizeof(client->requests));
    client->main = loop_start(process, "main", borrow, client);
}

void client_crash(struct client *client, bool with_host)
{
    loop_note("client crashes", client->index, with_host);
    met.crashes++;
    if (client->backend || client->requests[0].what)
        checks_ended(client->loan);
    client->backend = NULL;
    memset(client->requests, 0, sizeof(client->requests));
    loop_stop(client->process, false);
    loop_kill(client->process);
    net_gone(client->process, with_host);
    calls_gone(client->process);
    memory_gone(client->process);
}

void client_stop(struct client *client, bool is_stopped)
{
    loop_note("client stands", client->index, is_stopped);
    loop_stop(client->process, is_stopped);
}
