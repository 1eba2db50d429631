/* SPDX-License-Identifier: MIT */
#pragma once

/* Keep: what the threads of an array do about its members: who comes, who goes, who is empty. */

#include "transport/array.h"

/* array_life.c. The keeper's. */
void wr_array_set_gone(struct wr_array *array, uint32_t member, bool is_gone);
void wr_array_tend_lives(struct wr_array *array, uint32_t member, uint64_t now);
/* When it has ended: nothing runs any more. */
void wr_array_end_errands(struct wr_array *array);

/* array_leave.c. The keeper's; the last: not in a signal handler. */
bool wr_array_is_closed(const struct wr_array *array, uint32_t member);
bool wr_array_is_retiring(const struct wr_array *array, uint32_t member);
bool wr_array_is_vacant(const struct wr_array *array, uint32_t member);
void wr_array_tend_leaving(struct wr_array *array);
int wr_array_retire(struct weir_backend *backend, const char *spec);

/* array_extend.c */
int wr_array_extend(struct weir_backend *backend, const char *spec, uint32_t may);

/* array_keeper.c */
int wr_array_start_thread(struct wr_array *array, const char *name, void *(*run)(void *),
                          pthread_t *thread_p);
int wr_array_keeper_start(struct wr_array *array);
void wr_array_keeper_stop(struct wr_array *array);

/* array_builder.c: the thread's function. */
void *wr_array_build(void *array);
