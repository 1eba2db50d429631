/* SPDX-License-Identifier: MIT */
#include "runtime/base/bug.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "room_kit.h"

static int read_bugs(const char *value)
{
    if (value)
        setenv("WEIR_BUG", value, 1);
    else
        unsetenv("WEIR_BUG");
    if (!room_space.host)
        room_open();
    return wr_bug_read(&room_space.events);
}

static unsigned switched_on(void)
{
    unsigned bits = 0;

    for (enum wr_bug bug = 0; bug < WR_BUG_COUNT; bug++)
        bits |= (unsigned)wr_bug(bug) << bug;
    return bits;
}

Test(bug, none_is_on_by_itself)
{
    cr_assert_eq(switched_on(), 0);
    cr_assert_eq(read_bugs(NULL), WEIR_OK);
    cr_assert_eq(switched_on(), 0);
    cr_assert_eq(room_events.count, 0);
}

Test(bug, one_is_switched_on)
{
    cr_assert_eq(read_bugs("late_io"), WEIR_OK);
    cr_assert_eq(switched_on(), 1u << WR_BUG_late_io);
    cr_assert_eq(room_events.severity, WEIR_NOTE);
}

Test(bug, several_are_switched_on)
{
    cr_assert_eq(read_bugs("no_kpaged,lookup_blocks"), WEIR_OK);
    cr_assert_eq(switched_on(), 1u << WR_BUG_no_kpaged | 1u << WR_BUG_lookup_blocks);
}

Test(bug, an_unknown_word_is_refused_and_the_known_are_named)
{
    cr_assert_eq(read_bugs("late_io,late"), WEIR_EINVAL);
    cr_assert_eq(switched_on(), 0);
    cr_assert_eq(room_events.error, WEIR_EINVAL);
    cr_assert_not_null(strstr(room_events.text, "WEIR_BUG=late_io,late"));
    cr_assert_not_null(strstr(room_events.text, "unmap_all"));
}

Test(bug, words_are_whole)
{
    cr_assert_eq(read_bugs("late_io2"), WEIR_EINVAL);
    cr_assert_eq(read_bugs(",late_io"), WEIR_EINVAL);
    cr_assert_eq(read_bugs("late_io "), WEIR_EINVAL);
}
