/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the unit tests of back ends share: a listener that remembers, a directory of one's own,
 * one request at a time.
 */

#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_backend.h>

/* The header of a named place: 2 MiB before the first slot. */
#define KIT_HEADER_BYTES  2097152ull
#define KIT_CLUSTER_BYTES ((uint64_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)

/* Everything that was told since the test began. */
struct kit_told {
    uint32_t count;
    int severity, error, os_error; /* of the last event                     */
    char text[8192];               /* of all, each on its line, until full  */
};

extern struct kit_told kit_told;
extern const struct weir_backend_env kit_env;

/* Was that told, or is it within five seconds? Of back ends that have threads. */
bool kit_has_heard(const char *words);

/* printf into one of many static buffers: the text of a specification or path. */
const char *kit_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Open; the result of open() is checked to be expected, and the back end NULL if that is no
 * success. */
struct weir_backend *kit_open(const char *spec, int expected);
void kit_close(struct weir_backend *backend);
struct weir_backend_info kit_describe(struct weir_backend *backend);

struct weir_channel *kit_channel(struct weir_backend *backend, uint32_t depth);

/* A new empty directory on a disk, removed with all that is in it when the test ends. */
const char *kit_directory(void);
uint32_t kit_entry_count(const char *directory);
/* Make a file of these bytes, or make it new; and how long one is (UINT64_MAX: there is none). */
void kit_put_file(const char *path, const void *bytes, size_t count);
uint64_t kit_file_bytes(const char *path);

/* A page filled with this byte, to be freed; and the same as a test. */
unsigned char *kit_pages(uint32_t pages, int fill);
bool kit_is_filled(const unsigned char *bytes, uint64_t count, int fill);

/* A request whose done() sets owner to NULL. */
void kit_io_init(struct weir_io *io, struct iovec *iov, bool is_write, uint64_t slot,
                 uint32_t pages, void *bytes);

/* Submit one request on the channel and wait for it. Its error. */
int kit_do(struct weir_channel *channel, struct weir_io *io);

/* kit_do() with pages of one byte value; *os_error_p may be NULL. */
int kit_write(struct weir_channel *channel, uint64_t slot, uint32_t pages, int fill,
              int *os_error_p);

/* Do all pages of the run hold this byte, by read()? */
bool kit_holds(struct weir_backend *backend, uint64_t slot, uint32_t pages, int fill);

/* In a forked child: so that a test that fails leaves none behind. */
void kit_die_with_parent(void);

/* Make system calls of this number fail with this errno from now on. false: not possible here. */
bool kit_refuse_call(int number, int os_error);

/* The same, only where this argument of the call has all bits of the flag. */
bool kit_refuse_flag(int number, unsigned argument, uint32_t flag, int os_error);

/* A loop device over the file. NULL: this machine or user has none to give. */
const char *kit_loop_attach(const char *path);
void kit_loop_detach(void);
