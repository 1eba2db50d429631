/* SPDX-License-Identifier: MIT */

/* Sources of heat, before made-up files of the kernel's and a made-up ring of samples. */

#include "runtime/host/heat_source.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/host/file.h"
#include "runtime/host/heat_perf.h"

static char root[64], reasons[400];
static struct wr_text why;
static struct wr_heat_source *source;
static struct {
    uint64_t addr;
    uint32_t pages;
} used[64];
static uint32_t used_count;

static void on_used(void *context, uint64_t addr, uint32_t pages)
{
    cr_assert_eq(context, &used_count);
    cr_assert_lt(used_count, 64u);
    used[used_count].addr = addr;
    used[used_count++].pages = pages;
}

static void step(const uint64_t *sample, uint32_t count)
{
    const struct wr_heat_ask ask = {sample, count, on_used, &used_count};

    used_count = 0;
    source->ops->step(source, &ask);
}

static void make_root(void)
{
    strcpy(root, "/tmp/weir-heat-XXXXXX");
    cr_assert_not_null(mkdtemp(root));
    wr_text_init(&why, reasons, sizeof(reasons));
}

static void remove_root(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

/* A file below the root, and the directories on its way. */
static void make_file(const char *path, const char *text)
{
    char whole[WR_HEAT_PATH];
    int file;

    (void)wr_heat_path(whole, root, path);
    for (char *slash = strchr(whole + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        cr_assert(mkdir(whole, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    file = open(whole, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    cr_assert_geq(file, 0);
    cr_assert(wr_file_append(file, text, strlen(text)));
    close(file);
}

static void expect_file(const char *path, const char *text)
{
    char whole[WR_HEAT_PATH], found[100];

    cr_assert(wr_file_read(wr_heat_path(whole, root, path), found, sizeof(found)), "%s", whole);
    cr_expect_str_eq(found, text, "%s: %s", path, found);
}

static void expect_refused(const struct wr_heat_source_ops *ops, const char *word)
{
    wr_text_init(&why, reasons, sizeof(reasons));
    cr_expect_eq(ops->open(root, &source, &why), WEIR_ENOSUPPORT);
    cr_expect_not_null(strstr(reasons, word), "%s, and not: %s", word, reasons);
}

Test(heat_source, what_a_machine_does_not_offer_is_named)
{
    make_root();
    expect_refused(&wr_heat_idle, "CONFIG_IDLE_PAGE_TRACKING");
    expect_refused(&wr_heat_damon, "CONFIG_DAMON_SYSFS");
    expect_refused(&wr_heat_perf, "no sampling of loads");
    remove_root();
}

/* --- Idle page tracking ---------------------------------------------------------------------- */

#define BITMAP  "/sys/kernel/mm/page_idle/bitmap"
#define PAGEMAP "/proc/self/pagemap"

static void set_word(const char *path, uint64_t index, uint64_t word)
{
    char whole[WR_HEAT_PATH];
    int file = open(wr_heat_path(whole, root, path), O_RDWR);

    cr_assert_geq(file, 0);
    cr_assert_eq(pwrite(file, &word, 8, (off_t)(8 * index)), 8);
    close(file);
}

static uint64_t get_word(const char *path, uint64_t index)
{
    char whole[WR_HEAT_PATH];
    int file = open(wr_heat_path(whole, root, path), O_RDONLY);
    uint64_t word = 0;

    cr_assert_geq(pread(file, &word, 8, (off_t)(8 * index)), 0);
    close(file);
    return word;
}

static void set_frame(uint64_t addr, uint64_t frame)
{
    set_word(PAGEMAP, addr / WEIR_PAGE_BYTES, frame ? 1ull << 63 | frame : 0);
}

/* Frames for the stack, on which the source looks for its first. */
static void set_stack(void)
{
    int here;
    uint64_t page = (uint64_t)(uintptr_t)&here & ~4095ull;

    for (int i = -8; i < 8; i++)
        set_frame(page + (uint64_t)(int64_t)i * WEIR_PAGE_BYTES, 700);
}

Test(heat_source, idle_tells_the_pages_whose_mark_was_cleared)
{
    const uint64_t sample[] = {1ull << 40, (1ull << 40) + 4096, (1ull << 40) + 8192,
                               (1ull << 40) + 12288};

    make_root();
    make_file(BITMAP, "");
    make_file(PAGEMAP, "");
    expect_refused(&wr_heat_idle, "CAP_SYS_ADMIN");
    set_stack();
    set_frame(sample[0], 64);
    set_frame(sample[1], 65);
    set_frame(sample[2], 130);
    cr_assert_eq(wr_heat_idle.open(root, &source, &why), WEIR_OK, "%s", reasons);
    step(sample, 3);
    cr_expect_eq(used_count, 0u, "nothing was marked before");
    cr_expect_eq(get_word(BITMAP, 2), 1ull << 2, "frame 130");

    /* 65 is touched; 130 is touched and its page went elsewhere; what is not mapped is nothing.
     * The made-up bitmap does not keep the bits of a word that are not written: it holds 65's. */
    set_word(BITMAP, 1, 1);
    set_word(BITMAP, 2, 0);
    set_frame(sample[2], 131);
    step(sample + 3, 1);
    cr_assert_eq(used_count, 1u);
    cr_expect_eq(used[0].addr, sample[1]);
    cr_expect_eq(used[0].pages, 1u);
    step(sample, 0);
    cr_expect_eq(used_count, 0u, "each is told once");
    source->ops->close(source);
    remove_root();
}

/* --- DAMON ----------------------------------------------------------------------------------- */

#define ADMIN   "/sys/kernel/mm/damon/admin/kdamonds/"
#define CONTEXT ADMIN "0/contexts/0/"
#define SCHEME  CONTEXT "schemes/0/"

static void make_damon(void)
{
    static const char *const files[] = {
        ADMIN "0/contexts/nr_contexts",
        ADMIN "0/state",
        CONTEXT "operations",
        CONTEXT "targets/nr_targets",
        CONTEXT "targets/0/pid_target",
        CONTEXT "monitoring_attrs/intervals/sample_us",
        CONTEXT "monitoring_attrs/intervals/aggr_us",
        CONTEXT "monitoring_attrs/intervals/update_us",
        CONTEXT "monitoring_attrs/nr_regions/max",
        CONTEXT "schemes/nr_schemes",
        SCHEME "action",
        SCHEME "access_pattern/sz/max",
        SCHEME "access_pattern/nr_accesses/min",
        SCHEME "access_pattern/nr_accesses/max",
        SCHEME "access_pattern/age/max",
    };

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        make_file(files[i], "");
    make_file(ADMIN "nr_kdamonds", "0\n");
}

Test(heat_source, damon_is_set_up_read_and_put_away)
{
    char pid[24];

    make_root();
    make_damon();
    cr_assert_eq(wr_heat_damon.open(root, &source, &why), WEIR_OK, "%s", reasons);
    snprintf(pid, sizeof(pid), "%d", getpid());
    expect_file(ADMIN "nr_kdamonds", "1");
    expect_file(CONTEXT "operations", "vaddr");
    expect_file(CONTEXT "targets/0/pid_target", pid);
    expect_file(SCHEME "action", "stat");
    expect_file(ADMIN "0/state", "update_schemes_tried_regions");

    make_file(SCHEME "tried_regions/0/start", "1099511627776\n");
    make_file(SCHEME "tried_regions/0/end", "1099511635968\n");
    make_file(SCHEME "tried_regions/1/start", "1099511640064\n");
    make_file(SCHEME "tried_regions/1/end", "1099511640064\n");
    make_file(ADMIN "0/state", "on\n");
    step(NULL, 0);
    cr_assert_eq(used_count, 1u, "one is empty");
    cr_expect_eq(used[0].addr, 1ull << 40);
    cr_expect_eq(used[0].pages, 2u);
    expect_file(ADMIN "0/state", "update_schemes_tried_regions");

    source->ops->close(source);
    expect_file(ADMIN "0/state", "off");
    expect_file(ADMIN "nr_kdamonds", "0");
    remove_root();
}

Test(heat_source, damon_is_left_alone_when_somebody_else_has_it)
{
    make_root();
    make_damon();
    make_file(ADMIN "nr_kdamonds", "1\n");
    make_file(ADMIN "0/state", "on\n");
    expect_refused(&wr_heat_damon, "somebody else");
    expect_file(ADMIN "nr_kdamonds", "1");
    expect_file(ADMIN "0/state", "on");
    remove_root();
}

Test(heat_source, damon_that_lacks_something_is_put_away_again)
{
    char path[WR_HEAT_PATH];

    make_root();
    make_damon();
    cr_assert_eq(unlink(wr_heat_path(path, root, CONTEXT "operations")), 0);
    expect_refused(&wr_heat_damon, "CONFIG_DAMON_VADDR");
    expect_file(ADMIN "nr_kdamonds", "0");
    remove_root();
}

/* --- Perf ------------------------------------------------------------------------------------ */

#define RING 4096u

static uint8_t ring[RING];
static struct perf_event_mmap_page head;

static void add_sample(uint32_t type, uint64_t addr, uint16_t size)
{
    struct perf_event_header record = {.type = type, .size = size};
    uint8_t bytes[64] = {0};

    memcpy(bytes, &record, sizeof(record));
    memcpy(bytes + sizeof(record), &addr, sizeof(addr));
    for (uint32_t i = 0; i < size && i < sizeof(bytes); i++)
        ring[(head.data_head + i) % RING] = bytes[i];
    head.data_head += size;
}

static void drain(void)
{
    const struct wr_heat_ask ask = {NULL, 0, on_used, &used_count};

    used_count = 0;
    wr_perf_drain(&head, ring, RING, &ask);
    cr_assert_eq(head.data_tail, head.data_head);
}

Test(heat_source, perf_tells_the_addresses_of_its_samples)
{
    drain();
    cr_expect_eq(used_count, 0u);
    head.data_head = head.data_tail = 10 * RING - 12; /* the first goes round the end */
    add_sample(PERF_RECORD_SAMPLE, 0x123456789abcull, 16);
    add_sample(PERF_RECORD_LOST, 5, 24);
    add_sample(PERF_RECORD_SAMPLE, 0x42000, 16);
    drain();
    cr_assert_eq(used_count, 2u);
    cr_expect_eq(used[0].addr, 0x123456789abcull);
    cr_expect_eq(used[1].addr, 0x42000u);
    drain();
    cr_expect_eq(used_count, 0u, "each is told once");
}

Test(heat_source, perf_does_not_trust_the_ring)
{
    add_sample(PERF_RECORD_SAMPLE, 1, 16);
    add_sample(PERF_RECORD_SAMPLE, 2, 16);
    ring[16 + 6] = 0; /* the second is of no bytes */
    drain();
    cr_expect_eq(used_count, 1u);
    add_sample(PERF_RECORD_SAMPLE, 3, 16);
    ring[32 + 6] = 200; /* longer than what is there */
    drain();
    cr_expect_eq(used_count, 0u);
}

Test(heat_source, perf_reads_the_words_of_an_event)
{
    struct perf_event_attr attr = {0};

    cr_assert(wr_perf_words("event=0xcd,umask=0x1,ldlat=3", &attr));
    cr_expect_eq(attr.config, 0x1cdu);
    cr_expect_eq(attr.config1, 3u);
    cr_expect_not(wr_perf_words("event=0xcd,colour=3", &attr));
}

Test(heat_source, perf_says_when_the_kernel_refuses_the_event)
{
    make_root();
    make_file("/sys/bus/event_source/devices/cpu/type", "4000000000\n"); /* of no such device */
    make_file("/sys/bus/event_source/devices/cpu/events/mem-loads", "event=0xcd,umask=0x1\n");
    expect_refused(&wr_heat_perf, "perf_event_open failed");
    remove_root();
}
