/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * kheat: what other sources of heat say (host/heat_source.h), brought to the pages.
 *
 *   step      four times a second: the source tells what was used, and the groups of those pages
 *             become warmer (memory/heat.h); then some resident pages, one of a group, are the
 *             sample that it is to watch next
 *
 * Always: optional, and only a hint. Its thread runs when nobody else wants the processor, takes no
 * lock and not the gate, and nobody waits for it, as kpaged's; it is not kpaged's because a source
 * may keep it waiting for a tenth of a second. So it knows regions by wr_space.places only, which
 * may be of yesterday: an address counts when the chunk of its page still says the same.
 */

#include "runtime/host/heat_source.h"
#include "runtime/memory/space.h"

struct wr_kheat;

/*
 * Try the source of this name, or of "auto": perf, idle, damon, the first that opens; and start the
 * thread. "none", or none that opens, is no failure: nothing runs then, and wr_kheat_how() says
 * why; a source that was asked for by name is also told of in an event. WEIR_ENOMEM. root: as for
 * wr_heat_source_ops.open.
 */
int wr_kheat_open(struct wr_space *space, const char *name, const char *root,
                  struct wr_kheat **kheat_p);
void wr_kheat_close(struct wr_kheat *kheat);

/* For the report. Any thread. Signal. */
const char *wr_kheat_how(const struct wr_kheat *kheat);
/* Groups warmed so far. Any thread. Signal. */
uint64_t wr_kheat_warmed(const struct wr_kheat *kheat);

/* One step, as the thread does it: for the test that has a source of its own. */
void wr_kheat_step(struct wr_kheat *kheat);
