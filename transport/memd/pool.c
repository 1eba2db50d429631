/* SPDX-License-Identifier: MIT */

/* Pool: all the connections that there can be, so that none has to be allocated. */

#include <stdlib.h>

#include "transport/memd/server.h"

bool memd_pool_open(struct memd *memd)
{
    const uint32_t count = memd->book.room.connections + MEMD_UNPROVEN_MOST + MEMD_GUESTS;

    memd->pool = calloc(count, sizeof(*memd->pool));
    if (!memd->pool)
        return false;
    pthread_mutex_init(&memd->pool_lock, NULL);
    /* The first is taken first: memory of those that are never used is never touched. */
    for (uint32_t i = count; i-- > 0;) {
        memd->pool[i].next = memd->spare;
        memd->spare = &memd->pool[i];
    }
    return true;
}

void memd_pool_close(struct memd *memd)
{
    if (!memd->pool)
        return;
    pthread_mutex_destroy(&memd->pool_lock);
    free(memd->pool);
    memd->pool = NULL;
}

struct memd_connection *memd_pool_take(struct memd *memd)
{
    struct memd_connection *connection;

    pthread_mutex_lock(&memd->pool_lock);
    connection = memd->spare;
    if (connection)
        memd->spare = connection->next;
    pthread_mutex_unlock(&memd->pool_lock);
    return connection;
}

void memd_pool_put(struct memd *memd, struct memd_connection *connection)
{
    pthread_mutex_lock(&memd->pool_lock);
    connection->next = memd->spare;
    memd->spare = connection;
    pthread_mutex_unlock(&memd->pool_lock);
}
