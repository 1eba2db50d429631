/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/queues.h"

#include <string.h>

#include "tests/fuzz/fuzz.h"

#define QUEUES 3u /* so that there can be too many */

struct memd_queue {
    const struct memd_lease *lease; /* NULL: it is none */
    uint32_t line;
    uint8_t token[WR_TOKEN_BYTES];
    bool has_come, is_cut;
};

struct memd_rdma {
    struct memd_queue queues[QUEUES];
};

static struct memd_rdma table;

static void unpin(void *context, const struct memd_lease *lease)
{
    (void)context;
    for (uint32_t i = 0; i < QUEUES; i++)
        FUZZ_ASSERT(table.queues[i].lease != lease);
}

struct memd_rdma *queues_begin(struct memd_book *book)
{
    memset(&table, 0, sizeof(table));
    book->unpin = unpin;
    return &table;
}

void queues_come(const uint8_t token[WR_TOKEN_BYTES])
{
    for (uint32_t i = 0; i < QUEUES; i++)
        if (table.queues[i].lease && !table.queues[i].is_cut &&
            memcmp(table.queues[i].token, token, WR_TOKEN_BYTES) == 0)
            table.queues[i].has_come = true;
}

static uint32_t key_of(const struct memd_queue *queue)
{
    return 0x1000u + (uint32_t)(queue - table.queues);
}

bool queues_are_at(const struct memd_queue *queue, uint64_t address, uint32_t key)
{
    return queue && queue->lease && queue->has_come && address == (uintptr_t)queue->lease->memory &&
           key == key_of(queue);
}

bool queues_are_gone(void)
{
    for (uint32_t i = 0; i < QUEUES; i++)
        if (table.queues[i].lease)
            return false;
    return true;
}

/* --- As rdma.h has them ---------------------------------------------------------------------- */

struct memd_queue *memd_rdma_invite(struct memd_rdma *rdma, struct memd_lease *lease, uint32_t line,
                                    const struct wr_session *session)
{
    struct memd_queue *free_one = NULL;

    FUZZ_ASSERT(rdma == &table && lease->users > 0);
    for (uint32_t i = 0; i < QUEUES; i++) {
        struct memd_queue *queue = &table.queues[i];

        FUZZ_ASSERT(queue->lease != lease || queue->line != line || queue->is_cut);
        if (!queue->lease)
            free_one = queue;
    }
    if (free_one) {
        *free_one = (struct memd_queue){.lease = lease, .line = line};
        wr_session_token(session, false, free_one->token);
    }
    return free_one;
}

bool memd_queue_locate(struct memd_rdma *rdma, const struct memd_queue *queue, uint64_t *address_p,
                       uint32_t *key_p)
{
    FUZZ_ASSERT(rdma == &table && queue->lease);
    if (!queue->has_come || queue->is_cut)
        return false;
    *address_p = (uintptr_t)queue->lease->memory;
    *key_p = key_of(queue);
    return true;
}

void memd_queue_leave(struct memd_rdma *rdma, struct memd_queue *queue)
{
    FUZZ_ASSERT(rdma == &table && queue->lease && queue->lease->users > 0);
    queue->lease = NULL;
}

void memd_rdma_cut(struct memd_rdma *rdma, const struct memd_lease *lease, uint32_t line)
{
    FUZZ_ASSERT(rdma == &table);
    for (uint32_t i = 0; i < QUEUES; i++)
        if (table.queues[i].lease == lease && table.queues[i].line == line)
            table.queues[i].is_cut = true;
}
