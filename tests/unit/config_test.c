/* SPDX-License-Identifier: MIT */

/* Settings: what the program says, then the environment, then the default; nothing is ignored. */

#include "runtime/base/config.h"

#include <criterion/criterion.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char told[512];
static int told_count;

static void hear(void *context, const struct weir_event *event)
{
    (void)context;
    snprintf(told, sizeof(told), "%s", event->text);
    told_count++;
}

static const struct wr_events events = {.listener = hear};

/* Nothing of the environment that the tests run in. */
static void clear(void)
{
    for (size_t i = 0; weir_setting(i); i++)
        unsetenv(weir_setting(i)->environment);
    told[0] = '\0';
    told_count = 0;
}

static int check(const struct weir_options *given, struct weir_options *full)
{
    *full = (struct weir_options){0};
    return wr_config_check(given, full, &events);
}

/* --- The table ------------------------------------------------------------------------------- */

Test(config, every_field_is_a_row)
{
    size_t numbers = 0, texts = 0;

    for (size_t i = 0; weir_setting(i); i++) {
        const struct weir_setting *row = weir_setting(i);

        cr_expect_eq(strncmp(row->environment, "WEIR_", 5), 0);
        cr_expect_gt(strlen(row->help), 10, "%s", row->name);
        for (size_t k = 0; k < i; k++) {
            cr_expect(strcmp(row->name, weir_setting(k)->name) != 0);
            cr_expect(strcmp(row->environment, weir_setting(k)->environment) != 0);
        }
        if (strcmp(row->unit, "text") == 0)
            texts++;
        else
            numbers++;
    }
    /* size, the listener and its context are no settings. */
    cr_expect_eq(sizeof(struct weir_options), sizeof(size_t) + numbers * sizeof(uint64_t) +
                                                  texts * sizeof(char *) + sizeof(weir_event_fn) +
                                                  sizeof(void *));
    cr_expect_null(weir_setting(numbers + texts));
    cr_expect_null(weir_setting(SIZE_MAX));
}

/* --- Who counts most ------------------------------------------------------------------------- */

Test(config, defaults)
{
    struct weir_options options, full;

    clear();
    weir_options_init(&options);
    cr_expect_eq(options.size, sizeof(options));
    cr_expect_eq(options.writes_in_flight, 8);
    cr_expect_eq(options.address_space_bytes, 4ull << 40);
    cr_expect_eq(options.readahead_bytes, 256 << 10);
    cr_expect_str_eq(options.engine, "auto");
    cr_expect_str_eq(options.backends, "");
    cr_expect_null(options.on_event);
    cr_expect_eq(check(&options, &full), WEIR_OK);
    cr_expect_eq(memcmp(&options, &full, sizeof(full)), 0);
    cr_expect_eq(check(NULL, &full), WEIR_OK, "NULL: all defaults");
    cr_expect_eq(memcmp(&options, &full, sizeof(full)), 0);
    cr_expect_eq(told_count, 0);
}

Test(config, the_environment_counts_more_than_the_default)
{
    struct weir_options options;

    clear();
    setenv("WEIR_WRITES_IN_FLIGHT", "3", 1);
    setenv("WEIR_BUDGET", "1.5G", 1);
    setenv("WEIR_ENGINE", "wp", 1);
    setenv("WEIR_BACKENDS", "mem:?size=1G", 1);
    weir_options_init(&options);
    cr_expect_eq(options.writes_in_flight, 3);
    cr_expect_eq(options.budget_bytes, 3ull << 29);
    cr_expect_str_eq(options.engine, "wp");
    cr_expect_str_eq(options.backends, "mem:?size=1G");
    cr_expect_eq(options.drop_batch_pages, 128);
}

Test(config, the_program_counts_most)
{
    struct weir_options options, full;

    clear();
    setenv("WEIR_WRITES_IN_FLIGHT", "3", 1);
    setenv("WEIR_ENGINE", "wp", 1);
    weir_options_init(&options);
    options.writes_in_flight = 5;
    options.engine = "move";
    cr_expect_eq(check(&options, &full), WEIR_OK);
    cr_expect_eq(full.writes_in_flight, 5);
    cr_expect_str_eq(full.engine, "move");
}

/* --- What is refused ------------------------------------------------------------------------- */

static const char *const bad_values[] = {
    "", "x", "-1", "+5", "1.2.3", "5x", "5kk", "5 k", "1e400", "0x10z", "99999999999999999999999"};

Test(config, a_bad_variable_is_refused_by_name)
{
    for (size_t i = 0; weir_setting(i); i++) {
        const struct weir_setting *row = weir_setting(i);

        for (size_t k = 0; k < sizeof(bad_values) / sizeof(bad_values[0]); k++) {
            struct weir_options options, full;

            if (strcmp(row->name, "backends") == 0 || strcmp(row->name, "trace") == 0)
                continue; /* any text: the back ends, or the system, judge it */
            clear();
            setenv(row->environment, bad_values[k], 1);
            weir_options_init(&options);
            cr_expect_eq(check(&options, &full), WEIR_EINVAL, "%s=%s", row->environment,
                         bad_values[k]);
            cr_expect_eq(told_count, 1);
            cr_expect_not_null(strstr(told, row->environment), "%s", told);
            cr_expect_not_null(strstr(told, "expected"), "%s", told);
            cr_expect_eq(full.size, 0, "nothing is written on failure");
            cr_expect_eq(check(NULL, &full), WEIR_EINVAL);
        }
    }
}

Test(config, a_variable_out_of_range_is_refused)
{
    static const char *const wrong[][2] = {{"WEIR_WRITES_IN_FLIGHT", "0"},
                                           {"WEIR_WRITES_IN_FLIGHT", "65"},
                                           {"WEIR_SECOND_CHANCE", "9"},
                                           {"WEIR_ADDRESS_SPACE", "17t"},
                                           {"WEIR_CHECKSUMS", "2"}};
    struct weir_options full;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        clear();
        setenv(wrong[i][0], wrong[i][1], 1);
        cr_expect_eq(check(NULL, &full), WEIR_EINVAL, "%s=%s", wrong[i][0], wrong[i][1]);
        cr_expect_not_null(strstr(told, wrong[i][0]), "%s", told);
    }
}

Test(config, a_bad_variable_leaves_the_default)
{
    struct weir_options options;

    clear();
    setenv("WEIR_WRITES_IN_FLIGHT", "many", 1);
    setenv("WEIR_TRAP", "magic", 1);
    weir_options_init(&options);
    cr_expect_eq(options.writes_in_flight, 8);
    cr_expect_str_eq(options.trap, "auto");
}

Test(config, limits_are_reached_and_not_exceeded)
{
    static const struct {
        size_t offset;
        const char *name;
        uint64_t least, most;
    } rows[] = {
        {offsetof(struct weir_options, writes_in_flight), "writes_in_flight", 1, 64},
        {offsetof(struct weir_options, drop_batch_pages), "drop_batch_pages", 1, 512},
        {offsetof(struct weir_options, cache_scan_ratio), "cache_scan_ratio", 1, 64},
        {offsetof(struct weir_options, second_chance_permille), "second_chance_permille", 10, 500},
        {offsetof(struct weir_options, zero_elision), "zero_elision", 0, 1},
        {offsetof(struct weir_options, checksums), "checksums", 0, 1},
        {offsetof(struct weir_options, slot_keep_percent), "slot_keep_percent", 0, 100},
        {offsetof(struct weir_options, readahead_bytes), "readahead_bytes", 0, 256 << 10},
        {offsetof(struct weir_options, fault_readers), "fault_readers", 1, 64},
        {offsetof(struct weir_options, report_signal), "report_signal", 0, 64},
    };

    clear();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct weir_options options, full;
        uint64_t *field = (uint64_t *)(void *)((char *)&options + rows[i].offset);

        weir_options_init(&options);
        *field = rows[i].least;
        cr_expect_eq(check(&options, &full), WEIR_OK, "%s", rows[i].name);
        *field = rows[i].most;
        cr_expect_eq(check(&options, &full), WEIR_OK, "%s", rows[i].name);
        *field = rows[i].most + 1;
        cr_expect_eq(check(&options, &full), WEIR_EINVAL, "%s", rows[i].name);
        cr_expect_not_null(strstr(told, rows[i].name), "%s", told);
        if (rows[i].least > 0) {
            *field = rows[i].least - 1;
            cr_expect_eq(check(&options, &full), WEIR_EINVAL, "%s", rows[i].name);
            cr_expect_not_null(strstr(told, rows[i].name), "%s", told);
        }
    }
}

Test(config, words_are_exact)
{
    static const char *const wrong[] = {"", "Auto", "auto ", "movewp", "mov", "sigbus"};
    struct weir_options options, full;

    clear();
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        weir_options_init(&options);
        options.engine = wrong[i];
        cr_expect_eq(check(&options, &full), WEIR_EINVAL, "%s", wrong[i]);
        cr_expect_not_null(strstr(told, "engine"), "%s", told);
        cr_expect_not_null(strstr(told, "auto or move or wp"), "%s", told);
    }
    weir_options_init(&options);
    options.engine = NULL; /* as after memset() */
    cr_expect_eq(check(&options, &full), WEIR_OK);
    cr_expect_str_eq(full.engine, "auto");
}

/* --- Other versions -------------------------------------------------------------------------- */

Test(config, an_older_program_has_fewer_fields)
{
    const size_t known = offsetof(struct weir_options, readahead_bytes);
    struct weir_options options, full;

    clear();
    memset(&options, 0x5a, sizeof(options));
    weir_options_init_sized(&options, known);
    cr_expect_eq(options.size, known);
    for (size_t i = known; i < sizeof(options); i++)
        cr_expect_eq(((unsigned char *)&options)[i], 0x5a, "byte %zu", i);
    options.writes_in_flight = 4;
    cr_expect_eq(check(&options, &full), WEIR_OK);
    cr_expect_eq(full.size, sizeof(full));
    cr_expect_eq(full.writes_in_flight, 4);
    cr_expect_eq(full.readahead_bytes, 256 << 10, "its default");
    cr_expect_null(full.on_event);
}

Test(config, a_newer_program_may_not_ask_for_what_is_unknown)
{
    struct {
        struct weir_options options;
        uint64_t newer[2];
    } given;
    struct weir_options full;

    clear();
    weir_options_init_sized(&given.options, sizeof(given));
    cr_expect_eq(given.newer[1], 0, "those stay zero");
    cr_expect_eq(given.options.size, sizeof(given));
    cr_expect_eq(check(&given.options, &full), WEIR_OK);
    given.newer[1] = 1;
    cr_expect_eq(check(&given.options, &full), WEIR_EINVAL);
    cr_expect_eq(told_count, 1);
}

Test(config, options_that_were_never_filled_are_refused)
{
    struct weir_options options = {0}, full;

    clear();
    cr_expect_eq(check(&options, &full), WEIR_EINVAL);
    cr_expect_not_null(strstr(told, "weir_options_init"), "%s", told);
}

/* --- Sizes ----------------------------------------------------------------------------------- */

Test(config, sizes)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},           {"4096", 4096},       {" 7", 7},
        {"64k", 64 << 10},  {"64K", 64 << 10},    {"2MiB", 2 << 20},
        {"2MB", 2 << 20},   {"1.5G", 3ull << 29}, {"0.25t", 1ull << 38},
        {"1p", 1ull << 50}, {"100b", 100},
    };
    uint64_t bytes;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        bytes = 1;
        cr_expect_eq(wr_config_bytes(good[i].text, &bytes), WEIR_OK, "%s", good[i].text);
        cr_expect_eq(bytes, good[i].bytes, "%s", good[i].text);
    }
    for (size_t i = 0; i < sizeof(bad_values) / sizeof(bad_values[0]); i++) {
        bytes = 77;
        cr_expect_eq(wr_config_bytes(bad_values[i], &bytes), WEIR_EINVAL, "%s", bad_values[i]);
        cr_expect_eq(bytes, 77);
    }
}
