/* SPDX-License-Identifier: MIT */
#include "runtime/base/config.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/text.h"

enum unit {
    UNIT_BYTES,
    UNIT_PAGES,
    UNIT_COUNT,
    UNIT_PERMILLE,
    UNIT_PERCENT,
    UNIT_SWITCH,
    UNIT_TEXT
};

static const char *const unit_names[] = {
    [UNIT_BYTES] = "bytes",       [UNIT_PAGES] = "pages",     [UNIT_COUNT] = "count",
    [UNIT_PERMILLE] = "permille", [UNIT_PERCENT] = "percent", [UNIT_SWITCH] = "0/1",
    [UNIT_TEXT] = "text",
};

#define KIB      1024ull
#define MIB      (1024ull * KIB)
#define GIB      (1024ull * MIB)
#define TIB      (1024ull * GIB)
#define NO_LIMIT UINT64_MAX
#define ANY_PATH "/..." /* among the words of a text: any that begins with '/' */

/* field, variable, default, unit, least, most (for text: NULL or the words allowed), help */
#define SETTINGS(NUMBER, WORDS)                                                                 \
    NUMBER(budget_bytes, "WEIR_BUDGET", "0", UNIT_BYTES, 0, NO_LIMIT,                           \
           "local memory for all regions; 0: 80 % of what the cgroup or the machine has free")  \
    WORDS(backends, "WEIR_BACKENDS", "", NULL,                                                  \
          "where pages go, separated by spaces, filled in this order; empty: file:/var/tmp")    \
    WORDS(engine, "WEIR_ENGINE", "auto", "auto\0move\0wp\0",                                    \
          "how dirty pages are taken: move (Linux 6.8), wp (5.7), auto: the best there is")     \
    WORDS(trap, "WEIR_TRAP", "auto", "auto\0sigbus\0", "how the runtime learns of a touch")     \
    NUMBER(address_space_bytes, "WEIR_ADDRESS_SPACE", "4t", UNIT_BYTES, 2 * MIB, 16 * TIB,      \
           "most that all regions together may span at one time")                               \
    NUMBER(watermark_min_bytes, "WEIR_WATERMARK_MIN", "0", UNIT_BYTES, 0, NO_LIMIT,             \
           "free memory kept from new pages, for pages that come back; 0: 0.5 % of the budget") \
    NUMBER(watermark_low_bytes, "WEIR_WATERMARK_LOW", "0", UNIT_BYTES, 0, NO_LIMIT,             \
           "reclaim begins below this much free memory; 0: 1 % of the budget")                  \
    NUMBER(watermark_high_bytes, "WEIR_WATERMARK_HIGH", "0", UNIT_BYTES, 0, NO_LIMIT,           \
           "reclaim ends above this much free memory; 0: 1.5 % of the budget")                  \
    NUMBER(writes_in_flight, "WEIR_WRITES_IN_FLIGHT", "8", UNIT_COUNT, 1, 64,                   \
           "clusters of 2 MiB that may be on their way to one back end")                        \
    NUMBER(drop_batch_pages, "WEIR_DROP_BATCH", "128", UNIT_PAGES, 1, 512,                      \
           "clean pages that leave by one system call; more is cheaper and holds them longer")  \
    NUMBER(cache_scan_ratio, "WEIR_CACHE_SCAN_RATIO", "6", UNIT_COUNT, 1, 64,                   \
           "look for clean ones among 1/N of the victims before any is written")                \
    NUMBER(second_chance_permille, "WEIR_SECOND_CHANCE", "50", UNIT_PERMILLE, 10, 500,          \
           "share of the budget that keeps clean victims and pages read ahead")                 \
    NUMBER(zero_elision, "WEIR_ZERO_ELISION", "1", UNIT_SWITCH, 0, 1,                           \
           "forget pages of zeros instead of writing them")                                     \
    NUMBER(checksums, "WEIR_CHECKSUMS", "1", UNIT_SWITCH, 0, 1,                                 \
           "sum every page when it leaves and check it when it returns")                        \
    NUMBER(slot_keep_percent, "WEIR_SLOT_KEEP", "50", UNIT_PERCENT, 0, 100,                     \
           "a page that was read keeps its slot while no more than this of a back end is used") \
    NUMBER(clean_percent, "WEIR_CLEAN", "85", UNIT_PERCENT, 0, 95,                              \
           "live pages are gathered while no more than this of a back end is used; 0: never")   \
    NUMBER(readahead_bytes, "WEIR_READAHEAD", "256k", UNIT_BYTES, 0, 256 * KIB,                 \
           "largest single read ahead of a stream; 0: none")                                    \
    NUMBER(fault_around_bytes, "WEIR_FAULT_AROUND", "128k", UNIT_BYTES, 0, 256 * KIB,           \
           "most that one touch of a stream maps at once; 0: one page")                         \
    NUMBER(fault_readers, "WEIR_FAULT_READERS", "64", UNIT_COUNT, 1, 64,                        \
           "faults that may wait for a back end at the same time")                              \
    NUMBER(report_signal, "WEIR_REPORT_SIGNAL", "0", UNIT_COUNT, 0, 64,                         \
           "a signal that prints the report on standard error; 0: none")                        \
    WORDS(trace, "WEIR_TRACE", "", NULL,                                                        \
          "a file to which every fault is written, for weir_policy --trace; empty: none")       \
    WORDS(heat, "WEIR_HEAT", "none", "none\0auto\0idle\0damon\0perf\0",                         \
          "who else tells which pages are used, where the machine lets him; auto: the best")    \
    WORDS(publish, "WEIR_PUBLISH", "1",                                                         \
          "1\0"                                                                                 \
          "0\0" ANY_PATH "\0",                                                                  \
          "let `weir` watch the program: 1, in /dev/shm/weir.UID; 0: no; or a directory for that")

struct row {
    struct weir_setting told;
    enum unit unit;
    size_t offset;
    uint64_t least, most;
    const char *words; /* each ended by 0, an empty one at the end; NULL: any text */
};

static const struct row rows[] = {
#define ROW_NUMBER(field, variable, initial, unit, least, most, help) \
    {{#field, variable, initial, NULL, help},                         \
     unit,                                                            \
     offsetof(struct weir_options, field),                            \
     least,                                                           \
     most,                                                            \
     NULL},
#define ROW_WORDS(field, variable, initial, words, help) \
    {{#field, variable, initial, NULL, help},            \
     UNIT_TEXT,                                          \
     offsetof(struct weir_options, field),               \
     0,                                                  \
     0,                                                  \
     words},
    SETTINGS(ROW_NUMBER, ROW_WORDS)
#undef ROW_NUMBER
#undef ROW_WORDS
};

#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

static struct weir_setting told[ROW_COUNT];

const struct weir_setting *weir_setting(size_t index)
{
    if (index >= ROW_COUNT)
        return NULL;
    /* Idempotent, so that two threads doing it at once do no harm. */
    told[index] = rows[index].told;
    told[index].unit = unit_names[rows[index].unit];
    return &told[index];
}

int wr_config_bytes(const char *text, uint64_t *bytes_p)
{
    static const char suffixes[] = "kmgtp";
    char *end;
    double number;
    uint64_t factor = 1;

    while (isspace((unsigned char)*text))
        text++;
    if (!isdigit((unsigned char)*text))
        return WEIR_EINVAL;
    errno = 0;
    number = strtod(text, &end);
    if (errno || end == text)
        return WEIR_EINVAL;
    if (*end) {
        const char *suffix = strchr(suffixes, tolower((unsigned char)*end));

        if (suffix) {
            factor = 1ull << (10 * (unsigned)(suffix - suffixes + 1));
            end++;
            if (*end == 'i')
                end++;
        }
        if (*end == 'B' || *end == 'b')
            end++;
        if (*end)
            return WEIR_EINVAL;
    }
    if (number * (double)factor >= 18e18)
        return WEIR_EINVAL;
    *bytes_p = factor == 1 && number < 9e15 ? (uint64_t)number
                                            : (uint64_t)(number * (double)factor);
    return WEIR_OK;
}

static uint64_t *number_field(struct weir_options *options, const struct row *row)
{
    return (uint64_t *)(void *)((char *)options + row->offset);
}

static const char **text_field(struct weir_options *options, const struct row *row)
{
    return (const char **)(void *)((char *)options + row->offset);
}

static bool is_word(const char *words, const char *text)
{
    for (; *words; words += strlen(words) + 1)
        if (strcmp(words, text) == 0 || (strcmp(words, ANY_PATH) == 0 && *text == '/'))
            return true;
    return false;
}

/* WEIR_EINVAL: the text is no value for this row. */
static int parse(const struct row *row, const char *text, struct weir_options *options)
{
    uint64_t number;

    if (row->unit == UNIT_TEXT) {
        if (row->words && !is_word(row->words, text))
            return WEIR_EINVAL;
        *text_field(options, row) = text;
        return WEIR_OK;
    }
    if (wr_config_bytes(text, &number) != WEIR_OK || number < row->least || number > row->most)
        return WEIR_EINVAL;
    *number_field(options, row) = number;
    return WEIR_OK;
}

void wr_config_fill(struct weir_options *options)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const char *value = getenv(rows[i].told.environment);

        if (!value || parse(&rows[i], value, options) != WEIR_OK)
            WR_CHECK(parse(&rows[i], rows[i].told.initial, options) == WEIR_OK);
    }
}

void weir_options_init_sized(struct weir_options *options, size_t size)
{
    struct weir_options full = {.size = size};

    wr_config_fill(&full);
    /* An older caller has fewer fields, a newer one more: those stay zero. */
    memset(options, 0, size);
    memcpy(options, &full, size < sizeof(full) ? size : sizeof(full));
}

static void refuse(const struct wr_events *events, const struct row *row, const char *where,
                   const char *value)
{
    char line[400];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, where);
    wr_text_add(&text, "=");
    wr_text_add(&text, value);
    wr_text_add(&text, " is not understood: ");
    wr_text_add(&text, row->told.help);
    wr_text_add(&text, "; expected ");
    if (row->words) {
        const char *word = row->words;

        for (; *word; word += strlen(word) + 1) {
            wr_text_add(&text, word == row->words ? "" : " or ");
            wr_text_add(&text, word);
        }
    } else {
        wr_text_number(&text, row->least);
        wr_text_add(&text, " to ");
        wr_text_number(&text, row->most);
        wr_text_add(&text, " ");
        wr_text_add(&text, unit_names[row->unit]);
    }
    wr_event(events, WEIR_FAILURE, WEIR_EINVAL, 0, 0, line);
}

static int check_environment(const struct wr_events *events)
{
    struct weir_options scratch = {.size = sizeof(scratch)};

    for (size_t i = 0; i < ROW_COUNT; i++) {
        const char *value = getenv(rows[i].told.environment);

        if (value && parse(&rows[i], value, &scratch) != WEIR_OK) {
            refuse(events, &rows[i], rows[i].told.environment, value);
            return WEIR_EINVAL;
        }
    }
    return WEIR_OK;
}

static int check_row(const struct row *row, struct weir_options *full,
                     const struct wr_events *events)
{
    char number[24];
    struct wr_text text;

    if (row->unit == UNIT_TEXT) {
        const char **field = text_field(full, row);

        if (!*field)
            *field = row->told.initial;
        if (!row->words || is_word(row->words, *field))
            return WEIR_OK;
        refuse(events, row, row->told.name, *field);
        return WEIR_EINVAL;
    }
    if (*number_field(full, row) >= row->least && *number_field(full, row) <= row->most)
        return WEIR_OK;
    wr_text_init(&text, number, sizeof(number));
    wr_text_number(&text, *number_field(full, row));
    refuse(events, row, row->told.name, number);
    return WEIR_EINVAL;
}

static bool is_zero(const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i])
            return false;
    return true;
}

int wr_config_check(const struct weir_options *given, struct weir_options *full_p,
                    const struct wr_events *events)
{
    struct weir_options full = {.size = sizeof(full)};
    size_t known;

    if (check_environment(events) != WEIR_OK)
        return WEIR_EINVAL;
    wr_config_fill(&full);
    if (given) {
        if (given->size < offsetof(struct weir_options, backends)) {
            wr_event(events, WEIR_FAILURE, WEIR_EINVAL, 0, 0,
                     "struct weir_options has no size: call weir_options_init() on it first");
            return WEIR_EINVAL;
        }
        known = given->size < sizeof(full) ? given->size : sizeof(full);
        if (!is_zero((const char *)given + known, given->size - known)) {
            wr_event(events, WEIR_FAILURE, WEIR_EINVAL, 0, 0,
                     "struct weir_options sets a field that this older library does not know");
            return WEIR_EINVAL;
        }
        memcpy(&full, given, known);
        full.size = sizeof(full);
    }
    for (size_t i = 0; i < ROW_COUNT; i++)
        if (check_row(&rows[i], &full, events) != WEIR_OK)
            return WEIR_EINVAL;
    *full_p = full;
    return WEIR_OK;
}
