/* SPDX-License-Identifier: MIT */
#include "transport/spec.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/tell.h"

#define MILLIONTHS  WR_SPEC_SHARE_ONE
#define OPTIONS_MAX 64 /* rows of one kind: as many as there are bits to remember them by */

/* A piece of the text: not ended by 0. */
struct slice {
    const char *start;
    size_t length;
};

/* ctype.h would ask the locale. */
static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* --- Location and inner ---------------------------------------------------------------------- */

static int decode(struct slice coded, char *plain)
{
    for (size_t i = 0; i < coded.length; i++) {
        int high, low;

        if (coded.start[i] != '%') {
            *plain++ = coded.start[i];
            continue;
        }
        if (coded.length - i < 3)
            return WEIR_EINVAL;
        high = hex_value(coded.start[i + 1]);
        low = hex_value(coded.start[i + 2]);
        if (high < 0 || low < 0 || high + low == 0)
            return WEIR_EINVAL;
        *plain++ = (char)(high * 16 + low);
        i += 2;
    }
    *plain = '\0';
    return WEIR_OK;
}

int wr_spec_location(const struct wr_spec_kind *kind, const char *text,
                     const struct weir_backend_env *env, char **location_p, const char **options_p)
{
    size_t length = strcspn(text, "?");
    char *location = malloc(length + 1);

    if (!location) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "%s: out of memory", kind->name);
        return WEIR_ENOMEM;
    }
    if (decode((struct slice){text, length}, location) != WEIR_OK) {
        wr_tell(env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "%s: in \"%.*s\" a %% must be followed by two hexadecimal digits, not 00; write a "
                "plain %% as %%25",
                kind->name, (int)length, text);
        free(location);
        return WEIR_EINVAL;
    }
    *location_p = location;
    *options_p = text + length + (text[length] == '?');
    return WEIR_OK;
}

/* Length of "(...)" with balanced parentheses at the start of the text; 0: there is none. */
static size_t enclosed_length(const char *text)
{
    size_t depth = 0;

    for (size_t i = 0; text[i]; i++) {
        if (text[i] == '(')
            depth++;
        else if (text[i] == ')' && depth-- == 1)
            return i + 1;
        if (depth == 0)
            return 0;
    }
    return 0;
}

int wr_spec_inner(const struct wr_spec_kind *kind, const char *text,
                  const struct weir_backend_env *env, char **inner_p, const char **options_p)
{
    size_t length = enclosed_length(text);
    char *inner;

    if (length == 0 || (text[length] && text[length] != '?')) {
        wr_tell(env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "%s: expected %s(INNER)?key=value, for example %s(mem:?size=1G)?; parentheses that "
                "are part of a path are written %%28 and %%29",
                kind->name, kind->name, kind->name);
        return WEIR_EINVAL;
    }
    inner = strndup(text + 1, length - 2);
    if (!inner) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "%s: out of memory", kind->name);
        return WEIR_ENOMEM;
    }
    *inner_p = inner;
    *options_p = text + length + (text[length] == '?');
    return WEIR_OK;
}

/* --- Numbers --------------------------------------------------------------------------------- */

static int parse_whole(struct slice *text, uint64_t *number_p)
{
    uint64_t number = 0;
    size_t i;

    for (i = 0; i < text->length && is_digit(text->start[i]); i++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(text->start[i] - '0'), &number))
            return WEIR_EINVAL;
    if (i == 0)
        return WEIR_EINVAL;
    text->start += i;
    text->length -= i;
    *number_p = number;
    return WEIR_OK;
}

/* "12" or "12.345": the part behind the point in millionths. Takes what it read off the text. */
static int parse_decimal(struct slice *text, uint64_t *whole_p, uint64_t *millionths_p)
{
    uint64_t weight = MILLIONTHS / 10, sum = 0;
    size_t i = 0;

    if (parse_whole(text, whole_p) != WEIR_OK)
        return WEIR_EINVAL;
    if (text->length && text->start[0] == '.') {
        for (i = 1; i < text->length && is_digit(text->start[i]); i++, weight /= 10) {
            if (weight == 0)
                return WEIR_EINVAL;
            sum += weight * (uint64_t)(text->start[i] - '0');
        }
        if (i == 1)
            return WEIR_EINVAL;
    }
    text->start += i;
    text->length -= i;
    *millionths_p = sum;
    return WEIR_OK;
}

/* "", "B", "k", "kB", "kiB", in any case. 0: none of these. */
static uint64_t suffix_factor(struct slice text)
{
    static const char letters[] = "kmgt";
    uint64_t factor = 1;
    const char *letter;

    if (text.length && (letter = strchr(letters, lower(text.start[0])))) {
        factor = 1ull << (10 * (unsigned)(letter - letters + 1));
        text.start++;
        text.length--;
        if (text.length == 2 && lower(text.start[0]) == 'i') {
            text.start++;
            text.length--;
        }
    }
    if (text.length == 0 || (text.length == 1 && lower(text.start[0]) == 'b'))
        return factor;
    return 0;
}

static int parse_bytes(struct slice text, uint64_t *bytes_p)
{
    uint64_t whole, millionths, factor, bytes;

    if (parse_decimal(&text, &whole, &millionths) != WEIR_OK)
        return WEIR_EINVAL;
    factor = suffix_factor(text);
    if (factor == 0 || (factor == 1 && millionths))
        return WEIR_EINVAL;
    /* The largest factor is 2^40 and a million fits 2^20: their product cannot overflow. */
    if (__builtin_mul_overflow(whole, factor, &bytes) ||
        __builtin_add_overflow(bytes, millionths * factor / MILLIONTHS, &bytes))
        return WEIR_EINVAL;
    *bytes_p = bytes;
    return WEIR_OK;
}

static int parse_share(struct slice text, uint64_t *share_p)
{
    uint64_t whole, millionths;

    if (parse_decimal(&text, &whole, &millionths) != WEIR_OK || text.length)
        return WEIR_EINVAL;
    if (whole > 1 || (whole == 1 && millionths))
        return WEIR_EINVAL;
    *share_p = whole * MILLIONTHS + millionths;
    return WEIR_OK;
}

static int parse_word(struct slice text, const char *words, uint64_t *position_p)
{
    uint64_t position = 0;

    for (; *words; words += strlen(words) + 1, position++) {
        if (strlen(words) == text.length && memcmp(words, text.start, text.length) == 0) {
            *position_p = position;
            return WEIR_OK;
        }
    }
    return WEIR_EINVAL;
}

static int parse_value(const struct wr_spec_row *row, struct slice text, uint64_t *value_p)
{
    int error = WEIR_EINVAL;

    switch (row->unit) {
    case WR_SPEC_BYTES: error = parse_bytes(text, value_p); break;
    case WR_SPEC_COUNT:
        error = parse_whole(&text, value_p);
        if (text.length)
            error = WEIR_EINVAL;
        break;
    case WR_SPEC_SHARE: return parse_share(text, value_p);
    case WR_SPEC_WORD: return parse_word(text, row->words, value_p);
    case WR_SPEC_TEXT: return WEIR_EINVAL; /* parse_text()'s */
    }
    if (error == WEIR_OK && (*value_p < row->least || *value_p > row->most))
        error = WEIR_EINVAL;
    return error;
}

/* --- Options --------------------------------------------------------------------------------- */

static void describe_row(const struct wr_spec_row *row, char *text, size_t room)
{
    size_t length = 0;

    switch (row->unit) {
    case WR_SPEC_BYTES:
        snprintf(text, room, "bytes, also with k, m, g or t (1.5G), from %llu to %llu",
                 (unsigned long long)row->least, (unsigned long long)row->most);
        break;
    case WR_SPEC_COUNT:
        snprintf(text, room, "a whole number from %llu to %llu", (unsigned long long)row->least,
                 (unsigned long long)row->most);
        break;
    case WR_SPEC_SHARE:
        snprintf(text, room, "a probability from 0 to 1, at most six digits after the point");
        break;
    case WR_SPEC_WORD:
        for (const char *word = row->words; *word && length < room; word += strlen(word) + 1)
            length += (size_t)snprintf(text + length, room - length, "%s%s",
                                       word == row->words ? "" : " or ", word);
        break;
    case WR_SPEC_TEXT:
        snprintf(text, room, "a path; %% must be followed by two hexadecimal digits, not 00");
        break;
    }
}

static int refuse_value(const struct wr_spec_kind *kind, const struct wr_spec_row *row,
                        struct slice value, const struct weir_backend_env *env)
{
    char allowed[160];

    describe_row(row, allowed, sizeof(allowed));
    wr_tell(env, WEIR_FAILURE, WEIR_EINVAL, 0, "%s: %s=%.*s is not understood; expected %s",
            kind->name, row->key, (int)value.length, value.start, allowed);
    return WEIR_EINVAL;
}

static int refuse_key(const struct wr_spec_kind *kind, struct slice key,
                      const struct weir_backend_env *env)
{
    char keys[320];
    size_t length = 0;

    for (size_t i = 0; i < kind->row_count && length < sizeof(keys); i++)
        length += (size_t)snprintf(keys + length, sizeof(keys) - length, "%s%s", i ? ", " : "",
                                   kind->rows[i].key);
    wr_tell(env, WEIR_FAILURE, WEIR_EINVAL, 0, "%s: there is no option \"%.*s\"; there are %s",
            kind->name, (int)key.length, key.start, keys);
    return WEIR_EINVAL;
}

static size_t row_index(const struct wr_spec_kind *kind, struct slice key)
{
    size_t i;

    for (i = 0; i < kind->row_count; i++)
        if (strlen(kind->rows[i].key) == key.length &&
            memcmp(kind->rows[i].key, key.start, key.length) == 0)
            break;
    return i;
}

/* The first of several stays: the second is refused. */
static int parse_text(struct slice text, char **value)
{
    char *plain = text.length ? malloc(text.length + 1) : NULL;

    if (!plain || *value || decode(text, plain) != WEIR_OK) {
        free(plain);
        return *value ? WEIR_OK : WEIR_EINVAL;
    }
    *value = plain;
    return WEIR_OK;
}

/* One "key=value". seen has a bit for each row that was set before. */
static int parse_option(const struct wr_spec_kind *kind, struct slice option,
                        const struct weir_backend_env *env, uint64_t *seen, void *values)
{
    const char *equals = memchr(option.start, '=', option.length);
    struct slice key = {option.start, equals ? (size_t)(equals - option.start) : option.length};
    size_t index = row_index(kind, key);
    const struct wr_spec_row *row = &kind->rows[index];
    struct slice value = {"", 0};
    uint64_t number;
    int error;

    if (index == kind->row_count)
        return refuse_key(kind, key, env);
    if (equals)
        value = (struct slice){equals + 1, option.length - key.length - 1};
    if (row->unit == WR_SPEC_TEXT)
        error = parse_text(value, (char **)(void *)((char *)values + row->offset));
    else
        error = parse_value(row, value, &number);
    if (error != WEIR_OK)
        return refuse_value(kind, row, value, env);
    if (*seen & 1ull << index) {
        wr_tell(env, WEIR_FAILURE, WEIR_EINVAL, 0, "%s: %s is given twice", kind->name, row->key);
        return WEIR_EINVAL;
    }
    *seen |= 1ull << index;
    if (row->unit != WR_SPEC_TEXT)
        memcpy((char *)values + row->offset, &number, sizeof(number));
    return WEIR_OK;
}

int wr_spec_options(const struct wr_spec_kind *kind, const char *options,
                    const struct weir_backend_env *env, void *values)
{
    uint64_t seen = 0;

    if (kind->row_count > OPTIONS_MAX)
        return WEIR_EINVAL;
    while (*options) {
        struct slice option = {options, strcspn(options, "&")};
        int error = parse_option(kind, option, env, &seen, values);

        if (error)
            return error;
        options += option.length;
        if (*options == '&')
            options++;
    }
    return WEIR_OK;
}
