/* SPDX-License-Identifier: MIT */
#include "transport/memd/memd.h"

#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "transport/memd/clock.h"
#include "transport/memd/server.h"

#define THREADS_BY_ITSELF 4u

static uint32_t threads_of(const struct memd_options *options)
{
    uint32_t count = options->threads;

    if (count == 0) {
        count = (uint32_t)get_nprocs();
        count = count < THREADS_BY_ITSELF ? count : THREADS_BY_ITSELF;
    }
    return count < MEMD_THREADS_MOST ? count : MEMD_THREADS_MOST;
}

/* 0 would be taken for "none". */
static uint64_t draw_epoch(void)
{
    uint64_t epoch;

    do
        wr_random(&epoch, sizeof(epoch));
    while (epoch == 0);
    return epoch;
}

static int start(struct memd *memd, const struct memd_options *options)
{
    int error = memd_teller_open(memd, options);

    if (!error)
        error = memd_doors_open(memd, options);
    if (error)
        return error;
    if ((memd->identity.rdma && memd_rdma_start(memd->identity.rdma) != 0) ||
        memd_keeper_start(memd) != 0 || memd_workers_start(memd, threads_of(options)) != 0 ||
        memd_teller_start(memd) != 0) {
        memd_log(&memd->log, MEMD_LOG_EVENT, "no thread can be started: see ulimit -u and -n");
        return WEIR_ENOMEM;
    }
    return WEIR_OK;
}

int memd_open(const struct memd_options *options, struct memd **memd_p)
{
    struct memd *memd = calloc(1, sizeof(*memd));
    int error;

    if (!memd)
        return WEIR_ENOMEM;
    memd->teller_bell = memd->status_fd = memd->metrics_fd = -1;
    memd->begun_ms = memd_now_ms();
    memd->looking_most = (uint32_t)get_nprocs() / 2;
    memd->look_ns = options->spin_us * 1000ull;
    memd_log_open(&memd->log, options->log, options->log_context);
    memd->identity.key = *options->key;
    memd->identity.epoch = draw_epoch();
    if (!memd_book_open(&memd->book, &options->limits, &options->room, &memd->log)) {
        memd_log(&memd->log, MEMD_LOG_EVENT, "out of memory: see ulimit -v");
        memd_log_close(&memd->log);
        free(memd);
        return WEIR_ENOMEM;
    }
    memd_ground_look(&memd->book.ground, options->huge_pages, options->numa);
    memd->book.bell = memd_workers_ring;
    memd->book.bell_context = memd;
    error = memd_pool_open(memd) ? start(memd, options) : WEIR_ENOMEM;
    if (error) {
        if (!memd->pool)
            memd_log(&memd->log, MEMD_LOG_EVENT, "out of memory: see ulimit -v");
        memd_close(memd);
        return error;
    }
    *memd_p = memd;
    return WEIR_OK;
}

void memd_close(struct memd *memd)
{
    /* The teller and the keeper look at the workers: they end first. */
    memd_teller_stop(memd);
    memd_keeper_stop(memd);
    memd_workers_stop(memd);
    memd_rdma_stop(memd->identity.rdma);
    memd_doors_close(memd);
    memd_book_close(&memd->book);
    memd_rdma_close(memd->identity.rdma);
    memd_pool_close(memd);
    memd_log_close(&memd->log);
    wr_key_forget(&memd->identity.key);
    free(memd);
}

uint16_t memd_port(const struct memd *memd, uint32_t index)
{
    return index < memd->door_count ? memd->doors[index].port : 0;
}

uint16_t memd_metrics_port(const struct memd *memd)
{
    return memd->metrics_port;
}

uint64_t memd_epoch(const struct memd *memd)
{
    return memd->identity.epoch;
}

void memd_tune(struct memd *memd, const struct memd_limits *limits)
{
    memd_book_tune(&memd->book, limits);
    memd_book_wake(&memd->book);
}

void memd_drain(struct memd *memd)
{
    atomic_store(&memd->book.is_draining, true);
}
