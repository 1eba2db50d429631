/* SPDX-License-Identifier: MIT */

/*
 * rdma: clients that want what is not theirs, or is theirs no longer: without the key, without a
 * lease, with the address and the key of another's memory, with a queue pair that was replaced,
 * after the end of their lease. In a machine with a device (./dev vm).
 */

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/rdma_kit.h"

/* --- Who has the key, and wants more ---------------------------------------------------------- */

static struct wr_rdma_queue *queue_of(struct weir_backend *backend)
{
    return ((struct wr_tcp *)backend)->seats[0].line.queue;
}

/* Who has the key and a lease asks for the memory of another, by its own address and key, and for
 * what lies behind its own; first by reading, then by writing. */
Test(rdma_hostile, nobody_reaches_the_memory_of_another, .timeout = 240)
{
    struct weir_backend *victim = rdma_open_both();
    struct weir_backend *liar = kit_open(rdma_spec(memd_port(rdma_memd, 0), RDMA_OPTIONS), WEIR_OK);
    struct weir_channel *channel = kit_channel(victim, 4), *other = kit_channel(liar, 4);
    const struct wr_rdma_queue theirs = *queue_of(victim);
    struct wr_seat *seat = &((struct wr_tcp *)liar)->seats[0];

    cr_assert_eq(kit_write(channel, 0, 16, 'v', NULL), WEIR_OK);
    cr_assert_eq(kit_write(other, 0, 16, 'l', NULL), WEIR_OK);
    for (int way = 0; way < 6; way++) {
        struct wr_rdma_queue *queue = queue_of(liar);
        const uint64_t slot = way % 3 == 2 ? RDMA_SLOTS : 0;

        if (way % 3 < 2)
            queue->base = theirs.base;
        if (way % 3 < 1)
            queue->key = theirs.key;
        rdma_fill(queue, 0, '!');
        cr_expect_not(rdma_comes_to_pass(queue, slot, way >= 3), "way %d", way);
        cr_expect(rdma_has_filled(queue, '!'), "way %d", way);
        /* Whoever sits there next finds it broken, and the keeper brings another. */
        cr_expect(kit_holds(liar, 3, 1, 'l'), "way %d", way);
        for (int i = 0; i < 3000 && atomic_load(&seat->state) != WR_SEAT_FREE; i++)
            usleep(10000);
    }
    cr_expect(kit_holds(victim, 0, 16, 'v'));
    channel->backend->ops->channel_close(channel);
    other->backend->ops->channel_close(other);
    kit_close(liar);
    kit_close(victim);
    memd_close(rdma_memd);
}

/* --- Who shows a token that is none ----------------------------------------------------------- */

static struct rdma_cm_event *next_event(const struct wr_verbs *verbs,
                                        struct rdma_event_channel *events)
{
    struct pollfd wait = {.fd = events->fd, .events = POLLIN};
    struct rdma_cm_event *event;

    cr_assert_eq(poll(&wait, 1, 60000), 1, "a queue pair that knocks has no answer");
    cr_assert_eq(verbs->get_cm_event(events, &event), 0);
    return event;
}

static enum rdma_cm_event_type next_type(const struct wr_verbs *verbs,
                                         struct rdma_event_channel *events)
{
    struct rdma_cm_event *event = next_event(verbs, events);
    const enum rdma_cm_event_type type = event->event;

    verbs->ack_cm_event(event);
    return type;
}

/* Is a queue pair that shows this let in at the port? */
static bool is_let_in(uint16_t port, const void *token, uint8_t bytes)
{
    char why[WR_VERBS_WHY];
    const struct wr_verbs *verbs = wr_verbs_load(why);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct ibv_qp_init_attr how = {
        .cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC};
    struct rdma_conn_param asked = {.private_data = token, .private_data_len = bytes};
    struct rdma_event_channel *events = verbs->create_event_channel();
    enum rdma_cm_event_type type;
    struct rdma_cm_id *id;

    cr_assert_eq(inet_pton(AF_INET, rdma_address(), &to.sin_addr), 1);
    cr_assert_eq(verbs->create_id(events, &id, NULL, RDMA_PS_TCP), 0);
    cr_assert_eq(verbs->resolve_addr(id, NULL, (struct sockaddr *)&to, 10000), 0);
    cr_assert_eq(next_type(verbs, events), RDMA_CM_EVENT_ADDR_RESOLVED);
    cr_assert_eq(verbs->resolve_route(id, 10000), 0);
    cr_assert_eq(next_type(verbs, events), RDMA_CM_EVENT_ROUTE_RESOLVED);
    cr_assert_eq(verbs->create_qp(id, NULL, &how), 0);
    cr_assert_eq(verbs->connect(id, &asked), 0);
    type = next_type(verbs, events);
    cr_expect(type == RDMA_CM_EVENT_ESTABLISHED || type == RDMA_CM_EVENT_REJECTED, "%s",
              verbs->event_str(type));
    verbs->destroy_qp(id);
    verbs->destroy_id(id);
    verbs->destroy_event_channel(events);
    return type == RDMA_CM_EVENT_ESTABLISHED;
}

static bool tells_nothing(struct wr_message answer)
{
    return answer.type == WR_MESSAGE_REFUSED && answer.slot == 0 && answer.pages == 0 &&
           answer.count == 0;
}

static bool has_no_connection(void *context)
{
    struct memd_gauges gauges;

    (void)context;
    memd_measure(rdma_memd, &gauges);
    return gauges.connections == 0;
}

/* Each step of the way in is refused to who has not gone the one before. */
Test(rdma_hostile, nobody_is_let_in_or_told_before_he_has_proven_all, .timeout = 240)
{
    uint8_t token[WR_TOKEN_BYTES] = {0};
    const char *other_key;
    struct guest *guest;
    uint16_t port;

    rdma_serve(64 << 20, 60000);
    port = memd_port(rdma_memd, 0);
    other_key = kit_text("%s/other", kit_directory());
    kit_put_file(other_key, "another key, and as long as one has to be", 41);
    kit_open(kit_text("rdma://%s:%u?key=%s", rdma_address(), port, other_key), WEIR_EDENIED);

    guest = guest_come(port); /* has the key, and no lease */
    cr_expect(tells_nothing(guest_ask(guest, WR_MESSAGE_JOIN, 0)));
    cr_expect(tells_nothing(guest_ask(guest, WR_MESSAGE_LOCATE, 0)));
    cr_expect_not(is_let_in(port, NULL, 0), "without a token");
    cr_expect_not(is_let_in(port, token, sizeof(token)), "with one of zeros");
    wr_session_token(&guest->line.session, true, token);
    cr_expect_not(is_let_in(port, token, sizeof(token)), "without having asked");

    guest_borrow(guest, 1);
    cr_expect(tells_nothing(guest_ask(guest, WR_MESSAGE_LOCATE, 0)));
    cr_expect_not(is_let_in(port, token, sizeof(token)), "without having asked");
    cr_expect_eq(guest_ask(guest, WR_MESSAGE_JOIN, 0).type, WR_MESSAGE_JOINED);
    cr_expect(tells_nothing(guest_ask(guest, WR_MESSAGE_LOCATE, 0)), "it has not come yet");
    cr_expect(tells_nothing(guest_ask(guest, WR_MESSAGE_JOIN, 0)), "one for a line");
    token[0] ^= 1;
    cr_expect_not(is_let_in(port, token, sizeof(token)), "a bit is wrong");
    token[0] ^= 1;
    cr_expect_not(is_let_in(port, token, sizeof(token) - 1), "a byte is missing");
    cr_expect(is_let_in(port, token, sizeof(token)));
    cr_expect_not(is_let_in(port, token, sizeof(token)), "it is good for once");
    guest_leave(guest);

    guest = guest_come(port); /* asks, and hangs up */
    guest_borrow(guest, 1);
    cr_expect_eq(guest_ask(guest, WR_MESSAGE_JOIN, 0).type, WR_MESSAGE_JOINED);
    wr_session_token(&guest->line.session, true, token);
    guest_leave(guest);
    cr_assert(rdma_is_soon(has_no_connection, NULL));
    cr_expect_not(is_let_in(port, token, sizeof(token)), "its line has ended");
    cr_expect(strstr(rdma_log, "a queue pair was not let in"), "%s", rdma_log);
    memd_close(rdma_memd);
}

/* --- What is theirs no longer ----------------------------------------------------------------- */

/* Over, and its users gone: until then the memory is lent to nobody else. */
static bool has_lent_nothing(void *context)
{
    struct memd_gauges gauges;

    (void)context;
    memd_measure(rdma_memd, &gauges);
    return gauges.lent_bytes == 0;
}

static bool has_pinned(void *bytes)
{
    return rdma_pinned_bytes() == *(const uint64_t *)bytes;
}

/* A client goes silent, whose queue pairs stay. After the lease they reach nothing; no device has
 * that memory any more; and who borrows it next finds zeros there. */
Test(rdma_hostile, a_lease_that_is_over_is_out_of_reach, .timeout = 240)
{
    struct guest *guest, *second, *next;
    uint64_t pinned, with_queues;
    uint16_t port;

    rdma_serve(RDMA_BYTES, 5000);
    port = memd_port(rdma_memd, 0);
    pinned = rdma_pinned_bytes();
    guest = guest_come(port);
    guest_borrow(guest, 1);
    second = guest_again(guest, port, 2);
    guest_join(guest, 1);
    guest_join(second, 1);
    for (uint32_t slot = 0; slot < RDMA_SLOTS; slot += 97) {
        rdma_fill(guest->line.queue, 0, 'o');
        cr_assert(rdma_comes_to_pass(guest->line.queue, slot, true));
        rdma_fill(second->line.queue, 0, '!');
        cr_assert(rdma_comes_to_pass(second->line.queue, slot, false));
        cr_assert(rdma_has_filled(second->line.queue, 'o'));
        (void)guest_ask(guest, WR_MESSAGE_RENEW, 0);
    }
    with_queues = pinned + 2 * WR_RDMA_PLACE_BYTES;
    cr_expect_eq(rdma_pinned_bytes(), with_queues + RDMA_BYTES);

    cr_assert(rdma_is_soon(has_lent_nothing, NULL), "%s", rdma_log);
    rdma_fill(second->line.queue, 0, '!');
    cr_expect_not(rdma_comes_to_pass(second->line.queue, 0, false), "it was read");
    cr_expect(rdma_has_filled(second->line.queue, '!'));
    cr_expect_not(rdma_comes_to_pass(guest->line.queue, 0, true), "it was written");
    cr_expect(rdma_is_soon(has_pinned, &with_queues), "a device has the memory still");

    next = guest_come(port);
    guest_borrow(next, 1);
    guest_join(next, 1);
    for (uint32_t slot = 0; slot < RDMA_SLOTS; slot += 97) {
        rdma_fill(next->line.queue, 0, '!');
        cr_assert(rdma_comes_to_pass(next->line.queue, slot, false));
        cr_expect(rdma_has_filled(next->line.queue, 0), "slot %u is not zero", slot);
        (void)guest_ask(next, WR_MESSAGE_RENEW, 0);
    }
    guest_leave(next);
    guest_leave(second);
    guest_leave(guest);
    memd_close(rdma_memd);
}

/* All places are on their way into the slots, eight pages each. */
static void write_all(struct wr_rdma_queue *queue, int fill)
{
    struct wr_rdma_work works[WR_RDMA_PLACES];

    for (uint32_t i = 0; i < queue->sizes.places; i++) {
        rdma_fill(queue, i, fill);
        works[i] = (struct wr_rdma_work){.number = i,
                                         .slot = i * WR_RDMA_PLACE_PAGES,
                                         .place = i,
                                         .pages = WR_RDMA_PLACE_PAGES,
                                         .is_write = true,
                                         .is_signalled = true};
    }
    for (uint32_t i = 0; i < queue->sizes.places; i += WR_RDMA_BATCH)
        cr_assert(wr_rdma_post(queue, &works[i], WR_RDMA_BATCH));
}

static void await_all(struct wr_rdma_queue *queue)
{
    for (uint32_t done = 0; done < queue->sizes.places;) {
        uint64_t number;
        const int count = wr_rdma_take(queue, &number);

        cr_assert_geq(count, 0);
        done += (uint32_t)count;
    }
}

/* The law that all of rdma stands on: who is welcomed as a line need not fear anything of the one
 * that had its number, even if that one is in the midst of it. */
Test(rdma_hostile, an_old_queue_pair_is_dead_before_the_next_line_is_welcomed, .timeout = 240)
{
    struct guest *guest, *next;
    uint16_t port;

    rdma_serve(RDMA_BYTES, 60000);
    port = memd_port(rdma_memd, 0);
    guest = guest_come(port);
    guest_borrow(guest, 5);
    guest_join(guest, WR_RDMA_PLACES);
    for (uint32_t round = 0; round < 8; round++) {
        write_all(guest->line.queue, 'o');
        next = guest_again(guest, port, 5); /* welcomed: */
        guest_join(next, WR_RDMA_PLACES);
        write_all(next->line.queue, 'n');
        await_all(next->line.queue);
        usleep(100000);
        for (uint32_t slot = 0; slot < WR_RDMA_PLACES * WR_RDMA_PLACE_PAGES; slot += 7) {
            rdma_fill(next->line.queue, 0, '!');
            cr_assert(rdma_comes_to_pass(next->line.queue, slot, false));
            cr_assert(rdma_has_filled(next->line.queue, 'n'), "round %u, slot %u", round, slot);
        }
        guest_leave(guest);
        guest = next;
    }
    next = guest_again(guest, port, 5);
    cr_expect_not(rdma_comes_to_pass(guest->line.queue, 0, true), "it was idle, and lives");
    guest_leave(guest);
    guest_leave(next);
    memd_close(rdma_memd);
}
