/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soak.h"

static long line_of(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    char line[256];
    long value = -1;

    while (file && value < 0 && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtol(line + strlen(key), NULL, 10);
    if (file)
        fclose(file);
    return value;
}

static int count_entries(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;

    while (directory && readdir(directory))
        count++;
    if (directory)
        closedir(directory);
    return count;
}

bool soak_gauges_read(int pid, struct soak_gauges *gauges)
{
    char status[64], descriptors[64];

    if (pid) {
        snprintf(status, sizeof(status), "/proc/%d/status", pid);
        snprintf(descriptors, sizeof(descriptors), "/proc/%d/fd", pid);
    } else {
        strcpy(status, "/proc/self/status");
        strcpy(descriptors, "/proc/self/fd");
    }
    *gauges = (struct soak_gauges){
        .resident_kib = line_of(status, "RssAnon:"),
        .tables_kib = line_of(status, "VmPTE:"),
        .descriptors = count_entries(descriptors),
        .threads = (int)line_of(status, "Threads:"),
    };
    return gauges->resident_kib >= 0;
}
