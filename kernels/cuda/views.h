// What kernels of a step share: the step itself in device memory, the cache of a layer, FP16 operands.
#pragma once

#include "kernels/cuda/qualifiers.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// In device memory, filled before the step's kernels run; so that a captured graph serves every step of its shape.
struct StepHeader {
    int32_t n_rows;      // live ones; the rest of the launch's rows are dummies
    int32_t max_blocks;  // stride of the block table
    int32_t n_wanted;
    int32_t n_adjusts;
};
struct StepRow {
    int32_t token;     // below 0: what wanted row -1 - token of the step before chose
    int32_t position;  // of a dummy: 0
    int32_t sequence;  // row of the block table; of a dummy: -1
    int32_t length;    // Row::length, at least position + 1
    int32_t slot;      // block * block_tokens + offset in the cache; of a dummy: -1
};
struct StepWanted {
    int32_t row;           // of a dummy: 0
    int32_t token;         // whose logit is asked for, or 0
    int32_t first_adjust;  // Adjust records first_adjust .. first_adjust + n_adjusts - 1 change its candidates
    int32_t n_adjusts;
};
struct StepView {
    const StepHeader* header = nullptr;
    const StepRow* rows = nullptr;
    const int32_t* table = nullptr;  // (sequences, header->max_blocks)
    const StepWanted* wanted = nullptr;
};

/// Activations in a matrix's own row order, FP16 of value * 2^-exponent. Rows of the matrix's padding hold zeros.
struct Operand {
    uint16_t* x = nullptr;  // (rows, ld), 16-byte aligned
    int32_t ld = 0;         // halves, a multiple of 128
    int32_t exponent =
        0;  // a constant of the role: 0 behind a norm and for attention's output, 6 where values are unbounded
};

/// FP16 stores that were beyond the range and saturated, since the device was made.
struct Saturation {
    uint32_t count;
};

/// The cache of one layer. Keys: block, kv head, token, dimension. Values: block, kv head, dimension, token ("V
/// transposed"). Dimensions are padded to `width`, a multiple of 32, with zeros. block_tokens is a multiple of 32.
///   f16  two bytes a value, saturated
///   q8   one byte, code + 128; a scale (FP16) per token and kv head; rotated by the Hadamard matrix of
///   reference/attention.cpp q4   half a byte, code + 8; a scale per token, kv head and 32 dimensions. Eight neighbours
///   8i .. 8i+7 (dimensions of a
///        key, tokens of a value) are one 32-bit word: element 2j at bits 4j, element 2j + 1 at bits 16 + 4j
/// Codes and scales as reference/attention.cpp has them: q8 scale = RN16(amax / 127); q4 scale = RN16(largest / -8).
struct KvView {
    uint8_t* keys = nullptr;
    uint8_t* values = nullptr;
    uint16_t* key_scales = nullptr;    // q8 (block, kv head, token); q4 (block, kv head, width / 32, token)
    uint16_t* value_scales = nullptr;  // likewise
    int32_t type = 1;                  // KvSpec::Type: f16 1, q8 2, q4 3
    int32_t block_tokens = 64, n_kv_heads = 0, head_dim = 0, width = 0;
};

/// Cosines and sines of the step's rows for one rope, already times its scale.
struct AngleView {
    const float* cosines = nullptr;  // (rows, ld)
    const float* sines = nullptr;    // (rows, ld)
    int32_t ld = 0;
    int32_t half = 0;  // rotary_dim / 2; 0: no rope
    int32_t interleaved = 0;
};

/// A norm as kernels take it. kind: NormSpec::Kind.
struct NormView {
    int32_t kind = 0;
    float eps = 0;
    const float* weight = nullptr;
    const float* bias = nullptr;
    int32_t per_head = 0;  // of q and k: weight and bias hold a piece for each head
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
