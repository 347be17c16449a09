// The part of kernels/device.h that the CUDA room implements, for a compiler that knows C++17.
#pragma once

#include <string>
#include <vector>

#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

QP_KERNELS_API std::vector<std::string> cuda_devices();

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
