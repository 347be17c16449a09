// The activation functions in double precision, straight from their formulas (kernels/activation.h).
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/activation.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace reference {

inline double activated(Activation activation, double x) {
    switch (activation) {
        case Activation::silu:
            return x / (1 + std::exp(-x));
        case Activation::gelu:
            return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
        case Activation::gelu_tanh:
            return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::quick_gelu:
            return x / (1 + std::exp(-1.702 * x));
        case Activation::relu:
            return std::max(x, 0.0);
        case Activation::relu2:
            return std::max(x, 0.0) * std::max(x, 0.0);
    }
    return x;
}

}  // namespace reference
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
