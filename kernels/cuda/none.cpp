// The build without the CUDA Toolkit.
#include "kernels/cuda/devices.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

std::vector<std::string> cuda_devices() { return {}; }

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
