/* SPDX-License-Identifier: MIT */

/* hello: 64 GiB of memory, of which a little is used. */

#include <stdio.h>
#include <unistd.h>

#include <weir/weir.h>

#define GIB (1ull << 30)

int main(void)
{
    struct weir_runtime *rt;
    void *memory;
    unsigned char *bytes;
    unsigned sum = 0;
    int error = weir_open(NULL, &rt);

    if (error == WEIR_OK)
        error = weir_map(rt, 64 * GIB, NULL, &memory);
    if (error != WEIR_OK)
        return fprintf(stderr, "hello: %s\n", weir_error_text(error)), 1;
    bytes = memory;
    for (unsigned i = 0; i < 64; i++)
        bytes[i * GIB + 12345] = (unsigned char)i;
    for (unsigned i = 0; i < 64; i++)
        sum += bytes[i * GIB + 12345];
    printf("0 + 1 + ... + 63 = %u\n", sum);
    fflush(stdout);
    weir_report_fd(rt, STDOUT_FILENO);
    weir_close(rt);
    return sum == 2016 ? 0 : 1;
}
