/* SPDX-License-Identifier: MIT */

/*
 * Checks of leases and of time: nothing is lent beyond its borrower's life and the lease's, nor
 * more than a server has; nobody loses pages without a cause; every request comes to its end.
 */

#include "tests/cluster/world.h"
#include "transport/memd/server.h"

#define LOANS_MOST    512u
#define CLUSTER_BYTES ((uint64_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)
/* How late a server may notice that a lease is over: it looks once a second, and its bell, its
 * keeper and its workers have to come to it. */
#define LATE_NS       (3 * LOOP_SECOND)
/* How long a client may take to come back after what kept it away: it tries once a second. */
#define BACK_NS       (4 * LOOP_SECOND)
/* So much sooner than its lease it may believe that it has been silent: it renews once a second. */
#define SOONER_NS     (2500 * LOOP_MS)

struct loan {
    const struct server *server;
    uint32_t life, client; /* of the server, and whose */
    uint64_t bytes, ended_ns;
};

static struct loan loans[LOANS_MOST];
static uint32_t loan_count;

/* Of a client and its server: since when they have been kept apart, with no pause that was long
 * enough to come back in; and when that ended. */
static struct {
    bool is_disturbed;
    uint64_t from_ns, to_ns;
} apart[CLIENTS_MOST];

int checks_ask(struct client *client, uint64_t bytes)
{
    struct loan *loan = &loans[loan_count];

    if (loan_count == LOANS_MOST)
        loop_fail("the simulator has too few loans");
    *loan = (struct loan){client->server, client->server->lives, client->index,
                          (bytes + CLUSTER_BYTES - 1) / CLUSTER_BYTES * CLUSTER_BYTES, LOOP_NEVER};
    return (int)loan_count++;
}

void checks_ended(int loan)
{
    if (loan >= 0 && loans[loan].ended_ns == LOOP_NEVER)
        loans[loan].ended_ns = loop_now();
}

void checks_disturb(uint32_t client, bool is_disturbed)
{
    if (is_disturbed && !apart[client].is_disturbed && loop_now() > apart[client].to_ns + BACK_NS)
        apart[client].from_ns = loop_now();
    if (!is_disturbed && apart[client].is_disturbed)
        apart[client].to_ns = loop_now();
    apart[client].is_disturbed = is_disturbed;
}

void checks_lost(const struct client *client)
{
    const struct loan *loan = &loans[client->loan];
    const uint64_t lease_ns = client->server->limits.lease_ms * LOOP_MS;
    const uint64_t to_ns = apart[client->index].is_disturbed ? loop_now()
                                                             : apart[client->index].to_ns;

    if (loan->life != client->server->lives) {
        met.other_lives++;
        return;
    }
    met.silences++;
    if (!apart[client->index].from_ns ||
        to_ns - apart[client->index].from_ns + SOONER_NS < lease_ns)
        loop_fail("client %u lost its pages, and was not silent for so long", client->index);
}

/* --- What servers lend ----------------------------------------------------------------------- */

/* May it still be lent? Until its lease is over, which begins anew for a server that stood still,
 * and with what it hears late. */
static bool may_be_lent(const struct loan *loan, const struct server *server)
{
    uint64_t from_ns = loan->ended_ns;

    if (loan->server != server || loan->life != server->lives)
        return false;
    if (from_ns == LOOP_NEVER || apart[loan->client].is_disturbed)
        return true;
    if (from_ns < server->continued_ns)
        from_ns = server->continued_ns;
    if (from_ns < apart[loan->client].to_ns)
        from_ns = apart[loan->client].to_ns;
    return loop_now() < from_ns + server->limits.lease_ms * LOOP_MS + LATE_NS;
}

static void check_server(struct server *server)
{
    struct memd_gauges gauges;
    uint64_t may_be = 0;

    server->is_looked_at = true;
    memd_measure(server->memd, &gauges);
    server->is_looked_at = false;
    for (uint32_t i = 0; i < loan_count; i++)
        may_be += may_be_lent(&loans[i], server) ? loans[i].bytes : 0;
    if (gauges.lent_bytes > may_be)
        loop_fail("server %u lends %llu bytes, where its borrowers can have %llu: a lease outlives "
                  "its client",
                  server->index, (unsigned long long)gauges.lent_bytes, (unsigned long long)may_be);
    if (gauges.lent_bytes > server->memory_most)
        loop_fail("server %u lends %llu bytes, and has %llu", server->index,
                  (unsigned long long)gauges.lent_bytes, (unsigned long long)server->memory_most);
}

/* --- Time ------------------------------------------------------------------------------------ */

static void check_request(const struct client *client, const struct request *request)
{
    uint64_t stood_ns, took_ns;

    if (!request->what)
        return;
    stood_ns = loop_stood_ns(client->process) - request->stood_ns;
    took_ns = loop_now() - request->since_ns - stood_ns;
    if (took_ns > request->most_ns)
        loop_fail("client %u: %s has no end; it began %.1f s ago, and %.1f s would be much",
                  client->index, request->what, (double)took_ns / (double)LOOP_SECOND,
                  (double)request->most_ns / (double)LOOP_SECOND);
}

void checks_look(void)
{
    for (uint32_t i = 0; i < world.server_count; i++)
        if (world.servers[i].memd && !world.servers[i].process->is_stopped)
            check_server(&world.servers[i]);
    for (uint32_t i = 0; i < world.client_count; i++)
        for (uint32_t k = 0; k < REQUESTS_MOST; k++)
            check_request(&world.clients[i], &world.clients[i].requests[k]);
}
