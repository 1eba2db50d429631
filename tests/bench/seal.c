/* SPDX-License-Identifier: MIT */

/*
 * Seal: what it costs that pages are encrypted and authenticated before they leave.
 *
 *   page     pages to `mem` and back, clusters by a channel and single ones by read(), beside the
 *            same without a seal: by both ciphers
 *   load     random touches of four times the budget, half of them stores, on `mem` and on a
 *            weir-memd over the loopback, beside the same without a seal
 */

#include <stdlib.h>
#include <string.h>
#include <weir/weir_backend.h>

#include "runs.h"
#include "tests/server/server.h"

#define CLUSTER_BYTES ((size_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)

/* --- A page ---------------------------------------------------------------------------------- */

static const struct weir_backend_env quiet;

static void note_done(struct weir_io *io)
{
    io->owner = NULL;
}

static void write_cluster(struct weir_channel *channel, uint64_t slot, void *bytes)
{
    const struct weir_backend_ops *ops = channel->backend->ops;
    struct iovec iov = {bytes, CLUSTER_BYTES};
    struct weir_io io = {.slot = slot,
                         .pages = WEIR_CLUSTER_SLOTS,
                         .is_write = 1,
                         .iov = &iov,
                         .iov_count = 1,
                         .done = note_done,
                         .owner = &io};
    struct weir_io *ios[] = {&io};

    if (ops->submit(channel, ios, 1) != 1)
        bench_fail("the channel takes nothing");
    while (io.owner)
        ops->poll(channel, 1);
    if (io.error != WEIR_OK)
        bench_fail("a write failed");
}

/* seal: spec= clusters= rounds= -> write read (us a page) */
void bench_run_seal(void)
{
    const uint64_t clusters = bench_argument("clusters", 1), rounds = bench_argument("rounds", 1);
    const uint64_t slots = clusters * WEIR_CLUSTER_SLOTS;
    char *bytes = aligned_alloc(WEIR_SLOT_BYTES, CLUSTER_BYTES);
    uint64_t begun, written = 0, read = 0, random = 7;
    struct weir_backend *backend;
    struct weir_channel *channel;

    if (!bytes || weir_backend_open(bench_argument_text("spec", ""), &quiet, &backend) != WEIR_OK ||
        backend->ops->channel_open(backend, 1, &channel) != WEIR_OK)
        bench_fail("no back end");
    for (size_t i = 0; i < CLUSTER_BYTES; i++)
        bytes[i] = (char)(bench_draw(&random) >> 32);
    for (uint64_t round = 0; round <= rounds; round++) { /* the first takes the memory */
        begun = bench_now_ns();
        for (uint64_t i = 0; i < clusters; i++)
            write_cluster(channel, i * WEIR_CLUSTER_SLOTS, bytes);
        written += round ? bench_now_ns() - begun : 0;
        begun = bench_now_ns();
        for (uint64_t i = 0; i < slots; i++)
            if (backend->ops->read(backend, (bench_draw(&random) >> 16) % slots, 1, bytes) !=
                WEIR_OK)
                bench_fail("a read failed");
        read += round ? bench_now_ns() - begun : 0;
    }
    bench_tell("write", (double)written / 1e3 / (double)(slots * rounds));
    bench_tell("read", (double)read / 1e3 / (double)(slots * rounds));
    backend->ops->channel_close(channel);
    backend->ops->close(backend);
    free(bytes);
}

static bool is_offered(const char *cipher)
{
    struct weir_backend *backend;
    char spec[80];

    snprintf(spec, sizeof(spec), "mem:?size=1M&seal=%s", cipher);
    if (weir_backend_open(spec, &quiet, &backend) != WEIR_OK)
        return false;
    backend->ops->close(backend);
    return true;
}

static void print_page(const struct bench *bench, const struct bench_side sides[2],
                       const char *cipher, const char *which, const char *metric)
{
    char point[64];
    struct bench_line line = {
        .point = point,
        .metric = metric,
        .unit = "us",
        .better = BENCH_LOWER,
        .weir = bench_series(&sides[0], which),
        .baseline = bench_series(&sides[1], which),
        .baseline_name = "mem without a seal",
        .goal = "seal_us <= 2",
    };

    snprintf(point, sizeof(point), "page/%s", cipher);
    line.also[0].name = "seal_us";
    line.also[0].value = bench_median(&line.weir) - bench_median(&line.baseline);
    bench_print(bench, &line);
}

static bool drive_page(struct bench *bench, const char *cipher)
{
    static struct bench_side sides[2];

    if (!is_offered(cipher))
        return true;
    for (unsigned i = 0; i < 2; i++)
        bench_side_init(&sides[i], i ? "plain" : "sealed", "seal",
                        "clusters=8 rounds=%u spec=mem:?size=16M%s%s", bench->is_quick ? 4 : 40,
                        i ? "" : "&seal=", i ? "" : cipher);
    if (!bench_rounds(bench, sides, 2, bench->is_quick ? 1 : 5))
        return false;
    print_page(bench, sides, cipher, "write", "a page out, of 512 at once");
    print_page(bench, sides, cipher, "read", "a page in, by itself");
    return true;
}

/* --- A load ---------------------------------------------------------------------------------- */

static bool drive_load(struct bench *bench, const char *kind, const char *spec, uint64_t budget)
{
    static struct bench_side sides[2];
    const uint64_t pages = 4 * budget / BENCH_PAGE;
    char point[64];

    for (unsigned threads = 1; threads <= 4; threads *= 4) {
        for (unsigned i = 0; i < 2; i++)
            bench_side_init(&sides[i], i ? "plain" : "sealed", "load",
                            "memory=weir budget=%llu pages=%llu threads=%u writes=50 seconds=%g "
                            "warm=%llu spec=%s&seal=%s",
                            (unsigned long long)budget, (unsigned long long)pages, threads,
                            bench->is_quick ? 0.7 : 3.0, (unsigned long long)pages * 3 / 8, spec,
                            i ? "off" : "on");
        if (!bench_rounds(bench, sides, 2, bench->is_quick ? 1 : 3))
            return false;
        snprintf(point, sizeof(point), "%s, half writes/%u thread%s", kind, threads,
                 threads > 1 ? "s" : "");
        bench_print(bench, &(struct bench_line){
                               .point = point,
                               .metric = "rate",
                               .unit = "touches/s",
                               .better = BENCH_HIGHER,
                               .weir = bench_series(&sides[0], "rate"),
                               .baseline = bench_series(&sides[1], "rate"),
                               .baseline_name = "the same without a seal",
                           });
    }
    return true;
}

bool bench_drive_seal(struct bench *bench)
{
    const uint64_t budget = (bench->is_quick ? 16 : 64) * BENCH_MIB;
    struct server server;
    char memory[80], remote[400];
    bool is_done;

    snprintf(memory, sizeof(memory), "mem:?size=%lluM",
             (unsigned long long)(16 * budget / BENCH_MIB));
    bench_server_start(bench, 8 * budget, &server, remote);
    is_done = drive_page(bench, "aes256gcm") && drive_page(bench, "chacha20") &&
              drive_load(bench, "mem", memory, budget) && drive_load(bench, "tcp", remote, budget);
    server_end(&server);
    return is_done;
}
