// The build without the CUDA Toolkit.
#include "kernels/device.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

std::vector<std::string> cuda_devices() { return {}; }

Status make_cuda_device(int32_t, std::unique_ptr<Device>*) {
    return Status::error(unavailable, "this build has no CUDA; build with the CUDA Toolkit, or use --device cpu");
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
