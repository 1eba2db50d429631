/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Queue: requests in the order they came, linked through their own first backend word, so that
 * nothing is allocated.
 *
 * Always: a request is in at most one queue; first is NULL exactly when the queue is empty.
 */

#include <weir/weir_backend.h>

struct wr_queue {
    struct weir_io *first;
    struct weir_io *last; /* undefined while empty */
};

void wr_queue_put(struct wr_queue *queue, struct weir_io *io);

/* The queue must not be empty. */
struct weir_io *wr_queue_take(struct wr_queue *queue);
