/* SPDX-License-Identifier: MIT */
#include "tests/unit/backend_kit.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct kit_told kit_told;
static pthread_mutex_t hearing = PTHREAD_MUTEX_INITIALIZER;

#define TEXTS 128 /* more than any test asks for */

static char directory[256];
static int loop = -1;

static void hear(void *context, int severity, int error, int os_error, const char *text)
{
    struct kit_told *told = context;
    size_t length;

    pthread_mutex_lock(&hearing);
    length = strlen(told->text);
    told->count++;
    told->severity = severity;
    told->error = error;
    told->os_error = os_error;
    snprintf(told->text + length, sizeof(told->text) - length, "%s\n", text);
    pthread_mutex_unlock(&hearing);
}

bool kit_has_heard(const char *words)
{
    bool has_heard = false;

    for (int i = 0; i < 6000 && !has_heard; i++) {
        if (i > 0)
            usleep(10000);
        pthread_mutex_lock(&hearing);
        has_heard = strstr(kit_told.text, words) != NULL;
        pthread_mutex_unlock(&hearing);
    }
    return has_heard;
}

const struct weir_backend_env kit_env = {.context = &kit_told, .tell = hear};

const char *kit_text(const char *format, ...)
{
    static char texts[TEXTS][600];
    static unsigned next;
    char *text = texts[next++ % TEXTS];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(texts[0]), format, arguments);
    va_end(arguments);
    return text;
}

struct weir_backend *kit_open(const char *spec, int expected)
{
    struct weir_backend *backend = NULL;
    int error = weir_backend_open(spec, &kit_env, &backend);

    cr_assert_eq(error, expected, "%s: %d, not %d: %s", spec, error, expected, kit_told.text);
    cr_assert_eq(backend == NULL, error != WEIR_OK, "%s", spec);
    return backend;
}

void kit_close(struct weir_backend *backend)
{
    backend->ops->close(backend);
}

struct weir_backend_info kit_describe(struct weir_backend *backend)
{
    struct weir_backend_info info;

    backend->ops->describe(backend, &info);
    return info;
}

struct weir_channel *kit_channel(struct weir_backend *backend, uint32_t depth)
{
    struct weir_channel *channel;

    cr_assert_eq(backend->ops->channel_open(backend, depth, &channel), WEIR_OK);
    return channel;
}

/* --- Files ----------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *status, int flag, struct FTW *walk)
{
    (void)status;
    (void)flag;
    (void)walk;
    return remove(path);
}

static void remove_directory(void)
{
    kit_loop_detach();
    nftw(directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *kit_directory(void)
{
    if (!directory[0]) {
        strcpy(directory, "/var/tmp/weir-unit-XXXXXX");
        cr_assert_not_null(mkdtemp(directory));
        atexit(remove_directory);
    }
    return directory;
}

uint32_t kit_entry_count(const char *path)
{
    DIR *entries = opendir(path);
    uint32_t count = 0;

    cr_assert_not_null(entries);
    while (readdir(entries))
        count++;
    closedir(entries);
    return count - 2;
}

void kit_put_file(const char *path, const void *bytes, size_t count)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    cr_assert_geq(fd, 0, "%s", path);
    cr_assert_eq(write(fd, bytes, count), (ssize_t)count);
    close(fd);
}

uint64_t kit_file_bytes(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 ? (uint64_t)status.st_size : UINT64_MAX;
}

/* --- Pages and requests ---------------------------------------------------------------------- */

unsigned char *kit_pages(uint32_t pages, int fill)
{
    unsigned char *bytes = aligned_alloc(WEIR_SLOT_BYTES, (size_t)pages * WEIR_SLOT_BYTES);

    cr_assert_not_null(bytes);
    return memset(bytes, fill, (size_t)pages * WEIR_SLOT_BYTES);
}

bool kit_is_filled(const unsigned char *bytes, uint64_t count, int fill)
{
    for (uint64_t i = 0; i < count; i++)
        if (bytes[i] != fill)
            return false;
    return true;
}

static void note_done(struct weir_io *io)
{
    io->owner = NULL;
}

void kit_io_init(struct weir_io *io, struct iovec *iov, bool is_write, uint64_t slot,
                 uint32_t pages, void *bytes)
{
    *iov = (struct iovec){bytes, (size_t)pages * WEIR_SLOT_BYTES};
    *io = (struct weir_io){.slot = slot,
                           .pages = pages,
                           .is_write = is_write,
                           .iov = iov,
                           .iov_count = 1,
                           .done = note_done,
                           .owner = io};
}

int kit_do(struct weir_channel *channel, struct weir_io *io)
{
    const struct weir_backend_ops *ops = channel->backend->ops;

    cr_assert_eq(ops->submit(channel, &io, 1), 1);
    while (io->owner) {
        struct pollfd wait = {.fd = ops->wait_fd(channel), .events = POLLIN};

        if (ops->poll(channel, 1) == 0)
            cr_assert_neq(poll(&wait, 1, 60000), 0, "the channel is stuck");
    }
    return io->error;
}

int kit_write(struct weir_channel *channel, uint64_t slot, uint32_t pages, int fill,
              int *os_error_p)
{
    unsigned char *bytes = kit_pages(pages, fill);
    struct weir_io io;
    struct iovec iov;
    int error;

    kit_io_init(&io, &iov, true, slot, pages, bytes);
    error = kit_do(channel, &io);
    if (os_error_p)
        *os_error_p = io.os_error;
    free(bytes);
    return error;
}

bool kit_holds(struct weir_backend *backend, uint64_t slot, uint32_t pages, int fill)
{
    unsigned char *bytes = kit_pages(pages, ~fill);
    bool holds;

    cr_assert_eq(backend->ops->read(backend, slot, pages, bytes), WEIR_OK);
    holds = kit_is_filled(bytes, (uint64_t)pages * WEIR_SLOT_BYTES, fill);
    free(bytes);
    return holds;
}

/* --- The system ------------------------------------------------------------------------------ */

void kit_die_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

bool kit_refuse_flag(int number, unsigned argument, uint32_t flag, int os_error)
{
    const uint32_t place = (uint32_t)(offsetof(struct seccomp_data, args) + 8 * argument);
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, place), /* the low half, on a little-endian machine */
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, flag),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, flag, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)os_error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Every argument has all bits of no flag. */
bool kit_refuse_call(int number, int os_error)
{
    return kit_refuse_flag(number, 0, 0, os_error);
}

const char *kit_loop_attach(const char *path)
{
    static char device[32];
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    int file = open(path, O_RDWR | O_CLOEXEC);

    snprintf(device, sizeof(device), "/dev/loop%d", number);
    loop = number < 0 ? -1 : open(device, O_RDWR | O_CLOEXEC);
    if (loop >= 0 && ioctl(loop, LOOP_SET_FD, file) != 0) {
        close(loop);
        loop = -1;
    }
    close(control);
    close(file);
    return loop < 0 ? NULL : device;
}

void kit_loop_detach(void)
{
    if (loop < 0)
        return;
    ioctl(loop, LOOP_CLR_FD);
    close(loop);
    loop = -1;
}
