// The build with the CUDA Toolkit. The list is empty whatever the machine holds: there is no CUDA device implementation
// yet, and a card that cannot run a step is not listed.
#include "kernels/cuda/devices.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

std::vector<std::string> cuda_devices() { return {}; }

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
