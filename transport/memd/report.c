/* SPDX-License-Identifier: MIT */

/* Report: what the server does, as a table for people and as lines for Prometheus. */

#include <inttypes.h>
#include <string.h>

#include "transport/memd/clock.h"
#include "transport/memd/server.h"

static void add_counts(const struct memd_worker *worker, struct memd_gauges *gauges)
{
#define X(name) gauges->name += atomic_load_explicit(&worker->counts.name, memory_order_relaxed);
    MEMD_COUNT_MAP(X)
#undef X
}

void memd_measure(struct memd *memd, struct memd_gauges *gauges_p)
{
    struct memd_book *book = &memd->book;

    *gauges_p = (struct memd_gauges){.connections = atomic_load(&book->connections),
                                     .is_asking_back = memd_book_asks_back(book)};
    for (uint32_t i = 0; i < memd->worker_count; i++)
        add_counts(&memd->workers[i], gauges_p);
    pthread_mutex_lock(&book->lock);
    gauges_p->memory_bytes = book->limits.memory;
    gauges_p->lent_bytes = book->lent_slots * WEIR_SLOT_BYTES;
    for (uint32_t i = 0; i < MEMD_LEASES_MOST; i++)
        gauges_p->leases += memd_lease_is_lent(&book->leases[i]);
    gauges_p->lent = book->lent;
    gauges_p->returned = book->returned;
    gauges_p->expired = book->expired;
    gauges_p->refused = book->refused;
    pthread_mutex_unlock(&book->lock);
}

static void print_lease(const struct memd_lease *lease, uint64_t now_ms, FILE *file)
{
    const uint64_t heard_ms = atomic_load_explicit(&lease->heard_ms, memory_order_relaxed);
    const double silent_s = now_ms > heard_ms ? (double)(now_ms - heard_ms) / 1000 : 0;
    char size[MEMD_SIZE_TEXT];

    fprintf(file, "%-52.52s %12s %11" PRIu32 " %9.1f s\n", lease->client.who,
            memd_size_text(lease->slots * WEIR_SLOT_BYTES, size), lease->users, silent_s);
}

/* Leases are few: they are printed under the lock, into memory, by whoever asks seldom. */
static void print_leases(struct memd *memd, FILE *file)
{
    const uint64_t now_ms = memd_now_ms();

    fprintf(file, "\n%-52s %12s %11s %11s\n", "client", "lent", "connections", "silent for");
    pthread_mutex_lock(&memd->book.lock);
    for (uint32_t i = 0; i < MEMD_LEASES_MOST; i++)
        if (memd_lease_is_lent(&memd->book.leases[i]))
            print_lease(&memd->book.leases[i], now_ms, file);
    pthread_mutex_unlock(&memd->book.lock);
}

void memd_print_status(struct memd *memd, FILE *file)
{
    struct memd_gauges now;
    char memory[MEMD_SIZE_TEXT], lent[MEMD_SIZE_TEXT], in[MEMD_SIZE_TEXT], out[MEMD_SIZE_TEXT];

    memd_measure(memd, &now);
    fprintf(file, "up          %" PRIu64 " s, epoch %016" PRIx64 ", %" PRIu32 " workers\n",
            (memd_now_ms() - memd->begun_ms) / 1000, memd->identity.epoch, memd->worker_count);
    fprintf(file, "memory      %s lent of %s%s\n", memd_size_text(now.lent_bytes, lent),
            memd_size_text(now.memory_bytes, memory),
            now.is_asking_back ? "; asks for memory back" : "");
    fprintf(file,
            "leases      %" PRIu32 " now; %" PRIu64 " lent, %" PRIu64 " returned, %" PRIu64
            " ended by silence, %" PRIu64 " refused\n",
            now.leases, now.lent, now.returned, now.expired, now.refused);
    fprintf(file,
            "connections %" PRIu32 " now; %" PRIu64 " accepted, %" PRIu64
            " without proof of the key, %" PRIu64 " ended for what they said\n",
            now.connections, now.accepted, now.unproven, now.unsound);
    fprintf(file, "pages       %" PRIu64 " read, %" PRIu64 " written, %" PRIu64 " discarded\n",
            now.pages_read, now.pages_written, now.pages_discarded);
    fprintf(file, "network     %" PRIu64 " messages, %s in, %s out\n", now.messages,
            memd_size_text(now.bytes_in, in), memd_size_text(now.bytes_out, out));
    print_leases(memd, file);
}

static void print_metric(FILE *file, const char *name, const char *type, const char *help,
                         uint64_t value)
{
    fprintf(file, "# HELP weir_memd_%s %s\n# TYPE weir_memd_%s %s\nweir_memd_%s %" PRIu64 "\n",
            name, help, name, type, name, value);
}

void memd_print_metrics(struct memd *memd, FILE *file)
{
    struct memd_gauges now;

    memd_measure(memd, &now);
#define GAUGE(name, value, help)   print_metric(file, name, "gauge", help, value)
#define COUNTER(name, value, help) print_metric(file, name "_total", "counter", help, value)
    GAUGE("memory_bytes", now.memory_bytes, "Memory that may be lent.");
    GAUGE("lent_bytes", now.lent_bytes, "Memory that is lent.");
    GAUGE("leases", now.leases, "Leases that are held.");
    GAUGE("connections", now.connections, "Connections that have proven the key.");
    GAUGE("asks_back", now.is_asking_back, "1: clients are asked for their memory back.");
    GAUGE("uptime_seconds", (memd_now_ms() - memd->begun_ms) / 1000, "Time since the start.");
    COUNTER("leases_lent", now.lent, "Leases that were given.");
    COUNTER("leases_returned", now.returned, "Leases that clients returned.");
    COUNTER("leases_expired", now.expired, "Leases that ended by their client's silence.");
    COUNTER("leases_refused", now.refused, "Leases that were not given.");
    COUNTER("connections_accepted", now.accepted, "Connections that were accepted.");
    COUNTER("connections_unproven", now.unproven, "Connections that ended without the key.");
    COUNTER("connections_unsound", now.unsound, "Connections that were ended for what they said.");
    COUNTER("messages", now.messages, "Messages that were understood.");
    COUNTER("pages_read", now.pages_read, "Pages that were asked for.");
    COUNTER("pages_written", now.pages_written, "Pages that were kept.");
    COUNTER("pages_discarded", now.pages_discarded, "Pages that were given up.");
    COUNTER("received_bytes", now.bytes_in, "Bytes that came over the network.");
    COUNTER("sent_bytes", now.bytes_out, "Bytes that went over the network.");
#undef GAUGE
#undef COUNTER
}
