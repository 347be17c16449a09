// What a product does with its result.
#pragma once

#include <cstdint>

#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

enum class Store : uint8_t { set, add };

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
