/* SPDX-License-Identifier: MIT */

/*
 * kv: a store of records by key, several times larger than the memory it may use.
 *
 * A hash table with open addressing lies in one region; a record is found by loads, changed by
 * stores. Threads read and update keys by Zipf's law: few are asked for most of the time, and as
 * their places are scattered over all pages, every page holds something hot and much that is
 * cold. A value follows from its key and version, and the latest version of every key is kept in
 * ordinary memory too: a lost, old or damaged page is noticed by the first read that meets it.
 */

#include <argp.h>
#include <errno.h>
#include <error.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir.h>

#define VALUE_WORDS 14
#define LOCKS       1024
#define THREADS_MAX 256
#define THETA       0.99

struct record {
    uint64_t key; /* counted from 1; 0: the place is free */
    uint64_t version;
    uint64_t value[VALUE_WORDS];
};

/* Keys are put while one thread runs, and stay where they are: a key's lock keeps the rest of its
 * record and its latest version. */
struct store {
    struct record *places;
    uint64_t place_count, key_count;
    uint64_t *latest; /* version by key; ordinary memory */
    pthread_mutex_t locks[LOCKS];
};

struct worker {
    pthread_t thread;
    uint64_t seed, operations, wrong;
    struct weir_histogram latency;
};

static const char *memory = "64m", *swap;
static int times = 4, seconds = 5, threads = 4, reads_percent = 95;

static struct weir_runtime *rt;
static struct store store;
static double zeta, eta;
static _Atomic(bool) is_over;

static void must(int result, const char *what)
{
    if (result != WEIR_OK)
        error(EXIT_FAILURE, 0, "%s: %s", what, weir_error_text(result));
}

static void on_event(void *context, const struct weir_event *event)
{
    (void)context;
    if (write(STDERR_FILENO, event->text, strlen(event->text)) > 0)
        (void)!write(STDERR_FILENO, "\n", 1);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- Chance ---------------------------------------------------------------------------------- */

/* Every bit of the result depends on every bit of x: the end of SplitMix64 (Steele and others). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t next_random(uint64_t *seed)
{
    return mix(*seed += 0x9e3779b97f4a7c15ull);
}

/*
 * Ranks from 0, each as likely as 1 / (rank + 1)^THETA, after Gray and others: "Quickly generating
 * billion-record synthetic databases", 1994.
 */
static void zipf_init(uint64_t count)
{
    for (uint64_t i = 1; i <= count; i++)
        zeta += pow((double)i, -THETA);
    eta = (1 - pow(2 / (double)count, 1 - THETA)) / (1 - (1 + pow(2, -THETA)) / zeta);
}

static uint64_t zipf_next(uint64_t *seed, uint64_t count)
{
    double share = (double)(next_random(seed) >> 11) / (double)(1ull << 53);

    if (share * zeta < 1)
        return 0;
    if (share * zeta < 1 + pow(2, -THETA))
        return 1;
    return (uint64_t)((double)count * pow(eta * (share - 1) + 1, 1 / (1 - THETA))) % count;
}

/* --- The store ------------------------------------------------------------------------------- */

static uint64_t home_of(uint64_t key)
{
    return mix(key) % store.place_count;
}

static uint64_t value_word(uint64_t key, uint64_t version, uint64_t i)
{
    return mix(key * VALUE_WORDS + i + (version << 40));
}

/* The record of a key, or the free place where it belongs. */
static struct record *find(uint64_t key)
{
    uint64_t place = home_of(key);

    while (store.places[place].key != key && store.places[place].key != 0)
        place = place + 1 < store.place_count ? place + 1 : 0;
    return &store.places[place];
}

static void put(uint64_t key, uint64_t version)
{
    struct record *record = find(key);

    if (record->key == 0)
        record->key = key;
    record->version = version;
    for (uint64_t i = 0; i < VALUE_WORDS; i++)
        record->value[i] = value_word(key, version, i);
    store.latest[key] = version;
}

static bool is_right(const struct record *record, uint64_t key, uint64_t version)
{
    bool right = record->key == key && record->version == version;

    for (uint64_t i = 0; i < VALUE_WORDS; i++)
        right &= record->value[i] == value_word(key, version, i);
    return right;
}

/* In the order of their places, part by part, so that what is being filled fits in memory. */
static void fill(uint64_t parts)
{
    uint64_t part_places = store.place_count / parts + 1;

    for (uint64_t part = 0; part < parts; part++)
        for (uint64_t key = 1; key <= store.key_count; key++)
            if (home_of(key) / part_places == part)
                put(key, 1);
}

static void open_store(uint64_t bytes)
{
    void *address;

    must(weir_map(rt, bytes, NULL, &address), "weir_map");
    must(weir_advise(address, bytes, WEIR_RANDOM), "weir_advise");
    store.places = address;
    store.place_count = bytes / sizeof(struct record);
    store.key_count = store.place_count / 4 * 3;
    store.latest = calloc(store.key_count + 1, sizeof(*store.latest));
    if (!store.latest)
        error(EXIT_FAILURE, errno, "%lu keys", store.key_count);
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_init(&store.locks[i], NULL);
}

/* --- The load -------------------------------------------------------------------------------- */

static bool operate(uint64_t *seed)
{
    uint64_t key = 1 + zipf_next(seed, store.key_count), version;
    pthread_mutex_t *lock = &store.locks[mix(key) / store.place_count % LOCKS];
    bool reads = (int)(next_random(seed) % 100) < reads_percent;
    struct record copy;

    pthread_mutex_lock(lock);
    version = store.latest[key];
    if (reads)
        copy = *find(key);
    else
        put(key, version + 1);
    pthread_mutex_unlock(lock);
    return !reads || is_right(&copy, key, version);
}

static void count_time(struct weir_histogram *times_seen, uint64_t ns)
{
    unsigned bucket = ns < 256 ? 0 : 56 - (unsigned)__builtin_clzll(ns);

    times_seen->bucket[bucket < WEIR_HISTOGRAM_BUCKETS ? bucket : WEIR_HISTOGRAM_BUCKETS - 1]++;
    times_seen->count++;
    times_seen->sum_ns += ns;
}

static void *work(void *context)
{
    struct worker *worker = context;

    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        uint64_t begun = now_ns();

        worker->wrong += !operate(&worker->seed);
        worker->operations++;
        count_time(&worker->latency, now_ns() - begun);
    }
    return NULL;
}

/* Run the threads for their time, add up what they saw. */
static void load(struct worker *sum)
{
    static struct worker workers[THREADS_MAX];

    for (int i = 0; i < threads; i++) {
        workers[i].seed = (uint64_t)i << 32;
        errno = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        if (errno)
            error(EXIT_FAILURE, errno, "thread %d", i);
    }
    sleep((unsigned)seconds);
    atomic_store(&is_over, true);
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        sum->operations += workers[i].operations;
        sum->wrong += workers[i].wrong;
        sum->latency.count += workers[i].latency.count;
        for (int k = 0; k < WEIR_HISTOGRAM_BUCKETS; k++)
            sum->latency.bucket[k] += workers[i].latency.bucket[k];
    }
}

/* Every record must be what was put there last. */
static uint64_t count_wrong(void)
{
    uint64_t wrong = store.key_count;

    for (uint64_t place = 0; place < store.place_count; place++) {
        const struct record *record = &store.places[place];

        wrong -= record->key != 0 && record->key <= store.key_count &&
                 is_right(record, record->key, store.latest[record->key]);
    }
    return wrong;
}

/* --- The program ----------------------------------------------------------------------------- */

static bool run(void)
{
    static struct weir_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
    struct worker sum = {0};
    uint64_t begun, ns, wrong_at_end;

    must(weir_stats(rt, &before), "weir_stats");
    open_store(before.budget_bytes * (uint64_t)times);
    zipf_init(store.key_count);
    begun = now_ns();
    fill(4 * (uint64_t)times);
    printf("filled %lu records of %zu bytes in %.1f s; budget %lu MiB, table %lu MiB\n",
           store.key_count, sizeof(struct record), (double)(now_ns() - begun) / 1e9,
           before.budget_bytes >> 20, before.budget_bytes * (uint64_t)times >> 20);
    must(weir_stats(rt, &before), "weir_stats");
    begun = now_ns();
    load(&sum);
    ns = now_ns() - begun;
    must(weir_stats(rt, &after), "weir_stats");
    wrong_at_end = count_wrong();
    printf("%.0f operations/s by %d threads, %d %% reads; p50 under %.1f us, p99 under %.1f us\n",
           (double)sum.operations * 1e9 / (double)ns, threads, reads_percent,
           (double)weir_histogram_quantile(&sum.latency, 0.5) / 1000,
           (double)weir_histogram_quantile(&sum.latency, 0.99) / 1000);
    printf("%.2f %% met no fault, %.2f %% no read of a back end\n",
           100 - 100.0 * (double)(after.faults - before.faults) / (double)sum.operations,
           100 -
               100.0 * (double)(after.reads_demand - before.reads_demand) / (double)sum.operations);
    printf("wrong values: %lu of all reads, %lu of all records at the end\n", sum.wrong,
           wrong_at_end);
    fflush(stdout);
    must(weir_report_fd(rt, STDOUT_FILENO), "weir_report_fd");
    return sum.operations > 0 && sum.wrong == 0 && wrong_at_end == 0;
}

static error_t on_option(int key, char *value, struct argp_state *state)
{
    switch (key) {
    case 'm': memory = value; return 0;
    case 's': swap = value; return 0;
    case 'x': times = atoi(value); return 0;
    case 't': seconds = atoi(value); return 0;
    case 'j': threads = atoi(value); return 0;
    case 'r': reads_percent = atoi(value); return 0;
    case ARGP_KEY_END:
        if (times < 1 || seconds < 1 || threads < 1 || threads > THREADS_MAX)
            argp_error(state, "a number is out of range");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"memory", 'm', "BYTES", 0, "memory that may be used; 64m if not given", 0},
        {"times", 'x', "N", 0, "size of the table in memories; 4", 0},
        {"swap", 's', "BACKENDS", 0, "where pages go, for example file:/var/tmp?size=8G", 0},
        {"threads", 'j', "N", 0, "4", 0},
        {"seconds", 't', "N", 0, "5", 0},
        {"reads", 'r', "PERCENT", 0, "95; the others are updates", 0},
        {0},
    };
    static const struct argp argp = {options, on_option, NULL, NULL, NULL, NULL, NULL};
    struct weir_options wish;
    bool right;

    argp_parse(&argp, argc, argv, 0, NULL, NULL);
    setenv("WEIR_BUDGET", memory, 1);
    weir_options_init(&wish);
    wish.on_event = on_event;
    wish.backends = swap ? swap : wish.backends;
    must(weir_open(&wish, &rt), "weir_open");
    right = run();
    must(weir_close(rt), "weir_close");
    free(store.latest);
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
}
