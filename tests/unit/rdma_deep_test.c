/* SPDX-License-Identifier: MIT */

/*
 * rdma: a channel with more under way than there are places, and completions for some of it only.
 * Every page bears its slot and how often that was written; what is told to be done must be done.
 */

#include <criterion/criterion.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/rdma_kit.h"

#define DEEP       96u /* requests at a time */
#define DEEP_PAGES 9u  /* the most of one: two works */
#define RUNS       (RDMA_SLOTS / DEEP_PAGES)
#define REQUESTS   6000u
#define STAMP      (2 * sizeof(uint64_t))

/* So many slots, of which each was written so often. */
struct run {
    uint32_t version;
    bool is_busy;
};

struct deep {
    struct weir_io ios[DEEP];
    struct iovec iovs[DEEP];
    unsigned char *memory[DEEP];
    uint32_t run_of[DEEP], free_ones[DEEP], free_count;
    uint32_t begun, ended, errors, wrong;
    struct run runs[RUNS];
    uint64_t random;
};

static uint32_t draw(struct deep *deep, uint32_t most)
{
    deep->random = deep->random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(deep->random >> 33) % most;
}

/* At both ends of a page. */
static void stamp(unsigned char *page, uint64_t slot, uint64_t version)
{
    const uint64_t words[2] = {slot, version};

    memcpy(page, words, STAMP);
    memcpy(page + WEIR_SLOT_BYTES - STAMP, words, STAMP);
}

static bool is_stamped(const unsigned char *page, uint64_t slot, uint64_t version)
{
    const uint64_t words[2] = {slot, version};

    return memcmp(page, words, STAMP) == 0 &&
           memcmp(page + WEIR_SLOT_BYTES - STAMP, words, STAMP) == 0;
}

static void is_done(struct weir_io *io)
{
    struct deep *deep = io->owner;
    const uint32_t i = (uint32_t)(io - deep->ios);
    struct run *run = &deep->runs[deep->run_of[i]];

    deep->errors += io->error != WEIR_OK;
    for (uint32_t p = 0; !io->is_write && p < io->pages; p++)
        deep->wrong += !is_stamped(deep->memory[i] + (size_t)p * WEIR_SLOT_BYTES, io->slot + p,
                                   run->version);
    run->is_busy = false;
    deep->free_ones[deep->free_count++] = i;
    deep->ended++;
}

/* The next request, of a run that nobody is at. */
static struct weir_io *begin(struct deep *deep)
{
    const uint32_t i = deep->free_ones[--deep->free_count];
    struct weir_io *io = &deep->ios[i];
    uint32_t at = draw(deep, RUNS);
    struct run *run;

    while (deep->runs[at].is_busy)
        at = (at + 1) % RUNS;
    run = &deep->runs[at];
    run->is_busy = true;
    deep->run_of[i] = at;
    *io = (struct weir_io){.slot = (uint64_t)at * DEEP_PAGES,
                           .pages = 1 + at % DEEP_PAGES,
                           .is_write = run->version == 0 || draw(deep, 3) == 0,
                           .iov = &deep->iovs[i],
                           .iov_count = 1,
                           .done = is_done,
                           .owner = deep};
    deep->iovs[i] = (struct iovec){deep->memory[i], (size_t)io->pages * WEIR_SLOT_BYTES};
    run->version += io->is_write;
    for (uint32_t p = 0; p < io->pages; p++)
        stamp(deep->memory[i] + (size_t)p * WEIR_SLOT_BYTES, io->slot + p,
              io->is_write ? run->version : UINT64_MAX);
    deep->begun++;
    return io;
}

static void submit_some(struct deep *deep, struct weir_channel *channel)
{
    struct weir_io *ios[DEEP];
    uint32_t count = 0;

    /* Now and then all of it ends first, and then few are under way. */
    if (deep->free_count < DEEP && deep->begun % 512 > 480)
        return;
    while (deep->free_count > 0 && deep->begun < REQUESTS && count < 1 + draw(deep, DEEP))
        ios[count++] = begin(deep);
    cr_assert_eq(channel->backend->ops->submit(channel, ios, count), count);
}

Test(rdma_deep, what_is_done_is_done, .timeout = 240)
{
    struct weir_backend *backend = rdma_open_both();
    struct weir_channel *channel = kit_channel(backend, DEEP);
    struct deep *deep = calloc(1, sizeof(*deep));

    cr_assert(deep);
    for (uint32_t i = 0; i < DEEP; i++) {
        deep->memory[i] = kit_pages(DEEP_PAGES, 0);
        deep->free_ones[deep->free_count++] = i;
    }
    while (deep->ended < REQUESTS) {
        struct pollfd wait = {.fd = backend->ops->wait_fd(channel), .events = POLLIN};

        submit_some(deep, channel);
        if (backend->ops->poll(channel, 1 + draw(deep, DEEP)) == 0)
            cr_assert_neq(poll(&wait, 1, 60000), 0, "stuck: %u of %u", deep->ended, deep->begun);
        cr_assert_eq(deep->wrong, 0, "of %u", deep->ended);
        cr_assert_eq(deep->errors, 0, "of %u", deep->ended);
    }
    channel->backend->ops->channel_close(channel);
    kit_close(backend);
    memd_close(rdma_memd);
    for (uint32_t i = 0; i < DEEP; i++)
        free(deep->memory[i]);
    free(deep);
}
