/* SPDX-License-Identifier: MIT */

/*
 * Remote: pages in the memory of a weir-memd, over TCP on this machine: what the software costs
 * when the network costs next to nothing.
 *
 *   remote          one thread touches random pages of 16 times the budget and, between two
 *                   touches, asks a bare server for 4 KiB over a connection of the same kind: 64
 *                   bytes there, 64 and a page back, by blocking calls, nothing looked at
 *   remote-thrash   random touches of four times the budget, beside the kernel's swap file and
 *                   Weir's own on the same disk
 *   remote-scan     reading four times the budget from end to end, beside a bare stream of 2 MiB
 *                   requests
 *
 * The first and the last have more sides: the same with pages in this process (mem), which is what
 * Weir costs without any network at all; and the same over TCP without a seal on each page.
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
    uint64_t budget;
    struct server memory;
    pid_t bare;
    uint16_t bare_port;
    char spec[400], mem_spec[60];
    char no_swap[200]; /* why there is none: of remote-thrash */
    unsigned rounds;
};

/* times: of the budget, that pages take. Both servers run. */
static void open_stage(const struct bench *bench, uint64_t budget_mib, unsigned times,
                       struct stage *stage_p)
{
    uint64_t bytes;

    *stage_p = (struct stage){.budget = budget_mib * BENCH_MIB, .rounds = bench->is_quick ? 1 : 3};
    bytes = (times + times / 4 + 2) * stage_p->budget;
    stage_p->bare_port = start_bare(&stage_p->bare);
    bench_server_start(bench, bytes, &stage_p->memory, stage_p->spec);
    snprintf(stage_p->mem_spec, sizeof(stage_p->mem_spec), "mem:?size=%lluM",
             (unsigned long long)(bytes / BENCH_MIB));
}

static void close_stage(const struct stage *stage)
{
    server_end(&stage->memory);
    kill(stage->bare, SIGKILL);
}

static const char *const side_names[] = {"weir", "weir on mem", "weir, seal=off"};

/* --- remote ---------------------------------------------------------------------------------- */

static void print_miss(const struct bench *bench, const struct bench_side sides[3],
                       const char *metric, const char *bare)
{
    struct bench_line line = {
        .point = "random miss of 4 KiB",
        .metric = metric,
        .unit = "us",
        .better = BENCH_LOWER,
        .weir = bench_series(&sides[0], metric),
        .baseline = bench_series(&sides[0], bare),
        .baseline_name = "bare request and reply of 4 KiB on a connection of the same kind",
        .goal = "over_bare_us <= 8",
    };
    const double mem = bench_result(&sides[1], metric), miss = bench_median(&line.weir);

    line.also[0].name = "over_bare_us";
    line.also[0].value = miss - bench_median(&line.baseline);
    line.also[1].name = "on_mem_us";
    line.also[1].value = mem;
    /* What it costs that the page is elsewhere, and how much of that a bare request costs not. */
    line.also[2].name = "over_mem_us";
    line.also[2].value = miss - mem;
    line.also[3].name = "reach_over_bare_us";
    line.also[3].value = miss - mem - bench_median(&line.baseline);
    line.also[4].name = "unsealed_us";
    line.also[4].value = bench_result(&sides[2], metric);
    bench_print(bench, &line);
}

bool bench_drive_remote(struct bench *bench)
{
    static struct bench_side sides[3];
    struct stage stage;
    bool is_done;

    open_stage(bench, bench->is_quick ? 16 : 64, 16, &stage);
    for (int i = 0; i < 3; i++)
        bench_side_init(&sides[i], side_names[i], "remote",
                        "budget=%llu pages=%llu bare=%u samples=%u spec=%s%s",
                        (unsigned long long)stage.budget,
                        (unsigned long long)(16 * stage.budget / BENCH_PAGE), stage.bare_port,
                        bench->is_quick ? 8000 : 40000, i == 1 ? stage.mem_spec : stage.spec,
                        i == 2 ? "&seal=off" : "");
    is_done = bench_rounds(bench, sides, 3, stage.rounds);
    if (is_done) {
        print_miss(bench, sides, "p50", "bare_p50");
        print_miss(bench, sides, "p99", "bare_p99");
    }
    close_stage(&stage);
    return is_done;
}

/* --- remote-scan ----------------------------------------------------------------------------- */

static void print_scan(const struct bench *bench, const struct bench_side sides[4])
{
    struct bench_line line = {
        .point = "4x the budget, read",
        .metric = "rate",
        .unit = "MB/s",
        .better = BENCH_HIGHER,
        .weir = bench_series(&sides[0], "read"),
        .baseline = bench_series(&sides[3], "read"),
        .baseline_name = "bare stream of 2 MiB requests",
        .goal = "ratio >= 0.7",
    };
    const double mem = bench_result(&sides[1], "read");

    line.also[0].name = "on_mem";
    line.also[0].value = mem;
    line.also[1].name = "of_mem";
    line.also[1].value = mem > 0 ? bench_median(&line.weir) / mem : 0;
    line.also[2].name = "unsealed";
    line.also[2].value = bench_result(&sides[2], "read");
    bench_print(bench, &line);
}

bool bench_drive_remote_scan(struct bench *bench)
{
    static struct bench_side sides[4];
    struct stage stage;
    uint64_t bytes;
    bool is_done;

    /* With much less, streams are too short of room to run ahead. */
    open_stage(bench, bench->is_quick ? 48 : 256, 4, &stage);
    bytes = 4 * stage.budget;
    for (int i = 0; i < 3; i++)
        bench_side_init(&sides[i], side_names[i], "scan", "budget=%llu pages=%llu spec=%s%s",
                        (unsigned long long)stage.budget, (unsigned long long)(bytes / BENCH_PAGE),
                        i == 1 ? stage.mem_spec : stage.spec, i == 2 ? "&seal=off" : "");
    bench_side_init(&sides[3], "bare stream", "bare_scan", "bare=%u bytes=%llu", stage.bare_port,
                    (unsigned long long)bytes);
    is_done = bench_rounds(bench, sides, 4, stage.rounds);
    if (is_done)
        print_scan(bench, sides);
    close_stage(&stage);
    return is_done;
}

/* --- remote-thrash --------------------------------------------------------------------------- */

static void print_thrash(const struct bench *bench, const char *point,
                         const struct bench_side *weir, const struct bench_side *other)
{
    bench_print(bench, &(struct bench_line){
                           .point = point,
                           .metric = "rate",
                           .unit = "touches/s",
                           .better = BENCH_HIGHER,
                           .weir = bench_series(weir, "rate"),
                           .baseline = bench_series(other, "rate"),
                           .baseline_name = other->name,
                           .baseline_missing = other->missing,
                           .goal = other->name[0] == 'k' ? "ratio >= 1.5" : NULL,
                       });
}

static bool thrash(struct bench *bench, const struct stage *stage, unsigned writes,
                   unsigned threads)
{
    static struct bench_side sides[3];
    const uint64_t pages = 4 * stage->budget / BENCH_PAGE;
    char file[300], point[64];

    snprintf(point, sizeof(point), "%s/%u thread%s", writes ? "half writes" : "reads", threads,
             threads > 1 ? "s" : "");
    if (!bench_is_asked(bench, point))
        return true;
    bench_file_spec(bench, pages, file);
    for (int i = 0; i < 3; i += 2)
        bench_side_init(&sides[i], i == 0 ? "weir" : "Weir on a file on the same disk", "load",
                        "memory=weir budget=%llu pages=%llu spec=%s",
                        (unsigned long long)stage->budget, (unsigned long long)pages,
                        i == 0 ? stage->spec : file);
    bench_kernel_side(&sides[1], "kernel swap file", "load", stage->no_swap, stage->budget, pages);
    for (int i = 0; i < 3; i++)
        bench_side_more(&sides[i], " threads=%u writes=%u seconds=%g warm=%llu", threads, writes,
                        bench->is_quick ? 0.7 : 3.0, (unsigned long long)pages * 3 / 8);
    if (!bench_rounds(bench, sides, 3, stage->rounds))
        return false;
    print_thrash(bench, point, &sides[0], &sides[1]);
    print_thrash(bench, point, &sides[0], &sides[2]);
    return true;
}

bool bench_drive_remote_thrash(struct bench *bench)
{
    struct stage stage;
    bool is_done = true;
    char swap[300];

    open_stage(bench, bench->is_quick ? 16 : 64, 4, &stage);
    bench_swap_file(bench, 4 * stage.budget, swap, stage.no_swap);
    for (unsigned writes = 0; writes <= 50; writes += 50)
        for (unsigned threads = 1; threads <= 8 && is_done; threads *= 2)
            is_done = thrash(bench, &stage, writes, threads);
    close_stage(&stage);
    return is_done;
}
