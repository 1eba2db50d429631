/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <stddef.h>
#include <string.h>

#include "tests/unit/backend_kit.h"

static const char *given_spec;
static const struct weir_backend_env *given_env;
static struct weir_backend given_back;

static int open_none(const char *spec, const struct weir_backend_env *env,
                     struct weir_backend **backend_p)
{
    given_spec = spec;
    given_env = env;
    *backend_p = &given_back;
    return WEIR_OK;
}

/* mem under other names: complete, and with a discard. */
static struct weir_backend_ops like_mem(const char *name)
{
    struct weir_backend_ops ops = weir_backend_mem;

    ops.name = name;
    ops.open = open_none;
    return ops;
}

Test(builtin, kinds_of_the_library)
{
    static const char *const specs[] = {"mem:?size=1m", "mem?size=1m", "chaos(mem:?size=1m)",
                                        "chaos:(mem:?size=1m)?seed=3"};

    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        struct weir_backend *backend = kit_open(specs[i], WEIR_OK);

        cr_expect_eq(kit_describe(backend).slots, 256);
        kit_close(backend);
    }
}

Test(builtin, unknown_kinds_are_refused_by_name)
{
    static const char *const specs[] = {
        "",           ":",   "memory:?size=1m", "MEM:",           "mem :x", "/var/tmp", "filex:/x",
        "chao(mem:)", "fil", " file:/tmp",      "chaos(nothing:)"};

    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        const uint32_t told = kit_told.count;

        kit_open(specs[i], WEIR_ENOENT);
        cr_expect_eq(kit_told.count, told + 1);
    }
    cr_expect(strstr(kit_told.text, "\"memory\""), "%s", kit_told.text);
    cr_expect(strstr(kit_told.text, "mem, file, chaos"), "%s", kit_told.text);
}

Test(builtin, a_registered_kind_gets_what_follows_its_name)
{
    static struct weir_backend_ops ops;
    struct weir_backend *backend;

    ops = like_mem("my-own_2");
    cr_assert_eq(weir_backend_register(&ops), WEIR_OK);
    cr_assert_eq(weir_backend_open("my-own_2:/x?y=z", &kit_env, &backend), WEIR_OK);
    cr_expect_str_eq(given_spec, "/x?y=z");
    cr_expect_eq(given_env, &kit_env);
    cr_assert_eq(weir_backend_open("my-own_2(a)?b", &kit_env, &backend), WEIR_OK);
    cr_expect_str_eq(given_spec, "(a)?b");
    cr_assert_eq(weir_backend_open("my-own_2", &kit_env, &backend), WEIR_OK);
    cr_expect_str_eq(given_spec, "");
    cr_assert_eq(weir_backend_open("my-own_2::x", &kit_env, &backend), WEIR_OK);
    cr_expect_str_eq(given_spec, ":x");
    cr_expect_eq(weir_backend_register(&ops), WEIR_EBUSY);
}

Test(builtin, what_is_not_whole_is_not_registered)
{
    static const size_t holes[] = {
        offsetof(struct weir_backend_ops, name),
        offsetof(struct weir_backend_ops, open),
        offsetof(struct weir_backend_ops, close),
        offsetof(struct weir_backend_ops, describe),
        offsetof(struct weir_backend_ops, read),
        offsetof(struct weir_backend_ops, channel_open),
        offsetof(struct weir_backend_ops, channel_close),
        offsetof(struct weir_backend_ops, submit),
        offsetof(struct weir_backend_ops, poll),
        offsetof(struct weir_backend_ops, wait_fd),
    };
    static const char *const names[] = {
        "", "mem:", "a(b", "a?b", "Mem", "a b", "a-name-of-more-than-31-characters"};
    static struct weir_backend_ops ops;

    cr_expect_eq(weir_backend_register(NULL), WEIR_EINVAL);
    for (size_t i = 0; i < sizeof(holes) / sizeof(holes[0]); i++) {
        ops = like_mem("whole");
        memset((char *)&ops + holes[i], 0, sizeof(void *));
        cr_expect_eq(weir_backend_register(&ops), WEIR_EINVAL, "hole %zu", i);
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        ops = like_mem(names[i]);
        cr_expect_eq(weir_backend_register(&ops), WEIR_EINVAL, "\"%s\"", names[i]);
    }
    ops = like_mem("whole");
    ops.abi = WEIR_BACKEND_ABI + 1;
    cr_expect_eq(weir_backend_register(&ops), WEIR_EINVAL);
    ops.abi = WEIR_BACKEND_ABI;
    ops.discard = NULL;
    cr_expect_eq(weir_backend_register(&ops), WEIR_OK);
}

Test(builtin, names_are_taken_once_and_sixteen_fit)
{
    static struct weir_backend_ops ops[17];
    static char names[17][8];
    static struct weir_backend_ops taken;

    taken = like_mem("file");
    cr_expect_eq(weir_backend_register(&taken), WEIR_EBUSY);
    for (int i = 0; i < 17; i++) {
        names[i][0] = 'k';
        names[i][1] = (char)('a' + i);
        ops[i] = like_mem(names[i]);
        cr_expect_eq(weir_backend_register(&ops[i]), i < 16 ? WEIR_OK : WEIR_EBUSY, "%d", i);
    }
}
