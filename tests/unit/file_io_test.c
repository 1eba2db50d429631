/* SPDX-License-Identifier: MIT */

/* The stages of a request, against a device that does everything a device may do. */

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/backend_kit.h"
#include "transport/file.h"

#define DEVICE_SLOTS 600u

static struct wr_file file = {.slots = DEVICE_SLOTS, .data_offset = 8192, .is_direct = true};
static unsigned char device[8192 + DEVICE_SLOTS * WEIR_SLOT_BYTES];
static uint64_t dice;

static uint64_t draw(uint64_t limit)
{
    dice = dice * 6364136223846793005u + 1442695040888963407u;
    return (dice >> 33) % limit;
}

/* Transfers some of the piece, in units of 512, or nothing with a passing error. */
static int64_t transfer(const struct wr_file_piece *piece, bool is_write)
{
    const struct iovec *iov = piece->count ? piece->whole : &piece->part;
    const uint32_t count = piece->count ? piece->count : 1;
    uint64_t all = 0, most, moved = 0;

    for (uint32_t i = 0; i < count; i++)
        all += iov[i].iov_len;
    if (draw(4) == 0)
        return draw(2) ? -EINTR : -EAGAIN;
    most = draw(3) ? (draw(all / 512) + 1) * 512 : all;
    for (uint32_t i = 0; i < count && moved < most; i++) {
        uint64_t part = iov[i].iov_len < most - moved ? iov[i].iov_len : most - moved;
        unsigned char *place = device + piece->offset + moved;

        memcpy(is_write ? place : iov[i].iov_base, is_write ? iov[i].iov_base : place, part);
        moved += part;
    }
    return (int64_t)moved;
}

/* A request of random length and vector. */
static void make_request(struct weir_io *io, struct iovec *iov, unsigned char *bytes)
{
    uint32_t left;

    io->pages = 1 + (uint32_t)draw(512);
    io->slot = draw(DEVICE_SLOTS - io->pages + 1);
    io->iov = iov;
    io->iov_count = 0;
    for (left = io->pages; left;) {
        uint32_t pages = 1 + (uint32_t)draw(left < 40 ? left : 40);

        left -= pages;
        iov[io->iov_count++] = (struct iovec){bytes + (size_t)left * WEIR_SLOT_BYTES,
                                              (size_t)pages * WEIR_SLOT_BYTES};
    }
}

static void run(struct weir_io *io)
{
    wr_file_io_begin(&file, io);
    while (wr_file_io_stage(io) == WR_FILE_MOVE) {
        struct wr_file_piece piece = wr_file_io_piece(&file, io);

        wr_file_io_advance(&file, io, transfer(&piece, io->is_write));
    }
}

Test(file_io, short_transfers_add_up)
{
    unsigned char *bytes = kit_pages(512, 0), *copy = malloc(sizeof(device));
    struct iovec iov[512];

    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct weir_io io = {.is_write = 1};
        uint64_t start;

        dice = seed;
        for (size_t i = 0; i < 512 * 4096; i += 8)
            *(uint64_t *)(void *)(bytes + i) = draw(UINT32_MAX);
        memcpy(copy, device, sizeof(device));
        make_request(&io, iov, bytes);
        run(&io);
        cr_assert_eq(wr_file_io_stage(&io), WR_FILE_FINISHED);
        cr_assert_eq(io.error, WEIR_OK);
        start = file.data_offset + io.slot * WEIR_SLOT_BYTES;
        for (uint32_t i = 0; i < io.iov_count; i++) {
            cr_assert_arr_eq(device + start, iov[i].iov_base, iov[i].iov_len);
            memcpy(copy + start, iov[i].iov_base, iov[i].iov_len);
            start += iov[i].iov_len;
        }
        /* Nothing beside it was written. */
        cr_assert_arr_eq(device, copy, sizeof(device));

        memset(bytes, 0, 512 * 4096);
        io.is_write = 0;
        run(&io);
        start = file.data_offset + io.slot * WEIR_SLOT_BYTES;
        for (uint32_t i = 0; i < io.iov_count; start += iov[i++].iov_len)
            cr_assert_arr_eq(device + start, iov[i].iov_base, iov[i].iov_len);
    }
    free(copy);
    free(bytes);
}

static struct weir_io one_page(struct iovec *iov, bool is_write)
{
    static unsigned char page[4096] __attribute__((aligned(4096)));
    struct weir_io io;

    kit_io_init(&io, iov, is_write, 3, 1, page);
    wr_file_io_begin(&file, &io);
    return io;
}

Test(file_io, errors_end_it)
{
    static const struct {
        int64_t result;
        int error, os_error;
    } rows[] = {
        {-EIO, WEIR_EIO, EIO},
        {-ENOSPC, WEIR_EFULL, ENOSPC},
        {-EDQUOT, WEIR_EFULL, EDQUOT},
        {-EFBIG, WEIR_EFULL, EFBIG},
        {-EBADF, WEIR_EIO, EBADF},
        {-EINVAL, WEIR_EIO, EINVAL},
        {-ENODEV, WEIR_EIO, ENODEV},
        {0, WEIR_EIO, ENODATA},
        {-EREMOTEIO, WEIR_EIO, EREMOTEIO},
    };
    struct iovec iov;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct weir_io io = one_page(&iov, true);

        cr_expect_eq(wr_file_io_advance(&file, &io, 512), WR_FILE_MOVE);
        cr_expect_eq(wr_file_io_advance(&file, &io, rows[i].result), WR_FILE_FINISHED);
        cr_expect_eq(io.error, rows[i].error);
        cr_expect_eq(io.os_error, rows[i].os_error);
    }
}

Test(file_io, passing_errors_pass_only_so_often)
{
    struct iovec iov;
    struct weir_io io = one_page(&iov, true);
    uint32_t tries = 0;

    /* Progress forgives. */
    for (int round = 0; round < 7; round++) {
        for (uint32_t i = 0; i < WR_FILE_RETRIES_MAX; i++)
            cr_assert_eq(wr_file_io_advance(&file, &io, -EAGAIN), WR_FILE_MOVE);
        cr_assert_eq(wr_file_io_advance(&file, &io, 512), WR_FILE_MOVE);
    }
    while (wr_file_io_advance(&file, &io, -EAGAIN) == WR_FILE_MOVE)
        cr_assert_lt(++tries, 1000);
    cr_expect_eq(io.error, WEIR_EIO);
    cr_expect_eq(io.os_error, EAGAIN);
}

Test(file_io, through_the_page_cache_it_waits_for_the_device)
{
    struct wr_file cached = file;
    struct iovec iov;
    struct weir_io io = one_page(&iov, true);

    cached.is_direct = false;
    cr_expect_eq(wr_file_io_advance(&cached, &io, 4096), WR_FILE_SYNC);
    cr_expect_eq(wr_file_io_advance(&cached, &io, -EINTR), WR_FILE_SYNC);
    cr_expect_eq(wr_file_io_advance(&cached, &io, -ECANCELED), WR_FILE_SYNC, "no worker for it");
    cr_expect_eq(wr_file_io_advance(&cached, &io, 0), WR_FILE_FORGET);
    cr_expect_eq(wr_file_io_advance(&cached, &io, -EINVAL), WR_FILE_FINISHED);
    cr_expect_eq(io.error, WEIR_OK);

    /* What the disk refused late is a failed write as well. */
    io = one_page(&iov, true);
    wr_file_io_advance(&cached, &io, 4096);
    cr_expect_eq(wr_file_io_advance(&cached, &io, -ENOSPC), WR_FILE_FINISHED);
    cr_expect_eq(io.error, WEIR_EFULL);

    /* A file system that has nothing to write back. */
    io = one_page(&iov, true);
    wr_file_io_advance(&cached, &io, 4096);
    cr_expect_eq(wr_file_io_advance(&cached, &io, -ESPIPE), WR_FILE_FORGET);

    io = one_page(&iov, false);
    cr_expect_eq(wr_file_io_advance(&cached, &io, 4096), WR_FILE_FORGET);
    cr_expect_eq(wr_file_io_advance(&cached, &io, 0), WR_FILE_FINISHED);
    cr_expect_eq(io.error, WEIR_OK);
}

Test(file_io, unsound_requests_do_not_begin)
{
    struct iovec iov[3];
    struct weir_io sound = one_page(iov, true), io;
    unsigned char *bytes = iov[0].iov_base;

    cr_expect_eq(wr_file_io_stage(&sound), WR_FILE_MOVE);
#define EXPECT_UNSOUND(change)                                                \
    do {                                                                      \
        iov[0] = (struct iovec){bytes, 4096};                                 \
        io = sound;                                                           \
        change;                                                               \
        wr_file_io_begin(&file, &io);                                         \
        cr_expect_eq(wr_file_io_stage(&io), WR_FILE_FINISHED, "%s", #change); \
        cr_expect_eq(io.error, WEIR_EINVAL, "%s", #change);                   \
    } while (0)
    EXPECT_UNSOUND(io.slot = DEVICE_SLOTS);
    EXPECT_UNSOUND(io.slot = UINT64_MAX);
    EXPECT_UNSOUND(io.pages = 0);
    EXPECT_UNSOUND(io.pages = 2);
    EXPECT_UNSOUND(io.pages = 513);
    EXPECT_UNSOUND(io.iov_count = 0);
    EXPECT_UNSOUND(io.iov_count = 2);
    EXPECT_UNSOUND(iov[0].iov_len = 0);
    EXPECT_UNSOUND(iov[0].iov_len = 4095);
    EXPECT_UNSOUND(iov[0].iov_len = 8192);
    EXPECT_UNSOUND(iov[0].iov_base = bytes + 512);
    EXPECT_UNSOUND((io.slot = DEVICE_SLOTS - 1, io.pages = 2, iov[0].iov_len = 8192));
#undef EXPECT_UNSOUND
}
