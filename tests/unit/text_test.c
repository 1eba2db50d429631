/* SPDX-License-Identifier: MIT */

/* Text: never beyond the buffer, always ended, nothing lost that a descriptor takes. */

#include "runtime/base/text.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUARD 0x5a

static void expect_line(void (*add)(struct wr_text *), const char *expected)
{
    char buffer[64];
    struct wr_text text;

    wr_text_init(&text, buffer, sizeof(buffer));
    add(&text);
    cr_expect_str_eq(buffer, expected, "%s, not %s", buffer, expected);
    cr_expect_eq(text.length, strlen(expected));
}

static void numbers(struct wr_text *text)
{
    wr_text_number(text, 0);
    wr_text_add(text, " ");
    wr_text_number(text, UINT64_MAX);
    wr_text_add(text, " ");
    wr_text_number(text, 1000);
}

static void signed_numbers(struct wr_text *text)
{
    wr_text_signed(text, 0);
    wr_text_add(text, " ");
    wr_text_signed(text, INT64_MIN);
    wr_text_add(text, " ");
    wr_text_signed(text, INT64_MAX);
    wr_text_signed(text, -7);
}

static void hex_numbers(struct wr_text *text)
{
    wr_text_hex(text, 0);
    wr_text_hex(text, 0xdeadbeef);
    wr_text_hex(text, UINT64_MAX);
}

Test(text, numbers_are_written_out)
{
    expect_line(numbers, "0 18446744073709551615 1000");
    expect_line(signed_numbers, "0 -9223372036854775808 9223372036854775807-7");
    expect_line(hex_numbers, "0x00xdeadbeef0xffffffffffffffff");
}

Test(text, sizes_have_one_digit_after_the_point)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } sizes[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1 KiB"},
        {1536, "1.5 KiB"},
        {1024 * 1024 - 1, "1023.9 KiB"},
        {(uint64_t)7 << 29, "3.5 GiB"},
        {(uint64_t)1 << 40, "1 TiB"},
        {((uint64_t)1 << 50) + ((uint64_t)1 << 45), "1 PiB"},
        {UINT64_MAX, "15.9 EiB"},
    };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char buffer[32];
        struct wr_text text;

        wr_text_init(&text, buffer, sizeof(buffer));
        wr_text_bytes(&text, sizes[i].bytes);
        cr_expect_str_eq(buffer, sizes[i].text, "%s, not %s", buffer, sizes[i].text);
    }
}

/* Every room from none to more than enough: a prefix, ended, and not a byte behind it. */
Test(text, what_does_not_fit_is_counted_and_lost)
{
    static const char whole[] = "abc 123 0xff -45 2 KiB";

    for (size_t room = 0; room < sizeof(whole) + 4; room++) {
        char buffer[sizeof(whole) + 8];
        struct wr_text text;
        size_t kept = room == 0 ? 0 : room - 1 < sizeof(whole) - 1 ? room - 1 : sizeof(whole) - 1;

        memset(buffer, GUARD, sizeof(buffer));
        wr_text_init(&text, buffer, room);
        cr_expect(room == 0 || buffer[0] == '\0');
        wr_text_add(&text, "abc ");
        cr_expect(room == 0 || memchr(buffer, '\0', room), "ended after every call");
        wr_text_number(&text, 123);
        wr_text_add(&text, " ");
        wr_text_hex(&text, 255);
        wr_text_add(&text, " ");
        wr_text_signed(&text, -45);
        wr_text_add(&text, " ");
        wr_text_bytes(&text, 2048);
        cr_expect_eq(text.length, sizeof(whole) - 1, "%zu", room);
        cr_expect_eq(text.used, kept, "%zu", room);
        cr_expect_eq(memcmp(buffer, whole, kept), 0, "%zu", room);
        cr_expect(room == 0 || buffer[kept] == '\0', "%zu", room);
        for (size_t i = room; i < sizeof(buffer); i++)
            cr_expect_eq(buffer[i], GUARD, "room %zu, byte %zu", room, i);
    }
}

Test(text, a_descriptor_takes_what_the_buffer_cannot)
{
    char buffer[8], read_back[600] = "";
    struct wr_text text;
    int ends[2];
    ssize_t count;

    cr_assert_eq(pipe(ends), 0);
    wr_text_init_fd(&text, buffer, sizeof(buffer), ends[1]);
    for (int i = 0; i < 50; i++) {
        wr_text_add(&text, "piece ");
        wr_text_number(&text, (uint64_t)i);
        wr_text_add(&text, "\n");
    }
    cr_expect(wr_text_flush(&text));
    close(ends[1]);
    count = read(ends[0], read_back, sizeof(read_back) - 1);
    cr_expect_eq(count, (ssize_t)text.length);
    cr_expect_eq(strncmp(read_back, "piece 0\npiece 1\n", 16), 0);
    cr_expect_not_null(strstr(read_back, "piece 49\n"));
    close(ends[0]);
}

Test(text, a_descriptor_that_fails_is_told_of)
{
    char buffer[8];
    struct wr_text text;
    int ends[2];

    cr_assert_eq(pipe(ends), 0);
    wr_text_init_fd(&text, buffer, sizeof(buffer), ends[0]); /* which is for reading */
    wr_text_add(&text, "longer than the buffer");
    cr_expect(text.failed);
    cr_expect_not(wr_text_flush(&text));
    cr_expect_eq(text.length, 22);
}
