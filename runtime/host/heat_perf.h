/* SPDX-License-Identifier: MIT */
#pragma once

/* Perf, between heat_perf.c and its test: the ring in which the kernel leaves samples, and the
 * words in which it names the event. */

#include <linux/perf_event.h>

#include "runtime/host/heat_source.h"

/* Tell of each sample's address, and give the ring's bytes back. data_bytes is a power of two. */
void wr_perf_drain(struct perf_event_mmap_page *head, const uint8_t *data, uint64_t data_bytes,
                   const struct wr_heat_ask *ask);

/* "event=0xcd,umask=0x1,ldlat=3" into the fields that the attribute has for them. False: it has a
 * word that we do not know. */
bool wr_perf_words(const char *words, struct perf_event_attr *attr);
