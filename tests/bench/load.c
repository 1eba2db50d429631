/* SPDX-License-Identifier: MIT */
#include "load.h"

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "watch.h"

#define STAMPS 3u /* of each thread, in the first half, the second, and at the end */
static const unsigned first_stamps[STAMPS] = {0, 256, BENCH_WORDS - 2 * BENCH_THREADS_MAX};

static uint64_t pattern[BENCH_WORDS / 2];
static uint64_t pattern_sum;

enum phase { PHASE_WARM, PHASE_MEASURE, PHASE_STOP };

/* One per thread, each on cache lines of its own. */
struct worker {
    _Alignas(128) pthread_t thread;
    struct bench_load *load;
    const _Atomic(int) *phase;
    unsigned index;
    uint64_t random;
    _Atomic(uint64_t) touches;
    struct bench_histogram faults;
};

/* --- Memory ---------------------------------------------------------------------------------- */

/* May run in a signal handler. */
static void on_event(void *context, const struct weir_event *event)
{
    (void)context;
    if (event->severity == WEIR_NOTE)
        return;
    (void)!write(STDERR_FILENO, "weir: ", 6);
    (void)!write(STDERR_FILENO, event->text, strlen(event->text));
    (void)!write(STDERR_FILENO, "\n", 1);
}

static void make_pattern(void)
{
    uint64_t random = 0x9e3779b97f4a7c15ull;

    pattern_sum = 0;
    for (unsigned i = 0; i < BENCH_WORDS / 2; i++) {
        pattern[i] = bench_draw(&random);
        pattern_sum += pattern[i];
    }
}

struct weir_runtime *bench_runtime_open(void)
{
    struct weir_options options;
    struct weir_runtime *rt;
    int error;

    bench_watch_register();
    weir_options_init(&options);
    options.budget_bytes = bench_argument("budget", options.budget_bytes);
    options.backends = bench_argument_text("spec", options.backends);
    options.zero_elision = bench_argument("elision", options.zero_elision);
    options.slot_keep_percent = bench_argument("keep", options.slot_keep_percent);
    options.readahead_bytes = bench_argument("readahead", options.readahead_bytes);
    options.fault_around_bytes = bench_argument("around", options.fault_around_bytes);
    options.on_event = on_event;
    error = weir_open(&options, &rt);
    if (error != WEIR_OK)
        bench_fail("weir_open: %s", weir_error_text(error));
    return rt;
}

static void *map_plain(uint64_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED || madvise(base, bytes, MADV_NOHUGEPAGE) != 0)
        bench_fail("mmap of %llu bytes is refused", (unsigned long long)bytes);
    return base;
}

void bench_memory_map(struct bench_memory *memory, uint64_t pages, unsigned threads)
{
    uint64_t bytes = pages * BENCH_PAGE;
    void *base = NULL;

    if (memory->rt) {
        int error = weir_map(memory->rt, bytes, NULL, &base);

        if (error != WEIR_OK)
            bench_fail("weir_map: %s", weir_error_text(error));
    } else {
        base = map_plain(bytes);
    }
    bench_memory_adopt(memory, base, pages, threads);
}

void bench_memory_adopt(struct bench_memory *memory, void *base, uint64_t pages, unsigned threads)
{
    make_pattern();
    memory->base = base;
    memory->pages = pages;
    memory->threads = threads;
    memory->version = calloc(pages * threads, sizeof(*memory->version));
    if (!memory->version || threads > BENCH_THREADS_MAX)
        bench_fail("no memory for so many threads' notes");
}

struct bench_memory bench_memory_at(const struct bench_memory *first, void *base)
{
    struct bench_memory memory = *first;

    memory.base = base;
    return memory;
}

void bench_memory_open(struct bench_memory *memory)
{
    *memory = (struct bench_memory){0};
    if (strcmp(bench_argument_text("memory", "weir"), "weir") == 0)
        memory->rt = bench_runtime_open();
    bench_memory_map(memory, bench_argument("pages", 0), (unsigned)bench_argument("threads", 1));
}

void bench_memory_close(struct bench_memory *memory)
{
    if (memory->rt && getenv("WEIR_BENCH_REPORT"))
        weir_report_fd(memory->rt, STDERR_FILENO);
    if (memory->rt)
        weir_close(memory->rt);
    else
        munmap(memory->base, memory->pages * BENCH_PAGE);
    free(memory->version);
}

void bench_stats(const struct bench_memory *memory, struct weir_stats *stats)
{
    *stats = (struct weir_stats){.size = sizeof(*stats)};
    if (memory->rt && weir_stats(memory->rt, stats) != WEIR_OK)
        bench_fail("weir_stats is refused");
}

/* --- Content --------------------------------------------------------------------------------- */

static volatile uint64_t *words_of(const struct bench_memory *memory, uint64_t page)
{
    return (volatile uint64_t *)(void *)(memory->base + page * BENCH_PAGE);
}

/* The word that is the same all over a page but for its stamps. */
static uint64_t plain_word(uint64_t page, uint64_t version)
{
    return (page + 1) << 8 | (version & 0xff);
}

static uint64_t salt_of(uint64_t page, uint64_t generation)
{
    uint64_t mixed = (page + 1) * 0x9e3779b97f4a7c15ull + generation * 0xd1b54a32d192ed03ull;

    return mixed ^ mixed >> 29;
}

void bench_wrong(const struct bench_memory *memory, uint64_t page, uint64_t found,
                 uint64_t expected)
{
    fprintf(stderr, "WRONG: page %llu holds %#llx, expected %#llx\n", (unsigned long long)page,
            (unsigned long long)found, (unsigned long long)expected);
    if (memory->rt)
        weir_report_fd(memory->rt, STDERR_FILENO);
    _exit(BENCH_EXIT_WRONG);
}

static void expect(const struct bench_memory *memory, uint64_t page, uint64_t found,
                   uint64_t expected)
{
    if (found != expected)
        bench_wrong(memory, page, found, expected);
}

void bench_page_fill(struct bench_memory *memory, uint64_t page, uint64_t generation)
{
    uint64_t *words = (uint64_t *)(void *)(memory->base + page * BENCH_PAGE);
    const uint64_t plain = plain_word(page, 0), salt = salt_of(page, generation);

    for (unsigned i = 0; i < BENCH_WORDS / 2; i++) {
        words[2 * i] = plain;
        words[2 * i + 1] = pattern[i] + salt;
    }
}

void bench_page_check(struct bench_memory *memory, uint64_t page, uint64_t generation)
{
    const uint64_t *words = (const uint64_t *)(const void *)(memory->base + page * BENCH_PAGE);
    uint64_t sum = 0;

    for (unsigned i = 0; i < BENCH_WORDS; i++)
        sum += words[i];
    expect(memory, page, sum,
           pattern_sum + BENCH_WORDS / 2 * (plain_word(page, 0) + salt_of(page, generation)));
}

void bench_fill_all(struct bench_memory *memory)
{
    for (uint64_t page = 0; page < memory->pages; page++)
        bench_page_fill(memory, page, 0);
}

/* --- Touches --------------------------------------------------------------------------------- */

static volatile uint64_t *stamp_of(const struct bench_memory *memory, unsigned thread,
                                   uint64_t page, unsigned which)
{
    return words_of(memory, page) + first_stamps[which] + 2u * thread;
}

static uint8_t *version_of(const struct bench_memory *memory, unsigned thread, uint64_t page)
{
    return &memory->version[thread * memory->pages + page];
}

static void check_rest(const struct bench_memory *memory, unsigned thread, uint64_t page)
{
    const uint64_t stamp = plain_word(page, *version_of(memory, thread, page));
    unsigned word = (unsigned)(page % (BENCH_WORDS / 2));

    for (unsigned i = 1; i < STAMPS; i++)
        expect(memory, page, *stamp_of(memory, thread, page, i), stamp);
    expect(memory, page, words_of(memory, page)[2 * word + 1], pattern[word] + salt_of(page, 0));
}

uint64_t bench_touch_read(struct bench_memory *memory, unsigned thread, uint64_t page)
{
    volatile uint64_t *stamp = stamp_of(memory, thread, page, 0);
    uint64_t begun = bench_now_ns();
    uint64_t found = *stamp;
    uint64_t took = bench_now_ns() - begun;

    expect(memory, page, found, plain_word(page, *version_of(memory, thread, page)));
    check_rest(memory, thread, page);
    return took;
}

/* The first access is a store, so that the touch is a write from the start. */
uint64_t bench_touch_write(struct bench_memory *memory, unsigned thread, uint64_t page)
{
    volatile uint64_t *stamp = stamp_of(memory, thread, page, 0);
    uint64_t fresh = plain_word(page, *version_of(memory, thread, page) + 1u);
    uint64_t begun = bench_now_ns();
    uint64_t took;

    *stamp = fresh;
    took = bench_now_ns() - begun;
    check_rest(memory, thread, page);
    for (unsigned i = 1; i < STAMPS; i++)
        *stamp_of(memory, thread, page, i) = fresh;
    (*version_of(memory, thread, page))++;
    return took;
}

void bench_glance(struct bench_memory *memory, uint64_t page)
{
    /* No stamp lies there, and neighbours do not share their place in the caches. */
    expect(memory, page, words_of(memory, page)[64 + page % 64 * 2], plain_word(page, 0));
}

/* --- Load ------------------------------------------------------------------------------------ */

static void *work(void *context)
{
    struct worker *w = context;
    struct bench_load *load = w->load;
    int phase;

    while ((phase = atomic_load_explicit(w->phase, memory_order_relaxed)) != PHASE_STOP) {
        uint64_t draw = bench_draw(&w->random);
        uint64_t page = (draw >> 16) % load->memory->pages;
        bool is_write = draw % 100 < load->writes_percent;
        uint64_t took = is_write ? bench_touch_write(load->memory, w->index, page)
                                 : bench_touch_read(load->memory, w->index, page);

        if (phase == PHASE_MEASURE && took >= BENCH_FAULT_NS)
            bench_histogram_add(&w->faults, took);
        /* One writer: no need for an atomic addition. */
        atomic_store_explicit(&w->touches,
                              atomic_load_explicit(&w->touches, memory_order_relaxed) + 1,
                              memory_order_relaxed);
    }
    return NULL;
}

static uint64_t touches_of(const struct worker *workers, unsigned count)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += atomic_load_explicit(&workers[i].touches, memory_order_relaxed);
    return sum;
}

static uint64_t major_faults(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_majflt;
}

static void measure(struct bench_load *load, struct worker *workers, _Atomic(int) *phase)
{
    uint64_t begun = bench_now_ns(), first;

    while (touches_of(workers, load->threads) < load->warm_touches &&
           bench_now_ns() - begun < load->warm_ns_max)
        usleep(10000);
    bench_stats(load->memory, &load->before);
    load->major_before = major_faults();
    first = touches_of(workers, load->threads);
    begun = bench_now_ns();
    atomic_store(phase, PHASE_MEASURE);
    usleep((useconds_t)(load->seconds * 1e6));
    load->touches = touches_of(workers, load->threads) - first;
    load->rate = (double)load->touches * 1e9 / (double)(bench_now_ns() - begun);
    load->major_after = major_faults();
    bench_stats(load->memory, &load->after);
    atomic_store(phase, PHASE_STOP);
}

void bench_load_run(struct bench_load *load)
{
    static struct worker workers[BENCH_THREADS_MAX];
    static _Atomic(int) phase;

    if (load->threads == 0 || load->threads > load->memory->threads)
        bench_fail("no such number of threads: %u", load->threads);
    atomic_store(&phase, PHASE_WARM);
    memset(&load->faults, 0, sizeof(load->faults));
    for (unsigned i = 0; i < load->threads; i++) {
        struct worker *w = &workers[i];

        memset(w, 0, sizeof(*w));
        w->load = load;
        w->phase = &phase;
        w->index = i;
        w->random = (i + 1) * 0x2545f4914f6cdd1dull;
        if (pthread_create(&w->thread, NULL, work, w) != 0)
            bench_fail("cannot start a thread");
    }
    measure(load, workers, &phase);
    for (unsigned i = 0; i < load->threads; i++) {
        pthread_join(workers[i].thread, NULL);
        bench_histogram_merge(&load->faults, &workers[i].faults);
    }
}

/* --- What the library's own threads cost ----------------------------------------------------- */

static double seconds_of(const char *thread)
{
    char path[300], name[40] = "", line[600] = "";
    unsigned long long user = 0, system = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/task/%.200s/comm", thread);
    file = fopen(path, "re");
    if (file && fgets(name, sizeof(name), file) && strncmp(name, "weir-", 5) == 0) {
        fclose(file);
        snprintf(path, sizeof(path), "/proc/self/task/%.200s/stat", thread);
        file = fopen(path, "re");
        if (file && fgets(line, sizeof(line), file) && strrchr(line, ')'))
            sscanf(strrchr(line, ')'), ") %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu",
                   &user, &system);
    }
    if (file)
        fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

double bench_runtime_seconds(void)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    double sum = 0;

    while (dir && (entry = readdir(dir)))
        if (*entry->d_name != '.')
            sum += seconds_of(entry->d_name);
    if (dir)
        closedir(dir);
    return sum;
}
