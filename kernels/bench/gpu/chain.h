// Kernels that measure the machine, not the model.
#pragma once

#include <cstdint>

#include "kernels/cuda/runtime.h"

namespace quantplug::bench {

/// n kernels of one block that do nothing, one behind the other.
void launch_empty(kernels::cuda::Queue& queue, int32_t n);

/// Reads `bytes` (a multiple of 16) once, 16 bytes a thread; out (one word for each block) keeps the compiler from
/// leaving it.
void read_all(kernels::cuda::Queue& queue, const void* from, uint64_t bytes, uint32_t* out, int32_t n_blocks);

}  // namespace quantplug::bench
