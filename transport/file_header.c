/* SPDX-License-Identifier: MIT */
#include "transport/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_VERSION    1u
#define HEADER_BYTE_ORDER 0x01020304u

static const char header_magic[8] = {'W', 'e', 'i', 'r', 's', 'w', 'a', 'p'};

/* On the disk, in the byte order of the machine that wrote it: byte_order tells which. */
struct header {
    char magic[8];
    uint32_t version;
    uint32_t byte_order;
    uint32_t page_bytes;
    uint32_t cluster_pages;
    uint64_t data_offset;
    uint64_t slots; /* for the curious; never read back */
};

_Static_assert(sizeof(struct header) <= WEIR_SLOT_BYTES, "the header is one page");

static enum wr_file_header judge(const struct header *header)
{
    if (memcmp(header->magic, header_magic, sizeof(header_magic)) != 0)
        return WR_FILE_HEADER_NONE;
    if (header->version == HEADER_VERSION && header->byte_order == HEADER_BYTE_ORDER &&
        header->page_bytes == WEIR_SLOT_BYTES && header->cluster_pages == WEIR_CLUSTER_SLOTS &&
        header->data_offset == WR_FILE_DATA_OFFSET)
        return WR_FILE_HEADER_OURS;
    return WR_FILE_HEADER_OTHER;
}

int wr_file_header_read(int fd, enum wr_file_header *header_p)
{
    struct header header = {0};
    ssize_t count = pread(fd, &header, sizeof(header), 0);

    if (count < 0)
        return errno;
    *header_p = judge(&header);
    return 0;
}

int wr_file_header_write(int fd, uint64_t slots)
{
    const struct header header = {
        .version = HEADER_VERSION,
        .byte_order = HEADER_BYTE_ORDER,
        .page_bytes = WEIR_SLOT_BYTES,
        .cluster_pages = WEIR_CLUSTER_SLOTS,
        .data_offset = WR_FILE_DATA_OFFSET,
        .slots = slots,
    };
    /* A whole aligned page: the descriptor may be O_DIRECT by now. */
    char *page = aligned_alloc(WEIR_SLOT_BYTES, WEIR_SLOT_BYTES);
    ssize_t count;
    int os_error = 0;

    if (!page)
        return ENOMEM;
    memset(page, 0, WEIR_SLOT_BYTES);
    memcpy(page, &header, sizeof(header));
    memcpy(page, header_magic, sizeof(header_magic));
    count = pwrite(fd, page, WEIR_SLOT_BYTES, 0);
    if (count < 0)
        os_error = errno;
    else if (count != WEIR_SLOT_BYTES)
        os_error = ENOSPC;
    /* On the device before any page is: after a power cut the place must still be ours. */
    else if (fdatasync(fd) != 0)
        os_error = errno;
    free(page);
    return os_error;
}
