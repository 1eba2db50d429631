/* SPDX-License-Identifier: MIT */

/* run_corpus DIRECTORY...: a fuzz target's corpus, each file once. */

#include <dirent.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

#define FILE_MOST ((size_t)1 << 20)

static void run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc(FILE_MOST), *exactly;
    size_t count;

    FUZZ_ASSERT(file && bytes);
    count = fread(bytes, 1, FILE_MOST, file);
    FUZZ_ASSERT(!ferror(file));
    fclose(file);
    /* No room behind it, so that reading on is noticed. */
    exactly = malloc(count ? count : 1);
    FUZZ_ASSERT(exactly);
    memcpy(exactly, bytes, count);
    free(bytes);
    LLVMFuzzerTestOneInput(exactly, count);
    free(exactly);
}

static unsigned run_directory(const char *path)
{
    DIR *directory = opendir(path);
    const struct dirent *entry;
    unsigned files = 0;
    char file[4096];

    FUZZ_ASSERT(directory);
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        /* Before it runs: the last line names the one that fails. */
        printf("%s\n", file);
        fflush(stdout);
        run_file(file);
        files++;
    }
    closedir(directory);
    return files;
}

int main(int argc, char **argv)
{
    unsigned files = 0;

    for (int i = 1; i < argc; i++)
        files += run_directory(argv[i]);
    printf("%u files\n", files);
    return files == 0; /* none: the test was pointed at the wrong place */
}
