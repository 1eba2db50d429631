/* SPDX-License-Identifier: MIT */

/* Members: their specifications, and reading from whichever is best. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir.h>

#include "transport/array.h"
#include "transport/array_coded.h"
#include "transport/array_keep.h"
#include "transport/request.h"
#include "transport/ring.h"
#include "transport/tell.h"

#define LATENCY_SHARE 8u          /* of one read in what is remembered  */
#define LATENCY_LEAST 2000u       /* differences below this are none    */
#define STUCK_NS      20000000ull /* nobody has come out for so long, and for as much */
#define STUCK_SHARE   8u          /* longer as reads take: whoever comes goes elsewhere */
#define AGAIN_NS      10000000l   /* between two rounds of all copies */
#define TRIES         3u          /* of a write that could be done */
#define COST_SLOW     (1ull << 48)
#define COST_DOWN     (1ull << 56)

uint64_t wr_array_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

uint64_t wr_array_pieces_mib(const struct wr_array *array, uint64_t pieces)
{
    return pieces * array->map.rows * WEIR_SLOT_BYTES >> 20;
}

uint64_t wr_array_mib(uint64_t clusters)
{
    return clusters * WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES >> 20;
}

/* --- Specifications ----------------------------------------------------------------------------
 */

/* What is a failure for a member alone is none for the array, which tells of those itself. */
static void relay(void *context, int severity, int error, int os_error, const char *text)
{
    const struct wr_array_voice *voice = context;
    const struct wr_array_member *member = voice->member;

    if (!atomic_load(&voice->is_muted))
        wr_tell(member->array->env, severity == WEIR_FAILURE ? WEIR_WARNING : severity, error,
                os_error, "%s: a member says: %s", member->array->kind->name, text);
}

static void relay_wish(void *context, int is_wanted)
{
    struct wr_array_voice *voice = context;

    atomic_store(&voice->is_wanted_back, is_wanted != 0);
    wr_ring(voice->member->array->bell);
}

int wr_array_member_init(struct wr_array *array, struct wr_array_member *member, const char *spec,
                         size_t length)
{
    if (length == 0 || member == array->member + WR_MAP_MEMBERS) {
        wr_tell(array->env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "%s: expected 1 to %u specifications with commas between them, for example "
                "%s(tcp://a:7070?size=8G, tcp://b:7070?size=8G)",
                array->kind->name, WR_MAP_MEMBERS, array->kind->name);
        return WEIR_EINVAL;
    }
    member->spec = strndup(spec, length);
    if (!member->spec) {
        wr_tell(array->env, WEIR_FAILURE, WEIR_ENOMEM, 0, "%s: out of memory", array->kind->name);
        return WEIR_ENOMEM;
    }
    member->array = array;
    for (uint32_t life = 0; life < 2; life++) {
        struct wr_array_voice *voice = &member->voices[life];

        voice->member = member;
        voice->env = (struct weir_backend_env){
            .context = voice, .tell = relay, .leave = relay_wish};
    }
    length = strcspn(member->spec, "?");
    if (length >= sizeof(member->name))
        length = sizeof(member->name) - 1;
    memcpy(member->name, member->spec, length);
    return WEIR_OK;
}

int wr_array_split(struct wr_array *array, const char *inner)
{
    for (;;) {
        size_t length = 0, all;
        int depth = 0, error;

        inner += strspn(inner, " \t\n");
        for (; inner[length] && (depth > 0 || inner[length] != ','); length++)
            depth += inner[length] == '(' ? 1 : inner[length] == ')' ? -1 : 0;
        all = length;
        while (length > 0 && strchr(" \t\n", inner[length - 1]))
            length--;
        error = wr_array_member_init(array, &array->member[array->members], inner, length);
        array->members += !error;
        if (error || !inner[all])
            return error;
        inner += all + 1;
    }
}

void wr_array_free_members(struct wr_array *array)
{
    for (uint32_t i = 0; i < array->members; i++) {
        struct wr_array_member *member = &array->member[i];
        struct weir_backend *const open[3] = {atomic_load(&member->lives[0]),
                                              atomic_load(&member->lives[1]), member->fresh};

        for (uint32_t life = 0; life < 3; life++)
            if (open[life])
                open[life]->ops->close(open[life]);
        free(member->spec);
        free(member->probe_page);
    }
}

int wr_array_member_open(struct wr_array_member *member, uint32_t life, bool is_quiet,
                         struct weir_backend **backend_p)
{
    const uint32_t number = (uint32_t)(member - member->array->member);
    const bool is_first = life == 1 || wr_array_is_vacant(member->array, number);
    struct wr_array_voice *voice = &member->voices[life & 1];
    int error;

    /* Where there is another copy, and it can wait for us, nobody else needs to. Before anybody
     * looks there. */
    for (uint32_t i = 0; is_first && i < 2; i++)
        member->voices[i].env.flags = member->array->pieces > 1
                                          ? WEIR_ENV_PUTS_OFF | WEIR_ENV_HAS_COPIES
                                          : member->array->env_flags;
    atomic_store(&voice->is_wanted_back, false);
    atomic_store(&voice->is_muted, is_quiet);
    error = weir_backend_open(member->spec, &voice->env, backend_p);
    atomic_store(&voice->is_muted, false);
    return error;
}

uint32_t wr_array_places(const struct wr_array *array, struct weir_backend *backend)
{
    struct weir_backend_info info;
    uint64_t places;

    backend->ops->describe(backend, &info);
    places = info.slots ? (info.slots - 1) / wr_map_rows(array->need) : 0;
    if (places <= wr_map_reserve(array->need))
        return 0;
    return places < UINT32_MAX ? (uint32_t)places : UINT32_MAX;
}

/* --- The gate ----------------------------------------------------------------------------------
 */

uint32_t wr_array_gate_enter(struct wr_array_gate *gate)
{
    for (;;) {
        uint32_t side = atomic_load(&gate->epoch) & 1;

        atomic_fetch_add(&gate->inside[side], 1);
        /* Whoever turns it from now on waits for us. */
        if ((atomic_load(&gate->epoch) & 1) == side)
            return side;
        atomic_fetch_sub(&gate->inside[side], 1);
    }
}

void wr_array_gate_leave(struct wr_array_gate *gate, uint32_t side)
{
    atomic_fetch_sub(&gate->inside[side], 1);
}

void wr_array_gate_wait(struct wr_array_gate *gate)
{
    const struct timespec moment = {0, 50000};
    uint64_t side;

    pthread_mutex_lock(&gate->lock);
    side = atomic_fetch_add(&gate->epoch, 1) & 1;
    while (atomic_load(&gate->inside[side]) > 0)
        nanosleep(&moment, NULL);
    pthread_mutex_unlock(&gate->lock);
}

uint32_t wr_array_enter(struct wr_array *array)
{
    return wr_array_gate_enter(&array->gate);
}

void wr_array_leave(struct wr_array *array, uint32_t side)
{
    wr_array_gate_leave(&array->gate, side);
}

void wr_array_grace(struct wr_array *array)
{
    wr_array_gate_wait(&array->gate);
}

/* --- Reading -----------------------------------------------------------------------------------
 */

void wr_array_suspect(struct wr_array *array, uint32_t member)
{
    if (atomic_exchange(&array->map.member[member].is_up, false))
        wr_ring(array->bell);
}

/* Those that failed a moment ago may be all there is to it, while one that is only suspected was
 * not asked at all. One that fails all the time is not waited for. */
bool wr_array_is_worth_a_try(const struct wr_array *array, uint32_t *tries_p)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < array->members; i++)
        count += array->map.member[i].life > 0 && !array->map.member[i].is_closed &&
                 !atomic_load(&array->member[i].has_failed);
    return array->pieces > 1 && count >= array->need && ++*tries_p < TRIES;
}

static uint64_t cost_of(const struct wr_array *array, uint32_t number)
{
    const struct wr_array_member *member = &array->member[number];
    const uint64_t latency = atomic_load_explicit(&member->latency_ns, memory_order_relaxed);
    const uint32_t readers = atomic_load_explicit(&member->readers, memory_order_relaxed);
    uint64_t cost = (latency + LATENCY_LEAST) * (readers + 1);

    if (atomic_load_explicit(&member->is_slow, memory_order_relaxed) ||
        (readers > 0 &&
         wr_array_now_ns() > atomic_load_explicit(&member->moved_ns, memory_order_relaxed) +
                                 STUCK_NS + STUCK_SHARE * latency))
        cost += COST_SLOW;
    if (!atomic_load(&array->map.member[number].is_up))
        cost += COST_DOWN;
    return cost;
}

bool wr_array_is_good(const struct wr_array *array, uint32_t member)
{
    return cost_of(array, member) < COST_SLOW;
}

uint32_t wr_array_choose(const struct wr_array *array, uint64_t cluster, uint32_t tried,
                         struct wr_map_piece *piece_p)
{
    uint32_t best = WR_MAP_NOBODY;
    uint64_t best_cost = UINT64_MAX;

    for (uint32_t i = 0; i < array->map.pieces; i++) {
        struct wr_map_piece piece = wr_map_piece(&array->map, cluster, i);
        uint64_t cost;

        if (piece.state != WR_PIECE_WHOLE || tried >> i & 1)
            continue;
        cost = cost_of(array, piece.member);
        if (cost < best_cost) {
            best = i;
            best_cost = cost;
            *piece_p = piece;
        }
    }
    return best;
}

int wr_array_read_piece(struct wr_array *array, const struct wr_map_piece *piece, uint32_t row,
                        uint32_t rows, void *bytes)
{
    struct wr_array_member *member = &array->member[piece->member];
    struct weir_backend *backend = atomic_load(&member->lives[piece->life & 1]);
    uint64_t begun = wr_array_now_ns(), took, before;
    int error;

    if (atomic_fetch_add_explicit(&member->readers, 1, memory_order_relaxed) == 0)
        atomic_store_explicit(&member->moved_ns, begun, memory_order_relaxed);
    error = backend->ops->read(backend, wr_array_slot(array, piece, row), rows, bytes);
    took = wr_array_now_ns() - begun;
    atomic_store_explicit(&member->moved_ns, begun + took, memory_order_relaxed);
    atomic_fetch_sub_explicit(&member->readers, 1, memory_order_relaxed);
    if (error) {
        wr_array_suspect(array, piece->member);
        return error;
    }
    /* Two that store at a time lose one of them, which does not matter. */
    before = atomic_load_explicit(&member->latency_ns, memory_order_relaxed);
    atomic_store_explicit(&member->latency_ns,
                          before - before / LATENCY_SHARE + took / LATENCY_SHARE,
                          memory_order_relaxed);
    return WEIR_OK;
}

/* Pages of one cluster. WEIR_EAGAIN: nobody who has them answers, and one of them may yet. */
static int read_cluster(struct wr_array *array, uint64_t cluster, uint32_t first, uint32_t pages,
                        void *bytes)
{
    uint32_t tried = 0, number;
    struct wr_map_piece piece;
    bool has_hope = false;
    int error = wr_map_readable(&array->map, cluster, first, pages);
    const bool is_new = error == WEIR_ENOENT;

    if (error == WEIR_EIO)
        return error;
    while ((number = wr_array_choose(array, cluster, tried, &piece)) != WR_MAP_NOBODY) {
        error = wr_array_read_piece(array, &piece, first, pages, bytes);
        if (!error) /* perhaps it was whole again only after it had been lost */
            return wr_map_readable(&array->map, cluster, first, pages) == WEIR_EIO ? WEIR_EIO
                                                                                   : WEIR_OK;
        has_hope |= error == WEIR_EAGAIN;
        tried |= 1u << number;
    }
    if (!is_new || tried)
        return has_hope ? WEIR_EAGAIN : WEIR_EIO;
    memset(bytes, 0, (size_t)pages * WEIR_SLOT_BYTES);
    return WEIR_OK;
}

static int read_part(struct wr_array *array, uint64_t slot, uint32_t pages, void *bytes)
{
    const uint32_t side = wr_array_enter(array);
    const uint64_t cluster = slot / WEIR_CLUSTER_SLOTS;
    const uint32_t first = slot % WEIR_CLUSTER_SLOTS;
    const int error = wr_array_is_coded(array)
                          ? wr_array_read_coded(array, cluster, first, pages, bytes)
                          : read_cluster(array, cluster, first, pages, bytes);

    wr_array_leave(array, side);
    return error;
}

/* A member may come back: as long as it has patience, we have, unless whoever reads could do so
 * elsewhere. Waits a moment. Raw, for the C library's is a cancellation point. */
static bool is_worth_waiting(const struct wr_array *array, int error)
{
    const struct timespec moment = {0, AGAIN_NS};
    const int saved_errno = errno;

    if (error != WEIR_EAGAIN || array->env_flags & WEIR_ENV_HAS_COPIES)
        return false;
    (void)syscall(SYS_nanosleep, &moment, NULL);
    errno = saved_errno;
    return true;
}

int wr_array_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    struct wr_array *array = (struct wr_array *)backend;
    const uint64_t slots = array->map.clusters * WEIR_CLUSTER_SLOTS;
    char *to = bytes;
    int error = WEIR_OK;

    if (!wr_request_is_inside(slots, slot, pages))
        return WEIR_EINVAL;
    while (pages > 0 && !error) {
        const uint32_t first = slot % WEIR_CLUSTER_SLOTS;
        const uint32_t some = pages < WEIR_CLUSTER_SLOTS - first ? pages
                                                                 : WEIR_CLUSTER_SLOTS - first;

        error = read_part(array, slot, some, to);
        if (is_worth_waiting(array, error)) {
            error = WEIR_OK;
            continue;
        }
        slot += some;
        pages -= some;
        to += (size_t)some * WEIR_SLOT_BYTES;
    }
    return error;
}

static int reread(struct wr_array *array, uint64_t slot, uint32_t attempt, void *bytes)
{
    const uint64_t cluster = slot / WEIR_CLUSTER_SLOTS;
    const uint32_t page = slot % WEIR_CLUSTER_SLOTS;
    struct wr_map_piece piece;

    if (wr_array_is_coded(array))
        return wr_array_reread_coded(array, cluster, page, attempt, bytes);
    piece = wr_map_piece(&array->map, cluster, attempt);
    return piece.state == WR_PIECE_WHOLE ? wr_array_read_piece(array, &piece, page, 1, bytes)
                                         : WEIR_EIO;
}

/* The copies by their number; of a code, the piece that has it, and ways to work it out. First
 * whatever can be had now; then, if whoever asks cannot do so elsewhere, the same once more, and
 * who is away is waited for. */
int wr_array_reread(struct weir_backend *backend, uint64_t slot, uint32_t attempt, void *bytes)
{
    struct wr_array *array = (struct wr_array *)backend;
    const uint32_t ways = array->map.pieces;
    int error;

    if (!wr_request_is_inside(array->map.clusters * WEIR_CLUSTER_SLOTS, slot, 1))
        return WEIR_EINVAL;
    if (attempt >= 2 * ways || (attempt >= ways && array->env_flags & WEIR_ENV_HAS_COPIES))
        return WEIR_ENOENT;
    do {
        const uint32_t side = wr_array_enter(array);

        error = reread(array, slot, attempt % ways, bytes);
        wr_array_leave(array, side);
    } while (attempt >= ways && is_worth_waiting(array, error));
    return error == WEIR_EAGAIN ? WEIR_EIO : error;
}
