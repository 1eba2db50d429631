/* SPDX-License-Identifier: MIT */

/* Api of weir_watch.h: from the bytes of a sheet, which anybody may have made, to statistics. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/host/sheet.h"

/* What weir_watch_read() gives, in one piece. */
struct watch {
    struct weir_watch told; /* first */
    struct weir_stats stats;
    struct weir_backend_state backends[WEIR_WATCH_BACKENDS];
    struct weir_region_stats regions[WEIR_WATCH_REGIONS];
};

/* --- A row of numbers with names ------------------------------------------------------------- */

/* Where a number goes, by its name. */
struct field {
    const char *name;
    size_t offset;
};

static const struct field stat_fields[] = {
#define WATCH_FIELD(name, letter, text) {#name, offsetof(struct weir_stats, name)},
    WEIR_COUNTER_MAP(WATCH_FIELD) WEIR_GAUGE_MAP(WATCH_FIELD)
#undef WATCH_FIELD
};
static const struct field time_fields[] = {
#define WATCH_FIELD(name, text) {#name, offsetof(struct weir_stats, time_##name)},
    WEIR_TIME_MAP(WATCH_FIELD)
#undef WATCH_FIELD
};
static const struct field region_fields[] = {
#define WATCH_FIELD(name, text) {#name, offsetof(struct weir_region_stats, name)},
    WEIR_REGION_GAUGE_MAP(WATCH_FIELD) WEIR_REGION_COUNTER_MAP(WATCH_FIELD)
#undef WATCH_FIELD
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* NULL: this library knows none of that name. Most often it is the one after the last. */
static const struct field *find(const struct field *fields, size_t count, const char *name,
                                size_t likely)
{
    if (likely < count && strcmp(fields[likely].name, name) == 0)
        return &fields[likely];
    for (size_t i = 0; i < count; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

/* --- Parts of a sheet ------------------------------------------------------------------------ */

struct parts {
    const char *at, *end;
};

/* The next so many bytes, up to a multiple of 8, or NULL. */
static const void *part(struct parts *parts, uint64_t bytes)
{
    const char *at = parts->at;

    if (bytes > WR_SHEET_BYTES_MAX)
        return NULL;
    bytes = (bytes + 7) / 8 * 8;
    if (bytes > (uint64_t)(parts->end - at))
        return NULL;
    parts->at += bytes;
    return at;
}

/* Names, each of them ended by 0. */
struct names {
    const char *at, *end;
};

static bool names_part(struct parts *parts, uint32_t bytes, struct names *names)
{
    names->at = part(parts, bytes);
    names->end = names->at + bytes;
    return names->at && bytes > 0 && names->end[-1] == '\0';
}

static const char *next_name(struct names *names)
{
    const char *name = names->at;

    if (name >= names->end)
        return "";
    names->at += strlen(name) + 1;
    return name;
}

static void put(void *to, const struct field *field, uint64_t value)
{
    memcpy((char *)to + field->offset, &value, sizeof(value));
}

static void read_time(const uint64_t *numbers, uint32_t buckets, struct weir_histogram *time)
{
    time->sum_ns = numbers[1];
    time->count = 0; /* of what is here: another library may have other buckets */
    for (uint32_t b = 0; b < buckets && b < WEIR_HISTOGRAM_BUCKETS; b++) {
        time->bucket[b] = numbers[2 + b];
        time->count += time->bucket[b];
    }
}

static bool read_stats(struct parts *parts, const struct wr_sheet_head *head,
                       struct weir_stats *stats)
{
    struct names names;
    const uint64_t *values, *times;
    uint64_t row = 2 + (uint64_t)head->bucket_count;

    if (!names_part(parts, head->names_bytes, &names) ||
        !(values = part(parts, head->value_count * sizeof(uint64_t))) || head->bucket_count > 256 ||
        head->time_count > 4096 ||
        !(times = part(parts, head->time_count * row * sizeof(uint64_t))))
        return false;
    stats->size = sizeof(*stats);
    for (uint32_t i = 0; i < head->value_count; i++) {
        const struct field *field = find(stat_fields, COUNT(stat_fields), next_name(&names), i);

        if (field)
            put(stats, field, values[i]);
    }
    for (uint32_t i = 0; i < head->time_count; i++) {
        const struct field *field = find(time_fields, COUNT(time_fields), next_name(&names), i);

        if (field)
            read_time(times + i * row, head->bucket_count,
                      (struct weir_histogram *)(void *)((char *)stats + field->offset));
    }
    return true;
}

static bool read_backends(struct parts *parts, const struct wr_sheet_head *head,
                          struct watch *watch)
{
    for (uint32_t i = 0; i < head->backends_shown; i++) {
        const struct wr_sheet_backend *row = part(parts, head->backend_bytes);
        struct weir_backend_state *state = &watch->backends[watch->told.backends_shown];

        if (!row || head->backend_bytes < sizeof(*row))
            return false;
        if (watch->told.backends_shown == WEIR_WATCH_BACKENDS)
            continue;
        watch->told.backends_shown++;
        state->number = row->number;
        state->bytes_total = row->bytes_total;
        state->bytes_used = row->bytes_used;
        state->errors = row->errors;
        state->draining = row->draining != 0;
        state->sick = row->sick != 0;
        memcpy(state->spec, row->spec, sizeof(state->spec) - 1);
    }
    return true;
}

static void read_region(const struct wr_sheet_region *row, struct names names, uint32_t values,
                        struct weir_region_stats *stats)
{
    stats->size = sizeof(*stats);
    stats->address = (void *)(uintptr_t)row->address;
    stats->bytes = row->bytes;
    stats->reserve_bytes = row->reserve_bytes;
    stats->reattached = row->reattached;
    memcpy(stats->name, row->name, sizeof(stats->name) - 1);
    for (uint32_t i = 0; i < values; i++) {
        const struct field *field = find(region_fields, COUNT(region_fields), next_name(&names), i);
        uint64_t value;

        memcpy(&value, (const char *)(row + 1) + i * sizeof(value), sizeof(value));
        if (field)
            put(stats, field, value);
    }
}

static bool read_regions(struct parts *parts, const struct wr_sheet_head *head, struct watch *watch)
{
    struct names names;

    if (!names_part(parts, head->region_names_bytes, &names) || head->region_value_count > 4096 ||
        head->region_bytes <
            sizeof(struct wr_sheet_region) + head->region_value_count * sizeof(uint64_t))
        return false;
    for (uint32_t i = 0; i < head->regions_shown; i++) {
        const void *row = part(parts, head->region_bytes);

        if (!row)
            return false;
        if (watch->told.regions_shown < WEIR_WATCH_REGIONS)
            read_region(row, names, head->region_value_count,
                        &watch->regions[watch->told.regions_shown++]);
    }
    return true;
}

/* Text for a terminal: what could steer one is no part of it. */
static void copy_text(char *to, const char *from, size_t room)
{
    size_t i = 0;

    for (; i + 1 < room && from[i]; i++)
        to[i] = (unsigned char)from[i] < ' ' || from[i] == 0x7f ? '?' : from[i];
    to[i] = '\0';
}

static bool read_sheet(const struct wr_sheet_head *head, struct watch *watch)
{
    struct parts parts = {(const char *)(head + 1), (const char *)head + head->all_bytes};
    struct weir_watch *told = &watch->told;

    told->size = sizeof(*told);
    told->pid = head->pid;
    told->opened_ns = head->opened_ns;
    told->published_ns = head->published_ns;
    told->sequence = head->sequence;
    told->backend_count = head->backend_count;
    told->region_count = head->region_count;
    told->stats = &watch->stats;
    told->backends = watch->backends;
    told->regions = watch->regions;
    copy_text(told->program, head->program, sizeof(told->program));
    copy_text(told->library, head->release, sizeof(told->library));
    copy_text(told->how, head->how, sizeof(told->how));
    if (!read_stats(&parts, head, &watch->stats) || !read_backends(&parts, head, watch) ||
        !read_regions(&parts, head, watch))
        return false;
    for (uint32_t i = 0; i < told->backends_shown; i++)
        copy_text(watch->backends[i].spec, watch->backends[i].spec,
                  sizeof(watch->backends[i].spec));
    for (uint32_t i = 0; i < told->regions_shown; i++)
        copy_text(watch->regions[i].name, watch->regions[i].name, sizeof(watch->regions[i].name));
    return true;
}

/* --- What is promised ------------------------------------------------------------------------ */

void weir_watch_directory(char *path, size_t bytes)
{
    if (path && bytes > 0)
        wr_sheet_directory(path, bytes);
}

static int open_directory(const char *directory, int *directory_p)
{
    char usual[WR_SHEET_PATH_ROOM];

    wr_sheet_directory(usual, sizeof(usual));
    return wr_sheet_directory_open(directory ? directory : usual, false, directory_p);
}

struct listing {
    struct weir_watched *list;
    size_t room, count;
};

static bool is_before(const struct weir_watched *a, const struct weir_watched *b)
{
    return a->pid < b->pid || (a->pid == b->pid && a->number < b->number);
}

/* Those that have no room are the last ones. */
static void enter(void *context, const struct weir_watched *which)
{
    struct listing *listing = context;
    size_t held = listing->count < listing->room ? listing->count : listing->room;
    size_t at = held;

    listing->count++;
    if (held == listing->room) {
        if (held == 0 || !is_before(which, &listing->list[held - 1]))
            return;
        at--;
    }
    for (; at > 0 && is_before(which, &listing->list[at - 1]); at--)
        listing->list[at] = listing->list[at - 1];
    listing->list[at] = *which;
}

int weir_watch_list(const char *directory, struct weir_watched *list, size_t room, size_t *count_p)
{
    struct listing listing = {list, room, 0};
    int opened, error;

    if ((!list && room > 0) || !count_p)
        return WEIR_EINVAL;
    error = open_directory(directory, &opened);
    if (error == WEIR_OK) {
        error = wr_sheet_visit(opened, enter, &listing);
        close(opened);
    } else if (error == WEIR_ENOENT) {
        error = WEIR_OK;
    }
    if (error == WEIR_OK)
        *count_p = listing.count;
    return error;
}

int weir_watch_read(const char *directory, const struct weir_watched *which,
                    struct weir_watch **watch_p)
{
    struct wr_sheet_head *head;
    struct watch *watch;
    int opened, error;

    if (!which || !watch_p)
        return WEIR_EINVAL;
    error = open_directory(directory, &opened);
    if (error != WEIR_OK)
        return error;
    error = wr_sheet_read(opened, which, &head);
    close(opened);
    if (error != WEIR_OK)
        return error;
    watch = calloc(1, sizeof(*watch));
    error = !watch ? WEIR_ENOMEM : read_sheet(head, watch) ? WEIR_OK : WEIR_EIO;
    free(head);
    if (error != WEIR_OK) {
        free(watch);
        return error;
    }
    watch->told.number = which->number;
    *watch_p = &watch->told;
    return WEIR_OK;
}

void weir_watch_free(struct weir_watch *watch)
{
    free(watch);
}

static uint64_t growth(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

struct weir_histogram weir_histogram_since(const struct weir_histogram *now,
                                           const struct weir_histogram *before)
{
    struct weir_histogram since = {.sum_ns = growth(now->sum_ns, before->sum_ns)};

    for (uint32_t b = 0; b < WEIR_HISTOGRAM_BUCKETS; b++) {
        since.bucket[b] = growth(now->bucket[b], before->bucket[b]);
        since.count += since.bucket[b];
    }
    return since;
}
