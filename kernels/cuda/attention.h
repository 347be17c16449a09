// RoPE, the paged cache and attention.
#pragma once

#include "kernels/cuda/layout.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/views.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// RopeSpec (kernels/model.h) in device memory.
struct RopeTable {
    const float* inv_freq = nullptr;       // (half)
    const float* long_inv_freq = nullptr;  // (half) or null
    int32_t half = 0, length_limit = 0;
    float scale = 1;
    double theta = 0, factor = 1;
};
/// cosines and sines (rows, ld): angles in double precision, by position and length as RopeSpec says; once a step.
void rope_angles(Queue& queue, const RopeTable& rope, const StepView& step, int32_t rows, float* cosines, float* sines,
                 int32_t ld);

/// What attention and the append have in common. Columns of qkv: q, k, v as Slot::qkv.
struct AttentionLaunch {
    StepView step;
    int32_t first_row = 0, n_rows = 0;  // of the step
    KvView kv;
    int32_t n_heads = 0;
    float* qkv = nullptr;  // (all rows of the step, qkv_ld)
    int64_t qkv_ld = 0;
    AngleView angles;         // half 0: q and k are not turned (here)
    NormView q_norm, k_norm;  // of each head before RoPE; kind 0: none (here)
    float scale = 0, softcap = 0;
    int32_t window = 0;
    const float* alibi_slopes = nullptr;  // (n_heads) or null

    // Where the result goes: FP32 (all rows of the step, ld), and/or the operand of the product with W_o.
    float* out = nullptr;
    int64_t ld = 0;
    Operand packed;  // x null: not wanted; row 0 is the step's row 0
    MatrixView order;
    Saturation* saturation = nullptr;
};

/// Head norms and RoPE of q and k, in place in qkv; keys and values into the cache. Dummies: nothing. Rows of a
/// sequence whose positions / 8 are equal follow each other without a gap, by rising position: they share words of q4.
void rope_append(Queue& queue, const AttentionLaunch& launch);

constexpr int32_t decode_max_chunks = 64;
/// Rows of different sequences, each against the cache up to its position. Chunks of 256 positions (512, 1024 ... where
/// a row sees so many that there would be more than decode_max_chunks) are summed apart and joined in their order, so
/// that a row's bits depend on its sequence alone. Dummies: zeros. `append`: does rope_append's work too (then no two
/// rows of the launch belong to one sequence); q stays unturned in qkv.
struct DecodeWorkspace {
    float* partials = nullptr;     // aligned to 16 bytes
    uint32_t* counters = nullptr;  // zeros before and after
};
uint64_t decode_workspace_floats(int32_t rows, int32_t n_heads, int32_t head_dim, int32_t max_positions);
uint64_t decode_workspace_counters(int32_t rows, int32_t n_heads);
void decode_attention(Queue& queue, const AttentionLaunch& launch, bool append, const DecodeWorkspace& workspace,
                      int32_t max_positions, int32_t n_multiprocessors);

/// Consecutive rows of the step with consecutive positions of one sequence: at most prefill_tile_rows. In device
/// memory.
struct RowTile {
    int32_t first_row, n_rows;
};
constexpr int32_t prefill_tile_rows = 64;
/// Rows whose keys and values are in the cache (rope_append came before); qkv_ld is even. A row's bits depend on its
/// sequence and position, not on how the prompt was cut.
void prefill_attention(Queue& queue, const AttentionLaunch& launch, const RowTile* tiles, int32_t n_tiles);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
