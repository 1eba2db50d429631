/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * USDT: places in the library that bpftrace, perf and SystemTap find by name.
 *
 *   weir:fault_begin  address, 0 to load, 1 to store, 2 not known
 *   weir:fault_done   address, error (0: served), nanoseconds
 *   weir:evict        pages looked at, pages that left
 *   weir:read_begin   page number, pages, 1 for readahead
 *   weir:read_done    page number, error, nanoseconds; of those that a thread waited for
 *   weir:write_begin  back end, slot, pages
 *   weir:write_done   back end, slot, pages, error, nanoseconds
 *
 * Always: a probe that nobody watches is one instruction that does nothing, and its arguments are
 * what is at hand anyway. Without <sys/sdt.h> (systemtap-sdt-dev) there are none.
 * docs/GUIDE.md shows them at work. (After Solaris' DTrace; the format is SystemTap's.)
 */

#ifdef WR_USDT
#include <sys/sdt.h>
#define WR_PROBE2(name, a, b)          DTRACE_PROBE2(weir, name, a, b)
#define WR_PROBE3(name, a, b, c)       DTRACE_PROBE3(weir, name, a, b, c)
#define WR_PROBE5(name, a, b, c, d, e) DTRACE_PROBE5(weir, name, a, b, c, d, e)
#else
#define WR_PROBE2(name, a, b)          ((void)(a), (void)(b))
#define WR_PROBE3(name, a, b, c)       ((void)(a), (void)(b), (void)(c))
#define WR_PROBE5(name, a, b, c, d, e) ((void)(a), (void)(b), (void)(c), (void)(d), (void)(e))
#endif
