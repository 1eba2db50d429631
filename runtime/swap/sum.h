/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Sum: the checksum of a page's bytes.
 *
 * The low half of XXH3 (Yann Collet) over the page, seeded with the page's number, so that a page
 * in the wrong slot is found out.
 */

#include <stdint.h>

#define WR_SUM_TOGETHER 8u /* pages that are best summed by one call */

/* Any thread, any signal handler. */
uint32_t wr_sum(uint32_t page, const void *bytes);
/* The same of at most so many pages: sums[i] == wr_sum(pages[i], bytes[i]). next: where the bytes
 * lie, one page after another, that are to be summed after these, or NULL: they are on their way
 * then. */
void wr_sums(uint32_t count, const uint32_t *pages, const uint8_t *const *bytes,
             const uint8_t *next, uint32_t *sums);
