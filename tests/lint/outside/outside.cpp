// SPDX-License-Identifier: MIT
// A program of somebody else's, in C++: half of its memory does not fit. Prints "sum N".
#include <cstdio>
#include <memory>

#include <weir/weir.h>
#include <weir/weir_backend.h>
#include <weir/weir_object.h>
#include <weir/weir_share.h>
#include <weir/weir_trace.h>

int main()
{
    constexpr std::size_t pages = 16384, stride = WEIR_PAGE_BYTES;
    weir_options options;
    weir_options_init(&options);
    options.budget_bytes = 32u << 20;
    options.backends = "mem:?size=128M";
    options.on_event = [](void *, const weir_event *event) { std::fprintf(stderr, "%s\n", event->text); };

    weir_runtime *opened = nullptr;
    if (int error = weir_open(&options, &opened); error != WEIR_OK) {
        std::fprintf(stderr, "%s\n", weir_error_name(error));
        return 1;
    }
    std::unique_ptr<weir_runtime, int (*)(weir_runtime *)> rt(opened, weir_close);
    void *address = nullptr;
    if (weir_map(rt.get(), pages * stride, nullptr, &address) != WEIR_OK)
        return 1;
    auto *memory = static_cast<unsigned char *>(address);
    for (std::size_t i = 0; i < pages; i++)
        memory[i * stride] = static_cast<unsigned char>(i % 251);
    unsigned long sum = 0;
    for (std::size_t i = 0; i < pages; i++)
        sum += memory[i * stride];
    std::printf("sum %lu\n", sum);
}
