/* SPDX-License-Identifier: MIT */

/*
 * The builder: makes pieces whole, moves them to where they belong, closes lives that nobody uses.
 *
 * It walks over all clusters, again and again while any piece is missing: what is to be done is
 * seen from the map, so that nothing can be forgotten in a queue. A walk that could do nothing is
 * followed by another one a moment later, because members come back and rest no longer.
 */

#include <errno.h>
#include <string.h>
#include <time.h>

#include "transport/array.h"
#include "transport/array_coded.h"
#include "transport/array_keep.h"

#define CHUNK_PAGES   64u
#define REST_NS       1000000000ull /* a member where building failed is left alone for so long */
#define PAUSE_NS      200000000ull /* between two walks                                           */
#define PAUSE_MOST_NS 5000000000ull
#define VAIN_MOST     60u /* before it is said that a member cannot be emptied: three walks, */
#define VAIN_WELL     20u /* or many, while somebody does not answer or rests                */
#define LOSE_PATIENCE 50u /* waits for writes to a cluster, before another one's turn    */

static void wait_for_work(struct wr_array *array, uint64_t until_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000ull),
                                   .tv_nsec = (long)(until_ns % 1000000000ull)};

    if (!atomic_load(&array->stop))
        pthread_cond_clockwait(&array->work, &array->lock, CLOCK_MONOTONIC, &until);
}

/* --- Bytes -------------------------------------------------------------------------------------
 */

static int read_from(struct wr_array *array, const struct wr_map_piece *piece, uint32_t first,
                     uint32_t pages)
{
    struct weir_backend *backend = atomic_load(
        &array->member[piece->member].lives[piece->life & 1]);

    return backend->ops->read(backend, wr_array_slot(array, piece, first), pages, array->buffer);
}

static int read_any(struct wr_array *array, const struct wr_map_job *job, uint32_t first,
                    uint32_t pages)
{
    int error = WEIR_EIO;

    for (uint32_t i = 0; i < job->from_count && error; i++) {
        const uint32_t side = wr_array_enter(array);
        uint32_t life;

        /* Inside, a life that is the present one is not closed. */
        pthread_mutex_lock(&array->lock);
        life = array->map.member[job->from[i].member].life;
        pthread_mutex_unlock(&array->lock);
        if (life == job->from[i].life) {
            error = read_from(array, &job->from[i], first, pages);
            if (error)
                wr_array_suspect(array, job->from[i].member);
        }
        wr_array_leave(array, side);
    }
    return error;
}

static int write_to(struct wr_array *array, const struct wr_map_piece *piece, uint32_t first,
                    uint32_t pages)
{
    struct iovec iov = {array->buffer, (size_t)pages * WEIR_SLOT_BYTES};
    struct wr_array_task task = {.io = {.slot = wr_array_slot(array, piece, first),
                                        .pages = pages,
                                        .is_write = 1,
                                        .iov = &iov,
                                        .iov_count = 1},
                                 .member = piece->member,
                                 .life = piece->life};

    wr_array_run(&array->builder_legs, &task, 1);
    return task.io.error;
}

/* What the piece should have, into the buffer. */
static int work_out(struct wr_array *array, const struct wr_map_job *job, uint32_t row,
                    uint32_t rows)
{
    const uint32_t side = wr_array_enter(array);
    const int error = wr_array_recover(array, job->cluster, job->piece, row, rows, array->buffer,
                                       (char *)array->buffer + CHUNK_PAGES * WEIR_SLOT_BYTES);

    wr_array_leave(array, side);
    return error;
}

static bool has_written(const struct wr_map *map, uint64_t cluster, uint32_t row, uint32_t rows)
{
    for (uint32_t i = row; i < row + rows; i++)
        if (wr_map_row(map, cluster, i))
            return true;
    return false;
}

/* The pages that were written, by chunks; WEIR_OK, or which side failed: *is_target_p. */
static int copy(struct wr_array *array, const struct wr_map_job *job, uint64_t *bytes_p,
                bool *is_target_p)
{
    const uint32_t pages = wr_map_piece_pages(&array->map, job->piece);
    int error = WEIR_OK;

    *is_target_p = false;
    for (uint32_t first = 0; first < pages && !error; first += CHUNK_PAGES) {
        const uint32_t some = pages - first < CHUNK_PAGES ? pages - first : CHUNK_PAGES;

        if (!has_written(&array->map, job->cluster, first, some))
            continue;
        error = wr_array_is_coded(array) ? work_out(array, job, first, some)
                                         : read_any(array, job, first, some);
        if (error)
            break;
        error = write_to(array, &job->target, first, some);
        *is_target_p = error != WEIR_OK;
        *bytes_p += (uint64_t)some * WEIR_SLOT_BYTES;
    }
    return error;
}

/* --- Jobs --------------------------------------------------------------------------------------
 */

/* Under the array's lock; WEIR_OK: the cluster is held. */
static int take_job(struct wr_array *array, uint64_t cluster, bool may_move, struct wr_map_job *job)
{
    int error = wr_map_job_begin(&array->map, cluster, may_move, job);

    for (uint32_t i = 0; error == WEIR_EAGAIN && i < LOSE_PATIENCE; i++) {
        wait_for_work(array, wr_array_now_ns() + PAUSE_NS);
        if (atomic_load(&array->stop))
            break;
        error = wr_map_job_begin(&array->map, cluster, may_move, job);
    }
    if (error && wr_map_job_cancel(&array->map, cluster))
        wr_array_ring_waiting(array);
    return error;
}

/* Under the array's lock, which it drops meanwhile. True: a piece is whole now. */
static bool do_job(struct wr_array *array, const struct wr_map_job *job, uint64_t *bytes_p)
{
    bool is_waited, was_elsewhere, is_target = false;
    int error;

    pthread_mutex_unlock(&array->lock);
    wr_array_grace(array); /* who has seen the piece whole, and reads there */
    error = copy(array, job, bytes_p, &is_target);
    pthread_mutex_lock(&array->lock);
    was_elsewhere = wr_map_job_end(&array->map, job, !error, &is_waited);
    if (is_waited)
        wr_array_ring_waiting(array);
    if (is_target) {
        array->member[job->target.member].rest_ns = wr_array_now_ns() + REST_NS;
        array->map.member[job->target.member].is_resting = true;
    }
    if (!was_elsewhere)
        return !error;
    pthread_mutex_unlock(&array->lock);
    wr_array_grace(array); /* who still reads where it was */
    pthread_mutex_lock(&array->lock);
    wr_map_job_free(&array->map, job);
    return true;
}

/* Wait for so many bytes, whose copying began then, to be within the rate. Under the array's lock.
 */
static void keep_pace(struct wr_array *array, uint64_t *due_ns, uint64_t begun_ns, uint64_t bytes)
{
    if (array->options.rebuild_bytes_per_s == 0)
        return;
    if (*due_ns < begun_ns)
        *due_ns = begun_ns;
    *due_ns += (uint64_t)((double)bytes * 1e9 / (double)array->options.rebuild_bytes_per_s);
    while (!atomic_load(&array->stop) && wr_array_now_ns() < *due_ns)
        wait_for_work(array, *due_ns);
}

/* --- Walks -------------------------------------------------------------------------------------
 */

static void end_rests(struct wr_array *array)
{
    const uint64_t now = wr_array_now_ns();

    for (uint32_t i = 0; i < array->members; i++)
        if (array->map.member[i].is_resting && now >= array->member[i].rest_ns)
            array->map.member[i].is_resting = false;
}

/* Pieces of members that are gone are whole, but nobody can read them. */
static bool has_gone_member(const struct wr_array *array)
{
    for (uint32_t i = 0; i < array->members; i++)
        if (array->map.member[i].is_gone && array->map.pieces > 1 &&
            array->map.member[i].used > array->map.member[i].free_count)
            return true;
    return false;
}

/* Members that are to be emptied, and are not yet: bits. */
static uint32_t leaving_members(const struct wr_array *array)
{
    uint32_t bits = 0;

    for (uint32_t i = 0; i < array->members; i++)
        if (array->map.member[i].is_leaving &&
            array->map.member[i].used > array->map.member[i].free_count)
            bits |= 1u << i;
    return bits;
}

/* What a walk that moved nothing off them is worth, as a sign that there is no room. Nothing, if it
 * is them who do not answer. */
static uint32_t vain_by(const struct wr_array *array, uint32_t leaving)
{
    uint32_t vain = VAIN_WELL;

    for (uint32_t i = 0; i < array->members; i++) {
        const struct wr_map_member *state = &array->map.member[i];
        const bool is_well = atomic_load(&state->is_up) && !state->is_resting;

        if (!is_well && leaving >> i & 1)
            return 0;
        if (!is_well && !state->is_closed && !wr_array_is_vacant(array, i))
            vain = 1;
    }
    return vain;
}

/* Over all clusters. True: something was done. */
static bool walk(struct wr_array *array, bool may_move, uint64_t *due_ns)
{
    bool any = false;

    for (uint64_t cluster = 0; cluster < array->map.clusters; cluster++) {
        struct wr_map_job job;
        uint64_t bytes = 0;

        if (atomic_load(&array->stop))
            return false;
        pthread_mutex_lock(&array->lock);
        if (take_job(array, cluster, may_move, &job) == WEIR_OK) {
            const uint64_t begun_ns = wr_array_now_ns();

            any |= do_job(array, &job, &bytes);
            keep_pace(array, due_ns, begun_ns, bytes);
            end_rests(array);
        }
        pthread_mutex_unlock(&array->lock);
    }
    return any;
}

/* An old life that no leg leads to, and that nobody can have seen since. */
static void close_lives(struct wr_array *array)
{
    for (uint32_t i = 0; i < array->members; i++) {
        struct wr_array_member *member = &array->member[i];
        struct weir_backend *backend;
        uint32_t life;

        pthread_mutex_lock(&array->lock);
        life = member->closing;
        pthread_mutex_unlock(&array->lock);
        if (life == 0)
            continue;
        wr_array_grace(array);
        backend = atomic_load(&member->lives[life & 1]);
        backend->ops->close(backend);
        pthread_mutex_lock(&array->lock);
        /* Together: the keeper begins another life as soon as there is room for it. */
        atomic_store(&member->lives[life & 1], NULL);
        member->closing = 0;
        pthread_mutex_unlock(&array->lock);
    }
}

void *wr_array_build(void *context)
{
    struct wr_array *array = context;
    uint64_t due_ns = 0;
    uint32_t in_vain = 0, before = 0; /* walks, while these leave */

    while (!atomic_load(&array->stop)) {
        uint64_t begun_ns = wr_array_now_ns(), pause_ns;
        bool is_wanted, may_move, any = false;
        uint32_t leaving;

        close_lives(array);
        pthread_mutex_lock(&array->lock);
        end_rests(array);
        leaving = leaving_members(array);
        is_wanted = leaving || array->map.missing > 0 || has_gone_member(array);
        /* A member that comes while we walk wants another walk. */
        may_move = !is_wanted && atomic_exchange(&array->wants_moves, false);
        pthread_mutex_unlock(&array->lock);
        if (is_wanted || may_move)
            any = walk(array, may_move, &due_ns);
        if (may_move && any)
            atomic_store(&array->wants_moves, true);
        in_vain = leaving && leaving == before && !any ? in_vain + vain_by(array, leaving) : 0;
        before = leaving;
        atomic_store(&array->is_stuck, in_vain >= VAIN_MOST);
        /* A walk in vain over very many clusters: not all the time. */
        pause_ns = PAUSE_NS + 9 * (wr_array_now_ns() - begun_ns);
        pthread_mutex_lock(&array->lock);
        if (!any)
            wait_for_work(array, wr_array_now_ns() +
                                     (pause_ns < PAUSE_MOST_NS ? pause_ns : PAUSE_MOST_NS));
        pthread_mutex_unlock(&array->lock);
    }
    return NULL;
}
