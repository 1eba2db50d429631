/* SPDX-License-Identifier: MIT */
#include "transport/memd/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/spec.h"

#define LINE_BYTES  1024
#define FIELD(name) offsetof(struct memd_settings, name)

static const struct wr_spec_row rows[] = {
    {"memory", WR_SPEC_BYTES, FIELD(memory), 2u << 20, 1ull << 50, NULL},
    {"quota", WR_SPEC_BYTES, FIELD(quota), 0, 1ull << 50, NULL},
    {"lease", WR_SPEC_COUNT, FIELD(lease), 1, 86400, NULL},
    {"grace", WR_SPEC_COUNT, FIELD(grace), 0, 86400, NULL},
    {"keep-free", WR_SPEC_COUNT, FIELD(keep_free), 0, 99, NULL},
    {"threads", WR_SPEC_COUNT, FIELD(threads), 0, MEMD_THREADS_MOST, NULL},
    {"huge-pages", WR_SPEC_WORD, FIELD(huge_pages), 0, 0, "auto\0transparent\0off\0"},
    {"numa", WR_SPEC_WORD, FIELD(numa), 0, 0, "spread\0local\0"},
    {"spin-us", WR_SPEC_COUNT, FIELD(spin_us), 0, 1000, NULL},
    {"connections", WR_SPEC_COUNT, FIELD(connections), 8, MEMD_CONNECTIONS_MOST, NULL},
    {"leases", WR_SPEC_COUNT, FIELD(leases), 1, MEMD_LEASES_MOST, NULL},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const struct wr_spec_kind kind = {"settings", rows, ROWS};

/* Settings that are text. */
static const struct {
    const char *key;
    size_t offset;
} texts[] = {{"key-file", FIELD(key_file)},
             {"status-socket", FIELD(status_path)},
             {"metrics", FIELD(metrics)}};
#define TEXTS (sizeof(texts) / sizeof(texts[0]))

static const char **text_at(struct memd_settings *settings, size_t i)
{
    return (const char **)(void *)((char *)settings + texts[i].offset);
}

static const char *const *const_text_at(const struct memd_settings *settings, size_t i)
{
    return (const char *const *)(const void *)((const char *)settings + texts[i].offset);
}

/* What wr_spec has to say goes into `why`. */
static void note_why(void *context, int severity, int error, int os_error, const char *text)
{
    (void)severity, (void)error, (void)os_error;
    snprintf(context, MEMD_WHY_BYTES, "%s", text);
}

static int set_number(struct memd_settings *settings, const struct memd_word *word,
                      char why[MEMD_WHY_BYTES])
{
    const struct weir_backend_env env = {.context = why, .tell = note_why};
    char option[LINE_BYTES];

    snprintf(option, sizeof(option), "%s=%s", word->key, word->value);
    return wr_spec_options(&kind, option, &env, settings);
}

static int copy_text(const char **text_p, const char *value, char why[MEMD_WHY_BYTES])
{
    char *copy = strdup(value);

    if (!copy) {
        snprintf(why, MEMD_WHY_BYTES, "out of memory");
        return WEIR_ENOMEM;
    }
    free((void *)(uintptr_t)*text_p);
    *text_p = copy;
    return WEIR_OK;
}

static int set_listen(struct memd_settings *settings, const char *value, char why[MEMD_WHY_BYTES])
{
    int error;

    if (settings->listen_count == MEMD_LISTEN_MOST) {
        snprintf(why, MEMD_WHY_BYTES, "listen: at most %u addresses; 0.0.0.0 and [::] mean all",
                 MEMD_LISTEN_MOST);
        return WEIR_EINVAL;
    }
    error = copy_text(&settings->listen[settings->listen_count], value, why);
    settings->listen_count += !error;
    return error;
}

static int set(struct memd_settings *settings, const struct memd_word *word,
               char why[MEMD_WHY_BYTES])
{
    if (strcmp(word->key, "listen") == 0)
        return set_listen(settings, word->value, why);
    for (size_t i = 0; i < TEXTS; i++)
        if (strcmp(texts[i].key, word->key) == 0)
            return copy_text(text_at(settings, i), word->value, why);
    for (size_t i = 0; i < ROWS; i++)
        if (strcmp(rows[i].key, word->key) == 0)
            return set_number(settings, word, why);
    snprintf(why, MEMD_WHY_BYTES,
             "there is no setting \"%s\"; there are memory, listen, key-file, quota, lease, "
             "connections, leases, threads, spin-us, grace, keep-free, huge-pages, numa, "
             "status-socket, metrics",
             word->key);
    return WEIR_EINVAL;
}

/* --- The file -------------------------------------------------------------------------------- */

static char *trim(char *text)
{
    char *end = text + strlen(text);

    while (end > text && strchr(" \t\r\n", end[-1]))
        *--end = '\0';
    return text + strspn(text, " \t");
}

/* "key = value" in two, which is changed for it. False: it is none. */
static bool split(char *line, struct memd_word *word_p)
{
    char *equals = strchr(line, '=');

    if (!equals)
        return false;
    *equals = '\0';
    word_p->key = trim(line);
    word_p->value = trim(equals + 1);
    return *word_p->key && *word_p->value;
}

static int set_line(struct memd_settings *settings, char *line, char why[MEMD_WHY_BYTES])
{
    struct memd_word word;

    line = trim(line);
    if (*line == '\0' || *line == '#')
        return WEIR_OK;
    if (!split(line, &word)) {
        snprintf(why, MEMD_WHY_BYTES, "expected `key = value`, a # before a comment, or nothing");
        return WEIR_EINVAL;
    }
    return set(settings, &word, why);
}

static int read_file(struct memd_settings *settings, const char *path, char why[MEMD_WHY_BYTES])
{
    FILE *file = fopen(path, "re");
    char line[LINE_BYTES], inner[MEMD_WHY_BYTES] = "";
    unsigned number = 0;
    int error = WEIR_OK;

    if (!file) {
        snprintf(why, MEMD_WHY_BYTES, "%s: %s", path, strerrordesc_np(errno));
        return WEIR_ENOENT;
    }
    while (!error && fgets(line, sizeof(line), file)) {
        number++;
        error = set_line(settings, line, inner);
    }
    if (error)
        snprintf(why, MEMD_WHY_BYTES, "%.200s:%u: %.400s", path, number, inner);
    fclose(file);
    return error;
}

/* --- All of them ----------------------------------------------------------------------------- */

static int check(const struct memd_settings *settings, char why[MEMD_WHY_BYTES])
{
    const char *missing = NULL;

    if (!settings->memory)
        missing = "memory: how much to lend, for example --memory 64G";
    else if (!settings->listen_count)
        missing = "listen: where, for example --listen tcp://0.0.0.0:7070";
    else if (!settings->key_file)
        missing = "key-file: what clients have to know. `head -c 32 /dev/urandom > FILE; chmod 600 "
                  "FILE` makes one; give every client a copy";
    if (!missing)
        return WEIR_OK;
    snprintf(why, MEMD_WHY_BYTES, "it has to be told %s", missing);
    return WEIR_EINVAL;
}

int memd_settings_read(const char *file, const struct memd_word *words, uint32_t count,
                       struct memd_settings *settings_p, char why[MEMD_WHY_BYTES])
{
    int error = WEIR_OK;

    *settings_p = (struct memd_settings){.lease = 30,
                                         .grace = 10,
                                         .keep_free = 5,
                                         .spin_us = 20,
                                         .connections = MEMD_CONNECTIONS,
                                         .leases = MEMD_LEASES};
    if (file)
        error = read_file(settings_p, file, why);
    for (uint32_t i = 0; i < count && !error; i++)
        error = set(settings_p, &words[i], why);
    if (!error)
        error = check(settings_p, why);
    if (error)
        memd_settings_free(settings_p);
    return error;
}

void memd_settings_free(struct memd_settings *settings)
{
    for (size_t i = 0; i < TEXTS; i++)
        free((void *)(uintptr_t)*text_at(settings, i));
    for (uint32_t i = 0; i < settings->listen_count; i++)
        free((void *)(uintptr_t)settings->listen[i]);
    *settings = (struct memd_settings){.memory = 0};
}

struct memd_limits memd_settings_limits(const struct memd_settings *settings)
{
    return (struct memd_limits){.memory = settings->memory,
                                .quota = settings->quota,
                                .lease_ms = (uint32_t)settings->lease * 1000,
                                .keep_free_percent = (uint32_t)settings->keep_free};
}

static bool is_same(const char *one, const char *other)
{
    return one && other ? strcmp(one, other) == 0 : one == other;
}

const char *memd_settings_fixed(const struct memd_settings *one, const struct memd_settings *other)
{
    if (one->threads != other->threads)
        return "threads";
    if (one->huge_pages != other->huge_pages)
        return "huge-pages";
    if (one->numa != other->numa)
        return "numa";
    if (one->spin_us != other->spin_us)
        return "spin-us";
    if (one->connections != other->connections)
        return "connections";
    if (one->leases != other->leases)
        return "leases";
    for (size_t i = 0; i < TEXTS; i++)
        if (!is_same(*const_text_at(one, i), *const_text_at(other, i)))
            return texts[i].key;
    if (one->listen_count != other->listen_count)
        return "listen";
    for (uint32_t i = 0; i < one->listen_count; i++)
        if (!is_same(one->listen[i], other->listen[i]))
            return "listen";
    return NULL;
}
