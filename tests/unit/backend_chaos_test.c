/* SPDX-License-Identifier: MIT */
#include "transport/chaos.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "tests/unit/backend_kit.h"
#include "transport/dice.h"

#define WRITES    400u
#define NS_PER_MS 1000000ull

static struct weir_backend *backend;
static struct weir_channel *channel;

static void begin(const char *options)
{
    backend = kit_open(kit_text("chaos(mem:?size=4m)?%s", options), WEIR_OK);
    channel = kit_channel(backend, 64);
}

static void end(void)
{
    backend->ops->channel_close(channel);
    kit_close(backend);
}

static uint64_t did(enum wr_chaos_did which)
{
    return wr_chaos_get(backend, which);
}

/* --- Dice ------------------------------------------------------------------------------------ */

static void dice_init(struct wr_dice *dice, uint64_t seed)
{
    uint64_t dials[WR_CHAOS_DIALS] = {0};

    dials[WR_CHAOS_FAIL_AFTER] = WR_CHAOS_NEVER;
    dials[WR_CHAOS_FULL_AFTER] = WR_CHAOS_NEVER;
    dials[WR_CHAOS_HANG_AFTER] = WR_CHAOS_NEVER;
    wr_dice_init(dice, seed, dials);
}

Test(dice, a_probability_is_met)
{
    static const uint64_t shares[] = {0, 1000, 250000, 500000, 999000, 1000000};

    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        struct wr_dice dice;
        uint64_t failed = 0, lied = 0, expected = shares[i] / 10;

        dice_init(&dice, 42);
        dice.dials[WR_CHAOS_FAIL_WRITE] = shares[i];
        dice.dials[WR_CHAOS_LIE] = shares[i];
        for (int n = 0; n < 100000; n++) {
            failed += wr_dice_draw_fate(&dice, WR_CHAOS_DID_WRITE, 1).error == WEIR_EIO;
            lied += wr_dice_draw_fate(&dice, WR_CHAOS_DID_FETCH, 1).is_lie;
        }
        /* Four standard deviations at most: 630 of 100000; exact at the ends. */
        cr_expect_leq(failed > expected ? failed - expected : expected - failed,
                      shares[i] % 1000000 ? 630 : 0, "%llu", (unsigned long long)failed);
        cr_expect_leq(lied > expected ? lied - expected : expected - lied,
                      shares[i] % 1000000 ? 630 : 0, "%llu", (unsigned long long)lied);
    }
}

/* Two chances of a half: of those that pass the first, the second takes a half. */
Test(dice, each_purpose_draws_for_itself)
{
    struct wr_dice dice;
    uint64_t failed = 0, full = 0, lied = 0;

    dice_init(&dice, 5);
    dice.dials[WR_CHAOS_FAIL_WRITE] = 500000;
    dice.dials[WR_CHAOS_FULL] = 500000;
    dice.dials[WR_CHAOS_LIE] = 500000;
    for (int n = 0; n < 80000; n++) {
        struct wr_fate fate = wr_dice_draw_fate(&dice, WR_CHAOS_DID_WRITE, 1);

        failed += fate.error == WEIR_EIO;
        full += fate.error == WEIR_EFULL;
        lied += fate.is_lie;
    }
    cr_expect(failed > 39000 && failed < 41000, "%llu", (unsigned long long)failed);
    cr_expect(full > 19000 && full < 21000, "%llu", (unsigned long long)full);
    cr_expect(lied > 9000 && lied < 11000, "%llu", (unsigned long long)lied);
}

Test(dice, delays_add_up)
{
    struct wr_dice dice;
    bool varied = false;

    dice_init(&dice, 1);
    dice.dials[WR_CHAOS_DELAY_US] = 1000000;
    dice.dials[WR_CHAOS_READ_DELAY_US] = 200000;
    dice.dials[WR_CHAOS_WRITE_DELAY_US] = 30000;
    dice.dials[WR_CHAOS_JITTER_US] = 500;
    for (int i = 0; i < 1000; i++) {
        const enum wr_chaos_did kind = (enum wr_chaos_did)(i % 3); /* read, fetch, write */
        const uint64_t least = kind == WR_CHAOS_DID_WRITE ? 1030000000 : 1200000000;
        const uint64_t before = wr_dice_now_ns();
        const uint64_t due = wr_dice_draw_fate(&dice, kind, 1).due_ns;
        const uint64_t after = wr_dice_now_ns();

        cr_assert_geq(due, before + least);
        cr_assert_leq(due, after + least + 500000);
        varied = varied || due > after + least + 250000;
    }
    cr_expect(varied);
}

Test(dice, bandwidth_is_shared)
{
    struct wr_dice dice;
    const uint64_t before = wr_dice_now_ns();
    uint64_t last = 0;

    dice_init(&dice, 1);
    dice.dials[WR_CHAOS_BYTES_PER_S] = 4096 * 10; /* a page takes 100 ms */
    for (uint64_t i = 1; i <= 100; i++) {
        uint64_t due = wr_dice_draw_fate(&dice, (enum wr_chaos_did)(i % 3), 1).due_ns;

        /* 100 pages pass in 10 s; this loop takes less than the first of them. */
        cr_assert_geq(due, before + i * 100 * NS_PER_MS);
        cr_assert_geq(due, last + 100 * NS_PER_MS);
        last = due;
    }
}

Test(dice, everything_hangs_once)
{
    struct wr_dice dice;
    uint64_t before;

    dice_init(&dice, 1);
    dice.dials[WR_CHAOS_HANG_AFTER] = 3;
    dice.dials[WR_CHAOS_HANG_MS] = 5000;
    for (int i = 0; i < 3; i++)
        wr_dice_draw_fate(&dice, (enum wr_chaos_did)i, 1);
    cr_expect_eq(wr_dice_due_ns(&dice, 77), 77);
    before = wr_dice_now_ns();
    wr_dice_draw_fate(&dice, WR_CHAOS_DID_WRITE, 1);
    cr_expect_geq(wr_dice_due_ns(&dice, 77), before + 5000 * NS_PER_MS);
    cr_expect_eq(wr_dice_due_ns(&dice, UINT64_MAX), UINT64_MAX);
    before = wr_dice_due_ns(&dice, 77);
    for (int i = 0; i < 100; i++)
        wr_dice_draw_fate(&dice, WR_CHAOS_DID_WRITE, 1);
    cr_expect_eq(wr_dice_due_ns(&dice, 77), before);
    cr_expect_eq(dice.did[WR_CHAOS_DID_HANG], 1);
}

/* --- One seed, one story --------------------------------------------------------------------- */

/* Which of the first writes failed, with reads in between or without. */
static void story(uint64_t seed, const char *more, bool with_reads, bool failed[WRITES])
{
    unsigned char *bytes = kit_pages(1, 0);

    begin(kit_text("seed=%llu&fail_write=0.3&full=0.1%s", (unsigned long long)seed, more));
    for (uint32_t i = 0; i < WRITES; i++) {
        failed[i] = kit_write(channel, i, 1, 1, NULL) == WEIR_EIO;
        if (with_reads)
            backend->ops->read(backend, i, 1, bytes);
    }
    end();
    free(bytes);
}

Test(chaos, the_same_seed_is_the_same_story)
{
    bool one[WRITES], again[WRITES], reads[WRITES], dials[WRITES], other[WRITES];

    story(7, "", false, one);
    story(7, "", false, again);
    story(7, "", true, reads);
    story(7, "&lie=0.5&fail_read=0.5&short=1&reorder=1&jitter_us=1", true, dials);
    story(8, "", false, other);
    cr_expect_arr_eq(again, one, sizeof(one));
    cr_expect_arr_eq(reads, one, sizeof(one), "reads changed the fate of writes");
    cr_expect_arr_eq(dials, one, sizeof(one), "one dial changed what another draws");
    cr_expect_arr_neq(other, one, sizeof(one));
}

/* --- Failures -------------------------------------------------------------------------------- */

Test(chaos, a_failed_write_writes_nothing)
{
    int os_error;

    begin("");
    cr_assert_eq(kit_write(channel, 5, 2, 0x11, NULL), WEIR_OK);
    wr_chaos_set(backend, WR_CHAOS_FAIL_WRITE, 1000000);
    cr_expect_eq(kit_write(channel, 5, 2, 0x22, &os_error), WEIR_EIO);
    cr_expect_eq(os_error, EIO);
    wr_chaos_set(backend, WR_CHAOS_FAIL_WRITE, 0);
    wr_chaos_set(backend, WR_CHAOS_FULL, 1000000);
    cr_expect_eq(kit_write(channel, 5, 2, 0x22, &os_error), WEIR_EFULL);
    cr_expect_eq(os_error, ENOSPC);
    wr_chaos_set(backend, WR_CHAOS_FULL, 0);
    cr_expect(kit_holds(backend, 5, 2, 0x11));
    cr_expect_eq(kit_write(channel, 5, 2, 0x33, &os_error), WEIR_OK);
    cr_expect_eq(os_error, 0);
    cr_expect(kit_holds(backend, 5, 2, 0x33));
    cr_expect_eq(did(WR_CHAOS_DID_WRITE), 4);
    cr_expect_eq(did(WR_CHAOS_DID_FAIL_WRITE), 1);
    cr_expect_eq(did(WR_CHAOS_DID_FULL), 1);
    end();
}

Test(chaos, a_failed_read_leaves_no_bytes_to_live_on)
{
    unsigned char *bytes = kit_pages(4, 0);
    struct weir_io io;
    struct iovec iov;

    begin("fail_read=1");
    cr_assert_eq(kit_write(channel, 0, 4, 0x11, NULL), WEIR_OK);
    cr_expect_eq(backend->ops->read(backend, 0, 4, bytes), WEIR_EIO);
    cr_expect_not(kit_is_filled(bytes, 4096, 0x11));
    kit_io_init(&io, &iov, false, 0, 4, bytes);
    cr_expect_eq(kit_do(channel, &io), WEIR_EIO);
    cr_expect_eq(io.os_error, EIO);
    cr_expect_not(kit_is_filled(bytes, 4096, 0x11));
    cr_expect_eq(did(WR_CHAOS_DID_FAIL_READ), 2);
    wr_chaos_set(backend, WR_CHAOS_FAIL_READ, 0);
    cr_expect(kit_holds(backend, 0, 4, 0x11));
    end();
    free(bytes);
}

Test(chaos, after_so_many_writes_all_fail)
{
    begin("fail_after=5");
    for (uint32_t i = 0; i < 20; i++)
        cr_expect_eq(kit_write(channel, i, 1, 1, NULL), i < 5 ? WEIR_OK : WEIR_EIO);
    wr_chaos_set(backend, WR_CHAOS_FAIL_AFTER, WR_CHAOS_NEVER);
    cr_expect_eq(kit_write(channel, 0, 1, 1, NULL), WEIR_OK);
    end();
    begin("full_after=0");
    cr_expect_eq(kit_write(channel, 0, 1, 1, NULL), WEIR_EFULL);
    end();
}

/* --- Lies ------------------------------------------------------------------------------------ */

static uint32_t bits_different(const unsigned char *bytes, size_t count, int fill)
{
    uint32_t bits = 0;

    for (size_t i = 0; i < count; i++)
        bits += (uint32_t)__builtin_popcount((unsigned)(bytes[i] ^ fill));
    return bits;
}

Test(chaos, a_lie_damages_one_bit)
{
    unsigned char *bytes = kit_pages(8, 0);
    struct weir_io io;
    struct iovec iov, parts[3];

    begin("");
    cr_assert_eq(kit_write(channel, 0, 8, 0x5a, NULL), WEIR_OK);
    wr_chaos_set(backend, WR_CHAOS_LIE, 1000000);
    for (int i = 0; i < 50; i++) {
        cr_expect_eq(backend->ops->read(backend, 0, 8, bytes), WEIR_OK);
        cr_expect_eq(bits_different(bytes, 8 * 4096, 0x5a), 1);
        kit_io_init(&io, &iov, false, 0, 8, bytes);
        for (uint32_t part = 0; part < 3; part++)
            parts[part] = (struct iovec){bytes + 8192 * part, part < 2 ? 8192 : 16384};
        io.iov = parts;
        io.iov_count = 3;
        cr_expect_eq(kit_do(channel, &io), WEIR_OK);
        cr_expect_eq(bits_different(bytes, 8 * 4096, 0x5a), 1);
    }
    cr_expect_eq(did(WR_CHAOS_DID_DAMAGE_READ), 100);
    end();
    free(bytes);
}

Test(chaos, a_lie_drops_a_write)
{
    begin("");
    cr_assert_eq(kit_write(channel, 9, 1, 1, NULL), WEIR_OK);
    wr_chaos_set(backend, WR_CHAOS_LIE, 1000000);
    cr_expect_eq(kit_write(channel, 9, 1, 2, NULL), WEIR_OK);
    wr_chaos_set(backend, WR_CHAOS_LIE, 0);
    cr_expect(kit_holds(backend, 9, 1, 1));
    cr_expect_eq(did(WR_CHAOS_DID_DROP_WRITE), 1);
    end();
}

/* --- Parts, order, time ---------------------------------------------------------------------- */

/* A back end that writes down what it is asked, and fails from a certain request on. */
static struct {
    uint64_t slot[8];
    uint32_t pages[8];
    uint32_t count;
    uint32_t good; /* requests that succeed */
} seen;

static uint32_t (*mem_submit)(struct weir_channel *, struct weir_io *const *, uint32_t);

static uint32_t submit_seen(struct weir_channel *inner, struct weir_io *const *ios, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        seen.slot[seen.count] = ios[i]->slot;
        seen.pages[seen.count] = ios[i]->pages;
        if (seen.count++ >= seen.good)
            ios[i]->slot = UINT64_MAX; /* which mem refuses */
    }
    return mem_submit(inner, ios, count);
}

static struct weir_backend_ops spy;

static int open_spy(const char *spec, const struct weir_backend_env *env,
                    struct weir_backend **backend_p)
{
    int error = weir_backend_mem.open(spec, env, backend_p);

    if (!error)
        (*backend_p)->ops = &spy;
    return error;
}

static void begin_spy(uint32_t good)
{
    spy = weir_backend_mem;
    spy.name = "spy";
    spy.open = open_spy;
    spy.submit = submit_seen;
    mem_submit = weir_backend_mem.submit;
    weir_backend_register(&spy);
    memset(&seen, 0, sizeof(seen));
    seen.good = good;
    backend = kit_open("chaos(spy:?size=4m)?short=1&seed=3", WEIR_OK);
    channel = kit_channel(backend, 4);
}

Test(chaos, short_hands_on_two_parts)
{
    begin_spy(100);
    cr_expect_eq(kit_write(channel, 7, 100, 0x41, NULL), WEIR_OK);
    cr_assert_eq(seen.count, 2);
    cr_expect_eq(seen.slot[0], 7);
    cr_expect_eq(seen.pages[0] + seen.pages[1], 100);
    cr_expect_eq(seen.slot[1], 7 + seen.pages[0]);
    cr_expect(kit_holds(backend, 7, 100, 0x41));
    cr_expect_eq(kit_write(channel, 7, 1, 0x42, NULL), WEIR_OK);
    cr_expect_eq(seen.count, 3, "a page has no parts");
    cr_expect_eq(did(WR_CHAOS_DID_SHORT), 2);
    end();
}

Test(chaos, an_error_of_either_part_is_reported)
{
    begin_spy(0);
    cr_expect_eq(kit_write(channel, 7, 100, 0x41, NULL), WEIR_EINVAL);
    cr_expect_eq(seen.count, 1, "the rest is not tried");
    end();
    begin_spy(1);
    cr_expect_eq(kit_write(channel, 7, 100, 0x41, NULL), WEIR_EINVAL);
    cr_expect_eq(seen.count, 2);
    end();
}

/* Requests that were finished, in that order. */
static uint64_t finished[64];
static uint32_t finished_count;

static void note_order(struct weir_io *io)
{
    finished[finished_count++] = io->slot;
}

static uint32_t out_of_order(const char *options)
{
    unsigned char *bytes = kit_pages(64, 0);
    struct weir_io ios[64], *list[64];
    struct iovec iovs[64];
    uint32_t count = 0;

    begin(options);
    finished_count = 0;
    for (uint32_t i = 0; i < 64; i++) {
        kit_io_init(&ios[i], &iovs[i], true, i, 1, bytes + (size_t)i * 4096);
        ios[i].done = note_order;
        list[i] = &ios[i];
    }
    cr_assert_eq(backend->ops->submit(channel, list, 64), 64);
    cr_assert_eq(backend->ops->poll(channel, 64), 64);
    for (uint32_t i = 0; i < 64; i++)
        count += finished[i] != i;
    end();
    free(bytes);
    return count;
}

Test(chaos, order_changes_by_the_dial_only)
{
    uint64_t first[64];

    cr_expect_eq(out_of_order("seed=1"), 0);
    cr_expect_gt(out_of_order("seed=1&reorder=1"), 10);
    memcpy(first, finished, sizeof(first));
    out_of_order("seed=1&reorder=1");
    cr_expect_arr_eq(finished, first, sizeof(first), "the same seed, another order");
    out_of_order("seed=2&reorder=1");
    cr_expect_arr_neq(finished, first, sizeof(first));
}

static bool is_readable(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};

    return poll(&wait, 1, 0) == 1;
}

/* Over mem the descriptor is a timer, over a file one that also watches the file's. */
static void hold_until_due(const char *inner)
{
    unsigned char *bytes = kit_pages(1, 1);
    struct weir_io io, *ios[] = {&io};
    struct iovec iov;
    uint64_t before, due;
    int fd;

    backend = kit_open(kit_text("chaos(%s)?write_delay_us=100000", inner), WEIR_OK);
    channel = kit_channel(backend, 2);
    fd = backend->ops->wait_fd(channel);
    cr_assert_geq(fd, 0);
    cr_expect_not(is_readable(fd));
    kit_io_init(&io, &iov, true, 0, 1, bytes);
    before = wr_dice_now_ns();
    cr_assert_eq(backend->ops->submit(channel, ios, 1), 1);
    due = before + 100 * NS_PER_MS;
    while (backend->ops->poll(channel, 1) == 0) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};

        cr_assert_eq(poll(&wait, 1, 60000), 1, "never readable");
    }
    cr_expect_geq(wr_dice_now_ns(), due);
    cr_expect_not(is_readable(fd), "still readable with nothing to finish");
    before = wr_dice_now_ns();
    wr_chaos_set(backend, WR_CHAOS_READ_DELAY_US, 30000);
    cr_expect(kit_holds(backend, 0, 1, 1));
    cr_expect_geq(wr_dice_now_ns(), before + 30 * NS_PER_MS);
    end();
    free(bytes);
}

Test(chaos, completions_are_held_until_due)
{
    hold_until_due("mem:?size=1m");
}

Test(chaos, completions_of_a_file_are_held_until_due)
{
    hold_until_due(kit_text("file:%s?size=1m", kit_directory()));
}

Test(chaos, a_hang_stops_all_of_it)
{
    uint64_t before;

    begin("hang_after=2&hang_ms=80");
    cr_expect_eq(kit_write(channel, 0, 1, 1, NULL), WEIR_OK);
    cr_expect(kit_holds(backend, 0, 1, 1));
    cr_expect_eq(did(WR_CHAOS_DID_HANG), 0);
    before = wr_dice_now_ns();
    cr_expect(kit_holds(backend, 0, 1, 1));
    cr_expect_geq(wr_dice_now_ns(), before + 80 * NS_PER_MS);
    cr_expect_eq(did(WR_CHAOS_DID_HANG), 1);
    /* Again, by the dial. */
    wr_chaos_set(backend, WR_CHAOS_HANG_AFTER, 0);
    before = wr_dice_now_ns();
    cr_expect_eq(kit_write(channel, 0, 1, 1, NULL), WEIR_OK);
    cr_expect_geq(wr_dice_now_ns(), before + 80 * NS_PER_MS);
    end();
}

static void ignore_signal(int signal_number)
{
    (void)signal_number;
}

Test(chaos, an_interrupted_sleep_goes_on_and_leaves_errno_alone)
{
    struct sigaction action = {.sa_handler = ignore_signal};
    struct itimerval often = {{0, 5000}, {0, 5000}};
    unsigned char *bytes = kit_pages(1, 0);
    uint64_t before;

    begin("read_delay_us=60000");
    cr_assert_eq(sigaction(SIGALRM, &action, NULL), 0);
    cr_assert_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
    before = wr_dice_now_ns();
    errno = EXDEV;
    cr_expect_eq(backend->ops->read(backend, 0, 1, bytes), WEIR_OK);
    cr_expect_eq(errno, EXDEV);
    cr_expect_geq(wr_dice_now_ns(), before + 60 * NS_PER_MS);
    end();
    free(bytes);
}

/* done() may submit: the retry of a request that failed, for example. */
static void submit_again(struct weir_io *io)
{
    struct weir_channel *own = io->owner;

    if (++finished_count < 200)
        cr_assert_eq(own->backend->ops->submit(own, &io, 1), 1);
}

static void resubmit(const char *spec)
{
    unsigned char *bytes = kit_pages(3, 1);
    struct weir_io ios[3], *list[3];
    struct iovec iovs[3];

    backend = kit_open(spec, WEIR_OK);
    channel = kit_channel(backend, 3);
    finished_count = 0;
    for (uint32_t i = 0; i < 3; i++) {
        kit_io_init(&ios[i], &iovs[i], true, i, 1, bytes + (size_t)i * 4096);
        ios[i].done = submit_again;
        ios[i].owner = channel;
        list[i] = &ios[i];
    }
    cr_assert_eq(backend->ops->submit(channel, list, 3), 3);
    while (finished_count < 202)
        backend->ops->poll(channel, 2);
    cr_expect_eq(backend->ops->poll(channel, 2), 0);
    end();
    free(bytes);
}

Test(chaos, done_may_submit)
{
    resubmit("mem:?size=1m");
    resubmit("chaos(mem:?size=1m)?reorder=1&jitter_us=20");
    resubmit(kit_text("file:%s?size=1m&uring=auto", kit_directory()));
    resubmit(kit_text("file:%s?size=1m&uring=off", kit_directory()));
    resubmit(kit_text("chaos(file:%s?size=1m)?reorder=1&jitter_us=20", kit_directory()));
}

/* --- Specifications -------------------------------------------------------------------------- */

Test(chaos, it_wraps_what_is_in_parentheses)
{
    unsigned char *bytes;

    backend = kit_open("chaos(chaos(mem:?size=1m)?fail_read=1)?seed=12", WEIR_OK);
    cr_expect_eq(kit_describe(backend).slots, 256);
    cr_expect_eq(kit_describe(backend).flags & WEIR_BACKEND_VOLATILE, 0);
    cr_expect(strstr(kit_describe(backend).how, "seed 12"), "%s", kit_describe(backend).how);
    channel = kit_channel(backend, 1);
    bytes = kit_pages(1, 0);
    cr_expect_eq(backend->ops->read(backend, 0, 1, bytes), WEIR_EIO);
    free(bytes);
    end();
    kit_open("chaos", WEIR_EINVAL);
    kit_open("chaos:mem:", WEIR_EINVAL);
    kit_open("chaos(mem:", WEIR_EINVAL);
    kit_open("chaos(mem:)x", WEIR_EINVAL);
    kit_open("chaos(mem:?size=0)", WEIR_EINVAL);
    kit_open("chaos(mem:)?fail_read=2", WEIR_EINVAL);
    kit_open("chaos(mem:)?reorder=2", WEIR_EINVAL);
    kit_open("chaos(mem:)?size=1m", WEIR_EINVAL);
    kit_open("chaos(none:)", WEIR_ENOENT);
}
