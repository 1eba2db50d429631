/* SPDX-License-Identifier: MIT */
#include <weir/weir.h>

const char *weir_error_text(int error)
{
    switch (error) {
    case WEIR_OK: return "success";
#define ERROR_CASE(name, value, text) \
    case name: return text;
        WEIR_ERROR_MAP(ERROR_CASE)
#undef ERROR_CASE
    default: return "unknown error";
    }
}

const char *weir_error_name(int error)
{
    switch (error) {
    case WEIR_OK: return "WEIR_OK";
#define ERROR_CASE(name, value, text) \
    case name: return #name;
        WEIR_ERROR_MAP(ERROR_CASE)
#undef ERROR_CASE
    default: return "unknown";
    }
}

const char *weir_version(void)
{
    return WEIR_VERSION;
}
