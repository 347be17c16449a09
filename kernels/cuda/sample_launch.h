// What emit and emit_candidates can take.
#pragma once

#include "kernels/cuda/rows_launch.h"
#include "kernels/cuda/sample_block.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

inline Status check_emission(const char* kernel, const EmitLaunch& launch) {
    if (launch.n_vocab < 1 || launch.n_vocab > most_pieces * piece_columns || launch.n > 65535)
        return refuse_rows(kernel, std::to_string(launch.n) + " rows of " + std::to_string(launch.n_vocab) +
                                       " logits; up to 65535 of up to " + std::to_string(most_pieces * piece_columns) +
                                       " can be taken");
    if (!aligned_to_16(launch.partials)) return refuse_rows(kernel, "working space that is not aligned to 16 bytes");
    return {};
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
