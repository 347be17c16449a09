// Weights back to FP16: tiles for a prefill's products, and rows of the embedding.
#pragma once

#include "kernels/cuda/layout.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/views.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// Columns 16 block0 .. 16 (block0 + n_blocks) - 1 to out (columns, k_padded) FP16: RN16(scale * (code - zero)), bit
/// for bit what decode_f16 (kernels/matrix.h) gives, 0 in padding. Plain matrices: the stored value, rounded to FP16.
void decode_blocks(Queue& queue, const MatrixView& matrix, int32_t block0, int32_t n_blocks, uint16_t* out);

/// out[r] = scale * column token(r) of the (embedding_size, n_vocab) matrix, in input order; scale * stored value in
/// FP32. A negative token takes chosen[-1 - token]; dummies take token 0.
struct EmbedLaunch {
    MatrixView table;
    StepView step;
    int32_t rows = 0;
    const int32_t* chosen = nullptr;
    float scale = 1;
    float* out = nullptr;
    int64_t ld = 0;
};
void embed_rows(Queue& queue, const EmbedLaunch& launch);

/// x[r] += column position(r) + offset of the table.
void add_positions(Queue& queue, const MatrixView& table, const StepView& step, int32_t rows, int32_t offset, float* x,
                   int64_t ld);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
