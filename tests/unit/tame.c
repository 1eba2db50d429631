/* SPDX-License-Identifier: MIT */
#include "tests/unit/tame.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"
#include "transport/array.h"

#define DEPTH 256u
#define SLOTS 8192u /* that are looked at */

struct tame_told tame[TAMED];
_Atomic(uint32_t) tame_clashes;

struct member {
    struct weir_backend base;
    struct weir_backend *inner;
    const struct weir_backend_env *env;
    uint32_t number, age;
    _Atomic(uint32_t) readers[SLOTS], writers[SLOTS];
};

struct channel {
    struct weir_channel base;
    struct weir_channel *inner;
    struct request {
        struct weir_io io;
        struct weir_io *outer;
        bool is_to_fail;
    } ios[DEPTH];
};

static const struct weir_backend_ops ops;
static _Atomic(struct member *) last[TAMED];
static _Atomic(uint32_t) open_count[TAMED];

static void stay_while(const _Atomic(bool) *stalls)
{
    while (*stalls)
        usleep(1000);
}

static int ill_of(const struct member *m)
{
    if (tame[m->number].fails || tame[m->number].age != m->age)
        return WEIR_EIO;
    return tame[m->number].is_away ? WEIR_EAGAIN : WEIR_OK;
}

/* Of these slots there are so many more who read, or who write. */
static void count(struct member *m, bool writes, uint64_t slot, uint32_t pages, int more)
{
    for (uint64_t i = slot; i < slot + pages && i < SLOTS; i++) {
        atomic_fetch_add(writes ? &m->writers[i] : &m->readers[i], (uint32_t)more);
        if (more > 0 && atomic_load(writes ? &m->readers[i] : &m->writers[i]) > 0)
            atomic_fetch_add(&tame_clashes, 1);
    }
    if (more > 0 && tame[m->number].pause_us)
        usleep(tame[m->number].pause_us);
}

static int open_member(const char *spec, const struct weir_backend_env *env,
                       struct weir_backend **backend_p)
{
    struct member *m = calloc(1, sizeof(*m));
    int error = WEIR_EIO;

    cr_assert_not_null(m);
    m->number = (uint32_t)(spec[0] - '0');
    m->age = tame[m->number].age;
    m->base.ops = &ops;
    m->env = env;
    stay_while(&tame[m->number].stalls_open);
    if (!tame[m->number].refuses)
        error = weir_backend_open(kit_text("mem:%s", spec + 1), env, &m->inner);
    if (error) {
        free(m);
        return error;
    }
    last[m->number] = m;
    open_count[m->number]++;
    *backend_p = &m->base;
    return WEIR_OK;
}

static void close_member(struct weir_backend *backend)
{
    struct member *m = (struct member *)backend;

    m->inner->ops->close(m->inner);
    open_count[m->number]--;
    free(m);
}

static void describe(struct weir_backend *backend, struct weir_backend_info *info_p)
{
    struct member *m = (struct member *)backend;

    m->inner->ops->describe(m->inner, info_p);
    info_p->flags |= tame[m->number].flags;
}

static int read_member(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes)
{
    struct member *m = (struct member *)backend;
    int error = ill_of(m);

    if (error) {
        memset(bytes, 0xdb, (size_t)pages * WEIR_SLOT_BYTES);
        return error;
    }
    count(m, false, slot, pages, 1);
    error = m->inner->ops->read(m->inner, slot, pages, bytes);
    count(m, false, slot, pages, -1);
    return error;
}

static int open_channel(struct weir_backend *backend, uint32_t depth,
                        struct weir_channel **channel_p)
{
    struct member *m = (struct member *)backend;
    struct channel *c;

    if (tame[m->number].declines)
        return WEIR_ENOMEM;
    c = calloc(1, sizeof(*c));
    cr_assert(c && depth <= DEPTH);
    c->base.backend = backend;
    cr_assert_eq(m->inner->ops->channel_open(m->inner, depth, &c->inner), WEIR_OK);
    *channel_p = &c->base;
    return WEIR_OK;
}

static void close_channel(struct weir_channel *channel)
{
    struct channel *c = (struct channel *)channel;

    stay_while(&tame[((struct member *)channel->backend)->number].stalls_close);
    c->inner->backend->ops->channel_close(c->inner);
    free(c);
}

static void request_done(struct weir_io *io)
{
    struct request *mine = (struct request *)io;
    struct channel *c = io->owner;
    struct member *m = (struct member *)c->base.backend;
    struct weir_io *outer = mine->outer;
    int ill = mine->is_to_fail ? WEIR_EIO : ill_of(m);

    count(m, io->is_write, io->slot, io->pages, -1);
    mine->outer = NULL;
    if (!ill && io->is_write && tame[m->number].is_full)
        ill = WEIR_EFULL;
    outer->error = ill ? ill : io->error;
    outer->os_error = 0;
    outer->done(outer);
}

static bool is_to_fail(struct member *m, const struct weir_io *io)
{
    uint32_t left = tame[m->number].writes_to_fail;

    while (io->is_write && left > 0)
        if (atomic_compare_exchange_weak(&tame[m->number].writes_to_fail, &left, left - 1))
            return true;
    return false;
}

static uint32_t submit(struct weir_channel *channel, struct weir_io *const *ios, uint32_t number)
{
    struct channel *c = (struct channel *)channel;
    struct member *m = (struct member *)c->base.backend;

    for (uint32_t i = 0, at = 0; i < number; i++) {
        struct weir_io *io;

        while (at < DEPTH && c->ios[at].outer)
            at++;
        if (at == DEPTH)
            return i;
        c->ios[at].outer = ios[i];
        c->ios[at].io = *ios[i];
        io = &c->ios[at].io;
        io->done = request_done;
        io->owner = c;
        count(m, io->is_write, io->slot, io->pages, 1);
        if (c->inner->backend->ops->submit(c->inner, &io, 1) == 0) {
            count(m, io->is_write, io->slot, io->pages, -1);
            c->ios[at].outer = NULL;
            return i;
        }
        c->ios[at].is_to_fail = is_to_fail(m, ios[i]);
    }
    return number;
}

static uint32_t poll_channel(struct weir_channel *channel, uint32_t max)
{
    struct channel *c = (struct channel *)channel;

    return c->inner->backend->ops->poll(c->inner, max);
}

static int wait_fd(struct weir_channel *channel)
{
    (void)channel;
    return -1;
}

static const struct weir_backend_ops ops = {
    .abi = WEIR_BACKEND_ABI,
    .name = "tame",
    .open = open_member,
    .close = close_member,
    .describe = describe,
    .read = read_member,
    .channel_open = open_channel,
    .channel_close = close_channel,
    .submit = submit,
    .poll = poll_channel,
    .wait_fd = wait_fd,
};

void tame_register(void)
{
    (void)weir_backend_register(&ops);
}

struct weir_backend *tame_open_array(const char *spec)
{
    tame_register();
    return kit_open(spec, WEIR_OK);
}

void tame_kill(uint32_t number)
{
    tame[number].age++;
}

void tame_ask_back(uint32_t number, bool is_wanted)
{
    struct member *m = last[number];

    m->env->leave(m->env->context, is_wanted);
}

uint32_t tame_open_count(uint32_t number)
{
    return open_count[number];
}

uint64_t tame_missing(struct weir_backend *backend)
{
    struct wr_array *array = (struct wr_array *)backend;
    uint64_t missing;

    pthread_mutex_lock(&array->lock);
    missing = array->map.missing;
    pthread_mutex_unlock(&array->lock);
    return missing;
}

bool tame_is_whole(struct weir_backend *backend, uint32_t member, uint32_t life)
{
    struct wr_array *array = (struct wr_array *)backend;

    for (int i = 0; i < 6000; i++) {
        bool is = tame_missing(backend) == 0;

        pthread_mutex_lock(&array->lock);
        is &= array->map.member[member].life >= life;
        pthread_mutex_unlock(&array->lock);
        for (uint32_t m = 0; m < array->members; m++)
            is &= array->map.member[m].is_up;
        if (is)
            return true;
        usleep(10000);
    }
    return false;
}
