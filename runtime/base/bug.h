/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Bug: the mistakes that the seeds tell of, to be made again on purpose (seed A14). A benchmark
 * that does not fall over when its bug is switched on does not measure what it says.
 *
 *   word     the name of a bug; WEIR_BUG has some of them, separated by commas
 *
 * Always: only programs that are linked to the testing library (WR_TESTING) have them. To everybody
 * else wr_bug() is the constant false, and nothing of a bug is compiled.
 */

#include <stdbool.h>

#include "runtime/base/check.h"

/* word, and what is done wrong */
#define WR_BUG_MAP(X)                                                                    \
    X(lookup_blocks, "a fault on a page under write waits until the write is over (A1)") \
    X(unmap_all, "an object is unmapped whole before one page of it is taken (E2, E8)")  \
    X(late_io, "no write is begun before a quarter of the budget is revoked (E9, E11)")  \
    X(no_clean_first, "dirty pages are written while clean ones could be dropped (E18)") \
    X(lru_lost, "a page that was wanted while it was cached is the next to leave (A14)") \
    X(no_kpaged, "kpaged never looks for a victim (C8, C17)")

enum wr_bug {
#define BUG_ENUM(word, text) WR_BUG_##word,
    WR_BUG_MAP(BUG_ENUM)
#undef BUG_ENUM
        WR_BUG_COUNT
};

#ifdef WR_TESTING

/* Switch on what WEIR_BUG says, and nothing else. Whenever a runtime is opened: of all runtimes of
 * the process. WEIR_EINVAL: a word is unknown; an event has said which. */
int wr_bug_read(const struct wr_events *events);
/* Signal. */
bool wr_bug(enum wr_bug bug);

#else

static inline int wr_bug_read(const struct wr_events *events)
{
    (void)events;
    return WEIR_OK;
}

static inline bool wr_bug(enum wr_bug bug)
{
    (void)bug;
    return false;
}

#endif
