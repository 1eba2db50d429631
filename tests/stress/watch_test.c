/* SPDX-License-Identifier: MIT */

/* What a real runtime publishes, while it runs and when it is gone. */

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <weir/weir_watch.h>

#include "tests/stress/real.h"

#define BUDGET      (4 * MIB)
#define PATIENCE_MS 60000

static char home[64], place[80];

static void begin(void)
{
    strcpy(home, "/tmp/weir-watch-XXXXXX");
    cr_assert(mkdtemp(home));
    snprintf(place, sizeof(place), "%s/sheets", home);
}

static void end(void)
{
    rmdir(place);
    cr_expect_eq(rmdir(home), 0, "nothing is left");
}

static struct weir_runtime *open_published(void)
{
    struct weir_options options;

    real_options(&options, BUDGET, "mem:?size=64M");
    options.publish = place;
    return real_open_with(&options);
}

static size_t listed(struct weir_watched *list, size_t room)
{
    size_t count = 0;

    cr_assert_eq(weir_watch_list(place, list, room, &count), WEIR_OK);
    return count;
}

static void wait_for(size_t count)
{
    int64_t until = real_now_ms() + PATIENCE_MS;

    while (listed(NULL, 0) != count) {
        cr_assert_lt(real_now_ms(), until, "there are %zu and not %zu", listed(NULL, 0), count);
        usleep(10000);
    }
}

/* What that runtime says when it has said so many faults, or more. */
static struct weir_watch *read_with(const struct weir_watched *which, uint64_t faults)
{
    int64_t until = real_now_ms() + PATIENCE_MS;

    for (;;) {
        struct weir_watch *watch = NULL;
        int error = weir_watch_read(place, which, &watch);

        if (error == WEIR_OK && watch->stats->faults >= faults)
            return watch;
        weir_watch_free(watch);
        cr_assert_lt(real_now_ms(), until, "%s", weir_error_name(error));
        usleep(10000);
    }
}

Test(watch, two_runtimes_of_a_process_say_what_each_knows_and_closed_ones_are_gone)
{
    struct weir_region_options named = {.size = sizeof(named), .name = "seen"};
    struct weir_runtime *first, *second;
    struct weir_watched list[2];
    struct weir_watch *watch;
    struct weir_stats stats;
    void *memory;

    begin();
    first = open_published();
    wait_for(1);
    cr_assert_eq(listed(list, 2), 1u);
    second = open_published();
    wait_for(2);
    cr_assert_eq(weir_map(first, 8 * MIB, &named, &memory), WEIR_OK);
    real_fill(memory, 8 * MIB / PAGE, 1);
    stats = real_at_rest(first);
    watch = read_with(&list[0], stats.faults);
    cr_expect_eq(watch->pid, getpid());
    cr_expect_eq(watch->stats->budget_bytes, BUDGET);
    cr_expect_geq(watch->stats->time_fault.count, 1u);
    cr_expect_eq(watch->stats->pages_written, real_stats(first).pages_written);
    cr_expect_eq(watch->backends_shown, 1u);
    cr_expect_str_eq(watch->backends[0].spec, "mem:?size=64M");
    cr_expect_eq(watch->region_count, 1u);
    cr_expect_str_eq(watch->regions[0].name, "seen");
    cr_expect_eq(watch->regions[0].address, memory);
    cr_expect_gt(watch->regions[0].faults, 0u);
    cr_expect_gt(watch->regions[0].out_bytes, 0u);
    cr_expect_str_eq(watch->library, weir_version());
    cr_expect_not_null(strstr(watch->how, "engine"));
    weir_watch_free(watch);
    cr_assert_eq(weir_close(first), WEIR_OK);
    cr_expect_eq(listed(NULL, 0), 1u, "at once");
    cr_expect_eq(weir_watch_read(place, &list[0], &watch), WEIR_ENOENT);
    cr_assert_eq(weir_close(second), WEIR_OK);
    cr_expect_eq(listed(NULL, 0), 0u);
    end();
}

Test(watch, of_many_regions_the_first_are_shown_and_all_are_counted)
{
    struct weir_runtime *rt;
    struct weir_watched which;
    struct weir_watch *watch;
    uint64_t before;

    begin();
    rt = open_published();
    wait_for(1);
    cr_assert_eq(listed(&which, 1), 1u);
    for (uint32_t i = 0; i < WEIR_WATCH_REGIONS + 6; i++)
        (void)real_map(rt, PAGE);
    watch = read_with(&which, 0);
    before = watch->sequence;
    do { /* one that began when all were there */
        weir_watch_free(watch);
        watch = read_with(&which, 0);
    } while (watch->sequence < before + 2);
    cr_expect_eq(watch->regions_shown, WEIR_WATCH_REGIONS);
    cr_expect_eq(watch->region_count, WEIR_WATCH_REGIONS + 6);
    weir_watch_free(watch);
    cr_assert_eq(weir_close(rt), WEIR_OK);
    end();
}

Test(watch, who_does_not_want_to_be_watched_is_not)
{
    struct weir_options options;
    struct weir_runtime *rt;

    begin();
    real_options(&options, BUDGET, "mem:?size=64M");
    options.publish = "0";
    rt = real_open_with(&options);
    cr_expect_eq(weir_close(rt), WEIR_OK);
    cr_expect_neq(access(place, F_OK), 0, "not even a directory is made");
    end();
}

/* It says why it cannot be watched, once, and works. */
Test(watch, a_directory_of_others_is_a_note_and_no_more)
{
    struct weir_runtime *rt;
    void *memory;

    begin();
    cr_assert_eq(mkdir(place, 0700), 0);
    cr_assert_eq(chmod(place, 0777), 0);
    rt = open_published();
    memory = real_map(rt, 2 * MIB);
    real_fill(memory, 2 * MIB / PAGE, 1);
    real_check(memory, 2 * MIB / PAGE, 1);
    cr_assert_eq(weir_close(rt), WEIR_OK); /* its thread has ended: it has said all */
    cr_expect_not_null(strstr(real_events.text[WEIR_NOTE], place), "%s",
                       real_events.text[WEIR_NOTE]);
    cr_expect_eq(real_events.count[WEIR_FAILURE], 0);
    end();
}

/* The process goes on, under the same number and with the same start: but the runtime is gone. */
Test(watch, an_exec_ends_the_runtime_and_its_sheet)
{
    int status;
    pid_t child;

    begin();
    child = fork();
    if (child == 0) {
        struct weir_watched which;

        (void)open_published();
        wait_for(1);
        cr_assert_eq(listed(&which, 1), 1u);
        weir_watch_free(read_with(&which, 0)); /* it is whole */
        execlp("sleep", "sleep", "120", (char *)NULL);
        _exit(1);
    }
    for (int64_t until = real_now_ms() + PATIENCE_MS; access(place, F_OK) != 0;) {
        cr_assert_lt(real_now_ms(), until);
        usleep(10000);
    }
    for (int64_t until = real_now_ms() + PATIENCE_MS;;) {
        char path[64], name[16] = "";
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/comm", child);
        file = fopen(path, "re");
        if (file && fgets(name, sizeof(name), file) && strcmp(name, "sleep\n") == 0) {
            fclose(file);
            break;
        }
        if (file)
            fclose(file);
        cr_assert_lt(real_now_ms(), until);
        usleep(10000);
    }
    cr_expect_eq(listed(NULL, 0), 0u);
    cr_assert_eq(kill(child, SIGKILL), 0);
    cr_assert_eq(waitpid(child, &status, 0), child);
    end();
}
