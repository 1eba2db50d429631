/* SPDX-License-Identifier: MIT */
#include "runtime/share.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/text.h"
#include "runtime/host/link.h"
#include "runtime/host/peer.h"
#include "runtime/memory/gate.h"
#include "runtime/paging/fault.h"
#include "runtime/paging/range.h"

#define NS_MILLISECOND 1000000ull
#define HELLO_NS       (5 * 1000 * NS_MILLISECOND) /* who says nothing for so long is sent away */
#define LOOK_MS        1000
#define REST_MS        50

/* What a descriptor that became ready is: in the upper half of its tag, a number in the lower. */
enum kind { KIND_STOP, KIND_LISTENER, KIND_LINK, KIND_LIFE, KIND_TRAP };

struct listener {
    struct weir_object *object; /* NULL: free */
    int fd;
    char name[WR_LINK_PATH_MAX];
};

struct place {
    uint64_t addr, bytes; /* away */
};

struct places {
    struct place *at;
    uint32_t count, room;
};

/* All of it is kshare's alone, but what servers read: trap and link, constant once it is met. */
struct peer {
    struct weir_object *object;
    int link, life, trap, pid;
    bool is_met;
    uint64_t deadline_ns; /* for its hello */
    struct places views, pins;
};

struct wr_share {
    struct weir_runtime *rt;
    struct wr_bell stop;
    int control, touches;                        /* what kshare and the servers wait for */
    struct listener listeners[WR_LISTENERS_MAX]; /* kept by WR_RANK_RUNTIME          */
    struct peer *peers[WR_PEERS_MAX];            /* kshare's                         */
    _Atomic(struct peer *) met[WR_PEERS_MAX];    /* those whose touches are served; in the gate */
    void *threads[1 + WR_SERVERS];
    uint32_t thread_count;

    /* kshare's. */
    uint64_t looked_ns; /* when it last looked for those who say nothing */
    bool rests;         /* nobody can be let in at this moment           */
};

static uint64_t tag_of(enum kind kind, uint32_t number)
{
    return (uint64_t)kind << 32 | number;
}

static uint64_t now(const struct wr_share *share)
{
    return share->rt->host->ops->now_ns(share->rt->host);
}

static void note(const struct wr_share *share, const struct peer *peer, const char *what)
{
    char line[200];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "process ");
    wr_text_number(&text, (uint64_t)peer->pid);
    wr_text_add(&text, what);
    wr_event(&share->rt->space.events, WEIR_NOTE, WEIR_OK, 0, 0, line);
}

/* --- Touches: kserve ------------------------------------------------------------------------- */

static void wait_a_little(const struct wr_share *share, uint64_t ns)
{
    static const uint32_t nothing;
    struct wr_host *host = share->rt->host;

    host->ops->park(host, &nothing, 0, host->ops->now_ns(host) + ns);
}

/* Whatever comes of it, the thread over there is woken, by us or by its own library; and if it was
 * for nothing, it touches again. */
static void serve(struct wr_share *share, const struct peer *peer, const struct wr_touch *touch)
{
    const struct wr_ask refusal = {
        .kind = WR_ASK_REFUSED, .error = WEIR_EIO, .addr = wr_peer_home(touch->addr)};

    switch (wr_fault_on_touch(touch)) {
    case WR_TRAP_RETRY: break;
    case WR_TRAP_FOREIGN: wait_a_little(share, NS_MILLISECOND); break; /* its view is going */
    case WR_TRAP_REFUSED:
        if (wr_link_send(peer->link, &refusal, sizeof(refusal), -1))
            return;
        wait_a_little(share, NS_MILLISECOND);
        break;
    }
    wr_peer_wake(share->rt->host, touch->addr);
}

/* Another thread may take the next touch of the same peer as soon as we have ours. */
static void serve_next(struct wr_share *share, uint32_t number)
{
    struct wr_pass pass = wr_gate_enter();
    const struct peer *peer = atomic_load(&share->met[number]);
    struct wr_touch touch;

    if (peer) {
        enum wr_next next = wr_peer_next(share->rt->host, number, &touch);

        if (next != WR_NEXT_END)
            wr_watch_again(share->touches, peer->trap, tag_of(KIND_TRAP, number));
        if (next == WR_NEXT_TOUCH)
            serve(share, peer, &touch);
    }
    wr_gate_leave(pass);
}

static void kserve(void *context)
{
    struct wr_share *share = context;

    for (uint64_t tag = UINT64_MAX; tag != tag_of(KIND_STOP, 0);)
        if (wr_watch_next(share->touches, &tag, UINT32_MAX) && tag >> 32 == KIND_TRAP)
            serve_next(share, (uint32_t)tag);
}

/* --- Peers: kshare --------------------------------------------------------------------------- */

/* All or none of the pages; they are of one view. */
static int change_pins(const struct place *range, bool pins, enum wr_access access)
{
    struct wr_pass pass = wr_gate_enter();
    struct wr_region *view = wr_region_find(range->addr);
    int error = WEIR_EINVAL;

    if (view && range->bytes <= view->bytes - (range->addr - view->addr)) {
        uint32_t page = wr_region_page(view, range->addr);
        uint32_t count = (uint32_t)(range->bytes / WEIR_PAGE_BYTES);

        error = pins ? wr_range_pin(view, page, count, access) : wr_range_unpin(view, page, count);
    }
    wr_gate_leave(pass);
    return error;
}

static struct place take_out(struct places *list, uint32_t i)
{
    struct place place = list->at[i];

    list->at[i] = list->at[--list->count];
    return place;
}

/* With the pins that were made through it: who made them may not be there any more to undo them. */
static void drop_view(const struct wr_share *share, struct peer *peer, uint32_t i)
{
    struct place view = take_out(&peer->views, i);

    for (uint32_t k = peer->pins.count; k > 0; k--)
        if (peer->pins.at[k - 1].addr - view.addr < view.bytes) {
            struct place pin = take_out(&peer->pins, k - 1);

            (void)change_pins(&pin, false, WR_ACCESS_READ);
        }
    WR_CHECK(wr_runtime_unmap_view(share->rt, view.addr) == WEIR_OK);
}

static void drop_peer(struct wr_share *share, uint32_t number)
{
    struct peer *peer = share->peers[number];

    atomic_store(&share->met[number], NULL);
    wr_watch_remove(share->control, peer->link);
    if (peer->life >= 0) {
        wr_watch_remove(share->control, peer->life);
        close(peer->life);
    }
    if (peer->is_met)
        wr_watch_remove(share->touches, peer->trap);
    while (peer->views.count > 0)
        drop_view(share, peer, peer->views.count - 1);
    wr_gate_wait(share->rt->host); /* a server may have found it */
    if (peer->is_met) {
        wr_peer_close(share->rt->host, number);
        note(share, peer, " is no longer attached to an object");
    }
    wr_link_close(peer->link);
    wr_runtime_leave_object(peer->object);
    share->peers[number] = NULL;
    free(peer->views.at);
    free(peer->pins.at);
    free(peer);
}

static uint32_t free_number(const struct wr_share *share)
{
    uint32_t i = 0;

    while (i < WR_PEERS_MAX && share->peers[i])
        i++;
    return i;
}

/* Somebody has come. Under WR_RANK_RUNTIME: the object is held by him from here on. */
static struct peer *admit(struct wr_share *share, uint32_t number)
{
    struct listener *listener = &share->listeners[number];
    struct peer *peer;
    int link, error;

    if (!listener->object)
        return NULL;
    error = wr_link_accept(listener->fd, &link);
    if (error != WEIR_OK && error != WEIR_EAGAIN)
        share->rests = true;
    if (error != WEIR_OK)
        return NULL;
    peer = calloc(1, sizeof(*peer));
    if (!peer) {
        close(link);
        return NULL;
    }
    *peer = (struct peer){.object = listener->object,
                          .link = link,
                          .life = -1,
                          .trap = -1,
                          .deadline_ns = now(share) + HELLO_NS};
    listener->object->peer_count++;
    return peer;
}

static void refuse(const struct peer *peer, int error)
{
    struct wr_hello hello = wr_link_hello_of(0, error);

    (void)wr_link_send(peer->link, &hello, sizeof(hello), -1);
}

static void meet(struct wr_share *share, uint32_t listener)
{
    uint32_t number = free_number(share);
    struct peer *peer;
    int error;

    wr_lock_take(&share->rt->lock);
    peer = admit(share, listener);
    wr_lock_drop(&share->rt->lock);
    if (!peer && share->rests) {
        /* He still knocks, and there is no descriptor for him: not at once again. */
        share->rests = false;
        wait_a_little(share, NS_MILLISECOND * REST_MS);
    }
    if (!peer)
        return;
    error = number < WR_PEERS_MAX ? wr_link_meet(peer->link, &peer->life, &peer->pid) : WEIR_EBUSY;
    if (error == WEIR_OK &&
        (!wr_watch_add(share->control, peer->link, tag_of(KIND_LINK, number), false) ||
         (peer->life >= 0 &&
          !wr_watch_add(share->control, peer->life, tag_of(KIND_LIFE, number), false))))
        error = WEIR_ENOMEM;
    if (error == WEIR_OK) {
        share->peers[number] = peer;
        return;
    }
    refuse(peer, error);
    wr_watch_remove(share->control, peer->link); /* a fork child may keep it open */
    if (peer->life >= 0)
        close(peer->life);
    wr_link_close(peer->link);
    wr_runtime_leave_object(peer->object);
    free(peer);
}

static int take_trap(struct wr_share *share, uint32_t number, int trap)
{
    struct peer *peer = share->peers[number];
    int error = trap < 0 ? WEIR_EINVAL : wr_peer_open(share->rt->host, number, trap);

    if (error != WEIR_OK) {
        if (trap >= 0)
            close(trap);
        return error;
    }
    peer->trap = trap;
    atomic_store(&share->met[number], peer);
    if (!wr_watch_add(share->touches, trap, tag_of(KIND_TRAP, number), true)) {
        atomic_store(&share->met[number], NULL);
        wr_gate_wait(share->rt->host);
        wr_peer_close(share->rt->host, number);
        return WEIR_ENOMEM;
    }
    peer->is_met = true;
    return WEIR_OK;
}

/* False: it is to be sent away. */
static bool greet(struct wr_share *share, uint32_t number)
{
    struct peer *peer = share->peers[number];
    struct wr_hello hello;
    const char *why = NULL;
    int trap, error;

    switch (wr_link_receive(peer->link, &hello, sizeof(hello), &trap)) {
    case WR_RECEIVED_NOTHING: return true;
    case WR_RECEIVED_END:
        refuse(peer, WEIR_ENOSUPPORT); /* not even a hello */
        return false;
    case WR_RECEIVED: break;
    }
    error = wr_link_judge(&hello, &why);
    if (error == WEIR_OK) {
        error = take_trap(share, number, trap);
    } else if (trap >= 0) {
        close(trap);
    }
    if (error != WEIR_OK) {
        refuse(peer, error);
        if (why)
            wr_event(&share->rt->space.events, WEIR_FAILURE, error, 0, 0, why);
        return false;
    }
    hello = wr_link_hello_of(peer->object->bytes, WEIR_OK);
    note(share, peer, " has attached an object");
    return wr_link_send(peer->link, &hello, sizeof(hello), peer->object->memory);
}

static bool has_room(struct places *list)
{
    uint32_t room = list->room ? 2 * list->room : 16;
    struct place *at;

    if (list->count < list->room)
        return true;
    at = realloc(list->at, room * sizeof(*at));
    if (!at)
        return false;
    list->at = at;
    list->room = room;
    return true;
}

/* The peer says where it has mapped a view. It is believed about its own memory, and only there. */
static int map_view(struct wr_share *share, uint32_t number, const struct wr_ask *ask)
{
    struct weir_runtime *rt = share->rt;
    struct peer *peer = share->peers[number];
    uint64_t limit = 1ull << WR_PEER_SHIFT, addr = wr_peer_addr(number, ask->addr);
    int error;

    if (ask->bytes == 0 || (ask->bytes | ask->offset | ask->addr) % WEIR_PAGE_BYTES != 0 ||
        ask->offset >= peer->object->bytes || ask->bytes > peer->object->bytes - ask->offset ||
        ask->addr == 0 || ask->addr >= limit || ask->bytes > limit - ask->addr)
        return WEIR_EINVAL;
    for (uint32_t i = 0; i < peer->views.count; i++) {
        const struct place *view = &peer->views.at[i];

        if (addr < view->addr + view->bytes && view->addr < addr + ask->bytes)
            return WEIR_EINVAL;
    }
    if (!has_room(&peer->views))
        return WEIR_ENOMEM;
    /* Nothing is mapped there yet, so this changes nothing; but it tells whether all of it traps.
     */
    if (rt->host->ops->protect(rt->host, addr, (uint32_t)(ask->bytes / WEIR_PAGE_BYTES), false) !=
        WR_HOST_OK)
        return WEIR_EINVAL;
    error = wr_runtime_adopt_view(peer->object, ask->offset, ask->bytes, addr);
    if (error == WEIR_OK)
        peer->views.at[peer->views.count++] = (struct place){addr, ask->bytes};
    return error;
}

static int unmap_view(struct wr_share *share, uint32_t number, uint64_t addr)
{
    struct peer *peer = share->peers[number];

    for (uint32_t i = 0; i < peer->views.count; i++)
        if (peer->views.at[i].addr == wr_peer_addr(number, addr)) {
            drop_view(share, peer, i);
            return WEIR_OK;
        }
    return WEIR_ENOENT;
}

static bool is_range(const struct wr_ask *ask)
{
    return ask->addr < 1ull << WR_PEER_SHIFT && ask->bytes > 0 &&
           ask->bytes <= WR_ASK_PIN_PAGES * WEIR_PAGE_BYTES &&
           (ask->addr | ask->bytes) % WEIR_PAGE_BYTES == 0;
}

static int pin(struct places *pins, uint32_t number, const struct wr_ask *ask)
{
    const struct place range = {wr_peer_addr(number, ask->addr), ask->bytes};
    int error;

    if (!is_range(ask))
        return WEIR_EINVAL;
    if (pins->count == WR_PEER_PINS)
        return WEIR_EBUSY;
    if (!has_room(pins))
        return WEIR_ENOMEM;
    error = change_pins(&range, true, ask->offset & 1 ? WR_ACCESS_WRITE : WR_ACCESS_READ);
    if (error == WEIR_OK)
        pins->at[pins->count++] = range;
    return error;
}

/* Only what it has pinned itself. */
static int unpin(struct places *pins, uint32_t number, const struct wr_ask *ask)
{
    struct place range;

    for (uint32_t i = pins->count; is_range(ask) && i > 0; i--)
        if (pins->at[i - 1].addr == wr_peer_addr(number, ask->addr) &&
            pins->at[i - 1].bytes == ask->bytes) {
            range = take_out(pins, i - 1);
            return change_pins(&range, false, WR_ACCESS_READ);
        }
    return WEIR_EINVAL;
}

/* False: it has gone, or is to be sent away. */
static bool answer(struct wr_share *share, uint32_t number)
{
    struct peer *peer = share->peers[number];
    struct wr_ask ask;

    switch (wr_link_receive(peer->link, &ask, sizeof(ask), NULL)) {
    case WR_RECEIVED_NOTHING: return true;
    case WR_RECEIVED_END: return false;
    case WR_RECEIVED: break;
    }
    if (ask.kind == WR_ASK_MAP) {
        ask.error = map_view(share, number, &ask);
        ask.kind = WR_ASK_MAPPED;
    } else if (ask.kind == WR_ASK_UNMAP && ask.addr < 1ull << WR_PEER_SHIFT) {
        ask.error = unmap_view(share, number, ask.addr);
        ask.kind = WR_ASK_UNMAPPED;
    } else if (ask.kind == WR_ASK_PIN) {
        ask.error = pin(&peer->pins, number, &ask);
        ask.kind = WR_ASK_PINNED;
    } else if (ask.kind == WR_ASK_UNPIN) {
        ask.error = unpin(&peer->pins, number, &ask);
        ask.kind = WR_ASK_UNPINNED;
    } else {
        return false;
    }
    return wr_link_send(peer->link, &ask, sizeof(ask), -1);
}

static void hear(struct wr_share *share, uint32_t number)
{
    if (share->peers[number] &&
        !(share->peers[number]->is_met ? answer(share, number) : greet(share, number)))
        drop_peer(share, number);
}

/* Others may talk all the time. */
static void drop_silent(struct wr_share *share)
{
    if (now(share) - share->looked_ns < LOOK_MS * NS_MILLISECOND)
        return;
    share->looked_ns = now(share);
    for (uint32_t i = 0; i < WR_PEERS_MAX; i++)
        if (share->peers[i] && !share->peers[i]->is_met &&
            now(share) > share->peers[i]->deadline_ns)
            drop_peer(share, i);
}

static void kshare(void *context)
{
    struct wr_share *share = context;
    uint64_t tag;

    for (;;) {
        drop_silent(share);
        if (!wr_watch_next(share->control, &tag, LOOK_MS))
            continue;
        switch ((enum kind)(tag >> 32)) {
        case KIND_STOP: return;
        case KIND_LISTENER: meet(share, (uint32_t)tag); break;
        case KIND_LINK: hear(share, (uint32_t)tag); break;
        case KIND_LIFE:
            if (share->peers[(uint32_t)tag])
                drop_peer(share, (uint32_t)tag);
            break;
        case KIND_TRAP: break;
        }
    }
}

/* --- Opening and closing --------------------------------------------------------------------- */

static void stop(struct wr_share *share)
{
    struct wr_host *host = share->rt->host;

    host->ops->bell_ring(host, &share->stop);
    /* kshare first: peers are its own until then. Who waits for a server over there is woken by his
     * own library when the link is closed. */
    if (share->thread_count > 0)
        host->ops->thread_stop(host, share->threads[0]);
    for (uint32_t i = 0; i < WR_PEERS_MAX; i++)
        if (share->peers[i])
            drop_peer(share, i);
    for (uint32_t i = 1; i < share->thread_count; i++)
        host->ops->thread_stop(host, share->threads[i]);
    host->ops->bell_fini(host, &share->stop);
    if (share->control >= 0)
        close(share->control);
    if (share->touches >= 0)
        close(share->touches);
    free(share);
}

/* Under WR_RANK_RUNTIME. */
static int start(struct weir_runtime *rt)
{
    struct wr_share *share = calloc(1, sizeof(*share));
    int error = WEIR_ENOMEM;

    if (!share)
        return WEIR_ENOMEM;
    share->rt = rt;
    share->control = wr_watch_open();
    share->touches = wr_watch_open();
    share->stop.fd = -1;
    if (share->control >= 0 && share->touches >= 0)
        error = rt->host->ops->bell_init(rt->host, &share->stop);
    if (error == WEIR_OK &&
        (!wr_watch_add(share->control, share->stop.fd, tag_of(KIND_STOP, 0), false) ||
         !wr_watch_add(share->touches, share->stop.fd, tag_of(KIND_STOP, 0), false)))
        error = WEIR_ENOMEM;
    while (error == WEIR_OK && share->thread_count < 1 + WR_SERVERS) {
        bool is_first = share->thread_count == 0;

        error = rt->host->ops->thread_start(rt->host, is_first ? "weir-kshare" : "weir-kserve",
                                            is_first ? kshare : kserve, share,
                                            &share->threads[share->thread_count]);
        share->thread_count += error == WEIR_OK;
    }
    if (error != WEIR_OK) {
        stop(share);
        return error;
    }
    rt->share = share;
    return WEIR_OK;
}

/* Under WR_RANK_RUNTIME. */
static int listen_for(struct wr_share *share, struct weir_object *object, const char *name)
{
    struct listener *place = NULL;
    int error;

    for (uint32_t i = 0; i < WR_LISTENERS_MAX; i++) {
        if (share->listeners[i].object == object)
            return WEIR_EBUSY;
        if (!share->listeners[i].object && !place)
            place = &share->listeners[i];
    }
    if (!place)
        return WEIR_EBUSY;
    error = wr_link_listen(name, &place->fd);
    if (error != WEIR_OK)
        return error;
    snprintf(place->name, sizeof(place->name), "%s", name);
    place->object = object;
    if (!wr_watch_add(share->control, place->fd,
                      tag_of(KIND_LISTENER, (uint32_t)(place - share->listeners)), false)) {
        place->object = NULL;
        wr_link_unlisten(place->fd, place->name);
        return WEIR_ENOMEM;
    }
    return WEIR_OK;
}

int wr_share_show(struct weir_object *object, const char *name)
{
    struct weir_runtime *rt = wr_runtime_of(object->space);
    int error = WEIR_OK;

    if (!wr_peer_is_possible(rt->host)) {
        wr_event(&rt->space.events, WEIR_FAILURE, WEIR_ENOSUPPORT, 0, 0,
                 "this kernel cannot trap stores to shared memory: to share an object between "
                 "processes needs Linux 6.4 or later");
        return WEIR_ENOSUPPORT;
    }
    wr_lock_take(&rt->lock);
    if (!rt->share)
        error = start(rt);
    if (error == WEIR_OK)
        error = listen_for(rt->share, object, name);
    wr_lock_drop(&rt->lock);
    if (error != WEIR_OK)
        wr_event(&rt->space.events, WEIR_FAILURE, error, 0, 0,
                 error == WEIR_EBUSY
                     ? "the object cannot be shared: the name is in use, the object has one "
                       "already, or 64 objects are shared"
                     : "the object cannot be shared by this name: look at the directory, its "
                       "permissions, and ulimit -n");
    return error;
}

int wr_share_hide(struct weir_runtime *rt, const struct weir_object *object)
{
    int error = WEIR_ENOENT;

    wr_lock_take(&rt->lock);
    for (uint32_t i = 0; rt->share && i < WR_LISTENERS_MAX; i++) {
        struct listener *listener = &rt->share->listeners[i];

        if (listener->object != object)
            continue;
        listener->object = NULL;
        wr_watch_remove(rt->share->control, listener->fd);
        wr_link_unlisten(listener->fd, listener->name);
        error = WEIR_OK;
    }
    wr_lock_drop(&rt->lock);
    return error;
}

void wr_share_close(struct weir_runtime *rt)
{
    if (!rt->share)
        return;
    for (uint32_t i = 0; i < WR_LISTENERS_MAX; i++)
        if (rt->share->listeners[i].object)
            (void)wr_share_hide(rt, rt->share->listeners[i].object);
    stop(rt->share);
    rt->share = NULL;
}
