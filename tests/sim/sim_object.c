/* SPDX-License-Identifier: MIT */

/*
 * Objects: a page of one is a hole, or resident, whether any view maps it or not. The kernel unmaps
 * what it frees; who copies bytes that somebody could still change is found out at once.
 */

#include <stdlib.h>
#include <sys/mman.h>

#include "tests/sim/sim_object.h"

#define OBJECTS_MAX 4u
#define GARBAGE     0xbad0bad0bad0bad0u /* in a hole, where nobody has any business */

enum page_kind { HOLE, RESIDENT, COPIED };

struct sim_object {
    uint32_t pages; /* 0: free */
    uint8_t *bytes;
    uint8_t *kinds;
};

static struct sim_object objects[OBJECTS_MAX];
static uint32_t copies;

uint32_t sim_object_count(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < OBJECTS_MAX; i++)
        count += objects[i].pages > 0;
    return count;
}

uint32_t sim_object_copies(void)
{
    return copies;
}

static uint32_t index_of(const struct sim_object *object, const uint8_t *bytes)
{
    return (uint32_t)((uint64_t)(bytes - object->bytes) / SIM_PAGE);
}

bool sim_object_has(const struct sim_object *object, const uint8_t *bytes)
{
    return object->kinds[index_of(object, bytes)] != HOLE;
}

bool sim_object_add(struct sim_object *object, const uint8_t *bytes)
{
    uint8_t *kind = &object->kinds[index_of(object, bytes)];

    if (*kind != HOLE)
        return false;
    *kind = RESIDENT;
    sim_frames_count(1);
    return true;
}

static int fake_open(struct wr_host *h, uint64_t bytes, int *object_p)
{
    uint32_t i = 0;

    (void)h;
    sim_point();
    sim_machine_take();
    while (i < OBJECTS_MAX && objects[i].pages)
        i++;
    if (i == OBJECTS_MAX)
        sim_fail("too many objects");
    objects[i].pages = (uint32_t)(bytes / SIM_PAGE);
    objects[i].kinds = calloc(objects[i].pages, 1);
    objects[i].bytes = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                            0);
    if (!objects[i].kinds || objects[i].bytes == MAP_FAILED)
        sim_fail("no real memory for an object");
    sim_machine_drop();
    *object_p = (int)i;
    sim_event("object open", i, bytes / SIM_PAGE);
    return WEIR_OK;
}

static void fake_close(struct wr_host *h, int number)
{
    struct sim_object *object = &objects[number];

    (void)h;
    sim_point();
    sim_machine_take();
    for (uint32_t i = 0; sim_area_at(i); i++)
        if (sim_area_at(i)->addr && sim_area_at(i)->object == object)
            sim_fail("an object is closed before its views");
    for (uint32_t i = 0; i < object->pages; i++)
        if (object->kinds[i] != HOLE)
            sim_fail("an object is closed with page %u resident", i);
    munmap(object->bytes, object->pages * SIM_PAGE);
    free(object->kinds);
    *object = (struct sim_object){0};
    sim_machine_drop();
    sim_event("object close", (uint64_t)number, 0);
}

static int fake_view_map(struct wr_host *h, int number, uint64_t offset, uint64_t bytes,
                         uint64_t *addr_p)
{
    struct sim_object *object = &objects[number];

    (void)h;
    sim_point();
    if (offset + bytes > object->pages * SIM_PAGE)
        sim_fail("a view is larger than its object");
    *addr_p = sim_area_add((struct sim_area){
        .pages = (uint32_t)(bytes / SIM_PAGE),
        .bytes = object->bytes + offset,
        .object = object,
    });
    return WEIR_OK;
}

static enum wr_hosted fake_reveal(struct wr_host *h, uint64_t addr, uint32_t pages, bool protect,
                                  uint32_t *done_p)
{
    enum wr_hosted result = WR_HOST_OK;

    sim_event(protect ? "reveal protected" : "reveal", addr, pages);
    if (protect && !h->protects_views)
        sim_fail("a view is protected, and cannot be");
    for (*done_p = 0; *done_p < pages && result == WR_HOST_OK;) {
        sim_point();
        if (sim_inject(sim.profile.no_memory))
            return WR_HOST_NOMEM;
        sim_machine_take();
        result = sim_area_reveal(addr + *done_p * SIM_PAGE, protect);
        sim_machine_drop();
        *done_p += result == WR_HOST_OK;
    }
    return result;
}

/* The entry of a page of an object in an area; NULL: it does not show there. */
static struct sim_entry *entry_in(struct sim_area *area, const struct sim_object *object,
                                  uint32_t page)
{
    uint32_t first;

    if (!area->addr || area->object != object)
        return NULL;
    first = index_of(object, area->bytes);
    return page >= first && page - first < area->pages ? &area->entries[page - first] : NULL;
}

/* Nobody may be able to change what is copied; what is taken, nobody may even see. */
static void check_views(const struct sim_object *object, uint32_t page, bool is_taken)
{
    for (uint32_t i = 0; sim_area_at(i); i++) {
        const struct sim_entry *entry = entry_in(sim_area_at(i), object, page);

        if (entry && entry->is_present && (is_taken || !entry->is_protected))
            sim_fail("page %u of an object is copied while a view maps it", page);
    }
}

static bool fake_read(struct wr_host *h, int number, uint64_t offset, uint32_t frame,
                      uint32_t pages)
{
    struct sim_object *object = &objects[number];
    bool is_taken = frame >= h->slab_pages;

    sim_event("object read", offset, pages);
    if (sim_inject(is_taken ? sim.profile.revoke_fails : sim.profile.copy_stops))
        return false;
    for (uint32_t i = 0; i < pages; i++) {
        uint32_t page = (uint32_t)(offset / SIM_PAGE) + i;
        const uint8_t *bytes = object->bytes + page * SIM_PAGE;

        sim_point();
        sim_machine_take();
        if (object->kinds[page] != RESIDENT)
            sim_fail("page %u of an object is copied, and is not resident", page);
        check_views(object, page, is_taken);
        if (is_taken) {
            object->kinds[page] = COPIED;
            copies++;
            sim_staging_fill(frame + i, bytes);
            sim_check_budget();
        } else {
            sim_copy_page(wr_host_frame(h, frame + i), bytes);
        }
        sim_machine_drop();
    }
    return true;
}

static void punch_one(struct sim_object *object, uint32_t page)
{
    for (uint32_t i = 0; sim_area_at(i); i++) {
        struct sim_area *area = sim_area_at(i);

        if (entry_in(area, object, page))
            sim_area_drop(area, page - index_of(object, area->bytes));
    }
    if (object->kinds[page] == HOLE)
        return;
    copies -= object->kinds[page] == COPIED;
    object->kinds[page] = HOLE;
    sim_frames_count(-1);
    sim_fill_page(object->bytes + page * SIM_PAGE, GARBAGE);
}

static void fake_punch(struct wr_host *h, int number, uint64_t offset, uint32_t pages)
{
    (void)h;
    sim_event("object punch", offset, pages);
    for (uint32_t i = 0; i < pages; i++) {
        sim_point();
        sim_machine_take();
        punch_one(&objects[number], (uint32_t)(offset / SIM_PAGE) + i);
        sim_machine_drop();
    }
}

void sim_object_ops(struct wr_host_ops *ops)
{
    ops->object_open = fake_open;
    ops->object_close = fake_close;
    ops->view_map = fake_view_map;
    ops->reveal = fake_reveal;
    ops->object_read = fake_read;
    ops->object_punch = fake_punch;
}
