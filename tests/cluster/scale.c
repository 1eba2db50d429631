/* SPDX-License-Identifier: MIT */

/*
 * Scale: so many servers and clients, at rest, for some seconds of their time. Every client has a
 * back end at `uses` of the servers, each with CHANNELS channels, as a runtime with one thread that
 * evicts and one that reads ahead.
 *
 * What is small is simulated, and counted; what is large is reckoned from one pair, and from the
 * limits. Where both are possible, both must agree.
 */

#include "tests/cluster/scale.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cluster/net.h"
#include "tests/cluster/real.h"
#include "tests/cluster/world.h"
#include "transport/memd/server.h"
#include "transport/tcp.h"

#define PAIRS_MOST    1000u /* that are simulated */
#define SERVERS_SIM   100u
#define MIRRORED      2u  /* servers of a client: a mirror of two,             */
#define SPREAD        16u /* or the most members that one back end can have */
#define CHANNELS      2u
#define DEPTH         512u
#define REST_S        30u
#define CLUSTER_BYTES ((uint64_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)

/* What one cell of the table needs. */
struct need {
    uint64_t pairs;                        /* of a client and a server that lends to it */
    uint64_t connections, files, messages; /* both directions' sends in REST_S */
    uint64_t client_bytes;
};

struct cell {
    uint32_t servers, clients, uses; /* uses: servers of each client */
};

struct scale_server {
    struct process process;
    struct memd *memd;
};

struct scale_client {
    struct process process;
    struct task *main;
    struct weir_backend_env env;
    struct weir_backend *backends[SPREAD];
    uint32_t count;
};

static struct cell cell;
static struct scale_server *servers;
static struct scale_client *clients;
static struct need *need; /* shared with the process that simulates */
static struct process nobody = {.name = "director", .host = 4000};
static char key_path[] = "/tmp/weir-scale-key-XXXXXX";

static uint32_t server_host(uint32_t index)
{
    return 1 + index;
}

/* --- One cell, simulated --------------------------------------------------------------------- */

static void *serve(void *context)
{
    static const char *const listen[] = {"tcp://0.0.0.0:7070"};
    struct scale_server *server = context;
    const struct memd_options options = {.listen = listen,
                                         .listen_count = 1,
                                         .key = &world.key,
                                         .limits = {.memory = (uint64_t)1 << 40, .lease_ms = 30000},
                                         .threads = 2};

    if (memd_open(&options, &server->memd) != WEIR_OK)
        loop_fail("a server cannot be started");
    return NULL;
}

static void hear(void *context, int severity, int error, int os_error, const char *text)
{
    (void)context, (void)severity, (void)error, (void)os_error;
    loop_note(text, 0, 0);
}

/* Its servers are those behind its own number, so that all have as much to do. */
static void *borrow(void *context)
{
    struct scale_client *client = context;
    const uint32_t index = (uint32_t)(client - clients);

    client->env = (struct weir_backend_env){.context = client, .tell = hear};
    for (uint32_t i = 0; i < cell.uses; i++) {
        struct weir_backend *backend;
        struct weir_channel *channel;
        char spec[128];

        snprintf(spec, sizeof(spec), "//h%u:%u?size=2M&key=%s",
                 server_host((index + i) % cell.servers), PORT, key_path);
        if (weir_backend_tcp.open(spec, &client->env, &backend) != WEIR_OK)
            continue;
        for (uint32_t k = 0; k < CHANNELS; k++)
            if (weir_backend_tcp.channel_open(backend, DEPTH, &channel) != WEIR_OK)
                loop_fail("a channel cannot be opened");
            else
                need->client_bytes += malloc_usable_size(channel) +
                                      DEPTH * sizeof(struct weir_io *);
        client->backends[client->count++] = backend;
        need->client_bytes += sizeof(struct wr_tcp);
        need->pairs++;
    }
    return NULL;
}

static void measure(void)
{
    const uint64_t sends = net_counts()->sends;

    loop_sleep(REST_S * LOOP_SECOND);
    need->messages = net_counts()->sends - sends;
    for (uint32_t i = 0; i < cell.servers; i++) {
        struct memd_gauges gauges;

        memd_measure(servers[i].memd, &gauges);
        need->connections += gauges.connections;
    }
    for (uint32_t i = 0; i < cell.clients; i++)
        need->files += net_open_files(&clients[i].process);
}

static void *direct(void *context)
{
    (void)context;
    for (uint32_t i = 0; i < cell.servers; i++) {
        servers[i].process = (struct process){.name = "server", .host = server_host(i)};
        (void)loop_start(&servers[i].process, "main", serve, &servers[i]);
    }
    loop_sleep(LOOP_SECOND);
    for (uint32_t i = 0; i < cell.clients; i++) {
        clients[i].process = (struct process){.name = "client", .host = 1 + cell.servers + i};
        clients[i].main = loop_start(&clients[i].process, "main", borrow, &clients[i]);
    }
    for (uint32_t i = 0; i < cell.clients; i++)
        while (!loop_has_ended(clients[i].main))
            loop_sleep(LOOP_SECOND / 10);
    loop_sleep(3 * LOOP_SECOND);
    measure();
    return NULL;
}

static _Noreturn void live(void)
{
    const char *why;

    servers = calloc(cell.servers, sizeof(*servers));
    clients = calloc(cell.clients, sizeof(*clients));
    loop_begin(1, false);
    net_begin();
    if (!servers || !clients || !wr_session_begin() ||
        wr_key_read(key_path, &world.key, &why) != WEIR_OK)
        loop_fail("no memory, or no key");
    loop_run(loop_start(&nobody, "director", direct, NULL));
    _exit(0);
}

static bool simulate(void)
{
    int status = 1;
    pid_t pid;

    memset(need, 0, sizeof(*need));
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        live();
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* --- The table ------------------------------------------------------------------------------- */

/* What a pair needs, from the smallest cell. */
static struct need pair;

/* A server that lends to so many: what stops it first; NULL: nothing does. */
static const char *limit_of(uint64_t leases, uint64_t connections)
{
    if (connections > MEMD_CONNECTIONS)
        return "connections of a server";
    if (leases > MEMD_LEASES)
        return "leases of a server";
    if (cell.uses * pair.files > 1024)
        return "descriptors of a client (ulimit -n)";
    return "";
}

/* Clients beyond a server's limit are refused: they are not in any of the figures but `limit`. */
static void print(const char *how, const struct need *all)
{
    const double servers_busy = cell.servers < cell.clients * cell.uses ? cell.servers
                                                                        : cell.clients * cell.uses;
    const double wanted = (double)cell.clients * cell.uses;

    printf("{\"bench\":\"scale\",\"how\":\"%s\",\"servers\":%u,\"clients\":%u,\"uses\":%u,"
           "\"pairs\":%llu,\"refused\":%.0f,\"leases_per_server\":%.1f,"
           "\"connections_per_server\":%.1f,\"messages_per_s_per_server\":%.1f,"
           "\"server_bytes\":%.0f,\"connections_per_client\":%.1f,\"descriptors_per_client\":%.1f,"
           "\"threads_per_client\":%u,\"messages_per_s_per_client\":%.1f,\"client_bytes\":%.0f,"
           "\"limit\":\"%s\"}\n",
           how, cell.servers, cell.clients, cell.uses, (unsigned long long)all->pairs,
           wanted - (double)all->pairs, (double)all->pairs / servers_busy,
           (double)all->connections / servers_busy, (double)all->messages / REST_S / servers_busy,
           (double)(all->pairs * sizeof(struct memd_lease) +
                    all->connections * sizeof(struct memd_connection)) /
               servers_busy,
           (double)all->connections / cell.clients, (double)all->files / cell.clients, cell.uses,
           (double)all->messages / REST_S / cell.clients, (double)all->client_bytes / cell.clients,
           limit_of((uint64_t)(wanted / servers_busy),
                    (uint64_t)(wanted / servers_busy) * pair.connections));
    fflush(stdout);
}

static struct need reckon(void)
{
    const uint64_t pairs = (uint64_t)cell.clients * cell.uses;

    return (struct need){.pairs = pairs,
                         .connections = pairs * pair.connections,
                         .files = pairs * pair.files,
                         .messages = pairs * pair.messages,
                         .client_bytes = pairs * pair.client_bytes};
}

static bool is_near(uint64_t a, uint64_t b)
{
    const uint64_t more = a > b ? a : b;

    return (more - (a > b ? b : a)) * 10 <= more;
}

/* Simulated where it is small, reckoned always. False: they do not agree. */
static bool row(uint32_t server_count, uint32_t client_count, uint32_t uses)
{
    struct need reckoned;
    uint64_t leases;

    cell = (struct cell){server_count, client_count, uses < server_count ? uses : server_count};
    reckoned = reckon();
    leases = reckoned.pairs / server_count;
    if (server_count > SERVERS_SIM || reckoned.pairs > PAIRS_MOST) {
        print("reckoned", &reckoned);
        return true;
    }
    if (!simulate())
        return false;
    print("simulated", need);
    if (leases > MEMD_LEASES || leases * pair.connections > MEMD_CONNECTIONS)
        return true; /* some are refused, or wait */
    return need->pairs == reckoned.pairs && is_near(need->connections, reckoned.connections) &&
           is_near(need->messages, reckoned.messages);
}

static bool make_key(void)
{
    static const uint8_t key[WR_KEY_BYTES] = {42};
    int fd = mkstemp(key_path);

    if (fd < 0 || __real_write(fd, key, sizeof(key)) != sizeof(key))
        return false;
    (void)__real_close(fd);
    need = real_mmap(NULL, sizeof(*need), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                     0);
    return need != MAP_FAILED;
}

static bool table(uint32_t most)
{
    static const uint32_t server_counts[] = {2, 10, 100, 1000},
                          client_counts[] = {1, 10, 100, 1000};

    cell = (struct cell){1, 1, 1};
    if (!simulate())
        return false;
    pair = *need;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++) {
            if ((uint64_t)server_counts[i] * client_counts[k] > most)
                continue;
            if (!row(server_counts[i], client_counts[k], MIRRORED) ||
                (server_counts[i] > 2 && !row(server_counts[i], client_counts[k], SPREAD)))
                return false;
        }
    printf("{\"bench\":\"scale\",\"how\":\"sizes\",\"lease_bytes\":%zu,\"connection_bytes\":%zu,"
           "\"server_fixed_bytes\":%zu,\"server_pool_bytes\":%zu,\"back_end_bytes\":%llu}\n",
           sizeof(struct memd_lease), sizeof(struct memd_connection), sizeof(struct memd),
           (MEMD_CONNECTIONS + MEMD_UNPROVEN_MOST) * sizeof(struct memd_connection),
           (unsigned long long)pair.client_bytes);
    return true;
}

int scale(uint32_t most)
{
    bool is_well = make_key() && table(most ? most : UINT32_MAX);

    (void)unlink(key_path);
    printf("scale %s\n", is_well ? "ok" : "FAILED: what was simulated is not what was reckoned");
    return !is_well;
}
