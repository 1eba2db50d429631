/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Legs: channels to the members of an array.
 *
 *   leg    a channel of a member, within a channel of the array
 *   legs   one leg for each member, for one thread
 *   task   a request to a leg that is waited for
 */

#include <pthread.h>
#include <stdbool.h>

#include <weir/weir_backend.h>

#include "transport/array_map.h"

struct wr_array;

struct wr_array_leg {
    struct weir_channel *channel; /* NULL: none */
    int fd;                       /* its wait_fd()  */
    uint32_t life;                /* of the member it is to */
    uint32_t flying;              /* requests that it has, or that wait for it */
    struct wr_array_sub *outbox, **outbox_end;
};

struct wr_array_legs {
    pthread_mutex_t lock; /* of the thread that uses them; the keeper replaces what is idle */
    struct wr_array_leg leg[WR_MAP_MEMBERS];
    struct wr_array *array;
    uint32_t depth;
    int poll_fd; /* an epoll of all of them */
    int bell;    /* and of an eventfd: there is something to look at */
    struct wr_array_legs *next, **self;
    bool is_waiting; /* kept by the array's lock: for a cluster that somebody holds, or a member */
};

/* The member's life is one that was the present one when its owner looked. */
struct wr_array_task {
    struct weir_io io; /* first; done() and owner are not the owner's */
    uint32_t member, life;
};

int wr_array_legs_open(struct wr_array *array, uint32_t depth, struct wr_array_legs *legs);
void wr_array_legs_close(struct wr_array_legs *legs);
/* Bring all legs to this member that are idle to its present life. True: all are. The keeper. */
bool wr_array_legs_renew(struct wr_array *array, uint32_t member);
/* Under the array's lock: ring all who wait; or everybody. */
void wr_array_ring_waiting(struct wr_array *array);
void wr_array_ring_all(struct wr_array *array);
/* Do these, at most one for each member, and wait for all. Each has its error then; os_error is
 * ENOTCONN if there was no leg to that life. The legs are those of the thread. */
void wr_array_run(struct wr_array_legs *legs, struct wr_array_task *tasks, uint32_t count);
