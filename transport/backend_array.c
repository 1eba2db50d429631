/* SPDX-License-Identifier: MIT */

/* mirror, spread and ec: opening and closing an array, and what it says of itself. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <weir/weir.h>

#include "transport/array.h"
#include "transport/array_coded.h"
#include "transport/array_keep.h"
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
static const struct wr_spec_row ec_rows[] = {ROW_REBUILD, ROW_REPLACE};
static const struct wr_spec_kind spread = {"spread", spread_rows, 1};
static const struct wr_spec_kind ec = {"ec", ec_rows, 2};

/* --- Opening -----------------------------------------------------------------------------------
 */

static int refuse_code(const struct wr_array *array)
{
    wr_tell(array->env, WEIR_FAILURE, WEIR_EINVAL, 0,
            "ec: expected how many pieces of data and of parity, and then members, for example "
            "ec(4+2, tcp://a:7070, tcp://b:7070, ...): at least 2 of data (one that is kept "
            "twice is a mirror), 1 of parity, and %u together at most",
            WR_MAP_MEMBERS);
    return WEIR_EINVAL;
}

/* "4+2, A, B": *inner_p comes to what is behind the comma. */
static int parse_code(struct wr_array *array, const char **inner_p)
{
    const char *at = *inner_p + strspn(*inner_p, " \t\n");
    unsigned long count[2] = {0, 0};
    const char *why;
    int error;

    for (uint32_t i = 0; i < 2; i++) {
        char *end = NULL;

        if (*at >= '0' && *at <= '9')
            count[i] = strtoul(at, &end, 10);
        if (!end)
            return refuse_code(array);
        at = end + strspn(end, " \t\n");
        if (*at++ != (i ? ',' : '+'))
            return refuse_code(array);
        at += strspn(at, " \t\n");
    }
    if (count[0] < 2 || count[1] < 1 || count[0] > WR_MAP_MEMBERS || count[1] > WR_MAP_MEMBERS ||
        count[0] + count[1] > WR_MAP_MEMBERS)
        return refuse_code(array);
    *inner_p = at;
    array->need = (uint32_t)count[0];
    array->pieces = (uint32_t)(count[0] + count[1]);
    error = wr_code_open(&array->code, array->need, array->pieces - array->need, &why);
    if (error)
        wr_tell(array->env, WEIR_FAILURE, error, 0, "ec: %s", why);
    return error;
}

static int parse_members(struct wr_array *array, const char *inner)
{
    int error = array->kind == &ec ? parse_code(array, &inner) : WEIR_OK;

    return error ? error : wr_array_split(array, inner);
}

static int parse(struct wr_array *array, const char *spec)
{
    const char *rest;
    char *inner;
    int error = wr_spec_inner(array->kind, spec, array->env, &inner, &rest);

    if (error)
        return error;
    error = parse_members(array, inner);
    free(inner);
    if (!error)
        error = wr_spec_options(array->kind, rest, array->env, &array->options);
    if (!error && array->kind != &ec) {
        array->pieces = (uint32_t)array->options.copies;
        array->need = 1;
    }
    if (!error && array->pieces > array->members) {
        wr_tell(array->env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "%s: %u %s need as many members, and there are %u", array->kind->name,
                array->pieces, array->kind == &ec ? "pieces" : "copies", array->members);
        error = WEIR_EINVAL;
    }
    return error;
}

static bool is_fatal(int error)
{
    return error == WEIR_EINVAL || error == WEIR_ENOSUPPORT || error == WEIR_ENOENT ||
           error == WEIR_ENOMEM;
}

static int refuse_small(const struct wr_array *array, const struct wr_array_member *member)
{
    const uint32_t pages = (1 + wr_map_reserve(array->need)) * wr_map_rows(array->need);

    wr_tell(array->env, WEIR_FAILURE, WEIR_EINVAL, 0,
            "%s: %s is too small: a member has %u KiB and a page, or more", array->kind->name,
            member->name, pages * WEIR_SLOT_BYTES / 1024);
    return WEIR_EINVAL;
}

/* All members, or all but as many as may be lost. places: of each; 0: it is not there. */
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
        if (error && (is_fatal(error) || ++absent > array->pieces - array->need))
            return error;
        if (error) {
            array->flags = wr_array_flags_with(array->flags, WEIR_BACKEND_REMOTE);
            continue;
        }
        atomic_store(&member->lives[1], backend);
        backend->ops->describe(backend, &info);
        array->flags = wr_array_flags_with(array->flags, info.flags);
        places[i] = wr_array_places(array, backend);
        if (places[i] == 0)
            return refuse_small(array, member);
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
    uint32_t guessed[WR_MAP_MEMBERS], spare[WR_MAP_MEMBERS];
    int error;

    guess_places(array, places, guessed);
    for (uint32_t i = 0; i < array->members; i++)
        spare[i] = guessed[i] - wr_map_reserve(array->need);
    error = wr_map_open(&array->map, array->pieces, array->need,
                        wr_map_capacity(array->pieces, spare, array->members));
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

static int open_code(struct wr_array *array)
{
    int error = wr_array_scratch_open(array);

    array->zeros = aligned_alloc(WEIR_SLOT_BYTES, WEIR_SLOT_BYTES);
    if (error || !array->zeros)
        return WEIR_ENOMEM;
    memset(array->zeros, 0, WEIR_SLOT_BYTES);
    return wr_array_patcher_start(array);
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
    if (!error && wr_array_is_coded(array))
        error = open_code(array);
    if (!error)
        error = wr_array_keeper_start(array);
    if (error)
        wr_tell(array->env, WEIR_FAILURE, error, 0, "%s: no memory, threads or descriptors left",
                array->kind->name);
    return error;
}

static void free_array(struct wr_array *array)
{
    wr_array_patcher_stop(array);
    wr_array_free_members(array);
    wr_array_scratch_close(array);
    free(array->zeros);
    if (array->map.words)
        wr_map_close(&array->map);
    if (array->bell >= 0)
        close(array->bell);
    free(array->buffer);
    pthread_mutex_destroy(&array->lock);
    pthread_mutex_destroy(&array->legs_lock);
    pthread_mutex_destroy(&array->gate.lock);
    pthread_mutex_destroy(&array->sums.lock);
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
    pthread_mutex_init(&array->gate.lock, NULL);
    pthread_mutex_init(&array->sums.lock, NULL);
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

static int ec_open(const char *spec, const struct weir_backend_env *env,
                   struct weir_backend **backend_p)
{
    return open_array(&ec, &weir_backend_ec, 0, spec, env, backend_p);
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
    const uint32_t members = array->members - (uint32_t)__builtin_popcount(array->vacant);

    *info_p = (struct weir_backend_info){
        .slots = array->map.clusters * WEIR_CLUSTER_SLOTS,
        .cluster_slots = WEIR_CLUSTER_SLOTS,
        .flags = array->flags,
    };
    if (wr_array_is_coded(array))
        snprintf(info_p->how, sizeof(info_p->how), "%u+%u pieces over %u members", array->need,
                 array->pieces - array->need, members);
    else if (array->map.pieces > 1)
        snprintf(info_p->how, sizeof(info_p->how), "%u copies over %u members", array->map.pieces,
                 members);
    else
        snprintf(info_p->how, sizeof(info_p->how), "over %u members", members);
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
            (void)backend->ops->discard(backend, wr_array_slot(array, &pieces[i], 0),
                                        array->map.rows);
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
        .extend = wr_array_extend, .retire = wr_array_retire,                                      \
    }

const struct weir_backend_ops weir_backend_mirror = ARRAY_OPS("mirror", mirror_open);
const struct weir_backend_ops weir_backend_spread = ARRAY_OPS("spread", spread_open);
const struct weir_backend_ops weir_backend_ec = ARRAY_OPS("ec", ec_open);
