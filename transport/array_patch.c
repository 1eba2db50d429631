/* SPDX-License-Identifier: MIT */

/*
 * The patcher: writes parts of clusters of a code, and the parity that they change; reads for
 * channels what has to be worked out. One at a time, and waiting for each answer: nearly all writes
 * are of whole clusters and never come here.
 *
 *   own     the pages that are to be written, in the caller's memory
 *   chunk   rows that are read, encoded and written together
 *   page    each data page of a chunk: own, or read into the buffer, or zeros
 *
 * Always: a cluster that is written is held (wr_map_patch), so that nobody else writes there, and
 * nobody rebuilds it. See array_map.h for why no order of failures loses a page.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "transport/array.h"
#include "transport/array_coded.h"
#include "transport/array_keep.h"

#define CHUNK_ROWS  32u
#define CHUNK_BYTES ((size_t)CHUNK_ROWS * WEIR_SLOT_BYTES)
#define AGAIN_NS    10000000ull /* a cluster that another one holds is tried again after that */

struct wr_array_patcher {
    struct wr_array *array;
    pthread_t thread;
    struct wr_array_legs legs;
    unsigned char *buffer; /* a chunk of each piece, and scratch */

    /* Kept by the array's lock. */
    pthread_cond_t work;
    struct wr_array_patch *first, **end;

    /* The thread's own: of the patch that is under way. */
    struct wr_map_patch patch;
    bool has_hope;       /* a member that did not do it may yet */
    int error, os_error; /* of one that failed             */
    unsigned char *own[WEIR_CLUSTER_SLOTS];
    unsigned char *page[WR_MAP_MEMBERS][CHUNK_ROWS];
    struct wr_array_task tasks[WR_MAP_MEMBERS];
    struct iovec iov[WR_MAP_MEMBERS][CHUNK_ROWS];
};

static unsigned char *buffer_of(struct wr_array_patcher *p, uint32_t piece, uint32_t at)
{
    return p->buffer + piece * CHUNK_BYTES + (size_t)at * WEIR_SLOT_BYTES;
}

void wr_array_pages(const struct weir_io *io, uint32_t skip, uint32_t pages, unsigned char **page)
{
    for (const struct iovec *iov = io->iov; pages > 0; iov++)
        for (size_t at = 0; at < iov->iov_len && pages > 0; at += WEIR_SLOT_BYTES) {
            if (skip > 0) {
                skip--;
                continue;
            }
            *page++ = (unsigned char *)iov->iov_base + at;
            pages--;
        }
}

/* --- A chunk -----------------------------------------------------------------------------------
 */

static bool is_own(const struct wr_map_patch *patch, uint32_t page)
{
    return page >= patch->first && page < patch->first + patch->pages;
}

/* Rows of one piece from the cluster as it is. */
static int fetch(struct wr_array_patcher *p, uint32_t piece, uint32_t row, uint32_t rows,
                 unsigned char *bytes)
{
    struct wr_array *array = p->array;
    const uint32_t side = wr_array_enter(array);
    const int error = wr_array_recover(array, p->patch.cluster, piece, row, rows, bytes,
                                       buffer_of(p, array->pieces, 0));

    wr_array_leave(array, side);
    return error;
}

/* Where each page of the chunk is, or will be after fetch(); how many are to be fetched. */
static void find_pages(struct wr_array_patcher *p, uint32_t piece, uint32_t row, uint32_t rows)
{
    const struct wr_map *map = &p->array->map;

    for (uint32_t i = 0; i < rows; i++) {
        const uint32_t page = piece * map->rows + row + i;

        if (page < WEIR_CLUSTER_SLOTS && is_own(&p->patch, page))
            p->page[piece][i] = p->own[page - p->patch.first];
        else if (wr_map_row(map, p->patch.cluster, row + i) >> piece & 1)
            p->page[piece][i] = buffer_of(p, piece, i);
        else
            p->page[piece][i] = p->array->zeros;
    }
}

/* The data of a chunk, as it will be. */
static int gather(struct wr_array_patcher *p, uint32_t row, uint32_t rows)
{
    int error = WEIR_OK;

    for (uint32_t piece = 0; piece < p->array->need; piece++) {
        find_pages(p, piece, row, rows);
        for (uint32_t i = 0, run; i < rows && !error; i += run) {
            const bool is_there = p->page[piece][i] == buffer_of(p, piece, i);

            for (run = 1; i + run < rows; run++)
                if ((p->page[piece][i + run] == buffer_of(p, piece, i + run)) != is_there)
                    break;
            if (is_there)
                error = fetch(p, piece, row + i, run, buffer_of(p, piece, i));
        }
    }
    return error;
}

static void encode(struct wr_array_patcher *p, uint32_t rows)
{
    const struct wr_array *array = p->array;
    unsigned char *data[WR_MAP_MEMBERS], *parity[WR_MAP_MEMBERS];

    for (uint32_t i = 0; i < rows; i++) {
        for (uint32_t j = 0; j < array->need; j++)
            data[j] = p->page[j][i];
        for (uint32_t j = array->need; j < array->pieces; j++) {
            p->page[j][i] = buffer_of(p, j, i);
            parity[j - array->need] = p->page[j][i];
        }
        wr_code_encode(&p->array->code, WEIR_SLOT_BYTES, data, parity);
    }
}

/* Those rows of [*row_p, *end_p) that this piece has, and is to get. */
static void clip(const struct wr_array_patcher *p, uint32_t piece, uint32_t *row_p, uint32_t *end_p)
{
    const struct wr_map_patch *patch = &p->patch;
    const uint32_t from = piece * p->array->map.rows;
    const uint32_t pages = wr_map_piece_pages(&p->array->map, piece);
    uint32_t first = 0, last = pages;

    if (patch->is_in_place && piece < p->array->need) {
        first = patch->first > from ? patch->first - from : 0;
        last = patch->first + patch->pages > from ? patch->first + patch->pages - from : 0;
        last = last < pages ? last : pages;
    }
    *row_p = *row_p > first ? *row_p : first;
    *end_p = *end_p < last ? *end_p : last;
}

/* The chunk to these pieces. Those that have all they should: bits. */
static uint32_t send(struct wr_array_patcher *p, uint32_t row, uint32_t rows, uint32_t to)
{
    struct wr_array *array = p->array;
    uint32_t piece_of[WR_MAP_MEMBERS], count = 0;

    for (uint32_t i = 0; i < array->pieces; i++) {
        const struct wr_map_piece *target = &p->patch.target[i];
        uint32_t first = row, end = row + rows;

        clip(p, i, &first, &end);
        if (!(to >> i & 1) || first >= end)
            continue;
        for (uint32_t at = first; at < end; at++)
            p->iov[i][at - first] = (struct iovec){p->page[i][at - row], WEIR_SLOT_BYTES};
        piece_of[count] = i;
        p->tasks[count++] = (struct wr_array_task){
            .io = {.slot = wr_array_slot(array, target, first),
                   .pages = end - first,
                   .is_write = 1,
                   .iov = p->iov[i],
                   .iov_count = end - first},
            .member = target->member,
            .life = target->life};
    }
    p->patch.has_sent = true;
    wr_array_run(&p->legs, p->tasks, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct weir_io *io = &p->tasks[i].io;

        if (!io->error)
            continue;
        p->has_hope |= io->error == WEIR_EAGAIN;
        if (p->error != WEIR_EFULL) { /* that helps most: it goes elsewhere */
            p->error = io->error;
            p->os_error = io->os_error;
        }
        to &= ~(1u << piece_of[i]);
        if (io->error != WEIR_EFULL && io->os_error != ENOTCONN)
            wr_array_suspect(array, p->tasks[i].member);
    }
    return to;
}

/* --- A write -----------------------------------------------------------------------------------
 */

/* In place: the rows that change; else all. */
static void find_rows(const struct wr_array_patcher *p, uint32_t *row_p, uint32_t *end_p)
{
    const struct wr_map_patch *patch = &p->patch;
    const uint32_t rows = p->array->map.rows, last = patch->first + patch->pages - 1;

    *row_p = 0;
    *end_p = rows;
    if (patch->is_in_place && patch->first / rows == last / rows) {
        *row_p = patch->first % rows;
        *end_p = last % rows + 1;
    }
}

static bool has_pages(const struct wr_array_patcher *p, uint32_t row, uint32_t rows)
{
    const struct wr_map *map = &p->array->map;

    for (uint32_t i = row; i < row + rows; i++) {
        if (wr_map_row(map, p->patch.cluster, i))
            return true;
        for (uint32_t j = 0; j < map->need; j++)
            if (is_own(&p->patch, j * map->rows + i))
                return true;
    }
    return false;
}

/* The pieces that have all they should. */
static uint32_t write_rows(struct wr_array_patcher *p)
{
    const uint32_t need = p->array->need;
    uint32_t row, end, ok = 0;
    int error;

    for (uint32_t i = 0; i < p->array->pieces; i++)
        if (p->patch.target[i].state != WR_PIECE_NONE)
            ok |= 1u << i;
    find_rows(p, &row, &end);
    for (uint32_t rows; row < end && (uint32_t)__builtin_popcount(ok) >= need; row += rows) {
        rows = end - row < CHUNK_ROWS ? end - row : CHUNK_ROWS;
        if (!has_pages(p, row, rows))
            continue;
        error = gather(p, row, rows);
        p->has_hope |= error == WEIR_EAGAIN;
        if (error)
            return 0;
        encode(p, rows);
        ok = send(p, row, rows, ok);
    }
    return ok;
}

static int do_write(struct wr_array_patcher *p, struct wr_array_patch *patch)
{
    struct wr_array *array = p->array;
    bool is_waited;
    uint32_t ok;
    int error;

    p->has_hope = false;
    p->error = p->os_error = 0;
    pthread_mutex_lock(&array->lock);
    error = wr_map_patch_begin(&array->map, patch->cluster, patch->first, patch->pages, &p->patch);
    pthread_mutex_unlock(&array->lock);
    if (error)
        return error;
    wr_array_pages(patch->io, patch->skip, patch->pages, p->own);
    if (p->patch.is_in_place)
        wr_array_gate_wait(&array->sums); /* who has seen the version even, and reads there */
    ok = write_rows(p);
    pthread_mutex_lock(&array->lock);
    error = wr_map_patch_end(&array->map, &p->patch, ok, &is_waited);
    if (is_waited)
        wr_array_ring_waiting(array);
    pthread_mutex_unlock(&array->lock);
    if (error && p->has_hope)
        return WEIR_EAGAIN;
    patch->os_error = error ? p->os_error : 0;
    if (error)
        return p->error ? p->error : error;
    if (p->patch.is_in_place)
        return WEIR_OK;
    wr_array_grace(array); /* who still reads where it was */
    pthread_mutex_lock(&array->lock);
    wr_map_patch_free(&array->map, &p->patch);
    pthread_mutex_unlock(&array->lock);
    return WEIR_OK;
}

/* --- A read ------------------------------------------------------------------------------------
 */

static int do_read(struct wr_array_patcher *p, const struct wr_array_patch *patch)
{
    int error = WEIR_OK;

    wr_array_pages(patch->io, patch->skip, patch->pages, p->own);
    for (uint32_t at = 0, some; at < patch->pages && !error; at += some) {
        const uint32_t side = wr_array_enter(p->array);

        some = patch->pages - at < CHUNK_ROWS ? patch->pages - at : CHUNK_ROWS;
        error = wr_array_read_coded(p->array, patch->cluster, patch->first + at, some, p->buffer);
        wr_array_leave(p->array, side);
        for (uint32_t i = 0; i < some; i++)
            memcpy(p->own[at + i], buffer_of(p, 0, i), WEIR_SLOT_BYTES);
    }
    return error;
}

/* --- The thread --------------------------------------------------------------------------------
 */

static void put(struct wr_array_patcher *p, struct wr_array_patch *patch)
{
    patch->next = NULL;
    *p->end = patch;
    p->end = &patch->next;
}

static struct wr_array_patch *take(struct wr_array_patcher *p)
{
    struct wr_array_patch *patch = p->first;

    p->first = patch->next;
    if (!p->first)
        p->end = &p->first;
    return patch;
}

/* Under the array's lock. Whoever is told may free it at once. */
static void give_back(struct wr_array_patch *patch)
{
    const int bell = patch->bell;

    patch->next = *patch->home;
    *patch->home = patch;
    eventfd_write(bell, 1);
}

static void wait_a_moment(struct wr_array_patcher *p)
{
    const uint64_t until_ns = wr_array_now_ns() + AGAIN_NS;
    const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000ull),
                                   .tv_nsec = (long)(until_ns % 1000000000ull)};

    pthread_cond_clockwait(&p->work, &p->array->lock, CLOCK_MONOTONIC, &until);
}

/* Somebody holds the cluster; or members may yet answer, and nobody around us would go elsewhere;
 * or it is worth another try. Under the array's lock. */
static bool is_to_wait(const struct wr_array_patcher *p, struct wr_array_patch *patch)
{
    const bool is_write = patch->io->is_write;

    if (patch->error != WEIR_EAGAIN)
        return patch->error && patch->error != WEIR_EFULL && is_write &&
               wr_array_is_worth_a_try(p->array, &patch->tries);
    if (is_write && !p->has_hope)
        return true;
    return !(p->array->env_flags & (is_write ? WEIR_ENV_PUTS_OFF : WEIR_ENV_HAS_COPIES));
}

static void *run(void *context)
{
    struct wr_array *array = context;
    struct wr_array_patcher *p = array->patcher;

    pthread_mutex_lock(&array->lock);
    while (!atomic_load(&array->stop)) {
        struct wr_array_patch *patch;

        if (!p->first) {
            pthread_cond_wait(&p->work, &array->lock);
            continue;
        }
        patch = take(p);
        pthread_mutex_unlock(&array->lock);
        patch->error = patch->io->is_write ? do_write(p, patch) : do_read(p, patch);
        pthread_mutex_lock(&array->lock);
        if (is_to_wait(p, patch)) {
            put(p, patch); /* others first */
            wait_a_moment(p);
        } else {
            give_back(patch);
        }
    }
    pthread_mutex_unlock(&array->lock);
    return NULL;
}

void wr_array_patch_put(struct wr_array *array, struct wr_array_patch *patch)
{
    pthread_mutex_lock(&array->lock);
    put(array->patcher, patch);
    pthread_cond_signal(&array->patcher->work);
    pthread_mutex_unlock(&array->lock);
}

void wr_array_patch_wake(struct wr_array *array)
{
    if (array->patcher)
        pthread_cond_signal(&array->patcher->work);
}

int wr_array_patcher_start(struct wr_array *array)
{
    struct wr_array_patcher *p = calloc(1, sizeof(*p));
    const size_t bytes = (array->pieces + 1) * CHUNK_BYTES;
    int error;

    if (!p)
        return WEIR_ENOMEM;
    p->array = array;
    p->end = &p->first;
    p->buffer = aligned_alloc(WEIR_SLOT_BYTES, bytes);
    error = p->buffer ? wr_array_legs_open(array, 4, &p->legs) : WEIR_ENOMEM;
    if (error)
        goto err_buffer;
    pthread_cond_init(&p->work, NULL);
    array->patcher = p;
    error = wr_array_start_thread(array, "weir-kpatch", run, &p->thread);
    if (!error)
        return WEIR_OK;
    array->patcher = NULL;
    pthread_cond_destroy(&p->work);
    wr_array_legs_close(&p->legs);
err_buffer:
    free(p->buffer);
    free(p);
    return error;
}

void wr_array_patcher_stop(struct wr_array *array)
{
    struct wr_array_patcher *p = array->patcher;

    if (!p)
        return;
    pthread_mutex_lock(&array->lock);
    atomic_store(&array->stop, true);
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&array->lock);
    pthread_join(p->thread, NULL);
    array->patcher = NULL;
    wr_array_legs_close(&p->legs);
    pthread_cond_destroy(&p->work);
    free(p->buffer);
    free(p);
}
