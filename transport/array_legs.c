/* SPDX-License-Identifier: MIT */

/* Legs: channels to the members, which are replaced when a member begins another life. */

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "transport/array.h"
#include "transport/array_coded.h"

static void leg_close(const struct wr_array_legs *legs, struct wr_array_leg *leg)
{
    if (!leg->channel)
        return;
    if (leg->fd >= 0)
        epoll_ctl(legs->poll_fd, EPOLL_CTL_DEL, leg->fd, NULL);
    leg->channel->backend->ops->channel_close(leg->channel);
    leg->channel = NULL;
}

/* To the member's life of this number, as far as that has a channel to give. */
static struct wr_array_leg leg_open(const struct wr_array_legs *legs, uint32_t member,
                                    uint32_t life)
{
    struct wr_array_leg leg = {.fd = -1};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = member};
    struct weir_backend *backend;

    if (life == 0)
        return leg; /* perhaps there is no such member, or it is just being made */
    backend = atomic_load(&legs->array->member[member].lives[life & 1]);
    if (backend->ops->channel_open(backend, legs->depth, &leg.channel) != WEIR_OK) {
        leg.channel = NULL;
        atomic_store(&legs->array->wants_legs, true);
        return leg;
    }
    leg.life = life;
    leg.fd = backend->ops->wait_fd(leg.channel);
    if (leg.fd >= 0 && epoll_ctl(legs->poll_fd, EPOLL_CTL_ADD, leg.fd, &event) != 0) {
        leg.fd = -1;
        leg_close(legs, &leg);
        leg.life = 0;
        atomic_store(&legs->array->wants_legs, true);
    }
    return leg;
}

static void leg_set(struct wr_array_leg *leg, const struct wr_array_leg *to)
{
    *leg = *to;
    leg->outbox_end = &leg->outbox;
}

/* Only the keeper changes it. 0: no leg is to lead there. */
static uint32_t life_of(struct wr_array *array, uint32_t member)
{
    uint32_t life;

    pthread_mutex_lock(&array->lock);
    life = array->map.member[member].is_closed ? 0 : array->map.member[member].life;
    pthread_mutex_unlock(&array->lock);
    return life;
}

int wr_array_legs_open(struct wr_array *array, uint32_t depth, struct wr_array_legs *legs)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = WR_MAP_NOBODY};

    *legs = (struct wr_array_legs){.array = array, .depth = depth};
    legs->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    legs->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (legs->poll_fd < 0 || legs->bell < 0 ||
        epoll_ctl(legs->poll_fd, EPOLL_CTL_ADD, legs->bell, &event) != 0) {
        close(legs->poll_fd);
        close(legs->bell);
        return WEIR_ENOMEM;
    }
    pthread_mutex_init(&legs->lock, NULL);
    /* A member whose life changes meanwhile waits for the list. */
    pthread_mutex_lock(&array->legs_lock);
    for (uint32_t i = 0; i < WR_MAP_MEMBERS; i++) {
        const struct wr_array_leg leg = leg_open(legs, i, life_of(array, i)); /* 0: none there */

        leg_set(&legs->leg[i], &leg);
    }
    pthread_mutex_lock(&array->lock);
    legs->next = array->legs;
    legs->self = &array->legs;
    if (legs->next)
        legs->next->self = &legs->next;
    array->legs = legs;
    pthread_mutex_unlock(&array->lock);
    pthread_mutex_unlock(&array->legs_lock);
    return WEIR_OK;
}

void wr_array_legs_close(struct wr_array_legs *legs)
{
    struct wr_array *array = legs->array;

    pthread_mutex_lock(&array->legs_lock);
    pthread_mutex_lock(&array->lock);
    *legs->self = legs->next;
    if (legs->next)
        legs->next->self = legs->self;
    pthread_mutex_unlock(&array->lock);
    for (uint32_t i = 0; i < array->members; i++)
        leg_close(legs, &legs->leg[i]);
    pthread_mutex_unlock(&array->legs_lock);
    close(legs->poll_fd);
    close(legs->bell);
    pthread_mutex_destroy(&legs->lock);
}

/* What the member does about its channels may take long. Nobody who uses the legs waits for that:
 * he finds this one gone meanwhile. */
static void renew_leg(struct wr_array_legs *legs, uint32_t member, uint32_t life)
{
    struct wr_array_leg *leg = &legs->leg[member], old = *leg, new;

    leg->channel = NULL;
    pthread_mutex_unlock(&legs->lock);
    leg_close(legs, &old);
    new = leg_open(legs, member, life);
    pthread_mutex_lock(&legs->lock);
    leg_set(leg, &new);
}

bool wr_array_legs_renew(struct wr_array *array, uint32_t member)
{
    const uint32_t life = life_of(array, member);
    bool is_all = true;

    pthread_mutex_lock(&array->legs_lock);
    for (struct wr_array_legs *legs = array->legs; legs; legs = legs->next) {
        struct wr_array_leg *leg = &legs->leg[member];

        pthread_mutex_lock(&legs->lock);
        if ((leg->life != life || !leg->channel) && leg->flying == 0)
            renew_leg(legs, member, life);
        is_all &= leg->life == life && (life == 0 || leg->channel);
        pthread_mutex_unlock(&legs->lock);
    }
    pthread_mutex_unlock(&array->legs_lock);
    return is_all;
}

void wr_array_ring_waiting(struct wr_array *array)
{
    for (struct wr_array_legs *legs = array->legs; legs; legs = legs->next)
        if (legs->is_waiting)
            eventfd_write(legs->bell, 1);
    wr_array_patch_wake(array);
}

/* --- Tasks -----------------------------------------------------------------------------------
 */

static void task_done(struct weir_io *io)
{
    struct wr_array_leg *leg = io->owner;

    leg->flying--;
    io->owner = NULL;
}

/* Under the legs' lock. */
static void send_task(struct wr_array_legs *legs, struct wr_array_task *task)
{
    struct wr_array_leg *leg = &legs->leg[task->member];
    struct weir_io *io = &task->io;

    io->done = task_done;
    io->owner = leg;
    if (leg->channel && leg->life == task->life) {
        leg->flying++;
        if (leg->channel->backend->ops->submit(leg->channel, &io, 1) == 1)
            return;
        leg->flying--;
    }
    io->owner = NULL;
    io->error = WEIR_EIO;
    io->os_error = ENOTCONN;
}

/* Those that have an answer, or something else to say. */
static void poll_legs(struct wr_array_legs *legs, bool is_mute)
{
    struct epoll_event events[WR_MAP_MEMBERS + 1];
    int count = epoll_wait(legs->poll_fd, events, WR_MAP_MEMBERS + 1, is_mute ? 0 : 100);
    uint32_t loud = 0;

    for (int i = 0; i < count; i++)
        if (events[i].data.u32 != WR_MAP_NOBODY)
            loud |= 1u << events[i].data.u32;
    pthread_mutex_lock(&legs->lock);
    for (uint32_t i = 0; i < legs->array->members; i++) {
        struct wr_array_leg *leg = &legs->leg[i];

        if (leg->channel && (leg->flying > 0 || loud >> i & 1))
            (void)leg->channel->backend->ops->poll(leg->channel, UINT32_MAX);
    }
    pthread_mutex_unlock(&legs->lock);
}

void wr_array_run(struct wr_array_legs *legs, struct wr_array_task *tasks, uint32_t count)
{
    bool is_flying, is_mute;

    pthread_mutex_lock(&legs->lock);
    for (uint32_t i = 0; i < count; i++)
        send_task(legs, &tasks[i]);
    pthread_mutex_unlock(&legs->lock);
    do {
        is_flying = is_mute = false;
        for (uint32_t i = 0; i < count; i++)
            if (tasks[i].io.owner) {
                is_flying = true;
                is_mute |= legs->leg[tasks[i].member].fd < 0;
            }
        if (is_flying)
            poll_legs(legs, is_mute);
    } while (is_flying);
}

void wr_array_ring_all(struct wr_array *array)
{
    for (struct wr_array_legs *legs = array->legs; legs; legs = legs->next)
        eventfd_write(legs->bell, 1);
}
