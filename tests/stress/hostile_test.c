/* SPDX-License-Identifier: MIT */

/* An attached process that does what it may not harms itself, at most: not the owner, and not the
 * others (E40, E41). */

#include <weir/weir_share.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/host/link.h"
#include "runtime/host/peer.h"
#include "tests/stress/share_kit.h"

#define BUDGET (8 * MIB)
#define PAGES  ((size_t)64)

static struct weir_runtime *rt;

/* A descriptor of this process that leads there, or -1. */
static int find_descriptor(const char *name)
{
    char path[64], target[256];

    for (int fd = 0; fd < 256; fd++) {
        ssize_t length;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        length = readlink(path, target, sizeof(target) - 1);
        if (length < 0)
            continue;
        target[length] = '\0';
        if (strstr(target, name))
            return fd;
    }
    return -1;
}

/* How long this process ran within a second in which nobody asked for anything. */
static double busy_ms(void)
{
    struct rusage before, after;

    getrusage(RUSAGE_SELF, &before);
    usleep(1000000);
    getrusage(RUSAGE_SELF, &after);
    return 1e3 * (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec -
                          before.ru_stime.tv_sec) +
           1e-3 * (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec +
                           after.ru_stime.tv_usec - before.ru_stime.tv_usec);
}

static sigjmp_buf out;

static void on_bus(int number)
{
    siglongjmp(out, number);
}

/* Bytes of its own in a hole of the object: it meets SIGBUS there, and nowhere else. */
static int fills_a_hole(const char *name)
{
    volatile char *memory = share_view(share_attach(name), 0, PAGES);
    int object = find_descriptor("memfd:weir");

    signal(SIGBUS, on_bus);
    if (object < 0 || pwrite(object, "mine", 4, 3 * PAGE) != 4)
        return 1;
    if (sigsetjmp(out, 1) == 0) {
        memory[3 * PAGE + 1] = 5;
        return 2;
    }
    memory[4 * PAGE] = 6;
    return memory[4 * PAGE] == 6 ? 0 : 3;
}

Test(hostile, bytes_that_are_put_into_the_object_do_not_end_its_owner)
{
    pid_t other = share_fork(fills_a_hole, "hole");
    struct weir_object *object;
    volatile char *memory;
    void *view;

    rt = real_open(BUDGET, "mem:?size=64M");
    object = share_object(rt, PAGES, share_name("hole"));
    cr_assert_eq(weir_view_map(object, 0, PAGES * PAGE, &view), WEIR_OK);
    memory = view;
    share_begin();
    cr_expect_eq(share_end(other), 0);
    cr_expect_eq(memory[4 * PAGE], 6);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "cannot be served"), "%s",
              real_events.text[WEIR_FAILURE]);
    weir_close(rt);
}

/* Neither its size nor what may be done to it. */
static int changes_the_object(const char *name)
{
    char *memory = share_view(share_attach(name), 0, PAGES);
    int object = find_descriptor("memfd:weir");

    share_fill(memory, PAGES, 7);
    if (object < 0)
        return 1;
    if (ftruncate(object, 0) == 0 || ftruncate(object, 2 * PAGES * PAGE) == 0)
        return 2;
    if (fcntl(object, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0)
        return 3;
    share_check(memory, PAGES, 7);
    return 0;
}

Test(hostile, an_object_stays_as_it_was_made)
{
    pid_t other = share_fork(changes_the_object, "seal");
    struct weir_object *object;
    void *view;

    rt = real_open(BUDGET, "mem:?size=64M");
    object = share_object(rt, PAGES, share_name("seal"));
    cr_assert_eq(weir_view_map(object, 0, PAGES * PAGE, &view), WEIR_OK);
    share_begin();
    cr_expect_eq(share_end(other), 0);
    real_check(view, PAGES, 7);
    cr_expect_eq(weir_advise(view, PAGES * PAGE, WEIR_DISCARD), WEIR_OK);
    weir_close(rt);
}

/* Its trap waits when it is read. */
static int makes_its_trap_wait(const char *name)
{
    volatile char *memory = share_view(share_attach(name), 0, PAGES);
    int trap = find_descriptor("userfaultfd");

    if (trap < 0 || fcntl(trap, F_SETFL, 0) != 0)
        return 1;
    memory[0] = 1;
    memory[PAGE] = 2;
    pause();
    return 2;
}

Test(hostile, who_makes_its_trap_wait_holds_up_nobody, .timeout = 60)
{
    pid_t other = share_fork(makes_its_trap_wait, "wait");
    struct weir_object *object;
    volatile char *memory;
    void *view;

    rt = real_open(BUDGET, "mem:?size=64M");
    object = share_object(rt, PAGES, share_name("wait"));
    cr_assert_eq(weir_view_map(object, 0, PAGES * PAGE, &view), WEIR_OK);
    memory = view;
    share_begin();
    SHARE_AWAIT(memory[PAGE] == 2);
    cr_expect_lt(busy_ms(), 100);
    cr_expect_eq(weir_unmap(view), WEIR_OK);
    kill(other, SIGKILL);
    cr_expect_eq(share_end(other), -SIGKILL);
    weir_close(rt);
}

static int connect_to(const char *name)
{
    int link = -1;

    cr_assert_eq(wr_link_connect(share_name(name), &link), WEIR_OK);
    return link;
}

Test(hostile, a_trap_that_has_ended_is_left_alone)
{
    struct wr_hello hello = wr_link_hello_of(0, WEIR_OK);
    int link, pair[2];

    rt = real_open(BUDGET, "mem:?size=64M");
    share_object(rt, PAGES, share_name("ended"));
    link = connect_to("ended");
    cr_assert_eq(pipe2(pair, O_NONBLOCK | O_CLOEXEC), 0);
    cr_assert(wr_link_send(link, &hello, sizeof(hello), pair[0]));
    close(pair[0]);
    close(pair[1]);
    cr_expect_lt(busy_ms(), 100);
    close(link);
    weir_close(rt);
}

/* A process that has no descriptor left does not spend its time on who knocks. */
Test(hostile, without_descriptors_nobody_is_let_in_and_nothing_spins)
{
    struct rlimit limit, few;
    int link, last = -1;

    rt = real_open(BUDGET, "mem:?size=64M");
    share_object(rt, PAGES, share_name("few"));
    getrlimit(RLIMIT_NOFILE, &limit);
    few = (struct rlimit){.rlim_cur = 200, .rlim_max = limit.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    for (int fd; (fd = dup(0)) >= 0;)
        last = fd;
    close(last);
    link = connect_to("few"); /* takes it, and there is none for the other end */
    cr_expect_lt(busy_ms(), 100);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    close(link);
    cr_expect_eq(weir_detach(share_attach("few")), WEIR_OK);
    weir_close(rt);
}

/* How the owner calls an address of another process is nothing that a program can have. */
Test(hostile, an_address_of_another_process_is_none_here)
{
    struct weir_attached *attached;
    struct weir_region_stats stats = {.size = sizeof(stats)};
    void *memory, *moved = NULL;
    char *away;

    rt = real_open(BUDGET, "mem:?size=64M");
    share_object(rt, PAGES, share_name("away"));
    attached = share_attach("away");
    memory = share_view(attached, 0, PAGES);
    away = (char *)(wr_peer_addr(0, (uintptr_t)memory));
    cr_expect_eq(weir_advise(away, PAGES * PAGE, WEIR_DISCARD), WEIR_EINVAL);
    cr_expect_eq(weir_pin(away, PAGE, WEIR_WRITE), WEIR_EINVAL);
    cr_expect_eq(weir_resize(away, PAGE), WEIR_ENOENT);
    cr_expect_eq(weir_move(away, 0, &moved), WEIR_ENOENT);
    cr_expect_eq(weir_region_stats(away, &stats), WEIR_ENOENT);
    cr_expect_eq(weir_unmap(away), WEIR_ENOENT);
    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    cr_expect_eq(weir_detach(attached), WEIR_OK);
    weir_close(rt);
}

/* Others who come and go all the time do not keep the silent in. */
Test(hostile, the_silent_are_sent_away_though_others_talk, .timeout = 60)
{
    struct wr_hello hello;
    enum wr_received received = WR_RECEIVED_NOTHING;
    int link;

    rt = real_open(BUDGET, "mem:?size=64M");
    share_object(rt, PAGES, share_name("talk"));
    link = connect_to("talk");
    for (int i = 0; i < 100 && received == WR_RECEIVED_NOTHING; i++) {
        close(connect_to("talk"));
        usleep(100000);
        received = wr_link_receive(link, &hello, sizeof(hello), NULL);
    }
    cr_expect_eq(received, WR_RECEIVED_END);
    close(link);
    weir_close(rt);
}
