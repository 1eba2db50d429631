/* SPDX-License-Identifier: MIT */

/* A memory server and those who mean well: leases, quotas, pages. */

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/memd_kit.h"

#define LONG_MS 60000u

static void pause_ms(unsigned ms)
{
    const struct timespec moment = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};

    nanosleep(&moment, NULL);
}

static bool is_lent(struct memd *memd, uint64_t bytes)
{
    for (unsigned tries = 0; tries < 500; tries++) {
        if (kit_gauges(memd).lent_bytes == bytes)
            return true;
        pause_ms(10);
    }
    return false;
}

Test(memd, a_lease_begins_and_ends)
{
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client client = kit_client(memd, "one");

    cr_assert_eq(kit_lease(&client, 1024), WEIR_OK);
    cr_expect_eq(client.slots, 1024);
    cr_expect_eq(client.lease_ms, LONG_MS);
    cr_expect_eq(kit_gauges(memd).lent_bytes, 4 * KIT_MIB);
    cr_expect_eq(kit_gauges(memd).leases, 1);
    cr_expect_eq(kit_lease(&client, 1), WEIR_EINVAL, "a second on the same connection");
    cr_assert_eq(kit_return(&client), WEIR_OK);
    cr_expect_eq(kit_gauges(memd).lent_bytes, 0, "given back before the answer");
    cr_expect_eq(kit_gauges(memd).leases, 0);
    cr_expect_eq(kit_return(&client), WEIR_EINVAL, "what is not lent");
    cr_expect_eq(kit_lease(&client, 0), WEIR_EINVAL);
    cr_assert_eq(kit_lease(&client, 1), WEIR_OK, "the connection is as good as before");
    cr_expect_eq(client.slots, WEIR_CLUSTER_SLOTS, "whole clusters are lent");
    kit_hang_up(&client);
    memd_close(memd);
}

Test(memd, never_more_than_there_is)
{
    struct memd *memd = kit_memd(8 * KIT_MIB, 0, LONG_MS);
    struct kit_client one = kit_client(memd, "one"), other = kit_client(memd, "other");

    cr_expect_eq(kit_lease(&one, 2049), WEIR_EFULL);
    cr_expect_eq(kit_lease(&one, UINT64_MAX), WEIR_EFULL);
    cr_expect_eq(kit_lease(&one, UINT64_MAX / 4096 + 2), WEIR_EFULL);
    cr_assert_eq(kit_lease(&one, 1536), WEIR_OK);
    cr_expect_eq(kit_lease(&other, 513), WEIR_EFULL);
    cr_assert_eq(kit_lease(&other, 512), WEIR_OK);
    cr_assert_eq(kit_return(&one), WEIR_OK);
    cr_expect_eq(kit_lease(&one, 1537), WEIR_EFULL);
    cr_assert_eq(kit_lease(&one, 1536), WEIR_OK);
    cr_expect_eq(kit_gauges(memd).lent_bytes, 8 * KIT_MIB);
    cr_expect_eq(kit_gauges(memd).refused, 5);
    memd_close(memd);
}

Test(memd, a_quota_is_a_clients_own)
{
    struct memd *memd = kit_memd(64 * KIT_MIB, 8 * KIT_MIB, LONG_MS);
    struct kit_client one = kit_client(memd, "one"), again = kit_client(memd, "one");
    struct kit_client other = kit_client(memd, "other");

    cr_expect_eq(kit_lease(&one, 2049), WEIR_EDENIED);
    cr_assert_eq(kit_lease(&one, 1024), WEIR_OK);
    cr_expect_eq(kit_lease(&again, 1025), WEIR_EDENIED, "by another connection of his");
    cr_assert_eq(kit_lease(&again, 1024), WEIR_OK);
    cr_assert_eq(kit_lease(&other, 2048), WEIR_OK, "not the other's matter");
    cr_expect(kit_was_told("one at 127.0.0.1"));
    cr_expect(kit_was_told("over the quota of one client"));
    memd_close(memd);
}

Test(memd, what_is_written_is_read)
{
    static unsigned char bytes[WR_MESSAGE_PAYLOAD];
    static const struct {
        uint64_t slot;
        uint32_t pages;
    } runs[] = {{0, 1}, {1, 1}, {2, 3}, {5, 512}, {517, 30}, {2047, 1}, {1536, 511}};
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client client = kit_client(memd, "one");

    cr_assert_eq(kit_lease(&client, 2048), WEIR_OK);
    cr_assert_eq(kit_read(&client, 7, 9, bytes), WEIR_OK);
    cr_expect(kit_is_zero(bytes, 9 * 4096), "before anything was written");
    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        kit_stamp(bytes, runs[i].slot, runs[i].pages, 1);
        cr_assert_eq(kit_write(&client, runs[i].slot, runs[i].pages, bytes), WEIR_OK);
    }
    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        memset(bytes, 0xee, sizeof(bytes));
        cr_assert_eq(kit_read(&client, runs[i].slot, runs[i].pages, bytes), WEIR_OK);
        cr_expect(kit_is_stamped(bytes, runs[i].slot, runs[i].pages, 1), "run %zu", i);
    }
    cr_assert_eq(kit_read(&client, 547, 4, bytes), WEIR_OK);
    cr_expect(kit_is_zero(bytes, 4 * 4096), "what lies between is as it was");
    cr_expect_eq(kit_gauges(memd).pages_written, 1 + 1 + 3 + 512 + 30 + 1 + 511);
    memd_close(memd);
}

Test(memd, what_is_discarded_is_zero)
{
    static unsigned char bytes[WR_MESSAGE_PAYLOAD];
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client client = kit_client(memd, "one");

    cr_assert_eq(kit_lease(&client, 1024), WEIR_OK);
    kit_stamp(bytes, 0, 512, 1);
    cr_assert_eq(kit_write(&client, 0, 512, bytes), WEIR_OK);
    cr_assert_eq(kit_discard(&client, 10, 100), WEIR_OK);
    cr_assert_eq(kit_read(&client, 0, 512, bytes), WEIR_OK);
    cr_expect(kit_is_stamped(bytes, 0, 10, 1));
    cr_expect(kit_is_zero(bytes + 10 * 4096, 100 * 4096));
    cr_expect(kit_is_stamped(bytes + 110 * 4096, 110, 402, 1));
    cr_assert_eq(kit_discard(&client, 0, 1024), WEIR_OK, "more than one message could move");
    cr_assert_eq(kit_read(&client, 0, 512, bytes), WEIR_OK);
    cr_expect(kit_is_zero(bytes, 512 * 4096));
    memd_close(memd);
}

Test(memd, what_lies_outside_is_refused)
{
    static unsigned char bytes[WR_MESSAGE_PAYLOAD];
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client client = kit_client(memd, "one");

    cr_expect_eq(kit_read(&client, 0, 1, bytes), WEIR_EINVAL, "without a lease");
    cr_expect_eq(kit_write(&client, 0, 512, bytes), WEIR_EINVAL);
    cr_expect_eq(kit_discard(&client, 0, 1), WEIR_EINVAL);
    cr_expect_eq(kit_renew(&client, NULL), WEIR_EINVAL);
    cr_assert_eq(kit_lease(&client, 1024), WEIR_OK);
    cr_expect_eq(kit_read(&client, 1024, 1, bytes), WEIR_EINVAL);
    cr_expect_eq(kit_read(&client, 1023, 2, bytes), WEIR_EINVAL);
    cr_expect_eq(kit_read(&client, UINT64_MAX - 512, 512, bytes), WEIR_EINVAL);
    cr_expect_eq(kit_write(&client, 1023, 2, bytes), WEIR_EINVAL);
    cr_expect_eq(kit_write(&client, 1024, 512, bytes), WEIR_EINVAL);
    cr_expect_eq(kit_write(&client, UINT64_MAX / 4096, 1, bytes), WEIR_EINVAL);
    cr_expect_eq(kit_discard(&client, 0, 1025), WEIR_EINVAL);
    cr_expect_eq(kit_discard(&client, 1, UINT64_MAX), WEIR_EINVAL);
    cr_expect_eq(kit_discard(&client, 5, 0), WEIR_EINVAL);
    kit_stamp(bytes, 1023, 1, 1);
    cr_assert_eq(kit_write(&client, 1023, 1, bytes), WEIR_OK, "and the connection is sound");
    cr_assert_eq(kit_read(&client, 1023, 1, bytes), WEIR_OK);
    cr_expect(kit_is_stamped(bytes, 1023, 1, 1));
    cr_expect_eq(kit_gauges(memd).unsound, 0);
    memd_close(memd);
}

Test(memd, many_connections_of_one_lease)
{
    static unsigned char bytes[4096];
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client owner = kit_client(memd, "one"), stranger = kit_client(memd, "other");
    struct kit_client more[8];

    cr_assert_eq(kit_lease(&owner, 512), WEIR_OK);
    for (uint32_t i = 0; i < 8; i++) {
        more[i] = kit_client(memd, "one");
        cr_assert_eq(kit_attach(&more[i], &owner), WEIR_OK);
        cr_expect_eq(more[i].slots, 512);
        kit_stamp(bytes, i, 1, i);
        cr_assert_eq(kit_write(&more[i], i, 1, bytes), WEIR_OK);
    }
    for (uint32_t i = 0; i < 8; i++) {
        cr_assert_eq(kit_read(&more[7 - i], i, 1, bytes), WEIR_OK);
        cr_expect(kit_is_stamped(bytes, i, 1, i));
    }
    cr_expect_eq(kit_attach(&stranger, &owner), WEIR_ENOENT, "another client's");
    owner.lease[3] ^= 1;
    kit_hang_up(&more[0]);
    more[0] = kit_client(memd, "one");
    cr_expect_eq(kit_attach(&more[0], &owner), WEIR_ENOENT, "nobody's");
    cr_assert_eq(kit_return(&owner), WEIR_OK);
    for (uint32_t i = 1; i < 8; i++)
        cr_expect(kit_is_closed(more[i].fd), "all others are closed");
    owner.lease[3] ^= 1;
    cr_expect_eq(kit_attach(&owner, &owner), WEIR_ENOENT, "it is over");
    memd_close(memd);
}

/* Whoever says it has another line of his lease ended, and no one else's, nor his own. */
Test(memd, a_line_is_severed_by_another)
{
    const struct wr_message sever = {.type = WR_MESSAGE_SEVER, .slot = 77};
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client owner = kit_client(memd, "one"), line = kit_client(memd, "one");
    struct kit_client stranger = kit_client(memd, "other");
    const struct wr_message attach = {
        .type = WR_MESSAGE_ATTACH, .length = sizeof(owner.lease), .slot = 77};
    uint16_t error = 0;

    cr_expect_eq(kit_ask(&owner, sever, NULL, &error), WR_MESSAGE_REFUSED, "it has no lease");
    cr_assert_eq(kit_lease(&owner, 512), WEIR_OK);
    cr_assert_eq(kit_lease(&stranger, 512), WEIR_OK);
    cr_assert_eq(kit_ask(&line, attach, owner.lease, &error), WR_MESSAGE_ATTACHED);
    cr_expect_eq(kit_ask(&stranger, sever, NULL, &error), WR_MESSAGE_SEVERED, "none of theirs");
    cr_expect_eq(kit_renew(&line, NULL), WEIR_OK);
    cr_expect_eq(kit_ask(&line, sever, NULL, &error), WR_MESSAGE_REFUSED, "its own");
    cr_expect_eq(error, -WEIR_EINVAL);
    cr_expect_eq(
        kit_ask(&owner, (struct wr_message){.type = WR_MESSAGE_SEVER, .slot = 256}, NULL, &error),
        WR_MESSAGE_REFUSED);
    cr_expect_eq(kit_ask(&owner, sever, NULL, &error), WR_MESSAGE_SEVERED);
    cr_expect(kit_is_closed(line.fd), "though it says nothing more");
    cr_expect_eq(kit_ask(&owner, sever, NULL, &error), WR_MESSAGE_SEVERED, "as often as you like");
    line = kit_client(memd, "one");
    cr_assert_eq(kit_ask(&line, attach, owner.lease, &error), WR_MESSAGE_ATTACHED);
    cr_expect_eq(kit_renew(&line, NULL), WEIR_OK);
    cr_expect_eq(kit_gauges(memd).unsound, 0);
    memd_close(memd);
}

Test(memd, a_lease_outlives_its_connections)
{
    static unsigned char bytes[4096];
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client owner = kit_client(memd, "one"), again;

    cr_assert_eq(kit_lease(&owner, 512), WEIR_OK);
    kit_stamp(bytes, 3, 1, 1);
    cr_assert_eq(kit_write(&owner, 3, 1, bytes), WEIR_OK);
    kit_hang_up(&owner);
    again = kit_client(memd, "one");
    cr_assert_eq(kit_attach(&again, &owner), WEIR_OK);
    cr_assert_eq(kit_read(&again, 3, 1, bytes), WEIR_OK);
    cr_expect(kit_is_stamped(bytes, 3, 1, 1));
    memd_close(memd);
}

Test(memd, silence_ends_a_lease_and_any_word_renews_it)
{
    static unsigned char bytes[4096];
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, 1500);
    struct kit_client silent = kit_client(memd, "silent"), alive = kit_client(memd, "alive");
    struct kit_client attached = kit_client(memd, "silent");

    cr_assert_eq(kit_lease(&silent, 512), WEIR_OK);
    cr_assert_eq(kit_attach(&attached, &silent), WEIR_OK);
    cr_assert_eq(kit_lease(&alive, 1024), WEIR_OK);
    for (unsigned i = 0; i < 1000 && kit_gauges(memd).expired == 0; i++) {
        pause_ms(50);
        cr_assert_eq(i % 2 ? kit_renew(&alive, NULL) : kit_read(&alive, 1, 1, bytes), WEIR_OK);
    }
    cr_expect(is_lent(memd, 4 * KIT_MIB));
    cr_expect(kit_is_closed(silent.fd));
    cr_expect(kit_is_closed(attached.fd));
    cr_expect(kit_was_told("nothing was heard of it for 1500 ms"));
    cr_expect_eq(kit_gauges(memd).expired, 1);
    kit_hang_up(&alive);
    cr_expect(is_lent(memd, 0), "and who is gone is silent");
    memd_close(memd);
}

Test(memd, what_is_lent_again_is_zero)
{
    static unsigned char bytes[WR_MESSAGE_PAYLOAD];
    struct memd *memd = kit_memd(4 * KIT_MIB, 0, LONG_MS);
    struct kit_client client = kit_client(memd, "one");

    for (unsigned round = 0; round < 5; round++) {
        cr_assert_eq(kit_lease(&client, 1024), WEIR_OK);
        for (uint64_t slot = 0; slot < 1024; slot += 512) {
            cr_assert_eq(kit_read(&client, slot, 512, bytes), WEIR_OK);
            cr_expect(kit_is_zero(bytes, sizeof(bytes)), "round %u", round);
            memset(bytes, 0xa5, sizeof(bytes));
            cr_assert_eq(kit_write(&client, slot, 512, bytes), WEIR_OK);
        }
        cr_assert_eq(kit_return(&client), WEIR_OK);
    }
    memd_close(memd);
}

/* --- The server wants memory back ------------------------------------------------------------ */

Test(memd, a_server_that_closes_asks_for_everything_back)
{
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client one = kit_client(memd, "one"), late = kit_client(memd, "late");
    uint32_t flags = 99;

    cr_assert_eq(kit_lease(&one, 512), WEIR_OK);
    cr_assert_eq(kit_renew(&one, &flags), WEIR_OK);
    cr_expect_eq(flags, 0);
    memd_drain(memd);
    cr_assert_eq(kit_renew(&one, &flags), WEIR_OK);
    cr_expect_eq(flags, WR_MESSAGE_ASKED_BACK);
    cr_expect_eq(kit_lease(&late, 512), WEIR_ESTOPPED);
    cr_assert_eq(kit_return(&one), WEIR_OK);
    cr_expect_eq(kit_gauges(memd).leases, 0);
    memd_close(memd);
}

Test(memd, limits_change_while_it_runs)
{
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client one = kit_client(memd, "one"), other = kit_client(memd, "other");
    uint32_t flags = 99;

    cr_assert_eq(kit_lease(&one, 4096), WEIR_OK);
    memd_tune(memd, &(struct memd_limits){8 * KIT_MIB, 0, 77000, 0});
    cr_assert_eq(kit_renew(&one, &flags), WEIR_OK);
    cr_expect_eq(flags, WR_MESSAGE_ASKED_BACK, "more is lent than there is");
    cr_expect_eq(one.lease_ms, 77000);
    cr_expect_eq(kit_lease(&other, 1), WEIR_EFULL);
    memd_tune(memd, &(struct memd_limits){32 * KIT_MIB, 2 * KIT_MIB, 77000, 0});
    cr_assert_eq(kit_renew(&one, &flags), WEIR_OK);
    cr_expect_eq(flags, 0);
    cr_expect_eq(kit_lease(&other, 513), WEIR_EDENIED);
    cr_expect_eq(kit_lease(&other, 512), WEIR_OK);
    memd_close(memd);
}

Test(memd, a_machine_short_of_memory_lends_none)
{
    const char *const listen[] = {"tcp://127.0.0.1:0"};
    struct memd_options options = {.listen = listen,
                                   .listen_count = 1,
                                   .limits = {64 * KIT_MIB, 0, LONG_MS, 100},
                                   .threads = 1};
    struct memd *memd;
    struct kit_client client;

    /* No machine has all of its memory free. */
    cr_assert_eq(kit_memd_with(&options, &memd), WEIR_OK);
    client = kit_client(memd, "one");
    cr_expect(kit_was_told("less than 100 %"));
    cr_expect_eq(kit_lease(&client, 512), WEIR_EFULL);
    cr_expect(kit_gauges(memd).is_asking_back);
    memd_tune(memd, &(struct memd_limits){64 * KIT_MIB, 0, LONG_MS, 0});
    cr_expect(kit_was_told("lends again"));
    cr_expect_eq(kit_lease(&client, 512), WEIR_OK);
    memd_close(memd);
}

/* --- All at once ----------------------------------------------------------------------------- */

#define PIPELINED 40u

Test(memd, many_requests_before_the_first_answer)
{
    static unsigned char bytes[PIPELINED][4096], back[WR_MESSAGE_PAYLOAD];
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client client = kit_client(memd, "one");
    struct wr_message answer;

    cr_assert_eq(kit_lease(&client, 512), WEIR_OK);
    for (uint32_t i = 0; i < PIPELINED; i++) {
        kit_stamp(bytes[i], i, 1, 1);
        kit_say(&client,
                (struct wr_message){
                    .type = WR_MESSAGE_WRITE, .id = i, .slot = i, .pages = 1, .length = 4096},
                bytes[i]);
        kit_say(&client,
                (struct wr_message){
                    .type = WR_MESSAGE_READ, .id = PIPELINED + i, .slot = i, .pages = 1},
                NULL);
    }
    for (uint32_t i = 0; i < PIPELINED; i++) {
        cr_assert(kit_hear(&client, &answer, back));
        cr_expect_eq(answer.type, WR_MESSAGE_WRITTEN);
        cr_expect_eq(answer.id, i);
        cr_assert(kit_hear(&client, &answer, back));
        cr_expect_eq(answer.type, WR_MESSAGE_CONTENT);
        cr_expect_eq(answer.id, PIPELINED + i);
        cr_expect(kit_is_stamped(back, i, 1, 1));
    }
    /* And whole clusters, of which none fits into the system's buffers. */
    for (uint32_t i = 0; i < 8; i++)
        kit_say(&client,
                (struct wr_message){.type = WR_MESSAGE_READ, .id = i, .slot = 0, .pages = 512},
                NULL);
    kit_say(&client, (struct wr_message){.type = WR_MESSAGE_RETURN, .id = 8}, NULL);
    for (uint32_t i = 0; i < 8; i++) {
        cr_assert(kit_hear(&client, &answer, back));
        cr_expect_eq(answer.id, i);
        cr_expect(kit_is_stamped(back, 0, PIPELINED, 1));
    }
    cr_assert(kit_hear(&client, &answer, back));
    cr_expect_eq(answer.type, WR_MESSAGE_RETURNED, "after all that was asked before");
    memd_close(memd);
}

#define THREADS 6u
#define ROUNDS  150u

struct part {
    struct memd *memd;
    const struct kit_client *owner;
    uint32_t index;
    unsigned wrong;
};

static void *use_part(void *argument)
{
    static __thread unsigned char bytes[32 * 4096];
    struct part *part = argument;
    struct kit_client client = kit_client(part->memd, "one");
    const uint64_t slot = 512 * part->index;

    part->wrong += kit_attach(&client, part->owner) != WEIR_OK;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t pages = 1 + (round * 7 + part->index) % 32;

        kit_stamp(bytes, slot + round, pages, round);
        part->wrong += kit_write(&client, slot + round, pages, bytes) != WEIR_OK;
        memset(bytes, 0, sizeof(bytes));
        part->wrong += kit_read(&client, slot + round, pages, bytes) != WEIR_OK;
        part->wrong += !kit_is_stamped(bytes, slot + round, pages, round);
    }
    kit_hang_up(&client);
    return NULL;
}

Test(memd, threads_each_with_a_connection)
{
    struct memd *memd = kit_memd(64 * KIT_MIB, 0, LONG_MS);
    struct kit_client owner = kit_client(memd, "one");
    struct part parts[THREADS];
    pthread_t threads[THREADS];

    cr_assert_eq(kit_lease(&owner, 512 * THREADS), WEIR_OK);
    for (uint32_t i = 0; i < THREADS; i++) {
        parts[i] = (struct part){memd, &owner, i, 0};
        cr_assert_eq(pthread_create(&threads[i], NULL, use_part, &parts[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        cr_expect_eq(parts[i].wrong, 0, "thread %u", i);
    }
    memd_close(memd);
}
