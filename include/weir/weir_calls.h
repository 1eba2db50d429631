/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Weir calls: system calls on memory that is away.
 *
 * The kernel does not wait for a page of a region that is away: read(), write() and their like fail
 * with EFAULT, or stop short. A program that links libweir_calls (weir_calls.pc), before the C
 * library, need not think of that: these calls pin what they are given, call, and unpin.
 *
 *     read write pread pwrite readv writev preadv pwritev preadv2 pwritev2
 *     recv recvfrom recvmsg recvmmsg send sendto sendmsg sendmmsg
 *     fread fwrite fread_unlocked fwrite_unlocked getrandom
 *
 * and what _FORTIFY_SOURCE and large files make of them. Memory that is no region's costs one look
 * at a table more. More than 8 MiB are moved in parts; where a call may return less than was asked
 * for (a pipe, a socket), it does so after the first. More than can be pinned: fewer at a time; for
 * one message, which has to be whole, ENOMEM. A page that cannot be brought back: EIO.
 *
 * While a call waits, for example for a peer, its buffer stays in memory, against the budget. Calls
 * that are not named here (ioctl, stat, poll, futex, io_uring ...) want weir_pin(), or memory of
 * another kind: docs/LIMITS.md. In a signal handler: only on memory that is no region's.
 */

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* 1: the calls above are those of this library in this process; 0: the C library's own come first,
 * because it was loaded before this one. Any thread, any signal handler. */
int weir_calls_are_ours(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
