/* SPDX-License-Identifier: MIT */
#include "tests/conformance/conform.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

/* A sanitizer's own memory grows with what it has seen. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_IS_OURS 0
#elif defined(__has_feature)
#define MEMORY_IS_OURS (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define MEMORY_IS_OURS 1
#endif

#define DEPTH   8u
#define READERS 8u

static struct weir_channel *open_channel(struct conform *conform, uint32_t depth)
{
    struct weir_channel *channel = NULL;

    CONFORM_CHECK(conform->ops->channel_open(conform->backend, depth, &channel) == WEIR_OK);
    CONFORM_CHECK(channel && channel->backend == conform->backend);
    return channel;
}

static struct conform_io *make_requests(uint32_t count)
{
    struct conform_io *requests = calloc(count, sizeof(*requests));

    CONFORM_CHECK(requests);
    return requests;
}

/* --- What is where --------------------------------------------------------------------------- */

static void describes_itself(struct conform *conform)
{
    const struct weir_backend_info *info = &conform->info;
    struct weir_backend_info again;

    CONFORM_CHECK(info->slots > 0);
    CONFORM_CHECK(info->cluster_slots > 0 && info->cluster_slots <= WEIR_CLUSTER_SLOTS);
    CONFORM_CHECK((info->cluster_slots & (info->cluster_slots - 1)) == 0);
    CONFORM_CHECK(info->how[0] && memchr(info->how, '\0', sizeof(info->how)));
    conform->ops->describe(conform->backend, &again);
    CONFORM_CHECK(again.slots == info->slots && again.flags == info->flags);
    CONFORM_CHECK(again.cluster_slots == info->cluster_slots);
    CONFORM_CHECK(strcmp(again.how, info->how) == 0);
}

static void reads_what_was_written(struct conform *conform)
{
    char *bytes = conform_pages(WEIR_CLUSTER_SLOTS);

    conform_write_all(conform, 1);
    conform_check_all(conform, 1);
    /* read(): single pages, and runs that cross clusters. */
    for (uint64_t slot = 0; slot < conform->info.slots; slot++) {
        CONFORM_CHECK(conform->ops->read(conform->backend, slot, 1, bytes) == WEIR_OK);
        CONFORM_CHECK(conform_is_stamped(bytes, slot, 1));
    }
    for (uint64_t slot = 0; slot + 64 <= conform->info.slots; slot += 47) {
        CONFORM_CHECK(conform->ops->read(conform->backend, slot, 64, bytes) == WEIR_OK);
        for (uint32_t i = 0; i < 64; i++)
            CONFORM_CHECK(conform_is_stamped(bytes + i * WEIR_SLOT_BYTES, slot + i, 1));
    }
    free(bytes);
}

static void keeps_the_newest(struct conform *conform)
{
    char *bytes = conform_pages(1);

    conform_write_all(conform, 1);
    conform_write_all(conform, 2);
    for (uint64_t slot = 1; slot < conform->info.slots; slot += 101) {
        conform_stamp(bytes, slot, 3);
        conform_move(conform, true, slot, 1, bytes);
    }
    for (uint64_t slot = 0; slot < conform->info.slots; slot++) {
        CONFORM_CHECK(conform->ops->read(conform->backend, slot, 1, bytes) == WEIR_OK);
        CONFORM_CHECK(conform_is_stamped(bytes, slot, slot % 101 == 1 ? 3 : 2));
    }
    free(bytes);
}

static void reads_what_was_never_written(struct conform *conform)
{
    char *bytes = conform_pages(WEIR_CLUSTER_SLOTS);

    for (uint64_t slot = 0; slot < conform->info.slots; slot++)
        CONFORM_CHECK(conform->ops->read(conform->backend, slot, 1, bytes) == WEIR_OK);
    conform_move(conform, false, 0, WEIR_CLUSTER_SLOTS, bytes);
    free(bytes);
}

/* The last cluster is not whole; behind it there is nothing. */
static void ends_where_it_says(struct conform *conform)
{
    const uint64_t slots = conform->info.slots;
    const uint32_t rest = slots % WEIR_CLUSTER_SLOTS ? slots % WEIR_CLUSTER_SLOTS : 1;
    char *bytes = conform_pages(WEIR_CLUSTER_SLOTS);
    struct weir_channel *channel = open_channel(conform, 1);
    struct conform_io *request = make_requests(1);

    for (uint32_t i = 0; i < rest; i++)
        conform_stamp(bytes + (size_t)i * WEIR_SLOT_BYTES, slots - rest + i, 1);
    conform_move(conform, true, slots - rest, rest, bytes);
    memset(bytes, 0, (size_t)rest * WEIR_SLOT_BYTES);
    CONFORM_CHECK(conform->ops->read(conform->backend, slots - rest, rest, bytes) == WEIR_OK);
    for (uint32_t i = 0; i < rest; i++)
        CONFORM_CHECK(conform_is_stamped(bytes + (size_t)i * WEIR_SLOT_BYTES, slots - rest + i, 1));

    CONFORM_CHECK(conform->ops->read(conform->backend, slots, 1, bytes) != WEIR_OK);
    CONFORM_CHECK(conform->ops->read(conform->backend, slots - 1, 2, bytes) != WEIR_OK);
    CONFORM_CHECK(conform->ops->read(conform->backend, UINT64_MAX, 1, bytes) != WEIR_OK);
    conform_io_init(request, true, slots - 1, 2, bytes);
    conform_do(channel, request, 1);
    CONFORM_CHECK(request->io.error != WEIR_OK);
    CONFORM_CHECK(conform->ops->read(conform->backend, slots - 1, 1, bytes) == WEIR_OK);
    CONFORM_CHECK(conform_is_stamped(bytes, slots - 1, 1));
    conform->ops->channel_close(channel);
    free(request);
    free(bytes);
}

static void discard_harms_nobody(struct conform *conform)
{
    const uint64_t first = 7, count = WEIR_CLUSTER_SLOTS + 5;
    char *bytes = conform_pages(1);

    if (!conform->ops->discard)
        conform_skip("it has no discard()");
    conform_write_all(conform, 1);
    CONFORM_CHECK(conform->ops->discard(conform->backend, first, 0) == WEIR_OK);
    CONFORM_CHECK(conform->ops->discard(conform->backend, first, count) == WEIR_OK);
    for (uint64_t slot = 0; slot < conform->info.slots; slot++) {
        const bool is_gone = slot >= first && slot < first + count;

        CONFORM_CHECK(conform->ops->read(conform->backend, slot, 1, bytes) == WEIR_OK);
        CONFORM_CHECK(is_gone || conform_is_stamped(bytes, slot, 1));
    }
    conform_write_all(conform, 2);
    CONFORM_CHECK(conform->ops->discard(conform->backend, 0, conform->info.slots) == WEIR_OK);
    conform_write_all(conform, 3);
    conform_check_all(conform, 3);
    free(bytes);
}

/* --- Requests -------------------------------------------------------------------------------- */

/* Many requests of one page, of all three kinds of places, more than the channel takes at once. */
static void finishes_each_once(struct conform *conform)
{
    const uint32_t count = 200;
    struct weir_channel *channel = open_channel(conform, DEPTH);
    struct conform_io *requests = make_requests(count);
    char *bytes = conform_pages(count);

    for (int is_write = 1; is_write >= 0; is_write--) {
        for (uint32_t i = 0; i < count; i++) {
            char *page = bytes + (size_t)i * WEIR_SLOT_BYTES;

            conform_io_init(&requests[i], is_write, i * 7u % conform->info.slots, 1, page);
            if (is_write)
                conform_stamp(page, requests[i].io.slot, 1);
            else
                memset(page, 0, WEIR_SLOT_BYTES);
        }
        conform_do(channel, requests, count);
        for (uint32_t i = 0; i < count; i++) {
            CONFORM_CHECK(requests[i].io.error == WEIR_OK && requests[i].io.os_error == 0);
            CONFORM_CHECK(
                conform_is_stamped(bytes + (size_t)i * WEIR_SLOT_BYTES, requests[i].io.slot, 1));
        }
    }
    /* Nothing is left that could be finished a second time. */
    CONFORM_CHECK(conform->ops->poll(channel, UINT32_MAX) == 0);
    conform->ops->channel_close(channel);
    free(requests);
    free(bytes);
}

/* The pages of a run lie anywhere in memory, in elements of many lengths. */
static void scatter(struct conform_io *request, char *bytes, uint32_t longest)
{
    uint32_t from = 0, count = 0;

    while (from < request->io.pages) {
        uint32_t pages = 1 + count * 5 % longest;

        if (pages > request->io.pages - from)
            pages = request->io.pages - from;
        /* Backwards, so that no two neighbours could be merged. */
        request->iov[count++] = (struct iovec){bytes + (size_t)(request->io.pages - from - pages) *
                                                           WEIR_SLOT_BYTES,
                                               (size_t)pages * WEIR_SLOT_BYTES};
        from += pages;
    }
    request->io.iov_count = count;
}

static void stamp_vector(const struct conform_io *request)
{
    uint64_t slot = request->io.slot;

    for (uint32_t i = 0; i < request->io.iov_count; i++)
        for (size_t at = 0; at < request->iov[i].iov_len; at += WEIR_SLOT_BYTES)
            conform_stamp((char *)request->iov[i].iov_base + at, slot++, 1);
}

static void moves_vectors_in_order(struct conform *conform)
{
    static const uint32_t longest[] = {1, 2, 3, 64};
    struct conform_io *request = make_requests(1);
    struct weir_channel *channel = open_channel(conform, 1);
    char *bytes = conform_pages(WEIR_CLUSTER_SLOTS);

    for (size_t i = 0; i < sizeof(longest) / sizeof(longest[0]); i++) {
        conform_io_init(request, true, 3 + i, WEIR_CLUSTER_SLOTS, bytes);
        scatter(request, bytes, longest[i]);
        stamp_vector(request);
        conform_do(channel, request, 1);
        CONFORM_CHECK(request->io.error == WEIR_OK);

        memset(bytes, 0, (size_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES);
        conform_io_init(request, false, 3 + i, WEIR_CLUSTER_SLOTS, bytes);
        conform_do(channel, request, 1);
        CONFORM_CHECK(request->io.error == WEIR_OK);
        for (uint32_t page = 0; page < WEIR_CLUSTER_SLOTS; page++)
            CONFORM_CHECK(
                conform_is_stamped(bytes + (size_t)page * WEIR_SLOT_BYTES, 3 + i + page, 1));
        /* And into a vector. */
        conform_io_init(request, false, 3 + i, WEIR_CLUSTER_SLOTS, bytes);
        scatter(request, bytes, longest[i]);
        conform_do(channel, request, 1);
        for (uint32_t e = 0, page = 0; e < request->io.iov_count; e++)
            for (size_t at = 0; at < request->iov[e].iov_len; at += WEIR_SLOT_BYTES, page++)
                CONFORM_CHECK(
                    conform_is_stamped((char *)request->iov[e].iov_base + at, 3 + i + page, 1));
    }
    conform->ops->channel_close(channel);
    free(request);
    free(bytes);
}

static void accepts_from_the_front(struct conform *conform)
{
    const uint32_t count = 3 * DEPTH;
    struct weir_channel *channel = open_channel(conform, DEPTH);
    struct conform_io *requests = make_requests(count);
    struct weir_io *ios[3 * DEPTH];
    char *bytes = conform_pages(count);
    uint32_t accepted, finished = 0;

    for (uint32_t i = 0; i < count; i++) {
        conform_stamp(bytes + (size_t)i * WEIR_SLOT_BYTES, i, 1);
        conform_io_init(&requests[i], true, i, 1, bytes + (size_t)i * WEIR_SLOT_BYTES);
        ios[i] = &requests[i].io;
    }
    CONFORM_CHECK(conform->ops->submit(channel, ios, 0) == 0);
    accepted = conform->ops->submit(channel, ios, count);
    CONFORM_CHECK(accepted == DEPTH);
    CONFORM_CHECK(conform->ops->submit(channel, ios + accepted, 1) == 0);
    while (finished < accepted)
        finished += conform_wait(channel);
    CONFORM_CHECK(finished == accepted);
    for (uint32_t i = 0; i < count; i++)
        CONFORM_CHECK(requests[i].done_count == (i < accepted ? 1 : 0));
    conform_do(channel, requests + accepted, count - accepted);
    for (uint32_t i = 0; i < count; i++) {
        CONFORM_CHECK(conform->ops->read(conform->backend, i, 1, bytes) == WEIR_OK);
        CONFORM_CHECK(conform_is_stamped(bytes, i, 1));
    }
    conform->ops->channel_close(channel);
    free(requests);
    free(bytes);
}

static void polls_no_more_than_asked(struct conform *conform)
{
    struct weir_channel *channel = open_channel(conform, DEPTH);
    struct conform_io *requests = make_requests(DEPTH);
    struct weir_io *ios[DEPTH];
    char *bytes = conform_pages(DEPTH);
    uint32_t finished = 0;

    for (uint32_t i = 0; i < DEPTH; i++) {
        conform_io_init(&requests[i], false, i, 1, bytes + (size_t)i * WEIR_SLOT_BYTES);
        ios[i] = &requests[i].io;
    }
    CONFORM_CHECK(conform->ops->submit(channel, ios, DEPTH) == DEPTH);
    CONFORM_CHECK(conform->ops->poll(channel, 0) == 0);
    while (finished < DEPTH) {
        uint32_t some = conform->ops->poll(channel, 1), done = 0;

        CONFORM_CHECK(some <= 1);
        finished += some;
        for (uint32_t i = 0; i < DEPTH; i++)
            done += requests[i].done_count;
        CONFORM_CHECK(done == finished);
    }
    conform->ops->channel_close(channel);
    free(requests);
    free(bytes);
}

/* Nor may it wake whoever waits by it for other things as well, when nothing is left. For a
 * while it may: a thread of the back end that saw a request wait can ring late, when that has
 * ended; and one of several members can answer after the others. */
static bool falls_silent(struct conform *conform, struct weir_channel *channel, int fd)
{
    for (int late = 0; late < 10000; late++) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};

        CONFORM_CHECK(conform->ops->poll(channel, UINT32_MAX) == 0);
        if (poll(&wait, 1, 0) == 0)
            return true;
        usleep(1000);
    }
    return false;
}

/* The descriptor is enough to wait by: after each wake-up something can be done, sooner or later.
 */
static void wakes_by_its_descriptor(struct conform *conform)
{
    struct weir_channel *channel = open_channel(conform, DEPTH);
    struct conform_io *requests = make_requests(DEPTH);
    struct weir_io *ios[DEPTH];
    char *bytes = conform_pages(DEPTH);
    const int fd = conform->ops->wait_fd(channel);

    for (int round = 0; round < 20; round++) {
        uint32_t finished = 0;

        for (uint32_t i = 0; i < DEPTH; i++) {
            conform_io_init(&requests[i], true, i * 3, 1, bytes + (size_t)i * WEIR_SLOT_BYTES);
            ios[i] = &requests[i].io;
        }
        CONFORM_CHECK(conform->ops->submit(channel, ios, DEPTH) == DEPTH);
        CONFORM_CHECK(conform->ops->wait_fd(channel) == fd);
        if (fd < 0)
            CONFORM_CHECK(conform->ops->poll(channel, UINT32_MAX) == DEPTH);
        while (fd >= 0 && finished < DEPTH) {
            struct pollfd wait = {.fd = fd, .events = POLLIN};

            CONFORM_CHECK(poll(&wait, 1, 60000) == 1 || errno == EINTR);
            finished += conform->ops->poll(channel, UINT32_MAX);
        }
        CONFORM_CHECK(fd < 0 || falls_silent(conform, channel, fd));
    }
    conform->ops->channel_close(channel);
    free(requests);
    free(bytes);
}

/* --- Threads and signals --------------------------------------------------------------------- */

struct reader {
    struct conform *conform;
    pthread_t thread;
    uint32_t number;
    _Atomic(bool) *is_over;
    uint64_t reads;
};

/* Reads the odd slots, which nobody writes, until the writer is ready. */
static void *read_odd(void *argument)
{
    struct reader *reader = argument;
    const uint64_t slots = reader->conform->info.slots;
    char *bytes = conform_pages(1);

    for (uint64_t i = reader->number; !*reader->is_over || reader->reads < 100; i += 17) {
        uint64_t slot = (i * 2 + 1) % (slots / 2 * 2);

        CONFORM_CHECK(reader->conform->ops->read(reader->conform->backend, slot, 1, bytes) ==
                      WEIR_OK);
        CONFORM_CHECK(conform_is_stamped(bytes, slot, 1));
        reader->reads++;
    }
    free(bytes);
    return NULL;
}

static void write_even(struct conform *conform, uint64_t version)
{
    struct weir_channel *channel = open_channel(conform, DEPTH);
    struct conform_io *requests = make_requests(DEPTH);
    char *bytes = conform_pages(DEPTH);

    for (uint64_t slot = 0; slot + 2 * DEPTH < conform->info.slots; slot += 2 * DEPTH) {
        for (uint32_t i = 0; i < DEPTH; i++) {
            char *page = bytes + (size_t)i * WEIR_SLOT_BYTES;

            conform_stamp(page, slot + 2 * i, version);
            conform_io_init(&requests[i], true, slot + 2 * i, 1, page);
        }
        conform_do(channel, requests, DEPTH);
    }
    conform->ops->channel_close(channel);
    free(requests);
    free(bytes);
}

static void serves_many_readers_and_a_writer(struct conform *conform)
{
    struct reader readers[READERS];
    _Atomic(bool) is_over = false;
    char *bytes = conform_pages(1);

    conform_write_all(conform, 1);
    for (uint32_t i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.conform = conform, .number = i, .is_over = &is_over};
        CONFORM_CHECK(pthread_create(&readers[i].thread, NULL, read_odd, &readers[i]) == 0);
    }
    write_even(conform, 2);
    is_over = true;
    for (uint32_t i = 0; i < READERS; i++)
        pthread_join(readers[i].thread, NULL);
    for (uint64_t slot = 0; slot + 2 * DEPTH < conform->info.slots; slot++) {
        CONFORM_CHECK(conform->ops->read(conform->backend, slot, 1, bytes) == WEIR_OK);
        CONFORM_CHECK(slot / (2 * DEPTH) * (2 * DEPTH) + 2 * DEPTH >= conform->info.slots ||
                      conform_is_stamped(bytes, slot, slot % 2 ? 1 : 2));
    }
    free(bytes);
}

struct writer {
    struct conform *conform;
    pthread_t thread;
    uint64_t first; /* slot; it has a quarter of all */
};

static void *write_quarter(void *argument)
{
    struct writer *writer = argument;
    struct conform *conform = writer->conform;
    const uint64_t quarter = conform->info.slots / 4;
    struct weir_channel *channel = open_channel(conform, 4);
    struct conform_io *requests = make_requests(4);
    char *bytes = conform_pages(4);

    for (uint64_t slot = writer->first; slot + 4 <= writer->first + quarter; slot += 4) {
        for (uint32_t i = 0; i < 4; i++) {
            conform_stamp(bytes + (size_t)i * WEIR_SLOT_BYTES, slot + i, 5);
            conform_io_init(&requests[i], true, slot + i, 1, bytes + (size_t)i * WEIR_SLOT_BYTES);
        }
        conform_do(channel, requests, 4);
    }
    conform->ops->channel_close(channel);
    free(requests);
    free(bytes);
    return NULL;
}

static void keeps_channels_apart(struct conform *conform)
{
    const uint64_t quarter = conform->info.slots / 4;
    struct writer writers[4];
    char *bytes = conform_pages(1);

    for (uint32_t i = 0; i < 4; i++) {
        writers[i] = (struct writer){.conform = conform, .first = i * quarter};
        CONFORM_CHECK(pthread_create(&writers[i].thread, NULL, write_quarter, &writers[i]) == 0);
    }
    for (uint32_t i = 0; i < 4; i++)
        pthread_join(writers[i].thread, NULL);
    for (uint64_t slot = 0; slot < 4 * quarter; slot++) {
        if (slot % quarter >= quarter / 4 * 4)
            continue;
        CONFORM_CHECK(conform->ops->read(conform->backend, slot, 1, bytes) == WEIR_OK);
        CONFORM_CHECK(conform_is_stamped(bytes, slot, 5));
    }
    free(bytes);
}

static struct {
    struct conform *conform;
    char *bytes;
    volatile sig_atomic_t error, ran;
} trap;

static void read_in_handler(int signal_number)
{
    (void)signal_number;
    trap.error = trap.conform->ops->read(trap.conform->backend, 5, 1, trap.bytes);
    trap.ran++;
}

static void reads_in_a_signal_handler(struct conform *conform)
{
    struct sigaction action = {.sa_handler = read_in_handler};

    trap.conform = conform;
    trap.bytes = conform_pages(1);
    conform_write_all(conform, 1);
    CONFORM_CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    errno = EXDEV; /* the interrupted code's, which must not change */
    raise(SIGUSR1);
    CONFORM_CHECK(errno == EXDEV);
    CONFORM_CHECK(trap.ran == 1 && trap.error == WEIR_OK);
    CONFORM_CHECK(conform_is_stamped(trap.bytes, 5, 1));
    CONFORM_CHECK(conform->ops->read(conform->backend, conform->info.slots, 1, trap.bytes) !=
                  WEIR_OK);
    CONFORM_CHECK(errno == EXDEV);
    free(trap.bytes);
}

static volatile sig_atomic_t storm_count;

static void count_signal(int signal_number)
{
    (void)signal_number;
    storm_count++;
}

static void bears_a_storm_of_signals(struct conform *conform)
{
    struct sigaction action = {.sa_handler = count_signal}; /* no SA_RESTART */
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    char *bytes = conform_pages(1);

    CONFORM_CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CONFORM_CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (uint64_t version = 1; storm_count < 100; version++) {
        conform_write_all(conform, version);
        conform_check_all(conform, version);
        for (uint64_t slot = 0; slot < conform->info.slots; slot += 31) {
            CONFORM_CHECK(conform->ops->read(conform->backend, slot, 1, bytes) == WEIR_OK);
            CONFORM_CHECK(conform_is_stamped(bytes, slot, version));
        }
    }
    setitimer(ITIMER_REAL, &never, NULL);
    free(bytes);
}

struct victim {
    struct conform *conform;
    char *bytes;
    _Atomic(bool) has_read;
};

static void *read_while_cancelled(void *argument)
{
    struct victim *victim = argument;

    pthread_cancel(pthread_self());
    CONFORM_CHECK(victim->conform->ops->read(victim->conform->backend, 0, 1, victim->bytes) ==
                  WEIR_OK);
    victim->has_read = true;
    pthread_testcancel();
    return NULL;
}

static void is_no_cancellation_point(struct conform *conform)
{
    struct victim victim = {.conform = conform, .bytes = conform_pages(1)};
    pthread_t thread;
    void *result;

    CONFORM_CHECK(pthread_create(&thread, NULL, read_while_cancelled, &victim) == 0);
    pthread_join(thread, &result);
    CONFORM_CHECK(result == PTHREAD_CANCELED);
    CONFORM_CHECK(victim.has_read);
    free(victim.bytes);
}

/* --- Life ------------------------------------------------------------------------------------ */

static uint64_t mapped_pages(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    CONFORM_CHECK(file && fscanf(file, "%llu", &pages) == 1);
    fclose(file);
    return pages;
}

static void open_and_close(const struct conform *conform)
{
    struct weir_backend *backend;
    struct weir_channel *channel;

    CONFORM_CHECK(weir_backend_open(conform->spec, &conform->env, &backend) == WEIR_OK);
    CONFORM_CHECK(backend->ops->channel_open(backend, DEPTH, &channel) == WEIR_OK);
    backend->ops->channel_close(channel);
    backend->ops->close(backend);
}

/* How often a back end is opened and closed at a time: fewer where that takes long. */
static uint32_t rounds_wanted(void)
{
    const char *text = getenv("CONFORM_ROUNDS");
    const int count = text ? atoi(text) : 100;

    CONFORM_CHECK(count > 0);
    return (uint32_t)count;
}

/* Does so many times take a page more each, or a block? */
static bool grows(const struct conform *conform, uint32_t rounds)
{
    const uint64_t mapped = mapped_pages(), heap = mallinfo2().uordblks;

    for (uint32_t i = 0; i < rounds; i++)
        open_and_close(conform);
    return mapped_pages() >= mapped + rounds || mallinfo2().uordblks >= heap + rounds * 16;
}

static void leaks_nothing(struct conform *conform)
{
    const uint32_t rounds = rounds_wanted();
    bool has_grown = true;
    uint32_t fds;

    conform_close(conform); /* a named file can be open only once */
    /* As often before as after, until the allocator's caches hold what they ever will. */
    for (uint32_t i = 0; i < rounds; i++)
        open_and_close(conform);
    fds = conform_fd_count();
    /* What leaks does so each time; a thread that the allocator had not met yet comes once. */
    for (int i = 0; i < 3 && has_grown; i++)
        has_grown = grows(conform, rounds) && MEMORY_IS_OURS;
    CONFORM_CHECK(!has_grown);
    CONFORM_CHECK(conform_fd_count() == fds);
    conform_open(conform, conform->spec);
}

static void refuses_what_it_does_not_know(struct conform *conform)
{
    static const char *const wrong[] = {"nonsense=1", "=", "nonsense"};
    const char *spec = conform->spec;
    uint32_t fds;

    conform_close(conform);
    fds = conform_fd_count();
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const uint32_t told = conform->told.count;
        struct weir_backend *backend = NULL;
        char text[512];

        snprintf(text, sizeof(text), "%s%c%s", spec, strchr(spec, '?') ? '&' : '?', wrong[i]);
        CONFORM_CHECK(weir_backend_open(text, &conform->env, &backend) == WEIR_EINVAL);
        CONFORM_CHECK(backend == NULL);
        CONFORM_CHECK(conform->told.count > told && conform->told.error == WEIR_EINVAL);
        CONFORM_CHECK(conform_fd_count() == fds);
    }
    conform_open(conform, spec);
}

const struct conform_case conform_cases[] = {
    {"describes itself", describes_itself},
    {"reads what was written", reads_what_was_written},
    {"keeps the newest", keeps_the_newest},
    {"reads what was never written", reads_what_was_never_written},
    {"ends where it says", ends_where_it_says},
    {"discard harms nobody", discard_harms_nobody},
    {"finishes each once", finishes_each_once},
    {"moves vectors in order", moves_vectors_in_order},
    {"accepts from the front", accepts_from_the_front},
    {"polls no more than asked", polls_no_more_than_asked},
    {"wakes by its descriptor", wakes_by_its_descriptor},
    {"serves many readers and a writer", serves_many_readers_and_a_writer},
    {"keeps channels apart", keeps_channels_apart},
    {"reads in a signal handler", reads_in_a_signal_handler},
    {"bears a storm of signals", bears_a_storm_of_signals},
    {"is no cancellation point", is_no_cancellation_point},
    {"leaks nothing", leaks_nothing},
    {"refuses what it does not know", refuses_what_it_does_not_know},
};
const size_t conform_case_count = sizeof(conform_cases) / sizeof(conform_cases[0]);
