/* SPDX-License-Identifier: MIT */

/*
 * Remote: pages in the memory of a weir-memd, over TCP on this machine: what the software costs
 * when the network costs next to nothing.
 *
 *   miss     one thread touches random pages of 16 times the budget and, between two touches, asks
 *            a bare server for 4 KiB over a connection of the same kind: 64 bytes there, 64 and a
 *            page back, by blocking calls, nothing looked at
 *   scan     reading four times the budget from end to end, beside a bare stream of 2 MiB requests
 *   thrash   random touches of four times the budget, beside the kernel's swap file on the disk
 */

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runs.h"
#include "tests/server/server.h"

#define ASKED_BYTES 64u
#define STREAM_SIZE (2 * BENCH_MIB)

/* --- Bare requests and replies --------------------------------------------------------------- */

static void be_quick(int fd)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static bool move_all(int fd, char *bytes, size_t count, bool is_out)
{
    while (count > 0) {
        ssize_t moved = is_out ? send(fd, bytes, count, MSG_NOSIGNAL) : recv(fd, bytes, count, 0);

        if (moved <= 0)
            return false;
        bytes += moved;
        count -= (size_t)moved;
    }
    return true;
}

/* What is asked for is the first word of the request: so many bytes. */
static void answer_all(int fd, char *bytes)
{
    uint64_t wanted[ASKED_BYTES / sizeof(uint64_t)];

    while (move_all(fd, (char *)wanted, sizeof(wanted), false) && wanted[0] <= STREAM_SIZE &&
           move_all(fd, bytes, ASKED_BYTES + wanted[0], true))
        ;
    close(fd);
}

static _Noreturn void serve_bare(int door)
{
    char *bytes = calloc(1, ASKED_BYTES + STREAM_SIZE);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(door, NULL, NULL);

        if (fd < 0 || !bytes)
            _exit(1);
        be_quick(fd);
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            answer_all(fd, bytes);
            _exit(0);
        }
        close(fd);
    }
}

static uint16_t start_bare(pid_t *child_p)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(address);
    int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (door < 0 || bind(door, (struct sockaddr *)&address, length) != 0 || listen(door, 8) != 0 ||
        getsockname(door, (struct sockaddr *)&address, &length) != 0)
        bench_fail("cannot listen on the loopback");
    *child_p = fork();
    if (*child_p == 0)
        serve_bare(door);
    close(door);
    return ntohs(address.sin_port);
}

static int dial(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        bench_fail("the bare server does not answer");
    be_quick(fd);
    return fd;
}

/* Nanoseconds. */
static uint64_t ask_bare(int fd, uint64_t bytes)
{
    static char reply[ASKED_BYTES + STREAM_SIZE];
    uint64_t wanted[ASKED_BYTES / sizeof(uint64_t)] = {bytes};
    uint64_t begun = bench_now_ns();

    if (!move_all(fd, (char *)wanted, sizeof(wanted), true) ||
        !move_all(fd, reply, ASKED_BYTES + bytes, false))
        bench_fail("the bare server has gone");
    return bench_now_ns() - begun;
}

/* --- The runs -------------------------------------------------------------------------------- */

static uint64_t demand_reads(const struct bench_memory *memory)
{
    struct weir_stats stats;

    bench_stats(memory, &stats);
    return stats.reads_demand;
}

/* remote: budget= pages= spec= bare= samples= -> p50 p99 bare_p50 bare_p99 */
void bench_run_remote(void)
{
    static struct bench_histogram touches, bare;
    const uint64_t wanted = bench_argument("samples", 0), end = bench_now_ns() + 60000000000ull;
    const int fd = dial((uint16_t)bench_argument("bare", 0));
    struct bench_memory memory;
    uint64_t random = 7;

    bench_memory_open(&memory);
    bench_fill_all(&memory);
    for (uint64_t i = 0; touches.count < wanted && bench_now_ns() < end; i++) {
        bool is_steady = i >= memory.pages / 12; /* the dirty pages of the filling are gone */
        uint64_t page = (bench_draw(&random) >> 16) % memory.pages;
        uint64_t before = demand_reads(&memory);
        uint64_t took = bench_touch_read(&memory, 0, page);

        if (is_steady && demand_reads(&memory) == before + 1)
            bench_histogram_add(&touches, took);
        if (is_steady)
            bench_histogram_add(&bare, ask_bare(fd, BENCH_PAGE));
    }
    bench_tell("p50", bench_histogram_us(&touches, 0.5));
    bench_tell("p99", bench_histogram_us(&touches, 0.99));
    bench_tell("bare_p50", bench_histogram_us(&bare, 0.5));
    bench_tell("bare_p99", bench_histogram_us(&bare, 0.99));
    bench_tell("samples", (double)touches.count);
    bench_memory_close(&memory);
    close(fd);
}

/* bare_scan: bare= bytes= -> read (MB/s). One request ahead: a stream is never idle. */
void bench_run_bare_scan(void)
{
    const int fd = dial((uint16_t)bench_argument("bare", 0));
    const uint64_t count = bench_argument("bytes", 0) / STREAM_SIZE;
    static char reply[ASKED_BYTES + STREAM_SIZE];
    uint64_t wanted[ASKED_BYTES / sizeof(uint64_t)] = {STREAM_SIZE};
    uint64_t begun = bench_now_ns();

    for (uint64_t i = 0; i <= count; i++)
        if ((i < count && !move_all(fd, (char *)wanted, sizeof(wanted), true)) ||
            (i > 0 && !move_all(fd, reply, sizeof(reply), false)))
            bench_fail("the bare server has gone");
    bench_tell("read", (double)(count * STREAM_SIZE) * 1e3 / (double)(bench_now_ns() - begun));
    close(fd);
}

/* --- The bench ------------------------------------------------------------------------------- */

void bench_server_start(const struct bench *bench, uint64_t bytes, struct server *server_p,
                        char spec[400])
{
    char key_path[300];
    int os_error;

    snprintf(key_path, sizeof(key_path), "%s/key", bench->dir);
    bench_undo("unlink", key_path);
    os_error = server_start(key_path, bytes, server_p);
    if (os_error)
        bench_fail("no memory server: %s", strerror(os_error));
    snprintf(spec, 400, "tcp://127.0.0.1:%u?size=%lluM&key=%s", server_p->port,
             (unsigned long long)(bytes / BENCH_MIB), key_path);
}

struct stage {
    uint64_t budget, bytes; /* bytes: of the server */
    struct server memory;
    pid_t bare;
    uint16_t bare_port;
    char spec[400];
    unsigned rounds;
};

static void print_miss(const struct bench *bench, const struct bench_side *side, const char *metric,
                       const char *bare)
{
    struct bench_line line = {
        .point = "random miss of 4 KiB",
        .metric = metric,
        .unit = "us",
        .better = BENCH_LOWER,
        .weir = bench_series(side, metric),
        .baseline = bench_series(side, bare),
        .baseline_name = "bare request and reply of 4 KiB on a connection of the same kind",
        .goal = strcmp(metric, "p50") == 0 ? "over_bare_us <= 8" : NULL,
    };

    line.also[0].name = "over_bare_us";
    line.also[0].value = bench_median(&line.weir) - bench_median(&line.baseline);
    bench_print(bench, &line);
}

static bool drive_miss(struct bench *bench, const struct stage *stage)
{
    static struct bench_side side;
    const uint64_t pages = 16 * stage->budget / BENCH_PAGE;

    bench_side_init(&side, "weir", "remote", "budget=%llu pages=%llu bare=%u samples=%u spec=%s",
                    (unsigned long long)stage->budget, (unsigned long long)pages, stage->bare_port,
                    bench->is_quick ? 8000 : 40000, stage->spec);
    if (!bench_rounds(bench, &side, 1, stage->rounds))
        return false;
    print_miss(bench, &side, "p50", "bare_p50");
    print_miss(bench, &side, "p99", "bare_p99");
    return true;
}

static bool drive_scan(struct bench *bench, const struct stage *stage)
{
    static struct bench_side sides[2];
    const uint64_t bytes = 4 * stage->budget;
    struct bench_line line;

    bench_side_init(&sides[0], "weir", "scan", "budget=%llu pages=%llu spec=%s",
                    (unsigned long long)stage->budget, (unsigned long long)(bytes / BENCH_PAGE),
                    stage->spec);
    bench_side_init(&sides[1], "bare stream", "bare_scan", "bare=%u bytes=%llu", stage->bare_port,
                    (unsigned long long)bytes);
    if (!bench_rounds(bench, sides, 2, stage->rounds))
        return false;
    line = (struct bench_line){
        .point = "4x the budget, read",
        .metric = "rate",
        .unit = "MB/s",
        .better = BENCH_HIGHER,
        .weir = bench_series(&sides[0], "read"),
        .baseline = bench_series(&sides[1], "read"),
        .baseline_name = "bare stream of 2 MiB requests",
        .goal = "ratio >= 0.7",
    };
    bench_print(bench, &line);
    return true;
}

static bool drive_thrash(struct bench *bench, const struct stage *stage)
{
    static struct bench_side sides[2];
    const uint64_t pages = 4 * stage->budget / BENCH_PAGE;
    char swap[300], no_swap[200] = "", point[64];

    bench_swap_file(bench, pages * BENCH_PAGE, swap, no_swap);
    for (unsigned threads = 1; threads <= 8; threads *= 2) {
        bench_side_init(&sides[0], "weir", "load", "memory=weir budget=%llu pages=%llu spec=%s",
                        (unsigned long long)stage->budget, (unsigned long long)pages, stage->spec);
        bench_kernel_side(&sides[1], "kernel swap file", "load", no_swap, stage->budget, pages);
        for (int i = 0; i < 2; i++)
            bench_side_more(&sides[i], " threads=%u writes=50 seconds=%g warm=%llu", threads,
                            bench->is_quick ? 0.7 : 3.0, (unsigned long long)pages * 3 / 8);
        if (!bench_rounds(bench, sides, 2, stage->rounds))
            return false;
        snprintf(point, sizeof(point), "half writes/%u thread%s", threads, threads > 1 ? "s" : "");
        bench_print(bench, &(struct bench_line){
                               .point = point,
                               .metric = "rate",
                               .unit = "touches/s",
                               .better = BENCH_HIGHER,
                               .weir = bench_series(&sides[0], "rate"),
                               .baseline = bench_series(&sides[1], "rate"),
                               .baseline_name = "kernel swap file",
                               .baseline_missing = sides[1].missing,
                               .goal = "ratio >= 1.5",
                           });
    }
    return true;
}

bool bench_drive_remote(struct bench *bench)
{
    struct stage stage = {.budget = (bench->is_quick ? 16 : 64) * BENCH_MIB,
                          .rounds = bench->is_quick ? 1 : 3};
    bool is_done;

    stage.bytes = 20 * stage.budget;
    stage.bare_port = start_bare(&stage.bare);
    bench_server_start(bench, stage.bytes, &stage.memory, stage.spec);
    is_done = drive_miss(bench, &stage) && drive_scan(bench, &stage) && drive_thrash(bench, &stage);
    server_end(&stage.memory);
    kill(stage.bare, SIGKILL);
    return is_done;
}
