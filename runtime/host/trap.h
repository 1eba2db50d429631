/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Trap: how a touch of an absent or protected page becomes a call.
 *
 *   touch    what the program tried, as far as the processor tells
 *   answer   what is to become of the instruction
 *
 * Always: the function runs on the thread that touched, inside a signal handler, with every
 * signal blocked and errno kept; so it calls nothing that is not async-signal-safe, and holds
 * nothing when it answers anything but WR_TRAP_RETRY.
 */

#include <stdbool.h>
#include <stdint.h>

enum wr_access { WR_ACCESS_READ, WR_ACCESS_WRITE, WR_ACCESS_UNKNOWN };
enum wr_presence { WR_PAGE_ABSENT, WR_PAGE_PRESENT, WR_PRESENCE_UNKNOWN };

struct wr_touch {
    uint64_t addr;
    enum wr_access access;
    enum wr_presence presence; /* present: the trap was about protection */
};

enum wr_trap_answer {
    WR_TRAP_RETRY,   /* resolved: run the instruction again                                  */
    WR_TRAP_FOREIGN, /* not one of our addresses: as if we were not here                     */
    WR_TRAP_REFUSED  /* ours, but cannot be resolved: the program's own handler, or death    */
};

typedef enum wr_trap_answer (*wr_trap_fn)(const struct wr_touch *touch);

/*
 * Take SIGBUS for this process. Counted: the first call installs the handler and remembers the one
 * before, to which everything foreign is passed on; the last disarm puts it back, if nobody has
 * put another above ours. One function serves all. Not in a signal handler.
 */
void wr_trap_arm(wr_trap_fn fn);
void wr_trap_disarm(void);

/* False when somebody replaced our handler, so that faults will no longer be resolved. Signal. */
bool wr_trap_is_armed(void);

/* True when a touch that is refused kills the process: nobody's handler is behind ours. Signal. */
bool wr_trap_is_last(void);

/*
 * In a fork child: send the first touch of an address for which is_lost() says so to a last
 * message, and then on to whatever handles SIGSEGV. Async-signal-safe.
 */
void wr_trap_mourn(bool (*is_lost)(uint64_t addr));
