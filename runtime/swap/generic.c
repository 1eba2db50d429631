/* SPDX-License-Identifier: MIT */

/* Generic: the options that every specification may have, whatever its kind, because the runtime
 * and not the back end minds them. They are cut out before the kind sees the rest. */

#include <string.h>

#include "runtime/base/text.h"
#include "runtime/swap/swap.h"

#define PRIORITY "priority"

/* Where the outermost options begin: behind a wrapper's parentheses, or the first '?'. */
static const char *options_of(const char *spec)
{
    size_t at = strcspn(spec, ":(?");
    int depth = 0;

    if (spec[at] == '(')
        do {
            depth += spec[at] == '(' ? 1 : spec[at] == ')' ? -1 : 0;
            at++;
        } while (depth > 0 && spec[at]);
    at += strcspn(spec + at, "?");
    return spec + at + (spec[at] == '?');
}

/* The whole of the text as a number up to WR_PRIORITY_MAX; false: it is none. */
static bool parse_priority(const char *text, size_t length, int32_t *priority_p)
{
    int32_t number = 0;

    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        number = number * 10 + (text[i] - '0');
        if (number > WR_PRIORITY_MAX)
            return false;
    }
    *priority_p = number;
    return length > 0;
}

static int refuse(const struct wr_events *events, const char *spec, const char *what)
{
    char line[400];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "back end ");
    wr_text_add(&text, spec);
    wr_text_add(&text, ": " PRIORITY "=");
    wr_text_add(&text, what);
    wr_event(events, WEIR_FAILURE, WEIR_EINVAL, 0, 0, line);
    return WEIR_EINVAL;
}

int wr_swap_cut_generic(const struct wr_events *events, const char *spec, char rest[WR_SPEC_ROOM],
                        int32_t *priority_p)
{
    const char *option = options_of(spec);
    size_t length = (size_t)(option - spec), kept = 0;
    bool is_set = false;

    if (strlen(spec) >= WR_SPEC_ROOM)
        return refuse(events, spec, "... cannot be looked for: more than 2047 characters");
    memcpy(rest, spec, length);
    while (*option) {
        size_t bytes = strcspn(option, "&");
        const size_t key = sizeof(PRIORITY "=") - 1;

        if (bytes >= key && memcmp(option, PRIORITY "=", key) == 0) {
            if (is_set)
                return refuse(events, spec, "... is given twice");
            if (!parse_priority(option + key, bytes - key, priority_p))
                return refuse(events, spec, "N: expected a whole number from 0 to 32767");
            is_set = true;
        } else {
            if (kept++ > 0)
                rest[length++] = '&';
            memcpy(rest + length, option, bytes);
            length += bytes;
        }
        option += bytes + (option[bytes] == '&');
    }
    rest[length] = '\0';
    return WEIR_OK;
}
