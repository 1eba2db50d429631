/* SPDX-License-Identifier: MIT */

/* Two threads with two jobs ("Ludo", 2000): either may starve, and both sleep when nobody asks. */

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tests/stress/real.h"

#define BUDGET        (8 * MIB)
#define LOAD          (4 * BUDGET)
#define PIECE         ((size_t)64)
#define SPINNERS_MAX  64
#define STARVED_MOST  0.01 /* of all processors */
#define OVERLOAD_MOST 0.10 /* likewise, by all threads of the library */
#define ENOUGH_S      1.5
#define ENOUGH_ROUNDS 100

/* --- What the system says of a thread -------------------------------------------------------- */

/* The thread of the library with this name, or 0. */
static pid_t find_thread(const char *name)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    pid_t found = 0;

    while ((entry = readdir(dir)) && !found) {
        char path[320], comm[40] = "";
        FILE *file;

        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
        file = fopen(path, "re");
        if (file && fgets(comm, sizeof(comm), file) && strncmp(comm, name, strlen(name)) == 0)
            found = (pid_t)atoi(entry->d_name);
        if (file)
            fclose(file);
    }
    closedir(dir);
    return found;
}

/* The number behind a word of /proc/self/task/TID/status or sched. */
static double word_of(pid_t thread, const char *file_name, const char *word)
{
    char path[80], line[200];
    double value = -1;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/task/%d/%s", (int)thread, file_name);
    file = fopen(path, "re");
    while (file && value < 0 && fgets(line, sizeof(line), file))
        if (strncmp(line, word, strlen(word)) == 0)
            value = strtod(line + strcspn(line, ":") + 1, NULL);
    if (file)
        fclose(file);
    return value;
}

static double sleeps_of(pid_t thread)
{
    return word_of(thread, "status", "voluntary_ctxt_switches");
}

static double seconds_of(pid_t thread)
{
    char path[80];
    double ns = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", (int)thread);
    file = fopen(path, "re");
    if (!file || fscanf(file, "%lf", &ns) != 1)
        cr_skip_test("the kernel does not say how long a thread has run");
    fclose(file);
    return ns / 1e9;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Processors' worth of time that was idle so far, of the whole machine. */
static double idle_seconds(void)
{
    FILE *file = fopen("/proc/stat", "re");
    double user = 0, nice = 0, system = 0, idle = 0;

    cr_assert_eq(fscanf(file, "cpu %lf %lf %lf %lf", &user, &nice, &system, &idle), 4);
    fclose(file);
    return idle / (double)sysconf(_SC_CLK_TCK);
}

static int processors(void)
{
    cpu_set_t set;

    cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
    return CPU_COUNT(&set);
}

/* --- Load ------------------------------------------------------------------------------------ */

static void *spin(void *context)
{
    const _Atomic(bool) *is_over = context;

    while (!atomic_load_explicit(is_over, memory_order_relaxed))
        ;
    return NULL;
}

/* Write and check all pages, again and again, until there is enough to judge by; with a nap after
 * so many, if a program is to have other things to do. Seconds. */
static double thrash(struct weir_runtime *rt, char *memory, size_t pages_between_naps)
{
    uint64_t rounds = real_stats(rt).reclaim_free_tries + ENOUGH_ROUNDS;
    double begun = now();

    for (uint64_t salt = 1; now() - begun < ENOUGH_S || real_stats(rt).reclaim_free_tries < rounds;
         salt++)
        for (size_t page = 0; page < LOAD / PAGE; page += PIECE) {
            real_fill(memory + page * PAGE, PIECE, salt);
            real_check(memory + page * PAGE, PIECE, salt);
            if (pages_between_naps && page % pages_between_naps == 0)
                usleep(1000);
        }
    return now() - begun;
}

/* --- The tests ------------------------------------------------------------------------------- */

/* C8, C17, C19: without any ageing kswapd goes on, and no allocation fails. */
Test(threads, kswapd_works_without_kpaged)
{
    struct weir_runtime *rt;
    struct weir_stats stats;
    void *memory;

    setenv("WEIR_BUG", "no_kpaged", 1);
    rt = real_open(BUDGET, "mem:?size=128M");
    memory = real_map(rt, LOAD);
    for (uint64_t salt = 1; salt <= 3; salt++) {
        real_fill(memory, LOAD / PAGE, salt);
        real_check(memory, LOAD / PAGE, salt);
    }
    stats = real_stats(rt);
    cr_assert_gt(stats.reclaim_overload, 0);
    cr_assert_eq(stats.frame_failures, 0);
    cr_assert_eq(real_events.count[WEIR_FAILURE], 0);
    cr_assert_eq(stats.aging_green + stats.aging_yellow + stats.aging_orange + stats.aging_red, 0);
    cr_assert_eq(stats.lru_pages, 0);
    cr_assert_eq(stats.victims_listed, 0);
    cr_assert_gt(stats.victims_chosen, LOAD / PAGE);
    weir_close(rt);
}

/* C13: "based as much as possible on the idle thread". */
Test(threads, kpaged_runs_only_when_nobody_else_does)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    void *memory = real_map(rt, LOAD);
    pid_t thread = find_thread("weir-kpaged");

    cr_assert_neq(thread, 0);
    real_fill(memory, LOAD / PAGE, 1); /* it has run by now, if it ever does */
    for (int i = 0; i < 500 && sched_getscheduler(thread) != SCHED_IDLE; i++)
        usleep(10000);
    cr_assert(sched_getscheduler(thread) == SCHED_IDLE ||
              getpriority(PRIO_PROCESS, (id_t)thread) == 19);
    cr_assert_neq(sched_getscheduler(find_thread("weir-kswapd")), SCHED_IDLE);
    weir_close(rt);
}

/* Twice as many threads as there are processors that do nothing but run. */
static struct {
    pthread_t threads[SPINNERS_MAX];
    int count;
    _Atomic(bool) is_over;
} spinners;

static void spinners_begin(void)
{
    spinners.count = 2 * processors();
    spinners.count = spinners.count < SPINNERS_MAX ? spinners.count : SPINNERS_MAX;
    for (int i = 0; i < spinners.count; i++)
        cr_assert_eq(pthread_create(&spinners.threads[i], NULL, spin, &spinners.is_over), 0);
}

static void spinners_end(void)
{
    atomic_store(&spinners.is_over, true);
    for (int i = 0; i < spinners.count; i++)
        pthread_join(spinners.threads[i], NULL);
}

/* C13, C17: when all processors are busy it leaves them to others, and kswapd copes. */
Test(threads, a_starved_kpaged_is_done_without)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    void *memory = real_map(rt, LOAD);
    pid_t thread = find_thread("weir-kpaged");
    struct weir_stats before, after;
    double begun, took;

    spinners_begin();
    before = real_stats(rt);
    begun = seconds_of(thread);
    took = thrash(rt, memory, 0);
    begun = seconds_of(thread) - begun;
    after = real_stats(rt);
    spinners_end();
    cr_log_info("kpaged %.4f of all processors, J %llu in %llu rounds", begun / took / processors(),
                (unsigned long long)(after.reclaim_overload - before.reclaim_overload),
                (unsigned long long)(after.reclaim_free_tries - before.reclaim_free_tries));
    cr_assert_leq(begun / took / processors(), STARVED_MOST);
    cr_assert_gt(after.reclaim_overload, before.reclaim_overload);
    cr_assert_eq(after.frame_failures, 0);
    weir_close(rt);
}

static double seconds_of_all(void)
{
    static const char *const names[] = {"weir-kswapd", "weir-kpaged", "weir-kread", "weir-ksweep"};
    double sum = 0;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        pid_t thread = find_thread(names[i]);

        sum += thread ? seconds_of(thread) : 0;
    }
    return sum;
}

/* C14: more is asked for than the back end can take, and no processor is idle: then none is burnt
 * by looking for victims. */
Test(threads, overload_burns_no_processor, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=128M)?seed=1&bytes_per_s=64m");
    void *memory = real_map(rt, LOAD);
    struct weir_stats before, after;
    double used, took;

    spinners_begin();
    before = real_stats(rt);
    used = seconds_of_all();
    took = thrash(rt, memory, 0);
    used = seconds_of_all() - used;
    after = real_stats(rt);
    spinners_end();
    cr_log_info("the library %.4f of all processors", used / took / processors());
    cr_assert_gt(used, 0);
    cr_assert_leq(used / took / processors(), OVERLOAD_MOST);
    cr_assert_gt(after.frame_waits, before.frame_waits);
    cr_assert_eq(after.frame_failures, 0);
    weir_close(rt);
}

/* C13, C16: where there is time for it, kswapd finds its victims in the lists. A program that does
 * nothing but store takes a processor for itself and another for kswapd. */
Test(threads, a_kpaged_with_time_copes)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    void *memory = real_map(rt, LOAD);
    struct weir_stats before, after;
    double idle, took;

    real_fill(memory, LOAD / PAGE, 1);
    before = real_stats(rt);
    idle = idle_seconds();
    took = thrash(rt, memory, 128);
    idle = idle_seconds() - idle;
    after = real_stats(rt);
    weir_close(rt);
    cr_log_info("idle %.2f processors, J %llu in %llu rounds", idle / took,
                (unsigned long long)(after.reclaim_overload - before.reclaim_overload),
                (unsigned long long)(after.reclaim_free_tries - before.reclaim_free_tries));
    if (idle < took / 2)
        cr_skip_test("the machine has no processor to spare");
    cr_assert_leq((after.reclaim_overload - before.reclaim_overload) * 4,
                  after.reclaim_free_tries - before.reclaim_free_tries);
    /* And most victims, where a processor is idle all the time. (A tenth to three tenths are
     * kswapd's own choice even so: a list is empty before kpaged has woken up.) */
    if (idle >= took)
        cr_assert_lt(after.victims_chosen - before.victims_chosen,
                     after.victims_listed - before.victims_listed);
}

/* C7: "as soon as it is activated, it never ends". */
Test(threads, both_sleep_when_nobody_asks)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=128M");
    void *memory = real_map(rt, LOAD);
    pid_t kswapd = find_thread("weir-kswapd"), kpaged = find_thread("weir-kpaged");
    double sleeps;

    real_fill(memory, LOAD / PAGE, 1);
    sleep(3); /* what was staged is written, free clusters are discarded */
    sleeps = sleeps_of(kswapd) + sleeps_of(kpaged);
    cr_assert_gt(sleeps_of(kswapd), 0);
    sleep(2);
    cr_assert_eq(sleeps_of(kswapd) + sleeps_of(kpaged), sleeps);
    weir_close(rt);
}
