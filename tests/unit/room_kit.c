/* SPDX-License-Identifier: MIT */
#include "tests/unit/room_kit.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/paging/aging.h"

struct room_host room_host;
struct wr_stats room_stats;
struct wr_space room_space;
struct room_events room_events;
_Atomic(uint32_t) room_pressure;

/* --- The host -------------------------------------------------------------------------------- */

static uint64_t room_now_ns(struct wr_host *host)
{
    struct timespec now;

    (void)host;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct timespec time_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

static void room_park(struct wr_host *host, const void *word, uint32_t expect, uint64_t deadline_ns)
{
    struct timespec deadline = time_of(deadline_ns);

    (void)host;
    room_host.parks++;
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expect,
            deadline_ns == WR_FOREVER ? NULL : &deadline, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void room_unpark(struct wr_host *host, const void *word, uint32_t count)
{
    (void)host;
    room_host.unparks++;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count > INT_MAX ? INT_MAX : (int)count);
}

static void room_yield(struct wr_host *host)
{
    (void)host;
    syscall(SYS_sched_yield);
}

static void note(struct room_calls *calls, uint64_t addr, uint32_t frame, uint32_t pages)
{
    calls->calls++;
    calls->pages += pages;
    calls->addr = addr;
    calls->frame = frame;
}

static int room_region_map(struct wr_host *host, uint64_t bytes, uint64_t *addr_p)
{
    (void)host;
    if (room_host.map_error != WEIR_OK)
        return room_host.map_error;
    *addr_p = room_host.next_addr;
    room_host.next_addr += bytes + (1u << 21);
    return WEIR_OK;
}

static void room_region_seal(struct wr_host *host, uint64_t addr, uint64_t bytes)
{
    (void)host;
    (void)addr;
    (void)bytes;
}

static int room_region_guard(struct wr_host *host, uint64_t addr, uint64_t bytes, bool on)
{
    (void)host;
    (void)on;
    note(&room_host.guard, addr, 0, (uint32_t)(bytes / WEIR_PAGE_BYTES));
    return room_host.map_error;
}

static void room_region_unmap(struct wr_host *host, uint64_t addr, uint64_t bytes)
{
    (void)host;
    (void)bytes;
    if (room_host.on_unmap)
        room_host.on_unmap(addr);
}

static enum wr_hosted room_place(struct wr_host *host, uint64_t addr, const void *bytes,
                                 uint32_t pages, bool protect, uint32_t *done_p)
{
    (void)protect;
    note(&room_host.place, addr,
         (uint32_t)(((const uint8_t *)bytes - host->frames) / WEIR_PAGE_BYTES), pages);
    *done_p = pages;
    return WR_HOST_OK;
}

static void room_drop(struct wr_host *host, const struct wr_span *spans, uint32_t count)
{
    (void)host;
    for (uint32_t i = 0; i < count; i++)
        note(&room_host.drop, spans[i].addr, 0, spans[i].pages);
}

static enum wr_hosted room_stage(struct wr_host *host, uint32_t frame, const void *bytes)
{
    memcpy(wr_host_frame(host, frame), bytes, WEIR_PAGE_BYTES);
    return WR_HOST_OK;
}

static enum wr_hosted room_populate(struct wr_host *host, uint32_t frame, uint32_t pages)
{
    memset(wr_host_frame(host, frame), 0, (size_t)pages * WEIR_PAGE_BYTES);
    return WR_HOST_OK;
}

static const uint8_t *room_look_at(struct wr_host *host, uint32_t frame, uint32_t pages,
                                   uint8_t *room)
{
    memcpy(room, wr_host_frame(host, frame), (size_t)pages * WEIR_PAGE_BYTES);
    return room;
}

static void room_release(struct wr_host *host, uint32_t frame, uint32_t pages)
{
    (void)host;
    note(&room_host.release, 0, frame, pages);
}

static int room_facts(struct wr_host *host, uint64_t addr, uint32_t pages, uint8_t *facts)
{
    (void)host;
    (void)addr;
    memcpy(facts, room_host.facts, pages);
    return room_host.facts_error;
}

static enum wr_hosted room_protect(struct wr_host *host, uint64_t addr, uint32_t pages, bool on)
{
    (void)host;
    cr_assert(on);
    note(&room_host.protect, addr, 0, pages);
    return room_host.protect_result;
}

static int room_object_open(struct wr_host *host, uint64_t bytes, int *object_p)
{
    (void)host;
    (void)bytes;
    room_host.objects++;
    *object_p = 7;
    return room_host.map_error;
}

static void room_object_close(struct wr_host *host, int object)
{
    (void)host;
    cr_assert_eq(object, 7);
    room_host.objects--;
}

static int room_view_map(struct wr_host *host, int object, uint64_t offset, uint64_t bytes,
                         uint64_t *addr_p)
{
    (void)object;
    (void)offset;
    return room_region_map(host, bytes, addr_p);
}

static bool room_object_read(struct wr_host *host, int object, uint64_t offset, uint32_t frame,
                             uint32_t pages)
{
    (void)host;
    (void)object;
    if (room_host.reads_fail && room_host.read.pages + pages >= room_host.reads_fail)
        return false;
    note(&room_host.read, offset, frame, pages);
    return true;
}

static void room_object_punch(struct wr_host *host, int object, uint64_t offset, uint32_t pages)
{
    (void)host;
    (void)object;
    note(&room_host.punch, offset, 0, pages);
}

static int room_bell_init(struct wr_host *host, struct wr_bell *bell)
{
    (void)host;
    bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return bell->fd < 0 ? WEIR_ENOMEM : WEIR_OK;
}

static void room_bell_fini(struct wr_host *host, struct wr_bell *bell)
{
    (void)host;
    close(bell->fd);
}

static void room_bell_ring(struct wr_host *host, struct wr_bell *bell)
{
    (void)host;
    room_host.rings++;
    cr_assert_eq(eventfd_write(bell->fd, 1), 0);
}

static void room_bell_wait(struct wr_host *host, struct wr_bell *bell, const int *fds,
                           uint32_t fd_count, uint64_t deadline_ns)
{
    struct pollfd wait = {.fd = bell->fd, .events = POLLIN};
    uint64_t now = room_now_ns(host);
    struct timespec left = time_of(deadline_ns > now ? deadline_ns - now : 0);
    eventfd_t rung;

    cr_assert_eq(fd_count, 0);
    (void)fds;
    if (ppoll(&wait, 1, deadline_ns == WR_FOREVER ? NULL : &left, NULL) > 0)
        eventfd_read(bell->fd, &rung);
}

struct room_thread {
    pthread_t thread;
    void (*run)(void *);
    void *context;
};

static void *thread_main(void *argument)
{
    struct room_thread *thread = argument;

    thread->run(thread->context);
    return NULL;
}

static int room_thread_start(struct wr_host *host, const char *name, void (*run)(void *),
                             void *context, void **thread_p)
{
    struct room_thread *thread = malloc(sizeof(*thread));

    (void)host;
    (void)name;
    cr_assert_not_null(thread);
    *thread = (struct room_thread){.run = run, .context = context};
    cr_assert_eq(pthread_create(&thread->thread, NULL, thread_main, thread), 0);
    *thread_p = thread;
    return WEIR_OK;
}

static void room_thread_idle(struct wr_host *host)
{
    (void)host;
}

static void room_thread_stop(struct wr_host *host, void *argument)
{
    struct room_thread *thread = argument;

    (void)host;
    pthread_join(thread->thread, NULL);
    free(thread);
}

static const struct wr_host_ops room_ops = {
    .now_ns = room_now_ns,
    .region_map = room_region_map,
    .region_guard = room_region_guard,
    .region_seal = room_region_seal,
    .region_unmap = room_region_unmap,
    .place = room_place,
    .protect = room_protect,
    .drop = room_drop,
    .object_open = room_object_open,
    .object_close = room_object_close,
    .view_map = room_view_map,
    .object_read = room_object_read,
    .object_punch = room_object_punch,
    .stage = room_stage,
    .populate = room_populate,
    .look = room_look_at,
    .release = room_release,
    .facts = room_facts,
    .park = room_park,
    .unpark = room_unpark,
    .yield = room_yield,
    .bell_init = room_bell_init,
    .bell_fini = room_bell_fini,
    .bell_ring = room_bell_ring,
    .bell_wait = room_bell_wait,
    .thread_start = room_thread_start,
    .thread_stop = room_thread_stop,
    .thread_idle = room_thread_idle,
};

static uint64_t frames_bytes;

static void free_frames(void)
{
    munmap(room_host.host.frames - WEIR_PAGE_BYTES, frames_bytes + 2u * WEIR_PAGE_BYTES);
}

/* Zeros that nobody has stored yet, so that a test pays for those it uses; between two pages that
 * nobody may touch. */
static uint8_t *frames_of(uint64_t bytes)
{
    uint8_t *area = mmap(NULL, bytes + 2u * WEIR_PAGE_BYTES, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    cr_assert_neq((void *)area, MAP_FAILED);
    frames_bytes = bytes;
    area += WEIR_PAGE_BYTES;
    cr_assert_eq(mprotect(area, bytes, PROT_READ | PROT_WRITE), 0);
    return area;
}

void room_host_open(uint32_t slab_pages, uint32_t staging_pages)
{
    room_host.host.ops = &room_ops;
    room_host.host.slab_pages = slab_pages;
    room_host.host.frames = frames_of(((uint64_t)slab_pages + staging_pages) * WEIR_PAGE_BYTES);
    room_host.next_addr = (uint64_t)1 << 40;
    room_host.host.has_objects = room_host.host.protects_views = true;
    room_host.host.views_many = 16;
    atexit(free_frames);
}

/* --- The space ------------------------------------------------------------------------------- */

static void hear(void *context, const struct weir_event *event)
{
    struct room_events *events = context;

    events->count++;
    events->error = event->error;
    events->severity = event->severity;
    snprintf(events->text, sizeof(events->text), "%s", event->text);
}

static void press(void *context)
{
    (void)context;
    room_pressure++;
}

static void close_space(void)
{
    wr_aging_close(room_space.aging);
    wr_staging_fini(&room_space.staging);
    wr_cache_fini(&room_space.cache);
    wr_pages_fini(&room_space.pages);
}

void room_open(void)
{
    struct wr_space *space = &room_space;
    struct wr_frame_marks marks = {ROOM_MIN, ROOM_LOW, ROOM_HIGH};

    room_host_open(ROOM_FRAMES, ROOM_EXTENTS * WR_EXTENT_FRAMES);
    space->host = &room_host.host;
    space->stats = &room_stats;
    space->fault_around_pages = 32;
    space->readahead_pages = 64;
    wr_events_init(&space->events, hear, &room_events);
    cr_assert_eq(wr_pages_init(&space->pages, ROOM_PAGES, space->host, space->stats), WEIR_OK);
    wr_frames_init(&space->frames, space->host, space->stats, press, NULL);
    wr_frames_resize(&space->frames, ROOM_TOTAL, &marks);
    cr_assert_eq(wr_cache_init(&space->cache, &space->pages, ROOM_READERS, ROOM_CHUNKS), WEIR_OK);
    cr_assert_eq(wr_staging_init(&space->staging, space->host, &space->frames, ROOM_EXTENTS),
                 WEIR_OK);
    cr_assert_eq(wr_aging_open(space, ROOM_SCAN_RATIO, &space->aging), WEIR_OK);
    room_inherit(space->pages.table, ROOM_PAGES * sizeof(*space->pages.table));
    room_inherit(space->pages.chunks, ROOM_PAGES / WR_CHUNK_PAGES * sizeof(*space->pages.chunks));
    room_inherit(space->pages.areas, sizeof(*space->pages.areas));
    room_inherit(space->pages.present, 16 * sizeof(*space->pages.present));
    atexit(close_space);
}

static struct wr_region *mapped[64];
static uint32_t mapped_count;

static void free_regions(void)
{
    while (mapped_count > 0)
        free(mapped[--mapped_count]);
}

struct wr_region *room_map(uint32_t pages)
{
    struct wr_region *region = NULL;

    cr_assert_eq(wr_space_map(&room_space, (uint64_t)pages * WEIR_PAGE_BYTES, 0, "room", &region),
                 WEIR_OK);
    if (mapped_count == 0)
        atexit(free_regions);
    mapped[mapped_count++] = region;
    return region;
}

/* --- Pages ----------------------------------------------------------------------------------- */

/* One way to each state. */
static const enum wr_page_state before[WR_PAGE_STATE_COUNT] = {
    [WR_PAGE_RESIDENT_ZERO] = WR_PAGE_EMPTY,
    [WR_PAGE_RESIDENT_DIRTY] = WR_PAGE_EMPTY,
    [WR_PAGE_CACHED_DIRTY] = WR_PAGE_RESIDENT_DIRTY,
    [WR_PAGE_CACHED_WRITING] = WR_PAGE_CACHED_DIRTY,
    [WR_PAGE_RESIDENT_WRITING] = WR_PAGE_CACHED_WRITING,
    [WR_PAGE_OUT] = WR_PAGE_CACHED_WRITING,
    [WR_PAGE_READING] = WR_PAGE_OUT,
    [WR_PAGE_CACHED_CLEAN] = WR_PAGE_READING,
    [WR_PAGE_RESIDENT_CLEAN] = WR_PAGE_READING,
    [WR_PAGE_POISONED] = WR_PAGE_READING,
};

static void walk_to(struct wr_hold *hold, enum wr_page_state state)
{
    if (state == WR_PAGE_EMPTY)
        return;
    walk_to(hold, before[state]);
    wr_page_move(hold, before[state], state);
}

void room_bring_with(uint32_t page, enum wr_page_state state, uint64_t slot, uint32_t frame)
{
    struct wr_hold hold;

    wr_page_take(&room_space.pages, page, &hold);
    walk_to(&hold, state);
    wr_hold_set_slot(&hold, slot);
    wr_hold_set_frame(&hold, frame);
    wr_page_put(&room_space.pages, &hold);
}

void room_bring(uint32_t page, enum wr_page_state state)
{
    room_bring_with(page, state, WR_SLOT_NONE, WR_FRAME_NONE);
}

struct wr_hold room_look(uint32_t page)
{
    struct wr_hold hold, copy;

    wr_page_take(&room_space.pages, page, &hold);
    copy = hold;
    wr_page_put(&room_space.pages, &hold);
    return copy;
}

void room_set_flag(uint32_t page, enum wr_page_flag flag, bool on)
{
    struct wr_hold hold;

    wr_page_take(&room_space.pages, page, &hold);
    wr_hold_set(&hold, flag, on);
    wr_page_put(&room_space.pages, &hold);
}

/* --- The rest -------------------------------------------------------------------------------- */

bool room_dies(void (*call)(void *), void *context)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        const struct rlimit none = {0, 0};
        int null = open("/dev/null", O_WRONLY);

        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        dup2(null, STDERR_FILENO);
        call(context);
        _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

void room_inherit(void *area, uint64_t bytes)
{
    cr_assert_eq(madvise(area, bytes, MADV_DOFORK), 0);
}

void room_sleep_us(uint32_t us)
{
    struct timespec time = {us / 1000000, (long)(us % 1000000) * 1000};

    nanosleep(&time, NULL);
}
