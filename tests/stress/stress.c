/* SPDX-License-Identifier: MIT */

/*
 * Stress: every page stamped, on the real kernel, while everything happens at once.
 *
 *   word    the smallest thing a thread owns in a page: each thread writes only its own words of
 *           the shared pages, and knows what it wrote last
 *   shared  pages that all threads touch; private: pages that one thread also discards, frees,
 *           pins, hands to devices
 *   views   with --views the shared pages are an object, and each touch goes through a view by
 *           chance; others come and go
 *
 * A thread that reads its own word and does not find what it wrote last has found a lost write, a
 * stale page or somebody else's bytes: the program prints it and exits with 1. What the races are
 * is listed in docs/TESTING.md; each switch below turns a group of them on.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir_object.h>

#include "runtime/memory/audit.h"
#include "runtime/memory/gate.h"
#include "runtime/runtime.h"

#define PAGE        4096u
#define THREADS_MAX 16u
#define COPIES      3u /* places in a page where a thread writes the same version */
#define WORDS_APART 168u
#define VIEWS_MAX   1024u
#define SKIPPED     77 /* to CTest: this machine does not offer it */

struct options {
    const char *engine, *backends, *device;
    uint64_t budget_mib, shared_pages, private_pages;
    unsigned threads, seconds, seed, writes, cpus, views;
    bool hints, pins, forks, signals, resize, regions, drain, audit, streams;
};

static struct options opt = {
    .engine = "auto",
    .backends = "mem:?size=2G",
    .budget_mib = 16,
    .shared_pages = 16384,
    .private_pages = 2048,
    .threads = 4,
    .seconds = 5,
    .seed = 1,
    .writes = 50,
    .hints = true,
    .pins = true,
    .forks = true,
    .signals = true,
    .resize = true,
    .regions = true,
    .audit = true,
    .streams = true,
};

struct worker {
    pthread_t thread;
    unsigned index;
    uint64_t random;
    uint64_t operations;
    uint32_t *shared_version;  /* of each shared page, what this thread wrote last */
    uint32_t *private_version; /* of each private page; 0: zero                    */
    uint8_t *maybe;            /* private pages whose old bytes may be gone        */
    char *private_pages;
};

static struct weir_runtime *rt;
static char *shared; /* the first view, where there are views */
static struct weir_object *object;
static char *views[VIEWS_MAX];
static _Atomic(bool) stop;
static struct worker workers[THREADS_MAX];
static int device_fd = -1;

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t stamp(unsigned thread, uint64_t page, uint32_t version)
{
    return version == 0 ? 0 : (uint64_t)(thread + 1) << 56 | page << 32 | version;
}

static _Noreturn void wrong(const char *what, unsigned thread, uint64_t page, uint64_t found,
                            uint64_t expected)
{
    fprintf(stderr, "WRONG: %s: thread %u page %llu holds %#llx, expected %#llx\n", what, thread,
            (unsigned long long)page, (unsigned long long)found, (unsigned long long)expected);
    weir_report_fd(rt, 2);
    _exit(1);
}

static void check_api(int error, const char *what)
{
    if (error == WEIR_OK)
        return;
    fprintf(stderr, "WRONG: %s gave %s\n", what, weir_error_name(error));
    weir_report_fd(rt, 2);
    _exit(1);
}

static volatile uint64_t *word_of(char *base, uint64_t page, unsigned thread, unsigned copy)
{
    return (volatile uint64_t *)(void *)(base + page * PAGE) + copy * WORDS_APART + thread;
}

/* --- Shared pages: every thread its own words ------------------------------------------------ */

static char *some_view(struct worker *w)
{
    return opt.views ? views[draw(&w->random) % opt.views] : shared;
}

static void verify_shared(struct worker *w, uint64_t page)
{
    uint64_t expected = stamp(w->index, page, w->shared_version[page]);
    char *view = some_view(w);

    for (unsigned c = 0; c < COPIES; c++) {
        uint64_t found = *word_of(view, page, w->index, c);

        if (found != expected)
            wrong("shared page", w->index, page, found, expected);
    }
}

static void write_shared(struct worker *w, uint64_t page)
{
    uint32_t version = ++w->shared_version[page];

    for (unsigned c = 0; c < COPIES; c++)
        *word_of(some_view(w), page, w->index, c) = stamp(w->index, page, version);
}

static void touch_shared(struct worker *w)
{
    uint64_t page = draw(&w->random) % opt.shared_pages;

    verify_shared(w, page);
    if (draw(&w->random) % 100 < opt.writes)
        write_shared(w, page);
}

static void walk_shared(struct worker *w)
{
    uint64_t page = draw(&w->random) % opt.shared_pages;
    uint64_t length = draw(&w->random) % 400;
    bool up = draw(&w->random) & 1, writes = draw(&w->random) & 1;

    for (uint64_t i = 0; i < length; i++) {
        if (page >= opt.shared_pages)
            return;
        verify_shared(w, page);
        if (writes)
            write_shared(w, page);
        page = up ? page + 1 : page - 1;
    }
}

/* A view of a part, mapped, used and unmapped while others use the pages. */
static void brief_view(struct worker *w)
{
    uint64_t first = draw(&w->random) % opt.shared_pages;
    uint64_t pages = 1 + draw(&w->random) % (opt.shared_pages - first);
    void *memory;

    check_api(weir_view_map(object, first * PAGE, pages * PAGE, &memory), "view map");
    for (unsigned i = 0; i < 50; i++) {
        uint64_t at = draw(&w->random) % pages, page = first + at;
        for (unsigned c = 0; c < COPIES; c++) {
            uint64_t found = *word_of(memory, at, w->index, c);
            uint64_t expected = stamp(w->index, page, w->shared_version[page]);

            if (found != expected)
                wrong("brief view", w->index, page, found, expected);
        }
        if (draw(&w->random) % 100 >= opt.writes)
            continue;
        w->shared_version[page]++;
        for (unsigned c = 0; c < COPIES; c++)
            *word_of(memory, at, w->index, c) = stamp(w->index, page, w->shared_version[page]);
    }
    check_api(weir_unmap(memory), "view unmap");
}

/* --- Private pages: hints, pins, devices ----------------------------------------------------- */

static char *private_addr(struct worker *w, uint64_t page)
{
    return w->private_pages + page * PAGE;
}

static void verify_private(struct worker *w, uint64_t page)
{
    uint64_t expected = stamp(w->index, page, w->private_version[page]);
    uint64_t found[COPIES];

    for (unsigned c = 0; c < COPIES; c++)
        found[c] = *word_of(w->private_pages, page, w->index, c);
    /* After a free hint: all the old bytes or all zero, each word for itself. */
    for (unsigned c = 0; c < COPIES; c++)
        if (found[c] != expected && !(w->maybe[page] && found[c] == 0))
            wrong("private page", w->index, page, found[c], expected);
}

static void write_private(struct worker *w, uint64_t page)
{
    uint32_t version = ++w->private_version[page];

    for (unsigned c = 0; c < COPIES; c++)
        *word_of(w->private_pages, page, w->index, c) = stamp(w->index, page, version);
    w->maybe[page] = 0;
}

static uint64_t some_range(struct worker *w, uint64_t *length_p)
{
    uint64_t page = draw(&w->random) % opt.private_pages;
    uint64_t most = opt.private_pages - page;
    uint64_t length = 1 + draw(&w->random) % (draw(&w->random) % 8 ? 8 : 300);

    *length_p = length < most ? length : most;
    return page;
}

static void hint_private(struct worker *w)
{
    uint64_t length, page = some_range(w, &length);
    char *addr = private_addr(w, page);
    uint64_t bytes = length * PAGE;

    switch (draw(&w->random) % 6) {
    case 0:
        check_api(weir_advise(addr, bytes, WEIR_DISCARD), "discard");
        for (uint64_t i = page; i < page + length; i++) {
            w->private_version[i] = 0;
            w->maybe[i] = 0;
        }
        break;
    case 1:
        check_api(weir_advise(addr, bytes, WEIR_FREE), "free");
        memset(w->maybe + page, 1, length);
        break;
    case 2: check_api(weir_advise(addr, bytes, WEIR_COLD), "cold"); break;
    case 3: check_api(weir_advise(addr, bytes, WEIR_WILLNEED), "willneed"); break;
    case 4:
        /* The program's own madvise: allowed to lose what is mapped, never to damage. */
        madvise(addr, bytes, MADV_DONTNEED);
        memset(w->maybe + page, 1, length);
        break;
    default:
        check_api(weir_advise(w->private_pages, opt.private_pages * PAGE,
                              draw(&w->random) & 1 ? WEIR_SEQUENTIAL : WEIR_NORMAL),
                  "pattern");
    }
    verify_private(w, page);
    verify_private(w, page + length - 1);
}

/* A device (the disk, by O_DIRECT) writes whole pages of zeros or stamps into pinned memory. */
static void device_private(struct worker *w)
{
    uint64_t length, page = some_range(w, &length);
    bool is_pinned = draw(&w->random) % 4 != 0;
    char *addr = private_addr(w, page);
    ssize_t n;

    if (length > 16)
        length = 16;
    if (is_pinned)
        check_api(weir_pin(addr, length * PAGE, WEIR_WRITE), "pin");
    n = pread(device_fd, addr, length * PAGE, 0); /* zeros */
    if (is_pinned && n != (ssize_t)(length * PAGE)) {
        fprintf(stderr, "WRONG: read into pinned memory gave %zd, errno %d\n", n, errno);
        _exit(1);
    }
    /* Without a pin it may fail with EFAULT anywhere in between, but what it says it read must
     * be there. The page in which it stopped may be partly written. */
    for (uint64_t i = 0; i < length; i++) {
        uint64_t arrived = n < 0 ? 0 : (uint64_t)n;

        if (arrived >= (i + 1) * PAGE) {
            w->private_version[page + i] = 0;
            w->maybe[page + i] = 0;
        } else {
            w->maybe[page + i] = 1;
        }
        verify_private(w, page + i);
    }
    if (is_pinned) {
        write_private(w, page);
        check_api(weir_unpin(addr, length * PAGE), "unpin");
    }
}

static void touch_private(struct worker *w)
{
    uint64_t page = draw(&w->random) % opt.private_pages;

    verify_private(w, page);
    if (draw(&w->random) % 100 < opt.writes)
        write_private(w, page);
}

/* --- Regions that come and go ---------------------------------------------------------------- */

static void brief_region(struct worker *w)
{
    uint64_t pages = 1 + draw(&w->random) % 3000;
    volatile uint64_t *words;
    void *memory;

    check_api(weir_map(rt, pages * PAGE, NULL, &memory), "map");
    words = memory;
    for (uint64_t i = 0; i < pages; i += 1 + draw(&w->random) % 4) {
        words[i * 512] = i + 1;
        if (words[(i / 2) * 512] != 0 && words[(i / 2) * 512] != i / 2 + 1)
            wrong("brief region", w->index, i / 2, words[(i / 2) * 512], i / 2 + 1);
    }
    check_api(weir_unmap(memory), "unmap");
}

static void fork_child(void)
{
    pid_t pid = fork();
    int status = 0;

    if (pid == 0)
        _exit(weir_advise(shared, PAGE, WEIR_COLD) == WEIR_EFORKED ? 0 : 9);
    if (pid > 0 && (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status)))
        wrong("fork child", 0, 0, (uint64_t)status, 0);
}

static void *work(void *context)
{
    struct worker *w = context;

    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        unsigned what = (unsigned)(draw(&w->random) % 1000);

        if (what < 700)
            touch_shared(w);
        else if (what < 900)
            touch_private(w);
        else if (what < 910 && opt.streams)
            walk_shared(w);
        else if (what < 940 && opt.hints)
            hint_private(w);
        else if (what < 950 && opt.pins && device_fd >= 0)
            device_private(w);
        else if (what == 960 && opt.regions)
            brief_region(w);
        else if (what < 970 && what > 961 && opt.views && opt.regions)
            brief_view(w);
        else if (what == 961 && opt.forks && draw(&w->random) % 64 == 0)
            fork_child();
        w->operations++;
    }
    for (uint64_t i = 0; i < opt.shared_pages; i++)
        verify_shared(w, i);
    for (uint64_t i = 0; i < opt.private_pages; i++)
        verify_private(w, i);
    return NULL;
}

/* --- The rest of the world ------------------------------------------------------------------- */

static _Atomic(uint64_t) alarms;

/* A signal at any moment, also inside the library, that touches cold pages. */
static void on_alarm(int number)
{
    static uint64_t random = 88172645463325252u;
    uint64_t page = draw(&random) % opt.shared_pages;

    (void)number;
    (void)*word_of(shared, page, 0, 0);
    atomic_fetch_add(&alarms, 1);
}

static void start_alarms(void)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, 1700}, {0, 1700}};

    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

/* Inside the gate. */
static void audit_region(struct wr_region *region)
{
    struct wr_audit audit = {0};

    if (wr_audit_region(region, &audit) != WEIR_OK || !audit.differences)
        return;
    fprintf(stderr, "WRONG: audit: %llu differences, first page %u state %d facts %u\n",
            (unsigned long long)audit.differences, audit.page, (int)audit.state, audit.facts);
    _exit(1);
}

static void audit_views(void)
{
    for (unsigned i = 0; i < opt.views; i += 1 + opt.views / 8) {
        struct wr_pass pass = wr_gate_enter();

        audit_region(wr_region_find((uintptr_t)views[i]));
        wr_gate_leave(pass);
    }
}

static void audit_all(void)
{
    struct wr_space *space = &rt->space;
    sigset_t all, before;

    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t i = 1; i <= WR_REGIONS_MAX; i++) {
        struct wr_pass pass = wr_gate_enter();
        struct wr_region *region = atomic_load(&space->by_number[i]);

        /* Only the shared region: in the others a page may be gone by the program's own madvise. */
        if (region && region->addr == (uintptr_t)shared)
            audit_region(region);
        wr_gate_leave(pass);
        if (!region && i > 64)
            break;
    }
    audit_views();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void control(void)
{
    uint64_t end = now_ns() + opt.seconds * 1000000000ull;
    uint64_t random = opt.seed * 2654435761u + 99;

    while (now_ns() < end) {
        struct timespec pause = {0, 20000000};

        nanosleep(&pause, NULL);
        if (opt.audit)
            audit_all();
        if (opt.resize && draw(&random) % 4 == 0) {
            uint64_t mib = opt.budget_mib / 2 + draw(&random) % opt.budget_mib;
            int error = weir_budget_set(rt, (mib < 8 ? 8 : mib) << 20, 0);

            if (error != WEIR_OK && error != WEIR_EAGAIN)
                check_api(error, "budget");
        }
        if (opt.drain && draw(&random) % 8 == 0) {
            struct weir_backend_state state;

            check_api(weir_backend_get(rt, 0, &state), "backend get");
            check_api(weir_backend_add(rt, opt.backends, NULL), "backend add");
            check_api(weir_backend_drain(rt, state.number), "drain");
        }
    }
}

static void event(void *context, const struct weir_event *e)
{
    (void)context;
    if (e->severity >= WEIR_FAILURE)
        dprintf(2, "event: %s: %s\n", weir_error_name(e->error), e->text);
}

/* At rest nothing may be missing: every frame is free, mapped or staged. */
static void check_frames(void)
{
    struct wr_space *space = &rt->space;
    struct timespec pause = {0, 1000000};
    int64_t missing = 1;

    for (int tries = 0; tries < 3000 && missing; tries++) {
        int64_t resident = 0;

        nanosleep(&pause, NULL);
        for (uint32_t c = 0; c < atomic_load(&space->chunk_end); c++)
            resident += atomic_load(&space->pages.chunks[c].resident);
        missing = atomic_load(&space->frames.total) - wr_frames_free(&space->frames) - resident -
                  atomic_load(&space->staging.held_count);
    }
    if (missing)
        wrong("frames are missing at rest", 0, 0, (uint64_t)missing, 0);
}

static void parse(int argc, char **argv)
{
    static const struct option longs[] = {{"engine", 1, NULL, 'e'},  {"backends", 1, NULL, 'b'},
                                          {"budget", 1, NULL, 'm'},  {"threads", 1, NULL, 't'},
                                          {"seconds", 1, NULL, 's'}, {"seed", 1, NULL, 'r'},
                                          {"writes", 1, NULL, 'w'},  {"pages", 1, NULL, 'p'},
                                          {"device", 1, NULL, 'd'},  {"only-touch", 0, NULL, 'o'},
                                          {"drain", 0, NULL, 'D'},   {"views", 1, NULL, 'v'},
                                          {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'e': opt.engine = optarg; break;
        case 'b': opt.backends = optarg; break;
        case 'm': opt.budget_mib = strtoull(optarg, NULL, 0); break;
        case 't': opt.threads = (unsigned)strtoul(optarg, NULL, 0); break;
        case 's': opt.seconds = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'r': opt.seed = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'w': opt.writes = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'p': opt.shared_pages = strtoull(optarg, NULL, 0); break;
        case 'd': opt.device = optarg; break;
        case 'D': opt.drain = true; break;
        case 'v': opt.views = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'o':
            opt.hints = opt.pins = opt.forks = opt.signals = opt.resize = opt.regions = false;
            opt.audit = opt.streams = false;
            break;
        default: exit(2);
        }
    }
    if (opt.threads < 1 || opt.threads > THREADS_MAX) {
        fprintf(stderr, "stress: --threads is 1 to %u\n", THREADS_MAX);
        exit(2);
    }
    if (opt.views > VIEWS_MAX) {
        fprintf(stderr, "stress: --views is 0 to %u\n", VIEWS_MAX);
        exit(2);
    }
}

static void open_device(void)
{
    char path[] = "/var/tmp/weir-stress-XXXXXX";
    static char zeros[16 * PAGE];

    if (!opt.pins)
        return;
    device_fd = mkstemp(path);
    if (device_fd < 0 || write(device_fd, zeros, sizeof(zeros)) != (ssize_t)sizeof(zeros)) {
        perror("stress: a file for the device");
        exit(2);
    }
    fsync(device_fd);
    if (fcntl(device_fd, F_SETFL, O_DIRECT) != 0)
        fprintf(stderr, "stress: no O_DIRECT here; the device is the page cache\n");
    unlink(path);
}

static void open_views(void)
{
    uint64_t bytes = opt.shared_pages * PAGE;
    int error = weir_object_create(rt, bytes, NULL, &object);

    if (error == WEIR_ENOSUPPORT)
        exit(SKIPPED);
    check_api(error, "object create");
    for (unsigned i = 0; i < opt.views; i++) {
        void *memory;

        check_api(weir_view_map(object, 0, bytes, &memory), "view map");
        views[i] = memory;
    }
    shared = views[0];
}

static void open_all(void)
{
    struct weir_options options;
    void *memory;
    int error;

    weir_options_init(&options);
    options.budget_bytes = opt.budget_mib << 20;
    options.backends = opt.backends;
    options.engine = opt.engine;
    options.on_event = event;
    error = weir_open(&options, &rt);
    if (error == WEIR_ENOSUPPORT)
        exit(SKIPPED); /* an event has said what is missing */
    check_api(error, "open");
    if (opt.views) {
        open_views();
    } else {
        check_api(weir_map(rt, opt.shared_pages * PAGE, NULL, &memory), "map");
        shared = memory;
    }
    open_device();
    for (unsigned i = 0; i < opt.threads; i++) {
        struct worker *w = &workers[i];

        w->index = i;
        w->random = (uint64_t)opt.seed * 0x9e3779b97f4a7c15u + i + 1;
        w->shared_version = calloc(opt.shared_pages, sizeof(uint32_t));
        w->private_version = calloc(opt.private_pages, sizeof(uint32_t));
        w->maybe = calloc(opt.private_pages, 1);
        check_api(weir_map(rt, opt.private_pages * PAGE, NULL, &memory), "map private");
        w->private_pages = memory;
    }
}

int main(int argc, char **argv)
{
    uint64_t operations = 0;
    struct weir_stats stats = {.size = sizeof(stats)};
    sigset_t alarm;

    parse(argc, argv);
    open_all();
    /* Alarms go to the workers. */
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    for (unsigned i = 0; i < opt.threads; i++)
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    pthread_sigmask(SIG_BLOCK, &alarm, NULL);
    if (opt.signals)
        start_alarms();
    control();
    atomic_store(&stop, true);
    for (unsigned i = 0; i < opt.threads; i++) {
        pthread_join(workers[i].thread, NULL);
        operations += workers[i].operations;
    }
    check_frames();
    if (opt.audit)
        audit_all();
    weir_stats(rt, &stats);
    printf("stress ok: %llu operations, %llu faults, %llu written, %llu rescued while written, "
           "%llu alarms; %s\n",
           (unsigned long long)operations, (unsigned long long)stats.faults,
           (unsigned long long)stats.pages_written, (unsigned long long)stats.pages_rescued_writing,
           (unsigned long long)alarms, rt->host->how);
    check_api(weir_close(rt), "close");
    return 0;
}
