/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Chaos: a back end that wraps another and behaves as badly as the contract allows, and on wish
 * worse. For tests inside this tree; programs use its specification, chaos(INNER)?key=value.
 *
 *   dial      one thing that can be made worse, while it runs; the options of the specification
 *             are the dials' first positions
 *   request   a read(), a read by a channel, or a write; each of these three kinds is numbered
 *             from 0 by itself
 *   draw      a random number: a function of seed, kind, number and purpose, and of nothing else.
 *             So the 17th write meets the same fate whatever reads came between, and turning one
 *             dial does not change what another one draws
 *   fate      what was drawn for one request
 *
 * draw(seed, kind, number, purpose) = mix(mix(seed + kind * A + number * B) + purpose * B), where
 * mix is the finaliser of splitmix64 and A, B are odd constants; all arithmetic modulo 2^64.
 *
 * Always: without lie, every request that reports success has done what was asked.
 */

#include <stdint.h>

#include <weir/weir_backend.h>

#define WR_CHAOS_NEVER   UINT64_MAX
#define WR_CHAOS_HOUR_US 3600000000u

/* Dial, key in the specification, unit, default, largest in the specification, meaning. */
#define WR_CHAOS_DIAL_MAP(X)                                                                       \
    X(DELAY_US, "delay_us", WR_SPEC_COUNT, 0, WR_CHAOS_HOUR_US,                                    \
      "every request takes this much longer")                                                      \
    X(READ_DELAY_US, "read_delay_us", WR_SPEC_COUNT, 0, WR_CHAOS_HOUR_US,                          \
      "reads take this much longer still")                                                         \
    X(WRITE_DELAY_US, "write_delay_us", WR_SPEC_COUNT, 0, WR_CHAOS_HOUR_US,                        \
      "writes take this much longer still")                                                        \
    X(JITTER_US, "jitter_us", WR_SPEC_COUNT, 0, WR_CHAOS_HOUR_US,                                  \
      "and every request a random time up to this")                                                \
    X(BYTES_PER_S, "bytes_per_s", WR_SPEC_BYTES, 0, 1ull << 50,                                    \
      "all requests share this bandwidth; 0: no limit")                                            \
    X(REORDER, "reorder", WR_SPEC_COUNT, 0, 1, "1: completions that are due come in random order") \
    X(FAIL_READ, "fail_read", WR_SPEC_SHARE, 0, 0, "reads fail: WEIR_EIO")                         \
    X(FAIL_WRITE, "fail_write", WR_SPEC_SHARE, 0, 0, "writes fail: WEIR_EIO")                      \
    X(FULL, "full", WR_SPEC_SHARE, 0, 0, "writes fail: WEIR_EFULL")                                \
    X(SHORT, "short", WR_SPEC_SHARE, 0, 0, "the inner back end gets the request in two parts")     \
    X(LIE, "lie", WR_SPEC_SHARE, 0, 0,                                                             \
      "success is reported, but one byte read is damaged, or the write dropped")                   \
    X(FAIL_AFTER, "fail_after", WR_SPEC_COUNT, WR_CHAOS_NEVER, WR_CHAOS_NEVER,                     \
      "writes from this number on fail: WEIR_EIO")                                                 \
    X(FULL_AFTER, "full_after", WR_SPEC_COUNT, WR_CHAOS_NEVER, WR_CHAOS_NEVER,                     \
      "writes from this number on fail: WEIR_EFULL")                                               \
    X(HANG_AFTER, "hang_after", WR_SPEC_COUNT, WR_CHAOS_NEVER, WR_CHAOS_NEVER,                     \
      "after so many requests of all kinds, everything stands still once")                         \
    X(HANG_MS, "hang_ms", WR_SPEC_COUNT, 1000, WR_CHAOS_HOUR_US / 1000, "for so long")

enum wr_chaos_dial {
#define WR_CHAOS_ENUM(name, key, unit, initial, most, text) WR_CHAOS_##name,
    WR_CHAOS_DIAL_MAP(WR_CHAOS_ENUM)
#undef WR_CHAOS_ENUM
        WR_CHAOS_DIALS
};

/* What it did so far. The first three number the requests. */
enum wr_chaos_did {
    WR_CHAOS_DID_READ,        /* calls of read()                                 */
    WR_CHAOS_DID_FETCH,       /* reads by channels                               */
    WR_CHAOS_DID_WRITE,       /* writes by channels                              */
    WR_CHAOS_DID_FAIL_READ,   /* of both kinds of reads                          */
    WR_CHAOS_DID_FAIL_WRITE,  /* by fail_write and fail_after                    */
    WR_CHAOS_DID_FULL,        /* by full and full_after                          */
    WR_CHAOS_DID_SHORT,       /* requests handed on in two parts                 */
    WR_CHAOS_DID_DAMAGE_READ, /* lies: a byte was changed                        */
    WR_CHAOS_DID_DROP_WRITE,  /* lies: nothing was written                       */
    WR_CHAOS_DID_HANG,        /* times that everything stood still               */
    WR_CHAOS_DID_REORDER,     /* completions that overtook an earlier due one    */
    WR_CHAOS_DIDS
};

/*
 * Turn a dial. Probabilities are in millionths. Requests accepted before keep their fate. Any
 * thread, any signal handler; backend is one that weir_backend_chaos opened.
 */
void wr_chaos_set(struct weir_backend *backend, enum wr_chaos_dial dial, uint64_t value);

/* Read a counter. Any thread, any signal handler. */
uint64_t wr_chaos_get(struct weir_backend *backend, enum wr_chaos_did did);
