/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A device for fuzzing who makes a queue pair, in place of transport/verbs.c: it gives out what it
 * is asked for, counts it, and refuses as the bytes choose.
 *
 * Checked at every call: what is given back was given out, and nothing that it is still part of.
 */

#include <stdbool.h>

#include "tests/fuzz/fuzz.h"
#include "transport/verbs.h"

/* All is to be had anew; the bytes choose what the device is, and which call fails, if any. */
void device_begin(struct fuzz_bytes *bytes);
/* Has it refused anything since then? */
bool device_has_refused(void);
/* Has it back all that it gave out? */
bool device_is_idle(void);
