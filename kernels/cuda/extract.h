// From a lane's words of a chunk (layout.h) to A-operand registers of mma.m16n8k16: exact FP16 integers code - zero.
//
// A field at bit j of a half-word, j + bits <= 10, becomes an FP16 number by one and-or: under the exponent of 1024 it
// reads 1024 + code * 2^j. One fma by 2^-j takes 1024 * 2^-j and the zero point away; every step is exact, as all
// values are integers below 2048. Plain matrices (16 bits): the words are the pairs.
#pragma once

#include <type_traits>

#include "kernels/cuda/layout.h"
#include "kernels/cuda/portable.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

template <int Bits>
struct LaneWords {
    static_assert(Bits == 2 || Bits == 3 || Bits == 4 || Bits == 5 || Bits == 6 || Bits == 8 || Bits == 16);
    uint32_t w[Bits];
};

constexpr uint32_t half_magic = 0x64006400u;  // {1024, 1024}

/// FP16 bits of an integer, at most 2048 in magnitude, twice.
QP_HOST_DEVICE constexpr uint32_t half2_integer(int32_t v) {
    if (v == 0) return 0;
    uint32_t magnitude = uint32_t(v < 0 ? -v : v), exponent = 25;
    while (magnitude < 1024) magnitude <<= 1, --exponent;
    if (magnitude == 2048) magnitude = 1024, ++exponent;
    const uint32_t half = (v < 0 ? 0x8000u : 0u) | (exponent << 10) | (magnitude & 1023u);
    return half | (half << 16);
}
QP_HOST_DEVICE constexpr uint32_t half2_inverse_power(int32_t j) {
    return (uint32_t(15 - j) << 10) * 0x10001u;
}  // {2^-j, 2^-j}

/// A zero point as integer_pair takes it: {1024 + zero, 1024 + zero}.
QP_DEVICE uint32_t biased_zero(uint32_t zero) { return zero * 0x10001u + half_magic; }
/// In its place where no zero points are stored: 2^(bits-1), a constant of every instruction.
struct MiddleZero {};

/// 1024 * 2^-j + zero with the minus sign that the fma by 2^-j wants; J = 0: without, for a subtraction.
template <int Bits, int J>
QP_DEVICE uint32_t excess(uint32_t biased) {
    if constexpr (J == 0) return biased;
    constexpr uint32_t difference = half2_integer(1024 - (1024 >> J));
    return half2_sub(difference, biased);
}
template <int Bits, int J>
QP_DEVICE uint32_t excess(MiddleZero) {
    constexpr int32_t middle = (1024 >> J) + (1 << (Bits - 1));
    constexpr uint32_t value = half2_integer(J == 0 ? middle : -middle);
    return value;
}

/// Calls plane(first word, words a lane) for each plane of a chunk: words w .. w + n - 1 of lane l lie together.
template <int Bits, class Plane>
QP_DEVICE void for_planes(Plane&& plane) {
    if constexpr (Bits >= 8) {
        QP_UNROLL
        for (int w = 0; w < Bits; w += 4) plane(w, std::integral_constant<int, 4>{});
    } else if constexpr (Bits >= 4) {
        plane(0, std::integral_constant<int, 4>{});
        if constexpr (Bits > 4) plane(4, std::integral_constant<int, Bits - 4>{});
    } else {
        plane(0, std::integral_constant<int, 2>{});
        if constexpr (Bits == 3) plane(2, std::integral_constant<int, 1>{});
    }
}

/// Words a lane in a chunk's first plane.
template <int Bits>
constexpr int first_plane = Bits >= 4 ? 4 : 2;

/// A lane's words of a chunk in shared or global memory. `at`: the lane's first word there, first_plane * lane behind
/// the chunk's.
template <int Bits>
QP_DEVICE void load_own_words(LaneWords<Bits>& out, const uint32_t* at, int lane) {
    for_planes<Bits>([&](int w, auto n) {
        const uint32_t* from = at + 32 * w + (decltype(n)::value - first_plane<Bits>)*lane;
        if constexpr (decltype(n)::value == 4) {
            const uint4 v = load4(from);
            out.w[w] = v.x, out.w[w + 1] = v.y, out.w[w + 2] = v.z, out.w[w + 3] = v.w;
        } else if constexpr (decltype(n)::value == 2) {
            const uint2 v = load2(from);
            out.w[w] = v.x, out.w[w + 1] = v.y;
        } else {
            out.w[w] = load1(from);
        }
    });
}

/// `chunk`: where the chunk begins.
template <int Bits>
QP_DEVICE void load_lane_words(LaneWords<Bits>& out, const uint32_t* chunk, int lane) {
    load_own_words<Bits>(out, chunk + first_plane<Bits> * lane, lane);
}

/// The same words to the same places of a chunk in shared memory: what the lane itself will load. Both pointers are at
/// the lane's first word.
template <int Bits>
QP_DEVICE void copy_lane_words(uint32_t* shared_lane, const uint32_t* from_lane, int lane) {
    for_planes<Bits>([&](int w, auto n) {
        const int at = 32 * w + (decltype(n)::value - first_plane<Bits>)*lane;
        copy_async<4 * decltype(n)::value>(shared_lane + at, from_lane + at);
    });
}

/// Bits by which a word is shifted before field `bit` is taken: fields end below bit 10 then.
QP_HOST_DEVICE constexpr int field_shift(int bits, int bit) {
    const int beyond = bits == 2 || bits == 4 ? 8 : bits == 3 ? 9 : bits == 5 ? 10 : 6;
    return bit >= beyond ? beyond : 0;
}

/// Pair P of the chunk: {code - zero of row fragment_row(lane, P, 0), of row fragment_row(lane, P, 1)}. `zero`:
/// biased_zero of the pair's column, or MiddleZero.
template <int Bits, int P, class Zero>
QP_DEVICE uint32_t integer_pair(const LaneWords<Bits>& words, Zero zero) {
    const uint32_t* w = words.w;
    if constexpr (Bits == 16) {
        return w[P];
    } else if constexpr (Bits == 8) {
        return half2_sub(byte_permute(w[P / 2], 0x64646464u, P & 1 ? 0x4341 : 0x4240), excess<Bits, 0>(zero));
    } else if constexpr ((Bits == 3 || Bits == 5) && P == 15) {
        uint32_t field = half_magic;
        QP_UNROLL
        for (int i = 0; i < Bits; ++i) field = and_or(w[i] >> (15 - i), 0x10001u << i, field);
        return half2_sub(field, excess<Bits, 0>(zero));
    } else if constexpr (Bits == 6 && P >= 12) {
        constexpr int q = P - 12;
        const uint32_t low = and_or(w[q] >> 12, 0x000f000fu, half_magic);
        return half2_sub(and_or(w[4 + q / 2] >> (8 + 2 * (q & 1)), 0x00300030u, low), excess<Bits, 0>(zero));
    } else {
        constexpr int per_word = Bits == 2 ? 8 : Bits == 3 ? 5 : Bits == 4 ? 4 : Bits == 5 ? 3 : 2;
        constexpr int bit = P % per_word * Bits, shift = field_shift(Bits, bit), j = bit - shift;
        constexpr uint32_t mask = ((1u << Bits) - 1) * 0x10001u << j, inverse = half2_inverse_power(j);
        const uint32_t field = and_or(w[P / per_word] >> shift, mask, half_magic);
        if constexpr (j == 0) return half2_sub(field, excess<Bits, 0>(zero));
        return half2_fma(field, inverse, excess<Bits, j>(zero));
    }
}

/// The A operand of k-step S. zero0: column lane / 4, zero1: the one 8 further.
template <int Bits, int S, class Zero>
QP_DEVICE void integer_fragment(uint32_t (&a)[4], const LaneWords<Bits>& words, Zero zero0, Zero zero1) {
    a[0] = integer_pair<Bits, 4 * S>(words, zero0);
    a[1] = integer_pair<Bits, 4 * S + 1>(words, zero1);
    a[2] = integer_pair<Bits, 4 * S + 2>(words, zero0);
    a[3] = integer_pair<Bits, 4 * S + 3>(words, zero1);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
