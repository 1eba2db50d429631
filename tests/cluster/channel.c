/* SPDX-License-Identifier: MIT */

/* The client's thread with a channel: batches of reads and writes, and discards. */

#include <poll.h>

#include "tests/cluster/world.h"

struct asked {
    struct weir_io io; /* first */
    struct client *client;
    struct iovec iov[3];
    bool is_done;
};

static void done(struct weir_io *io)
{
    struct asked *asked = (struct asked *)io;
    struct client *client = asked->client;

    if (asked->is_done)
        loop_fail("a request was done twice");
    asked->is_done = true;
    loop_note(io->is_write ? "written" : "brought", io->slot << 16 | io->pages,
              (uint64_t)-io->error);
    if (io->error && io->error != WEIR_EIO && io->error != WEIR_ENOENT &&
        !(io->error == WEIR_EAGAIN && io->is_write && client->puts_off))
        loop_fail("a request failed with %d", io->error);
    if (io->is_write) {
        slots_wrote(&client->slots, io->slot, io->pages, io->error == WEIR_OK);
        met.writes += io->error == WEIR_OK;
        met.failed_writes += io->error != WEIR_OK;
        met.put_off += io->error == WEIR_EAGAIN;
    } else {
        met.reads += io->error == WEIR_OK;
        met.failed_reads += io->error != WEIR_OK;
        if (!io->error)
            slots_check(&client->slots, io->slot, io->pages, io->iov[0].iov_base);
    }
    slots_give(&client->slots, io->slot, io->pages, io->is_write);
}

/* What was discarded is often soon written again. */
static uint32_t choose(struct client *client, bool is_write, uint64_t *slot_p)
{
    const uint32_t discarded = client->discarded;

    if (!discarded || !is_write)
        return slots_take(&client->slots, is_write, RUN_MOST, slot_p);
    client->discarded = 0;
    *slot_p = client->discarded_slot;
    return slots_take_at(&client->slots, true, *slot_p, discarded);
}

/* Its memory is one piece, named in up to three. */
static bool ask(struct client *client, struct asked *asked, uint32_t which)
{
    char *bytes = client->bytes + (size_t)which * RUN_MOST * WEIR_SLOT_BYTES;
    const bool is_write = !loop_chance(3);
    uint32_t left, pieces = 0;
    uint64_t slot;

    left = choose(client, is_write, &slot);
    if (!left)
        return false;
    *asked = (struct asked){
        .client = client,
        .io = {.slot = slot, .pages = left, .is_write = is_write, .iov = asked->iov, .done = done}};
    if (is_write)
        slots_fill(&client->slots, slot, left, bytes);
    while (left) {
        const uint32_t part = pieces == 2 ? left : 1 + (uint32_t)loop_draw(left);

        asked->iov[pieces++] = (struct iovec){bytes, (size_t)part * WEIR_SLOT_BYTES};
        bytes += (size_t)part * WEIR_SLOT_BYTES;
        left -= part;
    }
    asked->io.iov_count = pieces;
    return true;
}

/* As the runtime waits: for the descriptor, without an end. */
static void wait_for(struct weir_channel *channel)
{
    const struct weir_backend_ops *ops = channel->backend->ops;
    struct pollfd fd = {.fd = ops->wait_fd(channel), .events = POLLIN};

    (void)poll(&fd, 1, -1);
    (void)ops->poll(channel, 1 + (uint32_t)loop_draw(BATCH_MOST));
}

static void batch(struct client *client, struct weir_channel *channel)
{
    const uint64_t patience_ns = (client->patience + 2 * client->timeout) * LOOP_SECOND;
    struct asked asked[BATCH_MOST];
    struct weir_io *ios[BATCH_MOST];
    uint32_t count = 0, sent = 0;

    for (uint64_t i = 1 + loop_draw(BATCH_MOST); i > 0; i--)
        if (ask(client, &asked[count], count)) {
            ios[count] = &asked[count].io;
            count++;
        }
    request_begin(client, 0, "a request of a channel", 3 * patience_ns + 5 * LOOP_SECOND);
    while (sent < count) {
        sent += channel->backend->ops->submit(channel, ios + sent, count - sent);
        if (sent < count)
            wait_for(channel);
    }
    for (uint32_t i = 0; i < count; i++)
        while (!asked[i].is_done)
            wait_for(channel);
    request_end(client, 0);
}

static void discard(struct client *client)
{
    uint64_t slot;
    const uint32_t pages = slots_take(&client->slots, true, RUN_MOST, &slot);

    if (!pages)
        return;
    request_begin(client, 0, "discard()", (2 * client->timeout + 1) * LOOP_SECOND);
    slots_discarded(&client->slots, slot, pages);
    (void)client->backend->ops->discard(client->backend, slot, pages);
    request_end(client, 0);
    met.discards++;
    client->discarded_slot = slot;
    client->discarded = loop_chance(2) ? pages : 0;
    slots_give(&client->slots, slot, pages, true);
}

void *client_use_channel(void *context)
{
    struct client *client = context;
    const struct weir_backend_ops *ops = client->backend->ops;

    while (!client->is_ending) {
        struct weir_channel *channel;

        if (ops->channel_open(client->backend, 1 + (uint32_t)loop_draw(BATCH_MOST), &channel) != 0)
            loop_fail("a channel cannot be opened");
        do {
            if (loop_chance(6))
                discard(client);
            batch(client, channel);
            if (!loop_chance(3) || client->is_resting)
                loop_sleep(loop_draw(world.is_healing ? LOOP_SECOND : 150 * LOOP_MS));
        } while (!client->is_ending && !loop_chance(20));
        ops->channel_close(channel);
    }
    return NULL;
}
