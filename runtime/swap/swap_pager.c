/* SPDX-License-Identifier: MIT */
#include "runtime/swap/swap.h"

#include <stdlib.h>
#include <string.h>
#include <xxh_x86dispatch.h>

#include "runtime/base/text.h"
#include "runtime/memory/gate.h"

#define READ_TRIES    3
#define COPIES_MOST   64u /* that a back end can have of a page */
#define CHANNEL_DEPTH 512u
#define POLL_BATCH    64u
#define SCARCE_SHARE  16u /* of all slots: fewer free ones are few */

static struct wr_swap *swap_of(struct wr_pager *pager)
{
    return (struct wr_swap *)(void *)pager;
}

static struct wr_swap_lane *lane_of(struct wr_lane *lane)
{
    return (struct wr_swap_lane *)(void *)lane;
}

uint32_t wr_swap_sum(const struct wr_swap *swap, uint32_t page, const void *bytes)
{
    return swap->wish.checksums ? (uint32_t)XXH3_64bits_withSeed(bytes, WEIR_PAGE_BYTES, page) : 0;
}

/* --- One page, now --------------------------------------------------------------------------- */

static void tell_damage(const struct wr_swap *swap, const struct wr_swap_backend *backend,
                        uint64_t slot, const char *what)
{
    char line[400];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "back end ");
    wr_text_add(&text, backend->spec);
    wr_text_add(&text, ": slot ");
    wr_text_number(&text, wr_slot_place(slot));
    wr_text_add(&text, " ");
    wr_text_add(&text, what);
    wr_event(&swap->space->events, WEIR_FAILURE, WEIR_EIO, 0, 0, line);
}

int wr_swap_reread(const struct wr_swap *swap, uint64_t slot, uint32_t page, uint32_t sum,
                   void *bytes)
{
    const struct wr_swap_backend *from = wr_swap_backend(swap, wr_slot_backend(slot));
    const struct weir_backend_ops *ops = from->backend->ops;
    int error = ops->abi >= 2 && ops->reread ? WEIR_OK : WEIR_ENOENT;

    for (uint32_t attempt = 0; attempt < COPIES_MOST && (error == WEIR_OK || error == WEIR_EIO);
         attempt++) {
        error = ops->reread(from->backend, wr_slot_place(slot), attempt, bytes);
        if (error == WEIR_OK && wr_swap_sum(swap, page, bytes) == sum)
            return WEIR_OK;
    }
    return WEIR_EIO;
}

static int swap_read(struct wr_pager *pager, uint64_t slot, uint32_t page, uint32_t sum,
                     void *bytes)
{
    struct wr_swap *swap = swap_of(pager);
    struct wr_swap_backend *backend = wr_swap_backend(swap, wr_slot_backend(slot));
    bool was_damaged = false;

    for (int tries = 0; tries < READ_TRIES; tries++) {
        int error = backend->backend->ops->read(backend->backend, wr_slot_place(slot), 1, bytes);

        if (error == WEIR_OK && wr_swap_sum(swap, page, bytes) == sum)
            return WEIR_OK;
        atomic_fetch_add_explicit(&backend->errors, 1, memory_order_relaxed);
        was_damaged = error == WEIR_OK;
        wr_stats_count(swap->space->stats,
                       was_damaged ? WR_COUNT_checksum_errors : WR_COUNT_read_errors);
    }
    if (wr_swap_reread(swap, slot, page, sum, bytes) == WEIR_OK)
        return WR_READ_OTHER;
    tell_damage(swap, backend, slot,
                was_damaged ? "came back damaged or stale (checksum); the page is lost"
                            : "cannot be read; the page is lost");
    return WEIR_EIO;
}

static bool swap_keeps(struct wr_pager *pager, uint64_t slot)
{
    const struct wr_swap *swap = swap_of(pager);
    const struct wr_swap_backend *backend = wr_swap_backend(swap, wr_slot_backend(slot));

    return !(backend->info.flags & WEIR_BACKEND_FREE_ON_READ) &&
           !atomic_load_explicit(&backend->draining, memory_order_relaxed) &&
           !atomic_load_explicit(&backend->leaving, memory_order_relaxed) &&
           wr_slots_used(&backend->slots) * 100 <= backend->slots.count * swap->wish.keep_percent;
}

static bool swap_frees_at_read(struct wr_pager *pager, uint64_t slot)
{
    const struct wr_swap_backend *backend = wr_swap_backend(swap_of(pager), wr_slot_backend(slot));

    return backend->info.flags & WEIR_BACKEND_FREE_ON_READ;
}

static bool swap_is_crowded(struct wr_pager *pager)
{
    const struct wr_swap *swap = swap_of(pager);
    uint64_t used = 0, total = 0;

    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        const struct wr_swap_backend *backend = wr_swap_backend(swap, i);

        if (!backend || atomic_load_explicit(&backend->draining, memory_order_relaxed))
            continue;
        used += wr_slots_used(&backend->slots);
        total += backend->slots.count;
    }
    return used > total - total / SCARCE_SHARE;
}

void wr_swap_press(const struct wr_swap *swap)
{
    const struct wr_frames *frames = &swap->space->frames;

    frames->pressure(frames->pressure_context);
}

void wr_swap_free_slot(struct wr_swap *swap, struct wr_swap_backend *backend, uint32_t place)
{
    if (wr_slots_free(&backend->slots, place) &&
        !atomic_load_explicit(&swap->has_emptied, memory_order_relaxed) &&
        !atomic_exchange_explicit(&swap->has_emptied, true, memory_order_relaxed) &&
        backend->backend->ops->discard)
        wr_swap_press(swap); /* the first since such were looked for */
}

static void swap_forget(struct wr_pager *pager, uint64_t slot)
{
    struct wr_swap *swap = swap_of(pager);

    wr_swap_free_slot(swap, wr_swap_backend(swap, wr_slot_backend(slot)), wr_slot_place(slot));
}

/* --- Lanes ----------------------------------------------------------------------------------- */

void wr_swap_unref(struct wr_swap_backend *backend)
{
    if (atomic_fetch_sub(&backend->references, 1) != 1)
        return;
    backend->backend->ops->close(backend->backend);
    wr_slots_fini(&backend->slots);
    free(backend);
}

static int swap_lane_open(struct wr_pager *pager, struct wr_lane **lane_p)
{
    struct wr_swap_lane *lane = calloc(1, sizeof(*lane));

    if (!lane)
        return WEIR_ENOMEM;
    lane->lane.pager = pager;
    lane->swap = swap_of(pager);
    *lane_p = &lane->lane;
    return WEIR_OK;
}

static void close_channel(struct wr_swap_lane *lane, uint32_t number)
{
    WR_CHECK(lane->in_flight[number] == 0);
    lane->channels[number]->backend->ops->channel_close(lane->channels[number]);
    lane->channels[number] = NULL;
    wr_swap_unref(lane->channel_of[number]);
    lane->channel_of[number] = NULL;
}

static void swap_lane_close(struct wr_lane *given)
{
    struct wr_swap_lane *lane = lane_of(given);

    wr_clean_close(lane);
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++)
        if (lane->channels[i])
            close_channel(lane, i);
    free(lane->requests);
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++)
        free(lane->writeouts[i]);
    free(lane);
}

/* Let go of back ends that have left the table. */
static void follow_changes(struct wr_swap_lane *lane)
{
    uint32_t changes = atomic_load(&lane->swap->changes);
    bool all_followed = true;

    if (changes == lane->changes_seen)
        return;
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        if (!lane->channels[i] || wr_swap_backend(lane->swap, i) == lane->channel_of[i])
            continue;
        if (lane->in_flight[i] == 0)
            close_channel(lane, i);
        else
            all_followed = false;
    }
    if (all_followed)
        lane->changes_seen = changes;
}

struct weir_channel *wr_lane_channel(struct wr_swap_lane *lane, struct wr_swap_backend *backend)
{
    uint32_t number = backend->number;

    follow_changes(lane);
    if (lane->channels[number])
        return lane->channel_of[number] == backend ? lane->channels[number] : NULL;
    if (backend->backend->ops->channel_open(backend->backend, CHANNEL_DEPTH,
                                            &lane->channels[number]) != WEIR_OK) {
        lane->channels[number] = NULL;
        return NULL;
    }
    atomic_fetch_add(&backend->references, 1);
    lane->channel_of[number] = backend;
    return lane->channels[number];
}

static bool swap_reap(struct wr_lane *given)
{
    struct wr_swap_lane *lane = lane_of(given);
    /* Completions free slots and lock pages: neither may vanish under them. */
    struct wr_pass pass = wr_gate_enter();
    bool any = false;

    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        uint32_t polled = 1;

        while (lane->in_flight[i] > 0 && polled > 0) {
            polled = lane->channels[i]->backend->ops->poll(lane->channels[i], POLL_BATCH);
            any |= polled > 0;
        }
    }
    wr_gate_leave(pass);
    follow_changes(lane);
    return any;
}

static uint32_t swap_wait_fds(struct wr_lane *given, int fds[WR_LANE_FDS])
{
    const struct wr_swap_lane *lane = lane_of(given);
    uint32_t count = 0;

    _Static_assert(WR_LANE_FDS >= WR_BACKENDS_MAX, "one descriptor a back end");
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        int fd = lane->in_flight[i] > 0
                     ? lane->channels[i]->backend->ops->wait_fd(lane->channels[i])
                     : -1;

        if (fd >= 0)
            fds[count++] = fd;
    }
    return count;
}

static bool swap_is_idle(const struct wr_lane *given)
{
    const struct wr_swap_lane *lane = (const struct wr_swap_lane *)(const void *)given;

    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++)
        if (lane->in_flight[i] > 0)
            return false;
    return true;
}

/* Is something in flight that no descriptor will tell of? */
static bool needs_a_look(const struct wr_swap_lane *lane)
{
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++)
        if (lane->in_flight[i] > 0 &&
            lane->channels[i]->backend->ops->wait_fd(lane->channels[i]) < 0)
            return true;
    return false;
}

static uint64_t swap_tidy(struct wr_lane *given, bool is_idle)
{
    struct wr_swap_lane *lane = lane_of(given);

    wr_clean(lane);
    if (needs_a_look(lane))
        return 0;
    return is_idle ? wr_discard(lane) : WR_FOREVER;
}

/* --- Fetching -------------------------------------------------------------------------------- */

static void finish_if_last(struct wr_fetch *fetch)
{
    if (--fetch->pending == 0)
        fetch->finished(fetch);
}

static void fetch_done(struct weir_io *io)
{
    struct wr_fetch_request *request = io->owner;
    struct wr_fetch *fetch = request->fetch;
    struct wr_swap_lane *lane = request->lane;
    struct wr_swap *swap = lane->swap;
    struct wr_swap_backend *backend = lane->channel_of[request->backend];

    lane->in_flight[request->backend]--;
    if (io->error != WEIR_OK) {
        atomic_fetch_add_explicit(&backend->errors, 1, memory_order_relaxed);
        wr_stats_count(swap->space->stats, WR_COUNT_read_errors);
    }
    for (uint32_t i = 0; i < io->pages; i++) {
        uint32_t index = request->index + i;
        const uint8_t *bytes = fetch->bytes + (uint64_t)index * WEIR_PAGE_BYTES;
        int error = io->error;

        if (error == WEIR_OK && wr_swap_sum(swap, fetch->page[index], bytes) != fetch->sum[index])
            error = WEIR_EIO;
        fetch->arrived(fetch, index, error);
    }
    request->is_busy = false;
    finish_if_last(fetch);
}

static struct wr_fetch_request *free_request(struct wr_swap_lane *lane)
{
    if (!lane->requests)
        lane->requests = calloc(WR_LANE_REQUESTS, sizeof(*lane->requests));
    for (uint32_t i = 0; lane->requests && i < WR_LANE_REQUESTS; i++) {
        struct wr_fetch_request *request = &lane->requests[lane->request_hand++ % WR_LANE_REQUESTS];

        if (!request->is_busy)
            return request;
    }
    return NULL;
}

/* How many pages from this one on lie in neighbouring slots? */
static uint32_t slot_run(const struct wr_fetch *fetch, uint32_t index)
{
    uint32_t n = 1;

    while (index + n < fetch->count && fetch->slot[index + n] == fetch->slot[index] + n)
        n++;
    return n;
}

static bool submit_run(struct wr_swap_lane *lane, struct wr_fetch *fetch, uint32_t index,
                       uint32_t pages)
{
    struct wr_swap_backend *backend = wr_swap_backend(lane->swap,
                                                      wr_slot_backend(fetch->slot[index]));
    struct weir_channel *channel = wr_lane_channel(lane, backend);
    struct wr_fetch_request *request = channel ? free_request(lane) : NULL;
    struct weir_io *io;

    if (!request)
        return false;
    *request = (struct wr_fetch_request){
        .iov = {fetch->bytes + (uint64_t)index * WEIR_PAGE_BYTES, (size_t)pages * WEIR_PAGE_BYTES},
        .fetch = fetch,
        .lane = lane,
        .index = index,
        .backend = backend->number,
        .is_busy = true,
    };
    request->io = (struct weir_io){
        .slot = wr_slot_place(fetch->slot[index]),
        .pages = pages,
        .iov = &request->iov,
        .iov_count = 1,
        .done = fetch_done,
        .owner = request,
    };
    io = &request->io;
    lane->in_flight[backend->number]++;
    fetch->pending++;
    if (channel->backend->ops->submit(channel, &io, 1) == 1)
        return true;
    lane->in_flight[backend->number]--;
    fetch->pending--;
    request->is_busy = false;
    return false;
}

static void swap_fetch(struct wr_lane *given, struct wr_fetch *fetch)
{
    struct wr_swap_lane *lane = lane_of(given);
    uint32_t requests = 0;

    fetch->pending = 1; /* so that it does not finish before all of it was begun */
    for (uint32_t i = 0; i < fetch->count;) {
        uint32_t pages = 1;

        if (fetch->slot[i] != WR_SLOT_NONE) {
            pages = slot_run(fetch, i);
            /* Scattered slots would cost more requests than the pages may be worth. */
            if (requests++ >= WR_FETCH_REQUESTS || !submit_run(lane, fetch, i, pages))
                for (uint32_t k = 0; k < pages; k++)
                    fetch->arrived(fetch, i + k, WEIR_EAGAIN);
        }
        i += pages;
    }
    finish_if_last(fetch);
}

/* --- Opening --------------------------------------------------------------------------------- */

static const struct wr_pager_ops swap_ops = {
    .read = swap_read,
    .keeps = swap_keeps,
    .frees_at_read = swap_frees_at_read,
    .is_crowded = swap_is_crowded,
    .forget = swap_forget,
    .lane_open = swap_lane_open,
    .lane_close = swap_lane_close,
    .fetch = swap_fetch,
    .reap = swap_reap,
    .wait_fds = swap_wait_fds,
    .is_idle = swap_is_idle,
    .inspect = wr_launder_inspect,
    .launder = wr_launder,
    .coming = wr_launder_coming,
    .tidy = swap_tidy,
};

int wr_swap_open(struct wr_space *space, const struct wr_swap_wish *wish, struct wr_swap **swap_p)
{
    struct wr_swap *swap = calloc(1, sizeof(*swap));

    if (!swap)
        return WEIR_ENOMEM;
    swap->pager.ops = &swap_ops;
    swap->space = space;
    swap->wish = *wish;
    if (wish->backends_lock && wr_leave_open(swap) != WEIR_OK) {
        free(swap);
        return WEIR_ENOMEM;
    }
    *swap_p = swap;
    return WEIR_OK;
}

void wr_swap_close(struct wr_swap *swap)
{
    if (!swap)
        return;
    wr_leave_stop(swap->leave);
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        struct wr_swap_backend *backend = atomic_exchange(&swap->backends[i], NULL);

        if (backend)
            wr_swap_unref(backend);
    }
    wr_leave_close(swap->leave);
    free(swap);
}

/* What a back end has to say goes out as an event, with its name before it. */
static void backend_tells(void *context, int severity, int error, int os_error, const char *said)
{
    const struct wr_swap_backend *backend = context;
    char line[600];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "back end ");
    wr_text_add(&text, backend->spec);
    wr_text_add(&text, ": ");
    wr_text_add(&text, said);
    wr_event(&backend->swap->space->events, (enum weir_severity)severity, error, os_error, 0, line);
}

static void backend_leaves(void *context, int is_wanted)
{
    struct wr_swap_backend *backend = context;

    if (atomic_exchange(&backend->leaving, is_wanted != 0) != (is_wanted != 0))
        wr_leave_rouse(backend->swap->leave);
}

static int open_backend(struct wr_swap *swap, const char *spec, struct wr_swap_backend *backend)
{
    char rest[WR_SPEC_ROOM];
    int error = wr_swap_cut_generic(&swap->space->events, spec, rest, &backend->priority);

    if (error != WEIR_OK)
        return error;
    backend->swap = swap;
    backend->env = (struct weir_backend_env){.context = backend,
                                             .tell = backend_tells,
                                             .flags = WEIR_ENV_PUTS_OFF,
                                             .leave = swap->leave ? backend_leaves : NULL};
    strncpy(backend->spec, spec, sizeof(backend->spec) - 1);
    error = weir_backend_open_outer(rest, &backend->env, &backend->backend);
    if (error != WEIR_OK)
        return error;
    backend->backend->ops->describe(backend->backend, &backend->info);
    /* A place is 32 bits of a slot. */
    if (backend->info.slots > UINT32_MAX)
        backend->info.slots = UINT32_MAX;
    error = backend->info.slots > 0 ? wr_slots_init(&backend->slots, backend->info.slots)
                                    : WEIR_EINVAL;
    if (error != WEIR_OK)
        backend->backend->ops->close(backend->backend);
    return error;
}

int wr_swap_add(struct wr_swap *swap, const char *spec, uint32_t *number_p)
{
    struct wr_swap_backend *backend;
    uint32_t number = 0;
    int error;

    while (number < WR_BACKENDS_MAX && wr_swap_backend(swap, number))
        number++;
    if (number == WR_BACKENDS_MAX) {
        wr_event(&swap->space->events, WEIR_FAILURE, WEIR_EBUSY, 0, 0,
                 "a runtime has at most 16 back ends; drain one first");
        return WEIR_EBUSY;
    }
    backend = calloc(1, sizeof(*backend));
    if (!backend)
        return WEIR_ENOMEM;
    backend->number = number;
    backend->serial = swap->added;
    backend->priority = -1 - swap->added;
    error = open_backend(swap, spec, backend);
    if (error != WEIR_OK) {
        free(backend);
        return error;
    }
    swap->added++;
    atomic_store(&backend->references, 1);
    /* Release: pairs with the acquire in wr_swap_backend(). */
    atomic_store_explicit(&swap->backends[number], backend, memory_order_release);
    if (atomic_load(&backend->leaving) && swap->leave)
        wr_leave_rouse(swap->leave);
    *number_p = number;
    return WEIR_OK;
}

static struct weir_backend *backend_of(const struct wr_swap *swap, uint32_t number)
{
    const struct wr_swap_backend *backend = number < WR_BACKENDS_MAX ? wr_swap_backend(swap, number)
                                                                     : NULL;

    return backend ? backend->backend : NULL;
}

/* The error; of those that are not made of several, told what is possible. */
static int tell_if_single(const struct wr_swap *swap, int error)
{
    if (error == WEIR_ENOSUPPORT)
        wr_event(
            &swap->space->events, WEIR_FAILURE, error, 0, 0,
            "only a mirror, a spread or an ec has members; weir_backend_add() adds a back end, "
            "weir_backend_drain() empties one");
    return error;
}

int wr_swap_extend(struct wr_swap *swap, uint32_t number, const char *spec)
{
    struct weir_backend *backend = backend_of(swap, number);

    if (!backend)
        return WEIR_ENOENT;
    return tell_if_single(swap, backend->ops->abi >= 2 && backend->ops->extend
                                    ? backend->ops->extend(backend, spec, 0)
                                    : WEIR_ENOSUPPORT);
}

int wr_swap_retire(struct wr_swap *swap, uint32_t number, const char *member)
{
    struct weir_backend *backend = backend_of(swap, number);

    if (!backend)
        return WEIR_ENOENT;
    return tell_if_single(swap, backend->ops->abi >= 2 && backend->ops->retire
                                    ? backend->ops->retire(backend, member)
                                    : WEIR_ENOSUPPORT);
}

void wr_swap_usage(const struct wr_swap *swap, uint64_t *used_p, uint64_t *total_p)
{
    *used_p = *total_p = 0;
    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        const struct wr_swap_backend *backend = wr_swap_backend(swap, i);

        if (backend) {
            *used_p += wr_slots_used(&backend->slots);
            *total_p += backend->slots.count;
        }
    }
}

uint64_t wr_swap_metadata(const struct wr_swap *swap)
{
    uint64_t tables = 0, backends = 0;

    for (uint32_t i = 0; i < WR_BACKENDS_MAX; i++) {
        const struct wr_swap_backend *backend = wr_swap_backend(swap, i);

        if (!backend)
            continue;
        backends++;
        tables += wr_slots_used(&backend->slots) * (sizeof(uint32_t) + backend->info.slot_cost);
    }
    return sizeof(*swap) + tables + backends * swap->wish.writes_max * sizeof(struct wr_writeout) +
           WR_LANE_REQUESTS * sizeof(struct wr_fetch_request);
}
