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

/// Sums of squares of parts of rows, each part summed in one order. 16-byte aligned, ld a multiple of 4.
struct RowSquares {
    float* x = nullptr;  // (rows, ld)
    int32_t n = 0, ld = 0;
};
inline int32_t folded_parts(int32_t n_blocks) { return 2 * n_blocks; }  // n of FoldOut::squares

/// What an RMS norm folded into two products passes from one to the other. The first leaves the rows without the norm's
/// factor, half(h w 2^-e), with a power of two for each row that keeps FP16 in range whatever h is.
struct FoldIn {
    RowSquares squares;                  // x null: no fold
    const int32_t* exponents = nullptr;  // (rows)
    int32_t width = 0;
    float eps = 0;
};
struct FoldOut {
    Operand packed;  // x null: no fold; exponent 0
    MatrixView order;
    const float* weight = nullptr;  // the norm's
    RowSquares squares;
    int32_t* exponents = nullptr;
    RowSquares before;  // of the rows that the product adds to; other memory than `squares`
    Saturation* saturation = nullptr;
};

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
    FoldIn fold_in;
    FoldOut fold_out;  // of one matrix that adds to all of a row, and reads no fold
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
    FoldIn fold_in;
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
