// A launch in the shim: queued on the stream as a closure, run when somebody waits for it.
#pragma once

#include <functional>

#include "kernels/cuda/runtime.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// `body` runs once for every thread of the grid.
Status shim_launch(StreamHandle stream, const char* name, Extent grid, Extent block, size_t shared_bytes,
                   std::function<void()> body);

/// What the shim pretends, for tests. All of a process; taken back by reset_shim.
struct ShimSettings {
    int32_t n_devices = 1;
    int32_t driver = 13000;  // 0: none installed
    int32_t major = 9, minor = 0;
    uint64_t memory_bytes = uint64_t(8) << 30;  // of each device
    int64_t fail_allocation = -1;               // the n-th allocation from now (0: the next) finds no memory
    int64_t fault_at_call = -1;                 // the n-th call from now ends in a sticky fault
    uint64_t seed = 1;                          // of the order of blocks and threads
    bool deferred = true;                       // work waits on its stream until somebody waits for it
};
ShimSettings& shim_settings();
void reset_shim();                // settings as above, no fault; nothing may be allocated
uint64_t shim_allocated_bytes();  // device memory
uint64_t shim_launches();         // kernels run since the start of the process

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
