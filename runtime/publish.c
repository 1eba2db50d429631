/* SPDX-License-Identifier: MIT */
#include "runtime/publish.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/text.h"
#include "runtime/host/sheet.h"
#include "runtime/memory/gate.h"

#define TICK_BUSY_NS 250000000ull
#define TICK_IDLE_NS 1000000000ull
#define SHARE        100u /* of the time is for this, one part in so many at most */
#define SHEET_ROOM   (64u << 10)

struct wr_publish {
    struct weir_runtime *rt;
    struct wr_host *host;
    struct wr_bell bell;
    void *thread;
    _Atomic(bool) stop;
    char path[WR_SHEET_PATH_ROOM];

    /* Kept by the thread. */
    struct wr_sheet sheet;
    struct weir_stats last; /* what was published */
    bool is_failing;        /* the last write failed, and that was said */
    union {
        struct wr_sheet_head head;
        _Alignas(8) uint8_t bytes[SHEET_ROOM];
    };
};

static const char stat_names[] =
#define PUBLISH_NAME(name, letter, text) #name "\0"
    WEIR_COUNTER_MAP(PUBLISH_NAME) WEIR_GAUGE_MAP(PUBLISH_NAME)
#undef PUBLISH_NAME
#define PUBLISH_NAME(name, text) #name "\0"
        WEIR_TIME_MAP(PUBLISH_NAME);
static const char region_names[] = WEIR_REGION_GAUGE_MAP(PUBLISH_NAME)
    WEIR_REGION_COUNTER_MAP(PUBLISH_NAME);
#undef PUBLISH_NAME

#define ONE_MORE(...)      +1u
#define STAT_VALUES        (0u WEIR_COUNTER_MAP(ONE_MORE) WEIR_GAUGE_MAP(ONE_MORE))
#define REGION_VALUES      (0u WEIR_REGION_GAUGE_MAP(ONE_MORE) WEIR_REGION_COUNTER_MAP(ONE_MORE))
#define REGION_ROW         (sizeof(struct wr_sheet_region) + REGION_VALUES * sizeof(uint64_t))
#define REGION_FIRST_VALUE offsetof(struct weir_region_stats, resident_bytes)

/* The statistics are one row of numbers, after their size; and so are those of a region. */
_Static_assert(sizeof(struct weir_stats) - sizeof(size_t) ==
                   STAT_VALUES * 8 + WR_TIME_COUNT * sizeof(struct weir_histogram),
               "nothing but numbers");
_Static_assert(sizeof(struct weir_region_stats) - REGION_FIRST_VALUE == REGION_VALUES * 8,
               "nothing but numbers");
_Static_assert(sizeof(struct wr_sheet_head) + sizeof(stat_names) + sizeof(struct weir_stats) +
                       WEIR_WATCH_BACKENDS * sizeof(struct wr_sheet_backend) +
                       sizeof(region_names) + WEIR_WATCH_REGIONS * REGION_ROW + 64 <
                   SHEET_ROOM,
               "the fullest sheet fits");

/* --- A sheet --------------------------------------------------------------------------------- */

/* The next part: so many bytes, up to a multiple of 8, zeros. */
static void *part(struct wr_publish *p, size_t bytes)
{
    uint8_t *at = p->bytes + p->head.all_bytes;

    bytes = (bytes + 7) / 8 * 8;
    WR_CHECK(p->head.all_bytes + bytes <= SHEET_ROOM);
    memset(at, 0, bytes);
    p->head.all_bytes += (uint32_t)bytes;
    return at;
}

static void add_stats(struct wr_publish *p, const struct weir_stats *stats)
{
    p->head.names_bytes = sizeof(stat_names);
    p->head.value_count = STAT_VALUES;
    p->head.time_count = WR_TIME_COUNT;
    p->head.bucket_count = WEIR_HISTOGRAM_BUCKETS;
    memcpy(part(p, sizeof(stat_names)), stat_names, sizeof(stat_names));
    memcpy(part(p, sizeof(*stats) - sizeof(stats->size)), &stats->size + 1,
           sizeof(*stats) - sizeof(stats->size));
}

static void add_backends(struct wr_publish *p)
{
    struct weir_backend_state state;

    p->head.backend_bytes = sizeof(struct wr_sheet_backend);
    for (uint32_t i = 0; weir_backend_get(p->rt, i, &state) == WEIR_OK; i++) {
        struct wr_sheet_backend *row;

        p->head.backend_count++;
        if (p->head.backends_shown == WEIR_WATCH_BACKENDS)
            continue;
        p->head.backends_shown++;
        row = part(p, sizeof(*row));
        row->bytes_total = state.bytes_total;
        row->bytes_used = state.bytes_used;
        row->errors = state.errors;
        row->number = state.number;
        row->draining = state.draining != 0;
        row->sick = state.sick != 0;
        memcpy(row->spec, state.spec, sizeof(row->spec));
        row->spec[sizeof(row->spec) - 1] = '\0';
    }
}

/* Inside the gate. */
static void add_region(struct wr_publish *p, const struct wr_region *region)
{
    struct weir_region_stats stats;
    struct wr_sheet_region *row;

    wr_report_region(region, &stats);
    row = part(p, REGION_ROW);
    row->address = (uint64_t)(uintptr_t)stats.address;
    row->bytes = stats.bytes;
    row->reserve_bytes = stats.reserve_bytes;
    row->reattached = stats.reattached;
    memcpy(row->name, stats.name, sizeof(row->name));
    memcpy(row + 1, (const char *)&stats + REGION_FIRST_VALUE, sizeof(stats) - REGION_FIRST_VALUE);
}

static void add_regions(struct wr_publish *p)
{
    p->head.region_names_bytes = sizeof(region_names);
    p->head.region_value_count = REGION_VALUES;
    p->head.region_bytes = REGION_ROW;
    memcpy(part(p, sizeof(region_names)), region_names, sizeof(region_names));
    for (uint32_t i = 1; i <= WR_REGIONS_MAX; i++) {
        struct wr_pass pass = wr_gate_enter(); /* for each: somebody may wait to unmap one */
        const struct wr_region *region = wr_report_region_of(p->rt, i);

        p->head.region_count += region != NULL;
        if (region && p->head.regions_shown < WEIR_WATCH_REGIONS) {
            add_region(p, region);
            p->head.regions_shown++;
        }
        wr_gate_leave(pass);
    }
}

/* True: something has happened since the last one. */
static bool fill(struct wr_publish *p)
{
    struct weir_stats stats = {.size = sizeof(stats)};
    bool is_busy;

    p->head.all_bytes = sizeof(p->head);
    p->head.backend_count = p->head.backends_shown = 0;
    p->head.region_count = p->head.regions_shown = 0;
    (void)weir_stats(p->rt, &stats);
    is_busy = memcmp(&stats, &p->last, sizeof(stats)) != 0;
    p->last = stats;
    p->head.sequence++;
    p->head.published_ns = p->host->ops->now_ns(p->host);
    add_stats(p, &stats);
    add_backends(p);
    add_regions(p);
    return is_busy;
}

/* --- The thread ------------------------------------------------------------------------------ */

static void tell(const struct wr_publish *p, int error, int os_error, const char *what)
{
    char line[600];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "this runtime cannot be watched (WEIR_PUBLISH), ");
    wr_text_add(&text, p->path);
    wr_text_add(&text, what);
    wr_event(&p->rt->space.events, WEIR_NOTE, error, os_error, 0, line);
}

static void tell_refusal(const struct wr_publish *p, int os_error)
{
    tell(p, WEIR_EDENIED, os_error,
         os_error == EPERM || os_error == ELOOP || os_error == ENOTDIR
             ? ": is not a directory of this user alone (mode 700); remove it"
             : ": cannot be made or written to; name another directory, or set it to 0");
}

static void write_sheet(struct wr_publish *p)
{
    bool is_written = wr_sheet_write(&p->sheet, &p->head);

    if (!is_written && !p->is_failing)
        tell(p, WEIR_EFULL, errno, ": there is no room for its file");
    p->is_failing = !is_written;
}

static void begin(struct wr_publish *p)
{
    memcpy(p->head.magic, WR_SHEET_MAGIC, sizeof(p->head.magic));
    p->head.byte_order = WR_SHEET_BYTE_ORDER;
    p->head.version = WR_SHEET_VERSION;
    p->head.head_bytes = sizeof(p->head);
    wr_sheet_sign(&p->head);
    strncpy(p->head.release, weir_version(), sizeof(p->head.release) - 1);
    memcpy(p->head.how, p->host->how, sizeof(p->head.how) - 1);
    p->head.opened_ns = p->host->ops->now_ns(p->host);
}

static void publish_main(void *context)
{
    struct wr_publish *p = context;
    const struct wr_host_ops *ops = p->host->ops;

    begin(p);
    if (wr_sheet_create(p->path, p->head.opened_ns, &p->sheet) != WEIR_OK) {
        tell_refusal(p, errno);
        return;
    }
    wr_sheet_be_lazy();
    while (!atomic_load(&p->stop)) {
        uint64_t begun_ns = ops->now_ns(p->host), end_ns, pause_ns;
        bool is_busy = fill(p);

        write_sheet(p);
        end_ns = ops->now_ns(p->host);
        pause_ns = is_busy ? TICK_BUSY_NS : TICK_IDLE_NS;
        if ((end_ns - begun_ns) * SHARE > pause_ns)
            pause_ns = (end_ns - begun_ns) * SHARE;
        ops->bell_wait(p->host, &p->bell, NULL, 0, end_ns + pause_ns);
    }
    wr_sheet_remove(&p->sheet);
}

static void dismiss(struct wr_publish *p)
{
    p->host->ops->bell_fini(p->host, &p->bell);
    free(p);
}

int wr_publish_open(struct weir_runtime *rt, const char *where, struct wr_publish **publish_p)
{
    struct wr_publish *p;
    int error;

    *publish_p = NULL;
    if (strcmp(where, "0") == 0)
        return WEIR_OK;
    p = calloc(1, sizeof(*p));
    if (!p)
        return WEIR_ENOMEM;
    p->rt = rt;
    p->host = rt->host;
    p->sheet.directory = p->sheet.file = -1;
    p->bell.fd = -1;
    if (strcmp(where, "1") == 0)
        wr_sheet_directory(p->path, sizeof(p->path));
    else
        memcpy(p->path, where, strnlen(where, sizeof(p->path) - 1));
    error = p->host->ops->bell_init(p->host, &p->bell);
    if (error == WEIR_OK)
        error = p->host->ops->thread_start(p->host, "weir-kpublish", publish_main, p, &p->thread);
    if (error != WEIR_OK) {
        dismiss(p);
        return error;
    }
    *publish_p = p;
    return WEIR_OK;
}

void wr_publish_close(struct wr_publish *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    p->host->ops->bell_ring(p->host, &p->bell);
    p->host->ops->thread_stop(p->host, p->thread);
    dismiss(p);
}
