/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Text: build a line of text inside a signal handler, where snprintf() is not allowed.
 *
 * Always: the buffer ends with 0 after every call. What does not fit goes to the descriptor, if the
 * text has one; else it is counted and lost.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wr_text {
    char *buffer;
    size_t room;   /* bytes of the buffer, the final 0 included; 0 is allowed */
    size_t used;   /* of the buffer                                           */
    size_t length; /* of the whole text, also of what is not in the buffer    */
    int fd;        /* takes what the buffer does not; -1: none                */
    bool failed;   /* the descriptor did not                                  */
};

void wr_text_init(struct wr_text *text, char *buffer, size_t room);
/* A text that is written to fd, piece by piece; end it by wr_text_flush(). */
void wr_text_init_fd(struct wr_text *text, char *buffer, size_t room, int fd);
/* Write out what is in the buffer. False: some of the text could not be written. */
bool wr_text_flush(struct wr_text *text);
void wr_text_add(struct wr_text *text, const char *string);
void wr_text_number(struct wr_text *text, uint64_t number);
void wr_text_signed(struct wr_text *text, int64_t number);
void wr_text_hex(struct wr_text *text, uint64_t number);

/* "3.5 GiB": at most one digit after the point. */
void wr_text_bytes(struct wr_text *text, uint64_t bytes);
