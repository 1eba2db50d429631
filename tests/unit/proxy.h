/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Proxy: a bad network between a client and a server on this machine, for tests.
 *
 *   pair     two connections, one to each side, whose bytes are passed on
 *   cut      a pair that ends, with whatever was on its way
 *   stalled  a pair that passes nothing on for now, not even its end; what was sent on it may
 * arrive long after
 */

#include <stdint.h>

struct proxy;

/* Listens on a port of its own and connects to this one. */
struct proxy *proxy_open(uint16_t to);
void proxy_close(struct proxy *proxy);
uint16_t proxy_port(const struct proxy *proxy);

/* Cut all pairs that there are. */
void proxy_cut(struct proxy *proxy);
/* Stall all pairs that there are, on the way to the server; later ones pass. */
void proxy_stall(struct proxy *proxy);
/* The oldest so many are left alone by both, as long as no pair has ended. */
void proxy_spare(struct proxy *proxy, uint32_t count);
/* New pairs are stalled, or no longer. */
void proxy_hold(struct proxy *proxy, int is_held);
/* None is stalled any more. */
void proxy_release(struct proxy *proxy);
/* How many there are. */
uint32_t proxy_pairs(struct proxy *proxy);
/* No new pairs, or again. */
void proxy_shut(struct proxy *proxy, int is_shut);
/* New pairs go there. */
void proxy_retarget(struct proxy *proxy, uint16_t to);
/* Each piece of bytes waits so long before it is passed on. */
void proxy_delay(struct proxy *proxy, uint32_t us);
