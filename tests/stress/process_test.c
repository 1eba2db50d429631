/* SPDX-License-Identifier: MIT */

/* How the runtime behaves inside a real process: fork, signals, threads, limits, exec. */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <weir/weir_object.h>

#include "tests/stress/real.h"

#define BUDGET (4 * MIB)
#define PAGES  ((size_t)2048)

/* --- Fork and exec --------------------------------------------------------------------------- */

/* What a child wrote on its standard error before it ended as it did. */
static int run_child(void (*child)(void *), void *context, char *said, size_t room)
{
    int ends[2], status = 0;
    ssize_t n, length = 0;
    pid_t pid;

    cr_assert_eq(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        child(context);
        _exit(0);
    }
    close(ends[1]);
    while ((n = read(ends[0], said + length, room - 1 - (size_t)length)) > 0)
        length += n;
    said[length] = '\0';
    close(ends[0]);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return status;
}

static void touch(void *memory)
{
    *(volatile char *)memory = 1;
}

Test(process, a_fork_child_that_touches_a_region_dies_with_a_message)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory = real_map(rt, PAGES * PAGE);
    char said[1000];
    int status;

    real_fill(memory, PAGES, 1);
    status = run_child(touch, (char *)memory + 5 * PAGE, said, sizeof(said));
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status %#x", (unsigned)status);
    cr_assert(strstr(said, "fork child"), "it said: %s", said);
    real_check(memory, PAGES, 1);
    real_fill(memory, PAGES, 2);
    real_check(memory, PAGES, 2);
    weir_close(rt);
}

static void use_api(void *context)
{
    struct weir_runtime *rt = context, *other;
    void *memory;
    struct weir_stats stats = {.size = sizeof(stats)};

    if (weir_map(rt, PAGE, NULL, &memory) != WEIR_EFORKED || weir_close(rt) != WEIR_EFORKED ||
        weir_stats(rt, &stats) != WEIR_EFORKED || weir_open(NULL, &other) != WEIR_EFORKED ||
        weir_backend_drain(rt, 0) != WEIR_EFORKED)
        _exit(3);
}

Test(process, in_a_fork_child_every_call_says_so)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    char said[1000];
    int status = run_child(use_api, rt, said, sizeof(said));

    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x: %s", (unsigned)status,
              said);
    weir_close(rt);
}

static void open_one(void *context)
{
    struct weir_options *options = context;
    struct weir_runtime *rt;
    void *memory;

    if (weir_open(options, &rt) != WEIR_OK || weir_map(rt, PAGES * PAGE, NULL, &memory) != WEIR_OK)
        _exit(3);
    memset(memory, 5, PAGES * PAGE);
    if (((char *)memory)[77 * PAGE] != 5 || weir_close(rt) != WEIR_OK)
        _exit(4);
}

Test(process, a_fork_child_may_open_its_own_when_the_parent_had_none_open)
{
    struct weir_options options;
    char said[1000];
    int status;

    real_options(&options, BUDGET, "mem:?size=64M");
    weir_close(real_open_with(&options));
    status = run_child(open_one, &options, said, sizeof(said));
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x: %s", (unsigned)status,
              said);
}

static size_t open_files(void)
{
    size_t count = 0;

    for (int fd = 0; fd < 1000; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

Test(process, exec_inherits_nothing)
{
    struct weir_runtime *rt = real_open(BUDGET, "file:/var/tmp?size=64M");

    real_map(rt, PAGE);
    for (int fd = 3; fd < 1000; fd++) {
        int flags = fcntl(fd, F_GETFD);
        char link[64], target[256] = "";
        ssize_t n;

        if (flags == -1 || (flags & FD_CLOEXEC))
            continue;
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        cr_assert(!strstr(target, "userfaultfd") && !strstr(target, "io_uring") &&
                      !strstr(target, "eventfd") && !strstr(target, "pidfd") &&
                      !strstr(target, "/var/tmp"),
                  "descriptor %d (%s) would survive exec", fd, target);
    }
    weir_close(rt);
}

Test(process, open_and_close_leak_nothing)
{
    size_t before;

    weir_close(real_open(BUDGET, "file:/var/tmp?size=64M"));
    before = open_files();
    for (int i = 0; i < 20; i++) {
        struct weir_runtime *rt = real_open(BUDGET, "file:/var/tmp?size=64M");
        void *memory = real_map(rt, PAGES * PAGE);

        real_fill(memory, PAGES, 1);
        weir_close(rt);
    }
    cr_assert_eq(open_files(), before);
}

/* --- Signals --------------------------------------------------------------------------------- */

static sigjmp_buf after_bus;
static volatile sig_atomic_t bus_count;
static void *volatile bus_addr;

static void on_bus(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    bus_count++;
    bus_addr = info->si_addr;
    siglongjmp(after_bus, 1);
}

static void catch_bus(void)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};

    action.sa_sigaction = on_bus;
    sigaction(SIGBUS, &action, NULL);
}

/* A page of a file beyond its end: a SIGBUS that has nothing to do with us. */
static volatile char *beyond_file(void)
{
    char path[] = "/tmp/weir-bus-XXXXXX";
    int fd = mkstemp(path);
    volatile char *page;

    unlink(path);
    cr_assert_eq(ftruncate(fd, 0), 0);
    page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return page;
}

Test(process, a_foreign_bus_error_goes_to_the_handler_before_ours)
{
    volatile char *page = beyond_file();
    struct weir_runtime *rt;
    void *memory;

    catch_bus();
    rt = real_open(BUDGET, "mem:?size=64M");
    memory = real_map(rt, PAGES * PAGE);
    real_fill(memory, PAGES, 1);
    for (int i = 1; i <= 3; i++) {
        if (sigsetjmp(after_bus, 1) == 0)
            (void)*page;
        cr_assert_eq(bus_count, i);
        cr_assert_eq(bus_addr, (void *)(uintptr_t)page);
        real_check(memory, PAGES, 1);
    }
    weir_close(rt);
    if (sigsetjmp(after_bus, 1) == 0)
        (void)*page;
    cr_assert_eq(bus_count, 4);
}

static void on_bus_plain(int number)
{
    (void)number;
    bus_count++;
    siglongjmp(after_bus, 1);
}

Test(process, a_plain_handler_is_chained_too)
{
    volatile char *page = beyond_file();
    struct weir_runtime *rt;

    signal(SIGBUS, on_bus_plain);
    rt = real_open(BUDGET, "mem:?size=64M");
    if (sigsetjmp(after_bus, 1) == 0)
        (void)*page;
    cr_assert_eq(bus_count, 1);
    weir_close(rt);
}

Test(process, a_foreign_bus_error_without_a_handler_kills, .signal = SIGBUS)
{
    volatile char *page = beyond_file();
    struct weir_runtime *rt;

    signal(SIGBUS, SIG_DFL);
    rt = real_open(BUDGET, "mem:?size=64M");
    real_map(rt, PAGE);
    (void)*page;
}

Test(process, a_sent_bus_error_kills_as_it_would_without_us, .signal = SIGBUS)
{
    signal(SIGBUS, SIG_DFL);
    real_open(BUDGET, "mem:?size=64M");
    raise(SIGBUS);
}

static volatile uint64_t *nested_memory;

static void on_bus_nested(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    (void)context;
    for (size_t i = 0; i < PAGES; i++)
        bus_count += nested_memory[i * 512] == i + 1;
    siglongjmp(after_bus, 1);
}

Test(process, a_chained_handler_may_touch_regions)
{
    volatile char *page = beyond_file();
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    struct weir_runtime *rt;

    action.sa_sigaction = on_bus_nested;
    sigaction(SIGBUS, &action, NULL);
    rt = real_open(BUDGET, "mem:?size=64M");
    nested_memory = real_map(rt, PAGES * PAGE);
    for (size_t i = 0; i < PAGES; i++)
        nested_memory[i * 512] = i + 1;
    if (sigsetjmp(after_bus, 1) == 0)
        (void)*page;
    cr_assert_eq(bus_count, (int)PAGES);
    weir_close(rt);
}

static void on_bus_first(int number)
{
    (void)number;
    bus_count += 100;
    siglongjmp(after_bus, 1);
}

Test(process, a_handler_that_jumped_out_is_called_again)
{
    volatile char *page = beyond_file();
    struct weir_runtime *rt;

    signal(SIGBUS, on_bus_first);
    weir_close(real_open(BUDGET, "mem:?size=64M"));
    signal(SIGBUS, on_bus_plain);
    rt = real_open(BUDGET, "mem:?size=64M");
    for (int i = 1; i <= 3; i++) {
        if (sigsetjmp(after_bus, 1) == 0)
            (void)*page;
        cr_assert_eq(bus_count, i);
    }
    weir_close(rt);
}

static void (*kept_above)(int, siginfo_t *, void *);

static void on_bus_above(int number, siginfo_t *info, void *context)
{
    bus_count++;
    if (bus_count < 10)
        kept_above(number, info, context);
}

/* Somebody between two of our handlers, who hands on what comes to him: no ring. */
Test(process, a_handler_between_ours_is_no_ring)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO}, ours;
    volatile char *page = beyond_file();
    struct weir_runtime *rt;

    signal(SIGBUS, on_bus_first);
    rt = real_open(BUDGET, "mem:?size=64M");
    action.sa_sigaction = on_bus_above;
    sigaction(SIGBUS, &action, &ours);
    kept_above = ours.sa_sigaction;
    weir_close(rt);
    rt = real_open(BUDGET, "mem:?size=64M");
    for (int i = 1; i <= 3; i++) {
        if (sigsetjmp(after_bus, 1) == 0)
            (void)*page;
        cr_assert_eq(bus_count, 101);
        bus_count = 0;
    }
    weir_close(rt);
}

/* What the kernel says of a page whose memory failed, said by ourselves. */
Test(process, memory_that_failed_is_not_for_us)
{
    siginfo_t info = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AR};
    struct weir_runtime *rt;
    char *memory;

    catch_bus();
    rt = real_open(BUDGET, "mem:?size=64M");
    memory = real_map(rt, PAGES * PAGE);
    info.si_addr = memory + 5 * PAGE;
    if (sigsetjmp(after_bus, 1) == 0)
        cr_assert_eq(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &info), 0);
    cr_assert_eq(bus_count, 1);
    cr_assert_eq(bus_addr, memory + 5 * PAGE);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    weir_close(rt);
}

Test(process, our_handler_goes_when_the_last_runtime_closes)
{
    struct sigaction before, after;
    struct weir_runtime *a, *b;

    catch_bus();
    sigaction(SIGBUS, NULL, &before);
    a = real_open(BUDGET, "mem:?size=64M");
    b = real_open(BUDGET, "mem:?size=64M");
    weir_close(a);
    real_fill(real_map(b, PAGES * PAGE), PAGES, 1);
    weir_close(b);
    sigaction(SIGBUS, NULL, &after);
    cr_assert_eq((void *)(uintptr_t)before.sa_sigaction, (void *)(uintptr_t)after.sa_sigaction);
}

Test(process, errno_survives_a_fault)
{
    struct weir_runtime *rt = real_open(BUDGET, "file:/var/tmp?size=64M");
    volatile char *memory = real_map(rt, PAGES * PAGE);

    for (size_t i = 0; i < PAGES; i++) {
        errno = 4711;
        memory[i * PAGE] = 1;
        cr_assert_eq(errno, 4711);
    }
    weir_close(rt);
}

Test(process, a_signal_prints_the_report)
{
    struct weir_options options;
    struct weir_runtime *rt;
    int ends[2], kept = dup(2);
    char said[9000] = "";

    real_options(&options, BUDGET, "mem:?size=64M");
    options.report_signal = SIGUSR2;
    rt = real_open_with(&options);
    cr_assert_eq(pipe(ends), 0);
    dup2(ends[1], 2);
    raise(SIGUSR2);
    dup2(kept, 2);
    close(ends[1]);
    cr_assert_gt(read(ends[0], said, sizeof(said) - 1), 0);
    cr_assert(strstr(said, "Swap cache: add"));
    weir_close(rt);
}

/* --- Threads --------------------------------------------------------------------------------- */

static void *shared_memory;

static void *touch_all(void *context)
{
    volatile uint64_t *words = shared_memory;
    uintptr_t index = (uintptr_t)context;

    for (size_t i = 0; i < PAGES; i++)
        words[i * 512 + index] = i + index;
    return NULL;
}

Test(process, threads_come_and_go)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    volatile uint64_t *words = shared_memory = real_map(rt, PAGES * PAGE);

    for (uintptr_t round = 0; round < 12; round++) {
        pthread_t threads[8];

        for (uintptr_t i = 0; i < 8; i++)
            pthread_create(&threads[i], NULL, touch_all, (void *)(round * 8 + i));
        for (int i = 0; i < 8; i++)
            pthread_join(threads[i], NULL);
    }
    for (size_t i = 0; i < PAGES; i++)
        for (uintptr_t t = 0; t < 96; t++)
            cr_assert_eq(words[i * 512 + t], i + t);
    weir_close(rt);
}

Test(process, the_smallest_stack_is_enough)
{
    struct weir_runtime *rt = real_open(BUDGET, "file:/var/tmp?size=64M");
    pthread_attr_t attributes;
    pthread_t thread;

    shared_memory = real_map(rt, PAGES * PAGE);
    pthread_attr_init(&attributes);
    cr_assert_eq(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN), 0);
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(pthread_create(&thread, &attributes, touch_all, NULL), 0);
        pthread_join(thread, NULL);
    }
    weir_close(rt);
}

static void *touch_on_alternate_stack(void *context)
{
    /* What programs and language runtimes give a handler: not much. */
    static char stack[16 * 1024];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};

    sigaltstack(&alternate, NULL);
    return touch_all(context);
}

Test(process, an_alternate_stack_is_used_and_may_be_small)
{
    struct weir_runtime *rt = real_open(BUDGET, "file:/var/tmp?size=64M");
    pthread_t thread;

    shared_memory = real_map(rt, PAGES * PAGE);
    for (int round = 0; round < 3; round++) {
        pthread_create(&thread, NULL, touch_on_alternate_stack, NULL);
        pthread_join(thread, NULL);
    }
    weir_close(rt);
}

static _Atomic(int) cancel_started;

static void *touch_forever(void *context)
{
    volatile uint64_t *words = shared_memory;
    uint64_t random = (uintptr_t)context + 1;

    if ((uintptr_t)context & 1)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    atomic_fetch_add(&cancel_started, 1);
    for (;;) {
        random = random * 6364136223846793005u + 1;
        words[(random >> 33) % PAGES * 512] = random;
        if (!((uintptr_t)context & 1))
            pthread_testcancel();
    }
    return NULL;
}

Test(process, a_cancelled_thread_leaves_no_page_locked)
{
    /* Slow reads, so that cancellation finds the threads inside faults. */
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?read_delay_us=2000");
    size_t pages = PAGES;

    shared_memory = real_map(rt, PAGES * PAGE);
    for (int round = 0; round < 20; round++) {
        pthread_t threads[4];

        for (uintptr_t i = 0; i < 4; i++)
            pthread_create(&threads[i], NULL, touch_forever, (void *)(i + (uintptr_t)round));
        while (atomic_load(&cancel_started) < 4 * (round + 1))
            usleep(100);
        usleep(5000);
        for (int i = 0; i < 4; i++)
            pthread_cancel(threads[i]);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
    }
    for (size_t i = 0; i < pages; i += 7)
        ((volatile char *)shared_memory)[i * PAGE + 100] = 1;
    weir_close(rt);
}

static void *touch_until_gone(void *context)
{
    volatile uint64_t *words = shared_memory;

    (void)context;
    for (uint64_t i = 0;; i++)
        words[(i * 7919) % PAGES * 512] = i;
    return NULL;
}

static _Thread_local sigjmp_buf thread_gone;

static void on_segv(int number)
{
    (void)number;
    siglongjmp(thread_gone, 1);
}

static void *touch_until_segv(void *context)
{
    if (sigsetjmp(thread_gone, 1) == 0)
        touch_until_gone(context);
    return NULL;
}

Test(process, close_does_not_wait_for_threads_that_go_on)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?delay_us=3000");
    pthread_t threads[4];

    signal(SIGSEGV, on_segv);
    shared_memory = real_map(rt, PAGES * PAGE);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, touch_until_segv, NULL);
    usleep(100000);
    cr_assert_eq(weir_close(rt), WEIR_OK);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

/* --- Limits and surroundings ----------------------------------------------------------------- */

Test(process, no_privilege_is_needed)
{
    struct weir_runtime *rt;
    void *memory;

    if (geteuid() == 0) {
        cr_assert_eq(setgid(65534), 0);
        cr_assert_eq(setuid(65534), 0);
    }
    cr_assert_neq(geteuid(), 0);
    rt = real_open(BUDGET, "file:/var/tmp?size=64M");
    memory = real_map(rt, PAGES * PAGE);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    weir_close(rt);
}

Test(process, a_low_address_space_limit_is_lived_with)
{
    struct rlimit limit = {.rlim_cur = 2ull << 30, .rlim_max = 2ull << 30};
    struct weir_runtime *rt;
    void *memory;

#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("the sanitizer itself does not live with it");
#endif
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    rt = real_open(BUDGET, "mem:?size=64M");
    cr_assert_gt(real_events.count[WEIR_NOTE], 0);
    memory = real_map(rt, PAGES * PAGE);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    cr_assert_eq(weir_map(rt, 64ull << 30, NULL, &memory), WEIR_ENOMEM);
    weir_close(rt);
}

Test(process, mlockall_does_not_fill_a_region)
{
    struct weir_runtime *rt;
    void *memory;

    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        cr_skip_test("mlockall is not permitted here");
    rt = real_open(BUDGET, "mem:?size=64M");
    memory = real_map(rt, PAGES * PAGE);
    cr_assert_eq(real_resident(memory, PAGES), 0);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    cr_assert_leq(real_resident(memory, PAGES), BUDGET / PAGE);
    weir_close(rt);
}

Test(process, mlockall_leaves_objects_possible)
{
    struct weir_object *object;
    struct weir_runtime *rt;
    void *memory;

    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        cr_skip_test("mlockall is not permitted here");
    rt = real_open(BUDGET, "mem:?size=64M");
    cr_assert_eq(weir_object_create(rt, PAGES * PAGE, NULL, &object), WEIR_OK, "%s",
                 real_events.text[WEIR_FAILURE]);
    cr_assert_eq(weir_view_map(object, 0, PAGES * PAGE, &memory), WEIR_OK);
    cr_assert_eq(real_resident(memory, PAGES), 0);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    weir_close(rt);
}

Test(process, a_limit_of_file_sizes_kills_nobody)
{
    struct rlimit limit = {.rlim_cur = PAGE, .rlim_max = RLIM_INFINITY};
    struct weir_object *object;
    struct weir_runtime *rt;
    int error;

    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = PAGE;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    rt = real_open(BUDGET, "mem:?size=64M");
    error = weir_object_create(rt, PAGES * PAGE, NULL, &object);
    cr_assert_neq(error, WEIR_OK);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "ulimit -f"), "%s",
              real_events.text[WEIR_FAILURE]);
    real_fill(real_map(rt, PAGES * PAGE), PAGES, 1);
    weir_close(rt);
}

/* The VmFlags line of the mapping that holds an address. */
static bool has_flag(const void *address, const char *flag)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    unsigned long from, to;
    bool inside = false, found = false;
    char line[512];

    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = (uintptr_t)address >= from && (uintptr_t)address < to;
        if (inside && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, flag) != NULL;
    }
    fclose(file);
    return found;
}

Test(process, regions_are_not_dumped_and_not_inherited)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory = real_map(rt, PAGES * PAGE);

    cr_assert(has_flag(memory, " dd"), "a core dump would hold the region");
    cr_assert(has_flag(memory, " dc"), "a fork child would inherit the region");
    weir_close(rt);
}

Test(process, many_regions_do_not_run_out_of_mappings)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    void *memory[1000];

    for (int i = 0; i < 1000; i++) {
        memory[i] = real_map(rt, 4 * PAGE);
        memset(memory[i], i, 4 * PAGE);
    }
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(((char *)memory[i])[3 * PAGE], (char)i);
    weir_close(rt);
}
