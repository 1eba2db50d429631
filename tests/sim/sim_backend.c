/* SPDX-License-Identifier: MIT */

/*
 * A back end of memory that takes its time, finishes in any order and fails as the profile says;
 * and that minds the law of weir_backend.h: no two requests for one slot when one is a write.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/sim/sim.h"

#define CHANNELS_MAX 64u
#define GARBAGE      0xdeadbeefcafef00du
#define DAMAGED      77u /* the word of a page that damage changes */

struct slot_use {
    uint16_t readers, writers;
};

struct backend {
    struct weir_backend base; /* first */
    uint64_t slots;
    uint8_t *bytes;
    struct slot_use *use;
    uint32_t channels; /* open */
    uint32_t readers;  /* inside read() */
};

struct channel {
    struct weir_channel base; /* first */
    uint32_t number;
    uint32_t depth, count;
    struct {
        struct weir_io *io;
        uint64_t due_ns;
    } * pending;
};

static struct channel *channels[CHANNELS_MAX];
static uint32_t open_count;

static struct backend *backend_of(struct weir_backend *base)
{
    return (struct backend *)(void *)base;
}

static struct channel *channel_of(struct weir_channel *base)
{
    return (struct channel *)(void *)base;
}

static uint8_t *bytes_at(const struct backend *b, uint64_t slot)
{
    return b->bytes + slot * SIM_PAGE;
}

static uint64_t delay_ns(void)
{
    const struct sim_profile *p = &sim.profile;

    return p->io_ns_least + sim_below(p->io_ns_most - p->io_ns_least + 1);
}

/* --- The law --------------------------------------------------------------------------------- */

static void begin_use(struct backend *b, uint64_t slot, uint32_t pages, bool is_write)
{
    if (slot >= b->slots || pages == 0 || pages > b->slots - slot)
        sim_fail("a request for slots %llu + %u of %llu", (unsigned long long)slot, pages,
                 (unsigned long long)b->slots);
    sim_machine_take();
    for (uint32_t i = 0; i < pages; i++) {
        struct slot_use *use = &b->use[slot + i];

        if (use->writers || (is_write && use->readers))
            sim_fail("two requests for slot %llu, one a write", (unsigned long long)slot + i);
        use->writers += is_write;
        use->readers += !is_write;
    }
    sim_machine_drop();
}

static void end_use(struct backend *b, uint64_t slot, uint32_t pages, bool is_write)
{
    sim_machine_take();
    for (uint32_t i = 0; i < pages; i++) {
        b->use[slot + i].writers -= is_write;
        b->use[slot + i].readers -= !is_write;
    }
    sim_machine_drop();
}

/* --- Bytes ----------------------------------------------------------------------------------- */

static void damage_page(uint8_t *bytes)
{
    ((uint64_t *)(void *)bytes)[DAMAGED] ^= 1;
}

static void read_slots(const struct backend *b, uint64_t slot, uint32_t pages, uint8_t *to)
{
    for (uint32_t i = 0; i < pages; i++) {
        sim_copy_page(to + i * SIM_PAGE, bytes_at(b, slot + i));
        if (sim_inject(sim.profile.damage))
            damage_page(to + i * SIM_PAGE);
    }
}

static void write_slot(const struct backend *b, uint64_t slot, const uint8_t *from)
{
    if (sim_frame_is_empty(from))
        sim_fail("an empty staging frame is written to slot %llu", (unsigned long long)slot);
    sim_copy_page(bytes_at(b, slot), from);
    if (sim_inject(sim.profile.damage))
        damage_page(bytes_at(b, slot));
}

static void carry_out(const struct backend *b, const struct weir_io *io)
{
    uint64_t slot = io->slot;

    for (uint32_t i = 0; i < io->iov_count; i++) {
        uint8_t *at = io->iov[i].iov_base;
        uint32_t pages = (uint32_t)(io->iov[i].iov_len / SIM_PAGE);

        if (!io->is_write)
            read_slots(b, slot, pages, at);
        for (uint32_t k = 0; io->is_write && k < pages; k++)
            write_slot(b, slot + k, at + k * SIM_PAGE);
        slot += pages;
    }
    if (slot != io->slot + io->pages)
        sim_fail("a request whose memory is not as long as its slots");
}

/* --- The operations -------------------------------------------------------------------------- */

static int fake_open(const char *spec, const struct weir_backend_env *env,
                     struct weir_backend **backend_p)
{
    struct backend *b = calloc(1, sizeof(*b));

    (void)env;
    if (!b)
        return WEIR_ENOMEM;
    b->base.ops = &sim_backend_ops;
    b->slots = strtoull(spec, NULL, 10);
    b->bytes = mmap(NULL, b->slots * SIM_PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    b->use = calloc(b->slots, sizeof(*b->use));
    if (b->bytes == MAP_FAILED || !b->use)
        sim_fail("no real memory for a back end");
    __atomic_fetch_add(&open_count, 1, __ATOMIC_RELAXED);
    *backend_p = &b->base;
    return WEIR_OK;
}

static void fake_close(struct weir_backend *base)
{
    struct backend *b = backend_of(base);

    sim_event("backend close", b->slots, 0);
    if (b->channels || b->readers)
        sim_fail("a back end is closed while it is in use");
    for (uint64_t i = 0; i < b->slots; i++)
        if (b->use[i].readers || b->use[i].writers)
            sim_fail("a back end is closed with a request in flight");
    munmap(b->bytes, b->slots * SIM_PAGE);
    free(b->use);
    free(b);
    __atomic_fetch_sub(&open_count, 1, __ATOMIC_RELAXED);
}

static void fake_describe(struct weir_backend *base, struct weir_backend_info *info_p)
{
    *info_p = (struct weir_backend_info){
        .slots = backend_of(base)->slots, .cluster_slots = WEIR_CLUSTER_SLOTS, .how = "simulated"};
}

static int fake_read(struct weir_backend *base, uint64_t slot, uint32_t pages, void *bytes)
{
    struct backend *b = backend_of(base);
    int error = WEIR_OK;

    sim_event("read", slot, pages);
    __atomic_fetch_add(&b->readers, 1, __ATOMIC_RELAXED);
    begin_use(b, slot, pages, false);
    sim_sleep(delay_ns());
    if (sim_inject(sim.profile.fail_read))
        error = WEIR_EIO;
    else
        read_slots(b, slot, pages, bytes);
    end_use(b, slot, pages, false);
    __atomic_fetch_sub(&b->readers, 1, __ATOMIC_RELAXED);
    sim_event("read done", slot, (uint64_t)-error);
    return error;
}

static int fake_channel_open(struct weir_backend *base, uint32_t depth,
                             struct weir_channel **channel_p)
{
    struct channel *c = calloc(1, sizeof(*c));
    uint32_t i = 0;

    sim_point();
    if (c)
        c->pending = calloc(depth, sizeof(*c->pending));
    if (!c || !c->pending)
        sim_fail("no real memory for a channel");
    c->base.backend = base;
    c->depth = depth;
    sim_machine_take();
    while (i < CHANNELS_MAX && channels[i])
        i++;
    if (i == CHANNELS_MAX)
        sim_fail("too many channels");
    channels[i] = c;
    c->number = i;
    backend_of(base)->channels++;
    sim_machine_drop();
    *channel_p = &c->base;
    return WEIR_OK;
}

static void fake_channel_close(struct weir_channel *base)
{
    struct channel *c = channel_of(base);

    if (c->count)
        sim_fail("a channel is closed with %u requests in flight", c->count);
    sim_machine_take();
    channels[c->number] = NULL;
    backend_of(base->backend)->channels--;
    sim_machine_drop();
    free(c->pending);
    free(c);
}

static uint32_t fake_submit(struct weir_channel *base, struct weir_io *const *ios, uint32_t count)
{
    struct channel *c = channel_of(base);

    for (uint32_t i = 0; i < count; i++) {
        sim_point();
        if (c->count == c->depth || sim_inject(sim.profile.refuse_submit))
            return i;
        sim_event(ios[i]->is_write ? "submit write" : "submit fetch", ios[i]->slot, ios[i]->pages);
        begin_use(backend_of(base->backend), ios[i]->slot, ios[i]->pages, ios[i]->is_write);
        c->pending[c->count].io = ios[i];
        c->pending[c->count++].due_ns = sim_now_ns() + delay_ns();
    }
    return count;
}

static void finish(struct backend *b, struct weir_io *io)
{
    io->error = WEIR_OK;
    io->os_error = 0;
    if (sim_inject(io->is_write ? sim.profile.fail_write : sim.profile.fail_read)) {
        io->error = io->is_write && sim_one_in(4) ? WEIR_EFULL : WEIR_EIO;
        for (uint32_t i = 0; io->is_write && i < io->pages; i++)
            sim_fill_page(bytes_at(b, io->slot + i), GARBAGE);
    } else {
        carry_out(b, io);
    }
    end_use(b, io->slot, io->pages, io->is_write);
    sim_event(io->is_write ? "write done" : "fetch done", io->slot, (uint64_t)-io->error);
    io->done(io);
}

/* One that is due, by chance; or UINT32_MAX. */
static uint32_t some_due(const struct channel *c)
{
    uint32_t from = (uint32_t)sim_below(c->count);
    uint64_t now = sim_now_ns();

    for (uint32_t i = 0; i < c->count; i++) {
        uint32_t at = (from + i) % c->count;

        if (sim.profile.is_quiet_fd || c->pending[at].due_ns <= now)
            return at;
    }
    return UINT32_MAX;
}

static uint32_t fake_poll(struct weir_channel *base, uint32_t max)
{
    struct channel *c = channel_of(base);
    uint32_t done = 0;

    sim_point();
    while (done < max && c->count > 0) {
        uint32_t at = some_due(c);
        struct weir_io *io;

        if (at == UINT32_MAX)
            break;
        io = c->pending[at].io;
        c->pending[at] = c->pending[--c->count];
        finish(backend_of(base->backend), io);
        sim_point();
        done++;
    }
    return done;
}

static int fake_wait_fd(struct weir_channel *base)
{
    return sim.profile.is_quiet_fd ? -1 : SIM_FD_FIRST + (int)channel_of(base)->number;
}

static int fake_discard(struct weir_backend *base, uint64_t slot, uint64_t count)
{
    begin_use(backend_of(base), slot, (uint32_t)count, true);
    for (uint64_t i = 0; i < count; i++)
        sim_fill_page(bytes_at(backend_of(base), slot + i), GARBAGE);
    end_use(backend_of(base), slot, (uint32_t)count, true);
    return WEIR_OK;
}

uint64_t sim_fd_due_ns(int fd)
{
    uint64_t due = WR_FOREVER;
    const struct channel *c;

    if (fd < SIM_FD_FIRST || fd >= SIM_FD_FIRST + (int)CHANNELS_MAX)
        sim_fail("a wait for descriptor %d, which is none of ours", fd);
    c = channels[fd - SIM_FD_FIRST];
    for (uint32_t i = 0; c && i < c->count; i++)
        if (c->pending[i].due_ns < due)
            due = c->pending[i].due_ns;
    return due;
}

void sim_backend_check_closed(void)
{
    if (open_count)
        sim_fail("%u back ends are left after close", open_count);
}

const struct weir_backend_ops sim_backend_ops = {
    .abi = WEIR_BACKEND_ABI,
    .name = "sim",
    .open = fake_open,
    .close = fake_close,
    .describe = fake_describe,
    .read = fake_read,
    .channel_open = fake_channel_open,
    .channel_close = fake_channel_close,
    .submit = fake_submit,
    .poll = fake_poll,
    .wait_fd = fake_wait_fd,
    .discard = fake_discard,
};
