/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Plain: as much of Criterion as the tests use, for trees built with a sanitizer.
 *
 * Criterion keeps its data at addresses that ThreadSanitizer has for its own, and dies before the
 * first test; and it starts a program for each test, which with AddressSanitizer takes a quarter of
 * a second where a fork takes a tenth of that. The tests are the same; this header is found in
 * place of Criterion's there.
 *
 * Always: each test runs in a process of its own. Messages of assertions are not kept: the
 * condition and its place are printed, and the same test in another tree says the rest.
 */

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What only a message names is unused here. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"

struct plain_test {
    const char *suite, *name;
    void (*run)(void);
    struct plain_test *next;
    void (*init)(void);
    void (*fini)(void);
    int signal; /* that is to end it; 0: none */
    double timeout;
};

void plain_add(struct plain_test *test);
/* One assertion of the running test: ends it when it does not hold and is fatal. */
void plain_judge(bool holds, bool is_fatal, const char *place, const char *text);
_Noreturn void plain_skip(void);

#define Test(...) PLAIN_TEST(__VA_ARGS__, )
#define PLAIN_TEST(suite_, name_, ...)                                                     \
    static void suite_##_##name_##_run(void);                                              \
    __attribute__((constructor)) static void suite_##_##name_##_add(void)                  \
    {                                                                                      \
        static struct plain_test test = {                                                  \
            .suite = #suite_, .name = #name_, .run = suite_##_##name_##_run, __VA_ARGS__}; \
        plain_add(&test);                                                                  \
    }                                                                                      \
    static void suite_##_##name_##_run(void)

#define PLAIN_LINE_OF(x) #x
#define PLAIN_LINE(x)    PLAIN_LINE_OF(x)
#define PLAIN_JUDGE(fatal, holds, text) \
    plain_judge((holds), fatal, __FILE__ ":" PLAIN_LINE(__LINE__), text)
#define PLAIN_ONE(fatal, condition, ...) PLAIN_JUDGE(fatal, (condition), #condition)
#define PLAIN_NOT(fatal, condition, ...) PLAIN_JUDGE(fatal, !(condition), "not " #condition)
#define PLAIN_TWO(fatal, op, a, b, ...)  PLAIN_JUDGE(fatal, (a)op(b), #a " " #op " " #b)
#define PLAIN_NEAR(fatal, a, b, apart, ...) \
    PLAIN_JUDGE(fatal, (a) - (b) <= (apart) && (b) - (a) <= (apart), #a " is about " #b)
#define PLAIN_STR(fatal, a, b, ...) PLAIN_JUDGE(fatal, strcmp((a), (b)) == 0, #a " is " #b)
#define PLAIN_ARR(fatal, op, a, b, n, ...) \
    PLAIN_JUDGE(fatal, memcmp((a), (b), (n)) op 0, #a " " #op " " #b)

#define cr_assert(...)          PLAIN_ONE(true, __VA_ARGS__, )
#define cr_assert_not(...)      PLAIN_NOT(true, __VA_ARGS__, )
#define cr_assert_eq(...)       PLAIN_TWO(true, ==, __VA_ARGS__, )
#define cr_assert_neq(...)      PLAIN_TWO(true, !=, __VA_ARGS__, )
#define cr_assert_lt(...)       PLAIN_TWO(true, <, __VA_ARGS__, )
#define cr_assert_leq(...)      PLAIN_TWO(true, <=, __VA_ARGS__, )
#define cr_assert_gt(...)       PLAIN_TWO(true, >, __VA_ARGS__, )
#define cr_assert_geq(...)      PLAIN_TWO(true, >=, __VA_ARGS__, )
#define cr_assert_null(...)     PLAIN_NOT(true, __VA_ARGS__, )
#define cr_assert_not_null(...) PLAIN_ONE(true, __VA_ARGS__, )
#define cr_assert_str_eq(...)   PLAIN_STR(true, __VA_ARGS__, )
#define cr_assert_arr_eq(...)   PLAIN_ARR(true, ==, __VA_ARGS__, )

#define cr_assert_fail(...) PLAIN_JUDGE(true, false, "" __VA_ARGS__)

#define cr_expect(...)          PLAIN_ONE(false, __VA_ARGS__, )
#define cr_expect_not(...)      PLAIN_NOT(false, __VA_ARGS__, )
#define cr_expect_eq(...)       PLAIN_TWO(false, ==, __VA_ARGS__, )
#define cr_expect_neq(...)      PLAIN_TWO(false, !=, __VA_ARGS__, )
#define cr_expect_lt(...)       PLAIN_TWO(false, <, __VA_ARGS__, )
#define cr_expect_leq(...)      PLAIN_TWO(false, <=, __VA_ARGS__, )
#define cr_expect_gt(...)       PLAIN_TWO(false, >, __VA_ARGS__, )
#define cr_expect_geq(...)      PLAIN_TWO(false, >=, __VA_ARGS__, )
#define cr_expect_null(...)     PLAIN_NOT(false, __VA_ARGS__, )
#define cr_expect_not_null(...) PLAIN_ONE(false, __VA_ARGS__, )
#define cr_expect_str_eq(...)   PLAIN_STR(false, __VA_ARGS__, )
#define cr_expect_arr_eq(...)   PLAIN_ARR(false, ==, __VA_ARGS__, )
#define cr_expect_arr_neq(...)  PLAIN_ARR(false, !=, __VA_ARGS__, )

#define cr_expect_float_eq(...) PLAIN_NEAR(false, __VA_ARGS__, )

#define cr_skip_test(...) plain_skip()
#define cr_log_info(...)  fprintf(stderr, __VA_ARGS__)
