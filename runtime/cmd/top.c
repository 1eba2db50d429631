/* SPDX-License-Identifier: MIT */

/*
 * weir top: what programs do, all the time.
 *
 *   entry    a runtime: what it said last and what it said before, so that there are rates
 *   screen   lines of text, made anew for each look; a terminal shows them, or --once prints them
 */

#include <curses.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <term.h>
#include <time.h>
#include <unistd.h>

#include "runtime/cmd/cmd.h"

#define ROWS_MAX      200
#define COLUMNS_MAX   256
#define ROWS_ONCE     100
#define COLUMNS_ONCE  100
#define PROGRAMS_PART 3 /* of the rows are for the list of programs, one part in so many */
#define NS_PER_SECOND 1e9
#define STILL_SECONDS 5.0

struct entry {
    struct weir_watch *now, *before; /* before NULL: it has just come */
};

struct screen {
    int height, width, used;
    int marked; /* the row of the chosen program; -1: none */
    char line[ROWS_MAX][COLUMNS_MAX];
};

static struct entry entries[CMD_WATCHED_MAX];
static size_t entry_count, chosen;
static struct screen screen;

/* --- Readings -------------------------------------------------------------------------------- */

static bool is_same(const struct weir_watch *a, const struct weir_watch *b)
{
    return a->pid == b->pid && a->number == b->number;
}

/* What was known of that runtime, taken out of the old entries. */
static struct entry take_old(struct entry *old, size_t count, const struct weir_watch *watch)
{
    struct entry found = {NULL, NULL};

    for (size_t i = 0; i < count && !found.now; i++)
        if (old[i].now && is_same(old[i].now, watch)) {
            found = old[i];
            old[i] = (struct entry){NULL, NULL};
        }
    return found;
}

static struct entry follow(struct entry old, struct weir_watch *watch)
{
    if (!old.now)
        return (struct entry){watch, NULL};
    if (old.now->sequence == watch->sequence) { /* nothing new: the rates stay */
        weir_watch_free(watch);
        return old;
    }
    weir_watch_free(old.before);
    return (struct entry){watch, old.now};
}

/* False: standard error has said why. The program that was chosen stays so. */
static bool look(const struct cmd *cmd)
{
    static struct cmd_watches watches;
    static struct entry old[CMD_WATCHED_MAX];
    size_t old_count = entry_count, chosen_now = 0;
    struct weir_watched was = {0};

    if (!cmd_read(cmd, true, &watches))
        return false;
    if (chosen < entry_count)
        was = (struct weir_watched){entries[chosen].now->pid, entries[chosen].now->number};
    memcpy(old, entries, old_count * sizeof(old[0]));
    for (size_t i = 0; i < watches.count; i++) {
        struct weir_watch *watch = watches.watch[i];

        if (watch->pid == was.pid && watch->number == was.number)
            chosen_now = i;
        entries[i] = follow(take_old(old, old_count, watch), watch);
    }
    for (size_t i = 0; i < old_count; i++) {
        weir_watch_free(old[i].now);
        weir_watch_free(old[i].before);
    }
    entry_count = watches.count;
    chosen = chosen_now;
    return true;
}

/* --- Rates ----------------------------------------------------------------------------------- */

/* Between the two readings; 0: there is one only. */
static double seconds_of(const struct entry *entry)
{
    return entry->before
               ? (double)(entry->now->published_ns - entry->before->published_ns) / NS_PER_SECOND
               : 0;
}

static double rate(const struct entry *entry, uint64_t now, uint64_t before)
{
    double seconds = seconds_of(entry);

    return seconds > 0 && now > before ? (double)(now - before) / seconds : 0;
}

#define RATE(entry, field) \
    rate((entry), (entry)->now->stats->field, (entry)->before ? (entry)->before->stats->field : 0)

static double in_rate(const struct entry *entry)
{
    return (RATE(entry, reads_demand) + RATE(entry, reads_ahead)) * WEIR_PAGE_BYTES;
}

static double out_rate(const struct entry *entry)
{
    return RATE(entry, pages_written) * WEIR_PAGE_BYTES;
}

/* The times of what happened between the readings; of all, if there is one only. */
static struct weir_histogram recent(const struct entry *entry, size_t offset)
{
    const struct weir_histogram none = {0}, *now, *before = &none;

    now = (const void *)((const char *)entry->now->stats + offset);
    if (entry->before)
        before = (const void *)((const char *)entry->before->stats + offset);
    return weir_histogram_since(now, before);
}

/* --- A screen -------------------------------------------------------------------------------- */

static void add(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void add(const char *format, ...)
{
    va_list values;

    if (screen.used >= screen.height)
        return;
    va_start(values, format);
    vsnprintf(screen.line[screen.used], sizeof(screen.line[0]), format, values);
    va_end(values);
    screen.line[screen.used++][screen.width] = '\0';
}

static const char *quantile(char text[CMD_TEXT], const struct weir_histogram *h, double share)
{
    if (h->count == 0)
        return "-";
    return cmd_time(text, (double)weir_histogram_quantile(h, share));
}

static void add_program(const struct entry *entry, bool is_chosen)
{
    const struct weir_stats *s = entry->now->stats;
    struct weir_histogram fault = recent(entry, offsetof(struct weir_stats, time_fault));
    char t[7][CMD_TEXT];

    if (is_chosen)
        screen.marked = screen.used;
    add("%c%7d %-9.9s %8s %8s %8s %8s %8s %7s %8s", is_chosen ? '>' : ' ', entry->now->pid,
        entry->now->program, cmd_bytes(t[0], (double)s->budget_bytes),
        cmd_bytes(t[1], (double)s->resident_bytes),
        cmd_bytes(t[2], (double)s->cached_pages * WEIR_PAGE_BYTES), cmd_bytes(t[3], in_rate(entry)),
        cmd_bytes(t[4], out_rate(entry)), cmd_count(t[5], RATE(entry, faults)),
        quantile(t[6], &fault, 0.99));
}

/* As many as have room, the chosen one among them. */
static void add_programs(void)
{
    size_t room = (size_t)(screen.height / PROGRAMS_PART), first = 0;

    add(" %7s %-9s %8s %8s %8s %8s %8s %7s %8s", "PID", "PROGRAM", "BUDGET", "RESIDENT", "CACHE",
        "IN/s", "OUT/s", "FAULT/s", "p99");
    if (room < 1)
        room = 1;
    if (chosen >= room)
        first = chosen - room + 1;
    for (size_t i = first; i < entry_count && i < first + room; i++)
        add_program(&entries[i], i == chosen);
    if (entry_count > room)
        add("         %zu of %zu programs", room, entry_count);
}

static void add_memory(const struct entry *entry)
{
    const struct weir_stats *s = entry->now->stats;
    char t[6][CMD_TEXT];

    add("memory   resident %s, staged %s, slab %s, free %s",
        cmd_bytes(t[0], (double)s->resident_bytes), cmd_bytes(t[1], (double)s->staged_bytes),
        cmd_bytes(t[2], (double)s->slab_bytes), cmd_bytes(t[3], (double)s->free_bytes));
    add("pages/s  found %s, zeros elided %s, read ahead %s, dropped clean %s",
        cmd_count(t[0], RATE(entry, cache_found)), cmd_count(t[1], RATE(entry, pages_elided_zero)),
        cmd_count(t[2], RATE(entry, reads_ahead)),
        cmd_count(t[3], RATE(entry, pages_dropped_clean)));
    if (s->read_errors + s->write_errors + s->checksum_errors + s->frame_failures > 0)
        add("ERRORS   reads %llu, writes %llu, damaged pages %llu, out of swap %llu",
            (unsigned long long)s->read_errors, (unsigned long long)s->write_errors,
            (unsigned long long)s->checksum_errors, (unsigned long long)s->frame_failures);
}

/* A reason to wait: how often a second, how long of each second, and each time. */
static void add_time(const struct entry *entry, const char *name, size_t offset)
{
    struct weir_histogram h = recent(entry, offset);
    double seconds = seconds_of(entry);
    char t[4][CMD_TEXT];

    if (h.count == 0 || seconds <= 0)
        return;
    add("  %-10s %7s/s  %8s/s   p50 < %8s  p99 < %8s", name,
        cmd_count(t[0], (double)h.count / seconds), cmd_time(t[1], (double)h.sum_ns / seconds),
        quantile(t[2], &h, 0.5), quantile(t[3], &h, 0.99));
}

static void add_times(const struct entry *entry)
{
    add("times    how often, for how long of each second, how long each");
#define TOP_TIME(name, meaning) add_time(entry, #name, offsetof(struct weir_stats, time_##name));
    WEIR_TIME_MAP(TOP_TIME)
#undef TOP_TIME
}

static void add_backends(const struct weir_watch *watch)
{
    char used[CMD_TEXT], total[CMD_TEXT];

    for (uint32_t i = 0; i < watch->backends_shown; i++) {
        const struct weir_backend_state *b = &watch->backends[i];

        add("back end %u  %8s of %8s  errors %llu%s%s  %s", b->number,
            cmd_bytes(used, (double)b->bytes_used), cmd_bytes(total, (double)b->bytes_total),
            (unsigned long long)b->errors, b->draining ? "  draining" : "", b->sick ? "  SICK" : "",
            b->spec);
    }
}

/* The same region in the reading before, or NULL. */
static const struct weir_region_stats *before_of(const struct entry *entry,
                                                 const struct weir_region_stats *region)
{
    for (uint32_t i = 0; entry->before && i < entry->before->regions_shown; i++)
        if (entry->before->regions[i].address == region->address)
            return &entry->before->regions[i];
    return NULL;
}

static void add_regions(const struct entry *entry)
{
    const struct weir_watch *watch = entry->now;
    char t[6][CMD_TEXT];

    if (watch->regions_shown > 0)
        add("%-16s %9s %9s %9s %9s %8s %9s", "REGION", "BYTES", "RESIDENT", "CACHE", "OUT",
            "FAULT/s", "WAIT/s");
    for (uint32_t i = 0; i < watch->regions_shown; i++) {
        const struct weir_region_stats *r = &watch->regions[i], *b = before_of(entry, r);

        add("%-16.16s %9s %9s %9s %9s %8s %9s", *r->name ? r->name : "-",
            cmd_bytes(t[0], (double)r->bytes), cmd_bytes(t[1], (double)r->resident_bytes),
            cmd_bytes(t[2], (double)r->cached_bytes), cmd_bytes(t[3], (double)r->out_bytes),
            cmd_count(t[4], b ? rate(entry, r->faults, b->faults) : 0),
            cmd_time(t[5], b ? rate(entry, r->wait_ns, b->wait_ns) : 0));
    }
    if (watch->region_count > watch->regions_shown)
        add("%u regions more", watch->region_count - watch->regions_shown);
}

static void add_chosen(const struct entry *entry)
{
    double age = cmd_age(entry->now->published_ns);
    char mapped[CMD_TEXT];

    add("%s", "");
    add("%s, process %d, open for %.0f s, mapped %s, weir %s", entry->now->program, entry->now->pid,
        cmd_age(entry->now->opened_ns), cmd_bytes(mapped, (double)entry->now->stats->mapped_bytes),
        entry->now->library);
    if (age > STILL_SECONDS)
        add("SILENT   for %.0f s: the program is stopped, or gets no processor", age);
    add("engine   %s", entry->now->how);
    add_memory(entry);
    add_backends(entry->now);
    add_times(entry);
    add_regions(entry);
}

static void draw(int height, int width, bool is_paused)
{
    screen.height = height < ROWS_MAX ? height : ROWS_MAX;
    screen.width = width < COLUMNS_MAX ? width : COLUMNS_MAX - 1;
    screen.used = 0;
    screen.marked = -1;
    add("weir top: %zu program%s%s", entry_count, entry_count == 1 ? "" : "s",
        is_paused ? "; PAUSED, p goes on" : "; q ends, p pauses, arrows choose");
    if (entry_count == 0) {
        add("no program of yours that uses Weir is running");
        return;
    }
    add_programs();
    add_chosen(&entries[chosen]);
}

/* --- Once ------------------------------------------------------------------------------------ */

static void pause_for(unsigned ms)
{
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000l};

    nanosleep(&left, NULL);
}

static int print_once(const struct cmd *cmd)
{
    static struct cmd_watches watches;

    if (!cmd_read(cmd, false, &watches)) /* it says who is not there */
        return EXIT_FAILURE;
    cmd_forget(&watches);
    if (!look(cmd))
        return EXIT_FAILURE;
    pause_for(cmd->interval_ms);
    if (!look(cmd))
        return EXIT_FAILURE;
    draw(ROWS_ONCE, COLUMNS_ONCE, false);
    for (int i = 1; i < screen.used; i++)
        printf("%s\n", screen.line[i]);
    return EXIT_SUCCESS;
}

/* --- A terminal ------------------------------------------------------------------------------ */

static bool is_able(void)
{
    const char *name = getenv("TERM");
    const char *cup = NULL;
    int error = 0;

    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        fprintf(stderr,
                "weir: top wants a terminal; `weir top --once` prints one screen as text\n");
        return false;
    }
    if (name && *name && setupterm(NULL, STDOUT_FILENO, &error) == OK)
        cup = tigetstr("cup");
    if (cup && cup != (char *)-1)
        return true;
    fprintf(stderr,
            "weir: the terminal \"%s\" (TERM) cannot place text; `weir top --once` prints one "
            "screen\n",
            name ? name : "");
    return false;
}

static void show(bool is_paused)
{
    int height, width;

    getmaxyx(stdscr, height, width);
    draw(height, width, is_paused);
    erase();
    for (int i = 0; i < screen.used; i++) {
        if (i == 0 || i == screen.marked)
            attron(i == 0 ? A_BOLD : A_REVERSE);
        mvaddnstr(i, 0, screen.line[i], width);
        attrset(A_NORMAL);
    }
    refresh();
}

/* False: the end is wanted. */
static bool obey(int key, bool *is_paused)
{
    switch (key) {
    case 'q':
    case 'Q': return false;
    case 'p':
    case 'P': *is_paused = !*is_paused; return true;
    case KEY_UP: chosen -= chosen > 0; return true;
    case KEY_DOWN: chosen += chosen + 1 < entry_count; return true;
    default: return true; /* KEY_RESIZE too: it is drawn again */
    }
}

static double seconds_now(void)
{
    return cmd_age(0);
}

static int stay(const struct cmd *cmd)
{
    double next = 0;
    bool is_paused = false, is_seen = true;
    int key = ERR;

    do {
        double now = seconds_now();

        if (!is_paused && now >= next) {
            is_seen = look(cmd);
            next = now + cmd->interval_ms / 1000.0;
        }
        show(is_paused);
        timeout(is_paused ? -1 : (int)((next - now) * 1000) + 1);
        key = is_seen ? getch() : 'q';
    } while (obey(key, &is_paused));
    endwin();
    if (is_seen)
        return EXIT_SUCCESS;
    (void)look(cmd); /* what it said was on the screen that is gone */
    return EXIT_FAILURE;
}

int cmd_top(const struct cmd *cmd)
{
    if (cmd->is_once)
        return print_once(cmd);
    if (!is_able())
        return EXIT_FAILURE;
    if (!newterm(NULL, stdout, stdin)) {
        fprintf(stderr, "weir: the terminal cannot be used; `weir top --once` prints one screen\n");
        return EXIT_FAILURE;
    }
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    curs_set(0);
    return stay(cmd);
}
