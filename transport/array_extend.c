/* SPDX-License-Identifier: MIT */

/*
 * Extend: another member for an array that is open. It begins as one that was not there when the
 * array was opened: the keeper takes it in, and the builder moves to it what lies better there.
 */

#include <stdlib.h>
#include <string.h>

#include <weir/weir.h>

#include "transport/array.h"
#include "transport/array_keep.h"
#include "transport/ring.h"
#include "transport/tell.h"

uint32_t wr_array_flags_with(uint32_t flags, uint32_t member)
{
    const uint32_t any = WEIR_BACKEND_REMOTE | WEIR_BACKEND_SEALED;

    return ((flags & member) & ~any) | ((flags | member) & any);
}

static int refuse(const struct wr_array *array, const char *name, int error, const char *why)
{
    wr_tell(array->env, WEIR_FAILURE, error, 0, "%s: %s cannot be added: %s", array->kind->name,
            name, why);
    return error;
}

/* What was decided when the array was opened holds for whoever comes later. */
static int judge(const struct wr_array *array, const struct wr_array_member *member,
                 struct weir_backend *backend, uint32_t may)
{
    struct weir_backend_info info;
    uint32_t more;

    backend->ops->describe(backend, &info);
    more = info.flags & ~(array->flags | may);
    if (wr_array_places(array, backend) == 0)
        return refuse(array, member->name, WEIR_EINVAL,
                      "it is too small: it has no place for a piece");
    if (more & WEIR_BACKEND_REMOTE)
        return refuse(array, member->name, WEIR_EDENIED,
                      "pages would leave this machine, and the array was opened without a seal, "
                      "since nobody in it is remote; open it with seal=on");
    if (more & WEIR_BACKEND_SEALED)
        return refuse(array, member->name, WEIR_EINVAL,
                      "it is sealed, and no member was when the array was opened");
    return WEIR_OK;
}

static int open_member(struct wr_array *array, uint32_t number, uint32_t may)
{
    struct wr_array_member *member = &array->member[number];
    struct weir_backend *backend = NULL;
    int error = wr_array_member_open(member, array->map.member[number].life + 1, false, &backend);

    if (error)
        return error;
    error = judge(array, member, backend, may);
    if (!error) {
        member->probe_page = aligned_alloc(WEIR_SLOT_BYTES, WEIR_SLOT_BYTES);
        if (!member->probe_page)
            error = refuse(array, member->name, WEIR_ENOMEM, "out of memory");
    }
    if (error) {
        backend->ops->close(backend);
        return error;
    }
    member->fresh = backend;
    member->fresh_ns = wr_array_now_ns();
    return WEIR_OK;
}

/* One that was taken off, or one more. */
static uint32_t find_vacant(const struct wr_array *array)
{
    uint32_t number = 0;

    while (number < array->members && !wr_array_is_vacant(array, number))
        number++;
    return number;
}

/* The keeper's from now on. */
static void count_in(struct wr_array *array, uint32_t number)
{
    const struct wr_array_member *member = &array->member[number];
    const uint32_t places = wr_array_places(array, member->fresh);

    pthread_mutex_lock(&array->lock);
    if (number == array->members)
        wr_map_member_add(&array->map, member->spec, places);
    else
        wr_map_member_replace(&array->map, number, member->spec, places);
    pthread_mutex_unlock(&array->lock);
    if (number == array->members)
        atomic_store(&array->members, number + 1);
    atomic_fetch_and(&array->retiring, ~(1u << number));
    atomic_fetch_and(&array->vacant, ~(1u << number));
    wr_ring(array->bell);
}

int wr_array_extend(struct weir_backend *base, const char *spec, uint32_t may)
{
    struct wr_array *array = (struct wr_array *)base;
    const uint32_t number = find_vacant(array);
    struct wr_array_member *member = &array->member[number];
    int error;

    if (number == WR_MAP_MEMBERS)
        return refuse(array, spec, WEIR_EBUSY, "there are 16 members");
    if (number < array->members) {
        free(member->spec);
        free(member->probe_page);
    }
    pthread_mutex_lock(&array->lock); /* the builder looks there */
    *member = (struct wr_array_member){.array = NULL};
    pthread_mutex_unlock(&array->lock);
    error = wr_array_member_init(array, member, spec, strlen(spec));
    if (!error)
        error = open_member(array, number, may);
    if (error) {
        free(member->spec);
        member->spec = NULL;
        return error;
    }
    count_in(array, number);
    return WEIR_OK;
}
