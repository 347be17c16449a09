// Kernels that work on rows of activations: norms, operands, element by element. FP32 but for operands; x, out and what
// else is (rows, ld) may be the same memory.
#pragma once

#include "kernels/activation.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/views.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

struct RowsView {
    float* x = nullptr;  // (rows, ld)
    int64_t ld = 0;
};

/// norm(x) of `width` values a row: to `normed` where not null, and in the order of `matrix` to `operand` where x is
/// not null, its padding zeroed. One block a row, one order of additions whatever the number of rows. An operand's row
/// has at most 65536 values; `operand.x` and `matrix.gather` are aligned to 16 bytes.
struct PrepareLaunch {
    RowsView x;
    int32_t width = 0, rows = 0;
    NormView norm;  // kind 0: the identity
    RowsView normed;
    MatrixView matrix;
    Operand operand;
    Saturation* saturation = nullptr;
    RowSquares squares;  // x not null: the row's sum of squares too, of one part; kind rms
};
void prepare(Queue& queue, const PrepareLaunch& launch);

/// act(gate) * up to the operand of the product that follows; up null: act(gate). gate itself: written too where keep.
struct ActivateLaunch {
    RowsView gate, up;
    int32_t width = 0, rows = 0;
    Activation activation = Activation::silu;
    bool keep = true;
    MatrixView matrix;
    Operand operand;  // x null: not wanted
    Saturation* saturation = nullptr;
};
void activate(Queue& queue, const ActivateLaunch& launch);

/// In place, per head; weight and bias as NormView::per_head says.
void head_norm(Queue& queue, const NormView& norm, RowsView x, int32_t column, int32_t n_heads, int32_t head_dim,
               int32_t rows);
void add_scaled(Queue& queue, RowsView from, float scale, int32_t width, int32_t rows, RowsView to);
void clamp(Queue& queue, RowsView x, int32_t width, float limit, int32_t rows);
void copy_rows(Queue& queue, RowsView from, int32_t width, int32_t rows, RowsView to);

// ---------------------------------------------------------------- experts
/// Router logits (rows, n_experts) to pairs: softmax over all experts, the top_k best (ties to the lower id), their
/// probabilities (renormalised or not), as MoeSpec says; then pairs sorted by expert, then row, cut in slabs. A weight
/// is NaN where a logit of its row is; NaN is chosen last. Up to 32 of up to 512 experts. The logits are overwritten.
struct RouteLaunch {
    RowsView logits;
    int32_t n_experts = 0, top_k = 0, rows = 0;
    bool renormalise = false;
    const StepHeader* header = nullptr;  // rows beyond n_rows take part in no pair; null: all do
    int32_t slab_rows = 8;
    ExpertSlab* slabs = nullptr;  // (route_max_slabs)
    int32_t* n_slabs = nullptr;
    int32_t* pair_expert = nullptr;  // (rows * top_k)
    int32_t* pair_row = nullptr;
    float* pair_weight = nullptr;
    int32_t* row_pairs = nullptr;  // (rows, top_k): a row's pairs by rising expert id; of rows beyond n_rows -1
    int32_t* counts = nullptr;     // (n_experts) of working space
};
int32_t route_max_slabs(int32_t rows, int32_t n_experts, int32_t top_k, int32_t slab_rows);
void route(Queue& queue, const RouteLaunch& launch);

/// The operand of each pair: row pair_row of x in the order of its expert's matrix, padding zeroed.
struct PairOperandLaunch {
    RowsView x;  // rows of the step where by_row, of pairs where not
    bool by_row = true;
    int32_t width = 0;
    const MatrixView* table = nullptr;  // device memory
    MatrixView shape;                   // the largest k_padded of them
    Routed routed;
    Operand operand;
    Saturation* saturation = nullptr;
};
void prepare_pairs(Queue& queue, const PairOperandLaunch& launch);

/// out[r] = sum over the row's pairs, by rising expert id, of weight * from[pair]; 0 where r is beyond n_rows (header
/// null: none is).
void combine_pairs(Queue& queue, RowsView from, const int32_t* row_pairs, const float* pair_weight,
                   const StepHeader* header, int32_t top_k, int32_t width, int32_t rows, RowsView out);
/// to += sigmoid(gate[r, 0]) * from
void add_gated(Queue& queue, RowsView from, RowsView gate, int32_t width, int32_t rows, RowsView to);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
