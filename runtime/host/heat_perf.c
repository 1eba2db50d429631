/* SPDX-License-Identifier: MIT */

/*
 * Perf: the processor tells of every so many loads what address they were of (Intel PEBS, the event
 * mem-loads; AMD IBS, the device ibs_op). For this process, and threads that it has now or that
 * those begin; a ring for each processor.
 */

#include "runtime/host/heat_perf.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/host/file.h"

#define CPUS_MOST   256u
#define EVENTS_MOST 1024u
#define DATA_PAGES  8u
#define PERIOD      10007u /* loads; a prime, so that no loop is in step with it */
#define RING_BYTES  ((1 + DATA_PAGES) * (uint64_t)WEIR_PAGE_BYTES)

struct perf {
    struct wr_heat_source source; /* first */
    uint32_t cpu_count, event_count;
    void *rings[CPUS_MOST]; /* NULL: that processor is away */
    int events[EVENTS_MOST];
};

/* --- The ring -------------------------------------------------------------------------------- */

/* A record may go round the end of the ring: by bytes. */
static void copy_out(void *to, const uint8_t *data, uint64_t data_bytes, uint64_t at, size_t count)
{
    uint8_t *bytes = to;

    for (size_t i = 0; i < count; i++)
        bytes[i] = data[(at + i) & (data_bytes - 1)];
}

void wr_perf_drain(struct perf_event_mmap_page *head, const uint8_t *data, uint64_t data_bytes,
                   const struct wr_heat_ask *ask)
{
    /* Acquire: pairs with the kernel's barrier before it moves the head; what is before the head is
     * there. */
    uint64_t end = __atomic_load_n(&head->data_head, __ATOMIC_ACQUIRE);
    uint64_t at = head->data_tail, addr;
    struct perf_event_header record;

    while (end - at >= sizeof(record)) {
        copy_out(&record, data, data_bytes, at, sizeof(record));
        if (record.size < sizeof(record) || record.size > end - at)
            break; /* not as promised: forget the rest */
        if (record.type == PERF_RECORD_SAMPLE && record.size >= sizeof(record) + sizeof(addr)) {
            copy_out(&addr, data, data_bytes, at + sizeof(record), sizeof(addr));
            ask->used(ask->context, addr, 1);
        }
        at += record.size;
    }
    /* Release: we have read what the kernel may now write over. */
    __atomic_store_n(&head->data_tail, end, __ATOMIC_RELEASE);
}

/* --- The event ------------------------------------------------------------------------------- */

bool wr_perf_words(const char *words, struct perf_event_attr *attr)
{
    while (*words) {
        const char *equals = strchr(words, '=');
        size_t length = strcspn(words, "=,");
        uint64_t number = equals && equals == words + length ? strtoull(equals + 1, NULL, 0) : 1;

        if (length == 5 && strncmp(words, "event", 5) == 0)
            attr->config |= number & 0xff;
        else if (length == 5 && strncmp(words, "umask", 5) == 0)
            attr->config |= (number & 0xff) << 8;
        else if (length == 5 && strncmp(words, "ldlat", 5) == 0)
            attr->config1 |= number & 0xffff;
        else
            return false;
        words += strcspn(words, ",");
        words += *words == ',';
    }
    return true;
}

/* What this processor calls its sampling of loads. */
static bool find_event(const char *root, struct perf_event_attr *attr)
{
    char path[WR_HEAT_PATH], words[200];
    uint64_t type;

#define DEVICES "/sys/bus/event_source/devices/"
    attr->precise_ip = 2;
    if (wr_file_read_number(wr_heat_path(path, root, DEVICES "cpu/type"), &type) &&
        wr_file_read(wr_heat_path(path, root, DEVICES "cpu/events/mem-loads"), words,
                     sizeof(words))) {
        attr->type = (uint32_t)type;
        return wr_perf_words(words, attr);
    }
    attr->precise_ip = 0; /* it is by its nature */
    if (!wr_file_read_number(wr_heat_path(path, root, DEVICES "ibs_op/type"), &type))
        return false;
    attr->type = (uint32_t)type;
    return true;
}

static int open_event(struct perf_event_attr *attr, pid_t thread, uint32_t cpu)
{
    return (int)syscall(SYS_perf_event_open, attr, thread, (int)cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

/* One thread on one processor; all threads of a processor share a ring. */
static bool add_event(struct perf *perf, struct perf_event_attr *attr, pid_t thread, uint32_t cpu,
                      int *first_p)
{
    int event;

    if (perf->event_count == EVENTS_MOST)
        return false;
    event = open_event(attr, thread, cpu);
    if (event < 0)
        return false;
    perf->events[perf->event_count++] = event;
    if (perf->rings[cpu])
        return ioctl(event, PERF_EVENT_IOC_SET_OUTPUT, *first_p) == 0;
    perf->rings[cpu] = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0);
    *first_p = event;
    if (perf->rings[cpu] != MAP_FAILED)
        return true;
    perf->rings[cpu] = NULL;
    return false;
}

static void perf_close(struct wr_heat_source *source)
{
    struct perf *perf = (struct perf *)(void *)source;

    for (uint32_t i = 0; i < CPUS_MOST; i++)
        if (perf->rings[i])
            munmap(perf->rings[i], RING_BYTES);
    for (uint32_t i = 0; i < perf->event_count; i++)
        close(perf->events[i]);
    free(perf);
}

/* Each thread of this process, on each processor. False: none could be watched; errno says why. */
static bool watch_threads(struct perf *perf, struct perf_event_attr *attr)
{
    int first[CPUS_MOST];
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *entry;
    int kept = 0;

    if (!tasks)
        return false;
    while ((entry = readdir(tasks)) != NULL) {
        pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10);

        for (uint32_t cpu = 0; thread > 0 && cpu < perf->cpu_count; cpu++)
            if (!add_event(perf, attr, thread, cpu, &first[cpu]))
                kept = errno;
    }
    closedir(tasks);
    errno = kept;
    return perf->event_count > 0;
}

static int perf_open(const char *root, struct wr_heat_source **source_p, struct wr_text *why)
{
    struct perf_event_attr attr = {
        .size = sizeof(attr),
        .sample_period = PERIOD,
        .sample_type = PERF_SAMPLE_ADDR,
        .inherit = 1,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    long cpus = sysconf(_SC_NPROCESSORS_CONF);
    struct perf *perf;

    errno = 0;
    if (!find_event(root, &attr)) {
        errno = 0;
        return wr_heat_refuse(why, "perf: this machine offers no sampling of loads (no PMU, or it "
                                   "is kept from this guest)");
    }
    perf = calloc(1, sizeof(*perf));
    if (!perf)
        return WEIR_ENOMEM;
    perf->source.ops = &wr_heat_perf;
    perf->cpu_count = cpus > 0 && cpus < (long)CPUS_MOST ? (uint32_t)cpus : CPUS_MOST;
    if (!watch_threads(perf, &attr)) {
        (void)wr_heat_refuse(why, "perf: perf_event_open failed; look at "
                                  "kernel.perf_event_paranoid (2 or less)");
        perf_close(&perf->source);
        return WEIR_ENOSUPPORT;
    }
    *source_p = &perf->source;
    return WEIR_OK;
}

static void perf_step(struct wr_heat_source *source, const struct wr_heat_ask *ask)
{
    struct perf *perf = (struct perf *)(void *)source;

    for (uint32_t i = 0; i < perf->cpu_count; i++)
        if (perf->rings[i])
            wr_perf_drain(perf->rings[i], (const uint8_t *)perf->rings[i] + WEIR_PAGE_BYTES,
                          DATA_PAGES * (uint64_t)WEIR_PAGE_BYTES, ask);
}

const struct wr_heat_source_ops wr_heat_perf = {"perf", perf_open, perf_step, perf_close};
