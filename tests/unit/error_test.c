/* SPDX-License-Identifier: MIT */

/* Errors: a closed list, each with a name and words of its own. */

#include <criterion/criterion.h>
#include <string.h>

#include <weir/weir.h>

static const int errors[] = {WEIR_OK,
#define ERROR(name, value, text) name,
                             WEIR_ERROR_MAP(ERROR)
#undef ERROR
};
#define COUNT (sizeof(errors) / sizeof(errors[0]))

Test(error, every_error_has_its_own_name_and_words)
{
    for (size_t i = 0; i < COUNT; i++) {
        cr_expect_eq(strncmp(weir_error_name(errors[i]), "WEIR_", 5), 0);
        cr_expect_gt(strlen(weir_error_text(errors[i])), 5);
        cr_expect(i == 0 || errors[i] < 0, "success is 0, errors are negative");
        for (size_t k = 0; k < i; k++) {
            cr_expect_neq(errors[i], errors[k]);
            cr_expect(strcmp(weir_error_name(errors[i]), weir_error_name(errors[k])) != 0);
            cr_expect(strcmp(weir_error_text(errors[i]), weir_error_text(errors[k])) != 0);
        }
    }
}

/* Programs are compiled with these numbers: they may not change. */
Test(error, numbers_stay)
{
    cr_expect_eq(WEIR_OK, 0);
    cr_expect_eq(WEIR_ENOMEM, -1);
    cr_expect_eq(WEIR_EINVAL, -2);
    cr_expect_eq(WEIR_EFULL, -3);
    cr_expect_eq(WEIR_EIO, -4);
    cr_expect_eq(WEIR_EAGAIN, -5);
    cr_expect_eq(WEIR_ESTOPPED, -6);
    cr_expect_eq(WEIR_ENOSUPPORT, -7);
    cr_expect_eq(WEIR_EDENIED, -8);
    cr_expect_eq(WEIR_EBUSY, -9);
    cr_expect_eq(WEIR_ENOENT, -10);
    cr_expect_eq(WEIR_EFORKED, -11);
    cr_expect_eq(COUNT, 12);
}

Test(error, names_are_as_in_c)
{
    cr_expect_str_eq(weir_error_name(WEIR_OK), "WEIR_OK");
    cr_expect_str_eq(weir_error_text(WEIR_OK), "success");
    cr_expect_str_eq(weir_error_name(WEIR_EFULL), "WEIR_EFULL");
    cr_expect_str_eq(weir_error_name(-11), "WEIR_EFORKED");
}

Test(error, what_is_not_on_the_list_is_unknown)
{
    static const int others[] = {1, -12, -1000, 2147483647, -2147483647 - 1};

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        cr_expect_str_eq(weir_error_text(others[i]), "unknown error");
        cr_expect_str_eq(weir_error_name(others[i]), "unknown");
    }
}
