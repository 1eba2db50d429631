/* SPDX-License-Identifier: MIT */

/* The promises of weir_share.h, on the real kernel, between real processes. */

#include <weir/weir_share.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/stress/share_kit.h"

#define BUDGET (4 * MIB)
#define PAGES  ((size_t)4096) /* 16 MiB: four times the budget */

/* --- One other process ----------------------------------------------------------------------- */

static int stores_everywhere(const char *name)
{
    void *memory = share_view(share_attach(name), 0, PAGES);

    share_check(memory, PAGES, 1);
    share_fill(memory, PAGES, 2);
    return 0;
}

Test(share, an_object_shows_in_another_process)
{
    pid_t other = share_fork(stores_everywhere, "a");
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, PAGES, share_name("a"));
    void *memory;

    cr_assert_eq(weir_view_map(object, 0, PAGES * PAGE, &memory), WEIR_OK);
    real_fill(memory, PAGES, 1);
    share_begin();
    cr_assert_eq(share_end(other), 0);
    real_check(memory, PAGES, 2);
    cr_assert_leq(real_resident(memory, PAGES), BUDGET / PAGE);
    cr_assert_eq(weir_close(rt), WEIR_OK);
}

/* An owner need not have a view of its own, and a process may attach its own object. */
Test(share, a_process_may_attach_its_own_object)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, PAGES, share_name("own"));
    struct weir_attached *attached = share_attach("own");
    void *one = share_view(attached, 0, PAGES), *other = share_view(attached, 0, PAGES);

    cr_assert_eq(weir_attached_bytes(attached), PAGES * PAGE);
    real_fill(one, PAGES, 3);
    real_check(other, PAGES, 3);
    cr_assert_leq(real_resident(other, PAGES), BUDGET / PAGE);
    cr_assert_eq(weir_attached_unmap(attached, one), WEIR_OK);
    cr_assert_eq(weir_attached_unmap(attached, one), WEIR_ENOENT);
    real_fill(other, PAGES, 4);
    cr_assert_eq(weir_object_close(object), WEIR_OK);
    real_check(other, PAGES, 4);
    cr_assert_gt(real_stats(rt).slots_used, 0, "it lives until the last has detached");
    cr_assert_eq(weir_detach(attached), WEIR_OK);
    SHARE_AWAIT(real_stats(rt).slots_used == 0 && real_stats(rt).mapped_bytes == 0);
    cr_assert_eq(weir_close(rt), WEIR_OK);
}

/* What is clean in one process and stored to in another is dirty for both. */
static int reads_then_stores(const char *name)
{
    void *memory = share_view(share_attach(name), 0, PAGES);
    volatile uint64_t *words = memory;

    share_check(memory, PAGES, 5);
    for (size_t i = 0; i < PAGES; i += 3)
        words[i * 512] ^= 1;
    for (size_t i = 0; i < PAGES; i += 3)
        words[i * 512] ^= 1;
    share_check(memory, PAGES, 5);
    return 0;
}

Test(share, a_store_to_a_clean_page_makes_it_dirty)
{
    pid_t one = share_fork(reads_then_stores, "clean");
    struct weir_runtime *rt = real_open(BUDGET, "file:/var/tmp?size=64M");
    struct weir_object *object = share_object(rt, PAGES, share_name("clean"));
    void *memory;

    cr_assert_eq(weir_view_map(object, 0, PAGES * PAGE, &memory), WEIR_OK);
    real_fill(memory, PAGES, 5);
    share_begin();
    cr_assert_eq(share_end(one), 0);
    real_check(memory, PAGES, 5);
    weir_close(rt);
}

/* --- Many at once ---------------------------------------------------------------------------- */

#define CROWD 6

/* Each process has a lane of every page: eight words, of which it knows what they are. */
static int works_in_its_lane(const char *name)
{
    uint64_t lane = share_number, random = lane * 977 + 1, *mine = calloc(PAGES, sizeof(*mine));
    struct weir_attached *attached = share_attach(name);
    void *view[3] = {share_view(attached, 0, PAGES), share_view(attached, 0, PAGES),
                     share_view(attached, PAGES / 2, PAGES / 2)};

    const int64_t end_ms = real_now_ms() + 1500;

    for (uint64_t round = 1; round <= 30000 && real_now_ms() < end_ms; round++) {
        size_t page, part;
        volatile uint64_t *word;

        random = random * 6364136223846793005u + 1442695040888963407u;
        part = (random >> 40) % 3;
        page = (random >> 20) % PAGES;
        if (part == 2 && page < PAGES / 2)
            part = 0;
        word = (volatile uint64_t *)view[part] + (part == 2 ? page - PAGES / 2 : page) * 512 +
               lane * 8;
        if (*word != mine[page] || word[7] != mine[page])
            return 1;
        if (random >> 63)
            word[0] = word[7] = mine[page] = lane << 32 | round;
    }
    for (size_t page = 0; page < PAGES; page++)
        if (((volatile uint64_t *)view[0])[page * 512 + lane * 8] != mine[page])
            return 2;
    return weir_detach(attached) == WEIR_OK ? 0 : 3;
}

static void work_together(const char *backends, const char *engine, bool kills)
{
    pid_t crowd[CROWD];
    struct weir_options options;
    struct weir_runtime *rt;
    struct weir_object *object;

    for (int i = 0; i < CROWD; i++)
        crowd[i] = share_fork(works_in_its_lane, "crowd");
    real_options(&options, BUDGET, backends);
    options.engine = engine;
    rt = real_open_with(&options);
    object = share_object(rt, PAGES, share_name("crowd"));
    share_begin();
    if (kills) { /* one dies in the middle, one is stopped for two seconds */
        usleep(300000);
        cr_assert_eq(kill(crowd[0], SIGKILL), 0);
        cr_assert_eq(kill(crowd[1], SIGSTOP), 0);
        cr_assert_eq(share_end(crowd[0]), -SIGKILL);
        for (int i = 2; i < CROWD; i++)
            cr_assert_eq(share_end(crowd[i]), 0, "process %d", i);
        usleep(2000000);
        cr_assert_eq(kill(crowd[1], SIGCONT), 0);
        cr_assert_eq(share_end(crowd[1]), 0);
    } else {
        for (int i = 0; i < CROWD; i++)
            cr_assert_eq(share_end(crowd[i]), 0, "process %d", i);
    }
    cr_assert_gt(real_stats(rt).pages_written, PAGES / 4);
    cr_assert_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    cr_assert_eq(weir_object_close(object), WEIR_OK);
    SHARE_AWAIT(real_stats(rt).mapped_bytes == 0);
    weir_close(rt);
}

Test(share, a_crowd_of_processes_loses_no_store)
{
    work_together("mem:?size=128M", "auto", false);
}

Test(share, a_crowd_loses_no_store_through_a_file)
{
    work_together("file:/var/tmp?size=128M", "wp", false);
}

/* Nobody waits for a process that is stopped or dead. */
Test(share, the_dead_and_the_stopped_disturb_nobody)
{
    work_together("mem:?size=128M", "auto", true);
}

#define HOT ((size_t)64)

/* Stores as fast as it can to a few pages, in a lane of its own, and knows what it stored. */
static int counts(const char *name)
{
    volatile uint64_t *words = share_view(share_attach(name), 0, HOT);
    uint64_t count = 0, lane = 8 * share_number;

    for (; !share_is_over(); count++)
        for (size_t page = 0; page < HOT; page++)
            if (words[page * 512 + lane]++ != count)
                return 1;
    return 0;
}

/* While pages are taken all the time, stores to them come at every moment. */
Test(share, no_store_is_lost_while_its_page_is_taken)
{
    pid_t others[2] = {share_fork(counts, "hot"), share_fork(counts, "hot")};
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, HOT, share_name("hot"));
    void *memory, *pressure = real_map(rt, 3 * BUDGET);

    cr_assert_eq(weir_view_map(object, 0, HOT * PAGE, &memory), WEIR_OK);
    share_begin();
    for (uint64_t i = 0; i < 10000 && real_stats(rt).views_unmapped < 20 * HOT; i++) {
        cr_assert_eq(weir_advise(memory, HOT * PAGE, WEIR_COLD), WEIR_OK);
        real_fill((char *)pressure + i % 12 * MIB, MIB / PAGE, i);
        usleep(2000);
    }
    share_stop();
    for (int i = 0; i < 2; i++)
        cr_assert_eq(share_end(others[i]), 0, "process %d", i);
    cr_assert_geq(real_stats(rt).views_unmapped, 20 * HOT);
    weir_close(rt);
}

/* A stopped process maps pages, dirty ones too; they leave all the same, and it finds them again.
 */
static int fills_and_stops(const char *name)
{
    void *memory = share_view(share_attach(name), 0, 1024);

    share_fill(memory, 1024, 8);
    raise(SIGSTOP);
    share_check(memory, 1024, 8);
    return 0;
}

Test(share, pages_of_a_stopped_process_leave)
{
    pid_t other = share_fork(fills_and_stops, "stopped");
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, PAGES, share_name("stopped"));
    void *memory;
    int status;

    share_begin();
    cr_assert_eq(waitpid(other, &status, WUNTRACED), other);
    cr_assert(WIFSTOPPED(status));
    cr_assert_eq(weir_view_map(object, 1024 * PAGE, (PAGES - 1024) * PAGE, &memory), WEIR_OK);
    real_fill(memory, PAGES - 1024, 9);
    real_check(memory, PAGES - 1024, 9);
    cr_assert_geq(real_stats(rt).pages_written, PAGES - 2 * BUDGET / PAGE);
    cr_assert_eq(kill(other, SIGCONT), 0);
    cr_assert_eq(share_end(other), 0);
    weir_close(rt);
}

/* What is pinned over there stays, and is found by system calls; its pins end with the process. */
static int pins_and_reads(const char *name)
{
    struct weir_attached *attached = share_attach(name);
    char *memory = share_view(attached, 0, PAGES);
    size_t bytes = 350 * PAGE;
    int zeros = open("/dev/zero", O_RDONLY);

    if (weir_attached_pin(attached, memory + 100, bytes - 200, WEIR_WRITE) != WEIR_OK)
        return 1;
    for (int i = 0; i < 50; i++) { /* the others press on */
        if (read(zeros, memory, bytes) != (ssize_t)bytes)
            return 2;
        usleep(2000);
    }
    if (weir_attached_unpin(attached, memory + PAGE, PAGE) != WEIR_EINVAL ||
        weir_attached_pin(attached, memory + PAGES * PAGE - 1, 2, WEIR_READ) != WEIR_EINVAL ||
        weir_attached_pin(attached, memory, PAGE, WEIR_READ) != WEIR_OK)
        return 3;
    if (weir_attached_unpin(attached, memory + 100, bytes - 200) != WEIR_OK ||
        weir_attached_unpin(attached, memory + 100, bytes - 200) != WEIR_EINVAL)
        return 4;
    return 0; /* one page is pinned still */
}

Test(share, what_is_pinned_over_there_stays)
{
    pid_t other = share_fork(pins_and_reads, "pins");
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, PAGES, share_name("pins"));
    void *memory;

    cr_assert_eq(weir_view_map(object, 0, PAGES * PAGE, &memory), WEIR_OK);
    share_begin();
    for (uint64_t i = 0; i < 5; i++)
        real_fill((char *)memory + 350 * PAGE, PAGES - 350, i);
    cr_assert_eq(share_end(other), 0);
    SHARE_AWAIT(weir_advise(memory, PAGE, WEIR_DISCARD) == WEIR_OK);
    weir_close(rt);
}

/* All pages or none. */
Test(share, what_is_too_much_to_pin_is_not_pinned)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, PAGES, share_name("much"));
    struct weir_attached *attached = share_attach("much");
    void *memory = share_view(attached, 0, PAGES), *other;

    real_fill(memory, PAGES, 1);
    cr_expect_eq(weir_attached_pin(attached, memory, PAGES * PAGE, WEIR_WRITE), WEIR_ENOMEM);
    cr_assert_eq(weir_view_map(object, 0, PAGES * PAGE, &other), WEIR_OK);
    cr_expect_eq(weir_advise(other, PAGES * PAGE / 2, WEIR_DISCARD), WEIR_OK, "none is pinned");
    cr_expect_eq(weir_attached_pin(attached, memory, PAGE, WEIR_READ), WEIR_OK);
    cr_expect_eq(weir_advise(other, PAGE, WEIR_DISCARD), WEIR_EBUSY);
    cr_expect_eq(weir_attached_unmap(attached, memory), WEIR_OK);
    cr_expect_eq(weir_advise(other, PAGE, WEIR_DISCARD), WEIR_OK, "its pins went with the view");
    cr_expect_eq(weir_detach(attached), WEIR_OK);
    weir_close(rt);
}

/* --- The owner ends -------------------------------------------------------------------------- */

static sigjmp_buf out;
static _Atomic(int) told;

static void on_bus(int number)
{
    siglongjmp(out, number);
}

static void listen_for_end(void *context, const struct weir_event *event)
{
    (void)context;
    if (event->error == WEIR_ESTOPPED && strstr(event->text, "has ended"))
        atomic_store(&told, 1);
}

/* Walks until it cannot: then it must have been told, within a moment. */
static int walks_until_the_end(const char *name)
{
    struct weir_attach_options options = {.size = sizeof(options), .on_event = listen_for_end};
    struct weir_attached *attached = NULL;
    volatile uint64_t *words;
    void *memory;

    signal(SIGBUS, on_bus);
    share_wait_for_begin();
    if (weir_attach(share_name(name), &options, &attached) != WEIR_OK)
        return 1;
    words = memory = share_view(attached, 0, PAGES);
    alarm(20); /* it hangs */
    if (sigsetjmp(out, 1) == 0)
        for (size_t i = 0;; i = (i + 1) % PAGES)
            if (words[i * 512]++ == UINT64_MAX)
                return 2;
    for (int i = 0; i < 2000 && !atomic_load(&told); i++)
        usleep(1000);
    if (!atomic_load(&told))
        return 3;
    if (weir_attached_map(attached, 0, PAGE, &memory) != WEIR_ESTOPPED)
        return 4;
    return weir_detach(attached) == WEIR_OK ? 0 : 5;
}

static int owns_for_a_moment(const char *name)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");

    share_object(rt, PAGES, share_name(name));
    share_begin();
    usleep(400000);
    if (fork() == 0) { /* as below */
        prctl(PR_SET_PDEATHSIG, 0);
        sleep(3);
        _exit(0);
    }
    kill(getpid(), SIGKILL);
    return 9;
}

Test(share, a_killed_owner_ends_in_sigbus_and_an_event)
{
    pid_t walkers[3], owner;

    for (int i = 0; i < 3; i++)
        walkers[i] = share_fork(walks_until_the_end, "end");
    owner = fork();
    if (owner == 0)
        _exit(owns_for_a_moment("end"));
    cr_assert_eq(share_end(owner), -SIGKILL);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(share_end(walkers[i]), 0);
}

Test(share, an_owner_that_closes_ends_in_sigbus_and_an_event)
{
    pid_t walker = share_fork(walks_until_the_end, "closes"), child;
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");

    share_object(rt, PAGES, share_name("closes"));
    share_begin();
    usleep(300000);
    child = fork(); /* which has all descriptors of ours, and keeps them */
    if (child == 0) {
        pause();
        _exit(0);
    }
    cr_assert_eq(weir_close(rt), WEIR_OK);
    cr_assert_eq(share_end(walker), 0);
    kill(child, SIGKILL);
    cr_assert_eq(share_end(child), -SIGKILL);
}

/* A page that cannot be read: SIGBUS there, and everything else goes on. */
Test(share, a_lost_page_is_sigbus_in_who_touches_it)
{
    struct weir_runtime *rt = real_open(BUDGET, "chaos(mem:?size=64M)?seed=3&fail_read=1");
    struct weir_object *object = share_object(rt, PAGES, share_name("lost"));
    struct weir_attached *attached = share_attach("lost");
    volatile uint64_t *volatile words;
    volatile size_t caught = 0, i;

    (void)object;
    words = share_view(attached, 0, PAGES);
    for (i = 0; i < PAGES; i++)
        words[i * 512] = i + 1;
    signal(SIGBUS, on_bus);
    for (i = 0; i < 8; i++)
        if (sigsetjmp(out, 1) == 0)
            (void)words[i * 512];
        else
            caught++;
    cr_assert_gt(caught, 0);
    cr_assert_gt(real_events.count[WEIR_FAILURE], 0);
    weir_close(rt);
    cr_assert_eq(weir_detach(attached), WEIR_OK);
}

/* --- Coming and going ------------------------------------------------------------------------ */

Test(share, names_are_judged)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, 16, share_name("names")), *other = NULL;
    struct weir_attached *attached = NULL;
    char word[80], path[200];

    memset(word, 'x', sizeof(word));
    word[64] = '\0';
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[108] = '\0';
    cr_expect_eq(weir_object_create(rt, PAGE, NULL, &other), WEIR_OK);
    cr_expect_eq(weir_object_share(other, ""), WEIR_EINVAL);
    cr_expect_eq(weir_object_share(other, "a b"), WEIR_EINVAL);
    cr_expect_eq(weir_object_share(other, "a/b"), WEIR_EINVAL);
    cr_expect_eq(weir_object_share(other, word), WEIR_EINVAL);
    cr_expect_eq(weir_object_share(other, path), WEIR_EINVAL);
    cr_expect_eq(weir_object_share(other, "/"), WEIR_EINVAL);
    cr_expect_eq(weir_object_share(other, NULL), WEIR_EINVAL);
    cr_expect_eq(weir_object_share(other, share_name("names")), WEIR_EBUSY);
    cr_expect_eq(weir_object_share(object, share_name("again")), WEIR_EBUSY);
    cr_expect_eq(weir_object_share(other, "/nonexistent/weir"), WEIR_ENOENT);
    cr_expect_eq(weir_attach(word, NULL, &attached), WEIR_EINVAL);
    cr_expect_eq(weir_attach(share_name("nobody"), NULL, &attached), WEIR_ENOENT);
    cr_expect_eq(weir_attach("/nonexistent/weir", NULL, &attached), WEIR_ENOENT);
    cr_expect_eq(weir_object_unshare(other), WEIR_ENOENT);
    cr_expect_eq(weir_object_unshare(object), WEIR_OK);
    cr_expect_eq(weir_attach(share_name("names"), NULL, &attached), WEIR_ENOENT);
    word[63] = '\0';
    cr_expect_eq(weir_object_share(other, word), WEIR_OK);
    weir_close(rt);
}

/* A socket that a killed owner left behind is replaced; anything else of that name is not. */
Test(share, a_path_is_a_name)
{
    char path[64];
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, 16, NULL);
    struct weir_attached *attached = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int left = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    FILE *file;

    snprintf(path, sizeof(path), "/tmp/weir-share-test-%d", getpid());
    file = fopen(path, "w");
    cr_assert_not_null(file);
    fclose(file);
    cr_assert_eq(weir_object_share(object, path), WEIR_EBUSY);
    unlink(path);
    memcpy(address.sun_path, path, strlen(path));
    cr_assert_eq(bind(left, (struct sockaddr *)&address, sizeof(address)), 0);
    close(left);
    cr_assert_eq(weir_object_share(object, path), WEIR_OK);
    cr_assert_eq(weir_attach(path, NULL, &attached), WEIR_OK);
    *(volatile char *)share_view(attached, 0, 16) = 1;
    cr_assert_eq(weir_detach(attached), WEIR_OK);
    cr_assert_eq(weir_object_unshare(object), WEIR_OK);
    cr_assert_neq(access(path, F_OK), 0);
    weir_close(rt);
}

Test(share, arguments_are_judged)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, 16, share_name("arguments"));
    struct weir_attached *attached = share_attach("arguments");
    struct weir_attach_options wrong = {.size = 1};
    void *memory;

    (void)object;
    cr_expect_eq(weir_attach(share_name("arguments"), &wrong, &attached), WEIR_EINVAL);
    cr_expect_eq(weir_attached_map(attached, 1, PAGE, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_attached_map(attached, 16 * PAGE, PAGE, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_attached_map(attached, 0, 17 * PAGE, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_attached_map(attached, 0, 0, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_attached_map(attached, 0, UINT64_MAX, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_attached_map(NULL, 0, PAGE, &memory), WEIR_EINVAL);
    cr_expect_eq(weir_attached_unmap(attached, &wrong), WEIR_ENOENT);
    cr_expect_eq(weir_detach(NULL), WEIR_OK);
    cr_expect_eq(weir_detach(attached), WEIR_OK);
    weir_close(rt);
}

/* Views come and go in every order, while others work, and nothing is left of them. */
static int comes_and_goes(const char *name)
{
    uint64_t random = share_number + 1;

    for (int round = 0; round < 12; round++) {
        struct weir_attached *attached = share_attach(name);
        void *view[5];

        for (int i = 0; i < 5; i++) {
            view[i] = share_view(attached, (size_t)i, PAGES / 8);
            ((volatile uint64_t *)view[i])[(random >> 40) % (PAGES / 8) * 512 + 1] = random;
            random = random * 6364136223846793005u + 1;
        }
        for (int i = 0; i < round % 6; i++)
            if (weir_attached_unmap(attached, view[(i * 2 + round) % 5]) != WEIR_OK)
                return 1;
        if (round % 3 == 2)
            continue; /* never detached: its end does that */
        if (weir_detach(attached) != WEIR_OK)
            return 2;
    }
    return 0;
}

Test(share, views_come_and_go)
{
    pid_t others[4];
    struct weir_runtime *rt;
    struct weir_object *object;

    for (int i = 0; i < 4; i++)
        others[i] = share_fork(comes_and_goes, "go");
    rt = real_open(BUDGET, "mem:?size=64M");
    object = share_object(rt, PAGES, share_name("go"));
    share_begin();
    for (int i = 0; i < 4; i++)
        cr_assert_eq(share_end(others[i]), 0);
    cr_assert_eq(weir_object_close(object), WEIR_OK);
    SHARE_AWAIT(real_stats(rt).mapped_bytes == 0);
    cr_assert_eq(real_events.count[WEIR_FAILURE], 0, "%s", real_events.text[WEIR_FAILURE]);
    cr_assert_eq(weir_close(rt), WEIR_OK);
}

Test(share, a_fork_child_of_an_attached_process_has_nothing)
{
    struct weir_runtime *rt = real_open(BUDGET, "mem:?size=64M");
    struct weir_object *object = share_object(rt, 16, share_name("fork"));
    struct weir_attached *attached = share_attach("fork");
    void *memory = share_view(attached, 0, 16);
    pid_t child;

    (void)object;
    *(volatile char *)memory = 1;
    child = fork();
    if (child == 0) {
        if (weir_detach(attached) != WEIR_EFORKED ||
            weir_attached_map(attached, 0, PAGE, &memory) != WEIR_EFORKED ||
            weir_attached_unmap(attached, memory) != WEIR_EFORKED)
            _exit(1);
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)memory = 2;
        _exit(2);
    }
    cr_assert_eq(share_end(child), -SIGSEGV);
    cr_assert_eq(*(volatile char *)memory, 1);
    cr_assert_eq(weir_detach(attached), WEIR_OK);
    weir_close(rt);
}
