/* SPDX-License-Identifier: MIT */

/* weir report: what programs do, for people. */

#include <stdlib.h>

#include "runtime/cmd/cmd.h"

#define STILL_SECONDS 5.0

static void print_budget(const struct weir_stats *s)
{
    const struct {
        const char *name;
        uint64_t bytes;
    } parts[] = {{"budget", s->budget_bytes},    {"resident", s->resident_bytes},
                 {"staged", s->staged_bytes},    {"slab", s->slab_bytes},
                 {"free", s->free_bytes},        {"swap cache", s->cached_pages * WEIR_PAGE_BYTES},
                 {"mapped", s->mapped_bytes},    {"page tables", s->page_table_bytes},
                 {"metadata", s->metadata_bytes}};
    char text[CMD_TEXT];

    printf("  memory      ");
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        printf("%s%s %s", i ? ", " : "", parts[i].name, cmd_bytes(text, (double)parts[i].bytes));
    printf("\n");
}

static void print_traffic(const struct weir_stats *s)
{
    char read[CMD_TEXT], written[CMD_TEXT], faults[CMD_TEXT];
    uint64_t found = s->swap_faults ? s->cache_found * 100 / s->swap_faults : 0;

    printf("  since start %s faults, read %s, wrote %s; of faults on pages that had left, %llu %% "
           "found them in memory\n",
           cmd_count(faults, (double)s->faults),
           cmd_bytes(read, (double)(s->reads_demand + s->reads_ahead) * WEIR_PAGE_BYTES),
           cmd_bytes(written, (double)s->pages_written * WEIR_PAGE_BYTES),
           (unsigned long long)found);
    if (s->read_errors + s->write_errors + s->checksum_errors + s->frame_failures > 0)
        printf("  ERRORS      reads %llu, writes %llu, damaged pages %llu, out of swap %llu\n",
               (unsigned long long)s->read_errors, (unsigned long long)s->write_errors,
               (unsigned long long)s->checksum_errors, (unsigned long long)s->frame_failures);
}

static void print_backends(const struct weir_watch *watch)
{
    char used[CMD_TEXT], total[CMD_TEXT];

    for (uint32_t i = 0; i < watch->backends_shown; i++) {
        const struct weir_backend_state *b = &watch->backends[i];

        printf("  back end %-2u %s: %s of %s, errors %llu%s%s\n", b->number, b->spec,
               cmd_bytes(used, (double)b->bytes_used), cmd_bytes(total, (double)b->bytes_total),
               (unsigned long long)b->errors, b->draining ? ", draining" : "",
               b->sick ? ", SICK: recent writes failed" : "");
    }
}

static void print_regions(const struct weir_watch *watch)
{
    char bytes[CMD_TEXT], resident[CMD_TEXT], cached[CMD_TEXT], out[CMD_TEXT];
    char faults[CMD_TEXT], waited[CMD_TEXT];

    for (uint32_t i = 0; i < watch->regions_shown; i++) {
        const struct weir_region_stats *r = &watch->regions[i];

        printf("  region      %s: %s, resident %s, cached %s, out %s; faults %s, waited %s\n",
               *r->name ? r->name : "(no name)", cmd_bytes(bytes, (double)r->bytes),
               cmd_bytes(resident, (double)r->resident_bytes),
               cmd_bytes(cached, (double)r->cached_bytes), cmd_bytes(out, (double)r->out_bytes),
               cmd_count(faults, (double)r->faults), cmd_time(waited, (double)r->wait_ns));
    }
    if (watch->region_count > watch->regions_shown)
        printf("  regions not shown: %u of %u\n", watch->region_count - watch->regions_shown,
               watch->region_count);
}

/* Only those that there were: the others say nothing. */
static void print_time(const char *meaning, const struct weir_histogram *h)
{
    char count[CMD_TEXT], mean[CMD_TEXT], p50[CMD_TEXT], p99[CMD_TEXT];

    if (h->count == 0)
        return;
    printf("  %8s x  mean %8s, p50 < %8s, p99 < %8s  %s\n", cmd_count(count, (double)h->count),
           cmd_time(mean, (double)h->sum_ns / (double)h->count),
           cmd_time(p50, (double)weir_histogram_quantile(h, 0.5)),
           cmd_time(p99, (double)weir_histogram_quantile(h, 0.99)), meaning);
}

static void print_watch(const struct weir_watch *watch)
{
    const struct weir_stats *s = watch->stats;
    double age = cmd_age(watch->published_ns);

    printf("%s, process %d, open for %.0f s, weir %s\n", watch->program, watch->pid,
           cmd_age(watch->opened_ns), watch->library);
    if (age > STILL_SECONDS)
        printf("  SILENT      for %.0f s: the program is stopped, or gets no processor\n", age);
    printf("  engine      %s\n", watch->how);
    print_budget(s);
    print_traffic(s);
    print_backends(watch);
    print_regions(watch);
#define REPORT_TIME(name, meaning) print_time(meaning, &s->time_##name);
    WEIR_TIME_MAP(REPORT_TIME)
#undef REPORT_TIME
}

int cmd_report(const struct cmd *cmd)
{
    static struct cmd_watches watches;

    if (!cmd_read(cmd, false, &watches))
        return EXIT_FAILURE;
    for (size_t i = 0; i < watches.count; i++) {
        printf("%s", i ? "\n" : "");
        print_watch(watches.watch[i]);
    }
    cmd_forget(&watches);
    return EXIT_SUCCESS;
}
