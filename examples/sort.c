/* SPDX-License-Identifier: MIT */

/*
 * sort: sorts the lines of a text that is several times larger than the memory it may use.
 *
 * The text is read part by part; the lines of each part are sorted into a run. All runs lie in one
 * region as large as the text, and are merged into another by plain loads and stores: there is no
 * temporary file. What has been merged is discarded, and costs neither a write nor memory any
 * more. The order is that of LC_ALL=C sort: by bytes, the shorter of two lines first.
 */

#include <argp.h>
#include <endian.h>
#include <errno.h>
#include <error.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <weir/weir.h>
#include <xxhash.h>

#define MIB       ((size_t)1 << 20)
#define KEY_BYTES 7u /* of the text in a key */

struct line {
    uint64_t key; /* key_at(text + depth), depth being how far the sort has come */
    uint8_t *text;
};

struct run {
    struct line next;   /* to be merged                                         */
    uint8_t *end;       /* of its last line                                     */
    uint8_t *from, *to; /* the window that `next` is in; it is discarded as one */
};

struct proof {
    uint64_t lines, sum; /* the same for the input and for the result, whatever the order */
};

static const char *memory = "256m", *swap, *input_path, *output_path;
static bool check;
static struct weir_runtime *rt;
static uint64_t budget;
static double begun_s, told_s;               /* the first and the last word to the user          */
static uint64_t bytes_done, bytes_total = 1; /* of reading, merging and checking                 */
static uint64_t anon_peak_kib;               /* of RssAnon in /proc/self/status: we look at times */

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t status_kib(const char *key)
{
    char text[2048] = "";
    FILE *file = fopen("/proc/self/status", "re");
    const char *line = file && fread(text, 1, sizeof(text) - 1, file) ? strstr(text, key) : NULL;

    if (file)
        fclose(file);
    return line ? strtoull(line + strlen(key), NULL, 10) : 0;
}

static void advance(const char *what, size_t bytes)
{
    bool is_terminal = isatty(STDERR_FILENO);
    uint64_t anon_kib = status_kib("RssAnon:");
    int share = (int)((bytes_done += bytes) * 100 / bytes_total);

    anon_peak_kib = anon_kib > anon_peak_kib ? anon_kib : anon_peak_kib;
    if (now_s() - told_s < (is_terminal ? 0.1 : 4.0))
        return;
    told_s = now_s();
    fprintf(stderr, is_terminal ? "\r[%-40.*s] %3d %% %-8s" : "sort: %.*s%d %%, %s\n",
            is_terminal ? share * 2 / 5 : 0, "########################################", share,
            what);
}

static void on_event(void *context, const struct weir_event *event)
{
    (void)context;
    if (write(STDERR_FILENO, event->text, strlen(event->text)) > 0)
        (void)!write(STDERR_FILENO, "\n", 1);
}

static void must(int result, const char *what)
{
    if (result != WEIR_OK)
        error(EXIT_FAILURE, 0, "%s: %s", what, weir_error_text(result));
}

static void *map(size_t bytes)
{
    void *address;

    must(weir_map(rt, bytes, NULL, &address), "weir_map");
    return address;
}

/*
 * The next seven bytes of a line and how many there are, as one number that compares as they do.
 * A line that ends is filled up with zeros, but the low byte makes it smaller than one that has
 * zeros there; it is KEY_BYTES + 1 if the line goes on. Looks at eight bytes, whatever they are.
 */
static uint64_t key_at(const uint8_t *text)
{
    const uint64_t low = 0x7f7f7f7f7f7f7f7full;
    uint64_t word, other, newlines;
    unsigned bytes;

    memcpy(&word, text, sizeof(word));
    word = be64toh(word);
    other = word ^ 0x0a0a0a0a0a0a0a0aull;
    newlines = ~(((other & low) + low) | other | low); /* the high bit of each */
    bytes = newlines ? (unsigned)__builtin_clzll(newlines) / 8 : KEY_BYTES + 1;
    return (word & (UINT64_MAX << 8 << (bytes < KEY_BYTES ? 56 - 8 * bytes : 0))) | bytes;
}

static bool goes_on(uint64_t key)
{
    return (key & 0xff) > KEY_BYTES;
}

static bool is_less(const struct line *a, const struct line *b)
{
    uint64_t key_a = a->key, key_b = b->key;

    for (size_t depth = KEY_BYTES; key_a == key_b && goes_on(key_a); depth += KEY_BYTES) {
        key_a = key_at(a->text + depth);
        key_b = key_at(b->text + depth);
    }
    return key_a < key_b;
}

/* Quicksort by keys, in three parts; the lines of the middle part go on with their next keys. */
static void sort_lines(struct line *lines, size_t count, size_t depth)
{
    while (count > 1) {
        const uint64_t pivot = lines[(size_t)random() % count].key;
        size_t low = 0, high = count;

        for (size_t i = 0; i < high;) {
            const struct line line = lines[i];

            if (line.key < pivot) {
                lines[i++] = lines[low];
                lines[low++] = line;
            } else if (line.key > pivot) {
                lines[i] = lines[--high];
                lines[high] = line;
            } else {
                i++;
            }
        }
        sort_lines(lines, low, depth);
        sort_lines(lines + high, count - high, depth);
        lines += low;
        count = goes_on(pivot) ? high - low : 0;
        depth += KEY_BYTES;
        for (size_t i = 0; i < count; i++)
            lines[i].key = key_at(lines[i].text + depth);
    }
}

static void prove(struct proof *proof, const uint8_t *line, const uint8_t *newline)
{
    proof->sum += XXH3_64bits(line, (size_t)(newline - line));
    proof->lines++;
}

/* --- Making runs ----------------------------------------------------------------------------- */

/* Sorted runs of the input, each on pages of its own, from `to` on. How many there are. */
static size_t make_runs(FILE *input, uint8_t *to, struct run *runs, struct proof *proof)
{
    size_t bytes = budget / 5 * 2, count = 0;
    uint8_t *text = map(bytes + WEIR_PAGE_BYTES), *rest = text, *end, *newline;
    struct line *lines = map(bytes * sizeof(*lines) + WEIR_PAGE_BYTES);

    /* The kernel does not wait for pages that are away: pin what a system call will touch. */
    must(weir_pin(text, bytes + WEIR_PAGE_BYTES, WEIR_WRITE), "weir_pin");
    while ((end = rest + fread(rest, 1, (size_t)(text + bytes - rest), input)) > text) {
        uint8_t *line = text;
        size_t n = 0;

        if (end < text + bytes && end[-1] != '\n')
            *end++ = '\n'; /* the input ended without one */
        for (; (newline = memchr(line, '\n', (size_t)(end - line))); line = newline + 1) {
            prove(proof, line, newline);
            lines[n++] = (struct line){key_at(line), line};
        }
        if (n == 0)
            error(EXIT_FAILURE, 0, "a line is longer than two fifths of --memory");
        sort_lines(lines, n, 0);
        runs[count] = (struct run){.next.text = to, .from = to, .to = to};
        for (size_t i = 0; i < n; i++) {
            __builtin_prefetch(lines[i + 12].text); /* it is anywhere in the text */
            to = memccpy(to, lines[i].text, '\n', PTRDIFF_MAX);
        }
        advance("reading", (size_t)(to - runs[count].from));
        runs[count++].end = to;
        to += -(uintptr_t)to % WEIR_PAGE_BYTES;
        memmove(text, line, (size_t)(end - line));
        rest = text + (end - line);
    }
    if (ferror(input))
        error(EXIT_FAILURE, errno, "%s", input_path);
    must(weir_unmap(text), "weir_unmap");
    must(weir_unmap(lines), "weir_unmap");
    return count;
}

/* --- Merging --------------------------------------------------------------------------------- */

/* Let go of the window that is merged, ask for the one after that which begins now. */
static void turn_window(struct run *run, size_t window)
{
    if (run->to > run->from)
        weir_advise(run->from, window, WEIR_DISCARD);
    run->from = run->to;
    run->to += window;
    if (run->to < run->end)
        weir_advise(run->to, window, WEIR_WILLNEED);
    advance("merging", window);
}

/* Among runs in falling order of their next lines. */
static void insert(struct run **order, size_t count, struct run *run)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (is_less(&run->next, &order[middle]->next))
            low = middle + 1;
        else
            high = middle;
    }
    memmove(order + low + 1, order + low, (count - low) * sizeof(*order));
    order[low] = run;
}

static uint8_t *merge_runs(struct run *runs, size_t count, uint8_t *to)
{
    struct run **order = map((count + 1) * sizeof(*order));
    size_t window = budget / 4 / (count + 1) / WEIR_PAGE_BYTES * WEIR_PAGE_BYTES + WEIR_PAGE_BYTES;
    uint8_t *end;

    for (size_t i = 0; i < count; i++) {
        runs[i].next.key = key_at(runs[i].next.text);
        insert(order, i, &runs[i]);
    }
    while (count > 0) {
        struct run *run = order[--count];
        struct line *next = &run->next;

        if (next->text >= run->to)
            turn_window(run, window);
        end = memccpy(to, next->text, '\n', PTRDIFF_MAX);
        next->text += end - to;
        to = end;
        if (next->text < run->end) {
            next->key = key_at(next->text);
            insert(order, count++, run);
        }
    }
    return to;
}

/* --- The result ------------------------------------------------------------------------------ */

static void write_part(FILE *output, uint8_t *from, size_t bytes)
{
    if (!output || bytes == 0)
        return;
    must(weir_pin(from, bytes, WEIR_READ), "weir_pin");
    if (fwrite(from, 1, bytes, output) != bytes)
        error(EXIT_FAILURE, errno, "%s", output_path);
    must(weir_unpin(from, bytes), "weir_unpin");
    weir_advise(from, bytes, WEIR_DISCARD);
}

/* Walk the result once: are these the lines of the input, and in order? Write it on the way. */
static bool check_result(uint8_t *sorted, uint8_t *end, FILE *output, const struct proof *input)
{
    struct line last = {0}, line = {.text = sorted};
    struct proof result = {0};
    uint8_t *part = sorted;
    bool in_order = true;

    while (line.text < end) {
        uint8_t *newline = rawmemchr(line.text, '\n');

        line.key = key_at(line.text);
        in_order &= !last.text || !is_less(&line, &last);
        prove(&result, line.text, newline);
        last = line;
        line.text = newline + 1;
        for (; last.text >= part + MIB; part += MIB) {
            write_part(output, part, MIB);
            advance("checking", MIB);
        }
    }
    write_part(output, part, (size_t)(end - part));
    return in_order && memcmp(&result, input, sizeof(result)) == 0;
}

/* Is OUTPUT, byte for byte, what the system's sort makes of INPUT? */
static bool equals_system_sort(void)
{
    setenv("INPUT", input_path, 1);
    setenv("OUTPUT", output_path, 1);
    fputs("sort: now the system's sort sorts it too\n", stderr);
    return system("LC_ALL=C sort -T /var/tmp -- \"$INPUT\" | cmp - \"$OUTPUT\" && "
                  "echo \"the system's sort agrees, byte for byte\"") == 0;
}

static bool sort_file(FILE *input, FILE *output)
{
    size_t bytes = (size_t)lseek(fileno(input), 0, SEEK_END) + WEIR_PAGE_BYTES;
    size_t runs_max = 2 + bytes / (budget / 5);
    struct run *runs = map(runs_max * sizeof(*runs));
    uint8_t *from = map(bytes + runs_max * WEIR_PAGE_BYTES), *to = map(bytes);
    struct proof proof = {0};
    bool is_right;
    size_t count;

    bytes_total += 3 * bytes;
    rewind(input);
    count = make_runs(input, from, runs, &proof);
    is_right = check_result(to, merge_runs(runs, count, to), output, &proof);
    fputs(isatty(STDERR_FILENO) ? "\n" : "", stderr);
    printf("%lu lines, %zu runs, %.1f s: %s\n"
           "peak resident %.1f MiB, of it anonymous %.1f MiB; budget %.1f MiB\n",
           proof.lines, count, now_s() - begun_s,
           is_right ? "in order, and those of the input" : "WRONG",
           (double)status_kib("VmHWM:") / 1024, (double)anon_peak_kib / 1024, (double)budget / MIB);
    fflush(stdout);
    must(weir_report_fd(rt, STDOUT_FILENO), "weir_report_fd");
    return is_right;
}

static error_t on_option(int key, char *value, struct argp_state *state)
{
    switch (key) {
    case 'm': memory = value; return 0;
    case 's': swap = value; return 0;
    case 'c': check = true; return 0;
    case ARGP_KEY_ARG:
        *(state->arg_num ? &output_path : &input_path) = value;
        return state->arg_num > 1 ? ARGP_ERR_UNKNOWN : 0;
    case ARGP_KEY_END:
        if (!input_path || (check && !output_path))
            argp_error(state, "%s is missing", input_path ? "OUTPUT, to check," : "INPUT");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"memory", 'm', "BYTES", 0, "memory that may be used; 256m if not given", 0},
        {"swap", 's', "BACKENDS", 0, "where pages go, for example file:/var/tmp?size=8G", 0},
        {"check", 'c', NULL, 0, "compare OUTPUT with what the system's sort makes of INPUT", 0},
        {0},
    };
    static const struct argp argp = {options, on_option, "INPUT [OUTPUT]", NULL, NULL, NULL, NULL};
    struct weir_options wish;
    FILE *input, *output;
    bool is_right;

    argp_parse(&argp, argc, argv, 0, NULL, NULL);
    begun_s = told_s = now_s();
    input = fopen(input_path, "re");
    output = output_path ? fopen(output_path, "we") : NULL;
    if (!input || (output_path && !output))
        error(EXIT_FAILURE, errno, "%s", input ? output_path : input_path);
    setenv("WEIR_BUDGET", memory, 1);
    weir_options_init(&wish);
    wish.on_event = on_event;
    wish.backends = swap ? swap : wish.backends;
    must(weir_open(&wish, &rt), "weir_open");
    budget = wish.budget_bytes;
    must(budget ? WEIR_OK : WEIR_EINVAL, "--memory");
    is_right = sort_file(input, output);
    must(weir_close(rt), "weir_close");
    if (output && fclose(output) != 0)
        error(EXIT_FAILURE, errno, "%s", output_path);
    if (check)
        is_right &= equals_system_sort();
    return is_right ? EXIT_SUCCESS : EXIT_FAILURE;
}
