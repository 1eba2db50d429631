/* SPDX-License-Identifier: MIT */

/* What a process says when it attaches, and an owner when it answers, is not believed (E40, E41).
 */

#include <weir/weir_share.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/host/link.h"
#include "tests/stress/share_kit.h"

#define BUDGET (8 * MIB)
#define PAGES  ((size_t)64)

static struct weir_runtime *rt;

static void open_owner(const char *name)
{
    rt = real_open(BUDGET, "mem:?size=64M");
    share_object(rt, PAGES, share_name(name));
}

static int connect_to(const char *name)
{
    int link = -1;

    cr_assert_eq(wr_link_connect(share_name(name), &link), WEIR_OK);
    return link;
}

/* What the other says next, or that he has hung up. */
static enum wr_received hear(int link, void *message, uint32_t bytes)
{
    enum wr_received received = WR_RECEIVED_NOTHING;

    for (int i = 0; i < 100 && received == WR_RECEIVED_NOTHING; i++) {
        wr_link_await(link, -1, 100);
        received = wr_link_receive(link, message, bytes, NULL);
    }
    return received;
}

/* The error that a hello is answered with; and then the owner hangs up. */
static int greet(const void *hello, uint32_t bytes, int fd)
{
    struct wr_hello answer = {0};
    int link = connect_to("hello");

    cr_assert(wr_link_send(link, hello, bytes, fd));
    cr_assert_eq(hear(link, &answer, sizeof(answer)), WR_RECEIVED);
    cr_expect_eq(answer.magic, WR_LINK_MAGIC);
    cr_expect_eq(answer.version, WR_LINK_VERSION);
    cr_expect_eq(hear(link, &answer, sizeof(answer)), WR_RECEIVED_END);
    close(link);
    return answer.error;
}

static void expect_that_it_works(const char *name)
{
    struct weir_attached *attached = share_attach(name);
    void *memory = share_view(attached, 0, PAGES);

    real_fill(memory, PAGES, 1);
    real_check(memory, PAGES, 1);
    cr_expect_eq(weir_detach(attached), WEIR_OK);
}

Test(share_link, a_strange_hello_is_refused)
{
    struct wr_hello good = wr_link_hello_of(0, WEIR_OK), bad;
    int blocking[2], null = open("/dev/null", O_RDWR);

    open_owner("hello");
    cr_assert_eq(pipe(blocking), 0);
    bad = good;
    bad.magic++;
    cr_expect_eq(greet(&bad, sizeof(bad), -1), WEIR_ENOSUPPORT);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "does not speak"));
    bad.magic = __builtin_bswap32(WR_LINK_MAGIC);
    cr_expect_eq(greet(&bad, sizeof(bad), -1), WEIR_ENOSUPPORT);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "orders bytes"));
    bad = good;
    bad.version++;
    cr_expect_eq(greet(&bad, sizeof(bad), null), WEIR_ENOSUPPORT);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "version"));
    bad = good;
    bad.page_bytes = 65536;
    cr_expect_eq(greet(&bad, sizeof(bad), -1), WEIR_ENOSUPPORT);
    cr_expect(strstr(real_events.text[WEIR_FAILURE], "pages of another size"));
    bad = good;
    bad.hello_bytes = 8;
    cr_expect_eq(greet(&bad, sizeof(bad), -1), WEIR_ENOSUPPORT);
    cr_expect_eq(greet(&good, sizeof(good) - 1, -1), WEIR_ENOSUPPORT, "too short");
    cr_expect_eq(greet(&good, sizeof(good), -1), WEIR_EINVAL, "without a trap");
    cr_expect_eq(greet(&good, sizeof(good), blocking[0]), WEIR_EINVAL, "with something else");
    expect_that_it_works("hello");
    weir_close(rt);
}

/* A link whose hello was accepted, with a trap that is none. */
static int befriend(const char *name)
{
    struct wr_hello hello = wr_link_hello_of(0, WEIR_OK);
    int link = connect_to(name), pair[2];

    cr_assert_eq(pipe2(pair, O_NONBLOCK | O_CLOEXEC), 0);
    cr_assert(wr_link_send(link, &hello, sizeof(hello), pair[0]));
    cr_assert_eq(hear(link, &hello, sizeof(hello)), WR_RECEIVED);
    cr_assert_eq(hello.error, WEIR_OK);
    cr_assert_eq(hello.bytes, PAGES * PAGE);
    cr_assert_eq(write(pair[1], "not what comes from a trap", 26), 26);
    close(pair[0]);
    close(pair[1]);
    return link;
}

static int ask(int link, enum wr_ask_kind kind, uint64_t addr, uint64_t offset, uint64_t bytes)
{
    struct wr_ask message = {.kind = kind, .addr = addr, .offset = offset, .bytes = bytes};

    cr_assert(wr_link_send(link, &message, sizeof(message), -1));
    cr_assert_eq(hear(link, &message, sizeof(message)), WR_RECEIVED);
    return message.error;
}

Test(share_link, a_strange_view_is_refused)
{
    const uint64_t at = 0x7f0000000000, bytes = PAGES * PAGE;
    void *memory = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int link;

    open_owner("view");
    link = befriend("view");
    cr_expect_eq(ask(link, WR_ASK_MAP, at + 1, 0, PAGE), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, at, 1, PAGE), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, at, 0, PAGE + 1), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, at, 0, 0), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, 0, 0, PAGE), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, at, PAGE, bytes), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, at, bytes, PAGE), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, at, PAGE, UINT64_MAX - PAGE + 1), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, 1ull << 61, 0, PAGE), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, (1ull << 48) - PAGE, 0, bytes), WEIR_EINVAL);
    cr_expect_eq(ask(link, WR_ASK_MAP, (uintptr_t)memory, 0, bytes), WEIR_EINVAL, "nothing traps");
    cr_expect_eq(ask(link, WR_ASK_UNMAP, at, 0, 0), WEIR_ENOENT);
    expect_that_it_works("view");
    close(link);
    weir_close(rt);
}

/* Who talks nonsense is sent away, and the others stay. */
Test(share_link, nonsense_ends_the_link)
{
    const struct wr_ask strange[] = {
        {.kind = 99}, {.kind = WR_ASK_MAPPED}, {.kind = WR_ASK_UNMAP, .addr = 3ull << 61}};
    struct wr_ask message;
    int link;

    open_owner("nonsense");
    for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++) {
        link = befriend("nonsense");
        cr_assert(wr_link_send(link, &strange[i], sizeof(strange[i]), -1));
        cr_expect_eq(hear(link, &message, sizeof(message)), WR_RECEIVED_END);
        close(link);
    }
    link = befriend("nonsense");
    cr_assert(wr_link_send(link, &strange[0], 3, -1));
    cr_expect_eq(hear(link, &message, sizeof(message)), WR_RECEIVED_END);
    close(link);
    expect_that_it_works("nonsense");
    weir_close(rt);
}

/* Who says nothing is sent away after a while, and holds up nobody meanwhile. */
Test(share_link, who_says_nothing_is_sent_away)
{
    struct wr_hello hello;
    int link;

    open_owner("silent");
    link = connect_to("silent");
    expect_that_it_works("silent");
    cr_expect_eq(hear(link, &hello, sizeof(hello)), WR_RECEIVED_END);
    close(link);
    weir_close(rt);
}

/* An owner of the test's own: it answers the first who comes with this, and goes. */
static struct wr_hello answer;
static int answer_fd = -1;
static int listener = -1;

static int answers_strangely(const char *name)
{
    struct wr_hello hello;
    int link = -1;

    (void)name;
    wr_link_await(listener, -1, 10000);
    if (wr_link_accept(listener, &link) != WEIR_OK || hear(link, &hello, sizeof(hello)) ||
        (answer.magic && !wr_link_send(link, &answer, sizeof(answer), answer_fd)))
        return 1;
    return 0;
}

static int attach_to_stranger(void)
{
    struct weir_attached *attached = NULL;
    int error;
    pid_t owner;

    cr_assert_eq(wr_link_listen(share_name("stranger"), &listener), WEIR_OK);
    owner = share_fork(answers_strangely, "stranger");
    error = weir_attach(share_name("stranger"), NULL, &attached);
    cr_expect_eq(share_end(owner), 0);
    close(listener);
    return error;
}

Test(share_link, a_strange_owner_is_refused)
{
    int file = memfd_create("strange", MFD_CLOEXEC);

    cr_assert_eq(ftruncate(file, PAGE), 0);
    cr_expect_eq(attach_to_stranger(), WEIR_ESTOPPED, "it goes without a word");
    answer = wr_link_hello_of(PAGE, WEIR_OK);
    cr_expect_eq(attach_to_stranger(), WEIR_EINVAL, "it gives no object");
    answer_fd = file;
    answer.bytes = 2 * PAGE;
    cr_expect_eq(attach_to_stranger(), WEIR_EINVAL, "its object is smaller than it says");
    answer.bytes = PAGE - 1;
    cr_expect_eq(attach_to_stranger(), WEIR_EINVAL);
    answer.bytes = PAGE;
    answer.version = 2;
    cr_expect_eq(attach_to_stranger(), WEIR_ENOSUPPORT);
    answer = wr_link_hello_of(0, WEIR_EDENIED);
    cr_expect_eq(attach_to_stranger(), WEIR_EDENIED);
}
