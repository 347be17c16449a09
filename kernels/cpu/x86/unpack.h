// A chunk's planes (layout.h) to one code a byte. Included after columns256.h or columns512.h.
#pragma once

#include "kernels/cpu/layout.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// Bits BIT0 .. of every byte moved to bits TO ..; what else the bytes hold is garbage.
template <int BIT0, int TO>
QP_INLINE Ints move_bits(Ints x) {
    if constexpr (BIT0 > TO) {
        return shift_right<BIT0 - TO>(x);
    } else if constexpr (BIT0 < TO) {
        return shift_left<TO - BIT0>(x);
    } else {
        return x;
    }
}

// Quad Q: a 32-bit lane is a column, its four bytes rows 4Q, 4Q+2, 4Q+1, 4Q+3.
template <int BITS, int Q>
QP_INLINE Ints quad(const uint8_t* planes) {
    if constexpr (BITS == 8) {
        return load_ints(planes + 64 * Q);
    } else if constexpr (BITS >= 4) {
        const Ints low = bits_and(move_bits<4 * (Q % 2), 0>(load_ints(planes + 64 * (Q / 2))), all_bytes(15));
        if constexpr (BITS == 5) return insert_bits(low, move_bits<Q, 4>(load_ints(planes + 64 * 4)), all_bytes(16));
        if constexpr (BITS == 6) {
            return insert_bits(low, move_bits<2 * (Q % 4), 4>(load_ints(planes + 64 * (4 + Q / 4))), all_bytes(48));
        }
        return low;
    } else {
        const Ints low = bits_and(move_bits<2 * (Q % 4), 0>(load_ints(planes + 64 * (Q / 4))), all_bytes(3));
        if constexpr (BITS == 3) return insert_bits(low, move_bits<Q, 2>(load_ints(planes + 64 * 2)), all_bytes(4));
        return low;
    }
}

// visit(q, quad q) for the eight quads of a chunk.
template <int BITS, class Visit>
QP_INLINE void for_quads(const uint8_t* planes, Visit visit) {
    visit(0, quad<BITS, 0>(planes));
    visit(1, quad<BITS, 1>(planes));
    visit(2, quad<BITS, 2>(planes));
    visit(3, quad<BITS, 3>(planes));
    visit(4, quad<BITS, 4>(planes));
    visit(5, quad<BITS, 5>(planes));
    visit(6, quad<BITS, 6>(planes));
    visit(7, quad<BITS, 7>(planes));
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
