/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * File: pages in a file or on a block device.
 *
 *   place     what the path names: a directory (a file without a name is made there), a regular
 *             file, or a block device. file_place.c decides, locks, sizes
 *   header    first page of a named place: says that Weir made it. file_header.c
 *   data      slot n lies at data_offset + n * 4096; data_offset is a multiple of a cluster
 *   stage     how far a request of a channel has come. file_io.c
 *   ring      a channel by io_uring. file_ring.c
 *   pool      a channel by threads, where io_uring is refused. file_pool.c
 *
 * Always: nothing is written to a named place before it is known to be empty or Weir's own, and
 * nothing outside [data_offset, data_offset + slots * 4096) but the header.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <weir/weir_backend.h>

/* Room for the header; a whole cluster, so that clusters stay aligned. */
#define WR_FILE_DATA_OFFSET ((uint64_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)

/* Transfers that may fail for a reason that passes, one after the other, before we believe it. */
#define WR_FILE_RETRIES_MAX 100u

enum wr_file_choice { WR_FILE_AUTO, WR_FILE_ON, WR_FILE_OFF };

/* What the specification says; the words are positions in their row of the table. */
struct wr_file_options {
    uint64_t size;      /* bytes for pages; 0: as large as the place allows */
    uint64_t direct;    /* enum wr_file_choice                              */
    uint64_t uring;     /* enum wr_file_choice                              */
    uint64_t discard;   /* enum wr_file_choice: give free clusters back     */
    uint64_t overwrite; /* 1: a device may hold somebody's data             */
    uint64_t keep;      /* 1: a named file stays when the back end closes   */
};

struct wr_file {
    struct weir_backend base;

    /* Set by open(), constant while open. */
    const struct weir_backend_env *env;
    struct wr_file_options options;
    int fd;
    uint64_t slots;
    uint64_t data_offset;
    bool is_device;
    bool is_direct;    /* else pages pass through the page cache and are dropped from it       */
    bool is_ring;      /* else threads                                                         */
    char *remove_path; /* of the file to remove at close; NULL: none                           */

    /* Written by any thread that finds out; a stale "no" costs one more refused call. */
    _Atomic(bool) is_discard_refused;
};

/* --- Place: file_place.c --------------------------------------------------------------------- */

/*
 * Open what the path names and set all constant fields. Failure: nothing was left behind and the
 * event has said why.
 */
int wr_file_place_open(struct wr_file *file, const char *path);

/* Remove the file if it is to go, and close it. */
void wr_file_place_close(struct wr_file *file);

/* --- Header: file_header.c ------------------------------------------------------------------- */

enum wr_file_header {
    WR_FILE_HEADER_OURS,  /* written by this version on this kind of machine        */
    WR_FILE_HEADER_OTHER, /* Weir's, but another version, page size or byte order   */
    WR_FILE_HEADER_NONE   /* the first page is something else                       */
};

/* Both: 0 or an errno. */
int wr_file_header_read(int fd, enum wr_file_header *header_p);
int wr_file_header_write(int fd, uint64_t slots);

/* --- Requests: file_io.c --------------------------------------------------------------------- */

enum wr_file_stage {
    WR_FILE_MOVE,   /* bytes are to be read or written                              */
    WR_FILE_SYNC,   /* page cache: wait until what was written is on the device     */
    WR_FILE_FORGET, /* page cache: drop what was read or written                    */
    WR_FILE_FINISHED
};

/* The next transfer of a request: vector, or one run inside a vector's element. */
struct wr_file_piece {
    uint64_t offset;           /* in the file */
    struct iovec part;         /* the run when count is 0      */
    const struct iovec *whole; /* elements not touched so far  */
    uint32_t count;
};

/* Make the request ready for its first stage. An unsound one is finished at once. */
void wr_file_io_begin(const struct wr_file *file, struct weir_io *io);

enum wr_file_stage wr_file_io_stage(const struct weir_io *io);

/* In stage MOVE: what to transfer next. */
struct wr_file_piece wr_file_io_piece(const struct wr_file *file, const struct weir_io *io);

/* The system call of the present stage gave result: bytes, or a negative errno. Move on. */
enum wr_file_stage wr_file_io_advance(const struct wr_file *file, struct weir_io *io,
                                      int64_t result);

/* End the request by this errno. */
void wr_file_io_fail(struct weir_io *io, int os_error);

/* ops->read. */
int wr_file_io_read(struct weir_backend *backend, uint64_t slot, uint32_t pages, void *bytes);

/* --- Channels: file_ring.c, file_pool.c ------------------------------------------------------ */

/* ops of one of the two; the meaning is that of weir_backend_ops. */
struct wr_file_channel_ops {
    void (*close)(struct weir_channel *channel);
    uint32_t (*submit)(struct weir_channel *channel, struct weir_io *const *ios, uint32_t count);
    uint32_t (*poll)(struct weir_channel *channel, uint32_t max);
    int (*wait_fd)(struct weir_channel *channel);
};

/* What a ring's and a pool's channel begin with. */
struct wr_file_channel {
    struct weir_channel base;
    const struct wr_file_channel_ops *ops;
};

/* Both: 0 or an errno, and nothing told. */
int wr_file_ring_open(struct wr_file *file, uint32_t depth, struct weir_channel **channel_p);
int wr_file_pool_open(struct wr_file *file, uint32_t depth, struct weir_channel **channel_p);

/*
 * Set is_ring as the option says and a trial finds. WEIR_ENOSUPPORT, and told: a ring was asked
 * for and is refused.
 */
int wr_file_ring_choose(struct wr_file *file);
