/* SPDX-License-Identifier: MIT */
#include "runtime/base/bug.h"

#ifdef WR_TESTING

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/text.h"

static const char *const words[] = {
#define BUG_WORD(word, text) #word,
    WR_BUG_MAP(BUG_WORD)
#undef BUG_WORD
};

/* Relaxed: it is set before the threads that it is for are started. */
static _Atomic(uint32_t) switched_on;

bool wr_bug(enum wr_bug bug)
{
    return (atomic_load_explicit(&switched_on, memory_order_relaxed) >> bug & 1) != 0;
}

/* WR_BUG_COUNT: there is no such word. */
static enum wr_bug find(const char *word, size_t length)
{
    for (enum wr_bug bug = 0; bug < WR_BUG_COUNT; bug++)
        if (strlen(words[bug]) == length && memcmp(words[bug], word, length) == 0)
            return bug;
    return WR_BUG_COUNT;
}

static void refuse(const struct wr_events *events, const char *value)
{
    char line[400];
    struct wr_text text;

    wr_text_init(&text, line, sizeof(line));
    wr_text_add(&text, "WEIR_BUG=");
    wr_text_add(&text, value);
    wr_text_add(&text, " is not understood: expected some of these, separated by commas:");
    for (enum wr_bug bug = 0; bug < WR_BUG_COUNT; bug++) {
        wr_text_add(&text, " ");
        wr_text_add(&text, words[bug]);
    }
    wr_event(events, WEIR_FAILURE, WEIR_EINVAL, 0, 0, line);
}

int wr_bug_read(const struct wr_events *events)
{
    const char *value = getenv("WEIR_BUG"), *word = value ? value : "";
    uint32_t found = 0;

    while (*word) {
        size_t length = strcspn(word, ",");
        enum wr_bug bug = find(word, length);

        if (bug == WR_BUG_COUNT) {
            refuse(events, value);
            return WEIR_EINVAL;
        }
        found |= 1u << bug;
        word += length + (word[length] == ',');
    }
    if (found)
        wr_event(events, WEIR_NOTE, WEIR_OK, 0, 0, "bugs are switched on by WEIR_BUG");
    atomic_store_explicit(&switched_on, found, memory_order_relaxed);
    return WEIR_OK;
}

#endif
