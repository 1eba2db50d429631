/* SPDX-License-Identifier: MIT */

/*
 * A program whose pages are on another machine while something happens to that machine, or to the
 * network between. tests/vm/vm.py starts it, and lets it happen when "filled" has been printed.
 *
 *     outage BACK-ENDS kept    until SIGTERM, which says that it is over, and once more after that,
 *                              every load gives what was stored last
 *     outage BACK-ENDS lost    what was there is refused in bounded time, and an event tells of the
 *                              failure; no load gives anything else than what was stored; what is
 *                              stored afterwards is kept by another back end
 *
 * Exit status 0 if it was so.
 */

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir.h>

#define PAGES        ((size_t)1536)
#define BUDGET       ((uint64_t)4 << 20)
#define WORDS        (WEIR_PAGE_BYTES / sizeof(uint64_t))
#define EVENTS_SAID  8
#define LOSS_SECONDS 60.0 /* until the first loss is told; servers are given up after far less */

static volatile uint64_t *words;
static volatile sig_atomic_t over, events, losses;
static sigjmp_buf refused; /* where a load goes on that was refused */
static volatile sig_atomic_t may_be_refused;
static double started_s, longest_s, longest_store_s; /* loads; stores */

static void say(const char *text)
{
    (void)!write(STDOUT_FILENO, text, strlen(text));
}

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void on_event(void *context, const struct weir_event *event)
{
    (void)context;
    losses += event->severity == WEIR_FAILURE;
    if (++events > EVENTS_SAID)
        return;
    dprintf(STDOUT_FILENO, "%5.1f s event: %s\n", now_s() - started_s, event->text);
}

static void on_term(int number)
{
    (void)number;
    over = 1;
}

static void on_bus(int number)
{
    (void)number;
    if (may_be_refused)
        siglongjmp(refused, 1);
    say("WRONG: a store was refused\n");
    _exit(1);
}

static uint64_t stamp(size_t page, uint64_t round)
{
    return (page + 1) * 0x9e3779b97f4a7c15u ^ round;
}

static void store(uint64_t round)
{
    for (size_t page = 0; page < PAGES; page++) {
        const double begun = now_s();

        words[page * WORDS + page % WORDS] = stamp(page, round);
        if (now_s() - begun > longest_store_s)
            longest_store_s = now_s() - begun;
    }
}

/* One load: how long did it take? A wrong word is the end of the program. */
static void load(size_t page, uint64_t round)
{
    double begun = now_s(), took;
    uint64_t word = words[page * WORDS + page % WORDS];

    took = now_s() - begun;
    if (took > longest_s)
        longest_s = took;
    if (word == stamp(page, round))
        return;
    printf("WRONG: page %zu has %#llx, not %#llx\n", page, (unsigned long long)word,
           (unsigned long long)stamp(page, round));
    exit(1);
}

/* Load every page; those that are refused are counted. */
static size_t load_all(uint64_t round)
{
    volatile size_t page = 0, lost = 0;

    if (sigsetjmp(refused, 1) != 0) {
        lost++;
        page++;
    }
    may_be_refused = 1;
    for (; page < PAGES; page++)
        load(page, round);
    may_be_refused = 0;
    return lost;
}

static int expect_kept(void)
{
    uint64_t round = 1;
    size_t lost = 0;
    bool last;

    do {
        last = over;
        lost += load_all(round);
        if (!last)
            store(++round);
    } while (!last && lost == 0);
    printf("%llu rounds in %.1f s, %zu refused, longest load %.2f s, store %.2f s\n",
           (unsigned long long)round, now_s() - started_s, lost, longest_s, longest_store_s);
    return lost == 0 ? 0 : 1;
}

static int expect_lost(void)
{
    double begun = now_s();
    size_t lost = 0, again;

    while (lost == 0 && now_s() - begun < LOSS_SECONDS)
        lost = load_all(1);
    printf("%zu of %zu refused, longest load %.2f s, %d failures told\n", lost, PAGES, longest_s,
           (int)losses);
    weir_advise((void *)(uintptr_t)words, PAGES * WEIR_PAGE_BYTES, WEIR_DISCARD);
    store(2);
    again = load_all(2);
    printf("of those stored anew, %zu refused\n", again);
    return lost > 0 && losses > 0 && again == 0 ? 0 : 1;
}

static void listen_to_signals(void)
{
    struct sigaction action = {.sa_handler = on_term};

    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = on_bus;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGBUS, &action, NULL);
}

int main(int count, char **arguments)
{
    struct weir_options options;
    struct weir_runtime *rt;
    void *memory;
    int status;

    if (count != 3 || (strcmp(arguments[2], "kept") != 0 && strcmp(arguments[2], "lost") != 0)) {
        fprintf(stderr, "usage: outage BACK-ENDS kept|lost\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    listen_to_signals();
    started_s = now_s();
    weir_options_init(&options);
    options.budget_bytes = BUDGET;
    options.backends = arguments[1];
    options.on_event = on_event;
    if (weir_open(&options, &rt) != WEIR_OK ||
        weir_map(rt, PAGES * WEIR_PAGE_BYTES, NULL, &memory) != WEIR_OK) {
        fprintf(stderr, "outage: no memory\n"); /* the event says why */
        return 1;
    }
    words = memory;
    weir_advise(memory, PAGES * WEIR_PAGE_BYTES, WEIR_RANDOM);
    store(1);
    if (load_all(1) != 0)
        return 1;
    printf("filled after %.1f s; longest load %.2f s\n", now_s() - started_s, longest_s);
    status = strcmp(arguments[2], "kept") == 0 ? expect_kept() : expect_lost();
    weir_close(rt);
    return status;
}
