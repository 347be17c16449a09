// The activation functions on the device, in FP32 with the accurate library functions.
#pragma once

#include <cmath>

#include "kernels/activation.h"
#include "kernels/cuda/portable.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// NaN stays NaN. A division by infinity gives the 0 that sigmoids have far to the left.
QP_DEVICE float activated(Activation activation, float x) {
    switch (activation) {
        case Activation::silu:
            return x / (1.0f + expf(-x));
        case Activation::gelu:
            return x * 0.5f * erfcf(x * -0.707106781f);  // erfc: 1 + erf would cancel on the left
        case Activation::gelu_tanh:
            return x * 0.5f * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
        case Activation::quick_gelu:
            return x / (1.0f + expf(-1.702f * x));
        case Activation::relu:
            return x < 0.0f ? 0.0f : x;
        case Activation::relu2:
            return x < 0.0f ? 0.0f : x * x;
    }
    return x;
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
