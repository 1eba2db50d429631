/* SPDX-License-Identifier: MIT */
#include "runtime/host/trap.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime/base/check.h"

static pthread_mutex_t arm_mutex = PTHREAD_MUTEX_INITIALIZER; /* keeps `armed` and `before_bus` */
static unsigned armed;
static struct sigaction before_bus;
static struct sigaction oldest_bus; /* what was there before the very first of our handlers */
static bool has_oldest;
static _Atomic(wr_trap_fn) trap_fn;

static struct sigaction before_segv;
static bool (*is_lost_fn)(uint64_t addr);

#if defined(__x86_64__)
/* The page fault's error code: bit 0 the page was present, bit 1 it was a store. */
static void read_cause(const ucontext_t *context, struct wr_touch *touch)
{
    greg_t cause = context->uc_mcontext.gregs[REG_ERR];

    touch->access = cause & 2 ? WR_ACCESS_WRITE : WR_ACCESS_READ;
    touch->presence = cause & 1 ? WR_PAGE_PRESENT : WR_PAGE_ABSENT;
}
#else
/* A processor whose signal frame we cannot read: the state of the page decides. */
static void read_cause(const ucontext_t *context, struct wr_touch *touch)
{
    (void)context;
    touch->access = WR_ACCESS_UNKNOWN;
    touch->presence = WR_PRESENCE_UNKNOWN;
}
#endif

static void set_default(int number)
{
    struct sigaction action;

    memset(&action, 0, sizeof(action));
    action.sa_handler = SIG_DFL;
    sigaction(number, &action, NULL);
}

/* Let the program's handler run as if it had been called first. The signal itself stays open, so
 * that a handler that touches a region is served like everybody else. */
static void call_before(struct sigaction *before, int number, siginfo_t *info, void *context)
{
    const ucontext_t *interrupted = context;
    struct sigaction action = *before;
    sigset_t mask = interrupted->uc_sigmask;

    for (int s = 1; s < NSIG; s++)
        if (sigismember(&action.sa_mask, s) == 1)
            sigaddset(&mask, s);
    sigdelset(&mask, number);
    if (action.sa_flags & SA_RESETHAND)
        before->sa_handler = SIG_DFL;
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (action.sa_flags & SA_SIGINFO)
        action.sa_sigaction(number, info, context);
    else
        action.sa_handler(number);
}

static void pass_on(struct sigaction *before, int number, siginfo_t *info, void *context)
{
    /* Raised by an instruction, not sent by somebody, nor told of memory that nobody has touched.
     */
    bool is_fault = info->si_code > 0 && !(number == SIGBUS && info->si_code == BUS_MCEERR_AO);

    if ((before->sa_flags & SA_SIGINFO) ||
        (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)) {
        call_before(before, number, info, context);
        return;
    }
    if (before->sa_handler == SIG_IGN && !is_fault)
        return;
    /* The instruction runs again and dies of its own fault, so that the core shows it. */
    set_default(number);
    if (!is_fault)
        syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), number);
}

/* Nobody knows the address. It may have been a region's when the touch trapped, and sealed since:
 * then the instruction, run again, meets SIGSEGV; anything else traps again, and is passed on. */
static bool is_first_time(const siginfo_t *info)
{
    static _Thread_local uint64_t last;
    bool is_first = info->si_code == BUS_ADRERR && last != (uintptr_t)info->si_addr;

    last = (uintptr_t)info->si_addr;
    return is_first;
}

/* Somebody who put a handler above ours may pass this on to us a second time, after we were armed
 * again above him: the ring is left at its oldest member. A handler that jumps out never comes
 * back here, and the next signal may find the same context; but then not deeper in the stack. */
static void pass_on_bus(siginfo_t *info, void *context, uintptr_t frame)
{
    static _Thread_local struct {
        const void *context;
        uintptr_t frame;
    } passing;
    const void *kept_context = passing.context;
    uintptr_t kept_frame = passing.frame;
    bool is_ring = context == kept_context && frame < kept_frame;

    passing.context = context;
    passing.frame = frame;
    pass_on(is_ring ? &oldest_bus : &before_bus, SIGBUS, info, context);
    passing.context = kept_context;
    passing.frame = kept_frame;
}

static void on_bus(int number, siginfo_t *info, void *context)
{
    int kept_errno = errno;
    struct wr_touch touch = {.addr = (uintptr_t)info->si_addr};
    enum wr_trap_answer answer = WR_TRAP_FOREIGN;
    wr_trap_fn fn = atomic_load_explicit(&trap_fn, memory_order_acquire);

    (void)number;
    /* Memory that failed (BUS_MCEERR_AR) is mapped, and nothing that we do would bring its bytes.
     */
    if (fn && info->si_code == BUS_ADRERR) {
        read_cause(context, &touch);
        answer = fn(&touch);
        if (answer == WR_TRAP_FOREIGN && is_first_time(info))
            answer = WR_TRAP_RETRY;
    }
    if (answer != WR_TRAP_RETRY)
        pass_on_bus(info, context, (uintptr_t)__builtin_frame_address(0));
    errno = kept_errno;
}

static void on_segv(int number, siginfo_t *info, void *context)
{
    static const char text[] =
        "weir: fork child touched a region; regions are not inherited, use memory of another kind "
        "or exec a new program\n";
    int kept_errno = errno;

    if (info->si_code > 0 && is_lost_fn((uintptr_t)info->si_addr)) {
        ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);

        (void)ignored;
    }
    pass_on(&before_segv, number, info, context);
    errno = kept_errno;
}

static void install(int number, void (*handler)(int, siginfo_t *, void *), struct sigaction *before)
{
    struct sigaction action;

    memset(&action, 0, sizeof(action));
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    /* Everything, also the two that the C library hides from sigfillset(): an asynchronous
     * pthread_cancel() must not unwind a thread out of a half-done fault. */
    memset(&action.sa_mask, 0xff, sizeof(action.sa_mask));
    WR_CHECK(sigaction(number, &action, before) == 0);
}

void wr_trap_arm(wr_trap_fn fn)
{
    pthread_mutex_lock(&arm_mutex);
    atomic_store_explicit(&trap_fn, fn, memory_order_release);
    if (armed++ == 0 && !wr_trap_is_armed()) {
        install(SIGBUS, on_bus, &before_bus);
        if (!has_oldest)
            oldest_bus = before_bus;
        has_oldest = true;
    }
    pthread_mutex_unlock(&arm_mutex);
}

bool wr_trap_is_armed(void)
{
    struct sigaction now;

    return sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) &&
           now.sa_sigaction == on_bus;
}

bool wr_trap_is_last(void)
{
    /* Read without the mutex: a handler cannot take it, and the answer only chooses between a
     * message that is printed and one that is not. */
    return !(before_bus.sa_flags & SA_SIGINFO) &&
           (before_bus.sa_handler == SIG_DFL || before_bus.sa_handler == SIG_IGN);
}

void wr_trap_disarm(void)
{
    pthread_mutex_lock(&arm_mutex);
    WR_CHECK(armed > 0);
    if (--armed == 0 && wr_trap_is_armed())
        WR_CHECK(sigaction(SIGBUS, &before_bus, NULL) == 0);
    pthread_mutex_unlock(&arm_mutex);
}

void wr_trap_mourn(bool (*is_lost)(uint64_t addr))
{
    if (is_lost_fn)
        return;
    is_lost_fn = is_lost;
    install(SIGSEGV, on_segv, &before_segv);
}
