/* SPDX-License-Identifier: MIT */
#include "tests/policy/trace_file.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK      512u
#define CHUNKS_ALL (UINT32_MAX / CHUNK + 1)
#define HEAD_MOST  4096u

struct reader {
    const uint8_t *bytes;
    size_t count, at;
    struct trace_file trace;
    uint32_t *chunk_of; /* by chunk of the trace: ours + 1 */
    uint64_t told_lost; /* by the records of it            */
    char *why;
};

static bool refuse(struct reader *r, const char *format, ...)
{
    va_list arguments;
    int used;

    va_start(arguments, format);
    used = vsnprintf(r->why, TRACE_WHY_ROOM, format, arguments);
    va_end(arguments);
    if (used > 0 && used < TRACE_WHY_ROOM)
        snprintf(r->why + used, TRACE_WHY_ROOM - (size_t)used, " (at byte %zu)", r->at);
    return false;
}

/* The next bytes, or a refusal. */
static bool take(struct reader *r, void *to, size_t count)
{
    if (r->count - r->at < count)
        return refuse(r, "it ends in the middle of a record");
    memcpy(to, r->bytes + r->at, count);
    r->at += count;
    return true;
}

static bool read_head(struct reader *r)
{
    struct weir_trace_head head;

    if (r->count < sizeof(head) || memcmp(r->bytes, WEIR_TRACE_MAGIC, sizeof(head.magic)) != 0)
        return refuse(r, "it is no trace: it does not begin with " WEIR_TRACE_MAGIC);
    if (!take(r, &head, sizeof(head)))
        return false;
    if (head.byte_order == __builtin_bswap32(WEIR_TRACE_BYTE_ORDER))
        return refuse(r, "it was written by a machine of the other byte order");
    if (head.byte_order != WEIR_TRACE_BYTE_ORDER)
        return refuse(r, "its byte order is %#x", head.byte_order);
    if (head.version != WEIR_TRACE_VERSION)
        return refuse(r, "it is of version %u, and this program reads %u", head.version,
                      WEIR_TRACE_VERSION);
    if (head.record_bytes != sizeof(struct weir_trace_record) ||
        head.region_bytes != sizeof(struct weir_trace_region))
        return refuse(r, "its records are of %u and %u bytes, and not of %zu and %zu",
                      head.record_bytes, head.region_bytes, sizeof(struct weir_trace_record),
                      sizeof(struct weir_trace_region));
    if (head.page_bytes != 4096)
        return refuse(r, "its pages are of %u bytes, and not of 4096", head.page_bytes);
    if (head.head_bytes < sizeof(head) || head.head_bytes > HEAD_MOST || head.head_bytes > r->count)
        return refuse(r, "its head is of %u bytes", head.head_bytes);
    r->at = head.head_bytes;
    r->trace.budget_pages = head.budget_pages;
    return true;
}

static bool read_region(struct reader *r, const struct weir_trace_record *record)
{
    struct trace_file *t = &r->trace;
    struct weir_trace_region body;
    struct trace_named *named;

    if (!take(r, &body, sizeof(body)))
        return false;
    if (memchr(body.name, 0, sizeof(body.name)) == NULL)
        return refuse(r, "the name of a region has no end");
    if (record->page % CHUNK != 0 || body.pages == 0 || body.pages - 1 > UINT32_MAX - record->page)
        return refuse(r, "a region of %u pages begins at page %u", body.pages, record->page);
    named = realloc(t->regions, (t->region_count + 1ull) * sizeof(*named));
    if (!named)
        return refuse(r, "there is not enough memory for it");
    t->regions = named;
    named += t->region_count++;
    *named = (struct trace_named){record->region, body.serial, body.pages, ""};
    snprintf(named->name, sizeof(named->name), "%s", body.name);
    return true;
}

static bool read_end(struct reader *r)
{
    struct weir_trace_end end;

    if (!take(r, &end, sizeof(end)))
        return false;
    if (end.records != r->trace.records)
        return refuse(r, "%llu records were written, and %llu are there",
                      (unsigned long long)end.records, (unsigned long long)r->trace.records);
    if (end.lost < r->told_lost)
        return refuse(r, "it says that it lost %llu records, and %llu before",
                      (unsigned long long)end.lost, (unsigned long long)r->told_lost);
    if (r->at != r->count)
        return refuse(r, "something follows its end");
    r->trace.lost = end.lost;
    r->trace.is_closed = true;
    return true;
}

static void touch(struct reader *r, uint32_t page)
{
    uint32_t *chunk = &r->chunk_of[page / CHUNK];

    if (*chunk == 0) {
        r->trace.pages += CHUNK;
        *chunk = r->trace.pages / CHUNK;
    }
    r->trace.touches[r->trace.touch_count++] = (*chunk - 1) * CHUNK + page % CHUNK;
}

static bool read_record(struct reader *r)
{
    struct weir_trace_record record;

    if (!take(r, &record, sizeof(record)))
        return false;
    switch (record.kind & ~WEIR_TRACE_STORE) {
    case WEIR_TRACE_FIRST:
    case WEIR_TRACE_FOUND:
    case WEIR_TRACE_READ:
    case WEIR_TRACE_JOINED:
    case WEIR_TRACE_WRITTEN:
    case WEIR_TRACE_VIEW: touch(r, record.page); break;
    case WEIR_TRACE_ZERO: break; /* no memory, no policy */
    case WEIR_TRACE_EVICTED: r->trace.evicted++; break;
    case WEIR_TRACE_REGION: return read_region(r, &record);
    case WEIR_TRACE_LOST:
        r->told_lost += record.page;
        r->trace.lost = r->told_lost;
        return true;
    case WEIR_TRACE_END: return read_end(r);
    default:
        r->at -= sizeof(record);
        return refuse(r, "a record is of kind %u, which is none", record.kind);
    }
    r->trace.records++;
    return true;
}

bool trace_bytes_read(const uint8_t *bytes, size_t count, struct trace_file *trace_p,
                      char why[TRACE_WHY_ROOM])
{
    struct reader r = {.bytes = bytes, .count = count, .why = why};
    bool is_good = read_head(&r);

    if (is_good) {
        r.chunk_of = calloc(CHUNKS_ALL, sizeof(*r.chunk_of));
        r.trace.touches = malloc((count / sizeof(struct weir_trace_record) + 1) * sizeof(uint32_t));
        if (!r.chunk_of || !r.trace.touches)
            is_good = refuse(&r, "there is not enough memory for it");
    }
    while (is_good && r.at < r.count)
        is_good = read_record(&r);
    free(r.chunk_of);
    if (is_good)
        *trace_p = r.trace;
    else
        trace_file_free(&r.trace);
    return is_good;
}

bool trace_file_read(const char *path, struct trace_file *trace_p, char why[TRACE_WHY_ROOM])
{
    FILE *file = fopen(path, "re");
    uint8_t *bytes = NULL;
    long count = -1;
    bool is_good;

    if (file && fseek(file, 0, SEEK_END) == 0)
        count = ftell(file);
    if (count >= 0 && fseek(file, 0, SEEK_SET) == 0)
        bytes = malloc((size_t)count + 1);
    is_good = bytes && fread(bytes, 1, (size_t)count, file) == (size_t)count;
    if (!is_good)
        snprintf(why, TRACE_WHY_ROOM, "it cannot be read: %s", strerror(errno));
    else
        is_good = trace_bytes_read(bytes, (size_t)count, trace_p, why);
    free(bytes);
    if (file)
        fclose(file);
    return is_good;
}

void trace_file_free(struct trace_file *trace)
{
    free(trace->touches);
    free(trace->regions);
    *trace = (struct trace_file){0};
}
