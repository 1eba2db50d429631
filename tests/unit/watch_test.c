/* SPDX-License-Identifier: MIT */

/* Sheets, as files: who may read them, what is believed, what is left behind and by whom. */

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "runtime/host/sheet.h"

#define VALUES 3000u /* of a sheet that is long enough to be read while it is half written */

static char directory[64];

/* A sheet with two counters, a time of two buckets, a back end and a region, whatever the numbers
 * are; the last part is as many more counters as are wanted. */
struct made {
    struct wr_sheet_head head;
    uint8_t rest[VALUES * 24];
};

static void *part(struct made *made, size_t bytes)
{
    uint8_t *at = (uint8_t *)made + made->head.all_bytes;

    made->head.all_bytes += (uint32_t)((bytes + 7) / 8 * 8);
    cr_assert_leq(made->head.all_bytes, sizeof(*made));
    return at;
}

static void make(struct made *made)
{
    static const char names[] = "a_counter_of_later\0faults\0resident_bytes\0fault";
    static const uint64_t numbers[] = {1, 22, 333};
    static const char region_names[] = "waits\0of_later";
    struct wr_sheet_backend *backend;
    struct wr_sheet_region *region;
    uint64_t *counts;

    memset(made, 0, sizeof(*made));
    memcpy(made->head.magic, WR_SHEET_MAGIC, sizeof(made->head.magic));
    made->head.byte_order = WR_SHEET_BYTE_ORDER;
    made->head.version = WR_SHEET_VERSION;
    made->head.head_bytes = made->head.all_bytes = sizeof(made->head);
    wr_sheet_sign(&made->head);
    strcpy(made->head.program, "it");
    made->head.names_bytes = sizeof(names);
    made->head.value_count = 3;
    made->head.time_count = 1;
    made->head.bucket_count = 2;
    memcpy(part(made, sizeof(names)), names, sizeof(names));
    memcpy(part(made, 3 * 8), numbers, 3 * 8);
    counts = part(made, 4 * 8);
    counts[0] = 3;
    counts[1] = 5000;
    counts[2] = 1;
    counts[3] = 2;
    made->head.backend_count = 20;
    made->head.backends_shown = 1;
    made->head.backend_bytes = sizeof(*backend) + 8; /* a later one has more to say */
    backend = part(made, sizeof(*backend) + 8);
    backend->bytes_used = 4096;
    strcpy(backend->spec, "mem:\033[2J");
    made->head.region_names_bytes = sizeof(region_names);
    made->head.region_value_count = 2;
    memcpy(part(made, sizeof(region_names)), region_names, sizeof(region_names));
    made->head.region_count = made->head.regions_shown = 1;
    made->head.region_bytes = sizeof(*region) + 16;
    region = part(made, sizeof(*region) + 16);
    region->bytes = 8192;
    memset(region->name, 'n', sizeof(region->name)); /* without an end */
    counts = (uint64_t *)(void *)(region + 1);
    counts[0] = 7;
    counts[1] = 9;
}

static void open_directory(void)
{
    strcpy(directory, "/tmp/weir-watch-XXXXXX");
    cr_assert(mkdtemp(directory));
}

static void close_directory(void)
{
    char path[400];
    const struct dirent *entry;
    DIR *entries = opendir(directory);

    while (entries && (entry = readdir(entries))) {
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        unlink(path);
    }
    if (entries)
        closedir(entries);
    rmdir(directory);
}

static size_t listed(void)
{
    size_t count = 99;

    cr_assert_eq(weir_watch_list(directory, NULL, 0, &count), WEIR_OK);
    return count;
}

static size_t files(void)
{
    const struct dirent *entry;
    DIR *entries = opendir(directory);
    size_t count = 0;

    cr_assert(entries);
    while ((entry = readdir(entries)))
        count += entry->d_name[0] != '.';
    closedir(entries);
    return count;
}

static int read_it(uint64_t number, struct weir_watch **watch_p)
{
    struct weir_watched which = {.pid = getpid(), .number = number};

    return weir_watch_read(directory, &which, watch_p);
}

Test(watch, numbers_are_found_by_name_and_what_is_of_later_is_left_out)
{
    struct wr_sheet sheet;
    struct weir_watch *watch;
    struct made made;

    open_directory();
    make(&made);
    cr_assert_eq(wr_sheet_create(directory, 5, &sheet), WEIR_OK);
    cr_assert(wr_sheet_write(&sheet, &made.head));
    cr_expect_eq(listed(), 1u);
    cr_assert_eq(read_it(5, &watch), WEIR_OK);
    cr_expect_eq(watch->stats->faults, 22u);
    cr_expect_eq(watch->stats->resident_bytes, 333u);
    cr_expect_eq(watch->stats->cache_added, 0u);
    cr_expect_eq(watch->stats->time_fault.sum_ns, 5000u);
    cr_expect_eq(watch->stats->time_fault.bucket[1], 2u);
    cr_expect_eq(watch->stats->time_fault.count, 3u);
    cr_expect_eq(watch->backend_count, 20u);
    cr_expect_eq(watch->backends_shown, 1u);
    cr_expect_eq(watch->backends[0].bytes_used, 4096u);
    cr_expect_str_eq(watch->backends[0].spec, "mem:?[2J", "a terminal is not steered");
    cr_expect_eq(watch->regions[0].waits, 7u);
    cr_expect_eq(strlen(watch->regions[0].name), 31u);
    weir_watch_free(watch);
    wr_sheet_remove(&sheet);
    cr_expect_eq(listed(), 0u);
    cr_expect_eq(files(), 0u);
    cr_expect_eq(read_it(5, &watch), WEIR_ENOENT);
    close_directory();
}

/* --- What is not believed -------------------------------------------------------------------- */

static void write_raw(const char *name, const void *bytes, size_t count)
{
    char path[160];
    int file;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    cr_assert_geq(file, 0);
    cr_assert_eq(write(file, bytes, count), (ssize_t)count);
    close(file);
}

/* Any one of the words of the head or of what follows, changed and summed again: no harm. */
Test(watch, whatever_is_in_a_sheet_does_no_harm)
{
    static const uint32_t bad[] = {0, 1, 7, 0xff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff};
    char name[32];
    struct made made, spoilt;
    size_t words;

    open_directory();
    make(&made);
    words = made.head.all_bytes / sizeof(uint32_t);
    snprintf(name, sizeof(name), "%d.5", getpid());
    for (size_t i = 6; i < words; i++) /* behind the sum */
        for (size_t k = 0; k < sizeof(bad) / sizeof(bad[0]); k++) {
            struct weir_watch *watch = NULL;
            const size_t from = offsetof(struct wr_sheet_head, sum) + sizeof(uint64_t);

            if (i >= 64 && i < 150 && k > 1)
                continue; /* text */
            memcpy(&spoilt, &made, sizeof(made));
            memcpy((char *)&spoilt + i * sizeof(uint32_t), &bad[k], sizeof(uint32_t));
            if (spoilt.head.all_bytes != made.head.all_bytes && i > 7)
                continue;
            spoilt.head.sum = XXH3_64bits((const char *)&spoilt + from, made.head.all_bytes - from);
            write_raw(name, &spoilt, made.head.all_bytes);
            if (i == 7) /* its length is not to be believed: that is one try after the other */
                continue;
            if (spoilt.head.head_bytes != made.head.head_bytes || spoilt.head.pid != made.head.pid)
                continue;
            if (read_it(5, &watch) == WEIR_OK)
                weir_watch_free(watch);
        }
    close_directory();
}

Test(watch, what_is_damaged_short_or_of_another_kind_is_refused)
{
    struct weir_watch *watch;
    char name[32];
    struct made made;
    uint64_t sum;

    open_directory();
    make(&made);
    snprintf(name, sizeof(name), "%d.5", getpid());
    write_raw(name, &made, made.head.all_bytes); /* without a sum */
    cr_expect_eq(read_it(5, &watch), WEIR_EIO);
    write_raw(name, "", 0);
    cr_expect_eq(read_it(5, &watch), WEIR_EIO);
    write_raw(name, &made, 20);
    cr_expect_eq(read_it(5, &watch), WEIR_EIO);
    made.head.version++;
    write_raw(name, &made, made.head.all_bytes);
    cr_expect_eq(read_it(5, &watch), WEIR_ENOSUPPORT);
    made.head.version--;
    sum = XXH3_64bits(&made.head.head_bytes,
                      made.head.all_bytes - offsetof(struct wr_sheet_head, head_bytes));
    made.head.sum = sum;
    write_raw(name, &made, made.head.all_bytes);
    cr_assert_eq(read_it(5, &watch), WEIR_OK, "that was all that was wrong");
    weir_watch_free(watch);
    snprintf(name, sizeof(name), "%d.5", 1);
    write_raw(name, &made, made.head.all_bytes); /* another's name */
    cr_expect_eq(weir_watch_read(directory, &(struct weir_watched){1, 5}, &watch), WEIR_EIO);
    close_directory();
}

Test(watch, a_link_or_a_pipe_is_no_sheet)
{
    char path[160], other[160];
    struct weir_watch *watch;
    struct wr_sheet sheet;

    open_directory();
    snprintf(path, sizeof(path), "%s/%d.5", directory, getpid());
    snprintf(other, sizeof(other), "%s/victim", directory);
    write_raw("victim", "mine", 4);
    cr_assert_eq(symlink(other, path), 0);
    cr_expect_eq(read_it(5, &watch), WEIR_EIO);
    cr_expect_neq(wr_sheet_create(directory, 5, &sheet), WEIR_OK, "it is not written through");
    unlink(path);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_expect_eq(read_it(5, &watch), WEIR_EIO);
    cr_expect_eq(listed(), 0u);
    close_directory();
}

Test(watch, a_directory_that_others_may_enter_is_not_used)
{
    char link[80];
    struct wr_sheet sheet;
    size_t count = 0;

    open_directory();
    cr_assert_eq(chmod(directory, 0755), 0);
    cr_expect_eq(weir_watch_list(directory, NULL, 0, &count), WEIR_EDENIED);
    cr_expect_eq(wr_sheet_create(directory, 5, &sheet), WEIR_EDENIED);
    cr_expect_eq(files(), 0u);
    cr_assert_eq(chmod(directory, 0700), 0);
    snprintf(link, sizeof(link), "%s.link", directory);
    cr_assert_eq(symlink(directory, link), 0);
    cr_expect_eq(weir_watch_list(link, NULL, 0, &count), WEIR_EDENIED);
    cr_expect_eq(wr_sheet_create(link, 5, &sheet), WEIR_EDENIED);
    unlink(link);
    if (geteuid() == 0) {
        cr_assert_eq(chown(directory, 65534, 65534), 0);
        cr_expect_eq(weir_watch_list(directory, NULL, 0, &count), WEIR_EDENIED);
        cr_expect_eq(wr_sheet_create(directory, 5, &sheet), WEIR_EDENIED);
    }
    close_directory();
    cr_expect_eq(weir_watch_list(directory, NULL, 0, &count), WEIR_OK, "none is no error");
    cr_expect_eq(count, 0u);
}

/* --- What is left behind --------------------------------------------------------------------- */

/* A child that has made a sheet of its own, and then is gone. */
static pid_t make_and_end(void)
{
    struct made made;
    pid_t child = fork();

    if (child == 0) {
        struct wr_sheet sheet;

        make(&made);
        _exit(wr_sheet_create(directory, 5, &sheet) == WEIR_OK && wr_sheet_write(&sheet, &made.head)
                  ? 0
                  : 1);
    }
    return child;
}

Test(watch, what_a_dead_process_has_left_is_removed_by_whoever_looks)
{
    int status = -1;
    pid_t child;

    open_directory();
    child = make_and_end();
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
    cr_expect_eq(files(), 1u);
    cr_expect_eq(listed(), 0u);
    cr_expect_eq(files(), 0u);
    close_directory();
}

/* The same pid, and the same number of a thread: but it began at another time. */
Test(watch, another_process_of_the_same_number_is_not_taken_for_it)
{
    struct weir_watch *watch;
    struct wr_sheet sheet;
    struct made made;

    open_directory();
    make(&made);
    made.head.started++;
    cr_assert_eq(wr_sheet_create(directory, 5, &sheet), WEIR_OK);
    cr_assert(wr_sheet_write(&sheet, &made.head));
    cr_expect_eq(read_it(5, &watch), WEIR_ENOENT);
    cr_expect_eq(listed(), 0u);
    cr_expect_eq(files(), 0u);
    wr_sheet_remove(&sheet);
    close_directory();
}

/* What a process of another container says cannot be judged, and so is neither shown nor removed.
 */
Test(watch, a_sheet_of_another_container_is_left_alone)
{
    struct wr_sheet sheet;
    struct made made;

    open_directory();
    make(&made);
    made.head.pid_space++;
    made.head.thread = 0x7ffffff0;
    cr_assert_eq(wr_sheet_create(directory, 5, &sheet), WEIR_OK);
    cr_assert(wr_sheet_write(&sheet, &made.head));
    cr_expect_eq(listed(), 0u);
    cr_expect_eq(files(), 1u);
    wr_sheet_remove(&sheet);
    close_directory();
}

Test(watch, a_list_has_the_first_and_counts_all)
{
    static const uint64_t numbers[] = {7, 3, 9, 1, 5};
    struct weir_watched list[3];
    struct wr_sheet sheets[5];
    struct made made;
    size_t count;

    open_directory();
    make(&made);
    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(wr_sheet_create(directory, numbers[i], &sheets[i]), WEIR_OK);
        cr_assert(wr_sheet_write(&sheets[i], &made.head));
    }
    cr_assert_eq(weir_watch_list(directory, list, 3, &count), WEIR_OK);
    cr_expect_eq(count, 5u);
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(list[i].number, 1 + 2 * i);
    for (size_t i = 0; i < 5; i++)
        wr_sheet_remove(&sheets[i]);
    close_directory();
}

/* --- Half of it ------------------------------------------------------------------------------ */

static _Atomic(bool) is_over;
static struct made long_one;

static void *write_on(void *argument)
{
    const struct wr_sheet *sheet = argument;

    for (uint64_t round = 1; !atomic_load(&is_over); round++) {
        uint64_t *values = (uint64_t *)(void *)(long_one.rest + VALUES * 8);

        for (uint32_t i = 0; i < VALUES; i++)
            values[i] = round;
        cr_assert(wr_sheet_write(sheet, &long_one.head));
        usleep(100);
    }
    return NULL;
}

/* A counter named `faults` at one end and one named `writes` at the other: always equal. */
Test(watch, nobody_reads_half_of_a_sheet)
{
    struct wr_sheet sheet;
    pthread_t writer;
    char *names;

    open_directory();
    make(&long_one);
    long_one.head.all_bytes = sizeof(long_one.head);
    names = part(&long_one, VALUES * 8);
    memset(names, 0, VALUES * 8);
    strcpy(names, "faults");
    strcpy(names + sizeof("faults") + VALUES - 2, "writes"); /* empty names lie between */
    long_one.head.names_bytes = VALUES * 8;
    long_one.head.value_count = VALUES;
    long_one.head.time_count = 0;
    part(&long_one, VALUES * 8);
    long_one.head.backends_shown = long_one.head.regions_shown = 0;
    strcpy(part(&long_one, 16), "waits");
    long_one.head.region_names_bytes = 6;
    long_one.head.region_value_count = 1;
    cr_assert_eq(wr_sheet_create(directory, 5, &sheet), WEIR_OK);
    cr_assert(wr_sheet_write(&sheet, &long_one.head));
    cr_assert_eq(pthread_create(&writer, NULL, write_on, &sheet), 0);
    for (unsigned i = 0, whole = 0; whole < 300 && i < 30000; i++) {
        struct weir_watch *watch;

        if (read_it(5, &watch) != WEIR_OK)
            continue;
        whole++;
        cr_assert_eq(watch->stats->faults, watch->stats->writes);
        weir_watch_free(watch);
    }
    atomic_store(&is_over, true);
    pthread_join(writer, NULL);
    cr_assert_eq(listed(), 1u);
    wr_sheet_remove(&sheet);
    close_directory();
}
