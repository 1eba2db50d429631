/* SPDX-License-Identifier: MIT */
#include "runtime/base/text.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

void wr_text_init_fd(struct wr_text *text, char *buffer, size_t room, int fd)
{
    *text = (struct wr_text){.buffer = buffer, .room = room, .fd = fd};
    if (room > 0)
        buffer[0] = '\0';
}

void wr_text_init(struct wr_text *text, char *buffer, size_t room)
{
    wr_text_init_fd(text, buffer, room, -1);
}

bool wr_text_flush(struct wr_text *text)
{
    size_t done = 0;

    while (done < text->used && !text->failed) {
        /* syscall(): write() is a cancellation point. */
        long n = syscall(SYS_write, text->fd, text->buffer + done, text->used - done);

        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            text->failed = true;
    }
    text->used = 0;
    return !text->failed;
}

static void add_char(struct wr_text *text, char c)
{
    if (text->used + 1 >= text->room && text->fd >= 0)
        (void)wr_text_flush(text);
    if (text->used + 1 < text->room) {
        text->buffer[text->used++] = c;
        text->buffer[text->used] = '\0';
    }
    text->length++;
}

void wr_text_add(struct wr_text *text, const char *string)
{
    while (*string)
        add_char(text, *string++);
}

static void add_based(struct wr_text *text, uint64_t number, unsigned base)
{
    char digits[24];
    unsigned count = 0;

    do {
        digits[count++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    while (count)
        add_char(text, digits[--count]);
}

void wr_text_number(struct wr_text *text, uint64_t number)
{
    add_based(text, number, 10);
}

void wr_text_signed(struct wr_text *text, int64_t number)
{
    if (number < 0)
        add_char(text, '-');
    add_based(text, number < 0 ? -(uint64_t)number : (uint64_t)number, 10);
}

void wr_text_hex(struct wr_text *text, uint64_t number)
{
    wr_text_add(text, "0x");
    add_based(text, number, 16);
}

void wr_text_bytes(struct wr_text *text, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    uint64_t tenths = bytes;
    unsigned unit = 0;

    while (tenths >= 1024 && unit < 6) {
        unit++;
        tenths /= 1024;
    }
    wr_text_number(text, tenths);
    if (unit) {
        uint64_t rest = (bytes >> (10 * (unit - 1))) & 1023;

        if (rest * 10 / 1024) {
            wr_text_add(text, ".");
            wr_text_number(text, rest * 10 / 1024);
        }
    }
    wr_text_add(text, " ");
    wr_text_add(text, units[unit]);
}
