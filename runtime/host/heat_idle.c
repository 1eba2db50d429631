/* SPDX-License-Identifier: MIT */

/*
 * Idle page tracking: a bit for each frame of the machine. Set, it marks the frame idle; whoever
 * touches it through a page table clears it (Documentation/admin-guide/mm/idle_page_tracking.rst).
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/host/heat_source.h"

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_FRAME   ((1ull << 55) - 1)

struct marked {
    uint64_t addr, frame;
};

struct idle {
    struct wr_heat_source source; /* first */
    int bitmap, pagemap;
    uint32_t count; /* marked in the step before */
    struct marked marked[WR_HEAT_SAMPLE];
};

static bool read_word(int file, uint64_t index, uint64_t *word_p)
{
    return pread(file, word_p, sizeof(*word_p), (off_t)(index * sizeof(*word_p))) ==
           (ssize_t)sizeof(*word_p);
}

/* 0: it is not mapped, or the kernel does not tell. */
static uint64_t frame_at(const struct idle *idle, uint64_t addr)
{
    uint64_t entry;

    if (!read_word(idle->pagemap, addr / WEIR_PAGE_BYTES, &entry) || !(entry & PAGEMAP_PRESENT))
        return 0;
    return entry & PAGEMAP_FRAME;
}

/* Bits that are not set in what is written stay as they are. */
static bool mark(const struct idle *idle, uint64_t frame)
{
    uint64_t word = 1ull << frame % 64;

    return pwrite(idle->bitmap, &word, sizeof(word), (off_t)(frame / 64 * sizeof(word))) ==
           (ssize_t)sizeof(word);
}

static void idle_close(struct wr_heat_source *source)
{
    struct idle *idle = (struct idle *)(void *)source;

    if (idle->bitmap >= 0)
        close(idle->bitmap);
    if (idle->pagemap >= 0)
        close(idle->pagemap);
    free(idle);
}

static int try_idle(struct idle *idle, const char *root, struct wr_text *why)
{
    char path[WR_HEAT_PATH];
    uint64_t frame;
    int here = 1; /* on the stack, and mapped therefore */

    idle->bitmap = open(wr_heat_path(path, root, "/sys/kernel/mm/page_idle/bitmap"),
                        O_RDWR | O_CLOEXEC);
    if (idle->bitmap < 0)
        return wr_heat_refuse(why, "idle: needs CONFIG_IDLE_PAGE_TRACKING and root");
    idle->pagemap = open(wr_heat_path(path, root, "/proc/self/pagemap"), O_RDONLY | O_CLOEXEC);
    if (idle->pagemap < 0)
        return wr_heat_refuse(why, "idle: cannot read /proc/self/pagemap");
    errno = 0;
    frame = frame_at(idle, (uint64_t)(uintptr_t)&here);
    if (frame == 0)
        return wr_heat_refuse(why, "idle: /proc/self/pagemap tells no frames; needs CAP_SYS_ADMIN");
    if (!mark(idle, frame))
        return wr_heat_refuse(why, "idle: the bitmap cannot be written");
    return WEIR_OK;
}

static int idle_open(const char *root, struct wr_heat_source **source_p, struct wr_text *why)
{
    struct idle *idle = calloc(1, sizeof(*idle));
    int error;

    if (!idle)
        return WEIR_ENOMEM;
    idle->source.ops = &wr_heat_idle;
    idle->bitmap = idle->pagemap = -1;
    error = try_idle(idle, root, why);
    if (error != WEIR_OK) {
        idle_close(&idle->source);
        return error;
    }
    *source_p = &idle->source;
    return WEIR_OK;
}

static void idle_step(struct wr_heat_source *source, const struct wr_heat_ask *ask)
{
    struct idle *idle = (struct idle *)(void *)source;
    uint64_t word;

    for (uint32_t i = 0; i < idle->count; i++) {
        const struct marked *m = &idle->marked[i];

        /* A frame that has gone elsewhere meanwhile says nothing. */
        if (read_word(idle->bitmap, m->frame / 64, &word) && !(word >> m->frame % 64 & 1) &&
            frame_at(idle, m->addr) == m->frame)
            ask->used(ask->context, m->addr, 1);
    }
    idle->count = 0;
    for (uint32_t i = 0; i < ask->sample_count && idle->count < WR_HEAT_SAMPLE; i++) {
        uint64_t frame = frame_at(idle, ask->sample[i]);

        if (frame != 0 && mark(idle, frame))
            idle->marked[idle->count++] = (struct marked){ask->sample[i], frame};
    }
}

const struct wr_heat_source_ops wr_heat_idle = {"idle", idle_open, idle_step, idle_close};
