// multiply_add: what the instruction set's multipliers do at most. Included after columns256.h or columns512.h.
#pragma once

#include "kernels/cpu/table.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// One operation of every sum a turn; step(sum, x, y) adds products.
template <class Value, class Step>
QP_INLINE void turn_sums(int64_t turns, Value zero, Step step) {
    Value sums[peak_sums], x = zero, y = zero;
    forget(y);
#pragma GCC unroll 16
    for (int i = 0; i < peak_sums; ++i) sums[i] = zero;
    for (int64_t turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 16
        for (int i = 0; i < peak_sums; ++i) {
            forget(x);  // or a product is made once for all
            step(sums[i], x, y);
            forget(sums[i]);
        }
    }
}

double multiply_add(Arithmetic kind, int64_t turns) {
    int products = 4;  // of a lane
    if (kind == Arithmetic::int8) {
        turn_sums(
            turns, zero_ints(),
            [](Ints & sum, Ints x, Ints y) __attribute__((always_inline)) { multiply_bytes(sum, x, y); });
    } else if (kind == Arithmetic::int16) {
        turn_sums(
            turns, zero_ints(),
            [](Ints & sum, Ints x, Ints y) __attribute__((always_inline)) { multiply_words(sum, x, y); });
        products = 2;
    } else {
        turn_sums(
            turns, zero_floats(),
            [](Floats & sum, Floats x, Floats y) __attribute__((always_inline)) { sum = add(sum, mul(x, y)); });
        products = 1;
    }
    return 2.0 * 16 * products * peak_sums * double(turns);
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
