/* SPDX-License-Identifier: MIT */
#include "transport/queue.h"

enum { WORD_LINK };

void wr_queue_put(struct wr_queue *queue, struct weir_io *io)
{
    io->backend_words[WORD_LINK] = 0;
    if (queue->first)
        queue->last->backend_words[WORD_LINK] = (uintptr_t)io;
    else
        queue->first = io;
    queue->last = io;
}

struct weir_io *wr_queue_take(struct wr_queue *queue)
{
    struct weir_io *io = queue->first;

    queue->first = (struct weir_io *)(uintptr_t)io->backend_words[WORD_LINK];
    return io;
}
