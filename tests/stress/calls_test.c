/* SPDX-License-Identifier: MIT */

/*
 * Every call that weir_calls.h names, on memory that is away. That it is away is seen by the same
 * call made past the library: EFAULT.
 */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <weir/weir.h>
#include <weir/weir_calls.h>

#define MIB        ((size_t)1 << 20)
#define BUDGET     (8 * MIB)
#define FAR_BYTES  (16 * MIB)
#define PUSH_BYTES (9 * MIB)
#define SOME       (5 * (size_t)WEIR_PAGE_BYTES + 13)

static struct weir_runtime *rt;
static char *far_memory, *push;
static int file, near_end, far_end; /* a file, and the ends of a stream */
static char plain[FAR_BYTES];

static char stamp(size_t i)
{
    return (char)(i * 7 + i / WEIR_PAGE_BYTES * 13 + 1);
}

static void fill(char *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        memory[i] = stamp(i);
}

static bool is_filled(const char *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (memory[i] != stamp(i))
            return false;
    return true;
}

static void set_up(void)
{
    struct weir_options options;
    char path[] = "/var/tmp/weir-calls-XXXXXX";
    int ends[2];

    weir_options_init(&options);
    options.budget_bytes = BUDGET;
    options.backends = "mem:?size=128M";
    cr_assert_eq(weir_open(&options, &rt), WEIR_OK);
    cr_assert_eq(weir_map(rt, FAR_BYTES, NULL, (void **)&far_memory), WEIR_OK);
    cr_assert_eq(weir_map(rt, PUSH_BYTES, NULL, (void **)&push), WEIR_OK);
    file = mkstemp(path);
    cr_assert(file >= 0 && unlink(path) == 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    near_end = ends[0];
    far_end = ends[1];
}

static void tear_down(void)
{
    close(near_end);
    close(far_end);
    close(file);
    weir_close(rt);
}

TestSuite(calls, .init = set_up, .fini = tear_down, .timeout = 120);

/* Push the first of far_memory out, and see that it is. */
static void cool(void)
{
    long got = 0;

    for (int i = 0; i < 20 && got != -1; i++) {
        weir_advise(far_memory, SOME + 2 * WEIR_PAGE_BYTES, WEIR_COLD);
        for (size_t at = 0; at < PUSH_BYTES; at += WEIR_PAGE_BYTES)
            ((volatile char *)push)[at]++;
        got = syscall(SYS_pwrite64, file, far_memory, (size_t)1, 100 * MIB);
    }
    cr_assert(got == -1 && errno == EFAULT, "the page does not leave");
}

/* What is away, and holds the stamps. */
static const char *cold(void)
{
    fill(far_memory, SOME);
    cool();
    return far_memory;
}

/* What is away, and waits to be filled. */
static char *empty(void)
{
    memset(far_memory, 1, SOME);
    cool();
    return far_memory;
}

static void fill_file(size_t bytes)
{
    fill(plain, bytes);
    cr_assert_eq(pwrite(file, plain, bytes, 0), (ssize_t)bytes);
    lseek(file, 0, SEEK_SET);
}

static void fill_stream(void)
{
    fill(plain, SOME);
    cr_assert_eq(write(near_end, plain, SOME), (ssize_t)SOME);
}

static void check_file(size_t bytes)
{
    memset(plain, 0, bytes);
    cr_assert_eq(pread(file, plain, bytes, 0), (ssize_t)bytes);
    cr_assert(is_filled(plain, bytes));
}

static void check_stream(void)
{
    memset(plain, 0, SOME);
    cr_assert_eq(recv(near_end, plain, SOME, MSG_WAITALL), (ssize_t)SOME);
    cr_assert(is_filled(plain, SOME));
}

/* Three pieces of it, with nothing between. */
static struct iovec *pieces_of(char *memory)
{
    static struct iovec iov[3];

    iov[0] = (struct iovec){memory, 100};
    iov[1] = (struct iovec){memory + 100, 2 * WEIR_PAGE_BYTES};
    iov[2] = (struct iovec){memory + 100 + 2 * WEIR_PAGE_BYTES, SOME - 100 - 2 * WEIR_PAGE_BYTES};
    return iov;
}

#define MOVES(call) cr_assert_eq(call, (ssize_t)SOME, #call ": %s", strerror(errno))

Test(calls, are_ours)
{
    cr_assert(weir_calls_are_ours());
}

Test(calls, fill_memory_from_a_file)
{
    FILE *stream = fdopen(dup(file), "r");
    char *memory;

    fill_file(SOME);
#define FILLS(call)           \
    memory = empty();         \
    lseek(file, 0, SEEK_SET); \
    MOVES(call);              \
    cr_assert(is_filled(memory, SOME), #call)
    FILLS(read(file, memory, SOME));
    FILLS(pread(file, memory, SOME, 0));
    FILLS(readv(file, pieces_of(memory), 3));
    FILLS(preadv(file, pieces_of(memory), 3, 0));
    FILLS(preadv2(file, pieces_of(memory), 3, 0, 0));
    setvbuf(stream, NULL, _IONBF, 0); /* straight to where it is to be */
    FILLS((ssize_t)fread(memory, 1, SOME, stream));
    FILLS((ssize_t)fread_unlocked(memory, 1, SOME, stream));
    fclose(stream);
}

Test(calls, write_memory_to_a_file)
{
    FILE *stream = fdopen(dup(file), "r+");
    const char *memory;

#define WRITES(call)                     \
    memory = cold();                     \
    cr_assert_eq(ftruncate(file, 0), 0); \
    lseek(file, 0, SEEK_SET);            \
    MOVES(call);                         \
    fflush(stream);                      \
    check_file(SOME)
    WRITES(write(file, memory, SOME));
    WRITES(pwrite(file, memory, SOME, 0));
    WRITES(writev(file, pieces_of((char *)(uintptr_t)memory), 3));
    WRITES(pwritev(file, pieces_of((char *)(uintptr_t)memory), 3, 0));
    WRITES(pwritev2(file, pieces_of((char *)(uintptr_t)memory), 3, 0, 0));
    setvbuf(stream, NULL, _IONBF, 0);
    WRITES((ssize_t)fwrite(memory, 1, SOME, stream));
    WRITES((ssize_t)fwrite_unlocked(memory, 1, SOME, stream));
    fclose(stream);
}

static ssize_t one_by_mmsg(int fd, char *memory, bool is_in)
{
    struct mmsghdr list[1] = {{.msg_hdr = {.msg_iov = pieces_of(memory), .msg_iovlen = 3}}};
    int moved = is_in ? recvmmsg(fd, list, 1, MSG_WAITALL, NULL) : sendmmsg(fd, list, 1, 0);

    return moved == 1 ? (ssize_t)list[0].msg_len : -1;
}

Test(calls, fill_memory_from_a_socket)
{
    struct msghdr message = {.msg_iovlen = 3};
    char *memory;

#define RECEIVES(call) \
    memory = empty();  \
    fill_stream();     \
    MOVES(call);       \
    cr_assert(is_filled(memory, SOME), #call)
    RECEIVES(read(far_end, memory, SOME));
    RECEIVES(recv(far_end, memory, SOME, MSG_WAITALL));
    RECEIVES(recvfrom(far_end, memory, SOME, MSG_WAITALL, NULL, NULL));
    message.msg_iov = pieces_of(far_memory);
    RECEIVES(recvmsg(far_end, &message, MSG_WAITALL));
    RECEIVES(one_by_mmsg(far_end, memory, true));
}

Test(calls, send_memory_to_a_socket)
{
    struct msghdr message = {.msg_iovlen = 3};
    const char *memory;

#define SENDS(call)  \
    memory = cold(); \
    MOVES(call);     \
    check_stream()
    SENDS(write(far_end, memory, SOME));
    SENDS(send(far_end, memory, SOME, 0));
    SENDS(sendto(far_end, memory, SOME, 0, NULL, 0));
    message.msg_iov = pieces_of(far_memory);
    SENDS(sendmsg(far_end, &message, 0));
    SENDS(one_by_mmsg(far_end, (char *)(uintptr_t)memory, false));
}

Test(calls, random_bytes)
{
    char *memory = empty();
    size_t ones = 0;

    cr_assert_eq(getrandom(memory, 200, 0), 200);
    for (size_t i = 0; i < 200; i++)
        ones += memory[i] == 1;
    cr_assert(ones < 100);
}

/* Lists, headers and addresses may lie far away themselves. */
Test(calls, what_the_kernel_reads_first_is_away)
{
    struct iovec *iov = (struct iovec *)(void *)far_memory;
    struct msghdr *message = (struct msghdr *)(void *)(far_memory + 256);
    char *text = far_memory + WEIR_PAGE_BYTES;

    memcpy(text, "far away", 9);
    iov[0] = (struct iovec){text, 9};
    *message = (struct msghdr){.msg_iov = iov, .msg_iovlen = 1};
    cool();
    cr_assert_eq(writev(near_end, iov, 1), 9);
    cool();
    cr_assert_eq(recvmsg(far_end, message, 0), 9);
    cool();
    cr_assert_eq(sendmsg(far_end, message, 0), 9);
    cr_assert_eq(read(near_end, plain, sizeof(plain)), 9);
    cr_assert_str_eq(plain, "far away");
}

/* Twice what may be pinned at all. */
Test(calls, more_than_fits_into_memory)
{
    struct iovec two[2] = {{far_memory, FAR_BYTES / 2},
                           {far_memory + FAR_BYTES / 2, FAR_BYTES / 2}};

    fill_file(FAR_BYTES);
    cr_assert_eq(pread(file, far_memory, FAR_BYTES, 0), (ssize_t)FAR_BYTES);
    cr_assert(is_filled(far_memory, FAR_BYTES));
    cr_assert_eq(ftruncate(file, 0), 0);
    cr_assert_eq(write(file, far_memory, FAR_BYTES), (ssize_t)FAR_BYTES);
    check_file(FAR_BYTES);
    cr_assert_eq(preadv(file, two, 2, 0), (ssize_t)FAR_BYTES / 2); /* the first of them alone */
    cr_assert(is_filled(far_memory, FAR_BYTES));
}

/* While memory is let go page by page: refused, then sent whole, and never a part of it. */
Test(calls, a_datagram_is_whole_or_not_sent)
{
    const ssize_t bytes = 40 * WEIR_PAGE_BYTES;
    size_t pinned = 0;
    ssize_t sent = -1, got = -1;
    int ends[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends), 0);
    cool();
    while (weir_pin(push + pinned, WEIR_PAGE_BYTES, WEIR_WRITE) == WEIR_OK)
        pinned += WEIR_PAGE_BYTES;
    cr_assert(send(ends[0], far_memory, (size_t)bytes, 0) == -1 && errno == ENOMEM);
    cr_assert_eq(send(ends[0], plain, (size_t)bytes, 0), bytes);
    while (got == -1 && pinned > 0) {
        got = recv(ends[1], far_memory, (size_t)bytes, 0);
        cr_assert(got == bytes || (got == -1 && errno == ENOMEM), "%zd", got);
        weir_unpin(push + (pinned -= WEIR_PAGE_BYTES), WEIR_PAGE_BYTES);
    }
    cr_assert_eq(got, bytes);
    while (weir_pin(push + pinned, WEIR_PAGE_BYTES, WEIR_WRITE) == WEIR_OK)
        pinned += WEIR_PAGE_BYTES;
    while (sent == -1 && pinned > 0) {
        sent = send(ends[0], far_memory, (size_t)bytes, 0);
        cr_assert(sent == bytes || (sent == -1 && errno == ENOMEM), "%zd", sent);
        weir_unpin(push + (pinned -= WEIR_PAGE_BYTES), WEIR_PAGE_BYTES);
    }
    cr_assert_eq(sent, bytes);
    close(ends[0]);
    close(ends[1]);
}

/* A pipe gives what it has; a read of more than a part must not wait for the rest. */
Test(calls, what_may_be_short_is_short)
{
    cool();
    cr_assert_eq(write(near_end, "abc", 3), 3);
    cr_assert_eq(read(far_end, far_memory, FAR_BYTES), 3);
    cr_assert_eq(memcmp(far_memory, "abc", 3), 0);
}

Test(calls, errors_are_those_of_the_call)
{
    cr_assert(read(-1, far_memory, SOME) == -1 && errno == EBADF);
    cr_assert(write(-1, far_memory, SOME) == -1 && errno == EBADF);
    cr_assert(recv(far_end, far_memory, SOME, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    cr_assert(pread(file, far_memory, SOME, -1) == -1 && errno == EINVAL);
}

/* Nothing stays pinned: more than could be pinned at once goes through, and unmaps. */
Test(calls, nothing_stays_pinned)
{
    fill_file(4 * MIB);
    for (size_t at = 0; at < FAR_BYTES; at += 4 * MIB)
        cr_assert_eq(pread(file, far_memory + at, 4 * MIB, 0), (ssize_t)(4 * MIB));
    cr_assert_eq(weir_advise(far_memory, FAR_BYTES, WEIR_DISCARD), WEIR_OK);
    cr_assert_eq(weir_unmap(far_memory), WEIR_OK);
    cr_assert_eq(weir_region_rest(far_memory), 0u);
}
