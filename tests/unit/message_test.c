/* SPDX-License-Identifier: MIT */
#include "transport/message.h"

#include <criterion/criterion.h>
#include <string.h>

#define X(name, value, least, most, run) {#name, value, least, most, run},
static const struct {
    const char *name;
    uint8_t type;
    uint32_t least, most;
    bool has_run;
} types[] = {WR_MESSAGE_MAP(X)};
#undef X
#define TYPES (sizeof(types) / sizeof(types[0]))

/* A sound one of that type. */
static struct wr_message sound(size_t i)
{
    struct wr_message message = {.type = types[i].type,
                                 .error = 0x1234,
                                 .length = types[i].least,
                                 .pages = types[i].has_run ? 1 : 0xfedcba98,
                                 .id = 0x0123456789abcdef,
                                 .epoch = 0xfedcba9876543210,
                                 .slot = 0x1122334455667788,
                                 .count = 0x8877665544332211};

    if (message.type == WR_MESSAGE_CONTENT) {
        message.error = 0;
        message.length = WEIR_SLOT_BYTES;
    }
    return message;
}

static bool is_parsed(const struct wr_message *message)
{
    uint8_t header[WR_MESSAGE_BYTES];
    struct wr_message parsed;

    wr_message_put(message, header);
    return wr_message_parse(header, &parsed);
}

Test(message, round_trip_of_every_type)
{
    for (size_t i = 0; i < TYPES; i++) {
        const struct wr_message message = sound(i);
        uint8_t header[WR_MESSAGE_BYTES];
        struct wr_message parsed;

        wr_message_put(&message, header);
        cr_assert(wr_message_parse(header, &parsed), "%s", types[i].name);
        cr_expect_eq(parsed.type, message.type);
        cr_expect_eq(parsed.error, message.error);
        cr_expect_eq(parsed.length, message.length);
        cr_expect_eq(parsed.pages, message.pages);
        cr_expect_eq(parsed.id, message.id);
        cr_expect_eq(parsed.epoch, message.epoch);
        cr_expect_eq(parsed.slot, message.slot);
        cr_expect_eq(parsed.count, message.count);
        cr_expect_str_eq(wr_message_name(message.type), types[i].name);
    }
    cr_expect_str_eq(wr_message_name(0), "?");
    cr_expect_str_eq(wr_message_name(255), "?");
}

Test(message, bytes_are_the_same_on_every_machine)
{
    const struct wr_message message = {.type = WR_MESSAGE_READ,
                                       .error = 0x0201,
                                       .pages = 0x07060504,
                                       .id = 0x1716151413121110,
                                       .epoch = 0x1f1e1d1c1b1a1918,
                                       .slot = 0x2726252423222120,
                                       .count = 0x2f2e2d2c2b2a2928};
    static const uint8_t expected[WR_MESSAGE_BYTES] = {
        'W',  'E',  'I',  'R',  1,    13,   1,    2,    0,    0,    0,    0,
        4,    5,    6,    7,    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
        0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23,
        0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f};
    uint8_t header[WR_MESSAGE_BYTES];

    wr_message_put(&message, header);
    cr_expect_arr_eq(header, expected, sizeof(header));
}

Test(message, magic_version_and_type_are_known_or_refused)
{
    const struct wr_message message = {.type = WR_MESSAGE_RENEW};
    struct wr_message parsed;
    uint8_t header[WR_MESSAGE_BYTES];

    for (unsigned byte = 0; byte < 5; byte++) {
        wr_message_put(&message, header);
        header[byte] ^= 0x40;
        cr_expect_not(wr_message_parse(header, &parsed), "byte %u", byte);
    }
    wr_message_put(&message, header);
    for (unsigned type = 0; type < 256; type++) {
        bool is_known = false;

        for (size_t i = 0; i < TYPES; i++)
            is_known |= types[i].type == type;
        header[5] = (uint8_t)type;
        if (!is_known)
            cr_expect_not(wr_message_parse(header, &parsed), "type %u", type);
    }
}

Test(message, length_is_what_the_type_allows)
{
    for (size_t i = 0; i < TYPES; i++) {
        struct wr_message message = sound(i);

        message.length = types[i].most;
        if (wr_message_has_pages(&message))
            message.pages = WEIR_CLUSTER_SLOTS;
        cr_expect(is_parsed(&message), "%s: the most", types[i].name);
        message.length = types[i].most + 1;
        cr_expect_not(is_parsed(&message), "%s: more than the most", types[i].name);
        message.length = UINT32_MAX;
        cr_expect_not(is_parsed(&message), "%s: very much more", types[i].name);
        message = sound(i);
        if (types[i].least == 0)
            continue;
        message.length = types[i].least - 1;
        cr_expect_not(is_parsed(&message), "%s: less than the least", types[i].name);
    }
}

Test(message, runs_are_bounded)
{
    for (size_t i = 0; i < TYPES; i++) {
        struct wr_message message = sound(i);
        const bool has_pages = wr_message_has_pages(&message);

        if (!types[i].has_run)
            continue;
        message.pages = 0;
        cr_expect_not(is_parsed(&message), "%s: no page", types[i].name);
        message.pages = WEIR_CLUSTER_SLOTS;
        message.length = has_pages ? WR_MESSAGE_PAYLOAD : 0;
        cr_expect(is_parsed(&message), "%s: a cluster", types[i].name);
        message.slot = UINT64_MAX - WEIR_CLUSTER_SLOTS;
        cr_expect(is_parsed(&message), "%s: the last slots", types[i].name);
        message.slot++;
        cr_expect_not(is_parsed(&message), "%s: past the last", types[i].name);
        message.slot = 0;
        message.pages++;
        cr_expect_not(is_parsed(&message), "%s: more than a cluster", types[i].name);
        message.pages = UINT32_MAX;
        cr_expect_not(is_parsed(&message), "%s: very many", types[i].name);
    }
}

Test(message, pages_and_their_bytes_agree)
{
    struct wr_message message = {.type = WR_MESSAGE_WRITE, .pages = 3, .length = 3 * 4096};

    cr_expect(is_parsed(&message));
    message.length = 2 * 4096;
    cr_expect_not(is_parsed(&message));
    message.length = 3 * 4096 + 1;
    cr_expect_not(is_parsed(&message));
    /* A million and a bit: pages * 4096 must not wrap into a small number. */
    message = (struct wr_message){
        .type = WR_MESSAGE_WRITE, .pages = (1u << 20) + 1, .length = 4096};
    cr_expect_not(is_parsed(&message));
}

Test(message, an_answer_that_says_no_brings_nothing)
{
    struct wr_message message = {.type = WR_MESSAGE_CONTENT, .pages = 1, .length = 4096};

    cr_expect(is_parsed(&message));
    message.error = 4;
    cr_expect_not(is_parsed(&message));
    message.length = 0;
    cr_expect(is_parsed(&message));
    message.error = 0;
    cr_expect_not(is_parsed(&message), "it says yes and brings nothing");
}

Test(message, an_error_is_of_the_closed_list)
{
    struct wr_message message = {.type = WR_MESSAGE_REFUSED};

    cr_expect_eq(wr_message_error(&message), WEIR_OK);
    for (uint32_t error = 1; error <= UINT16_MAX; error++) {
        message.error = (uint16_t)error;
        if (error <= -WEIR_EFORKED)
            cr_expect_eq(wr_message_error(&message), -(int)error);
        else
            cr_expect_eq(wr_message_error(&message), WEIR_EIO, "what nobody knows: %u", error);
    }
}
