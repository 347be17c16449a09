// The activation functions of an MLP.
#pragma once

#include <cstdint>

#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

enum class Activation : uint8_t {
    silu,
    gelu,        // x * Phi(x), with erf
    gelu_tanh,   // x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))
    quick_gelu,  // x * sigmoid(1.702 x)
    relu,
    relu2,  // max(x, 0)^2
};

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
