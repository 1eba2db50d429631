/* SPDX-License-Identifier: MIT */

/* The ways in which a file is read and written, and a disk in trouble. */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"

/* --- Ways to work ---------------------------------------------------------------------------- */

Test(file_ways, it_says_how)
{
    const char *directory = kit_directory();
    static const char *const ways[][2] = {
        {"uring=off&direct=off", "page cache, threads"},
        {"uring=off", ", threads"},
        {"direct=off", "page cache, "},
    };

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        struct weir_backend *backend = kit_open(
            kit_text("file:%s?size=4m&%s", directory, ways[i][0]), WEIR_OK);

        cr_expect(strstr(kit_describe(backend).how, ways[i][1]), "%s", kit_describe(backend).how);
        kit_close(backend);
    }
}

Test(file_ways, threads_where_io_uring_is_refused)
{
    const char *directory = kit_directory(), *empty = kit_text("%s/empty", directory);
    struct weir_backend *backend;
    struct weir_channel *channel;

    if (!kit_refuse_call(SYS_io_uring_setup, EPERM))
        cr_skip_test("no seccomp filters here");
    kit_open(kit_text("file:%s/swap?size=4m&uring=on", directory), WEIR_ENOSUPPORT);
    kit_open(kit_text("file:%s/swap?size=4m&uring=on&keep=yes", directory), WEIR_ENOSUPPORT);
    cr_expect_eq(kit_told.os_error, EPERM);
    cr_expect_eq(kit_entry_count(directory), 0);
    kit_put_file(empty, "", 0);
    kit_open(kit_text("file:%s?size=4m&uring=on", empty), WEIR_ENOSUPPORT);
    cr_expect_eq(kit_file_bytes(empty), 0);
    backend = kit_open(kit_text("file:%s?size=4m", directory), WEIR_OK);
    cr_expect_eq(kit_told.severity, 0);
    cr_expect(strstr(kit_told.text, "threads do its work"), "%s", kit_told.text);
    cr_expect(strstr(kit_describe(backend).how, "threads"), "%s", kit_describe(backend).how);
    channel = kit_channel(backend, 4);
    cr_expect_eq(kit_write(channel, 9, 3, 0x44, NULL), WEIR_OK);
    cr_expect(kit_holds(backend, 9, 3, 0x44));
    backend->ops->channel_close(channel);
    kit_close(backend);
}

Test(file_ways, threads_where_rings_may_not_be_entered)
{
    struct weir_backend *backend;

    if (!kit_refuse_call(SYS_io_uring_enter, EACCES))
        cr_skip_test("no seccomp filters here");
    backend = kit_open(kit_text("file:%s?size=4m", kit_directory()), WEIR_OK);
    cr_expect(strstr(kit_describe(backend).how, "threads"), "%s", kit_describe(backend).how);
    kit_close(backend);
}

/* The kernel has no memory for requests: nothing is accepted, and nothing is in flight. */
Test(file_ways, a_ring_that_takes_nothing)
{
    struct weir_backend *backend = kit_open(kit_text("file:%s?size=4m", kit_directory()), WEIR_OK);
    struct weir_channel *channel = kit_channel(backend, 4);
    unsigned char *bytes = kit_pages(1, 1);
    struct weir_io io, *ios[] = {&io};
    struct iovec iov;

    if (!strstr(kit_describe(backend).how, "io_uring"))
        cr_skip_test("io_uring is refused here");
    if (!kit_refuse_call(SYS_io_uring_enter, EAGAIN))
        cr_skip_test("no seccomp filters here");
    for (int i = 0; i < 20; i++) {
        kit_io_init(&io, &iov, true, 0, 1, bytes);
        cr_expect_eq(backend->ops->submit(channel, ios, 1), 0);
        cr_expect_eq(backend->ops->poll(channel, 1), 0);
        cr_expect_not_null(io.owner, "done() has run");
    }
    backend->ops->channel_close(channel);
    kit_close(backend);
    free(bytes);
}

/* Pages of the file that the page cache holds. */
static uint64_t cached_pages(const char *path)
{
    const uint64_t bytes = kit_file_bytes(path), pages = bytes / 4096;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *mapping = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    unsigned char *is_cached = malloc(pages);
    uint64_t count = 0;

    cr_assert_neq(mapping, MAP_FAILED);
    cr_assert_eq(mincore(mapping, bytes, is_cached), 0);
    for (uint64_t i = 0; i < pages; i++)
        count += is_cached[i] & 1;
    free(is_cached);
    munmap(mapping, bytes);
    close(fd);
    return count;
}

static void keep_the_cache_small(const char *options)
{
    const char *path = kit_text("%s/swap", kit_directory());
    struct weir_backend *backend = kit_open(
        kit_text("file:%s?size=16m&direct=off&%s", path, options), WEIR_OK);
    struct weir_channel *channel = kit_channel(backend, 1);

    for (uint64_t slot = 0; slot < 4096; slot += WEIR_CLUSTER_SLOTS)
        cr_expect_eq(kit_write(channel, slot, WEIR_CLUSTER_SLOTS, 0x33, NULL), WEIR_OK);
    cr_expect_lt(cached_pages(path), 64);
    for (uint64_t slot = 0; slot < 4096; slot += 64)
        cr_expect(kit_holds(backend, slot, 1 + slot / 64 % 16, 0x33));
    cr_expect_lt(cached_pages(path), 64);
    backend->ops->channel_close(channel);
    kit_close(backend);
}

Test(file_ways, the_page_cache_stays_small_uring)
{
    keep_the_cache_small("uring=auto");
}

Test(file_ways, the_page_cache_stays_small_threads)
{
    keep_the_cache_small("uring=off");
}

/* --- A disk in trouble ----------------------------------------------------------------------- */

static const char *mount_small(void)
{
    const char *directory = kit_directory();

    /* In a name space of our own, which ends with this process. */
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("weir", directory, "tmpfs", 0, "size=5m") != 0)
        cr_skip_test("this user may not mount");
    return directory;
}

/* Fill a file system of 5 MiB with clusters: the third ends in the middle. */
static void fill_up(const char *options)
{
    const char *directory = mount_small();
    struct weir_backend *backend = kit_open(
        kit_text("file:%s?size=16m&discard=on&%s", directory, options), WEIR_OK);
    struct weir_channel *channel = kit_channel(backend, 2);
    int os_error = 0;

    cr_expect(strstr(kit_told.text, "MiB free"), "%s", kit_told.text);
    cr_expect_eq(kit_write(channel, 0, 512, 1, NULL), WEIR_OK);
    cr_expect_eq(kit_write(channel, 512, 512, 2, NULL), WEIR_OK);
    cr_expect_eq(kit_write(channel, 1024, 512, 3, &os_error), WEIR_EFULL);
    cr_expect_eq(os_error, ENOSPC);
    cr_expect_eq(kit_write(channel, 0, 512, 4, NULL), WEIR_OK);
    cr_expect(kit_holds(backend, 0, 512, 4));
    cr_expect(kit_holds(backend, 512, 512, 2));
    /* What is given back can be had again. */
    cr_expect_eq(backend->ops->discard(backend, 0, 512), WEIR_OK);
    cr_expect_eq(backend->ops->discard(backend, 1024, 512), WEIR_OK);
    cr_expect_eq(kit_write(channel, 1024, 512, 5, NULL), WEIR_OK);
    cr_expect(kit_holds(backend, 1024, 512, 5));
    backend->ops->channel_close(channel);
    kit_close(backend);
    umount2(directory, MNT_DETACH);
}

Test(file_trouble, a_full_file_system_uring)
{
    fill_up("uring=auto");
}

Test(file_trouble, a_full_file_system_threads)
{
    fill_up("uring=off");
}

Test(file_trouble, a_full_file_system_page_cache)
{
    fill_up("direct=off");
}

Test(file_trouble, a_file_system_without_room_is_refused)
{
    const char *directory = mount_small();
    const char *path = kit_text("%s/filler", directory);
    unsigned char *bytes = kit_pages(1024, 1);

    kit_put_file(path, bytes, 4096 * 1024);
    kit_open(kit_text("file:%s", directory), WEIR_EFULL);
    umount2(directory, MNT_DETACH);
    free(bytes);
}

static void shorten_under_it(const char *options)
{
    const char *path = kit_text("%s/swap", kit_directory());
    struct weir_backend *backend = kit_open(kit_text("file:%s?size=8m&%s", path, options), WEIR_OK);
    struct weir_channel *channel = kit_channel(backend, 1);
    unsigned char *bytes = kit_pages(4, 0);
    struct weir_io io;
    struct iovec iov;

    cr_assert_eq(truncate(path, (off_t)(KIT_HEADER_BYTES + 6 * 4096)), 0);
    cr_expect_eq(backend->ops->read(backend, 2, 4, bytes), WEIR_OK);
    cr_expect_eq(backend->ops->read(backend, 3, 4, bytes), WEIR_EIO);
    kit_io_init(&io, &iov, false, 2, 4, bytes);
    cr_expect_eq(kit_do(channel, &io), WEIR_OK);
    kit_io_init(&io, &iov, false, 3, 4, bytes);
    cr_expect_eq(kit_do(channel, &io), WEIR_EIO);
    cr_expect_eq(io.os_error, ENODATA);
    backend->ops->channel_close(channel);
    kit_close(backend);
    free(bytes);
}

Test(file_trouble, a_file_made_shorter_uring)
{
    shorten_under_it("uring=auto");
}

Test(file_trouble, a_file_made_shorter_threads)
{
    shorten_under_it("uring=off");
}

Test(file_trouble, a_file_made_shorter_page_cache)
{
    shorten_under_it("direct=off");
}

Test(file_trouble, a_failed_read_leaves_errno_alone)
{
    struct weir_backend *backend = kit_open(kit_text("file:%s?size=4m", kit_directory()), WEIR_OK);
    void *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    cr_assert_neq(nowhere, MAP_FAILED);
    errno = EXDEV;
    cr_expect_eq(backend->ops->read(backend, 0, 1, nowhere), WEIR_EIO);
    cr_expect_eq(errno, EXDEV);
    kit_close(backend);
}
