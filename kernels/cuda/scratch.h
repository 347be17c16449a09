// What a CUDA device allocates for steps, planned from a model's numbers alone.
#pragma once

#include <cstdint>

#include "kernels/cuda/views.h"
#include "kernels/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t most_sequences = 256;  // of one step
constexpr int32_t least_block_tokens = 32;
constexpr int32_t moe_rows = 256;  // that pass through the experts at once

/// Operands by role: attention's output and the gated MLP have buffers of their own, since the kernels before fill
/// them.
enum class OperandRole : uint8_t { general, attended, gated, pairs, pair_hidden, count };

struct ScratchLayout {
    struct Part {
        uint64_t offset = 0, bytes = 0;
    };
    struct Rows {
        uint64_t offset = 0;
        int64_t ld = 0;         // elements
        uint64_t elements = 0;  // of all rows; operands with more padding than usual take fewer rows
    };

    Rows slots[size_t(Slot::count)];            // FP32
    Rows operands[size_t(OperandRole::count)];  // FP16
    Part decoded;                               // gemm_product's scratch
    Part attention, attention_counters;         // DecodeWorkspace
    Part answers, chosen, candidates;           // sample.h
    Part emission, emission_counters;
    Part step;                 // StepBuffer
    Part stage;                // (rows, hidden): what enters or leaves a stage of a model
    Part angles;               // (ropes, 2, rows, angles_ld) FP32
    Part rope_tables, slopes;  // inv_freq and long_inv_freq of every rope; ALiBi
    Part slabs, n_slabs, pair_expert, pair_row, pair_weight, row_pairs, counts;  // experts
    Part expert_tables;                                                          // (layers, 3, n_experts) MatrixView
    Part squares[2], exponents[2];  // of folded norms: (rows, squares_ld), (rows)
    Part saturation;
    int64_t angles_ld = 0;
    int32_t squares_ld = 0;
    int32_t max_rows = 0, max_wanted = 0, max_blocks = 0, n_vocab = 0;
    uint64_t total = 0;  // saturating

    ScratchLayout() = default;
    ScratchLayout(const ModelSpec& spec, int32_t rows, int32_t wanted);
};

/// Rows of an eager step or a graph that a step of n rows runs in.
int32_t row_bucket(int32_t n);
constexpr int32_t most_graph_rows = 64;

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
