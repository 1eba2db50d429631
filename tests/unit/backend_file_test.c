/* SPDX-License-Identifier: MIT */

/* Places: what a path may name, what is left alone, what is left behind. */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"

#define MIB 1048576ull

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* Contents, size and times of a file in one number. */
static uint64_t hash_file(const char *path)
{
    struct stat status;
    uint64_t hash = 14695981039346656037u;
    FILE *file = fopen(path, "r");
    int c;

    cr_assert_not_null(file);
    cr_assert_eq(fstat(fileno(file), &status), 0);
    hash ^= (uint64_t)status.st_size ^ (uint64_t)status.st_mtim.tv_nsec << 20 ^
            (uint64_t)status.st_mtim.tv_sec ^ (uint64_t)status.st_ino << 40;
    while ((c = getc(file)) != EOF)
        hash = (hash ^ (uint64_t)c) * 1099511628211u;
    fclose(file);
    return hash;
}

/* --- A directory ----------------------------------------------------------------------------- */

Test(file_place, a_directory_shows_nothing)
{
    const char *directory = kit_directory();
    struct weir_backend *one = kit_open(kit_text("file:%s?size=4m", directory), WEIR_OK);
    struct weir_backend *two = kit_open(kit_text("file:%s?size=8m", directory), WEIR_OK);

    cr_expect_eq(kit_entry_count(directory), 0);
    cr_expect_eq(kit_describe(one).slots, 1024);
    cr_expect_eq(kit_describe(two).slots, 2048);
    cr_expect_eq(kit_describe(one).cluster_slots, WEIR_CLUSTER_SLOTS);
    kit_close(one);
    kit_close(two);
    cr_expect_eq(kit_entry_count(directory), 0);
    kit_open(kit_text("file:%s?size=4m&keep=yes", directory), WEIR_EINVAL);
}

/* Does this process hold a file that bore the name and was removed? */
static bool has_removed(const char *path)
{
    char removed[600];
    bool found = false;

    snprintf(removed, sizeof(removed), "%s (deleted)", path);
    for (int fd = 0; fd < 64 && !found; fd++) {
        char target[600] = "";
        char link[32];

        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        found = readlink(link, target, sizeof(target) - 1) > 0 && strcmp(target, removed) == 0;
    }
    return found;
}

/* Four processes open and close one name: whoever has it has the file that bears the name. */
static int take_turns(const char *path, int rounds)
{
    const char *spec = kit_text("file:%s?size=64k&uring=off", path);
    int wrong = 0;

    for (int i = 0; i < rounds; i++) {
        struct weir_backend *own;
        int error = weir_backend_open(spec, &kit_env, &own);

        if (error == WEIR_OK) {
            wrong += has_removed(path) || !is_there(path);
            kit_close(own);
        } else {
            wrong += error != WEIR_EBUSY;
        }
    }
    return wrong > 0;
}

Test(file_place, a_name_is_never_had_twice)
{
    const char *path = kit_text("%s/swap", kit_directory());
    int status;

    for (int i = 0; i < 4; i++) {
        if (fork() == 0) {
            kit_die_with_parent();
            _exit(take_turns(path, 300));
        }
    }
    for (int i = 0; i < 4; i++) {
        cr_assert_gt(wait(&status), 0);
        cr_expect_eq(status, 0);
    }
    cr_expect_eq(kit_entry_count(kit_directory()), 0);
}

/* Some file systems cannot make a file without a name. */
Test(file_place, a_directory_shows_nothing_without_tmpfile)
{
    const char *directory = kit_directory();
    struct weir_backend *backend;

    if (!kit_refuse_flag(SYS_openat, 2, O_TMPFILE, EOPNOTSUPP))
        cr_skip_test("no seccomp filters here");
    backend = kit_open(kit_text("file:%s?size=4m&uring=off", directory), WEIR_OK);
    cr_expect_eq(kit_describe(backend).slots, 1024);
    cr_expect(kit_holds(backend, 0, 1, 0));
    cr_expect_eq(kit_entry_count(directory), 0);
    kit_close(backend);
}

Test(file_place, the_default_size_is_most_of_what_is_free)
{
    const char *directory = kit_directory();
    struct weir_backend *backend = kit_open(kit_text("file:%s", directory), WEIR_OK);
    struct statvfs system;
    uint64_t bytes = kit_describe(backend).slots * WEIR_SLOT_BYTES, room;

    cr_assert_eq(statvfs(directory, &system), 0);
    room = system.f_bavail * system.f_frsize;
    /* Others use the disk meanwhile. */
    cr_expect_eq(bytes % KIT_CLUSTER_BYTES, 0);
    cr_expect_gt(bytes, room / 100 * 80);
    cr_expect_lt(bytes, room / 100 * 97);
    kit_close(backend);
}

Test(file_place, more_than_is_free_is_told)
{
    const char *directory = kit_directory();
    struct statvfs system;

    cr_assert_eq(statvfs(directory, &system), 0);
    if (system.f_bavail * system.f_frsize > 7ull << 40)
        cr_skip_test("there is too much free");
    kit_close(kit_open(kit_text("file:%s?size=8t", directory), WEIR_OK));
    cr_expect_eq(kit_told.severity, 0);
    cr_expect(strstr(kit_told.text, "free"), "%s", kit_told.text);
}

Test(file_place, sizes_need_not_be_whole_pages)
{
    static const int64_t beside[] = {-4096, -512, 0, 512, 4096, 4095, -1};
    const char *path = kit_text("%s/swap", kit_directory());

    for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
        const uint64_t bytes = (uint64_t)((int64_t)(2 * KIT_CLUSTER_BYTES) + beside[i]);
        struct weir_backend *backend = kit_open(
            kit_text("file:%s?size=%llu&keep=yes", path, (unsigned long long)bytes), WEIR_OK);
        const uint64_t slots = kit_describe(backend).slots;
        struct weir_channel *channel = kit_channel(backend, 1);
        unsigned char tail[4096] = {0};
        int fd;

        cr_expect_eq(slots, bytes / WEIR_SLOT_BYTES);
        cr_expect_eq(kit_file_bytes(path), KIT_HEADER_BYTES + bytes);
        cr_expect_eq(kit_write(channel, slots - 1, 1, 0x77, NULL), WEIR_OK);
        cr_expect(kit_holds(backend, slots - 1, 1, 0x77));
        cr_expect_eq(kit_write(channel, slots, 1, 0x77, NULL), WEIR_EINVAL);
        backend->ops->channel_close(channel);
        kit_close(backend);
        /* What is no whole page was not touched. */
        fd = open(path, O_RDONLY | O_CLOEXEC);
        cr_expect_eq(pread(fd, tail, sizeof(tail), (off_t)(KIT_HEADER_BYTES + slots * 4096)),
                     (ssize_t)(bytes % 4096));
        cr_expect(kit_is_filled(tail, sizeof(tail), 0));
        close(fd);
        unlink(path);
    }
}

Test(file_place, a_limit_on_file_sizes_is_respected)
{
    const struct rlimit limit = {MIB, MIB};
    const char *directory = kit_directory();

    /* Exceeding it would kill this process. */
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    kit_open(kit_text("file:%s?size=8m", directory), WEIR_EINVAL);
    kit_open(kit_text("file:%s/name?size=8m", directory), WEIR_EINVAL);
    cr_expect(strstr(kit_told.text, "ulimit -f"), "%s", kit_told.text);
    cr_expect_eq(kit_entry_count(directory), 0);
}

/* --- A file ---------------------------------------------------------------------------------- */

Test(file_place, a_new_file_is_private_and_removed)
{
    const char *path = kit_text("%s/swap", kit_directory());
    struct weir_backend *backend;
    struct stat status;

    umask(0);
    backend = kit_open(kit_text("file:%s?size=4m", path), WEIR_OK);
    cr_assert_eq(stat(path, &status), 0);
    cr_expect_eq(status.st_mode, S_IFREG | 0600);
    kit_close(backend);
    cr_expect_not(is_there(path));
}

Test(file_place, keep_keeps_it_and_it_serves_again)
{
    const char *path = kit_text("%s/swap", kit_directory());

    kit_close(kit_open(kit_text("file:%s?size=4m&keep=yes", path), WEIR_OK));
    cr_expect_eq(kit_file_bytes(path), KIT_HEADER_BYTES + 4 * MIB);
    kit_close(kit_open(kit_text("file:%s?size=8m&keep=yes", path), WEIR_OK));
    cr_expect_eq(kit_file_bytes(path), KIT_HEADER_BYTES + 8 * MIB);
    kit_close(kit_open(kit_text("file:%s?size=2m", path), WEIR_OK));
    cr_expect_not(is_there(path));
}

Test(file_place, an_empty_file_is_taken)
{
    const char *path = kit_text("%s/swap", kit_directory());

    kit_put_file(path, "", 0);
    kit_close(kit_open(kit_text("file:%s?size=4m", path), WEIR_OK));
    cr_expect_not(is_there(path));
}

Test(file_place, a_file_is_used_by_one_only)
{
    const char *spec = kit_text("file:%s/swap?size=4m", kit_directory());
    struct weir_backend *backend = kit_open(spec, WEIR_OK);
    pid_t child;
    int status;

    kit_open(spec, WEIR_EBUSY);
    cr_expect(strstr(kit_told.text, "in use"), "%s", kit_told.text);
    child = fork();
    if (child == 0) {
        struct weir_backend *again;

        _exit(weir_backend_open(spec, &kit_env, &again) == WEIR_EBUSY ? 0 : 1);
    }
    waitpid(child, &status, 0);
    cr_expect_eq(status, 0);
    kit_close(backend);
    kit_close(kit_open(spec, WEIR_OK));
}

Test(file_place, a_fork_child_does_not_keep_it_locked)
{
    const char *spec = kit_text("file:%s/swap?size=4m", kit_directory());
    struct weir_backend *backend = kit_open(spec, WEIR_OK);
    pid_t child = fork();
    int status;

    if (child == 0) {
        kit_die_with_parent();
        pause();
        _exit(0);
    }
    kit_close(backend);
    kit_close(kit_open(spec, WEIR_OK));
    kit_close(kit_open(kit_text("%s&keep=yes", spec), WEIR_OK));
    kit_close(kit_open(kit_text("%s&keep=yes", spec), WEIR_OK));
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
}

/* Whoever dies leaves a file with our header and no lock: the next one takes it over at once. */
static void take_over_after_death(const char *options)
{
    const char *spec = kit_text("file:%s/swap?size=4m%s", kit_directory(), options);
    int ready[2], status;
    pid_t child;
    char byte;

    cr_assert_eq(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        struct weir_backend *backend = kit_open(spec, WEIR_OK);
        struct weir_channel *channel = kit_channel(backend, 4);

        kit_die_with_parent();
        kit_write(channel, 3, 1, 0x55, NULL);
        if (write(ready[1], "r", 1) == 1)
            pause();
        _exit(1);
    }
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    kit_open(spec, WEIR_EBUSY);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    kit_close(kit_open(spec, WEIR_OK));
    cr_expect_eq(kit_entry_count(kit_directory()), 0);
}

Test(file_place, a_dead_owner_leaves_it_free_uring)
{
    take_over_after_death("&uring=auto");
}

Test(file_place, a_dead_owner_leaves_it_free_threads)
{
    take_over_after_death("&uring=off");
}

Test(file_place, foreign_data_is_left_alone)
{
    const char *path = kit_text("%s/letters", kit_directory());
    static const char text[] = "Dear Marcelo,";
    char page[8192] = {0};
    uint64_t hash;

    kit_put_file(path, text, sizeof(text));
    hash = hash_file(path);
    kit_open(kit_text("file:%s?size=4m", path), WEIR_EDENIED);
    kit_open(kit_text("file:%s?size=4m&overwrite=yes", path), WEIR_EDENIED);
    cr_expect_eq(hash_file(path), hash);
    chmod(path, 0644);
    hash = hash_file(path);
    kit_open(kit_text("file:%s", path), WEIR_EDENIED);
    cr_expect(strstr(kit_told.text, "left alone"), "%s", kit_told.text);
    cr_expect_eq(hash_file(path), hash);
    /* Zeros are somebody's data, too: a file made long for later use. */
    chmod(path, 0600);
    kit_put_file(path, page, sizeof(page));
    hash = hash_file(path);
    kit_open(kit_text("file:%s?size=4m", path), WEIR_EDENIED);
    cr_expect_eq(hash_file(path), hash);
}

/* A header of ours with one byte changed: at 8 the version, 12 the byte order, 16 the page. */
Test(file_place, another_weirs_file_is_left_alone)
{
    static const unsigned places[] = {8, 12, 16, 20, 24};
    const char *path = kit_text("%s/swap", kit_directory());

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        unsigned char byte;
        uint64_t hash;
        int fd;

        kit_close(kit_open(kit_text("file:%s?size=4m&keep=yes", path), WEIR_OK));
        fd = open(path, O_RDWR | O_CLOEXEC);
        cr_assert_eq(pread(fd, &byte, 1, places[i]), 1);
        byte++;
        cr_assert_eq(pwrite(fd, &byte, 1, places[i]), 1);
        close(fd);
        hash = hash_file(path);
        kit_open(kit_text("file:%s?size=4m", path), WEIR_EDENIED);
        cr_expect(strstr(kit_told.text, "another version"), "%s", kit_told.text);
        cr_expect_eq(hash_file(path), hash);
        unlink(path);
    }
}

Test(file_place, what_others_can_read_is_refused)
{
    const char *path = kit_text("%s/swap", kit_directory());

    kit_put_file(path, "", 0);
    chmod(path, 0640);
    kit_open(kit_text("file:%s?size=4m", path), WEIR_EDENIED);
    cr_expect(strstr(kit_told.text, "chmod"), "%s", kit_told.text);
    chmod(path, 0604);
    kit_open(kit_text("file:%s?size=4m", path), WEIR_EDENIED);
    cr_expect_eq(kit_file_bytes(path), 0);
    chmod(path, 0600);
    if (geteuid() == 0 && chown(path, 65534, (gid_t)-1) == 0)
        kit_open(kit_text("file:%s?size=4m", path), WEIR_EDENIED);
    cr_expect_eq(kit_file_bytes(path), 0);
}

Test(file_place, links_lead_to_directories_only)
{
    const char *directory = kit_directory();
    const char *file = kit_text("%s/file", directory), *link = kit_text("%s/link", directory);

    kit_put_file(file, "", 0);
    cr_assert_eq(symlink(file, link), 0);
    kit_open(kit_text("file:%s?size=4m", link), WEIR_EDENIED);
    cr_expect(strstr(kit_told.text, "symbolic link"), "%s", kit_told.text);
    cr_expect_eq(kit_file_bytes(file), 0);
    unlink(file);
    kit_open(kit_text("file:%s?size=4m", link), WEIR_EDENIED);
    cr_expect_not(is_there(file));
    unlink(link);
    cr_assert_eq(symlink(directory, link), 0);
    kit_close(kit_open(kit_text("file:%s?size=4m", link), WEIR_OK));
    cr_expect_eq(kit_entry_count(directory), 1);
}

Test(file_place, only_its_own_file_is_removed)
{
    const char *path = kit_text("%s/swap", kit_directory());
    struct weir_backend *backend = kit_open(kit_text("file:%s?size=4m", path), WEIR_OK);

    cr_assert_eq(rename(path, kit_text("%s.away", path)), 0);
    kit_put_file(path, "new", 3);
    kit_close(backend);
    cr_expect_eq(kit_file_bytes(path), 3);
}

Test(file_place, a_relative_path_survives_chdir)
{
    struct weir_backend *backend;

    cr_assert_eq(chdir(kit_directory()), 0);
    backend = kit_open("file:a%20b%25?size=4m", WEIR_OK);
    cr_expect(is_there(kit_text("%s/a b%%", kit_directory())));
    cr_assert_eq(chdir("/"), 0);
    kit_close(backend);
    cr_expect_eq(kit_entry_count(kit_directory()), 0);
}

Test(file_place, odd_paths)
{
    const char *directory = kit_directory();
    const char *pipe_path = kit_text("%s/pipe", directory);

    kit_open("file:", WEIR_EINVAL);
    kit_open("file:?size=4m", WEIR_EINVAL);
    kit_open(kit_text("file:%s/missing/swap?size=4m", directory), WEIR_ENOENT);
    kit_open(kit_text("file:%s/missing/?size=4m", directory), WEIR_EINVAL);
    kit_open("file:/dev/null?size=4m", WEIR_EINVAL);
    cr_assert_eq(mkfifo(pipe_path, 0600), 0);
    kit_open(kit_text("file:%s?size=4m", pipe_path), WEIR_EINVAL);
    kit_put_file(kit_text("%s/plain", directory), "", 0);
    kit_open(kit_text("file:%s/plain/swap?size=4m", directory), WEIR_EINVAL);
    cr_expect_eq(kit_entry_count(directory), 2);
}

Test(file_place, permission_is_the_systems)
{
    const char *directory = kit_directory();

    chmod(directory, 0500);
    if (geteuid() == 0)
        cr_assert_eq(seteuid(65534), 0);
    kit_open(kit_text("file:%s/swap?size=4m", directory), WEIR_EDENIED);
    kit_open(kit_text("file:%s?size=4m", directory), WEIR_EDENIED);
    if (getuid() == 0)
        cr_assert_eq(seteuid(0), 0);
    chmod(directory, 0700);
}

/* --- A block device -------------------------------------------------------------------------- */

/* A device of this size filled with a byte. */
static const char *make_device(uint64_t bytes, int fill)
{
    const char *path = kit_text("%s/device", kit_directory()), *device;
    unsigned char *contents = malloc(bytes);

    cr_assert_not_null(contents);
    memset(contents, fill, bytes);
    kit_put_file(path, contents, bytes);
    free(contents);
    device = kit_loop_attach(path);
    if (!device)
        cr_skip_test("no loop device for this user");
    return device;
}

static void put_byte(const char *device, uint64_t offset, int byte)
{
    unsigned char c = (unsigned char)byte;
    int fd = open(device, O_WRONLY | O_CLOEXEC);

    cr_assert_eq(pwrite(fd, &c, 1, (off_t)offset), 1);
    close(fd);
}

static bool has_byte(const char *device, uint64_t offset, int byte)
{
    unsigned char c = (unsigned char)~byte;
    int fd = open(device, O_RDONLY | O_CLOEXEC);

    cr_assert_eq(pread(fd, &c, 1, (off_t)offset), 1);
    close(fd);
    return c == byte;
}

Test(file_place, a_blank_device_is_used_and_known_again)
{
    const char *device = make_device(KIT_HEADER_BYTES + 4 * MIB + 512, 0);
    const char *spec = kit_text("file:%s", device);
    struct weir_backend *backend = kit_open(spec, WEIR_OK);
    struct weir_channel *channel = kit_channel(backend, 1);

    cr_expect_eq(kit_describe(backend).slots, 1024);
    cr_expect_eq(kit_write(channel, 0, WEIR_CLUSTER_SLOTS, 0x66, NULL), WEIR_OK);
    cr_expect_eq(kit_write(channel, 512, WEIR_CLUSTER_SLOTS, 0x66, NULL), WEIR_OK);
    kit_open(spec, WEIR_EBUSY);
    backend->ops->channel_close(channel);
    kit_close(backend);
    /* The half sector behind the last page is as it was. */
    cr_expect(has_byte(device, KIT_HEADER_BYTES + 4 * MIB, 0));
    cr_expect(has_byte(device, KIT_HEADER_BYTES + 4 * MIB - 1, 0x66));
    kit_close(kit_open(spec, WEIR_OK));
    kit_open(kit_text("file:%s?size=5m", device), WEIR_EINVAL);
    kit_close(kit_open(kit_text("file:%s?size=2m", device), WEIR_OK));
}

Test(file_place, a_device_with_data_is_left_alone)
{
    const uint64_t bytes = KIT_HEADER_BYTES + 8 * MIB;
    const char *device = make_device(bytes, 0);
    const uint64_t places[] = {0, 511, MIB - 1, bytes - MIB, bytes - 1};
    struct weir_backend *backend;

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        put_byte(device, places[i], 7);
        kit_open(kit_text("file:%s", device), WEIR_EDENIED);
        cr_expect(has_byte(device, places[i], 7));
        put_byte(device, places[i], 0);
    }
    cr_expect(has_byte(device, KIT_HEADER_BYTES, 0));
    put_byte(device, 100, 7);
    backend = kit_open(kit_text("file:%s?overwrite=yes", device), WEIR_OK);
    kit_close(backend);
    cr_expect(has_byte(device, 100, 0));
}

Test(file_place, a_device_too_small_is_refused)
{
    kit_open(kit_text("file:%s", make_device(KIT_HEADER_BYTES, 0)), WEIR_EINVAL);
}

Test(file_place, a_link_to_a_device_is_followed)
{
    const char *link = kit_text("%s/by-name", kit_directory());

    cr_assert_eq(symlink(make_device(KIT_HEADER_BYTES + MIB, 0), link), 0);
    kit_close(kit_open(kit_text("file:%s", link), WEIR_OK));
    cr_expect(is_there(link));
}
