/* SPDX-License-Identifier: MIT */

/*
 * ec over members that can be told to fail, to refuse, and to come back empty, while threads write
 * and read single pages, runs and whole clusters: no byte may be wrong, and everything is whole in
 * the end.
 */

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"
#include "tests/unit/tame.h"
#include "transport/array.h"

/* --- Threads that write and read ---------------------------------------------------------------
 */

#define SHARED    3u /* clusters of which each thread has every third page */
#define THREADS   3u /* and one cluster of its own */
#define CLUSTERS  (SHARED + THREADS)
#define SLOTS     (CLUSTERS * WEIR_CLUSTER_SLOTS)
#define BATCH     8u
#define RUN       96u
#define SIZE_SPEC "?size=14M"
#define MEMBERS_3 "tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ", tame:2" SIZE_SPEC
#define MEMBERS_4 MEMBERS_3 ", tame:3" SIZE_SPEC

static struct weir_backend *subject;
static _Atomic(bool) is_over;
static _Atomic(uint64_t) moved;

struct worker {
    pthread_t thread;
    uint32_t number;
    uint32_t versions[SLOTS]; /* of the slots that are its own */
    uint64_t random;
    struct weir_channel *channel;
    unsigned char *pages; /* a cluster */
};

static struct worker workers[THREADS];

static uint64_t stamp_of(uint64_t slot, uint32_t version)
{
    return (slot << 32 | version) * 0x9e3779b97f4a7c15u;
}

static void stamp(struct worker *w, uint64_t slot, uint32_t pages)
{
    for (uint32_t p = 0; p < pages; p++) {
        uint64_t *words = (uint64_t *)(void *)(w->pages + (size_t)p * WEIR_SLOT_BYTES);

        w->versions[slot + p]++;
        for (uint32_t i = 0; i < WEIR_SLOT_BYTES / 8; i++)
            words[i] = stamp_of(slot + p, w->versions[slot + p]) + i;
    }
}

static void check(const struct worker *w, const unsigned char *bytes, uint64_t slot, uint32_t pages)
{
    for (uint32_t p = 0; p < pages; p++) {
        const uint64_t *words = (const uint64_t *)(const void *)(bytes +
                                                                 (size_t)p * WEIR_SLOT_BYTES);
        const uint32_t version = w->versions[slot + p];

        for (uint32_t i = 0; i < WEIR_SLOT_BYTES / 8 && version; i++)
            cr_assert_eq(words[i], stamp_of(slot + p, version) + i,
                         "slot %u is not as it was written", (unsigned)(slot + p));
    }
}

static uint32_t draw(struct worker *w, uint32_t limit)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % limit;
}

/* A batch of different slots of the shared clusters, written or read at once. */
static void do_batch(struct worker *w, bool is_write)
{
    const uint32_t most = SHARED * WEIR_CLUSTER_SLOTS / THREADS;
    const uint32_t start = draw(w, most - BATCH * 40), step = 1 + draw(w, 40);
    struct weir_io ios[BATCH], *list[BATCH];
    struct iovec iov[BATCH];
    uint32_t finished = 0;

    for (uint32_t i = 0; i < BATCH; i++) {
        const uint64_t slot = (start + i * step) * THREADS + w->number;
        unsigned char *page = w->pages;

        if (is_write)
            stamp(w, slot, 1);
        page = w->pages + (size_t)(i + 1) * WEIR_SLOT_BYTES;
        memcpy(page, w->pages, WEIR_SLOT_BYTES);
        kit_io_init(&ios[i], &iov[i], is_write, slot, 1, page);
        list[i] = &ios[i];
    }
    cr_assert_eq(subject->ops->submit(w->channel, list, BATCH), BATCH);
    while (finished < BATCH)
        finished += subject->ops->poll(w->channel, UINT32_MAX);
    for (uint32_t i = 0; i < BATCH; i++) {
        cr_assert_eq(ios[i].error, WEIR_OK, "%s of %u gave %s", is_write ? "write" : "read",
                     (unsigned)ios[i].slot, weir_error_name(ios[i].error));
        if (!is_write)
            check(w, iov[i].iov_base, ios[i].slot, 1);
    }
    moved += BATCH;
}

/* A run of its own cluster, now and then all of it. */
static void do_run(struct worker *w, bool is_write)
{
    const bool is_all = draw(w, 3) == 0;
    const uint32_t pages = is_all ? WEIR_CLUSTER_SLOTS : 1 + draw(w, RUN);
    const uint32_t first = is_all ? 0 : draw(w, WEIR_CLUSTER_SLOTS - pages);
    const uint64_t slot = (uint64_t)(SHARED + w->number) * WEIR_CLUSTER_SLOTS + first;
    struct weir_io io;
    struct iovec iov;

    if (is_write)
        stamp(w, slot, pages);
    kit_io_init(&io, &iov, is_write, slot, pages, w->pages);
    cr_assert_eq(kit_do(w->channel, &io), WEIR_OK, "%s of %u pages at %u",
                 is_write ? "write" : "read", pages, (unsigned)slot);
    if (!is_write)
        check(w, w->pages, slot, pages);
    moved++;
}

static void read_back(struct worker *w, uint64_t slot, uint32_t pages)
{
    cr_assert_eq(subject->ops->read(subject, slot, pages, w->pages), WEIR_OK, "%u", (unsigned)slot);
    check(w, w->pages, slot, pages);
}

static void *work(void *context)
{
    struct worker *w = context;
    const uint64_t own = (uint64_t)(SHARED + w->number) * WEIR_CLUSTER_SLOTS;

    while (!is_over) {
        do_batch(w, draw(w, 2));
        do_run(w, draw(w, 2));
        read_back(w, draw(w, SHARED * WEIR_CLUSTER_SLOTS / THREADS) * THREADS + w->number, 1);
        read_back(w, own + draw(w, WEIR_CLUSTER_SLOTS - RUN), 1 + draw(w, RUN));
        usleep(200); /* who makes pieces anew needs a processor, too */
    }
    for (uint64_t slot = w->number; slot < SHARED * WEIR_CLUSTER_SLOTS; slot += THREADS)
        read_back(w, slot, 1);
    read_back(w, own, WEIR_CLUSTER_SLOTS);
    return NULL;
}

static void start_workers(void)
{
    is_over = false;
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i].number = i;
        workers[i].random = 77 + i;
        workers[i].channel = kit_channel(subject, BATCH);
        workers[i].pages = kit_pages(WEIR_CLUSTER_SLOTS, 0);
        cr_assert_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
}

static void end_workers(void)
{
    is_over = true;
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        subject->ops->channel_close(workers[i].channel);
        free(workers[i].pages);
    }
    cr_expect_eq(((struct wr_array *)subject)->map.lost, 0);
    cr_expect_eq(tame_clashes, 0, "a slot was read while it was written");
}

static void let_move(uint64_t requests)
{
    const uint64_t until = moved + requests;

    while (moved < until)
        usleep(1000);
}

/* --- Tests -------------------------------------------------------------------------------------
 */

Test(backend_ec, a_piece_that_fails_now_and_then_is_made_whole_again, .timeout = 120)
{
    subject = tame_open_array("ec(2+1, " MEMBERS_3 ")?rebuild_bytes_per_s=1G");
    start_workers();
    for (uint32_t round = 0; round < 4; round++) {
        let_move(400);
        tame[round % 3].fails = true;
        let_move(400);
        tame[round % 3].fails = false;
        cr_assert(tame_is_whole(subject, round % 3, 1), "round %u: %s", round, kit_told.text);
    }
    end_workers();
    cr_expect(kit_has_heard("all its copies again"), "%s", kit_told.text);
    kit_close(subject);
}

/* Single writes that fail, though some of them were done: while nobody is down for long. */
Test(backend_ec, writes_fail_here_and_there, .timeout = 120)
{
    subject = tame_open_array("ec(2+2, " MEMBERS_4 ")?rebuild_bytes_per_s=1G");
    start_workers();
    for (uint32_t round = 0; round < 12; round++) {
        let_move(60);
        tame[round % 4].writes_to_fail = 1 + round % 3;
        tame[(round + 1) % 4].writes_to_fail = round % 2;
        let_move(20);
        for (uint32_t i = 0; i < 4; i++)
            tame[i].writes_to_fail = 0; /* never three of them at a time */
        cr_assert(tame_is_whole(subject, round % 4, 1), "round %u: %s", round, kit_told.text);
    }
    end_workers();
    kit_close(subject);
}

/* So many from this one on are under suspicion, and answer when they are asked; two of the others,
 * if there are as many, fail once. */
static void suspect(struct weir_backend *array, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < 4; i++)
        if (i < count)
            wr_array_suspect((struct wr_array *)array, (first + i) % 4);
        else
            tame[(first + i) % 4].writes_to_fail = i < 3;
}

static void forgive(void)
{
    for (uint32_t i = 0; i < 4; i++)
        tame[i].writes_to_fail = 0;
}

Test(backend_ec, who_is_only_suspected_is_asked, .timeout = 60)
{
    struct weir_backend *array = tame_open_array("ec(2+2, " MEMBERS_4 ")");
    struct weir_channel *channel = kit_channel(array, 4);
    const uint32_t all = WEIR_CLUSTER_SLOTS;

    for (uint32_t round = 0; round < 20; round++) {
        suspect(array, round, round % 2 ? 1 : 3);
        cr_assert_eq(kit_write(channel, 3 + round, 1, 7, NULL), WEIR_OK, "a page, round %u", round);
        forgive();
        suspect(array, round, round % 2 ? 1 : 3);
        cr_assert_eq(kit_write(channel, (1 + round % 4) * all, all, 8, NULL), WEIR_OK,
                     "a cluster, round %u", round);
        forgive();
    }
    array->ops->channel_close(channel);
    kit_close(array);
}

/* What has no room says so, and is used again once it has some. */
Test(backend_ec, who_is_full_is_said_to_be, .timeout = 60)
{
    struct weir_backend *array = tame_open_array("ec(2+1, " MEMBERS_3 ")");
    struct weir_channel *channel = kit_channel(array, 4);
    const uint32_t all = WEIR_CLUSTER_SLOTS;

    cr_assert_eq(kit_write(channel, 0, all, 6, NULL), WEIR_OK);
    tame[0].is_full = tame[1].is_full = tame[2].is_full = true;
    cr_expect_eq(kit_write(channel, 3, 1, 7, NULL), WEIR_EFULL, "in place");
    cr_expect_eq(kit_write(channel, 4, 1, 7, NULL), WEIR_EFULL, "elsewhere");
    cr_expect_eq(kit_write(channel, 2 * all, all, 7, NULL), WEIR_EFULL);
    cr_expect(kit_holds(array, 5, all - 5, 6));
    tame[0].is_full = tame[1].is_full = tame[2].is_full = false;
    cr_expect_eq(kit_write(channel, 3, 1, 8, NULL), WEIR_OK);
    cr_expect(kit_holds(array, 3, 1, 8));
    array->ops->channel_close(channel);
    kit_close(array);
}

Test(backend_ec, two_that_come_back_empty_are_filled, .timeout = 120)
{
    subject = tame_open_array("ec(2+2, " MEMBERS_4 ")?rebuild_bytes_per_s=1G");
    start_workers();
    for (uint32_t round = 0; round < 2; round++) {
        let_move(400);
        tame_kill(round);
        tame_kill(round + 2);
        cr_assert(tame_is_whole(subject, round, 2), "round %u: %s", round, kit_told.text);
        cr_assert(tame_is_whole(subject, round + 2, 2), "round %u: %s", round, kit_told.text);
    }
    end_workers();
    kit_close(subject);
}

static bool points_at(const struct wr_array *array, uint32_t member)
{
    for (uint64_t c = 0; c < array->map.clusters; c++)
        for (uint32_t p = 0; p < array->pieces; p++) {
            struct wr_map_piece piece = wr_map_piece(&array->map, c, p);

            if (piece.state != WR_PIECE_NONE && piece.member == member)
                return true;
        }
    return false;
}

Test(backend_ec, a_member_that_stays_away_is_replaced_by_another, .timeout = 120)
{
    subject = tame_open_array("ec(2+1, " MEMBERS_4 ")?replace_s=1&rebuild_bytes_per_s=1G");
    start_workers();
    let_move(400);
    tame[1].refuses = true;
    tame_kill(1);
    while (tame_missing(subject) > 0 || points_at((struct wr_array *)subject, 1))
        usleep(10000);
    tame[1].refuses = false;
    cr_assert(tame_is_whole(subject, 1, 2), "%s", kit_told.text);
    end_workers();
    kit_close(subject);
}

/* Another member gets its share while it is written, and takes the place of one that is lost. */
Test(backend_ec, a_member_is_added, .timeout = 120)
{
    subject = tame_open_array("ec(2+1, " MEMBERS_3 ")?replace_s=1&rebuild_bytes_per_s=1G");
    start_workers();
    let_move(200);
    cr_assert_eq(subject->ops->extend(subject, "tame:3" SIZE_SPEC, 0), WEIR_OK);
    while (!points_at((struct wr_array *)subject, 3))
        usleep(1000);
    let_move(100);
    tame[1].refuses = true;
    tame_kill(1);
    while (tame_missing(subject) > 0 || points_at((struct wr_array *)subject, 1))
        usleep(10000);
    end_workers();
    tame[1].refuses = false;
    kit_close(subject);
}

Test(backend_ec, who_cannot_be_added, .timeout = 60)
{
    struct weir_backend *array = tame_open_array("ec(2+1, " MEMBERS_3 ")");

    tame[4].flags = WEIR_BACKEND_REMOTE;
    cr_expect_eq(array->ops->extend(array, "tame:4" SIZE_SPEC, 0), WEIR_EDENIED);
    cr_expect(kit_has_heard("tame:4 cannot be added: pages would leave this machine"), "%s",
              kit_told.text);
    tame[5].flags = WEIR_BACKEND_SEALED;
    cr_expect_eq(array->ops->extend(array, "tame:5" SIZE_SPEC, WEIR_BACKEND_REMOTE), WEIR_EINVAL);
    cr_expect_eq(array->ops->extend(array, "mem:?size=2M", 0), WEIR_EINVAL, "it has no reserve");
    cr_expect(kit_has_heard("it is too small"), "%s", kit_told.text);
    tame[6].refuses = true;
    cr_expect_eq(array->ops->extend(array, "tame:6" SIZE_SPEC, 0), WEIR_EIO);
    cr_expect_eq(kit_describe(array).flags & WEIR_BACKEND_REMOTE, 0);
    cr_expect_eq(array->ops->extend(array, "tame:4" SIZE_SPEC, WEIR_BACKEND_REMOTE), WEIR_OK,
                 "whoever seals it allows it");
    cr_expect_eq(((struct wr_array *)array)->members, 4);
    kit_close(array);
}

Test(backend_ec, an_array_opens_without_some_and_takes_them_in_later, .timeout = 120)
{
    tame[1].refuses = tame[3].refuses = true;
    subject = tame_open_array("ec(2+2, " MEMBERS_4 ")?rebuild_bytes_per_s=1G");
    start_workers();
    let_move(400);
    cr_expect_gt(tame_missing(subject), 0);
    tame[1].refuses = tame[3].refuses = false;
    cr_assert(tame_is_whole(subject, 1, 1), "%s", kit_told.text);
    cr_assert(tame_is_whole(subject, 3, 1), "%s", kit_told.text);
    end_workers();
    kit_close(subject);
    tame[1].refuses = tame[3].refuses = true;
    kit_open("ec(2+1, " MEMBERS_4 ")", WEIR_EIO);
}

/* What cannot be had from too few is refused, and never taken for zeros; the rest is there, and
 * what is written anew is good. */
Test(backend_ec, what_was_lost_is_refused, .timeout = 120)
{
    struct weir_backend *array = tame_open_array("ec(2+1, " MEMBERS_3 ")");
    struct weir_channel *channel = kit_channel(array, 4);
    unsigned char *page = kit_pages(1, 0);
    uint32_t lost = 0;

    cr_expect_eq(kit_describe(array).slots, 12 * WEIR_CLUSTER_SLOTS);
    cr_assert_eq(kit_write(channel, 5, 1, 7, NULL), WEIR_OK);
    cr_assert_eq(kit_write(channel, 300, 1, 8, NULL), WEIR_OK);
    tame[0].refuses = true;
    tame_kill(0);
    tame_kill(1);
    (void)array->ops->read(array, 5, 1, page);
    (void)array->ops->read(array, 300, 1, page);
    tame[0].refuses = false;
    cr_assert(tame_is_whole(array, 0, 2) && tame_is_whole(array, 1, 2), "%s", kit_told.text);
    for (uint64_t slot = 5; slot <= 300; slot += 295) {
        if (array->ops->read(array, slot, 1, page) == WEIR_OK) {
            cr_expect(kit_is_filled(page, WEIR_SLOT_BYTES, slot == 5 ? 7 : 8));
            continue;
        }
        lost++;
        cr_expect_eq(kit_write(channel, slot + 1, 1, 9, NULL), WEIR_OK);
        cr_expect(kit_holds(array, slot + 1, 1, 9));
        cr_expect_eq(array->ops->read(array, slot, 1, page), WEIR_EIO);
        cr_expect_eq(kit_write(channel, slot, 1, 6, NULL), WEIR_OK);
        cr_expect(kit_holds(array, slot, 1, 6));
    }
    cr_expect_geq(lost, 1);
    cr_expect(kit_has_heard("is lost"), "%s", kit_told.text);
    array->ops->channel_close(channel);
    free(page);
    kit_close(array);
}

/* How many of the ways to read the page give what was written; and there is an end to them. */
static uint32_t count_ways(struct weir_backend *array, uint64_t slot, int fill)
{
    unsigned char *page = kit_pages(1, 0);
    uint32_t found = 0, attempt = 0;
    int error;

    while ((error = array->ops->reread(array, slot, attempt++, page)) != WEIR_ENOENT) {
        cr_assert(error == WEIR_OK || error == WEIR_EIO);
        cr_assert_lt(attempt, 17);
        found += error == WEIR_OK && kit_is_filled(page, WEIR_SLOT_BYTES, fill);
    }
    free(page);
    return found;
}

/* While neighbours in its row, and with them the parity, are written where they are. */
static void *reread_on(void *context)
{
    struct weir_backend *array = context;

    while (!is_over) {
        cr_expect_eq(count_ways(array, 3, 7), 8);
        moved++;
    }
    return NULL;
}

Test(backend_ec, nothing_is_read_while_it_is_patched, .timeout = 60)
{
    struct weir_backend *array = tame_open_array("ec(2+2, " MEMBERS_4 ")");
    struct weir_channel *channel = kit_channel(array, 4);
    pthread_t thread;

    cr_assert_eq(kit_write(channel, 3, 1, 7, NULL), WEIR_OK);
    for (uint32_t i = 0; i < 4; i++)
        tame[i].pause_us = 300;
    cr_assert_eq(pthread_create(&thread, NULL, reread_on, array), 0);
    for (uint32_t i = 0; i < 40 || moved < 4; i++) {
        cr_assert_eq(kit_write(channel, 259, 1, 8 + (int)(i % 100), NULL), WEIR_OK);
        usleep(i < 40 ? 0 : 10000); /* who reads needs a while in which nobody writes */
    }
    is_over = true;
    pthread_join(thread, NULL);
    cr_expect_eq(tame_clashes, 0, "%u times", tame_clashes);
    array->ops->channel_close(channel);
    kit_close(array);
}

Test(backend_ec, a_page_is_read_in_other_ways, .timeout = 60)
{
    struct weir_backend *array = tame_open_array("ec(2+2, " MEMBERS_4 ")");
    struct weir_channel *channel = kit_channel(array, 4);

    cr_assert_eq(kit_write(channel, 3, 1, 7, NULL), WEIR_OK);
    cr_assert_eq(kit_write(channel, 259, 1, 8, NULL), WEIR_OK);
    cr_expect_eq(count_ways(array, 3, 7), 8, "each twice");
    cr_expect_eq(count_ways(array, 259, 8), 8);
    for (uint32_t i = 0; i < 4; i++) {
        tame[i].fails = true;
        cr_expect_geq(count_ways(array, 3, 7), 1, "without %u", i);
        cr_expect_geq(count_ways(array, 259, 8), 1, "without %u", i);
        tame[i].fails = false;
    }
    array->ops->channel_close(channel);
    kit_close(array);
}

static void *come_back(void *context)
{
    (void)context;
    usleep(200000);
    for (uint32_t i = 0; i < 4; i++)
        tame[i].is_away = false;
    return NULL;
}

/* While one is away, or two are, the others are asked before anybody waits; and then it is waited
 * for. */
static void expect_no_wait(const char *spec, uint32_t away)
{
    struct weir_backend *array = tame_open_array(spec);
    struct weir_channel *channel = kit_channel(array, 4);
    const uint32_t members = ((struct wr_array *)array)->members;
    unsigned char *page = kit_pages(1, 0);
    uint32_t attempt = 0;
    pthread_t thread;

    cr_assert_eq(kit_write(channel, 3, 1, 7, NULL), WEIR_OK);
    for (uint32_t i = 0; i < members; i++) {
        for (uint32_t j = 0; j < away; j++)
            tame[(i + j) % members].is_away = true;
        for (attempt = 0; array->ops->reread(array, 3, attempt, page) != WEIR_OK; attempt++)
            cr_assert_lt(attempt, members, "%s without %u", spec, i);
        cr_expect(kit_is_filled(page, WEIR_SLOT_BYTES, 7));
        for (uint32_t j = 0; j < away; j++)
            tame[(i + j) % members].is_away = false;
        cr_assert(tame_is_whole(array, 0, 1));
    }
    for (uint32_t i = 0; i < members; i++)
        tame[i].is_away = true;
    cr_assert_eq(pthread_create(&thread, NULL, come_back, NULL), 0);
    for (attempt = 0; array->ops->reread(array, 3, attempt, page) != WEIR_OK; attempt++)
        cr_assert_lt(attempt, 2 * members, "%s", spec);
    cr_expect(kit_is_filled(page, WEIR_SLOT_BYTES, 7));
    pthread_join(thread, NULL);
    array->ops->channel_close(channel);
    free(page);
    kit_close(array);
}

Test(backend_ec, who_is_away_is_not_waited_for_while_others_have_it, .timeout = 60)
{
    expect_no_wait("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")", 1);
    expect_no_wait("ec(2+1, " MEMBERS_3 ")", 1);
    expect_no_wait("ec(2+2, " MEMBERS_4 ")", 2);
}

/* Sealed, a page that a member damages is worked out from the others, unless a neighbour in its row
 * was written since: who makes the parity does not see what is damaged. */
Test(backend_ec, behind_a_seal_a_damaged_page_is_worked_out, .timeout = 60)
{
    struct weir_backend *array = kit_open("ec(2+1, chaos(mem:" SIZE_SPEC ")?lie=1, mem:" SIZE_SPEC
                                          ", mem:" SIZE_SPEC ")?seal=on",
                                          WEIR_OK);
    struct weir_channel *channel = kit_channel(array, 4);

    cr_assert_eq(kit_write(channel, 3, 1, 7, NULL), WEIR_OK);
    cr_assert_eq(kit_write(channel, 270, 1, 8, NULL), WEIR_OK);
    cr_expect_geq(count_ways(array, 3, 7), 1);
    cr_expect_geq(count_ways(array, 270, 8), 1);
    array->ops->channel_close(channel);
    kit_close(array);
}

Test(backend_ec, what_is_refused)
{
    static const struct {
        const char *spec, *words;
    } bad[] = {
        {"ec(4+2, mem:, mem:, mem:, mem:, mem:)", "6 pieces need as many members, and there are 5"},
        {"ec(mem:, mem:, mem:)", "expected how many pieces"},
        {"ec(2, mem:, mem:, mem:)", "expected how many pieces"},
        {"ec(0+2, mem:, mem:)", "at least 2 of data"},
        {"ec(1+1, mem:, mem:)", "mirror"},
        {"ec(2+0, mem:, mem:)", "1 of parity"},
        {"ec(12+5, mem:)", "16 together at most"},
        {"ec(99999999999999999999+1, mem:)", "16 together at most"},
        {"ec(-2+1, mem:, mem:, mem:)", "expected how many pieces"},
        {"ec(2+1)", "expected how many pieces"},
        {"ec(2+1, )", "expected 1 to 16"},
        {"ec(2+1, mem:, mem:, mem:?size=2M)", "too small: a member has 2048 KiB and a page"},
        {"ec(2+1, mem:, mem:, mem:)?copies=2", "no option"},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct weir_backend *backend = NULL;

        cr_expect_neq(weir_backend_open(bad[i].spec, &kit_env, &backend), WEIR_OK, "%s",
                      bad[i].spec);
        cr_expect(kit_has_heard(bad[i].words), "%s: %s", bad[i].spec, kit_told.text);
    }
    kit_close(kit_open("ec( 2 + 1 , mem:?size=3M, mem:?size=3M , mem:?size=3M)", WEIR_OK));
}
