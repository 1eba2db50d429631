/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Specification: the text by which a user names a back end.
 *
 *     kind:location?key=value&key=value         file:/var/tmp?size=64G&direct=off
 *     kind(inner)?key=value&key=value           chaos(mem:?size=1G)?seed=7
 *
 *   kind      the word that picks the back end; already cut off when open() sees the text
 *   location  where it is; a path, with %XX for characters that mean something here
 *   inner     the whole specification of a wrapped back end; parentheses in it are balanced
 *   option    a key and its value; every key is a row of the kind's table
 *
 * Always: what is not understood is refused by WEIR_EINVAL, and the event names the key and says
 * what is allowed. Nothing depends on the locale.
 */

#include <stdint.h>

#include <weir/weir_backend.h>

enum wr_spec_unit {
    WR_SPEC_BYTES, /* 4096, 64k, 1.5G, 2MiB; powers of 1024                              */
    WR_SPEC_COUNT, /* a whole number                                                     */
    WR_SPEC_SHARE, /* 0 to 1 with at most six digits after the point; kept in millionths */
    WR_SPEC_WORD,  /* one of the row's words; kept as its position                       */
    WR_SPEC_TEXT /* a path, decoded; kept as a char * for the caller to free, also after an error */
};

#define WR_SPEC_SHARE_ONE 1000000u

/* One option. Its value is a uint64_t (or a char *), at this offset of the kind's structure of
 * options. */
struct wr_spec_row {
    const char *key;
    enum wr_spec_unit unit;
    size_t offset;
    uint64_t least, most; /* of BYTES and COUNT                             */
    const char *words;    /* of WORD: each ended by 0, an empty one at the end */
};

/* Who parses, for whom: what every message needs. */
struct wr_spec_kind {
    const char *name;
    const struct wr_spec_row *rows;
    size_t row_count;
};

/*
 * Cut the location from the text and decode it. *location_p is the caller's to free; *options_p
 * points behind the '?', or at the final 0.
 */
int wr_spec_location(const struct wr_spec_kind *kind, const char *text,
                     const struct weir_backend_env *env, char **location_p, const char **options_p);

/* Cut "(inner)" from the text, without its parentheses and undecoded. Ownership as above. */
int wr_spec_inner(const struct wr_spec_kind *kind, const char *text,
                  const struct weir_backend_env *env, char **inner_p, const char **options_p);

/*
 * Set the values that the options name; the others keep what the caller put there (its defaults).
 * values may be half changed after WEIR_EINVAL.
 */
int wr_spec_options(const struct wr_spec_kind *kind, const char *options,
                    const struct weir_backend_env *env, void *values);
