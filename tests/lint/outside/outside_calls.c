/* SPDX-License-Identifier: MIT */
/* A program of somebody else's that wants its read() and write() to be those of weir_calls. */
#include <weir/weir_calls.h>

int main(void)
{
    return weir_calls_are_ours() ? 0 : 1;
}
