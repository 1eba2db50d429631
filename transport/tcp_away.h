/* SPDX-License-Identifier: MIT */
#pragma once

/* Away: what is done while a server does not answer, by who waits for it, and when. */

#include "transport/tcp.h"

static inline bool wr_tcp_is_away_for(const struct wr_tcp *tcp, uint64_t ns)
{
    const uint64_t since = atomic_load(&tcp->away_ns), now = wr_line_now_ns();

    /* It may have come back and gone again meanwhile. */
    return atomic_load(&tcp->is_away) && now > since && now - since > ns;
}

/* Is it away for longer than anybody waits? Then nobody begins to wait. Signal. */
static inline bool wr_tcp_is_given_up(const struct wr_tcp *tcp)
{
    return atomic_load(&tcp->is_lost) ||
           wr_tcp_is_away_for(tcp, tcp->options.patience * 1000000000ull);
}

static inline bool wr_tcp_is_barred_for(const struct wr_tcp *tcp, uint64_t ns)
{
    const uint64_t since = atomic_load(&tcp->barred_ns), now = wr_line_now_ns();

    return since && now > since && now - since > ns;
}

/* Can no line be opened for longer than anybody waits? Signal. */
static inline bool wr_tcp_is_barred(const struct wr_tcp *tcp)
{
    return wr_tcp_is_barred_for(tcp, tcp->options.patience * 1000000000ull);
}

/* And has he who has none, since then, been without for as long? Then he does not begin to wait: it
 * may be the lines of others that could not be opened. Signal. */
static inline bool wr_tcp_is_barred_from(const struct wr_tcp *tcp, uint64_t lost_ns)
{
    const uint64_t now = wr_line_now_ns();

    return wr_tcp_is_barred(tcp) && now > lost_ns &&
           now - lost_ns > tcp->options.patience * 1000000000ull;
}

/* Is it away for longer than a connection takes to be opened again, or none can be opened and who
 * writes has none? Then what is to be written had better go elsewhere, if he has said that it can.
 */
#define WR_TCP_BRIEF_NS 500000000ull
static inline bool wr_tcp_puts_off(const struct wr_tcp *tcp, bool has_line)
{
    return tcp->env && (tcp->env->flags & WEIR_ENV_PUTS_OFF) &&
           (wr_tcp_is_away_for(tcp, WR_TCP_BRIEF_NS) ||
            (!has_line && wr_tcp_is_barred_for(tcp, WR_TCP_BRIEF_NS)));
}

/* Can what is read here be read elsewhere, by who reads? */
static inline bool wr_tcp_has_copies(const struct wr_tcp *tcp)
{
    return tcp->env && (tcp->env->flags & WEIR_ENV_HAS_COPIES);
}

/* Then it had better be, by now. broken_ns: since when a channel has no line; 0: it has. */
static inline bool wr_tcp_sends_away(const struct wr_tcp *tcp, uint64_t broken_ns)
{
    return wr_tcp_has_copies(tcp) &&
           (wr_tcp_is_away_for(tcp, WR_TCP_BRIEF_NS) ||
            (broken_ns && wr_line_now_ns() - broken_ns > WR_TCP_BRIEF_NS));
}

/* How long a channel's line may be silent, though the keeper's is not. What is to be written is in
 * its way on a slow network, and nobody waits for it. */
static inline uint64_t wr_tcp_silence_ns(const struct wr_tcp *tcp, bool is_write)
{
    return (wr_tcp_has_copies(tcp) && !is_write ? 1 : 2) * tcp->options.timeout * 1000000000ull;
}
