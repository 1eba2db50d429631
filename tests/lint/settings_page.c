/* SPDX-License-Identifier: MIT */

/* Prints docs/SETTINGS.md from the table of settings; a test compares. */

#include <stdio.h>

#include <weir/weir.h>

int main(void)
{
    const struct weir_setting *s;

    puts("# Settings\n\n"
         "Made from the table in `runtime/base/config.c`; a test keeps it so. Every field of\n"
         "`struct weir_options` is a row. What the program assigns counts most, then the\n"
         "environment variable, then the default. Sizes take k, m, g and t.\n\n"
         "| field | variable | default | unit | meaning |\n"
         "|---|---|---|---|---|");
    for (size_t i = 0; (s = weir_setting(i)) != NULL; i++)
        printf("| `%s` | `%s` | %s%s%s | %s | %s |\n", s->name, s->environment,
               *s->initial ? "`" : "", *s->initial ? s->initial : "empty", *s->initial ? "`" : "",
               s->unit, s->help);
    return 0;
}
