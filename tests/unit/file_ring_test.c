/* SPDX-License-Identifier: MIT */

/* A ring whose entries the kernel refuses in the middle of a request, as it does when it is out of
 * memory: a filter sends each io_uring_enter() to a handler, which answers for the kernel. And one
 * whose requests the kernel cancels, because of signals. */

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"
#include "transport/file.h"

/* In an argument that the kernel does not look at while there is no signal mask: let it pass. */
#define PASS 0x77ul

static volatile sig_atomic_t calls, refuse_from, refuse_count, refused;

#ifdef __x86_64__
static void on_call(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long result;

    (void)number;
    (void)info;
    if (++calls >= refuse_from && refused < refuse_count) {
        refused++;
        result = -EAGAIN;
    } else {
        result = syscall(SYS_io_uring_enter, registers[REG_RDI], registers[REG_RSI],
                         registers[REG_RDX], registers[REG_R10], registers[REG_R8], PASS);
        result = result < 0 ? -errno : result;
    }
    registers[REG_RAX] = result;
}

static bool answer_for_the_kernel(void)
{
    struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO};
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PASS, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

    return sigaction(SIGSYS, &action, NULL) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}
#else
static bool answer_for_the_kernel(void)
{
    return false;
}
#endif

/* Through the page cache a write has three stages, each an entry of its own. */
static struct weir_backend *open_ring(struct weir_channel **channel_p)
{
    struct weir_backend *backend = kit_open(kit_text("file:%s?size=4m&direct=off", kit_directory()),
                                            WEIR_OK);

    if (!strstr(kit_describe(backend).how, "io_uring"))
        cr_skip_test("io_uring is refused here");
    *channel_p = kit_channel(backend, 4);
    if (!answer_for_the_kernel())
        cr_skip_test("no seccomp filters here, or another processor");
    return backend;
}

static void close_ring(struct weir_backend *backend, struct weir_channel *channel)
{
    backend->ops->channel_close(channel);
    kit_close(backend);
}

Test(file_ring, a_stage_that_is_refused_for_a_moment_is_sent_again)
{
    struct weir_channel *channel;
    struct weir_backend *backend = open_ring(&channel);

    refuse_from = 2; /* the first sends the first stage */
    refuse_count = 5;
    cr_expect_eq(kit_write(channel, 9, 3, 0x44, NULL), WEIR_OK);
    cr_expect_eq(refused, 5);
    cr_expect(kit_holds(backend, 9, 3, 0x44));
    close_ring(backend, channel);
}

Test(file_ring, one_that_is_refused_for_long_is_an_error)
{
    struct weir_channel *channel;
    struct weir_backend *backend = open_ring(&channel);
    int os_error = 0;

    refuse_from = 2;
    refuse_count = WR_FILE_RETRIES_MAX;
    cr_expect_eq(kit_write(channel, 9, 3, 0x44, &os_error), WEIR_EIO);
    cr_expect_eq(os_error, EAGAIN);
    cr_expect_eq(kit_write(channel, 9, 3, 0x55, NULL), WEIR_OK, "and it goes on");
    cr_expect(kit_holds(backend, 9, 3, 0x55));
    close_ring(backend, channel);
}

/* --- Signals --------------------------------------------------------------------------------- */

#define STORM_THREADS 150
#define STORM_US      60

static void ignore(int number)
{
    (void)number;
}

static void *write_once(void *context)
{
    struct weir_backend *backend = context;
    struct weir_channel *channel = kit_channel(backend, 4);
    int os_error = 0;

    cr_expect_eq(kit_write(channel, 16, 16, 0x66, &os_error), WEIR_OK, "%s", strerror(os_error));
    backend->ops->channel_close(channel);
    return NULL;
}

/* Where a request has to wait, the kernel starts a worker for the thread that asked; a signal which
 * comes meanwhile hinders it, and after three tries it cancels the request. Each thread has a
 * worker of its own, so that a new one is started each time. */
Test(file_ring, signals_cancel_no_request)
{
    struct sigaction action = {.sa_handler = ignore};
    struct itimerval often = {{0, STORM_US}, {0, STORM_US}}, never = {{0, 0}, {0, 0}};
    struct weir_backend *backend = kit_open(kit_text("file:%s?size=4m&direct=off", kit_directory()),
                                            WEIR_OK);
    sigset_t alarm, before;
    pthread_t thread;

    cr_assert_eq(sigaction(SIGALRM, &action, NULL), 0);
    cr_assert_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    for (int i = 0; i < STORM_THREADS; i++) {
        cr_assert_eq(pthread_create(&thread, NULL, write_once, backend), 0);
        pthread_sigmask(SIG_BLOCK, &alarm, &before); /* all of them are the thread's */
        pthread_join(thread, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    cr_expect(kit_holds(backend, 16, 16, 0x66));
    kit_close(backend);
}
