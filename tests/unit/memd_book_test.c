/* SPDX-License-Identifier: MIT */

/* The book of a memory server by itself: the clock is the test's, and there is no keeper. */

#include <criterion/criterion.h>
#include <string.h>

#include "transport/memd/book.h"
#include "transport/memd/clock.h"

#define MIB      ((uint64_t)1 << 20)
#define LEASE_MS 8000u

static struct memd_book book;
static struct memd_log quiet;
static const struct memd_client client = {.name = "one", .who = "one"};
static unsigned rings;

static void ring(void *context)
{
    (void)context;
    rings++;
}

static void begin(void)
{
    const struct memd_limits limits = {64 * MIB, 0, LEASE_MS, 0};

    cr_assert(wr_session_begin());
    memd_log_open(&quiet, NULL, NULL);
    cr_assert(memd_book_open(&book, &limits, NULL, &quiet));
    book.bell = ring;
}

static struct memd_lease *lend(void)
{
    struct memd_lease *lease = NULL;

    cr_assert_eq(memd_book_lend(&book, &client, 512, &lease), WEIR_OK);
    return lease;
}

/* A connection of its own for the line of this number; its turn. */
static uint32_t join(struct memd_lease *lease, uint32_t number)
{
    uint32_t turn;

    cr_assert_eq(memd_book_attach(&book, &client, lease->name), lease);
    turn = memd_line_take(lease, number);
    memd_book_take_place(&book, lease, number, turn);
    memd_line_leave(lease, number);
    return turn;
}

static void leave(struct memd_lease *lease, uint32_t number, uint32_t turn)
{
    (void)memd_book_put_place(&book, lease, number, turn);
    memd_book_leave(&book, lease);
    memd_book_dismiss(&book, MEMD_ADMITTED);
}

static uint32_t admitted(const struct memd_client *who)
{
    uint32_t count = 0;

    while (memd_book_admit(&book, who) == MEMD_ADMITTED)
        count++;
    return count;
}

/* Look as often as the keeper would, until then. */
static uint64_t look_until(uint64_t from_ms, uint64_t until_ms)
{
    while (from_ms < until_ms)
        from_ms = memd_book_expire(&book, from_ms);
    return from_ms;
}

Test(memd_book, silence_is_counted_by_the_lease)
{
    struct memd_lease *lease;
    uint64_t now_ms = memd_now_ms();

    begin();
    lease = lend();
    memd_lease_heard(lease, now_ms);
    (void)look_until(now_ms, now_ms + LEASE_MS);
    cr_expect(memd_lease_is_lent(lease));
    (void)look_until(now_ms + LEASE_MS, now_ms + LEASE_MS + 2);
    cr_expect_not(memd_lease_is_lent(lease), "a moment later");
    cr_expect_eq(rings, 1, "its users are told");
    cr_expect_not(memd_book_reap(&book), "but there is one still");
    cr_expect_eq(book.lent_slots, 512);
    memd_book_leave(&book, lease);
    cr_expect(memd_book_reap(&book));
    cr_expect_eq(book.lent_slots, 0);
    memd_book_close(&book);
}

/* As when a device takes all of its memory. */
Test(memd_book, who_is_worked_for_is_not_silent)
{
    struct memd_lease *lease;
    uint64_t now_ms = memd_now_ms();

    begin();
    lease = lend();
    memd_lease_heard(lease, now_ms);
    atomic_store(&lease->is_busy, true);
    now_ms = look_until(now_ms, now_ms + 3 * LEASE_MS);
    cr_expect(memd_lease_is_lent(lease));
    memd_lease_heard(lease, now_ms);
    atomic_store(&lease->is_busy, false);
    (void)look_until(now_ms, now_ms + LEASE_MS + 2);
    cr_expect_not(memd_lease_is_lent(lease));
    memd_book_leave(&book, lease);
    memd_book_close(&book);
}

Test(memd_book, time_in_which_the_server_stood_still_is_nobodys_silence)
{
    struct memd_lease *lease;
    uint64_t now_ms = memd_now_ms();

    begin();
    lease = lend();
    memd_lease_heard(lease, now_ms);
    now_ms = look_until(now_ms, now_ms + LEASE_MS / 2);
    now_ms = memd_book_expire(&book, now_ms + 10 * LEASE_MS);
    cr_expect(memd_lease_is_lent(lease), "it was stopped for ten leases");
    now_ms = look_until(now_ms, now_ms + LEASE_MS + 2);
    cr_expect_not(memd_lease_is_lent(lease), "and then the client was silent for one");
    memd_book_leave(&book, lease);
    memd_book_close(&book);
}

Test(memd_book, who_returned_learns_when_it_is_gone)
{
    struct memd_lease *lease, *other;

    begin();
    lease = lend();
    cr_assert_eq(memd_book_attach(&book, &client, lease->name), lease);
    memd_book_return(&book, lease);
    cr_expect_not(memd_lease_is_lent(lease));
    cr_expect_not(memd_book_reap(&book), "the other user may be in it");
    memd_book_leave(&book, lease);
    cr_expect(memd_book_reap(&book));
    cr_expect(memd_lease_is_gone(lease));
    other = lend();
    cr_expect_neq(other, lease, "its entry waits for the watcher");
    memd_book_unwatch(&book, lease);
    cr_expect_eq(lend(), lease, "and then no longer");
    memd_book_leave(&book, other);
    memd_book_leave(&book, lease);
    memd_book_close(&book);
}

Test(memd_book, entries_and_connections_are_bounded)
{
    struct memd_lease *lease = NULL;
    const struct memd_limits limits = {1024 * MIB, 0, LEASE_MS, 0};

    begin();
    memd_book_tune(&book, &limits);
    for (uint32_t i = 0; i < MEMD_LEASES; i++)
        lease = lend();
    cr_expect_eq(memd_book_lend(&book, &client, 1, &lease), WEIR_EBUSY, "256 leases");
    cr_expect_eq(admitted(&client), MEMD_CONNECTIONS);
    memd_book_dismiss(&book, MEMD_ADMITTED);
    cr_expect_eq(memd_book_admit(&book, &client), MEMD_ADMITTED);
    for (uint32_t i = 0; i < MEMD_LEASES; i++)
        memd_book_leave(&book, &book.leases[i]);
    memd_book_close(&book);
    cr_expect_eq(book.lent_slots, 0);
}

static const struct memd_client stranger = {.name = "two", .who = "two"};

/* A small server, and a client with a lease and lines of the numbers 0, 1 and 2, in their first
 * turn. */
static struct memd_lease *begin_small(void)
{
    const struct memd_limits limits = {64 * MIB, 0, LEASE_MS, 0};
    const struct memd_room room = {.connections = 8, .leases = 1};
    struct memd_lease *lease;

    cr_assert(wr_session_begin());
    memd_log_open(&quiet, NULL, NULL);
    cr_assert(memd_book_open(&book, &limits, &room, &quiet));
    cr_assert_eq(memd_book_admit(&book, &client), MEMD_ADMITTED);
    lease = lend();
    memd_book_take_place(&book, lease, 0, memd_line_take(lease, 0));
    memd_line_leave(lease, 0);
    for (uint32_t number = 1; number < 3; number++) {
        cr_assert_eq(memd_book_admit(&book, &client), MEMD_ADMITTED);
        cr_assert_eq(join(lease, number), 1);
    }
    return lease;
}

/* A client whose connections broke finds room for them, whoever else wants it. */
Test(memd_book, places_of_broken_connections_are_kept)
{
    struct memd_lease *lease = begin_small(), *other;

    cr_expect_eq(memd_book_lend(&book, &stranger, 1, &other), WEIR_EBUSY, "one lease");
    leave(lease, 1, 1);
    leave(lease, 2, 1);
    cr_expect_eq(admitted(&stranger), 5, "two are kept");
    for (uint32_t number = 1; number < 3; number++) {
        cr_expect_eq(memd_book_admit(&book, &client), MEMD_ADMITTED, "for him");
        cr_expect_eq(join(lease, number), 2);
    }
    cr_expect_neq(memd_book_admit(&book, &client), MEMD_ADMITTED, "and no more");
    leave(lease, 0, 1);
    leave(lease, 1, 2);
    leave(lease, 2, 2);
    cr_expect_eq(memd_book_admit(&book, &stranger), MEMD_TURNED_AWAY);
    cr_expect_gt(look_until(memd_now_ms(), memd_now_ms() + 2 * LEASE_MS), 0);
    cr_expect_not(memd_lease_is_lent(lease));
    cr_expect_eq(memd_book_admit(&book, &stranger), MEMD_ADMITTED, "while the lease lasts");
    memd_book_close(&book);
}

/* What broke and has not ended yet has no place beside that of the line in its stead. */
Test(memd_book, an_outage_makes_no_more_places)
{
    struct memd_lease *lease = begin_small();

    for (uint32_t number = 0; number < 3; number++) {
        cr_assert_eq(memd_book_admit(&book, &client), MEMD_ADMITTED);
        cr_expect_eq(join(lease, number), 2);
    }
    cr_expect_eq(lease->places_most, 3, "%u", lease->places_most);
    for (uint32_t number = 0; number < 3; number++)
        leave(lease, number, 1); /* long after */
    cr_expect_eq(lease->places, 3);
    cr_expect_eq(admitted(&stranger), 5, "as many as before");
    for (uint32_t number = 0; number < 3; number++)
        leave(lease, number, 2);
    cr_expect_eq(admitted(&stranger), 0, "three are kept");
    memd_book_close(&book);
}

/* He may take the number of a line that the server does not know to be dead, and no other. */
Test(memd_book, who_has_lines_is_a_guest_where_there_is_no_room)
{
    struct memd_lease *lease = begin_small();

    cr_expect_eq(admitted(&stranger), 5);
    for (uint32_t i = 0; i < MEMD_GUESTS; i++)
        cr_expect_eq(memd_book_admit(&book, &client), MEMD_GUEST);
    cr_expect_eq(memd_book_admit(&book, &client), MEMD_TURNED_AWAY, "enough of them");
    cr_expect_eq(atomic_load(&book.connections), 8, "guests are none");
    cr_expect(memd_book_has_line(&book, lease, 2));
    cr_expect_not(memd_book_has_line(&book, lease, 3));
    cr_assert_eq(join(lease, 2), 2);
    memd_book_settle(&book);
    cr_expect_eq(atomic_load(&book.connections), 9, "until the one before ends");
    cr_expect_eq(memd_book_admit(&book, &client), MEMD_GUEST, "one was one no longer");
    leave(lease, 2, 1);
    cr_expect(memd_book_has_line(&book, lease, 2));
    for (uint32_t i = 0; i < MEMD_GUESTS; i++)
        memd_book_dismiss(&book, MEMD_GUEST);
    cr_expect_eq(book.guests, 0);
    cr_expect_eq(atomic_load(&book.connections), 8);
    leave(lease, 2, 2);
    leave(lease, 1, 1);
    leave(lease, 0, 1);
    cr_expect_eq(memd_book_admit(&book, &client), MEMD_ADMITTED, "his places are kept");
    memd_book_close(&book);
}

/* Places that are kept for others are not had by guests. */
Test(memd_book, guests_take_no_room)
{
    struct memd_lease *lease = begin_small();

    cr_expect_eq(admitted(&stranger), 5);
    for (uint32_t i = 0; i < MEMD_GUESTS; i++)
        cr_expect_eq(memd_book_admit(&book, &client), MEMD_GUEST);
    cr_expect_not(memd_book_readmit(&book, &client));
    memd_book_dismiss(&book, MEMD_ADMITTED); /* a stranger */
    cr_expect_eq(memd_book_admit(&book, &stranger), MEMD_ADMITTED);
    leave(lease, 2, 1);
    cr_expect_eq(memd_book_admit(&book, &client), MEMD_ADMITTED);
    memd_book_dismiss(&book, MEMD_ADMITTED);
    cr_expect(memd_book_readmit(&book, &client), "there is room by now");
    cr_expect_not(memd_book_readmit(&book, &client), "for one");
    cr_expect_eq(atomic_load(&book.connections), 8);
    cr_expect_eq(book.guests, MEMD_GUESTS - 1);
    memd_book_close(&book);
}

/* Who holds a lease, as a device does while it takes its memory, is no connection. */
Test(memd_book, a_hold_takes_no_place_from_others)
{
    struct memd_lease *lease;

    begin();
    cr_assert_eq(memd_book_admit(&book, &client), MEMD_ADMITTED);
    lease = lend();
    memd_book_hold(&book, lease);
    cr_expect_eq(memd_book_admit(&book, &stranger), MEMD_ADMITTED);
    memd_book_leave(&book, lease);
    cr_expect_eq(memd_book_admit(&book, &stranger), MEMD_ADMITTED);
    memd_book_leave(&book, lease);
    memd_book_close(&book);
}

Test(memd_book, memory_begins_on_a_huge_page)
{
    struct memd_lease *lease;

    begin();
    for (unsigned i = 0; i < 5; i++) {
        lease = lend();
        cr_expect_eq((uintptr_t)lease->memory % (2 * MIB), 0);
        memd_book_leave(&book, lease);
    }
    memd_book_close(&book);
}

/* Who severs a line rings for the one who had it, if there is one. */
Test(memd_book, who_puts_a_place_learns_whether_it_was_had)
{
    struct memd_lease *lease = begin_small();

    cr_expect_not(memd_book_put_place(&book, lease, 7, memd_line_take(lease, 7)));
    cr_expect(memd_book_put_place(&book, lease, 1, memd_line_take(lease, 1)));
    cr_expect_not(memd_book_put_place(&book, lease, 1, 2), "not twice");
    cr_assert_eq(memd_book_admit(&book, &client), MEMD_ADMITTED);
    cr_assert_eq(join(lease, 2), 2);
    cr_expect(memd_book_put_place(&book, lease, 2, 1), "by another");
    cr_expect_eq(lease->places, 2);
    memd_book_close(&book);
}
