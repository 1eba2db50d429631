/* SPDX-License-Identifier: MIT */
#include "transport/spec.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/backend_kit.h"

struct values {
    uint64_t size, count, share, word;
};

static const struct wr_spec_row rows[] = {
    {"size", WR_SPEC_BYTES, offsetof(struct values, size), 4096, 1ull << 50, NULL},
    {"count", WR_SPEC_COUNT, offsetof(struct values, count), 0, UINT64_MAX, NULL},
    {"share", WR_SPEC_SHARE, offsetof(struct values, share), 0, 0, NULL},
    {"word", WR_SPEC_WORD, offsetof(struct values, word), 0, 0, "one\0two\0three\0"},
};
static const struct wr_spec_kind kind = {"kind", rows, 4};

static int parse(const char *options, struct values *values)
{
    *values = (struct values){91, 92, 93, 94};
    return wr_spec_options(&kind, options, &kit_env, values);
}

Test(spec, sizes)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"4096", 4096},        {"4096B", 4096},      {"4096b", 4096},       {"4k", 4096},
        {"4K", 4096},          {"4KiB", 4096},       {"4kib", 4096},        {"4kB", 4096},
        {"2m", 2 << 20},       {"64G", 64ull << 30}, {"1t", 1ull << 40},    {"1.5G", 3ull << 29},
        {"0.25t", 1ull << 38}, {"007k", 7 * 1024},   {"1024t", 1ull << 50}, {"1.000000m", 1 << 20},
        {"0.5m", 512 * 1024},
    };
    struct values values;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        cr_expect_eq(parse(kit_text("size=%s", good[i].text), &values), WEIR_OK, "%s",
                     good[i].text);
        cr_expect_eq(values.size, good[i].bytes, "%s", good[i].text);
        cr_expect_eq(values.count, 92, "untouched");
    }
    cr_expect_eq(kit_told.count, 0);
}

Test(spec, what_is_refused)
{
    static const char *const bad[] = {
        "size=",
        "size",
        "size=x",
        "size=-4096",
        "size=+4096",
        "size= 4096",
        "size=4096 ",
        "size=4096x",
        "size=4kk",
        "size=4i",
        "size=4kiBx",
        "size=4ki",
        "size=4bb",
        "size=4e3",
        "size=0x1000",
        "size=4096.5",
        "size=.5G",
        "size=1.G",
        "size=1.0000001G",
        "size=1,5G",
        "size=4095",
        "size=1025t",
        "size=18446744073709551616",
        "size=99999999999999999999999999",
        "size=16777216t",
        "count=",
        "count=-1",
        "count=1k",
        "count=1.0",
        "count=18446744073709551616",
        "share=1.1",
        "share=2",
        "share=1.000001",
        "share=-0",
        "share=0.0000001",
        "share=1e-3",
        "share=50%",
        "word=",
        "word=four",
        "word=ONE",
        "word=on",
        "word=onetwo",
        "Size=4096",
        "siz=4096",
        "sizes=4096",
        "=4096",
        "&",
        "size=4096&&count=1",
        "size=4096&size=4096",
        "count=1&share=0&count=2",
    };
    struct values values;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const uint32_t told = kit_told.count;

        cr_expect_eq(parse(bad[i], &values), WEIR_EINVAL, "%s", bad[i]);
        cr_expect_eq(kit_told.count, told + 1, "%s", bad[i]);
        cr_expect_eq(kit_told.error, WEIR_EINVAL, "%s", bad[i]);
    }
}

Test(spec, messages_name_the_key_and_what_is_allowed)
{
    struct values values;

    parse("size=many", &values);
    cr_expect(strstr(kit_told.text, "kind: size=many "), "%s", kit_told.text);
    cr_expect(strstr(kit_told.text, "from 4096 to 1125899906842624"), "%s", kit_told.text);
    parse("word=four", &values);
    cr_expect(strstr(kit_told.text, "word=four"), "%s", kit_told.text);
    cr_expect(strstr(kit_told.text, "one or two or three"), "%s", kit_told.text);
    parse("colour=red", &values);
    cr_expect(strstr(kit_told.text, "\"colour\""), "%s", kit_told.text);
    cr_expect(strstr(kit_told.text, "size, count, share, word"), "%s", kit_told.text);
    parse("share=7", &values);
    cr_expect(strstr(kit_told.text, "probability"), "%s", kit_told.text);
}

Test(spec, all_units_together)
{
    struct values values;

    cr_assert_eq(parse("word=three&share=0.000001&count=18446744073709551615&size=8k", &values),
                 WEIR_OK);
    cr_expect_eq(values.size, 8192);
    cr_expect_eq(values.count, UINT64_MAX);
    cr_expect_eq(values.share, 1);
    cr_expect_eq(values.word, 2);
    cr_assert_eq(parse("share=1&word=one", &values), WEIR_OK);
    cr_expect_eq(values.share, WR_SPEC_SHARE_ONE);
    cr_expect_eq(values.word, 0);
    cr_assert_eq(parse("share=0.5", &values), WEIR_OK);
    cr_expect_eq(values.share, WR_SPEC_SHARE_ONE / 2);
    cr_assert_eq(parse("", &values), WEIR_OK);
    cr_expect_eq(values.size, 91);
}

static void expect_location(const char *text, const char *location, const char *options)
{
    char *found = NULL;
    const char *rest = NULL;
    int error = wr_spec_location(&kind, text, &kit_env, &found, &rest);

    cr_expect_eq(error, location ? WEIR_OK : WEIR_EINVAL, "%s", text);
    if (location && !error) {
        cr_expect_str_eq(found, location);
        cr_expect_str_eq(rest, options);
    }
    free(found);
}

Test(spec, locations)
{
    expect_location("", "", "");
    expect_location("?", "", "");
    expect_location("/var/tmp", "/var/tmp", "");
    expect_location("/var/tmp?size=1G", "/var/tmp", "size=1G");
    expect_location("/a%20b%3fc%25%2F?x=?", "/a b?c%/", "x=?");
    expect_location("/a?b?c", "/a", "b?c");
    expect_location("/caf\xc3\xa9", "/caf\xc3\xa9", "");
    expect_location("/a%", NULL, NULL);
    expect_location("/a%2", NULL, NULL);
    expect_location("/a%2?0", NULL, NULL);
    expect_location("/a%zz", NULL, NULL);
    expect_location("/a%00b", NULL, NULL);
    cr_expect_eq(kit_told.count, 5);
}

static void expect_inner(const char *text, const char *inner, const char *options)
{
    char *found = NULL;
    const char *rest = NULL;
    int error = wr_spec_inner(&kind, text, &kit_env, &found, &rest);

    cr_expect_eq(error, inner ? WEIR_OK : WEIR_EINVAL, "%s", text);
    if (inner && !error) {
        cr_expect_str_eq(found, inner);
        cr_expect_str_eq(rest, options);
    }
    free(found);
}

Test(spec, inners)
{
    expect_inner("(mem:)", "mem:", "");
    expect_inner("(mem:?size=1G)?seed=1", "mem:?size=1G", "seed=1");
    expect_inner("(a(b(c)?d)?e)?f", "a(b(c)?d)?e", "f");
    expect_inner("(file:/x%29y)?", "file:/x%29y", "");
    expect_inner("()", "", "");
    expect_inner("", NULL, NULL);
    expect_inner("mem:", NULL, NULL);
    expect_inner("(mem:", NULL, NULL);
    expect_inner("((mem:)", NULL, NULL);
    expect_inner("(mem:))", NULL, NULL);
    expect_inner(")(", NULL, NULL);
    expect_inner("(mem:)seed=1", NULL, NULL);
    expect_inner(" (mem:)", NULL, NULL);
}
