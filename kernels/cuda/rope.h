// Head norms and RoPE of one head of one row, for the kernels that append: one warp, the head in shared memory.
#pragma once

#include <cmath>

#include "kernels/cuda/portable.h"
#include "kernels/cuda/views.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t norm_none = 0, norm_rms = 1, norm_layer = 2;  // NormSpec::Kind

/// x (n) in place, every lane calls; ends with a sync_warp. Products and sums are rounded one by one, here and in
/// rope_head, so that every kernel gives the same bits.
QP_DEVICE void norm_head(const NormView& norm, float* x, int32_t n, int32_t head, int32_t lane) {
    if (norm.kind == norm_none) return;
    const float count = float(n);
    float mean = 0;
    if (norm.kind == norm_layer) {
        for (int32_t i = lane; i < n; i += 32) mean = add_rn(mean, x[i]);
        mean = div_rn(warp_sum(mean), count);
    }
    float square = 0;
    for (int32_t i = lane; i < n; i += 32) {
        const float v = add_rn(x[i], -mean);
        square = add_rn(square, mul_rn(v, v));
    }
    const float inverse = div_rn(1.0f, sqrtf(add_rn(div_rn(warp_sum(square), count), norm.eps)));
    const int64_t piece = norm.per_head ? int64_t(head) * n : 0;
    for (int32_t i = lane; i < n; i += 32) {
        float v = mul_rn(add_rn(x[i], -mean), inverse);
        if (norm.weight) v = mul_rn(v, norm.weight[piece + i]);
        if (norm.bias) v = add_rn(v, norm.bias[piece + i]);
        x[i] = v;
    }
    sync_warp();
}

/// Turns x in place by the angles of the step's row `row`, every lane calls; ends with a sync_warp.
QP_DEVICE void rope_head(const AngleView& angles, int32_t row, float* x, int32_t lane) {
    if (angles.half == 0) return;
    const int64_t at = int64_t(row) * angles.ld;
    for (int32_t t = lane; t < angles.half; t += 32) {
        const float c = angles.cosines[at + t], s = angles.sines[at + t];
        float& first = x[angles.interleaved ? 2 * t : t];
        float& second = x[angles.interleaved ? 2 * t + 1 : t + angles.half];
        const float a = first, b = second;
        first = add_rn(mul_rn(a, c), -mul_rn(b, s));
        second = add_rn(mul_rn(b, c), mul_rn(a, s));
    }
    sync_warp();
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
