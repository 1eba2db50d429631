/* SPDX-License-Identifier: MIT */

/* Report: what the server has and does, as a table for people and as lines for Prometheus. */

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "transport/memd/clock.h"
#include "transport/memd/server.h"

static void add_counts(const struct memd_worker *worker, struct memd_gauges *gauges)
{
#define X(name) gauges->name += atomic_load_explicit(&worker->counts.name, memory_order_relaxed);
    MEMD_COUNT_MAP(X)
#undef X
}

uint32_t memd_lease_count(struct memd *memd)
{
    struct memd_book *book = &memd->book;
    uint32_t count = 0;

    pthread_mutex_lock(&book->lock);
    for (uint32_t i = 0; i < book->room.leases; i++)
        count += memd_lease_is_lent(&book->leases[i]);
    pthread_mutex_unlock(&book->lock);
    return count;
}

void memd_measure(struct memd *memd, struct memd_gauges *gauges_p)
{
    struct memd_book *book = &memd->book;
    const struct memd_memory_use use = memd_memory_measure();

    *gauges_p = (struct memd_gauges){.uptime_s = (memd_now_ms() - memd->begun_ms) / 1000,
                                     .resident_bytes = use.resident,
                                     .huge_bytes = use.huge,
                                     .connections = atomic_load(&book->connections),
                                     .leases = memd_lease_count(memd),
                                     .is_asking_back = memd_book_asks_back(book)};
    for (uint32_t i = 0; i < memd->worker_count; i++)
        add_counts(&memd->workers[i], gauges_p);
    pthread_mutex_lock(&book->lock);
    gauges_p->memory_bytes = book->limits.memory;
    gauges_p->lent_bytes = book->lent_slots * WEIR_SLOT_BYTES;
    gauges_p->lent = book->lent;
    gauges_p->returned = book->returned;
    gauges_p->expired = book->expired;
    gauges_p->refused = book->refused;
    pthread_mutex_unlock(&book->lock);
}

/* --- Gauges ---------------------------------------------------------------------------------- */

enum kind { GAUGE, COUNTER };
enum unit {
    NUMBER,
    BYTES,
    YES /* people are told when it is so */
};

/*
 * Each gauge once, for people and for Prometheus: rows of one line follow each other. People read
 * what stands before the number, the number, and the words behind it.
 */
static const struct row {
    const char *line, *before, *words;
    const char *name, *help;
    enum kind kind;
    enum unit unit;
    size_t offset;
} rows[] = {
#define ROW(line, before, words, kind, unit, field, name, help) \
    {line, before, words, name, help, kind, unit, offsetof(struct memd_gauges, field)},
    /* clang-format off */
    ROW("up", "", " s", GAUGE, NUMBER, uptime_s, "uptime_seconds", "Time since the start.")
    ROW("memory", "", " lent", GAUGE, BYTES, lent_bytes, "lent_bytes", "Memory that is lent.")
    ROW("memory", " of ", "", GAUGE, BYTES, memory_bytes, "memory_bytes",
        "Memory that may be lent.")
    ROW("memory", "; ", "asks for memory back", GAUGE, YES, is_asking_back, "asks_back",
        "1: clients are asked for their memory back.")
    ROW("in use", "", "", GAUGE, BYTES, resident_bytes, "resident_bytes",
        "Memory that the process has.")
    ROW("in use", ", ", " of it in huge pages", GAUGE, BYTES, huge_bytes, "huge_bytes",
        "Memory that the process has in huge pages.")
    ROW("leases", "", " now", GAUGE, NUMBER, leases, "leases", "Leases that are held.")
    ROW("leases", "; ", " lent", COUNTER, NUMBER, lent, "leases_lent", "Leases that were given.")
    ROW("leases", ", ", " returned", COUNTER, NUMBER, returned, "leases_returned",
        "Leases that clients returned.")
    ROW("leases", ", ", " ended by silence", COUNTER, NUMBER, expired, "leases_expired",
        "Leases that ended by their client's silence.")
    ROW("leases", ", ", " refused", COUNTER, NUMBER, refused, "leases_refused",
        "Leases that were not given.")
    ROW("connections", "", " now", GAUGE, NUMBER, connections, "connections",
        "Connections that have proven the key.")
    ROW("connections", "; ", " accepted", COUNTER, NUMBER, accepted, "connections_accepted",
        "Connections that were accepted.")
    ROW("connections", ", ", " without proof of the key", COUNTER, NUMBER, unproven,
        "connections_unproven", "Connections that ended without the key.")
    ROW("connections", ", ", " ended for what they said", COUNTER, NUMBER, unsound,
        "connections_unsound", "Connections that were ended for what they said.")
    ROW("pages", "", " read", COUNTER, NUMBER, pages_read, "pages_read",
        "Pages that were asked for.")
    ROW("pages", ", ", " written", COUNTER, NUMBER, pages_written, "pages_written",
        "Pages that were kept.")
    ROW("pages", ", ", " discarded", COUNTER, NUMBER, pages_discarded, "pages_discarded",
        "Pages that were given up.")
    ROW("network", "", " messages", COUNTER, NUMBER, messages, "messages",
        "Messages that were understood.")
    ROW("network", ", ", " in", COUNTER, BYTES, bytes_in, "received_bytes",
        "Bytes that came over the network.")
    ROW("network", ", ", " out", COUNTER, BYTES, bytes_out, "sent_bytes",
        "Bytes that went over the network.")
/* clang-format on */
#undef ROW
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static uint64_t value_of(const struct memd_gauges *gauges, const struct row *row)
{
    return *(const uint64_t *)(const void *)((const char *)gauges + row->offset);
}

static void print_for_people(FILE *file, const struct row *row, uint64_t value)
{
    char size[MEMD_SIZE_TEXT];

    switch (row->unit) {
    case YES:
        if (value)
            fprintf(file, "%s%s", row->before, row->words);
        return;
    case NUMBER: fprintf(file, "%s%" PRIu64 "%s", row->before, value, row->words); return;
    case BYTES: fprintf(file, "%s%s%s", row->before, memd_size_text(value, size), row->words);
    }
}

static void print_gauges(const struct memd_gauges *gauges, FILE *file)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (i == 0 || strcmp(rows[i].line, rows[i - 1].line) != 0)
            fprintf(file, "%s%-11s ", i ? "\n" : "", rows[i].line);
        print_for_people(file, &rows[i], value_of(gauges, &rows[i]));
    }
    fputc('\n', file);
}

void memd_print_metrics(struct memd *memd, FILE *file)
{
    struct memd_gauges now;

    memd_measure(memd, &now);
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        const char *end = row->kind == COUNTER ? "_total" : "";
        const char *type = row->kind == COUNTER ? "counter" : "gauge";

        fprintf(file,
                "# HELP weir_memd_%s%s %s\n# TYPE weir_memd_%s%s %s\nweir_memd_%s%s %" PRIu64 "\n",
                row->name, end, row->help, row->name, end, type, row->name, end,
                value_of(&now, row));
    }
}

/* --- More for people ------------------------------------------------------------------------- */

static void print_ground(const struct memd *memd, FILE *file)
{
    static const char *const pages[] = {"reserved huge pages, else transparent ones",
                                        "transparent huge pages", "pages of the ordinary size"};
    const struct memd_ground *ground = &memd->book.ground;

    fprintf(file, "server      epoch %016" PRIx64 ", %" PRIu32 " workers; %s", memd->identity.epoch,
            memd->worker_count, pages[ground->huge_pages]);
    if (ground->node_count > 1)
        fprintf(file, "; %s %" PRIu32 " nodes",
                ground->is_spread ? "spread over" : "where it is written first, of",
                ground->node_count);
    fputc('\n', file);
}

static void print_lease(const struct memd_lease *lease, uint64_t now_ms, FILE *file)
{
    const uint64_t heard_ms = atomic_load_explicit(&lease->heard_ms, memory_order_relaxed);
    const double silent_s = now_ms > heard_ms ? (double)(now_ms - heard_ms) / 1000 : 0;
    char size[MEMD_SIZE_TEXT];

    fprintf(file, "%-52.52s %12s %-11s %11" PRIu32 " %9.1f s\n", lease->client.who,
            memd_size_text(lease->slots * WEIR_SLOT_BYTES, size),
            lease->is_reserved ? "reserved" : "", lease->users, silent_s);
}

/* Leases are few: they are printed under the lock, into memory, by whoever asks seldom. */
static void print_leases(struct memd *memd, FILE *file)
{
    const uint64_t now_ms = memd_now_ms();

    fprintf(file, "\n%-52s %12s %-11s %11s %11s\n", "client", "lent", "huge pages", "connections",
            "silent for");
    pthread_mutex_lock(&memd->book.lock);
    for (uint32_t i = 0; i < memd->book.room.leases; i++)
        if (memd_lease_is_lent(&memd->book.leases[i]))
            print_lease(&memd->book.leases[i], now_ms, file);
    pthread_mutex_unlock(&memd->book.lock);
}

void memd_print_status(struct memd *memd, FILE *file)
{
    struct memd_gauges now;

    memd_measure(memd, &now);
    print_gauges(&now, file);
    print_ground(memd, file);
    print_leases(memd, file);
}
