// What kernels that work on rows share: sums over a block in one order, four values at a time, operands by gather.
#pragma once

#include "kernels/cuda/portable.h"
#include "kernels/cuda/views.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t partials_bytes = 256;  // 2 x 32 floats: two sums between whose barriers nothing else writes

/// The sum of v over the block, the same bits in every thread: an order that depends on the block's size alone.
/// `partials`: 32 floats of shared memory that nobody reads or writes until the next barrier after it.
QP_DEVICE float row_sum(float v, float* partials) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    v = warp_sum(v);
    if (lane == 0) partials[warp] = v;
    sync_block();
    return warp_sum(lane < blockDim.x / 32 ? partials[lane] : 0.0f);
}

struct Four {
    float v[4];
};

/// (rows, ld) as kernels take it. `wide`: every column that is a multiple of four is aligned to 16 bytes.
struct RowIn {
    const float* x = nullptr;
    int64_t ld = 0;
    bool wide = false;
};
struct RowOut {
    float* x = nullptr;  // null: not wanted
    int64_t ld = 0;
    bool wide = false;
};

/// p[c .. c+3], 0 where that is n or beyond. `wide`: p + c is aligned to 16 bytes for every c that is a multiple of 4.
QP_DEVICE Four load_four(const float* p, int32_t c, int32_t n, bool wide) {
    Four out{};
    if (wide && c + 4 <= n) {
        const uint4 words = load4(p + c);
        out = {{bits_float(words.x), bits_float(words.y), bits_float(words.z), bits_float(words.w)}};
    } else {
        QP_UNROLL
        for (int32_t j = 0; j < 4; ++j) {
            if (c + j < n) out.v[j] = p[c + j];
        }
    }
    return out;
}

QP_DEVICE void store_four(float* p, int32_t c, int32_t n, bool wide, const Four& four) {
    if (wide && c + 4 <= n) {
        *reinterpret_cast<uint4*>(p + c) =
            uint4{float_bits(four.v[0]), float_bits(four.v[1]), float_bits(four.v[2]), float_bits(four.v[3])};
    } else {
        QP_UNROLL
        for (int32_t j = 0; j < 4; ++j) {
            if (c + j < n) p[c + j] = four.v[j];
        }
    }
}

/// Columns c .. c+3 of a row of FP16 in shared memory whose size is a multiple of four.
QP_DEVICE void stage_four(uint16_t* halves, int32_t c, const Four& four, float scale, uint32_t& saturated) {
    *reinterpret_cast<uint2*>(halves + c) = uint2{pack_saturated(four.v[0] * scale, four.v[1] * scale, saturated),
                                                  pack_saturated(four.v[2] * scale, four.v[3] * scale, saturated)};
}

QP_DEVICE void report_saturated(Saturation* saturation, uint32_t saturated) {
    if (saturated != 0 && saturation != nullptr) atomic_add(&saturation->count, saturated);
}

// ---------------------------------------------------------------- a row in a matrix's order
struct Gather {
    const int32_t* table = nullptr;  // (k_padded), aligned to 16 bytes; null: no operand
    int32_t k_padded = 0;            // a multiple of 8
};
struct OperandOut {
    Gather gather;
    uint16_t* x = nullptr;
    int64_t ld = 0;
    float scale = 1;  // 2^-exponent
    Saturation* saturation = nullptr;
};

/// The inputs of the thread's first operand positions, eight at a time, read before the row is there. Two of them serve
/// rows of 16 x blockDim.x positions, which is all of a usual row.
struct GatherAhead {
    uint4 low[2], high[2];
};

QP_DEVICE int32_t gather_position(int32_t i) { return int32_t(threadIdx.x + uint32_t(i) * blockDim.x) * 8; }

QP_DEVICE GatherAhead gather_ahead(const Gather& gather) {
    GatherAhead ahead{};
    if (gather.table == nullptr) return ahead;
    QP_UNROLL
    for (int32_t i = 0; i < 2; ++i) {
        const int32_t p = gather_position(i);
        if (p < gather.k_padded) {
            ahead.low[i] = load4(gather.table + p);
            ahead.high[i] = load4(gather.table + p + 4);
        }
    }
    return ahead;
}

QP_DEVICE uint32_t gather_two(const uint16_t* halves, uint32_t first, uint32_t second) {
    const uint32_t low = int32_t(first) < 0 ? 0u : halves[first];
    const uint32_t high = int32_t(second) < 0 ? 0u : halves[second];
    return low | high << 16;
}
QP_DEVICE void gather_eight(const uint16_t* halves, const uint4& low, const uint4& high, uint16_t* to) {
    *reinterpret_cast<uint4*>(to) = uint4{gather_two(halves, low.x, low.y), gather_two(halves, low.z, low.w),
                                          gather_two(halves, high.x, high.y), gather_two(halves, high.z, high.w)};
}

/// The staged row to `operand` in the matrix's order, its padding zeroed. After a barrier.
QP_DEVICE void gather_row(const uint16_t* halves, const Gather& gather, const GatherAhead& ahead, uint16_t* operand) {
    QP_UNROLL
    for (int32_t i = 0; i < 2; ++i) {
        const int32_t p = gather_position(i);
        if (p < gather.k_padded) gather_eight(halves, ahead.low[i], ahead.high[i], operand + p);
    }
    QP_NO_UNROLL
    for (int32_t p = gather_position(2); p < gather.k_padded; p += int32_t(blockDim.x) * 8)
        gather_eight(halves, load4(gather.table + p), load4(gather.table + p + 4), operand + p);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
