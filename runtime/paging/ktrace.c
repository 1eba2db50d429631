/* SPDX-License-Identifier: MIT */
#include "runtime/paging/ktrace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/text.h"
#include "runtime/host/file.h"
#include "runtime/memory/gate.h"
#include "runtime/memory/object.h"

#define NS_LOOK     10000000ull /* between two looks into the ring */
#define BUFFER_ROOM 65536u

struct wr_ktrace {
    struct wr_space *space;
    struct wr_trace trace;
    struct wr_bell bell;
    void *thread;
    char *path;
    int file;
    _Atomic(bool) stop;

    /* Kept by the thread; what is atomic is read by the report, relaxed. */
    _Atomic(uint64_t) records;
    _Atomic(uint64_t) unwritten; /* taken when the file could not be written any more */
    _Atomic(bool) is_failed;
    uint64_t lost_told;
    uint32_t told[WR_REGIONS_MAX + 1]; /* serial of the region that was last told by this number */
    size_t used;
    uint8_t buffer[BUFFER_ROOM];
};

/* --- The file -------------------------------------------------------------------------------- */

static void flush(struct wr_ktrace *k)
{
    if (k->used > 0 && !atomic_load_explicit(&k->is_failed, memory_order_relaxed) &&
        !wr_file_append(k->file, k->buffer, k->used)) {
        char line[400];
        struct wr_text text;

        atomic_store_explicit(&k->is_failed, true, memory_order_relaxed);
        wr_text_init(&text, line, sizeof(line));
        wr_text_add(&text, "the trace (WEIR_TRACE) ends early, ");
        wr_text_add(&text, k->path);
        wr_text_add(&text, errno == ENOSPC ? ": no space is left" : ": it cannot be written");
        wr_event(&k->space->events, WEIR_FAILURE, WEIR_EIO, 0, 0, line);
    }
    k->used = 0;
}

static void add(struct wr_ktrace *k, const void *bytes, size_t count)
{
    if (k->used + count > sizeof(k->buffer))
        flush(k);
    memcpy(k->buffer + k->used, bytes, count);
    k->used += count;
}

static void add_head(struct wr_ktrace *k, uint64_t budget_pages)
{
    struct weir_trace_head head = {
        .magic = WEIR_TRACE_MAGIC,
        .byte_order = WEIR_TRACE_BYTE_ORDER,
        .version = WEIR_TRACE_VERSION,
        .head_bytes = sizeof(struct weir_trace_head),
        .record_bytes = sizeof(struct weir_trace_record),
        .page_bytes = WEIR_PAGE_BYTES,
        .region_bytes = sizeof(struct weir_trace_region),
        .budget_pages = budget_pages,
    };

    add(k, &head, sizeof(head));
}

/* Before the first record that names a region. One that went meanwhile stays without a name. */
static void introduce(struct wr_ktrace *k, const struct weir_trace_record *record)
{
    struct wr_pass pass = wr_gate_enter();
    const struct wr_region *region = atomic_load(&k->space->by_number[record->region]);
    struct weir_trace_record head = {.ns = record->ns, .kind = WEIR_TRACE_REGION};
    struct weir_trace_region body = {0};
    bool is_new = false;

    if (region && region->serial != k->told[record->region]) {
        k->told[record->region] = region->serial;
        head.page = region->first;
        head.region = record->region;
        body.address = region->object ? 0 : region->addr;
        body.pages = region->reserve_pages;
        body.serial = region->serial;
        memcpy(body.name, region->name, sizeof(body.name));
        is_new = true;
    }
    wr_gate_leave(pass);
    if (is_new) { /* outside the gate: a device may keep us waiting, and so may who hears of it */
        add(k, &head, sizeof(head));
        add(k, &body, sizeof(body));
    }
}

static void tell_lost(struct wr_ktrace *k, uint64_t ns)
{
    uint64_t lost = atomic_load_explicit(&k->trace.lost, memory_order_relaxed);
    uint64_t more = lost - k->lost_told;
    struct weir_trace_record record = {.ns = ns, .kind = WEIR_TRACE_LOST};

    if (more == 0)
        return;
    k->lost_told = lost;
    record.page = more < UINT32_MAX ? (uint32_t)more : UINT32_MAX;
    add(k, &record, sizeof(record));
}

static void drain(struct wr_ktrace *k)
{
    struct weir_trace_record record;
    uint64_t last_ns = 0;

    /* No more than a ring of them, so that a storm does not keep it here. */
    for (uint32_t i = 0; i < WR_TRACE_ROOM && wr_trace_take(&k->trace, &record); i++) {
        introduce(k, &record);
        add(k, &record, sizeof(record));
        last_ns = record.ns;
        atomic_fetch_add_explicit(
            atomic_load_explicit(&k->is_failed, memory_order_relaxed) ? &k->unwritten : &k->records,
            1, memory_order_relaxed);
    }
    tell_lost(k, last_ns);
    flush(k);
}

static void add_end(struct wr_ktrace *k)
{
    struct wr_host *host = k->space->host;
    struct weir_trace_record record = {
        .ns = host->ops->now_ns(host) - k->trace.begun_ns,
        .kind = WEIR_TRACE_END,
    };
    struct weir_trace_end end = {atomic_load(&k->records), atomic_load(&k->trace.lost)};

    add(k, &record, sizeof(record));
    add(k, &end, sizeof(end));
    flush(k);
}

/* --- The thread ------------------------------------------------------------------------------ */

static void ktrace_main(void *context)
{
    struct wr_ktrace *k = context;
    struct wr_host *host = k->space->host;

    while (!atomic_load(&k->stop)) {
        host->ops->bell_wait(host, &k->bell, NULL, 0, host->ops->now_ns(host) + NS_LOOK);
        drain(k);
    }
    drain(k);
    add_end(k);
}

static int refuse(const struct wr_space *space, const char *path, int error)
{
    char line[400];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "the trace (WEIR_TRACE) cannot be written to ");
    wr_text_add(&text, path);
    wr_text_add(&text, error == WEIR_EBUSY     ? ": another runtime writes it; name another file"
                       : error == WEIR_EDENIED ? ": it is not allowed; name another file"
                                               : ": it cannot be made; does the directory exist?");
    wr_event(&space->events, WEIR_FAILURE, error, 0, 0, line);
    return error;
}

static void dismiss(struct wr_ktrace *k)
{
    struct wr_host *host = k->space->host;

    k->space->pages.trace = NULL;
    host->ops->bell_fini(host, &k->bell);
    wr_file_close(k->file);
    wr_trace_fini(&k->trace);
    free(k->path);
    free(k);
}

int wr_ktrace_open(struct wr_space *space, const char *path, struct wr_ktrace **ktrace_p)
{
    struct wr_host *host = space->host;
    struct wr_ktrace *k = calloc(1, sizeof(*k));
    int error;

    if (!k)
        return WEIR_ENOMEM;
    k->space = space;
    k->file = -1;
    k->bell.fd = -1;
    k->path = strdup(path);
    error = k->path ? wr_trace_init(&k->trace, host->ops->now_ns(host)) : WEIR_ENOMEM;
    if (error == WEIR_OK)
        error = host->ops->bell_init(host, &k->bell);
    if (error == WEIR_OK) {
        error = wr_file_create(path, &k->file);
        if (error != WEIR_OK)
            (void)refuse(space, path, error);
    }
    if (error == WEIR_OK) {
        add_head(k, wr_frames_total(&space->frames) + host->slab_pages);
        space->pages.trace = &k->trace;
        error = host->ops->thread_start(host, "weir-ktrace", ktrace_main, k, &k->thread);
    }
    if (error != WEIR_OK) {
        dismiss(k);
        return error;
    }
    *ktrace_p = k;
    return WEIR_OK;
}

void wr_ktrace_close(struct wr_ktrace *k)
{
    struct wr_host *host;

    if (!k)
        return;
    host = k->space->host;
    atomic_store(&k->stop, true);
    host->ops->bell_ring(host, &k->bell);
    host->ops->thread_stop(host, k->thread);
    dismiss(k);
}

struct wr_ktrace_told wr_ktrace_told(const struct wr_ktrace *k)
{
    return (struct wr_ktrace_told){
        .path = k->path,
        .records = atomic_load_explicit(&k->records, memory_order_relaxed),
        .lost = atomic_load_explicit(&k->trace.lost, memory_order_relaxed) +
                atomic_load_explicit(&k->unwritten, memory_order_relaxed),
        .is_failed = atomic_load_explicit(&k->is_failed, memory_order_relaxed),
    };
}

uint64_t wr_ktrace_metadata(const struct wr_ktrace *k)
{
    return k ? sizeof(*k) + WR_TRACE_ROOM * sizeof(struct wr_trace_place) : 0;
}
