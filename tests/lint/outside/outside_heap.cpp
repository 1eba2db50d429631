// SPDX-License-Identifier: MIT
// A program of somebody else's, in C++, with a heap on far memory.
#include <weir/weir_heap.h>

int main()
{
    weir_runtime *rt;
    weir_heap *heap;
    if (weir_open(nullptr, &rt) != WEIR_OK ||
        weir_heap_create(rt, 1 << 20, nullptr, &heap) != WEIR_OK)
        return 1;
    int *numbers = static_cast<int *>(weir_heap_calloc(heap, 100, sizeof(int)));
    int sum = numbers ? numbers[99] : 1;
    weir_heap_free(heap, numbers);
    return weir_heap_destroy(heap) || weir_close(rt) || sum;
}
