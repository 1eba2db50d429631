/* SPDX-License-Identifier: MIT */

/* The kinds of back ends: word in a specification -> ops; and what a whole one opens. */

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir_backend.h>

#include "transport/seal.h"
#include "transport/tell.h"

#define KINDS_REGISTERED_MAX 16
#define NAME_MAX_CHARS       31

static const struct weir_backend_ops *const built_in[] = {
    &weir_backend_mem,  &weir_backend_file,   &weir_backend_chaos,  &weir_backend_tcp,
    &weir_backend_rdma, &weir_backend_mirror, &weir_backend_spread,
};

#define BUILT_IN_COUNT (sizeof(built_in) / sizeof(built_in[0]))

/* Kept by lock. Kinds are never removed, so that a found one stays valid without it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct weir_backend_ops *registered[KINDS_REGISTERED_MAX];
static size_t registered_count;

static const struct weir_backend_ops *kind_locked(size_t index)
{
    return index < BUILT_IN_COUNT ? built_in[index] : registered[index - BUILT_IN_COUNT];
}

static const struct weir_backend_ops *find_locked(const char *name, size_t length)
{
    for (size_t i = 0; i < BUILT_IN_COUNT + registered_count; i++) {
        const struct weir_backend_ops *ops = kind_locked(i);

        if (strlen(ops->name) == length && memcmp(ops->name, name, length) == 0)
            return ops;
    }
    return NULL;
}

static bool is_name(const char *name)
{
    const size_t length = strlen(name);

    return length > 0 && length <= NAME_MAX_CHARS &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == length;
}

/* All but what is optional. */
static bool is_complete(const struct weir_backend_ops *ops)
{
    return ops->open && ops->close && ops->describe && ops->read && ops->channel_open &&
           ops->channel_close && ops->submit && ops->poll && ops->wait_fd;
}

int weir_backend_register(const struct weir_backend_ops *ops)
{
    int error = WEIR_OK;

    if (!ops || ops->abi < 1 || ops->abi > WEIR_BACKEND_ABI || !ops->name || !is_name(ops->name) ||
        !is_complete(ops))
        return WEIR_EINVAL;
    pthread_mutex_lock(&lock);
    if (registered_count == KINDS_REGISTERED_MAX || find_locked(ops->name, strlen(ops->name)))
        error = WEIR_EBUSY;
    else
        registered[registered_count++] = ops;
    pthread_mutex_unlock(&lock);
    return error;
}

static int refuse(const char *spec, size_t length, const struct weir_backend_env *env)
{
    char names[(BUILT_IN_COUNT + KINDS_REGISTERED_MAX) * (NAME_MAX_CHARS + 2) + 1] = "";
    size_t used = 0;

    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < BUILT_IN_COUNT + registered_count; i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "",
                                 kind_locked(i)->name);
    pthread_mutex_unlock(&lock);
    wr_tell(env, WEIR_FAILURE, WEIR_ENOENT, 0,
            "there is no kind of back end \"%.*s\" (in \"%s\"); there are %s; a path is written "
            "file:/path",
            (int)length, spec, spec, names);
    return WEIR_ENOENT;
}

static int open_kind(const char *spec, const struct weir_backend_env *env,
                     struct weir_backend **backend_p)
{
    const size_t length = strcspn(spec, ":(?");
    const struct weir_backend_ops *ops;

    pthread_mutex_lock(&lock);
    ops = find_locked(spec, length);
    pthread_mutex_unlock(&lock);
    if (!ops)
        return refuse(spec, length, env);
    return ops->open(spec + length + (spec[length] == ':'), env, backend_p);
}

static int open_whole(const char *spec, const struct weir_backend_env *env, bool is_outer,
                      struct weir_backend **backend_p)
{
    enum wr_seal_wish wish;
    struct weir_backend *backend;
    char *rest;
    int error = wr_seal_cut(spec, env, &rest, &wish);

    if (error)
        return error;
    error = open_kind(rest ? rest : spec, env, &backend);
    free(rest);
    if (error)
        return error;
    if (!wr_seal_is_due(wish, is_outer, backend)) {
        *backend_p = backend;
        return WEIR_OK;
    }
    error = wr_seal_open(backend, wish, env, backend_p);
    if (error)
        backend->ops->close(backend);
    return error;
}

int weir_backend_open(const char *spec, const struct weir_backend_env *env,
                      struct weir_backend **backend_p)
{
    return open_whole(spec, env, false, backend_p);
}

int weir_backend_open_outer(const char *spec, const struct weir_backend_env *env,
                            struct weir_backend **backend_p)
{
    return open_whole(spec, env, true, backend_p);
}
