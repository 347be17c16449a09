// Matrices packed into the layout of layout.h.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/layout.h"
#include "kernels/cpu/memory.h"
#include "kernels/matrix.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

struct PackedMatrix {
    int32_t k = 0, n = 0, n_tiles = 0;
    bool quantised = false;
    QuantView quant{};
    DenseView dense{};
    const int32_t* gather = nullptr;  // (32 * chunks) input row of each sorted row, -1 = padding; null = in order
    uint64_t tile_cost = 0;           // what a tile costs, for the split among threads
    uint32_t order = 0;               // equal where k, chunks and gather are equal: activations are prepared once
};

/// What the packed matrix takes in the arena, from its shape alone; saturates.
uint64_t packed_bytes(const MatrixShape& shape);

Status pack_quant(const QuantSource& source, int32_t threads, Arena& arena, PackedMatrix* out);
Status pack_dense(const DenseSource& source, Arena& arena, PackedMatrix* out);

/// Row `token` of the embedding: column `token` of a (K, N) matrix in its FP16 values. out (K).
void embedding_row(const PackedMatrix& matrix, int32_t token, float* out);

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
