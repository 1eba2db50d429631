/* SPDX-License-Identifier: MIT */

/* 64 bytes of anybody: what is found sound is within its type's bounds, and means its own bytes. */

#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "transport/message.h"

static void check_sound(const struct wr_message *message, const uint8_t *header)
{
    uint8_t again[WR_MESSAGE_BYTES];

    FUZZ_ASSERT(strcmp(wr_message_name(message->type), "?") != 0);
    FUZZ_ASSERT(message->length <= WR_MESSAGE_PAYLOAD);
    /* These name a run in any case: whoever has parsed them goes on to use it. */
    if (message->type == WR_MESSAGE_READ || message->type == WR_MESSAGE_WRITTEN ||
        wr_message_has_pages(message)) {
        FUZZ_ASSERT(message->pages > 0 && message->pages <= WEIR_CLUSTER_SLOTS);
        FUZZ_ASSERT(message->slot + message->pages > message->slot);
    }
    if (wr_message_has_pages(message))
        FUZZ_ASSERT(message->length == message->pages * WEIR_SLOT_BYTES ||
                    (message->error != 0 && message->length == 0));
    wr_message_put(message, again);
    FUZZ_ASSERT(memcmp(again, header, WR_MESSAGE_SEAL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    uint8_t *header = calloc(1, WR_MESSAGE_BYTES); /* with nothing behind it */
    struct wr_message message;

    FUZZ_ASSERT(header);
    memcpy(header, bytes, count < WR_MESSAGE_BYTES ? count : WR_MESSAGE_BYTES);
    if (wr_message_parse(header, &message))
        check_sound(&message, header);
    (void)wr_message_name(header[5]);
    free(header);
    return 0;
}
