/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Peer: another process that shows an object of ours.
 *
 *   trap     the userfaultfd of that process, of which it has given us a descriptor: touches of its
 *            views are read from it, and what we do by it is done to its page tables, from here
 *   away     an address of a peer: a number that says whose, and which
 *
 * Always: place(), reveal() and protect() of an address that is away act upon the peer, whether it
 * runs, is stopped, or is just dying; it takes no part in them. A page is never unmapped there
 * alone: protect() keeps stores off while the page is read, and object_punch() unmaps it in every
 * process. A peer that has ended has nothing mapped: to protect its pages succeeds.
 *
 * (After the lazy migration of CRIU and of virtual machines, where one process fills another's
 * memory; here it also empties it.)
 */

#include "runtime/host/host.h"
#include "runtime/host/trap.h"

#define WR_PEER_AWAY  (1ull << 61)
#define WR_PEER_SHIFT 48 /* a program has no higher address without asking for it */
#define WR_PEERS_MAX  1024u

static inline bool wr_is_away(uint64_t addr)
{
    return (addr & WR_PEER_AWAY) != 0;
}

static inline uint64_t wr_peer_addr(uint32_t peer, uint64_t addr)
{
    return WR_PEER_AWAY | (uint64_t)peer << WR_PEER_SHIFT | addr;
}

/* The address as its own process knows it. */
static inline uint64_t wr_peer_home(uint64_t addr)
{
    return wr_is_away(addr) ? addr & ((1ull << WR_PEER_SHIFT) - 1) : addr;
}

/* Can this host have any? Not before Linux 6.4, and not in the simulator. */
bool wr_peer_is_possible(const struct wr_host *host);

/* From now on peer is he who gave this descriptor, which is ours and closed by wr_peer_close().
 * WEIR_EINVAL: it cannot be read without waiting. */
int wr_peer_open(struct wr_host *host, uint32_t peer, int trap);
/* Nobody uses an address of his any more, and nobody will. */
void wr_peer_close(struct wr_host *host, uint32_t peer);
enum wr_next { WR_NEXT_TOUCH, WR_NEXT_NOTHING, WR_NEXT_END };

/* The next touch of his, with an address that is away, if there is one. Never waits. END: what he
 * gave is no trap of ours; there will be none. */
enum wr_next wr_peer_next(struct wr_host *host, uint32_t peer, struct wr_touch *touch);
/* Let who has touched that page run on. */
void wr_peer_wake(struct wr_host *host, uint64_t addr);
