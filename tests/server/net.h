/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Net: two network namespaces with a cable between them, for tests. Nothing of it is left when the
 * processes have ended.
 *
 *   here    the namespace of the process that made the net
 *   beyond  that of whoever entered it, at NET_BEYOND
 *
 * Needs root and the tool ip (iproute2).
 */

#include <stdbool.h>

#define NET_BEYOND "10.231.0.2"

/* The calling process moves into a namespace of its own, with one beyond. Before it has threads.
 * False: that is not permitted here, or ip is missing. */
bool net_make(void);
/* A child goes beyond. */
bool net_enter(void);
/* Pull the cable out at the far end, or put it in: what is sent meanwhile is gone, and nobody is
 * told. */
bool net_cut(bool is_cut);
/* No more than that passes, in either direction. False: this kernel cannot (no tbf). */
bool net_limit(unsigned mbit_per_s);
