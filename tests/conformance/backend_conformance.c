/* SPDX-License-Identifier: MIT */

/*
 * The examination of back ends: of those in the library, by every way they can work on this machine
 * (all, or the kinds that are named), or of specifications; the place of such a one has to be one
 * whose contents nobody needs. Files are made in $TMPDIR, or /var/tmp. Prints TAP; ends with 77 if
 * this machine could run nothing.
 *
 *     backend_conformance
 *     backend_conformance mem file device array chaos seal tcp rdma
 *     backend_conformance 'file:/dev/nvme1n1?overwrite=yes' 'chaos(mem:?size=8m)?short=1'
 *
 * CONFORM_ROUNDS: what is opened and closed a hundred times, twice, is so often; for machines that
 * are slow.
 */

#include <fcntl.h>
#include <ftw.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/conformance/conform.h"
#include "tests/server/server.h"

/* Two clusters and a part of one, and less than a page behind that. */
#define SIZE_BYTES (2 * 2097152 + 3 * 4096 + 512)
#define SIZE       "size=4207104"
_Static_assert(SIZE_BYTES == 4207104, "the same number, for specifications");

/* In a new directory, the current one. The first file is O_DIRECT and io_uring where there is
 * that; the next have less of it. Skipped where asking for it gives WEIR_ENOSUPPORT. */
static const struct {
    const char *kind, *spec;
} subjects[] = {
    {"mem", "mem:?" SIZE},
    {"file", "file:.?" SIZE},
    {"file", "file:.?" SIZE "&uring=off&direct=on"},
    {"file", "file:.?" SIZE "&uring=on&direct=off"},
    {"file", "file:.?" SIZE "&uring=off&direct=off"},
    {"file", "file:.?" SIZE "&discard=on"},
    {"file", "file:a%20name?" SIZE},
    {"file", "file:kept?" SIZE "&keep=yes"},
    {"file", "file:/dev/shm?" SIZE},
    {"array", "mirror(mem:?" SIZE ", mem:?" SIZE ")"},
    {"array", "mirror(mem:?" SIZE ",mem:?" SIZE ",mem:?" SIZE ",mem:?" SIZE ")?copies=3"},
    {"array", "spread(mem:?" SIZE ", mem:?size=2105344, file:.?" SIZE ")"},
    {"array", "mirror(file:.?" SIZE ", file:.?" SIZE "&uring=off&direct=off)"},
    {"array",
     "mirror(chaos(mem:?" SIZE ")?seed=8&jitter_us=100&reorder=1&short=0.5, mem:?" SIZE ")"},
    {"array",
     "spread(chaos(mem:?" SIZE ")?seed=9&jitter_us=100&reorder=1&short=0.5, mem:?" SIZE ")"},
    {"array", "ec(2+1, mem:?" SIZE ", mem:?" SIZE ", mem:?" SIZE ")"},
    {"array", "ec(3+2, chaos(mem:?" SIZE ")?seed=10&jitter_us=100&reorder=1&short=0.5, mem:?" SIZE
              ", file:.?" SIZE ", mem:?" SIZE ", mem:?" SIZE ", mem:?" SIZE ")"},
    {"chaos", "chaos(mem:?" SIZE ")?seed=1"},
    {"chaos", "chaos(mem:?" SIZE ")?seed=2&delay_us=20&jitter_us=60&reorder=1&short=0.5"},
    {"chaos", "chaos(file:.?" SIZE ")?seed=3&jitter_us=100&reorder=1&short=0.5"},
    {"chaos", "chaos(chaos(mem:?" SIZE ")?seed=4&jitter_us=100)?seed=5&reorder=1&short=0.5"},
    {"seal", "mem:?seal=on&" SIZE},
    {"seal", "file:.?" SIZE "&seal=on"},
    {"seal", "chaos(file:.?" SIZE ")?seed=7&jitter_us=100&reorder=1&short=0.5&seal=on"},
};

struct tally {
    uint32_t number, failed, skipped;
};

/* --- One case -------------------------------------------------------------------------------- */

static _Noreturn void run_here(const struct conform_case *test, const char *spec)
{
    struct conform conform;

    alarm(300);
    conform_open(&conform, spec);
    test->run(&conform);
    conform_close(&conform);
    fflush(stdout);
    exit(0); /* and not _Exit: a leak checker has its say now */
}

static void report(struct tally *tally, const char *spec, const char *name, int status)
{
    const bool is_skipped = WIFEXITED(status) && WEXITSTATUS(status) == CONFORM_SKIPPED;
    const bool is_ok = is_skipped || (WIFEXITED(status) && WEXITSTATUS(status) == 0);

    if (WIFSIGNALED(status))
        printf("# ended by signal %d\n", WTERMSIG(status));
    printf("%sok %u - %s: %s%s\n", is_ok ? "" : "not ", ++tally->number, spec, name,
           is_skipped ? " # SKIP" : "");
    fflush(stdout);
    tally->failed += !is_ok;
    tally->skipped += is_skipped;
}

static void examine(struct tally *tally, const char *spec)
{
    for (size_t i = 0; i < conform_case_count; i++) {
        int status = -1;
        pid_t child = fork();

        if (child == 0)
            run_here(&conform_cases[i], spec);
        waitpid(child, &status, 0);
        report(tally, spec, conform_cases[i].name, status);
    }
}

/* --- A block device -------------------------------------------------------------------------- */

/* A loop device over a new file, blank. -1: this machine or user has none to give. */
static int loop_attach(char *device, size_t room)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    int loop = -1, file = -1;

    snprintf(device, room, "/dev/loop%d", number);
    if (number >= 0)
        loop = open(device, O_RDWR | O_CLOEXEC);
    if (loop >= 0)
        file = open("device", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file >= 0 &&
        (ftruncate(file, 2097152 + SIZE_BYTES) != 0 || ioctl(loop, LOOP_SET_FD, file) != 0)) {
        close(loop);
        loop = -1;
    }
    if (file >= 0)
        close(file);
    if (control >= 0)
        close(control);
    return loop;
}

static void examine_device(struct tally *tally)
{
    char device[32], spec[64];
    int loop = loop_attach(device, sizeof(device));

    if (loop < 0) {
        printf("# no loop device for this user\n");
        report(tally, "file:/dev/loopN", "all", CONFORM_SKIPPED << 8);
        return;
    }
    snprintf(spec, sizeof(spec), "file:%s?discard=on", device);
    examine(tally, spec);
    ioctl(loop, LOOP_CLR_FD);
    close(loop);
}

/* --- A memory server ------------------------------------------------------------------------- */

/* In a process of its own, as a server is. */
static void examine_tcp(struct tally *tally)
{
    struct server server;
    char spec[300];

    if (server_start("key", 64 << 20, &server) != 0) {
        printf("# no memory server could be started\n");
        report(tally, "tcp", "all", CONFORM_FAILED << 8);
        return;
    }
    snprintf(spec, sizeof(spec), "tcp://127.0.0.1:%u?key=key&" SIZE, server.port);
    examine(tally, spec);
    snprintf(spec, sizeof(spec), "tcp://localhost:%u?key=key&spin_us=0&" SIZE, server.port);
    examine(tally, spec);
    snprintf(spec, sizeof(spec), "chaos(tcp://127.0.0.1:%u?key=key&" SIZE ")?seed=6&reorder=1",
             server.port);
    examine(tally, spec);
    snprintf(spec, sizeof(spec),
             "mirror(tcp://127.0.0.1:%u?key=key&" SIZE ", tcp://127.0.0.1:%u?key=key&" SIZE ")",
             server.port, server.port);
    examine(tally, spec);
    server_end(&server);
}

/* In the virtual machine (./dev vm), or wherever a device has the address in WEIR_RDMA. */
static void examine_rdma(struct tally *tally)
{
    const char *address = getenv("WEIR_RDMA");
    struct server server;
    char spec[128];

    if (!address) {
        printf("# WEIR_RDMA has the address of no RDMA device\n");
        report(tally, "rdma", "all", CONFORM_SKIPPED << 8);
        return;
    }
    snprintf(spec, sizeof(spec), "rdma://%s:0", address);
    if (server_start_at(spec, "rdma-key", 64 << 20, &server) != 0) {
        printf("# no memory server could be started\n");
        report(tally, "rdma", "all", CONFORM_FAILED << 8);
        return;
    }
    snprintf(spec, sizeof(spec), "rdma://%s:%u?key=rdma-key&" SIZE, address, server.port);
    examine(tally, spec);
    snprintf(spec, sizeof(spec), "rdma://%s:%u?key=rdma-key&spin_us=0&" SIZE, address, server.port);
    examine(tally, spec);
    snprintf(spec, sizeof(spec), "chaos(rdma://%s:%u?key=rdma-key&" SIZE ")?seed=6&reorder=1",
             address, server.port);
    examine(tally, spec);
    server_end(&server);
}

/* --- All ------------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *status, int flag, struct FTW *walk)
{
    (void)status;
    (void)flag;
    (void)walk;
    return remove(path);
}

/* Of the back ends in the library those of this kind, or all. */
static void examine_library(struct tally *tally, const char *kind)
{
    const char *base = getenv("TMPDIR");
    char directory[256];

    snprintf(directory, sizeof(directory), "%s/weir-conformance-XXXXXX", base ? base : "/var/tmp");
    if (!mkdtemp(directory) || chdir(directory) != 0) {
        perror(directory);
        exit(CONFORM_FAILED);
    }
    for (size_t i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++)
        if (!kind || strcmp(kind, subjects[i].kind) == 0)
            examine(tally, subjects[i].spec);
    if (!kind || strcmp(kind, "device") == 0)
        examine_device(tally);
    if (!kind || strcmp(kind, "tcp") == 0)
        examine_tcp(tally);
    if (!kind || strcmp(kind, "rdma") == 0)
        examine_rdma(tally);
    if (chdir("/") == 0)
        nftw(directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

int main(int argc, char **argv)
{
    struct tally tally = {0};

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 1)
        examine_library(&tally, NULL);
    for (int i = 1; i < argc; i++) {
        if (strchr(argv[i], ':'))
            examine(&tally, argv[i]);
        else
            examine_library(&tally, argv[i]);
    }
    printf("1..%u\n# %u failed, %u skipped\n", tally.number, tally.failed, tally.skipped);
    if (tally.failed || tally.number == 0)
        return CONFORM_FAILED;
    return tally.skipped == tally.number ? CONFORM_SKIPPED : 0;
}
