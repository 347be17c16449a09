// The one way in which blocks of a launch meet: none waits, the last to arrive does what is left.
#pragma once

#include "kernels/cuda/portable.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// True in every thread of the block that is the last of `n` to call it on `counter`; what the others wrote to global
/// memory before is visible to it. Called once by every block, by all of its threads. `flag`: a word of shared memory
/// that nothing else uses meanwhile. The counter is 0 before the launch and after it.
QP_DEVICE bool last_arriver(uint32_t* counter, uint32_t n, uint32_t* flag) {
    fence_device();
    sync_block();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        const bool last = atomic_add(counter, 1) == n - 1;
        if (last) *counter = 0;
        *flag = last;
    }
    sync_block();
    const bool last = *flag != 0;
    if (last) fence_device();
    return last;
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
