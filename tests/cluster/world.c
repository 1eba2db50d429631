/* SPDX-License-Identifier: MIT */

/* The director: what befalls servers, clients and links, and that it is all well in the end. */

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "tests/cluster/net.h"
#include "tests/cluster/world.h"
#include "transport/memd/server.h"

#define LOOK_NS   (100 * LOOP_MS)
#define MIB       ((uint64_t)1 << 20)
#define STALL_NS  (8 * LOOP_SECOND)
#define HEALED_NS (12 * LOOP_SECOND) /* the time in which everything comes back */

struct world world;
struct met met;

static struct process nobody = {.name = "director", .host = NET_HOSTS_MOST - 1};

/* What is wrong at the moment, and when it ends. */
static uint64_t server_ends_ns[SERVERS_MOST], client_ends_ns[CLIENTS_MOST],
    way_ends_ns[CLIENTS_MOST];

static struct server *any_server(void)
{
    return &world.servers[loop_draw(world.server_count)];
}

/* The two are kept apart, if either stands still, or is not there, or a way between them is held.
 */
static void note_apart(void)
{
    for (uint32_t i = 0; i < world.client_count; i++) {
        const struct client *client = &world.clients[i];
        const uint32_t there = client->server->host;

        checks_disturb(i, client->process->is_stopped || client->process->is_dead ||
                              loop_now() < client->stalled_ns ||
                              client->server->process->is_stopped || !client->server->memd ||
                              net_way(client->host, there)->is_held ||
                              net_way(there, client->host)->is_held);
    }
}

/* --- What befalls them ----------------------------------------------------------------------- */

/* From all servers, for its next life may turn to another. */
static void hold(const struct client *client, bool is_held, uint32_t how)
{
    for (uint32_t i = 0; i < world.server_count; i++) {
        if (how != 1)
            net_hold(client->host, world.servers[i].host, is_held);
        if (how != 0)
            net_hold(world.servers[i].host, client->host, is_held);
    }
}

static void befall_server(struct server *server)
{
    const uint32_t i = server->index;

    if (server_ends_ns[i] || !server->memd)
        return;
    switch (loop_draw(7)) {
    case 0: server_crash(server, loop_chance(2)); break;
    case 1: server->wants_end = true; break;
    case 2: server->is_short = true; break;
    case 3:
        server->limits.memory = (2 + 2 * loop_draw(10)) * MIB;
        server->memory_most = server->memory_most > server->limits.memory ? server->memory_most
                                                                          : server->limits.memory;
        memd_tune(server->memd, &server->limits);
        return;
    default: server_stop(server, true); break;
    }
    server_ends_ns[i] = loop_now() + loop_draw(loop_chance(2) ? 8 * LOOP_SECOND : LOOP_SECOND);
}

static void befall_client(struct client *client)
{
    const uint32_t i = client->index;

    if (client_ends_ns[i])
        return;
    if (loop_chance(3))
        client_crash(client, loop_chance(2));
    else
        client_stop(client, true);
    client_ends_ns[i] = loop_now() + loop_draw(loop_chance(2) ? 8 * LOOP_SECOND : LOOP_SECOND);
}

static void befall_way(struct client *client)
{
    if (way_ends_ns[client->index])
        return;
    switch (loop_draw(4)) {
    case 0: net_cut(client->host, client->server->host); return;
    case 1:
    case 2:
        client->stalled_ns = loop_now() + STALL_NS;
        net_stall(client->host, client->server->host, STALL_NS);
        return;
    default: break;
    }
    hold(client, true, (uint32_t)loop_draw(3));
    way_ends_ns[client->index] = loop_now() +
                                 loop_draw(loop_chance(2) ? 8 * LOOP_SECOND : LOOP_SECOND);
}

/* --- And what ends it ------------------------------------------------------------------------ */

static void mend_server(struct server *server)
{
    server_ends_ns[server->index] = 0;
    server->is_short = false;
    if (server->process->is_stopped)
        server_stop(server, false);
    if (server->process->is_dead)
        server_start(server);
}

static void mend_client(struct client *client)
{
    client_ends_ns[client->index] = 0;
    if (client->process->is_stopped)
        client_stop(client, false);
    if (client->process->is_dead)
        client_start(client);
}

static void mend(bool everything)
{
    for (uint32_t i = 0; i < world.server_count; i++) {
        struct server *server = &world.servers[i];

        /* One that ends by itself takes the time that it takes. */
        if (server_ends_ns[i] && (everything || server_ends_ns[i] <= loop_now()) &&
            (!server->wants_end || server->process->is_dead))
            mend_server(server);
    }
    for (uint32_t i = 0; i < world.client_count; i++) {
        if (client_ends_ns[i] && (everything || client_ends_ns[i] <= loop_now()))
            mend_client(&world.clients[i]);
        if (way_ends_ns[i] && (everything || way_ends_ns[i] <= loop_now())) {
            hold(&world.clients[i], false, 2);
            way_ends_ns[i] = 0;
        }
    }
}

/* --- The run --------------------------------------------------------------------------------- */

static void watch(uint64_t ns)
{
    const uint64_t until_ns = loop_now() + ns;

    while (loop_now() < until_ns) {
        note_apart();
        checks_look();
        loop_sleep(LOOK_NS);
    }
}

static void trouble(uint64_t until_ns, uint32_t one_in)
{
    while (loop_now() < until_ns) {
        if (loop_chance(one_in))
            switch (loop_draw(4)) {
            case 0: befall_server(any_server()); break;
            case 1: befall_client(&world.clients[loop_draw(world.client_count)]); break;
            default: befall_way(&world.clients[loop_draw(world.client_count)]); break;
            }
        mend(false);
        watch(LOOK_NS);
    }
}

static bool is_anybody_there(void)
{
    for (uint32_t i = 0; i < world.client_count; i++)
        if (!world.clients[i].process->is_dead)
            return true;
    return false;
}

/* Everything heals: who has not lost his pages sees them all, and gives them back. */
static void heal(void)
{
    for (uint32_t i = 0; i < world.server_count; i++) {
        world.servers[i].limits.memory = 64 * MIB;
        if (world.servers[i].memd && !world.servers[i].process->is_stopped) {
            world.servers[i].memory_most = 64 * MIB;
            memd_tune(world.servers[i].memd, &world.servers[i].limits);
        }
    }
    for (int i = 0; i < 30; i++) { /* servers that end take a while */
        mend(true);
        watch(LOOK_NS);
    }
    world.is_healing = true;
    watch(HEALED_NS);
    world.is_healed = true;
    for (uint32_t i = 0; i < world.client_count; i++)
        world.clients[i].wants_end = true;
    while (is_anybody_there())
        watch(LOOK_NS);
}

/* Servers with nobody to lend to. */
static void end(void)
{
    uint64_t longest_ms = 0;

    for (uint32_t i = 0; i < world.server_count; i++)
        if (world.servers[i].limits.lease_ms > longest_ms)
            longest_ms = world.servers[i].limits.lease_ms;
    watch(longest_ms * LOOP_MS + 5 * LOOP_SECOND);
    for (uint32_t i = 0; i < world.server_count; i++) {
        struct memd_gauges gauges;

        memd_measure(world.servers[i].memd, &gauges);
        if (gauges.lent_bytes || gauges.leases || gauges.connections)
            loop_fail("server %u has %llu leases and %llu connections, and nobody is there", i,
                      (unsigned long long)gauges.leases, (unsigned long long)gauges.connections);
        world.servers[i].wants_end = true;
    }
    for (uint32_t i = 0; i < world.server_count; i++)
        while (!world.servers[i].process->is_dead)
            watch(LOOK_NS);
}

static void *direct(void *context)
{
    const uint64_t length_ns = (8 + loop_draw(12)) * LOOP_SECOND;
    const uint32_t one_in = 4 + (uint32_t)loop_draw(30);

    (void)context;
    for (uint32_t i = 0; i < world.server_count; i++)
        server_start(&world.servers[i]);
    loop_sleep(LOOK_NS);
    for (uint32_t i = 0; i < world.client_count; i++)
        client_start(&world.clients[i]);
    trouble(loop_now() + length_ns, one_in);
    heal();
    end();
    return NULL;
}

/* --- The world ------------------------------------------------------------------------------- */

static uint64_t random_state;

static uint32_t draw_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static void draw_bytes(void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)draw_random();
}

static const char *name_random(void)
{
    return "from the seed";
}

static void make_servers(void)
{
    for (uint32_t i = 0; i < world.server_count; i++)
        world.servers[i] = (struct server){.index = i,
                                           .host = HOST_SERVERS + i,
                                           .limits = {.memory = (6 + 2 * loop_draw(10)) * MIB,
                                                      .quota = loop_chance(2) ? 4 * MIB : 0,
                                                      .lease_ms = 2500 + (uint32_t)loop_draw(4500),
                                                      .keep_free_percent = 5}};
}

static void make_clients(void)
{
    for (uint32_t i = 0; i < world.client_count; i++) {
        const uint64_t delay_ns = loop_draw(loop_chance(4) ? 20 * LOOP_MS : LOOP_MS);

        world.clients[i] = (struct client){
            .index = i, .host = HOST_CLIENTS + i, .is_resting = !loop_chance(4)};
        for (uint32_t k = 0; k < world.server_count; k++) {
            *net_way(HOST_CLIENTS + i, HOST_SERVERS + k) = (struct net_way){delay_ns, delay_ns, 0};
            *net_way(HOST_SERVERS + k, HOST_CLIENTS + i) = (struct net_way){delay_ns, delay_ns, 0};
        }
    }
}

uint64_t world_run(const struct world_options *options, const char *key_path)
{
    static randombytes_implementation from_seed = {
        .implementation_name = name_random, .random = draw_random, .buf = draw_bytes};
    const char *why;
    struct task *director;

    random_state = options->seed;
    randombytes_set_implementation(&from_seed);
    loop_begin(options->seed, options->is_verbose);
    net_begin();
    snprintf(world.key_path, sizeof(world.key_path), "%s", key_path);
    if (!wr_session_begin() || wr_key_read(key_path, &world.key, &why) != WEIR_OK)
        loop_fail("the key cannot be read");
    memory_keeps_bytes(naive == NAIVE_ZERO);
    world.server_count = 1 + (uint32_t)loop_draw(3);
    world.client_count = 1 + (uint32_t)loop_draw(4);
    make_servers();
    make_clients();
    director = loop_start(&nobody, "director", direct, NULL);
    loop_run(director);
    return loop_hash();
}
