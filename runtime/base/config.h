/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Settings: one table.
 *
 *   row   one field of struct weir_options: its variable, default, unit, limits and help
 *
 * Always: every field of struct weir_options but size and the listener is a row, and nothing else
 * is; a new setting is one new row and one new field.
 */

#include "runtime/base/check.h"

/*
 * Fill every row's field from its environment variable or its default. A variable that cannot be
 * understood leaves the default and is remembered: wr_config_check() will refuse it by name.
 */
void wr_config_fill(struct weir_options *options);

/*
 * Copy what a caller of any version gave into a full set, fill what it did not know of, and judge
 * it all. WEIR_EINVAL, with an event that names the setting: a bad environment variable, a number
 * out of range, an unknown word, or a field this build has never heard of.
 */
int wr_config_check(const struct weir_options *given, struct weir_options *full_p,
                    const struct wr_events *events);

/* Parse "64", "64k", "1.5G", "2MiB". 0 on success. */
int wr_config_bytes(const char *text, uint64_t *bytes_p);
