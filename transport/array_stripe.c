/* SPDX-License-Identifier: MIT */

/* What a channel does for a code: cut parts at pieces, make parity, ask the patcher. */

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "transport/array_channel.h"

/* --- Parity ------------------------------------------------------------------------------------
 */

static size_t parity_bytes(const struct wr_array *array)
{
    return (size_t)(array->pieces - array->need) * array->map.rows * WEIR_SLOT_BYTES;
}

void wr_array_parities_close(struct wr_array_channel *c)
{
    if (c->parities)
        munmap(c->parities, WR_ARRAY_PARITIES * parity_bytes(c->array));
}

/* Memory that costs nothing before it is touched. */
int wr_array_parities_open(struct wr_array_channel *c)
{
    const size_t bytes = parity_bytes(c->array);

    if (!wr_array_is_coded(c->array))
        return WEIR_OK;
    c->parities = mmap(NULL, WR_ARRAY_PARITIES * bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->parities == MAP_FAILED) {
        c->parities = NULL;
        return WEIR_ENOMEM;
    }
    for (uint32_t i = 0; i < WR_ARRAY_PARITIES; i++)
        c->parity[i] = c->parities + i * bytes;
    c->parity_count = WR_ARRAY_PARITIES;
    return WEIR_OK;
}

void wr_array_parity_give(struct wr_array_channel *c, struct wr_array_part *part)
{
    struct wr_array_part *next = c->starved;

    if (!part->parity)
        return;
    c->parity[c->parity_count++] = part->parity;
    part->parity = NULL;
    if (!next)
        return;
    c->starved = next->next;
    wr_array_make_ready(c, next);
}

bool wr_array_parity_take(struct wr_array_channel *c, struct wr_array_part *part)
{
    if (c->parity_count > 0) {
        part->parity = c->parity[--c->parity_count];
        return true;
    }
    part->next = c->starved;
    c->starved = part;
    return false;
}

/* --- The patcher
 * -------------------------------------------------------------------------------
 */

void wr_array_hand_over(struct wr_array_channel *c, struct wr_array_part *part)
{
    part->patch = (struct wr_array_patch){.io = part->item->outer,
                                          .skip = part->skip,
                                          .cluster = part->cluster,
                                          .first = part->first,
                                          .pages = part->pages,
                                          .home = &c->back,
                                          .bell = c->legs.bell};
    wr_array_patch_put(c->array, &part->patch);
}

/* What the patcher has done. */
bool wr_array_fetch_back(struct wr_array_channel *c)
{
    struct wr_array_patch *back;

    pthread_mutex_lock(&c->array->lock);
    back = c->back;
    c->back = NULL;
    pthread_mutex_unlock(&c->array->lock);
    if (!back)
        return false;
    while (back) {
        struct wr_array_part *part =
            (struct wr_array_part *)((char *)back - offsetof(struct wr_array_part, patch));
        int error = back->error;

        part->os_error = back->os_error;
        back = back->next;
        wr_array_end_part(c, part, error);
    }
    return true;
}

/* --- Pieces
 * ------------------------------------------------------------------------------------
 */

/* Pages of the part to one data piece, from this row of it. */
static void send_data(struct wr_array_channel *c, struct wr_array_part *part, uint32_t number,
                      const struct wr_map_piece *piece, uint32_t row, uint32_t pages)
{
    struct wr_array_item *item = part->item;
    struct iovec *iov = &item->iov[item->iov_used];
    const uint32_t before = part->skip + number * c->array->map.rows + row - part->first;
    const uint32_t count = wr_array_cut(item->outer, before, pages, iov);

    item->iov_used += count;
    wr_array_send(c, part, number, piece,
                  (struct weir_io){.slot = row, .pages = pages, .iov = iov, .iov_count = count});
}

static void encode(struct wr_array_channel *c, struct wr_array_part *part)
{
    struct wr_array *array = c->array;
    const uint32_t rows = array->map.rows;
    unsigned char *data[WR_MAP_MEMBERS], *parity[WR_MAP_MEMBERS];

    wr_array_pages(part->item->outer, part->skip, part->pages, c->page);
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t i = 0; i < array->need; i++) {
            const uint32_t page = i * rows + row;

            data[i] = page < WEIR_CLUSTER_SLOTS ? c->page[page] : array->zeros;
        }
        for (uint32_t i = 0; i < array->pieces - array->need; i++)
            parity[i] = part->parity + ((size_t)i * rows + row) * WEIR_SLOT_BYTES;
        wr_code_encode(&array->code, WEIR_SLOT_BYTES, data, parity);
    }
}

/* A whole cluster. */
void wr_array_send_pieces(struct wr_array_channel *c, struct wr_array_part *part)
{
    const struct wr_array *array = c->array;
    const uint32_t rows = array->map.rows;

    encode(c, part);
    part->item->iov_used = 0; /* it is tried again, perhaps */
    for (uint32_t i = 0; i < array->pieces; i++) {
        struct iovec *iov = &part->item->iov[part->item->iov_used];

        if (!(part->write.targets >> i & 1))
            continue;
        if (i < array->need) {
            send_data(c, part, i, &part->write.piece[i], 0, wr_map_piece_pages(&array->map, i));
            continue;
        }
        *iov = (struct iovec){part->parity + (size_t)(i - array->need) * rows * WEIR_SLOT_BYTES,
                              (size_t)rows * WEIR_SLOT_BYTES};
        part->item->iov_used++;
        wr_array_send(c, part, i, &part->write.piece[i],
                      (struct weir_io){.pages = rows, .iov = iov, .iov_count = 1});
    }
}

static bool is_readable(const struct wr_array_channel *c, const struct wr_map_piece *piece)
{
    return piece->state == WR_PIECE_WHOLE &&
           atomic_load(&c->array->map.member[piece->member].is_up) &&
           !atomic_load(&c->array->member[piece->member].is_slow);
}

/* Inside the gate. False: something is to be worked out, and nothing was sent. */
static bool send_reads(struct wr_array_channel *c, struct wr_array_part *part)
{
    const struct wr_array *array = c->array;
    const uint32_t rows = array->map.rows, end = part->first + part->pages;
    const uint32_t from = part->first / rows, last = (end - 1) / rows;
    struct wr_map_piece piece[WR_MAP_MEMBERS];

    for (uint32_t i = from; i <= last; i++) {
        piece[i] = wr_map_piece(&array->map, part->cluster, i);
        if (!is_readable(c, &piece[i]))
            return false;
    }
    part->pending = last - from + 1;
    for (uint32_t i = from; i <= last; i++) {
        const uint32_t first = i == from ? part->first - i * rows : 0;
        const uint32_t behind = i == last ? end - i * rows : rows;

        send_data(c, part, i, &piece[i], first, behind - first);
    }
    return true;
}

void wr_array_begin_read_coded(struct wr_array_channel *c, struct wr_array_part *part)
{
    const struct wr_map *map = &c->array->map;
    int error;

    part->side = wr_array_enter(c->array);
    error = wr_map_readable(map, part->cluster, part->first, part->pages);
    if (error != WEIR_EIO && !part->tried && send_reads(c, part))
        return;
    wr_array_leave(c->array, part->side);
    if (error == WEIR_EIO)
        wr_array_end_part(c, part, error);
    else
        wr_array_hand_over(c, part);
}
