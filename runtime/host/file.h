/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * File: the few of them that the runtime itself writes or reads: its trace, and what the kernel
 * says in /sys. Back ends have files of their own (transport/).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/check.h"

/*
 * Make a file, or empty the one there is, and hold it against others who would. WEIR_EBUSY: another
 * runtime writes it; WEIR_EDENIED, WEIR_EINVAL: it cannot be had; errno says why.
 */
int wr_file_create(const char *path, int *file_p);
/* All of it, at the end. False: errno says why not. */
bool wr_file_append(int file, const void *bytes, size_t count);
void wr_file_close(int file);

/* The file's text, ended by 0, without the newline at its end. False: errno says why not. */
bool wr_file_read(const char *path, char *text, size_t room);
bool wr_file_read_number(const char *path, uint64_t *number_p);
/* Write to a file that is there, at once: what /sys wants. False: errno says why not. */
bool wr_file_tell(const char *path, const char *text);
bool wr_file_tell_number(const char *path, uint64_t number);
