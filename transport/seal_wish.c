/* SPDX-License-Identifier: MIT */

/* What a specification says of sealing. */

#include <stdlib.h>
#include <string.h>

#include "transport/seal.h"
#include "transport/spec.h"
#include "transport/tell.h"

#define KEY "seal="

struct wish {
    uint64_t word;
};

static const struct wr_spec_row row = {"seal",
                                       WR_SPEC_WORD,
                                       offsetof(struct wish, word),
                                       0,
                                       0,
                                       "auto\0on\0off\0aes256gcm\0chacha20\0"};

/* Where the outermost options begin: behind a wrapper's parentheses, and the '?'. */
static const char *options_of(const char *spec)
{
    size_t depth = 0;

    spec += strcspn(spec, ":(?");
    spec += *spec == ':';
    if (*spec == '(')
        do {
            depth = *spec == '(' ? depth + 1 : *spec == ')' ? depth - 1 : depth;
            spec++;
        } while (depth > 0 && *spec);
    spec += strcspn(spec, "?");
    return spec + (*spec == '?');
}

/* Copy options to one of two texts, which have room, and end where they are told. */
static void append(char **end, const char *start, const char *option, size_t length)
{
    if (*end != start)
        *(*end)++ = '&';
    memcpy(*end, option, length);
    *end += length;
    **end = '\0';
}

/* Whether there was one. */
static bool part(const char *options, char *mine, char *others)
{
    char *mine_end = mine, *others_end = others;

    while (*options) {
        size_t length = strcspn(options, "&");

        if (strncmp(options, KEY, sizeof(KEY) - 1) == 0)
            append(&mine_end, mine, options, length);
        else
            append(&others_end, others, options, length);
        options += length + (options[length] == '&');
    }
    return mine_end != mine;
}

int wr_seal_cut(const char *spec, const struct weir_backend_env *env, char **rest_p,
                enum wr_seal_wish *wish_p)
{
    const char *options = options_of(spec);
    const size_t room = strlen(spec) + 1, head = (size_t)(options - spec);
    char *name = strndup(spec, strcspn(spec, ":(?")), *mine = calloc(1, room),
         *rest = calloc(1, room);
    const struct wr_spec_kind kind = {name, &row, 1};
    struct wish wish = {WR_SEAL_AUTO};
    int error = WEIR_OK;

    if (!name || !mine || !rest) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "seal: out of memory");
        error = WEIR_ENOMEM;
    } else if (part(options, mine, rest + head)) {
        memcpy(rest, spec, rest[head] ? head : head - 1); /* no '?' without an option */
        error = wr_spec_options(&kind, mine, env, &wish);
    } else {
        free(rest);
        rest = NULL;
    }
    free(name);
    free(mine);
    if (error) {
        free(rest);
        return error;
    }
    *rest_p = rest;
    *wish_p = (enum wr_seal_wish)wish.word;
    return WEIR_OK;
}

bool wr_seal_is_due(enum wr_seal_wish wish, bool is_outer, struct weir_backend *backend)
{
    struct weir_backend_info info;

    if (wish != WR_SEAL_AUTO || !is_outer)
        return wish != WR_SEAL_AUTO && wish != WR_SEAL_OFF;
    backend->ops->describe(backend, &info);
    return info.flags & WEIR_BACKEND_REMOTE;
}
