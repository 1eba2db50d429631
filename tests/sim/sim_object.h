/* SPDX-License-Identifier: MIT */
#pragma once

/* Between sim_host.c, sim_time.c and sim_object.c: memory that shows in many areas. With the
 * machine taken, but for what says that it takes it. */

#include "tests/sim/sim.h"

void sim_time_ops(struct wr_host_ops *ops);
uint32_t sim_bell_count(void);

void sim_object_ops(struct wr_host_ops *ops);
uint32_t sim_object_count(void);
uint32_t sim_object_copies(void); /* pages that are being taken: in staging, and not yet freed */
/* Is the page with these bytes resident? And: it is now; false: it was. */
bool sim_object_has(const struct sim_object *object, const uint8_t *bytes);
bool sim_object_add(struct sim_object *object, const uint8_t *bytes);
/* What sim_host.c does for them. */
uint64_t sim_area_add(struct sim_area made); /* takes the machine */
struct sim_area *sim_area_at(uint32_t i);    /* NULL: no more; addr 0: free */
enum wr_hosted sim_area_reveal(uint64_t addr, bool protect);
void sim_frames_count(int change);
void sim_staging_fill(uint32_t frame, const void *bytes);
void sim_check_budget(void);
