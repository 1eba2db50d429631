/* SPDX-License-Identifier: MIT */
#pragma once

/* Common: what all threads of the load use, and what is looked at when it is over. */

#include "tests/sim/sim.h"

#define SIM_VIEWS_MAX 12u

/* What every thread uses; the first view is the whole object. */
struct sim_common {
    struct sim_region *shared, *hinted;
    struct sim_region *views[SIM_VIEWS_MAX];
};

void sim_load_run(const struct sim_common *common); /* from start to end */
/* At rest: contents, page tables, statistics. */
void sim_check_rest(const struct sim_common *common);

/* By the one who mapped it; it may have so many pages then. */
/* A page of an object that has never been touched: its first load, too, needs memory of its own. */
bool sim_view_is_new(const struct sim_region *view, uint32_t page);
void sim_region_move(struct sim_region *region, uint32_t reserve);

/* Names of a thread's own, by which it may keep regions. */
#define SIM_NAMES 3u
/* What this thread has kept by that name, or, if that is no longer there, zeros; so many pages of
 * them if it has kept nothing. */
struct sim_region *sim_region_reattach(uint32_t name, uint32_t pages);
/* Unmap it, and have it kept. False: it could not be, and is as it was. */
bool sim_region_keep(struct sim_region *region, uint32_t name);
/* One of those that are still kept, whoever did so; NULL: no more. */
struct sim_region *sim_region_reattach_any(void);
void sim_check_kept(void); /* all of those, and unmap them */

/* The object of this world, and views of it, which are regions like any other. */
void sim_object_create(uint32_t pages);
void sim_object_close(void);
struct sim_region *sim_view_map(uint32_t first, uint32_t pages);
