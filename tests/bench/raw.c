/* SPDX-License-Identifier: MIT */

/* Raw: what the device does when nothing is in between. Reads and writes by O_DIRECT. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runs.h"

struct reader {
    _Alignas(128) pthread_t thread;
    int fd;
    bool is_write;
    uint64_t pages, random, requests, bytes;
    const _Atomic(bool) *stop;
    struct bench_histogram times;
};

static char *aligned(size_t bytes)
{
    void *memory;

    if (posix_memalign(&memory, BENCH_PAGE, bytes) != 0)
        bench_fail("out of memory");
    memset(memory, 0x5a, bytes);
    return memory;
}

int bench_raw_open(const char *path, int flags)
{
    int fd = open(path, flags | O_DIRECT | O_CLOEXEC);

    if (fd < 0)
        bench_fail("%s: %s", path, strerror(errno));
    return fd;
}

/* Random requests of one page. */
static void *read_randomly(void *context)
{
    struct reader *r = context;
    char *memory = aligned(BENCH_PAGE);

    while (!atomic_load_explicit(r->stop, memory_order_relaxed)) {
        off_t at = (off_t)((bench_draw(&r->random) >> 16) % r->pages * BENCH_PAGE);
        uint64_t begun = bench_now_ns();
        ssize_t moved = r->is_write ? pwrite(r->fd, memory, BENCH_PAGE, at)
                                    : pread(r->fd, memory, BENCH_PAGE, at);

        if (moved != (ssize_t)BENCH_PAGE)
            bench_fail("raw request: %s", strerror(errno));
        bench_histogram_add(&r->times, bench_now_ns() - begun);
        r->requests++;
    }
    free(memory);
    return NULL;
}

/* raw: file= bytes= threads= seconds= write=0|1 -> rate p50 p99 */
void bench_run_raw(void)
{
    static struct reader readers[BENCH_THREADS_MAX];
    static struct bench_histogram times;
    static _Atomic(bool) stop;
    const bool is_write = bench_argument("write", 0) != 0;
    int fd = bench_raw_open(bench_argument_text("file", ""), is_write ? O_RDWR : O_RDONLY);
    unsigned threads = (unsigned)bench_argument("threads", 1);
    uint64_t requests = 0, begun = bench_now_ns();
    double seconds;

    for (unsigned i = 0; i < threads && i < BENCH_THREADS_MAX; i++) {
        readers[i].fd = fd;
        readers[i].is_write = is_write;
        readers[i].pages = bench_argument("bytes", 0) / BENCH_PAGE;
        readers[i].random = (i + 1) * 0x9e3779b97f4a7c15ull;
        readers[i].stop = &stop;
        if (pthread_create(&readers[i].thread, NULL, read_randomly, &readers[i]) != 0)
            bench_fail("cannot start a thread");
    }
    usleep((useconds_t)(bench_argument_real("seconds", 1) * 1e6));
    atomic_store(&stop, true);
    for (unsigned i = 0; i < threads && i < BENCH_THREADS_MAX; i++) {
        pthread_join(readers[i].thread, NULL);
        requests += readers[i].requests;
        bench_histogram_merge(&times, &readers[i].times);
    }
    seconds = (double)(bench_now_ns() - begun) / 1e9;
    bench_tell("rate", (double)requests / seconds);
    bench_tell("mb", (double)requests * BENCH_PAGE / seconds / 1e6);
    bench_tell("p50", bench_histogram_us(&times, 0.5));
    bench_tell("p99", bench_histogram_us(&times, 0.99));
}

/* One end to the other, once: each reader takes the next piece. */
struct scanner {
    int fd;
    bool is_write;
    uint64_t bytes;
    _Atomic(uint64_t) next;
};

static void *scan_pieces(void *context)
{
    struct scanner *s = context;
    char *memory = aligned(RAW_PIECE);
    uint64_t at;

    while ((at = atomic_fetch_add(&s->next, RAW_PIECE)) + RAW_PIECE <= s->bytes) {
        ssize_t moved = s->is_write ? pwrite(s->fd, memory, RAW_PIECE, (off_t)at)
                                    : pread(s->fd, memory, RAW_PIECE, (off_t)at);

        if (moved != (ssize_t)RAW_PIECE)
            bench_fail("raw request: %s", strerror(errno));
    }
    free(memory);
    return NULL;
}

static double scan(struct scanner *s, unsigned depth)
{
    pthread_t thread[BENCH_THREADS_MAX];
    uint64_t begun = bench_now_ns();

    if (depth > BENCH_THREADS_MAX)
        depth = BENCH_THREADS_MAX;
    atomic_store(&s->next, 0);
    for (unsigned i = 1; i < depth; i++)
        if (pthread_create(&thread[i], NULL, scan_pieces, s) != 0)
            bench_fail("cannot start a thread");
    scan_pieces(s);
    for (unsigned i = 1; i < depth; i++)
        pthread_join(thread[i], NULL);
    return (double)s->bytes * 1e3 / (double)(bench_now_ns() - begun);
}

/* raw_scan: file= bytes= write=0|1 depth= -> mb, in requests of 2 MiB, so many at a time */
void bench_run_raw_scan(void)
{
    const bool is_write = bench_argument("write", 0) != 0;
    struct scanner s = {
        .fd = bench_raw_open(bench_argument_text("file", ""), is_write ? O_RDWR : O_RDONLY),
        .is_write = is_write,
        .bytes = bench_argument("bytes", 0),
    };

    bench_tell("mb", scan(&s, (unsigned)bench_argument("depth", 1)));
}
