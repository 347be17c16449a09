// What the machine can do at most: the lines that measured speeds are held against.
#pragma once

#include <cstdint>

#include "kernels/status.h"
#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

/// Of all threads together, with the instruction set that make_cpu_device would choose; a multiply-add is two
/// operations. fp32: multiply and add as two instructions, which is what the kernels use (the same bits everywhere).
struct Limits {
    double read_gb_per_s = 0;  // 10^9 bytes, sequential, from memory beyond any cache
    double int8_gops = 0, int16_gops = 0, fp32_gflops = 0;
};

/// The best of several runs of a few milliseconds each, half a second and 256 MB in all. threads: 1 or more. Fails
/// where QUANTPLUG_CPU names an instruction set that cannot be had, or there is no memory.
QP_KERNELS_API Status measure_limits(int32_t threads, Limits* out);

/// read_gb_per_s alone.
QP_KERNELS_API Status measure_read(int32_t threads, double* gb_per_s);

/// Of a CUDA device's own memory: bytes read and written by a copy within it, beyond any cache, 10^9 a second; the best
/// of several runs, at most a second in all. UNAVAILABLE as make_cuda_device.
QP_KERNELS_API Status measure_cuda_copy(int32_t ordinal, double* gb_per_s);

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
