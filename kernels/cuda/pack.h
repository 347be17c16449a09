// From a QuantSource or DenseSource to layout.h's bytes, on the host.
#pragma once

#include <cstdint>

#include "kernels/cuda/layout.h"
#include "kernels/matrix.h"
#include "kernels/status.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// Where the parts of a packed matrix lie in its one allocation, from its shape alone.
struct PackPlan {
    MatrixView view;  // the numbers; no pointers. split_begin is set
    uint64_t words = 0, scales = 0, zeros = 0, bias = 0, gather = 0, scatter = 0,
             padding = 0;  // offsets, 256-byte aligned
    bool has_zeros = false, has_bias = false;
    uint64_t total = 0;  // bytes, saturating
};
/// n_multiprocessors decides nothing but n_splits. Any shape that check_quant or check_dense let pass has a plan.
PackPlan plan_pack(const MatrixShape& shape, int32_t n_multiprocessors);

/// Fills image (plan.total bytes of host memory, any content before). Codes are read once, in ascending order, a few
/// rows at a time. Plain matrices: FP16 as stored; BF16 and FP32 divided by a power of two per column, then rounded to
/// FP16.
Status pack_image(const QuantSource& source, const PackPlan& plan, uint8_t* image);
Status pack_image(const DenseSource& source, const PackPlan& plan, uint8_t* image);

/// The view with its pointers into `base`.
MatrixView placed(const PackPlan& plan, uint8_t* base);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
