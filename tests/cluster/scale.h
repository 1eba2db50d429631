/* SPDX-License-Identifier: MIT */
#pragma once

/* Scale: what servers and clients need, by the number of each. */

#include <stdint.h>

/* Prints one JSON line a row, of those with at most so many servers times clients (0: all). Returns
 * 0 if what was simulated agrees with what was reckoned. */
int scale(uint32_t most);
