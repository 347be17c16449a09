// The build without the CUDA Toolkit.
#include "kernels/device.h"
#include "kernels/limits.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

namespace {

Status no_cuda() {
    return Status::error(unavailable, "this build has no CUDA; build with the CUDA Toolkit, or use --device cpu");
}

}  // namespace

std::vector<std::string> cuda_devices() { return {}; }

Status make_cuda_device(int32_t, std::unique_ptr<Device>*) { return no_cuda(); }

Status measure_cuda_copy(int32_t, double*) { return no_cuda(); }

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
