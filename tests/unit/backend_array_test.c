/* SPDX-License-Identifier: MIT */

/*
 * mirror and spread over members that can be told to fail, to refuse, and to come back empty, while
 * threads write and read: no byte may be wrong, and everything is whole in the end.
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

#define CLUSTERS  6u
#define SLOTS     (CLUSTERS * WEIR_CLUSTER_SLOTS)
#define THREADS   3u
#define BATCH     8u
#define SIZE_SPEC "?size=14M"

static struct weir_backend *subject;
static _Atomic(bool) is_over;
static _Atomic(uint64_t) moved;

static uint64_t stamp_of(uint64_t slot, uint32_t version)
{
    return (slot << 32 | version) * 0x9e3779b97f4a7c15u;
}

static void stamp(unsigned char *page, uint64_t slot, uint32_t version)
{
    uint64_t *words = (uint64_t *)(void *)page;

    for (uint32_t i = 0; i < WEIR_SLOT_BYTES / 8; i++)
        words[i] = stamp_of(slot, version) + i;
}

static bool is_stamped(const unsigned char *page, uint64_t slot, uint32_t version)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;

    for (uint32_t i = 0; i < WEIR_SLOT_BYTES / 8; i++)
        if (words[i] != stamp_of(slot, version) + i)
            return false;
    return true;
}

struct worker {
    pthread_t thread;
    uint32_t number;
    uint32_t versions[SLOTS]; /* of the slots that are its own: every third */
    uint64_t random;
    struct weir_channel *channel;
    unsigned char *pages;
};

static uint32_t draw(struct worker *w, uint32_t limit)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % limit;
}

/* A batch of different slots of its own, written or read at once. */
static void do_batch(struct worker *w, bool is_write)
{
    const uint32_t start = draw(w, SLOTS / THREADS - BATCH * 40), step = 1 + draw(w, 40);
    struct weir_io ios[BATCH], *list[BATCH];
    struct iovec iov[BATCH];
    uint32_t finished = 0;

    for (uint32_t i = 0; i < BATCH; i++) {
        const uint64_t slot = (start + i * step) * THREADS + w->number;
        unsigned char *page = w->pages + (size_t)i * WEIR_SLOT_BYTES;

        kit_io_init(&ios[i], &iov[i], is_write, slot, 1, page);
        if (is_write)
            stamp(page, slot, ++w->versions[slot]);
        list[i] = &ios[i];
    }
    cr_assert_eq(subject->ops->submit(w->channel, list, BATCH), BATCH);
    while (finished < BATCH)
        finished += subject->ops->poll(w->channel, UINT32_MAX);
    for (uint32_t i = 0; i < BATCH; i++) {
        cr_assert_eq(ios[i].error, WEIR_OK, "%s of %u", is_write ? "write" : "read",
                     (unsigned)ios[i].slot);
        cr_assert(is_write || !w->versions[ios[i].slot] ||
                      is_stamped(w->pages + (size_t)i * WEIR_SLOT_BYTES, ios[i].slot,
                                 w->versions[ios[i].slot]),
                  "slot %u is not as it was written", (unsigned)ios[i].slot);
    }
    moved += BATCH;
}

static void check_one(struct worker *w, uint64_t slot)
{
    cr_assert_eq(subject->ops->read(subject, slot, 1, w->pages), WEIR_OK, "%u", (unsigned)slot);
    cr_assert(!w->versions[slot] || is_stamped(w->pages, slot, w->versions[slot]),
              "slot %u is not as it was written", (unsigned)slot);
}

static void *work(void *context)
{
    struct worker *w = context;

    while (!is_over) {
        do_batch(w, draw(w, 2));
        check_one(w, draw(w, SLOTS / THREADS) * THREADS + w->number);
        usleep(200); /* who makes pieces anew needs a processor, too */
    }
    for (uint64_t slot = w->number; slot < SLOTS; slot += THREADS)
        check_one(w, slot);
    return NULL;
}

static struct worker workers[THREADS];

static void start_workers(void)
{
    is_over = false;
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i].number = i;
        workers[i].random = 77 + i;
        workers[i].channel = kit_channel(subject, BATCH);
        workers[i].pages = kit_pages(BATCH, 0);
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

Test(backend_array, a_copy_that_fails_now_and_then_is_made_whole_again, .timeout = 120)
{
    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")");
    start_workers();
    for (uint32_t round = 0; round < 6; round++) {
        let_move(2000);
        tame[round % 2].fails = true;
        let_move(2000);
        tame[round % 2].fails = false;
        cr_assert(tame_is_whole(subject, 0, 1), "round %u: %s", round, kit_told.text);
    }
    end_workers();
    cr_expect(kit_has_heard("all its copies again"), "%s", kit_told.text);
    kit_close(subject);
}

Test(backend_array, a_member_that_comes_back_empty_is_filled, .timeout = 120)
{
    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")");
    start_workers();
    for (uint32_t round = 0; round < 2; round++) {
        let_move(2000);
        tame_kill(round);
        cr_assert(tame_is_whole(subject, round, 2), "round %u: %s", round, kit_told.text);
    }
    end_workers();
    cr_expect_eq(((struct wr_array *)subject)->map.lost, 0);
    kit_close(subject);
}

Test(backend_array, a_member_that_stays_away_is_replaced_by_another, .timeout = 120)
{
    struct wr_array *array;

    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ", tame:2" SIZE_SPEC
                              ")?replace_s=1");
    array = (struct wr_array *)subject;
    cr_expect_geq(array->map.clusters, CLUSTERS + 3);
    start_workers();
    let_move(4000);
    tame[1].refuses = true;
    tame_kill(1);
    /* Its clusters are made whole at the other two: nothing points at it any more. */
    for (bool any = true; any; usleep(10000)) {
        any = tame_missing(subject) > 0;
        for (uint64_t c = 0; c < array->map.clusters; c++)
            for (uint32_t p = 0; p < 2; p++) {
                struct wr_map_piece piece = wr_map_piece(&array->map, c, p);

                any |= piece.state != WR_PIECE_NONE && piece.member == 1;
            }
    }
    tame[1].refuses = false;
    cr_assert(tame_is_whole(subject, 1, 2), "%s", kit_told.text);
    end_workers();
    kit_close(subject);
}

Test(backend_array, an_array_opens_without_one_and_takes_it_in_later, .timeout = 120)
{
    tame[1].refuses = true;
    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")");
    start_workers();
    let_move(2000);
    cr_expect_gt(tame_missing(subject), 0);
    tame[1].refuses = false;
    cr_assert(tame_is_whole(subject, 1, 1), "%s", kit_told.text);
    end_workers();
    kit_close(subject);
    tame[1].refuses = true;
    kit_open("spread(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")", WEIR_EIO);
}

/* --- One that hangs, or may come back --------------------------------------------------------- */

static bool is_up_soon(struct weir_backend *backend, uint32_t member)
{
    struct wr_array *array = (struct wr_array *)backend;

    for (int i = 0; i < 2000 && !array->map.member[member].is_up; i++)
        usleep(10000);
    return array->map.member[member].is_up;
}

/* The others are asked whether they answer, and used, though one never ends to be opened. */
Test(backend_array, a_member_that_hangs_as_it_is_opened_holds_up_nobody, .timeout = 120)
{
    struct wr_array *array;

    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ", tame:2" SIZE_SPEC
                              ")?copies=3");
    array = (struct wr_array *)subject;
    tame[2].stalls_open = true;
    tame_kill(2);
    while (array->member[2].errand.state != WR_ERRAND_RUNS)
        usleep(1000);
    for (uint32_t i = 0; i < 2; i++) {
        tame[i].fails = true;
        for (int k = 0; k < 2000 && array->map.member[i].is_up; k++)
            usleep(10000);
        cr_expect_not(array->map.member[i].is_up, "nobody asks member %u", i);
        tame[i].fails = false;
        cr_expect(is_up_soon(subject, i), "nobody asks member %u again", i);
    }
    start_workers();
    let_move(2000);
    tame[2].stalls_open = false;
    cr_assert(tame_is_whole(subject, 2, 2), "%s", kit_told.text);
    end_workers();
    kit_close(subject);
}

/* Pages move on at the others, though a channel to it never ends to be closed. */
Test(backend_array, a_member_that_hangs_as_a_channel_is_closed_holds_up_nobody, .timeout = 120)
{
    struct wr_array *array;

    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")");
    array = (struct wr_array *)subject;
    start_workers();
    let_move(1000);
    tame[1].stalls_close = true;
    tame_kill(1);
    for (bool any = true; any; usleep(1000)) {
        pthread_mutex_lock(&array->lock);
        any = array->map.member[1].life < 2;
        pthread_mutex_unlock(&array->lock);
    }
    let_move(4000);
    tame[1].stalls_close = false;
    cr_assert(tame_is_whole(subject, 1, 2), "%s", kit_told.text);
    end_workers();
    kit_close(subject);
}

static void *come_back_soon(void *context)
{
    (void)context;
    usleep(700000);
    tame[0].is_away = tame[1].is_away = false;
    return NULL;
}

/* Nobody answers, and both may yet: what is read and written waits for them. */
Test(backend_array, as_long_as_a_member_may_come_back_it_is_waited_for, .timeout = 120)
{
    struct weir_channel *channel;
    pthread_t thread;

    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")");
    channel = kit_channel(subject, 4);
    cr_assert_eq(kit_write(channel, 1, 1, 7, NULL), WEIR_OK);
    for (uint32_t round = 0; round < 3; round++) {
        struct weir_io io;
        struct iovec iov;
        unsigned char *page = kit_pages(1, 0);

        tame[0].is_away = tame[1].is_away = true;
        cr_assert_eq(pthread_create(&thread, NULL, come_back_soon, NULL), 0);
        if (round == 0) {
            cr_expect(kit_holds(subject, 1, 1, 7));
        } else {
            memset(page, 7, WEIR_SLOT_BYTES);
            kit_io_init(&io, &iov, round == 1, 1, 1, page);
            cr_expect_eq(kit_do(channel, &io), WEIR_OK);
            cr_expect(kit_is_filled(page, WEIR_SLOT_BYTES, 7));
        }
        pthread_join(thread, NULL);
        free(page);
    }
    cr_expect(tame_is_whole(subject, 0, 1));
    cr_expect_eq(((struct wr_array *)subject)->map.member[0].life, 1);
    subject->ops->channel_close(channel);
    kit_close(subject);
}

/* Who has said that he can go elsewhere does. */
Test(backend_array, who_can_go_elsewhere_does_not_wait, .timeout = 120)
{
    struct weir_backend_env env = kit_env;
    struct weir_channel *channel;
    unsigned char *page = kit_pages(1, 0);

    tame_register();
    env.flags = WEIR_ENV_PUTS_OFF | WEIR_ENV_HAS_COPIES;
    cr_assert_eq(
        weir_backend_open("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")", &env, &subject),
        WEIR_OK);
    channel = kit_channel(subject, 4);
    cr_assert_eq(kit_write(channel, 1, 1, 7, NULL), WEIR_OK);
    tame[0].is_away = tame[1].is_away = true;
    cr_expect_eq(subject->ops->read(subject, 1, 1, page), WEIR_EAGAIN);
    cr_expect_eq(kit_write(channel, 1, 1, 8, NULL), WEIR_EAGAIN);
    tame[1].fails = true;
    cr_expect_eq(subject->ops->read(subject, 1, 1, page), WEIR_EAGAIN);
    tame[0].fails = true;
    cr_expect_eq(subject->ops->read(subject, 1, 1, page), WEIR_EIO);
    cr_expect_eq(kit_write(channel, 1, 1, 8, NULL), WEIR_EIO);
    subject->ops->channel_close(channel);
    kit_close(subject);
    free(page);
}

/* It is not less whole for ever because there was no memory for a moment. */
Test(backend_array, a_channel_that_could_not_be_had_is_had_later, .timeout = 120)
{
    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")");
    tame[1].declines = true;
    start_workers();
    let_move(1000);
    cr_expect_gt(tame_missing(subject), 0);
    tame[1].declines = false;
    for (int i = 0; i < 500 && ((struct wr_array *)subject)->wants_legs; i++)
        usleep(10000);
    usleep(300000);
    cr_assert(tame_is_whole(subject, 1, 1), "%s", kit_told.text);
    let_move(1000);
    cr_expect_eq(tame_missing(subject), 0);
    end_workers();
    kit_close(subject);
}

static _Atomic(bool) has_returned;

static void *read_cancelled(void *page)
{
    pthread_cancel(pthread_self());
    (void)subject->ops->read(subject, 1, 1, page);
    has_returned = true;
    return NULL;
}

/* A thread that is cancelled while it waits for a page has it first. */
Test(backend_array, a_read_that_fails_is_no_cancellation_point, .timeout = 60)
{
    struct weir_channel *channel;
    unsigned char *page = kit_pages(1, 0);
    pthread_t thread;

    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")");
    channel = kit_channel(subject, 4);
    cr_assert_eq(kit_write(channel, 1, 1, 7, NULL), WEIR_OK);
    tame[0].fails = tame[1].is_away = true;
    cr_assert_eq(pthread_create(&thread, NULL, read_cancelled, page), 0);
    usleep(100000);
    tame[1].is_away = false;
    pthread_join(thread, NULL);
    cr_expect(has_returned);
    subject->ops->channel_close(channel);
    kit_close(subject);
    free(page);
}

/* --- One more --------------------------------------------------------------------------------- */

static uint32_t pieces_at(const struct wr_array *array, uint32_t member)
{
    uint32_t count = 0;

    for (uint64_t c = 0; c < array->map.clusters; c++)
        for (uint32_t p = 0; p < array->map.pieces; p++) {
            struct wr_map_piece piece = wr_map_piece(&array->map, c, p);

            count += piece.state != WR_PIECE_NONE && piece.member == member;
        }
    return count;
}

/* Its share comes to it while pages move, and it takes the place of one that is lost. */
Test(backend_array, another_member_takes_its_share, .timeout = 120)
{
    struct wr_array *array;

    subject = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC ")?replace_s=1");
    array = (struct wr_array *)subject;
    start_workers();
    let_move(2000);
    cr_assert_eq(subject->ops->extend(subject, "tame:2" SIZE_SPEC, 0), WEIR_OK);
    cr_assert(tame_is_whole(subject, 2, 1), "%s", kit_told.text);
    for (int i = 0; i < 2000 && pieces_at(array, 2) == 0; i++)
        usleep(10000);
    cr_expect_gt(pieces_at(array, 2), 0);
    tame[1].refuses = true;
    tame_kill(1);
    for (int i = 0; i < 6000 && (pieces_at(array, 1) > 0 || tame_missing(subject) > 0); i++)
        usleep(10000);
    cr_expect_eq(pieces_at(array, 1), 0);
    cr_expect_eq(tame_missing(subject), 0);
    end_workers();
    cr_expect_eq(array->map.lost, 0);
    kit_close(subject);
}

/* --- Another copy ----------------------------------------------------------------------------- */

/* Each copy can be asked for by itself, and there is an end to them. */
static void expect_copies(struct weir_backend *backend, uint64_t slot, int fill, uint32_t good)
{
    unsigned char *page = kit_pages(1, 0);
    uint32_t found = 0, attempt = 0;
    int error;

    while ((error = backend->ops->reread(backend, slot, attempt++, page)) != WEIR_ENOENT) {
        cr_assert(error == WEIR_OK || error == WEIR_EIO);
        cr_assert_lt(attempt, 17);
        found += error == WEIR_OK && kit_is_filled(page, WEIR_SLOT_BYTES, fill);
    }
    cr_expect_eq(found, 2 * good, "twice, for who was away at first may be there again");
    free(page);
}

Test(backend_array, each_copy_can_be_asked_for, .timeout = 60)
{
    struct weir_backend *mirror = tame_open_array("mirror(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC
                                                  ", tame:2" SIZE_SPEC ")?copies=3");
    struct weir_channel *channel = kit_channel(mirror, 4);

    cr_assert_eq(kit_write(channel, 3, 1, 7, NULL), WEIR_OK);
    expect_copies(mirror, 3, 7, 3);
    tame[1].fails = true;
    expect_copies(mirror, 3, 7, 2);
    mirror->ops->channel_close(channel);
    kit_close(mirror);
    tame[1].fails = false;
}

/* Sealed, a copy that was damaged is told from the others. */
Test(backend_array, behind_a_seal_the_good_copy_is_found, .timeout = 60)
{
    struct weir_backend *mirror = kit_open(
        "mirror(chaos(mem:" SIZE_SPEC ")?lie=1, mem:" SIZE_SPEC ")?seal=on", WEIR_OK);
    struct weir_channel *channel = kit_channel(mirror, 4);

    cr_assert_eq(kit_write(channel, 3, 1, 7, NULL), WEIR_OK);
    expect_copies(mirror, 3, 7, 1);
    mirror->ops->channel_close(channel);
    kit_close(mirror);
}

/* What no other member has is refused, and never taken for zeros; what is written anew is good. */
Test(backend_array, what_was_lost_is_refused, .timeout = 120)
{
    struct weir_backend *spread = tame_open_array("spread(tame:0" SIZE_SPEC ", tame:1" SIZE_SPEC
                                                  ")");
    const uint64_t slots = kit_describe(spread).slots;
    struct weir_channel *channel = kit_channel(spread, 4);
    unsigned char *page = kit_pages(1, 0);
    uint32_t lost = 0, kept = 0;

    cr_expect_eq(slots, 12 * WEIR_CLUSTER_SLOTS);
    for (uint64_t slot = 5; slot < slots; slot += WEIR_CLUSTER_SLOTS)
        cr_assert_eq(kit_write(channel, slot, 1, 7, NULL), WEIR_OK);
    tame_kill(0);
    (void)spread->ops->read(spread, 5, 1, page);
    cr_assert(tame_is_whole(spread, 0, 2), "%s", kit_told.text);
    for (uint64_t slot = 5; slot < slots; slot += WEIR_CLUSTER_SLOTS) {
        if (spread->ops->read(spread, slot, 1, page) == WEIR_OK) {
            cr_expect(kit_is_filled(page, WEIR_SLOT_BYTES, 7));
            kept++;
            continue;
        }
        lost++;
        cr_expect_eq(kit_write(channel, slot + 1, 1, 8, NULL), WEIR_OK);
        cr_expect(kit_holds(spread, slot + 1, 1, 8));
        cr_expect_eq(spread->ops->read(spread, slot, 1, page), WEIR_EIO);
        cr_expect_eq(kit_write(channel, slot, 1, 9, NULL), WEIR_OK);
        cr_expect(kit_holds(spread, slot, 1, 9));
    }
    cr_expect_eq(lost, 6);
    cr_expect_eq(kept, 6);
    cr_expect(kit_has_heard("is lost"), "%s", kit_told.text);
    spread->ops->channel_close(channel);
    free(page);
    kit_close(spread);
}
