/* SPDX-License-Identifier: MIT */
#include "tests/conformance/conform.h"

#include <dirent.h>
#include <poll.h>
#include <string.h>

/* A machine under sanitizers and load is slow; only one that is stuck takes this long. */
#define STUCK_MS 60000

static void hear(void *context, int severity, int error, int os_error, const char *text)
{
    struct conform_told *told = context;

    (void)os_error;
    told->count++;
    told->severity = severity;
    told->error = error;
    snprintf(told->text, sizeof(told->text), "%s", text);
    printf("# told: %s\n", text);
}

void conform_open(struct conform *conform, const char *spec)
{
    int error;

    memset(conform, 0, sizeof(*conform));
    conform->spec = spec;
    conform->env.context = &conform->told;
    conform->env.tell = hear;
    error = weir_backend_open(spec, &conform->env, &conform->backend);
    if (error == WEIR_ENOSUPPORT)
        conform_skip("this machine does not offer it");
    CONFORM_CHECK(error == WEIR_OK);
    conform->ops = conform->backend->ops;
    conform->ops->describe(conform->backend, &conform->info);
}

void conform_close(struct conform *conform)
{
    conform->ops->close(conform->backend);
    conform->backend = NULL;
}

_Noreturn void conform_skip(const char *why)
{
    printf("# skip: %s\n", why);
    fflush(stdout);
    _Exit(CONFORM_SKIPPED);
}

/* --- Pages ----------------------------------------------------------------------------------- */

char *conform_pages(uint64_t pages)
{
    char *bytes = aligned_alloc(WEIR_SLOT_BYTES, pages * WEIR_SLOT_BYTES);

    CONFORM_CHECK(bytes);
    return bytes;
}

static uint64_t word_of(uint64_t slot, uint64_t version, uint64_t index)
{
    uint64_t x = (slot << 24 ^ version << 9 ^ index) + 1;

    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

void conform_stamp(void *page, uint64_t slot, uint64_t version)
{
    uint64_t *words = page;

    for (uint64_t i = 0; i < WEIR_SLOT_BYTES / sizeof(*words); i++)
        words[i] = word_of(slot, version, i);
}

bool conform_is_stamped(const void *page, uint64_t slot, uint64_t version)
{
    const uint64_t *words = page;

    for (uint64_t i = 0; i < WEIR_SLOT_BYTES / sizeof(*words); i++) {
        if (words[i] != word_of(slot, version, i)) {
            printf("# slot %llu version %llu: word %llu is not as written\n",
                   (unsigned long long)slot, (unsigned long long)version, (unsigned long long)i);
            return false;
        }
    }
    return true;
}

/* --- Requests -------------------------------------------------------------------------------- */

static void count_done(struct weir_io *io)
{
    struct conform_io *request = io->owner;

    request->done_count++;
}

void conform_io_init(struct conform_io *request, bool is_write, uint64_t slot, uint32_t pages,
                     void *bytes)
{
    request->iov[0] = (struct iovec){bytes, (size_t)pages * WEIR_SLOT_BYTES};
    request->done_count = 0;
    request->io = (struct weir_io){
        .slot = slot,
        .pages = pages,
        .is_write = is_write,
        .iov = request->iov,
        .iov_count = 1,
        .error = 12345, /* that the back end has to overwrite */
        .os_error = 12345,
        .done = count_done,
        .owner = request,
    };
}

uint32_t conform_wait(struct weir_channel *channel)
{
    const struct weir_backend_ops *ops = channel->backend->ops;
    const int fd = ops->wait_fd(channel);

    for (;;) {
        uint32_t finished = ops->poll(channel, UINT32_MAX);
        struct pollfd wait = {.fd = fd, .events = POLLIN};

        if (finished)
            return finished;
        CONFORM_CHECK(fd >= 0); /* else the first poll() has to finish everything */
        CONFORM_CHECK(poll(&wait, 1, STUCK_MS) != 0);
    }
}

void conform_do(struct weir_channel *channel, struct conform_io *requests, uint32_t count)
{
    uint32_t accepted = 0, finished = 0;

    while (finished < count) {
        while (accepted < count) {
            struct weir_io *io = &requests[accepted].io;

            if (channel->backend->ops->submit(channel, &io, 1) == 0)
                break;
            accepted++;
        }
        CONFORM_CHECK(accepted > finished);
        finished += conform_wait(channel);
        CONFORM_CHECK(finished <= accepted);
    }
    for (uint32_t i = 0; i < count; i++)
        CONFORM_CHECK(requests[i].done_count == 1);
}

void conform_move(struct conform *conform, bool is_write, uint64_t slot, uint32_t pages,
                  void *bytes)
{
    struct conform_io *request = malloc(sizeof(*request));
    struct weir_channel *channel;

    CONFORM_CHECK(request);
    CONFORM_CHECK(conform->ops->channel_open(conform->backend, 1, &channel) == WEIR_OK);
    conform_io_init(request, is_write, slot, pages, bytes);
    conform_do(channel, request, 1);
    CONFORM_CHECK(request->io.error == WEIR_OK);
    CONFORM_CHECK(request->io.os_error == 0);
    conform->ops->channel_close(channel);
    free(request);
}

static uint32_t run_at(const struct conform *conform, uint64_t slot)
{
    uint64_t left = conform->info.slots - slot;

    return left < WEIR_CLUSTER_SLOTS ? (uint32_t)left : WEIR_CLUSTER_SLOTS;
}

void conform_write_all(struct conform *conform, uint64_t version)
{
    char *bytes = conform_pages(WEIR_CLUSTER_SLOTS);

    for (uint64_t slot = 0; slot < conform->info.slots; slot += WEIR_CLUSTER_SLOTS) {
        uint32_t pages = run_at(conform, slot);

        for (uint32_t i = 0; i < pages; i++)
            conform_stamp(bytes + (size_t)i * WEIR_SLOT_BYTES, slot + i, version);
        conform_move(conform, true, slot, pages, bytes);
    }
    free(bytes);
}

void conform_check_all(struct conform *conform, uint64_t version)
{
    char *bytes = conform_pages(WEIR_CLUSTER_SLOTS);

    for (uint64_t slot = 0; slot < conform->info.slots; slot += WEIR_CLUSTER_SLOTS) {
        uint32_t pages = run_at(conform, slot);

        conform_move(conform, false, slot, pages, bytes);
        for (uint32_t i = 0; i < pages; i++)
            CONFORM_CHECK(
                conform_is_stamped(bytes + (size_t)i * WEIR_SLOT_BYTES, slot + i, version));
    }
    free(bytes);
}

uint32_t conform_fd_count(void)
{
    DIR *directory = opendir("/proc/self/fd");
    uint32_t count = 0;

    CONFORM_CHECK(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}
