/* SPDX-License-Identifier: MIT */
#include "transport/message.h"

#include <string.h>

#define MAGIC 0x52494557u /* "WEIR" */

/* Where the fields are. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_TYPE = 5,
    AT_ERROR = 6,
    AT_LENGTH = 8,
    AT_PAGES = 12,
    AT_ID = 16,
    AT_EPOCH = 24,
    AT_SLOT = 32,
    AT_COUNT = 40
};

struct rule {
    const char *name;
    uint32_t least, most; /* bytes of payload */
    bool has_run;
};

static const struct rule rules[] = {
#define X(word, value, low, high, run) \
    [value] = {.name = #word, .least = (low), .most = (high), .has_run = (run)},
    WR_MESSAGE_MAP(X)
#undef X
};

static void put_bytes(uint8_t *to, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_bytes(const uint8_t *from, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)from[i] << (8 * i);
    return value;
}

static const struct rule *rule_of(uint8_t type)
{
    return type < sizeof(rules) / sizeof(rules[0]) && rules[type].name ? &rules[type] : NULL;
}

void wr_message_put(const struct wr_message *message, uint8_t header[WR_MESSAGE_BYTES])
{
    put_bytes(header + AT_MAGIC, MAGIC, 4);
    put_bytes(header + AT_VERSION, WR_MESSAGE_VERSION, 1);
    put_bytes(header + AT_TYPE, message->type, 1);
    put_bytes(header + AT_ERROR, message->error, 2);
    put_bytes(header + AT_LENGTH, message->length, 4);
    put_bytes(header + AT_PAGES, message->pages, 4);
    put_bytes(header + AT_ID, message->id, 8);
    put_bytes(header + AT_EPOCH, message->epoch, 8);
    put_bytes(header + AT_SLOT, message->slot, 8);
    put_bytes(header + AT_COUNT, message->count, 8);
    memset(header + WR_MESSAGE_SEAL, 0, WR_MESSAGE_BYTES - WR_MESSAGE_SEAL);
}

/* A run of slots; where pages travel, exactly theirs. An answer that says no brings none. */
static bool is_run_sound(const struct wr_message *message)
{
    if (message->pages == 0 || message->pages > WEIR_CLUSTER_SLOTS ||
        message->slot > UINT64_MAX - message->pages)
        return false;
    if (message->type == WR_MESSAGE_CONTENT && message->error != 0)
        return message->length == 0;
    return !wr_message_has_pages(message) || message->length == message->pages * WEIR_SLOT_BYTES;
}

bool wr_message_parse(const uint8_t header[WR_MESSAGE_BYTES], struct wr_message *message_p)
{
    const struct rule *rule = rule_of(header[AT_TYPE]);

    *message_p = (struct wr_message){
        .type = header[AT_TYPE],
        .error = (uint16_t)get_bytes(header + AT_ERROR, 2),
        .length = (uint32_t)get_bytes(header + AT_LENGTH, 4),
        .pages = (uint32_t)get_bytes(header + AT_PAGES, 4),
        .id = get_bytes(header + AT_ID, 8),
        .epoch = get_bytes(header + AT_EPOCH, 8),
        .slot = get_bytes(header + AT_SLOT, 8),
        .count = get_bytes(header + AT_COUNT, 8),
    };
    if (get_bytes(header + AT_MAGIC, 4) != MAGIC || header[AT_VERSION] != WR_MESSAGE_VERSION ||
        !rule || message_p->length < rule->least || message_p->length > rule->most)
        return false;
    return !rule->has_run || is_run_sound(message_p);
}

bool wr_message_has_pages(const struct wr_message *message)
{
    return message->type == WR_MESSAGE_CONTENT || message->type == WR_MESSAGE_WRITE;
}

int wr_message_error(const struct wr_message *message)
{
    const int error = -(int)message->error;

    switch (error) {
    case WEIR_OK:
#define X(name, value, text) case name:
        WEIR_ERROR_MAP(X)
#undef X
        return error;
    default: return WEIR_EIO;
    }
}

const char *wr_message_name(uint8_t type)
{
    const struct rule *rule = rule_of(type);

    return rule ? rule->name : "?";
}
