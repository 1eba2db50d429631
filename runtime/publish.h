/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Publish: the thread that writes the runtime's sheet (host/sheet.h), so that others can watch.
 *
 *   tick   every quarter of a second while something happens, every second while nothing does; and
 *          never more than a hundredth of the time, however long the regions are
 *
 * Always: nobody else does anything for it, no fault and no watcher; and a runtime that cannot
 * publish (no directory, no room) runs like any other, a note says why.
 */

#include "runtime/runtime.h"

/* where: the setting: "0", "1" or a directory. NULL in *publish_p: it is not wanted. */
int wr_publish_open(struct weir_runtime *rt, const char *where, struct wr_publish **publish_p);
/* The sheet is gone when this returns. */
void wr_publish_close(struct wr_publish *publish);
