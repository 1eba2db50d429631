/* SPDX-License-Identifier: MIT */

/* mirror and spread: what they refuse, and which copy they read. */

#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/unit/backend_kit.h"
#include "transport/array.h"
#include "transport/chaos.h"

#define SIZE_SPEC "?size=14M"

/* The slower one is asked less and less. */
Test(array_ways, reads_go_to_the_nearer_one, .timeout = 60)
{
    struct weir_backend *mirror = kit_open(
        "mirror(chaos(mem:" SIZE_SPEC ")?read_delay_us=3000, mem:" SIZE_SPEC ")", WEIR_OK);
    struct wr_array *array = (struct wr_array *)mirror;
    struct weir_channel *channel = kit_channel(mirror, 4);
    unsigned char *page = kit_pages(1, 0);
    uint64_t asked;

    cr_assert_eq(kit_write(channel, 1, 1, 7, NULL), WEIR_OK);
    for (uint32_t i = 0; i < 500; i++)
        cr_assert_eq(mirror->ops->read(mirror, 1, 1, page), WEIR_OK);
    asked = wr_chaos_get(array->member[0].lives[1], WR_CHAOS_DID_READ);
    cr_expect_lt(asked, 100, "%u of 500", (unsigned)asked);
    mirror->ops->channel_close(channel);
    free(page);
    kit_close(mirror);
}

Test(array_ways, who_cannot_be_added, .timeout = 60)
{
    struct weir_backend *mirror = kit_open("mirror(mem:" SIZE_SPEC ", mem:" SIZE_SPEC ")", WEIR_OK);
    struct weir_backend *sealed = kit_open("spread(mem:" SIZE_SPEC ", mem:" SIZE_SPEC ")?seal=on",
                                           WEIR_OK);

    cr_expect_eq(mirror->ops->extend(mirror, "mem:?size=2M", 0), WEIR_EINVAL);
    cr_expect(kit_has_heard("it is too small"), "%s", kit_told.text);
    cr_expect_eq(mirror->ops->extend(mirror, "mem:?size=8M&seal=on", 0), WEIR_EINVAL);
    cr_expect(kit_has_heard("no member was when"), "%s", kit_told.text);
    cr_expect_eq(mirror->ops->extend(mirror, "nothing:", 0), WEIR_ENOENT);
    cr_expect_eq(sealed->ops->extend(sealed, "mem:?size=8M&seal=on", 0), WEIR_OK);
    for (uint32_t i = 2; i < WR_MAP_MEMBERS; i++)
        cr_expect_eq(mirror->ops->extend(mirror, "mem:" SIZE_SPEC, 0), WEIR_OK, "%u", i);
    cr_expect_eq(mirror->ops->extend(mirror, "mem:" SIZE_SPEC, 0), WEIR_EBUSY);
    kit_close(mirror);
    kit_close(sealed);
}

Test(array_ways, what_is_refused)
{
    static const struct {
        const char *spec, *words;
    } bad[] = {
        {"mirror(mem:)", "2 copies need as many members"},
        {"mirror(mem:, mem:)?copies=3", "3 copies"},
        {"mirror(mem:, )", "expected 1 to 16"},
        {"mirror(mem:, mem:?size=8k)", "too small"},
        {"mirror(mem:, mem:)?seed=1", "no option"},
        {"spread mem:", "expected"},
        {"spread(mem:, mem:?size=-1)", "size"},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct weir_backend *backend = NULL;

        cr_expect_neq(weir_backend_open(bad[i].spec, &kit_env, &backend), WEIR_OK, "%s",
                      bad[i].spec);
        cr_expect(kit_has_heard(bad[i].words), "%s: %s", bad[i].spec, kit_told.text);
    }
}
