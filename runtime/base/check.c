/* SPDX-License-Identifier: MIT */
#include "runtime/base/check.h"

#include <stdlib.h>
#include <unistd.h>

#include "runtime/base/text.h"

static void print_line(const char *head, const char *words)
{
    char line[512];
    struct wr_text text;

    wr_text_init_fd(&text, line, sizeof(line), STDERR_FILENO);
    wr_text_add(&text, head);
    wr_text_add(&text, words);
    wr_text_add(&text, "\n");
    (void)wr_text_flush(&text);
}

void wr_check_failed(const char *text)
{
    print_line("weir: check failed: ", text);
    abort();
}

void wr_events_init(struct wr_events *events, weir_event_fn listener, void *context)
{
    events->listener = listener;
    events->context = context;
}

void wr_event(const struct wr_events *events, enum weir_severity severity, int error, int os_error,
              uint64_t address, const char *text)
{
    struct weir_event event = {
        .size = sizeof(event),
        .severity = severity,
        .error = error,
        .os_error = os_error,
        .address = (const void *)(uintptr_t)address,
        .text = text,
    };

    if (events->listener)
        events->listener(events->context, &event);
    else if (severity == WEIR_FATAL)
        print_line("weir: ", text);
}
