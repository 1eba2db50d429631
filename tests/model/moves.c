/* SPDX-License-Identifier: MIT */

/*
 * Moves: is page.pml about the states that page.c has, and the moves that page.c allows?
 *
 *   model_moves DRAWN            page.pml draws the moves of wr_page_may_move(), and no others
 *   model_moves DRAWN TAKEN...   and each of them was taken in one of the searches
 *
 * DRAWN is page.pml, whose lines are read as they stand: "#define STATE number" and
 * "#define FROM_STATE (TO(STATE) | ...)". TAKEN is what run_model.sh left of a search.
 */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/memory/page.h"

#define LINE_ROOM 200u
#define COUNT     ((unsigned)WR_PAGE_STATE_COUNT)

static const char *const names[WR_PAGE_STATE_COUNT] = {
    [WR_PAGE_EMPTY] = "EMPTY",
    [WR_PAGE_OUT] = "OUT",
    [WR_PAGE_READING] = "READING",
    [WR_PAGE_CACHED_DIRTY] = "CACHED_DIRTY",
    [WR_PAGE_CACHED_WRITING] = "CACHED_WRITING",
    [WR_PAGE_CACHED_CLEAN] = "CACHED_CLEAN",
    [WR_PAGE_RESIDENT_ZERO] = "RESIDENT_ZERO",
    [WR_PAGE_RESIDENT_DIRTY] = "RESIDENT_DIRTY",
    [WR_PAGE_RESIDENT_CLEAN] = "RESIDENT_CLEAN",
    [WR_PAGE_RESIDENT_WRITING] = "RESIDENT_WRITING",
    [WR_PAGE_POISONED] = "POISONED",
};

struct drawing {
    bool is_numbered[WR_PAGE_STATE_COUNT]; /* "#define STATE number", with the right number */
    bool has_moves[WR_PAGE_STATE_COUNT];   /* "#define FROM_STATE" was seen                 */
    bool moves[WR_PAGE_STATE_COUNT][WR_PAGE_STATE_COUNT];
};

static FILE *open_or_die(const char *path)
{
    FILE *file = fopen(path, "r");

    if (!file) {
        perror(path);
        exit(2);
    }
    return file;
}

static bool find_state(const char *name, size_t length, unsigned *state_p)
{
    for (unsigned i = 0; i < COUNT; i++)
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0) {
            *state_p = i;
            return true;
        }
    return false;
}

/* The TO(STATE) of a line. False: one of them is no state of page.h. */
static bool read_targets(struct drawing *drawing, unsigned from, const char *line)
{
    for (const char *at = strstr(line, "TO("); at; at = strstr(at, "TO(")) {
        unsigned to;

        at += strlen("TO(");
        if (!find_state(at, strcspn(at, ")"), &to))
            return false;
        drawing->moves[from][to] = true;
    }
    return true;
}

static bool read_drawing(const char *path, struct drawing *drawing)
{
    FILE *file = open_or_die(path);
    char line[LINE_ROOM], name[LINE_ROOM];
    unsigned from = COUNT; /* whose moves go on in the next line */
    bool good = true;

    while (fgets(line, sizeof(line), file)) {
        unsigned state, number;

        if (sscanf(line, "#define %199s", name) == 1) {
            if (strncmp(name, "FROM_", 5) == 0) {
                good &= find_state(name + 5, strlen(name + 5), &from);
                if (from < COUNT)
                    drawing->has_moves[from] = true;
            } else if (find_state(name, strlen(name), &state)) {
                drawing->is_numbered[state] = sscanf(line, "#define %*s %u", &number) == 1 &&
                                              number == state;
            }
        }
        if (from < COUNT)
            good &= read_targets(drawing, from, line);
        if (!strchr(line, '\\'))
            from = COUNT;
    }
    fclose(file);
    if (!good)
        printf("%s names a state that page.h does not have\n", path);
    return good;
}

static bool is_drawn_right(const struct drawing *drawing)
{
    bool good = true;

    for (unsigned from = 0; from < COUNT; from++) {
        if (!drawing->is_numbered[from] || !drawing->has_moves[from]) {
            printf("%s: not the number of page.h, or no moves\n", names[from]);
            good = false;
        }
        for (unsigned to = 0; to < COUNT; to++) {
            bool may = wr_page_may_move((enum wr_page_state)from, (enum wr_page_state)to);

            if (may != drawing->moves[from][to]) {
                printf("%s -> %s: only %s draws it\n", names[from], names[to],
                       may ? "page.c" : "the model");
                good = false;
            }
        }
    }
    return good;
}

static void read_taken(const char *path, bool taken[WR_PAGE_STATE_COUNT][WR_PAGE_STATE_COUNT])
{
    FILE *file = open_or_die(path);
    unsigned from, to;

    while (fscanf(file, "taken %u %u ", &from, &to) == 2)
        if (from < COUNT && to < COUNT)
            taken[from][to] = true;
    fclose(file);
}

static bool are_all_taken(int count, char **paths)
{
    bool taken[WR_PAGE_STATE_COUNT][WR_PAGE_STATE_COUNT] = {{false}};
    bool good = true;

    for (int i = 0; i < count; i++)
        read_taken(paths[i], taken);
    for (unsigned from = 0; from < COUNT; from++)
        for (unsigned to = 0; to < COUNT; to++) {
            bool may = wr_page_may_move((enum wr_page_state)from, (enum wr_page_state)to);

            if (may == taken[from][to])
                continue;
            printf("%s -> %s: %s\n", names[from], names[to],
                   may ? "no search took it" : "a search took it, and page.c forbids it");
            good = false;
        }
    return good;
}

int main(int argc, char **argv)
{
    struct drawing drawing = {0};

    if (argc < 2) {
        fprintf(stderr, "usage: %s page.pml [TAKEN...]\n", argv[0]);
        return 2;
    }
    if (!read_drawing(argv[1], &drawing) || !is_drawn_right(&drawing))
        return 1;
    if (argc > 2 && !are_all_taken(argc - 2, argv + 2))
        return 1;
    puts(argc > 2 ? "the moves are those of page.c, and all were taken"
                  : "the moves are those of page.c");
    return 0;
}
