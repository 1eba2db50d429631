/* SPDX-License-Identifier: MIT */

/* mirror and spread: opening and closing an array, and what it says of itself. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <weir/weir.h>

#include "transport/array.h"
#include "transport/tell.h"

#define REBUILD_DEFAULT (100ull << 20)
#define REPLACE_DEFAULT 60u /* seconds */

#define ROW_REBUILD                                                                            \
    {                                                                                          \
        "rebuild_bytes_per_s", WR_SPEC_BYTES,                                                  \
            offsetof(struct wr_array_options, rebuild_bytes_per_s), 1u << 16, 1ull << 50, NULL \
    }
#define ROW_REPLACE                                                                            \
    {                                                                                          \
        "replace_s", WR_SPEC_COUNT, offsetof(struct wr_array_options, replace_s), 1, 1u << 30, \
            NULL                                                                               \
    }

static const struct wr_spec_row mirror_rows[] = {
    ROW_REBUILD,
    ROW_REPLACE,
    {"copies", WR_SPEC_COUNT, offsetof(struct wr_array_options, copies), 2, WR_MAP_MEMBERS, NULL},
};
static const struct wr_spec_row spread_rows[] = {ROW_REBUILD};
static const struct wr_spec_kind mirror = {"mirror", mirror_rows, 3};
static const struct wr_spec_kind spread = {"spread", spread_rows, 1};

/* --- Opening -----------------------------------------------------------------------------------
 */

static int parse(struct wr_array *array, const char *spec)
{
    const char *rest;
    char *inner;
    int error = wr_spec_inner(array->kind, spec, array->env, &inner, &rest);

    if (error)
        return error;
    error = wr_array_split(array, inner);
    free(inner);
    if (!error)
        error = wr_spec_options(array->kind, rest, array->env, &array->options);
    if (!error && array->options.copies > array->members) {
        wr_tell(array->env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "%s: %llu copies need as many members, and there are %u", array->kind->name,
                (unsigned long long)array->options.copies, array->members);
        error = WEIR_EINVAL;
    }
    return error;
}

static bool is_fatal(int error)
{
    return error == WEIR_EINVAL || error == WEIR_ENOSUPPORT || error == WEIR_ENOENT ||
           error == WEIR_ENOMEM;
}

/* All members, or all but as many as copies allow. places: of each; 0: it is not there. */
static int open_members(struct wr_array *array, uint32_t places[WR_MAP_MEMBERS])
{
    uint32_t absent = 0;

    array->flags = WEIR_BACKEND_VOLATILE;
    for (uint32_t i = 0; i < array->members; i++) {
        struct wr_array_member *member = &array->member[i];
        struct weir_backend_info info;
        struct weir_backend *backend = NULL;
        int error = wr_array_member_open(member, 1, false, &backend);

        places[i] = 0;
        if (error && (is_fatal(error) || ++absent >= array->options.copies))
            return error;
        if (error) {
            array->flags = wr_array_flags_with(array->flags, WEIR_BACKEND_REMOTE);
            continue;
        }
        atomic_store(&member->lives[1], backend);
        backend->ops->describe(backend, &info);
        array->flags = wr_array_flags_with(array->flags, info.flags);
        places[i] = wr_array_places(backend);
        if (places[i] == 0) {
            wr_tell(array->env, WEIR_FAILURE, WEIR_EINVAL, 0,
                    "%s: %s is too small: a member has 2 MiB and a page, or more",
                    array->kind->name, member->name);
            return WEIR_EINVAL;
        }
    }
    return WEIR_OK;
}

/* One that is not there counts as large as the smallest of the others. */
static void guess_places(const struct wr_array *array, const uint32_t *places, uint32_t *guessed)
{
    uint32_t least = UINT32_MAX;

    for (uint32_t i = 0; i < array->members; i++)
        if (places[i] > 0 && places[i] < least)
            least = places[i];
    for (uint32_t i = 0; i < array->members; i++)
        guessed[i] = places[i] ? places[i] : least;
}

static int open_map(struct wr_array *array, const uint32_t *places)
{
    const uint32_t pieces = (uint32_t)array->options.copies;
    uint32_t guessed[WR_MAP_MEMBERS];
    int error;

    guess_places(array, places, guessed);
    error = wr_map_open(&array->map, pieces, wr_map_capacity(pieces, guessed, array->members));
    for (uint32_t i = 0; i < array->members && !error; i++) {
        wr_map_member_add(&array->map, array->member[i].spec, guessed[i]);
        array->member[i].is_settled = places[i] > 0;
        array->member[i].probe_page = aligned_alloc(WEIR_SLOT_BYTES, WEIR_SLOT_BYTES);
        if (!array->member[i].probe_page)
            error = WEIR_ENOMEM;
        else if (places[i] > 0)
            error = wr_map_member_renew(&array->map, i, places[i]);
        atomic_store(&array->map.member[i].is_up, places[i] > 0);
    }
    return error;
}

static int open_parts(struct wr_array *array)
{
    uint32_t places[WR_MAP_MEMBERS];
    int error = open_members(array, places);

    if (error)
        return error;
    array->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    array->buffer = aligned_alloc(WEIR_SLOT_BYTES, WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES);
    error = array->bell < 0 || !array->buffer ? WEIR_ENOMEM : open_map(array, places);
    if (!error)
        error = wr_array_keeper_start(array);
    if (error)
        wr_tell(array->env, WEIR_FAILURE, error, 0, "%s: no memory, threads or descriptors left",
                array->kind->name);
    return error;
}

static void free_array(struct wr_array *array)
{
    wr_array_free_members(array);
    if (array->map.words)
        wr_map_close(&array->map);
    if (array->bell >= 0)
        close(array->bell);
    free(array->buffer);
    pthread_mutex_destroy(&array->lock);
    pthread_mutex_destroy(&array->legs_lock);
    pthread_cond_destroy(&array->work);
    free(array);
}

static int open_array(const struct wr_spec_kind *kind, const struct weir_backend_ops *ops,
                      uint64_t copies, const char *spec, const struct weir_backend_env *env,
                      struct weir_backend **backend_p)
{
    struct wr_array *array = aligned_alloc(64, (sizeof(*array) + 63) / 64 * 64);
    int error;

    if (!array) {
        wr_tell(env, WEIR_FAILURE, WEIR_ENOMEM, 0, "%s: out of memory", kind->name);
        return WEIR_ENOMEM;
    }
    memset(array, 0, sizeof(*array));
    array->base.ops = ops;
    array->env = env;
    array->env_flags = env ? env->flags : 0;
    array->kind = kind;
    array->bell = -1;
    array->options = (struct wr_array_options){
        .rebuild_bytes_per_s = REBUILD_DEFAULT, .copies = copies, .replace_s = REPLACE_DEFAULT};
    pthread_mutex_init(&array->lock, NULL);
    pthread_mutex_init(&array->legs_lock, NULL);
    pthread_cond_init(&array->work, NULL);
    error = parse(array, spec);
    if (!error)
        error = open_parts(array);
    if (error) {
        free_array(array);
        return error;
    }
    *backend_p = &array->base;
    return WEIR_OK;
}

static int mirror_open(const char *spec, const struct weir_backend_env *env,
                       struct weir_backend **backend_p)
{
    return open_array(&mirror, &weir_backend_mirror, 2, spec, env, backend_p);
}

static int spread_open(const char *spec, const struct weir_backend_env *env,
                       struct weir_backend **backend_p)
{
    return open_array(&spread, &weir_backend_spread, 1, spec, env, backend_p);
}

static void array_close(struct weir_backend *backend)
{
    struct wr_array *array = (struct wr_array *)backend;

    wr_array_keeper_stop(array);
    free_array(array);
}

/* --- The rest ----------------------------------------------------------------------------------
 */

static void array_describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    const struct wr_array *array = (const struct wr_array *)backend;

    *info_p = (struct weir_backend_info){
        .slots = array->map.clusters * WEIR_CLUSTER_SLOTS,
        .cluster_slots = WEIR_CLUSTER_SLOTS,
        .flags = array->flags,
    };
    if (array->map.pieces > 1)
        snprintf(info_p->how, sizeof(info_p->how), "%u copies over %u members", array->map.pieces,
                 array->members);
    else
        snprintf(info_p->how, sizeof(info_p->how), "over %u members", array->members);
}

/* Inside the gate, so that the lives that the map knew are not closed meanwhile. */
static void discard_cluster(struct wr_array *array, uint64_t cluster)
{
    struct wr_map_piece pieces[WR_MAP_MEMBERS];
    bool is_begun;

    pthread_mutex_lock(&array->lock);
    is_begun = wr_map_discard_begin(&array->map, cluster, pieces);
    pthread_mutex_unlock(&array->lock);
    if (!is_begun)
        return; /* it is only advice */
    for (uint32_t i = 0; i < array->map.pieces; i++) {
        struct weir_backend *backend;

        /* One that does not answer is not waited for. */
        if (pieces[i].state == WR_PIECE_NONE ||
            !atomic_load(&array->map.member[pieces[i].member].is_up) ||
            atomic_load(&array->member[pieces[i].member].is_slow))
            continue;
        backend = atomic_load(&array->member[pieces[i].member].lives[pieces[i].life & 1]);
        if (backend->ops->discard)
            (void)backend->ops->discard(backend, (uint64_t)pieces[i].place * WEIR_CLUSTER_SLOTS,
                                        WEIR_CLUSTER_SLOTS);
    }
    pthread_mutex_lock(&array->lock);
    if (wr_map_discard_end(&array->map, cluster))
        wr_array_ring_waiting(array);
    pthread_mutex_unlock(&array->lock);
}

static int array_discard(struct weir_backend *backend, uint64_t slot, uint64_t count)
{
    struct wr_array *array = (struct wr_array *)backend;
    const uint64_t slots = array->map.clusters * WEIR_CLUSTER_SLOTS;
    uint64_t cluster = (slot + WEIR_CLUSTER_SLOTS - 1) / WEIR_CLUSTER_SLOTS;

    if (slot > slots || count > slots - slot)
        return WEIR_EINVAL;
    for (; (cluster + 1) * WEIR_CLUSTER_SLOTS <= slot + count; cluster++) {
        const uint32_t side = wr_array_enter(array);

        discard_cluster(array, cluster);
        wr_array_leave(array, side);
    }
    return WEIR_OK;
}

#define ARRAY_OPS(word, open_word)                                                                 \
    {                                                                                              \
        .abi = WEIR_BACKEND_ABI, .name = word, .open = open_word, .close = array_close,            \
        .describe = array_describe, .read = wr_array_read, .channel_open = wr_array_channel_open,  \
        .channel_close = wr_array_channel_close, .submit = wr_array_submit, .poll = wr_array_poll, \
        .wait_fd = wr_array_wait_fd, .discard = array_discard, .reread = wr_array_reread,          \
        .extend = wr_array_extend,                                                                 \
    }

const struct weir_backend_ops weir_backend_mirror = ARRAY_OPS("mirror", mirror_open);
const struct weir_backend_ops weir_backend_spread = ARRAY_OPS("spread", spread_open);
