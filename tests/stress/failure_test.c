/* SPDX-License-Identifier: MIT */

/* What happens when a back end fails: clean errors, no hang, no loss of what was resident. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/stress/real.h"

#define BUDGET (4 * MIB)
#define PAGES  ((size_t)4096)

static sigjmp_buf refused;
static volatile sig_atomic_t refusals;
static void *volatile refused_addr;

static void on_bus(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    refusals++;
    refused_addr = info->si_addr;
    siglongjmp(refused, 1);
}

static void catch_refusals(void)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};

    action.sa_sigaction = on_bus;
    sigaction(SIGBUS, &action, NULL);
}

static uint64_t value_of(size_t page)
{
    return page * 0x9e3779b97f4a7c15u + 1;
}

/* Store until a store is refused or all pages are written. How many were. */
static size_t fill_until_refused(volatile uint64_t *words, size_t pages)
{
    volatile size_t i = 0;

    if (sigsetjmp(refused, 1) == 0)
        for (; i < pages; i++) {
            words[i * 512] = value_of(i);
            words[i * 512 + 511] = value_of(i);
        }
    return i;
}

/* Load every page; those that are refused are counted, no other may be wrong. */
static size_t check_all(volatile uint64_t *words, size_t pages)
{
    volatile size_t i = 0, lost = 0;

    if (sigsetjmp(refused, 1) != 0) {
        lost++;
        i++;
    }
    for (; i < pages; i++) {
        uint64_t first = words[i * 512], last = words[i * 512 + 511];

        cr_assert(first == value_of(i) && last == value_of(i), "page %zu holds %#llx", (size_t)i,
                  (unsigned long long)first);
    }
    return lost;
}

Test(failure, a_damaged_page_is_refused_and_never_delivered)
{
    struct weir_runtime *rt;
    volatile uint64_t *words;
    size_t lost;

    catch_refusals();
    rt = real_open(BUDGET, "chaos(mem:?size=64M)?seed=5&lie=0.3");
    words = real_map(rt, PAGES * PAGE);
    weir_advise((void *)(uintptr_t)words, PAGES * PAGE, WEIR_RANDOM);
    cr_assert_eq(fill_until_refused(words, PAGES), PAGES);
    lost = check_all(words, PAGES);
    cr_assert_gt(lost, 0);
    cr_assert_eq(real_events.error[WEIR_FAILURE], WEIR_EIO);
    cr_assert(strstr(real_events.text[WEIR_FAILURE], "0x"), "%s", real_events.text[WEIR_FAILURE]);
    cr_assert_geq(real_stats(rt).checksum_errors, lost);
    /* A lost page stays lost until it is discarded. */
    refusals = 0;
    if (sigsetjmp(refused, 1) == 0)
        (void)*(volatile char *)refused_addr;
    cr_assert_eq(refusals, 1);
    cr_assert_eq(weir_pin(refused_addr, 1, WEIR_READ), WEIR_EIO);
    cr_assert_eq(
        weir_advise((void *)((uintptr_t)refused_addr & ~(uintptr_t)4095), PAGE, WEIR_DISCARD),
        WEIR_OK);
    cr_assert_eq(*(volatile char *)refused_addr, 0);
    weir_close(rt);
}

Test(failure, a_lost_page_kills_a_program_that_does_not_listen, .signal = SIGBUS)
{
    struct weir_options options;
    struct weir_runtime *rt;
    volatile uint64_t *words;

    signal(SIGBUS, SIG_DFL);
    real_options(&options, BUDGET, "chaos(mem:?size=64M)?seed=5&lie=1");
    options.on_event = NULL;
    rt = real_open_with(&options);
    words = real_map(rt, PAGES * PAGE);
    for (size_t i = 0; i < PAGES; i++)
        words[i * 512] = i + 1;
    for (size_t i = 0; i < PAGES; i++)
        cr_assert_eq(words[i * 512], i + 1);
}

Test(failure, reads_that_fail_now_and_then_are_tried_again)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?seed=2&fail_read=0.01");
    void *memory = real_map(rt, PAGES * PAGE);

    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    cr_assert_gt(real_stats(rt).read_errors, 0);
    weir_close(rt);
}

Test(failure, a_full_swap_refuses_new_pages_and_keeps_the_old)
{
    struct weir_runtime *rt;
    volatile uint64_t *words;
    size_t filled, room = (BUDGET + 8 * MIB) / PAGE;

    catch_refusals();
    rt = real_open(BUDGET, "mem:?size=8M");
    words = real_map(rt, PAGES * PAGE);
    filled = fill_until_refused(words, PAGES);
    cr_assert(filled > room * 8 / 10 && filled < room, "%zu of %zu pages", filled, room);
    cr_assert_eq(real_events.error[WEIR_FAILURE], WEIR_EFULL);
    cr_assert_eq(check_all(words, filled), 0);
    cr_assert_eq(weir_pin((char *)(uintptr_t)words + filled * PAGE, 64 * PAGE, WEIR_WRITE),
                 WEIR_EFULL);
    /* Room comes back: it goes on. */
    cr_assert_eq(weir_advise((void *)(uintptr_t)words, filled / 2 * PAGE, WEIR_DISCARD), WEIR_OK);
    cr_assert_eq(fill_until_refused(words + filled * 512, filled / 4), filled / 4);
    for (size_t i = filled / 2; i < filled; i++)
        cr_assert_eq(words[i * 512], value_of(i));
    cr_assert_eq(weir_backend_add(rt, "mem:?size=64M", NULL), WEIR_OK);
    cr_assert_eq(fill_until_refused(words, PAGES), PAGES);
    cr_assert_eq(check_all(words, PAGES), 0);
    weir_close(rt);
}

Test(failure, a_disk_that_cannot_be_written_is_an_error_and_loses_nothing)
{
    struct weir_runtime *rt;
    volatile uint64_t *words;
    size_t filled;

    catch_refusals();
    rt = real_open(BUDGET, "chaos(mem:?size=64M)?fail_write=1");
    words = real_map(rt, PAGES * PAGE);
    filled = fill_until_refused(words, PAGES);
    cr_assert(filled > BUDGET / PAGE / 2 && filled < BUDGET / PAGE, "%zu pages", filled);
    cr_assert_eq(real_events.error[WEIR_FAILURE], WEIR_EIO);
    cr_assert_eq(check_all(words, filled), 0);
    cr_assert_eq(weir_backend_add(rt, "mem:?size=64M", NULL), WEIR_OK);
    cr_assert_eq(fill_until_refused(words, PAGES), PAGES);
    cr_assert_eq(check_all(words, PAGES), 0);
    weir_close(rt);
}

/* A file system that fills up in the middle, and is emptied again. */
Test(failure, a_disk_that_fills_up_is_an_error_and_loses_nothing)
{
    char directory[] = "/tmp/weir-full-XXXXXX", filler[64], spec[64];
    struct weir_runtime *rt;
    volatile uint64_t *words;
    size_t filled;
    int fd;

    catch_refusals();
    cr_assert_not_null(mkdtemp(directory));
    if (mount("weir-test", directory, "tmpfs", 0, "size=24m") != 0) {
        rmdir(directory);
        cr_skip_test("a small file system cannot be mounted here");
    }
    snprintf(filler, sizeof(filler), "%s/filler", directory);
    snprintf(spec, sizeof(spec), "file:%s?size=64M", directory);
    fd = open(filler, O_RDWR | O_CREAT, 0600);
    cr_assert_eq(posix_fallocate(fd, 0, 14 * MIB), 0);
    rt = real_open(BUDGET, spec);
    /* What is open lives on. */
    cr_assert_eq(umount2(directory, MNT_DETACH), 0);
    rmdir(directory);
    words = real_map(rt, PAGES * PAGE);
    filled = fill_until_refused(words, PAGES);
    cr_assert(filled < PAGES, "the disk did not fill up");
    cr_assert_eq(real_events.error[WEIR_FAILURE], WEIR_EFULL, "%s: %s",
                 weir_error_name(real_events.error[WEIR_FAILURE]), real_events.text[WEIR_FAILURE]);
    cr_assert_eq(check_all(words, filled), 0);
    cr_assert_eq(ftruncate(fd, 0), 0);
    sleep(2); /* it is tried again every second */
    filled = fill_until_refused(words, PAGES * 6 / 10);
    cr_assert_eq(filled, PAGES * 6 / 10);
    cr_assert_eq(check_all(words, filled), 0);
    weir_close(rt);
    close(fd);
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

Test(failure, a_slow_disk_is_waited_for, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?bytes_per_s=1000000");
    size_t pages = (BUDGET + 3 * MIB) / PAGE;
    void *memory = real_map(rt, pages * PAGE);

    real_fill(memory, pages, 1);
    cr_assert_eq(real_stats(rt).frame_failures, 0);
    cr_assert_gt(real_stats(rt).frame_waits, 0);
    cr_assert_eq(real_events.count[WEIR_FAILURE], 0);
    weir_close(rt);
}

/* Ten seconds without an answer: what is in memory goes on being served, the rest waits. */
Test(failure, a_disk_that_hangs_is_waited_for, .timeout = 120)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?hang_after=3&hang_ms=10000");
    void *memory = real_map(rt, PAGES * PAGE);
    uint64_t begun = now_ms();

    real_fill(memory, PAGES, 1);
    cr_assert_geq(now_ms() - begun, 9000);
    real_check(memory, PAGES, 1);
    cr_assert_eq(real_stats(rt).frame_failures, 0);
    cr_assert_eq(real_events.count[WEIR_FAILURE], 0);
    weir_close(rt);
}

static volatile uint64_t *hung_words;
static volatile uint64_t slowest_ms;

/* Touches what was written last, again and again: it is resident, or cached and under write. */
static void *touch_recent(void *context)
{
    size_t pages = *(size_t *)context;
    uint64_t end = now_ms() + 3000;

    while (now_ms() < end)
        for (size_t i = 0; i < pages; i++) {
            uint64_t begun = now_ms(), took;

            cr_assert_eq(hung_words[i * 512], value_of(i));
            took = now_ms() - begun;
            if (took > slowest_ms)
                slowest_ms = took;
        }
    return NULL;
}

Test(failure, pages_under_a_write_that_hangs_are_served_from_memory, .timeout = 120)
{
    struct weir_options options;
    struct weir_runtime *rt;
    size_t pages = 0;
    pthread_t thread;

    /* Reclaim begins while there is plenty: the writes hang, memory does not run out. */
    real_options(&options, 64 * MIB, "chaos(mem:?size=256M)?write_delay_us=6000000");
    options.watermark_low_bytes = 12 * MIB;
    options.watermark_high_bytes = 15 * MIB;
    rt = real_open_with(&options);
    hung_words = real_map(rt, 64 * MIB);
    for (; real_stats(rt).pages_written < 512; pages++)
        hung_words[pages * 512] = value_of(pages);
    pthread_create(&thread, NULL, touch_recent, &pages);
    pthread_join(thread, NULL);
    cr_assert_gt(real_stats(rt).pages_rescued_writing, 0);
    cr_assert_lt(slowest_ms, 1000);
    weir_close(rt);
}

/* One of two copies is damaged, or was never written, now and then: no page is lost. */
Test(failure, a_page_is_read_from_another_copy_if_the_first_is_damaged, .timeout = 120)
{
    const char *spec =
        "mirror(chaos(mem:?size=64M)?seed=5&lie=0.05, chaos(mem:?size=64M)?delay_us=50)";
    struct weir_runtime *rt = real_open(BUDGET, spec);
    void *memory = real_map(rt, PAGES * PAGE);

    for (uint64_t salt = 1; salt < 3; salt++) {
        real_fill(memory, PAGES, salt);
        real_check(memory, PAGES, salt);
    }
    cr_assert_eq(weir_backend_add(rt, "mem:?size=64M", NULL), WEIR_OK);
    cr_expect_eq(weir_backend_drain(rt, 0), WEIR_OK);
    real_check(memory, PAGES, 2);
    cr_expect_gt(real_stats(rt).checksum_errors, 0, "nothing was damaged: this test tests nothing");
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
}

/* A member that is added while the program runs has its share, and is enough when another goes. */
Test(failure, a_member_is_added_to_a_mirror_that_is_in_use, .timeout = 120)
{
    struct weir_runtime *rt = real_open(
        BUDGET, "mem:?size=1M mirror(mem:?size=64M, mem:?size=64M)?rebuild_bytes_per_s=1G");
    void *memory = real_map(rt, PAGES * PAGE);

    real_fill(memory, PAGES, 1);
    cr_expect_eq(weir_backend_extend(rt, 0, "mem:?size=64M"), WEIR_ENOSUPPORT);
    cr_expect_eq(weir_backend_extend(rt, 7, "mem:?size=64M"), WEIR_ENOENT);
    cr_expect_eq(weir_backend_extend(rt, 1, "mem:?speed=9"), WEIR_EINVAL);
    cr_expect_eq(weir_backend_extend(NULL, 1, "mem:"), WEIR_EINVAL);
    cr_expect_eq(weir_backend_retire(rt, 0, "mem:"), WEIR_ENOSUPPORT);
    cr_expect_eq(weir_backend_retire(rt, 7, "mem:"), WEIR_ENOENT);
    cr_expect_eq(weir_backend_retire(rt, 1, "tcp://nobody"), WEIR_ENOENT);
    cr_expect_eq(weir_backend_retire(rt, 1, "mem:"), WEIR_EFULL);
    cr_expect_eq(weir_backend_retire(NULL, 1, "mem:"), WEIR_EINVAL);
    real_events.count[WEIR_FAILURE] = 0;
    cr_assert_eq(weir_backend_extend(rt, 1, "mem:?size=64M"), WEIR_OK);
    for (uint64_t salt = 2; salt < 4; salt++) {
        real_check(memory, PAGES, salt - 1);
        real_fill(memory, PAGES, salt);
    }
    cr_expect_eq(weir_backend_retire(rt, 1, "mem:?size=64M"), WEIR_OK);
    for (int i = 0; i < 6000 && !strstr(real_events.text[WEIR_NOTE], "no member any more"); i++)
        usleep(10000);
    cr_expect(strstr(real_events.text[WEIR_NOTE], "no member any more"), "%s",
              real_events.text[WEIR_NOTE]);
    real_check(memory, PAGES, 3);
    cr_expect_eq(real_stats(rt).checksum_errors, 0);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    weir_close(rt);
}
