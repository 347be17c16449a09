// The inner loop of product.cu: one warp, a range of chunks of one column block, 8 NB rows.
//
// A unit of 128 rows of K' (64 from 5 bits) at a time: its words come through a ring in shared memory that belongs
// to the warp, every lane copying what it will itself read, so that no barrier is needed; its activations are 16-byte
// loads that are B fragments as they lie. Products of exact integers and FP16 activations are summed in FP32 by the
// tensor cores over a group's rows of the unit, then scaled and added. A row's sums depend on its own activations
// alone.
#pragma once

#include <type_traits>

#include "kernels/cuda/extract.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/portable.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int ring_bytes = 6144;  // a warp's

/// Group sizes as the loop is written for: half a chunk, a chunk, a unit or more.
enum class GroupClass { half_chunk, chunk, unit };

template <int NB>
struct RangeOperands {
    const uint32_t* words;   // of the column block
    const uint32_t* scales;  // of the column block and the lane's column
    const uint16_t* zeros;   // likewise; null: the middle
    const uint16_t* x[NB];   // the lane's rows, at its 8 values of a half chunk
    uint32_t* ring;
    int lane;
};

template <int Bits, GroupClass Class, bool Zeros, int NB>
struct RangeProduct {
    static constexpr int unit_chunks = Bits >= 5 ? 1 : 2;  // wide words take the registers of a second one
    static constexpr int chunk_words = 32 * Bits;
    static constexpr int unit_words = unit_chunks * chunk_words;
    static constexpr int fitting = ring_bytes / (4 * unit_words);
    static constexpr int depth = fitting < 8 ? fitting : 8;  // units under way
    static constexpr int unit_halves = 2 * unit_chunks;
    static constexpr bool stored_zeros = Zeros && Bits < 16;
    using Zero = std::conditional_t<stored_zeros, uint32_t, MiddleZero>;
    static constexpr int groups =  // of a unit
        Class == GroupClass::half_chunk ? unit_halves
        : Class == GroupClass::chunk    ? unit_chunks
                                        : 1;

    struct Scales {
        uint32_t scale[groups];
        uint32_t zero[groups];
    };

    /// Of the unit at `half`: half chunks from the section's first. `scales`, `zeros`: of the section's first group.
    static QP_DEVICE Scales load_scales(const uint32_t* scales, const uint16_t* zeros, int shift, int half) {
        const int64_t at = 8 * int64_t(Class == GroupClass::half_chunk ? half
                                       : Class == GroupClass::chunk    ? half >> 1
                                                                       : half >> shift);
        Scales out;
        QP_UNROLL
        for (int i = 0; i < groups; ++i) {
            out.scale[i] = load_const32(scales + at + 8 * i);
            if constexpr (stored_zeros) {
                out.zero[i] = (1u << (Bits - 1)) * 0x101u;
                if (zeros) out.zero[i] = load_const16(zeros + at + 8 * i);
            }
        }
        return out;
    }

    /// Both pointers at the lane's own first word.
    static QP_DEVICE void copy_unit(uint32_t* slot, const uint32_t* from, int lane) {
        QP_UNROLL
        for (int c = 0; c < unit_chunks; ++c)
            copy_lane_words<Bits>(slot + c * chunk_words, from + c * chunk_words, lane);
    }

    /// K-step S of a chunk: part += W^T x.
    template <int S>
    static QP_DEVICE void step(float (&part)[NB][4], const LaneWords<Bits>& words, const uint4 (&x)[NB], Zero zero0,
                               Zero zero1) {
        uint32_t a[4];
        integer_fragment<Bits, S>(a, words, zero0, zero1);
        QP_UNROLL
        for (int i = 0; i < NB; ++i) mma_16x8x16(part[i], a, S & 1 ? x[i].z : x[i].x, S & 1 ? x[i].w : x[i].y);
    }

    static QP_DEVICE void clear(float (&part)[NB][4]) {
        QP_UNROLL
        for (int i = 0; i < NB; ++i) part[i][0] = part[i][1] = part[i][2] = part[i][3] = 0.0f;
    }
    static QP_DEVICE void add_scaled(float (&sums)[NB][4], const float (&part)[NB][4], uint32_t scales) {
        const float scale0 = low_to_float(scales), scale1 = high_to_float(scales);
        QP_UNROLL
        for (int i = 0; i < NB; ++i) {
            sums[i][0] += scale0 * part[i][0];
            sums[i][1] += scale0 * part[i][1];
            sums[i][2] += scale1 * part[i][2];
            sums[i][3] += scale1 * part[i][3];
        }
    }

    /// sums += chunks lo .. hi - 1, all of `section`. `waited`: earlier kernels' writes are visible.
    static QP_DEVICE void add(const RangeOperands<NB>& in, const Section& section, int lo, int hi, bool& waited,
                              float (&sums)[NB][4]) {
        const int n = (hi - lo) / unit_chunks;
        uint32_t* const ring = in.ring + first_plane<Bits> * in.lane;
        const uint32_t* from =
            in.words + section.word0 + uint32_t(lo - section.chunk0) * chunk_words + first_plane<Bits> * in.lane;
        QP_UNROLL
        for (int i = 0; i < depth; ++i) {
            if (i < n) copy_unit(ring + i * unit_words, from + i * unit_words, in.lane);
            commit_copies();
        }
        from += depth * unit_words;
        int half = 2 * (lo - section.chunk0);
        const int last = half + (n - 1) * unit_halves, copied = last - depth * unit_halves;
        const uint32_t* scales = in.scales + int64_t(section.group0) * 8;
        const uint16_t* zeros = stored_zeros && in.zeros ? in.zeros + int64_t(section.group0) * 8 : nullptr;
        Scales next = load_scales(scales, zeros, section.group_shift, half);
        if (!waited) wait_for_earlier_kernels();
        waited = true;
        const uint16_t* x[NB];
        QP_UNROLL
        for (int i = 0; i < NB; ++i) x[i] = in.x[i] + int64_t(lo) * chunk_rows;

        uint32_t* slot = ring;
        QP_NO_UNROLL
        for (; half <= last; half += unit_halves) {
            const Scales now = next;
            const int following = half + unit_halves;
            next = load_scales(scales, zeros, section.group_shift, following < last ? following : last);
            wait_copies<depth - 1>();
            LaneWords<Bits> words[unit_chunks];
            QP_UNROLL
            for (int c = 0; c < unit_chunks; ++c) load_own_words<Bits>(words[c], slot + c * chunk_words, in.lane);
            if (half <= copied) copy_unit(slot, from, in.lane);
            commit_copies();
            from += unit_words;
            slot += unit_words;
            if (slot == ring + depth * unit_words) slot = ring;

            Zero zero0{}, zero1{};
            float part[NB][4];
            QP_UNROLL
            for (int c = 0; c < unit_chunks; ++c) {
                QP_UNROLL
                for (int h = 0; h < 2; ++h) {
                    uint4 values[NB];
                    QP_UNROLL
                    for (int i = 0; i < NB; ++i) values[i] = load4(x[i] + c * chunk_rows + h * slab_rows);
                    constexpr int halves_of_group = unit_halves / groups;
                    const int in_unit = 2 * c + h, group = in_unit / halves_of_group;
                    if (in_unit % halves_of_group == 0) {
                        clear(part);
                        if constexpr (stored_zeros) {
                            zero0 = biased_zero(now.zero[group] & 0xffu);
                            zero1 = biased_zero(now.zero[group] >> 8);
                        }
                    }
                    if (h == 0) {
                        step<0>(part, words[c], values, zero0, zero1);
                        step<1>(part, words[c], values, zero0, zero1);
                    } else {
                        step<2>(part, words[c], values, zero0, zero1);
                        step<3>(part, words[c], values, zero0, zero1);
                    }
                    if (in_unit % halves_of_group == halves_of_group - 1) add_scaled(sums, part, now.scale[group]);
                }
            }
            QP_UNROLL
            for (int i = 0; i < NB; ++i) x[i] += unit_chunks * chunk_rows;
        }
        wait_copies<0>();
    }
};

template <int Bits, bool Zeros, int NB>
QP_DEVICE void add_range(const RangeOperands<NB>& in, const Section& section, int lo, int hi, bool& waited,
                         float (&sums)[NB][4]) {
    if constexpr (Bits == 16) {
        RangeProduct<Bits, GroupClass::unit, Zeros, NB>::add(in, section, lo, hi, waited, sums);
    } else {
        if (section.group_shift >= 2)
            RangeProduct<Bits, GroupClass::unit, Zeros, NB>::add(in, section, lo, hi, waited, sums);
        else if (section.group_shift == 1)
            RangeProduct<Bits, GroupClass::chunk, Zeros, NB>::add(in, section, lo, hi, waited, sums);
        else
            RangeProduct<Bits, GroupClass::half_chunk, Zeros, NB>::add(in, section, lo, hi, waited, sums);
    }
}

/// The part of `section` that lies in chunks lo .. hi - 1.
template <bool Zeros, int NB>
QP_DEVICE void add_section(const RangeOperands<NB>& in, const Section& section, int lo, int hi, bool& waited,
                           float (&sums)[NB][4]) {
    const int end = section.chunk0 + section.n_chunks;
    lo = lo > section.chunk0 ? lo : section.chunk0;
    hi = hi < end ? hi : end;
    if (lo >= hi) return;
    switch (section.bits) {
        case 2:
            add_range<2, Zeros, NB>(in, section, lo, hi, waited, sums);
            break;
        case 3:
            add_range<3, Zeros, NB>(in, section, lo, hi, waited, sums);
            break;
        case 4:
            add_range<4, Zeros, NB>(in, section, lo, hi, waited, sums);
            break;
        case 5:
            add_range<5, Zeros, NB>(in, section, lo, hi, waited, sums);
            break;
        case 6:
            add_range<6, Zeros, NB>(in, section, lo, hi, waited, sums);
            break;
        case 8:
            add_range<8, Zeros, NB>(in, section, lo, hi, waited, sums);
            break;
        default:
            add_range<16, Zeros, NB>(in, section, lo, hi, waited, sums);
            break;
    }
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
