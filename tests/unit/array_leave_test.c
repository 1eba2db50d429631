/* SPDX-License-Identifier: MIT */

/* Members of arrays that are emptied: since their memory is wanted back, or since they are taken
 * off. */

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/backend_kit.h"
#include "tests/unit/tame.h"
#include "transport/array.h"

#define SIZE     "?size=20M" /* nine clusters and a page for the keeper */
#define CLUSTERS 6u
#define STEP     97u /* of the pages of a cluster that are looked at */
#define OPTIONS  "rebuild_bytes_per_s=1G"

static struct weir_backend *subject;

static struct wr_array *array(void)
{
    return (struct wr_array *)subject;
}

static int fill_of(uint32_t cluster)
{
    return (int)(11 * cluster + 3);
}

static void fill(uint32_t clusters)
{
    struct weir_channel *channel = kit_channel(subject, 4);

    for (uint32_t c = 0; c < clusters; c++)
        cr_assert_eq(
            kit_write(channel, c * WEIR_CLUSTER_SLOTS, WEIR_CLUSTER_SLOTS, fill_of(c), NULL),
            WEIR_OK);
    subject->ops->channel_close(channel);
}

static void expect_filled(uint32_t clusters)
{
    for (uint32_t c = 0; c < clusters; c++)
        for (uint32_t p = 0; p < WEIR_CLUSTER_SLOTS; p += STEP)
            cr_assert(kit_holds(subject, c * WEIR_CLUSTER_SLOTS + p, 1, fill_of(c)), "%u %u", c, p);
}

static uint32_t pieces_at(uint32_t member)
{
    uint32_t pieces;

    pthread_mutex_lock(&array()->lock);
    pieces = array()->map.member[member].used - array()->map.member[member].free_count;
    pthread_mutex_unlock(&array()->lock);
    return pieces;
}

/* Within a minute. */
#define EVENTUALLY(condition)                                             \
    do {                                                                  \
        for (int tries_ = 0; tries_ < 6000 && !(condition); tries_++)     \
            usleep(10000);                                                \
        cr_assert(condition, "never: %s: %s", #condition, kit_told.text); \
    } while (0)

/* --- Wanted back ------------------------------------------------------------------------------ */

/* What is there goes to the others, and is read and written all the while; it is opened anew as
 * soon as its server lets it, and gets its share. */
static void leaves_and_comes_back(const char *spec)
{
    uint32_t others = 0;

    tame[1].refuses = false;
    subject = tame_open_array(spec);
    fill(CLUSTERS);
    EVENTUALLY(pieces_at(1) > 0);
    tame[1].refuses = true;
    tame_ask_back(1, true);
    EVENTUALLY(tame_open_count(1) == 0);
    cr_expect_eq(pieces_at(1), 0);
    cr_expect_eq(tame_missing(subject), 0);
    cr_expect_eq(array()->map.lost, 0);
    expect_filled(CLUSTERS);
    cr_expect(kit_has_heard("tame:1 is empty, and closed"), "%s", kit_told.text);
    fill(CLUSTERS + 1); /* nothing comes there */
    for (uint32_t i = 0; i < array()->members; i++)
        others += pieces_at(i);
    cr_expect_eq(others, (CLUSTERS + 1) * array()->pieces);
    usleep(1200000); /* longer than one that is away is waited for */
    tame[1].refuses = false;
    EVENTUALLY(pieces_at(1) > 0);
    cr_expect_not(array()->map.member[1].is_gone);
    expect_filled(CLUSTERS + 1);
    cr_expect_eq(array()->map.lost, 0);
    kit_close(subject);
}

Test(array_leave, of_a_mirror, .timeout = 120)
{
    leaves_and_comes_back("mirror(tame:0" SIZE ", tame:1" SIZE ", tame:2" SIZE
                          ")?replace_s=1&" OPTIONS);
}

Test(array_leave, of_a_spread, .timeout = 120)
{
    leaves_and_comes_back("spread(tame:0" SIZE ", tame:1" SIZE ")?" OPTIONS);
}

Test(array_leave, of_a_code, .timeout = 120)
{
    leaves_and_comes_back("ec(2+1, tame:0" SIZE ", tame:1" SIZE ", tame:2" SIZE ", tame:3" SIZE
                          ")?replace_s=1&" OPTIONS);
}

/* A server that withdraws its wish is used as before. */
Test(array_leave, or_stays_after_all, .timeout = 120)
{
    subject = tame_open_array("mirror(tame:0" SIZE ", tame:1" SIZE ")?" OPTIONS);
    fill(CLUSTERS);
    tame_ask_back(1, true);
    cr_expect(kit_has_heard("tame:1 is to be emptied, but cannot be yet"), "%s", kit_told.text);
    expect_filled(CLUSTERS);
    fill(CLUSTERS + 1); /* better there than nowhere */
    cr_expect_eq(pieces_at(1), CLUSTERS + 1);
    tame_ask_back(1, false);
    cr_expect(kit_has_heard("tame:1 stays after all"), "%s", kit_told.text);
    cr_expect_eq(tame_open_count(1), 1);
    expect_filled(CLUSTERS + 1);
    kit_close(subject);
}

static _Atomic(int) asked_back;

static void note_leave(void *context, int is_wanted)
{
    (void)context;
    asked_back = is_wanted;
}

/* Where there is one copy of each page, and no room, whoever uses the array takes it elsewhere. */
Test(array_leave, those_who_use_it_are_asked_if_there_is_no_room, .timeout = 120)
{
    struct weir_backend_env env = kit_env;

    env.leave = note_leave;
    tame_register();
    cr_assert_eq(
        weir_backend_open("spread(tame:2?size=4100k, tame:3" SIZE ")?" OPTIONS, &env, &subject),
        WEIR_OK);
    fill(2 * CLUSTERS - 2);
    EVENTUALLY(pieces_at(0) > 0 && pieces_at(1) > 2);
    tame_ask_back(3, true);
    EVENTUALLY(asked_back == 1);
    expect_filled(2 * CLUSTERS - 2);
    tame_ask_back(3, false);
    EVENTUALLY(asked_back == 0);
    kit_close(subject);
}

/* One that does not answer for a moment says nothing about the room of the others. */
Test(array_leave, who_is_silent_for_a_while_is_waited_for, .timeout = 120)
{
    struct weir_backend_env env = kit_env;

    env.leave = note_leave;
    env.flags = WEIR_ENV_PUTS_OFF | WEIR_ENV_HAS_COPIES;
    asked_back = -1;
    tame_register();
    cr_assert_eq(weir_backend_open("spread(tame:0" SIZE ", tame:1" SIZE ")?rebuild_bytes_per_s=4M",
                                   &env, &subject),
                 WEIR_OK);
    fill(CLUSTERS + 2);
    cr_assert_gt(pieces_at(1), 1);
    tame_ask_back(1, true);
    tame[1].is_away = true;
    usleep(2000000);
    tame[1].refuses = true;
    tame[1].is_away = false;
    EVENTUALLY(tame_open_count(1) == 0);
    cr_expect_eq(asked_back, -1);
    expect_filled(CLUSTERS + 2);
    kit_close(subject);
}

/* --- Taken off -------------------------------------------------------------------------------- */

static _Atomic(bool) is_over;

static void *keep_busy(void *context)
{
    struct weir_channel *channel = kit_channel(subject, 4);
    uint32_t *rounds = context;

    for (; !is_over; ++*rounds)
        for (uint32_t c = 0; c < CLUSTERS; c++) {
            cr_assert_eq(kit_write(channel, c * WEIR_CLUSTER_SLOTS + 8, 8, fill_of(c), NULL),
                         WEIR_OK);
            cr_assert(kit_holds(subject, c * WEIR_CLUSTER_SLOTS, 32, fill_of(c)));
        }
    subject->ops->channel_close(channel);
    return NULL;
}

/* One after the other is replaced, more often than there can be members, while pages move. */
Test(array_leave, members_are_replaced_one_by_one, .timeout = 240)
{
    pthread_t thread;
    uint32_t rounds = 0;

    subject = tame_open_array("mirror(tame:0" SIZE ", tame:1" SIZE ", tame:2" SIZE ")?" OPTIONS);
    fill(CLUSTERS);
    cr_assert_eq(pthread_create(&thread, NULL, keep_busy, &rounds), 0);
    for (uint32_t i = 0; i < 18; i++) {
        const uint32_t old = i % 4, next = (i + 3) % 4;

        cr_assert_eq(subject->ops->extend(subject, kit_text("tame:%u" SIZE, next), 0), WEIR_OK,
                     "%s", kit_told.text);
        cr_assert_eq(subject->ops->retire(subject, kit_text("tame:%u", old)), WEIR_OK, "%s",
                     kit_told.text);
        EVENTUALLY(tame_open_count(old) == 0 && array()->vacant);
    }
    is_over = true;
    pthread_join(thread, NULL);
    cr_expect_gt(rounds, 0);
    cr_expect_leq(array()->members, 4);
    cr_expect_eq(array()->map.lost, 0);
    expect_filled(CLUSTERS);
    kit_close(subject);
}

Test(array_leave, what_cannot_be_taken_off, .timeout = 60)
{
    subject = tame_open_array("mirror(tame:0" SIZE ", tame:1" SIZE ", tame:2" SIZE ")?" OPTIONS);
    cr_expect_eq(subject->ops->retire(subject, "tame:7"), WEIR_ENOENT);
    cr_expect(kit_has_heard("there is no such member"));
    cr_expect_eq(subject->ops->retire(subject, "tame:2" SIZE), WEIR_OK);
    cr_expect_eq(subject->ops->retire(subject, "tame:2" SIZE), WEIR_ENOENT, "once");
    cr_expect_eq(subject->ops->retire(subject, "tame:1"), WEIR_EFULL);
    cr_expect(kit_has_heard("the others are too few"));
    EVENTUALLY(tame_open_count(2) == 0);
    kit_close(subject);
}

/* One that has never answered is simply forgotten. */
Test(array_leave, who_was_never_there, .timeout = 60)
{
    tame[2].refuses = true;
    subject = tame_open_array("mirror(tame:0" SIZE ", tame:1" SIZE ", tame:2" SIZE ")?" OPTIONS);
    fill(CLUSTERS);
    cr_expect_eq(subject->ops->retire(subject, "tame:2"), WEIR_OK);
    EVENTUALLY(array()->vacant == 1u << 2);
    cr_expect(kit_has_heard("tame:2 is no member any more"), "%s", kit_told.text);
    expect_filled(CLUSTERS);
    kit_close(subject);
}

/* It is taken off because nothing can be written there any more. */
Test(array_leave, who_refuses_writes, .timeout = 120)
{
    struct weir_channel *channel;

    subject = tame_open_array("mirror(tame:0" SIZE ", tame:1" SIZE ", tame:2" SIZE ")?" OPTIONS);
    fill(CLUSTERS);
    channel = kit_channel(subject, 4);
    tame[1].is_full = true;
    for (uint32_t c = 0; c < CLUSTERS; c++)
        cr_assert_eq(kit_write(channel, c * WEIR_CLUSTER_SLOTS + 8, 8, fill_of(c), NULL), WEIR_OK);
    subject->ops->channel_close(channel);
    cr_expect_eq(subject->ops->retire(subject, "tame:1"), WEIR_OK);
    EVENTUALLY(tame_open_count(1) == 0);
    EVENTUALLY(tame_missing(subject) == 0);
    expect_filled(CLUSTERS);
    kit_close(subject);
}

/* It comes back empty while it is taken off: neither of its lives is left open. */
Test(array_leave, who_has_lost_everything_meanwhile, .timeout = 120)
{
    subject = tame_open_array("mirror(tame:0" SIZE ", tame:1" SIZE ", tame:2" SIZE ")?" OPTIONS);
    fill(CLUSTERS);
    tame_kill(1);
    EVENTUALLY(array()->map.member[1].life == 1 && !array()->map.member[1].is_up);
    cr_expect_eq(subject->ops->retire(subject, "tame:1"), WEIR_OK);
    EVENTUALLY(array()->vacant == 1u << 1);
    cr_expect_eq(tame_open_count(1), 0);
    EVENTUALLY(tame_missing(subject) == 0);
    expect_filled(CLUSTERS);
    cr_assert_eq(subject->ops->extend(subject, "tame:3" SIZE, 0), WEIR_OK);
    EVENTUALLY(pieces_at(1) > 0);
    kit_close(subject);
}
