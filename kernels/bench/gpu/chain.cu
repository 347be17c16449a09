#include "kernels/bench/gpu/chain.h"
#include "kernels/cuda/launch.h"

namespace quantplug::bench {

using namespace quantplug::kernels;

namespace {

QP_KERNEL empty_kernel() {
    cuda::wait_for_earlier_kernels();
    cuda::let_next_kernel_start();
}

// from (n) of 16 bytes; a block takes every gridDim-th piece of 256.
QP_KERNEL QP_BOUNDS(256, 4) read_kernel(const uint4* from, uint64_t n, uint32_t* out) {
    cuda::wait_for_earlier_kernels();
    uint32_t sum = 0;
    QP_NO_UNROLL
    for (uint64_t i = uint64_t(blockIdx.x) * 1024 + threadIdx.x; i < n; i += uint64_t(gridDim.x) * 1024) {
        uint4 v[4];
        QP_UNROLL
        for (int j = 0; j < 4; ++j)
            v[j] = i + 256u * j < n ? cuda::load_stream4(from + i + 256u * j) : uint4{0, 0, 0, 0};
        QP_UNROLL
        for (int j = 0; j < 4; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    cuda::let_next_kernel_start();
    if (sum == 0x9e3779b9u && threadIdx.x == 0) out[blockIdx.x] = sum;
}

}  // namespace

void launch_empty(cuda::Queue& queue, int32_t n) {
    for (int32_t i = 0; i < n; ++i) cuda::launch(queue, "empty", empty_kernel, {1}, {32}, 0);
}

void read_all(cuda::Queue& queue, const void* from, uint64_t bytes, uint32_t* out, int32_t n_blocks) {
    cuda::launch(queue, "read", read_kernel, {uint32_t(n_blocks)}, {256}, 0, static_cast<const uint4*>(from),
                 bytes / 16, out);
}

}  // namespace quantplug::bench
