// Products of few rows: decode, and experts. The weights pass through the tensor cores once per 32 rows.
#pragma once

#include "kernels/activation.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/views.h"
#include "kernels/store.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// out[r, column[i] + n] = or += sum_k x[r, k] W_i[k, n] + bias_i[n], r < rows, for up to three matrices that take x in
/// one order. A row's bits depend on itself alone: not on `rows`, nor on its place.
struct ProductLaunch {
    int32_t n_matrices = 1;
    MatrixView matrices[3];
    int32_t columns[3] = {0, 0, 0};
    Operand x;
    int32_t rows = 0;
    float* out = nullptr;
    int64_t ld = 0;
    Store store = Store::set;
};
void product(Queue& queue, const ProductLaunch& launch);

/// act(x W_gate + b) * (x W_up + b), or act(x W_up + b) where there is no gate (words null), to FP32 (`out`) or as the
/// operand of the product that follows (`packed`, in the order of `down`, its padding zeroed).
struct GatedLaunch {
    MatrixView gate, up;
    Activation activation = Activation::silu;
    Operand x;
    int32_t rows = 0;
    float* out = nullptr;  // (rows, ld), or null
    int64_t ld = 0;
    Operand packed;   // x null: not wanted
    MatrixView down;  // whose order `packed` has
    Saturation* saturation = nullptr;
};
void gated_product(Queue& queue, const GatedLaunch& launch);

/// Up to `slab_rows` (8 or 32) pairs of one expert.
struct ExpertSlab {
    int32_t expert, first, count;  // pairs first .. first + count - 1
};
/// Pairs (row, chosen expert) of a step, sorted by expert, then row; in device memory but for the numbers.
struct Routed {
    const ExpertSlab* slabs = nullptr;
    const int32_t* n_slabs = nullptr;
    const int32_t* pair_expert = nullptr;  // (pairs); of pairs beyond the live ones -1
    const int32_t* pair_row = nullptr;     // (pairs)
    int32_t max_slabs = 0, slab_rows = 8, max_pairs = 0;
};
/// The same products, each pair with its expert's matrix; x and out are indexed by pair. Tables lie in device memory
/// (n_experts); `shape` is any one of the matrices: n, n_blocks and k are equal in all.
struct ExpertProductLaunch {
    const MatrixView* table = nullptr;
    MatrixView shape;
    Routed routed;
    Operand x;
    float* out = nullptr;  // (pairs, ld)
    int64_t ld = 0;
};
void expert_product(Queue& queue, const ExpertProductLaunch& launch);

struct ExpertGatedLaunch {
    const MatrixView* gates = nullptr;  // null: no gate
    const MatrixView* ups = nullptr;
    const MatrixView* downs = nullptr;  // whose order `packed` has
    MatrixView shape, down_shape;
    Activation activation = Activation::silu;
    Routed routed;
    Operand x;
    Operand packed;  // (pairs, ld)
    Saturation* saturation = nullptr;
};
void expert_gated_product(Queue& queue, const ExpertGatedLaunch& launch);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
