/* SPDX-License-Identifier: MIT */
/* A program of somebody else's, in C: half of its memory does not fit. Prints "sum N". */
#include <stdio.h>
#include <weir/weir.h>

enum { PAGES = 16384 };

static void listen(void *context, const struct weir_event *event)
{
    (void)context;
    fprintf(stderr, "%s\n", event->text);
}

int main(void)
{
    struct weir_options options;
    struct weir_runtime *rt;
    void *memory;
    unsigned long sum = 0;

    weir_options_init(&options);
    options.budget_bytes = 32u << 20;
    options.backends = "mem:?size=128M";
    options.on_event = listen;
    if (weir_open(&options, &rt) != WEIR_OK ||
        weir_map(rt, (uint64_t)PAGES * WEIR_PAGE_BYTES, NULL, &memory) != WEIR_OK)
        return 1;
    for (size_t i = 0; i < PAGES; i++)
        ((unsigned char *)memory)[i * WEIR_PAGE_BYTES] = (unsigned char)(i % 251);
    for (size_t i = 0; i < PAGES; i++)
        sum += ((unsigned char *)memory)[i * WEIR_PAGE_BYTES];
    printf("sum %lu\n", sum);
    return weir_close(rt) == WEIR_OK ? 0 : 1;
}
