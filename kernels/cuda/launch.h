// launch(queue, name, kernel, grid, block, shared bytes, arguments...): the only way in which a kernel starts.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>

#include "kernels/cuda/portable.h"
#include "kernels/cuda/runtime.h"
#if !defined(__CUDACC__)
#include "kernels/cuda/shim/launch.h"
#endif

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// Arguments are converted to the kernel's parameter types and copied. Does nothing on a queue that has failed.
/// More than 48 KB of shared memory are allowed for where the device has them (runtime.cu).
template <class... Parameters, class... Arguments>
void launch(Queue& queue, const char* name, void (*kernel)(Parameters...), Extent grid, Extent block,
            size_t shared_bytes, Arguments&&... arguments) {
    static_assert(sizeof...(Parameters) == sizeof...(Arguments));
    if (!queue.ok()) return;
    std::tuple<std::remove_const_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
#if defined(__CUDACC__)
    KernelLaunch description;
    description.kernel = reinterpret_cast<const void*>(kernel);
    description.name = name;
    description.grid = grid;
    description.block = block;
    description.shared_bytes = shared_bytes;
    description.dependent = queue.dependent_launch;
    std::apply(
        [&](auto&... value) {
            void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
            queue.keep(launch_kernel(queue.stream(), description, pointers));
        },
        values);
#else
    queue.keep(shim_launch(queue.stream(), name, grid, block, shared_bytes,
                           [kernel, values = std::move(values)] { std::apply(kernel, values); }));
#endif
}

inline uint32_t ceil_div(uint64_t n, uint64_t unit) { return uint32_t((n + unit - 1) / unit); }

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
