// What a kernel is written in: the one header that knows whether nvcc compiles it for a GPU or a host compiler for the
// shim (shim/simt.h), which runs the same source on a CPU under the sanitizers.
//
// Rules that make the shim's word count: no <<<>>> and no raw intrinsic outside this header and the shim; dynamic shared
// memory only (the shim poisons it); every thread of a block reaches every barrier, every lane of a warp every warp
// operation; no block waits for another (LastArriver in last_arriver.h is the one way in which blocks meet).
//
// FP16 pairs travel as uint32_t ("half2"): the low half is the element of the lower index.
#pragma once

#include "kernels/cuda/qualifiers.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>

#define QP_DEVICE __device__ __forceinline__
#define QP_KERNEL __global__ void
#define QP_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define QP_PARAM const __grid_constant__
#define QP_UNROLL _Pragma("unroll")
#define QP_NO_UNROLL _Pragma("unroll 1")

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

// ---------------------------------------------------------------- FP16
QP_DEVICE uint32_t half2_sub(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("sub.f16x2 %0,%1,%2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
QP_DEVICE uint32_t half2_mul(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.f16x2 %0,%1,%2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
QP_DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
QP_DEVICE float half_to_float(uint32_t h) { return __half2float(__ushort_as_half(static_cast<unsigned short>(h))); }
QP_DEVICE float low_to_float(uint32_t a) { return half_to_float(a & 0xffffu); }
QP_DEVICE float high_to_float(uint32_t a) { return half_to_float(a >> 16); }
QP_DEVICE uint16_t float_to_half(float v) { return __half_as_ushort(__float2half_rn(v)); }  // beyond 65519: infinite
QP_DEVICE uint32_t pack_half2(float low, float high) {
    const __half2 h = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&h);
}

// ---------------------------------------------------------------- bits
QP_DEVICE uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) {  // (a & mask) | bits in one instruction
    uint32_t d;
    asm("lop3.b32 %0,%1,%2,%3,0xEA;" : "=r"(d) : "r"(a), "r"(mask), "r"(bits));
    return d;
}
QP_DEVICE uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }
QP_DEVICE uint32_t bit_count(uint32_t v) { return uint32_t(__popc(v)); }
QP_DEVICE uint32_t float_bits(float v) { return __float_as_uint(v); }
QP_DEVICE float bits_float(uint32_t v) { return __uint_as_float(v); }

// ---------------------------------------------------------------- arithmetic
QP_DEVICE float exp2_fast(float x) {  // 2 ulp; -inf gives 0
    float y;
    asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
    return y;
}
QP_DEVICE float reciprocal_fast(float x) {  // 1 ulp; inf gives 0
    float y;
    asm("rcp.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
    return y;
}
// Multiply and add as two roundings, whatever the compiler would contract.
QP_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
QP_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
QP_DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }

// ---------------------------------------------------------------- warp
constexpr uint32_t all_lanes = 0xffffffffu;
QP_DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(all_lanes, v, mask); }
QP_DEVICE uint32_t shuffle_xor(uint32_t v, int mask) { return __shfl_xor_sync(all_lanes, v, mask); }
QP_DEVICE float shuffle(float v, int lane) { return __shfl_sync(all_lanes, v, lane); }
QP_DEVICE uint32_t shuffle(uint32_t v, int lane) { return __shfl_sync(all_lanes, v, lane); }
QP_DEVICE uint32_t warp_ballot(bool v) { return __ballot_sync(all_lanes, v); }
QP_DEVICE void sync_warp() { __syncwarp(); }
QP_DEVICE void sync_block() { __syncthreads(); }

/// c += a b: A (16, 16) row-major, B (16, 8), C (16, 8) in FP32, in the fragments of PTX's mma.m16n8k16. With g =
/// lane / 4 and t = lane % 4: a[r] holds row g + 8 (r & 1), columns 2t + 8 (r >> 1) + {0, 1}; b0 rows 2t + {0, 1}, b1
/// rows 2t + 8 + {0, 1} of column g; c[q] row g + 8 (q >> 1), column 2t + (q & 1).
QP_DEVICE void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else  // sm_75 has m16n8k8
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
/// Four 8x8 matrices of FP16 from shared memory; lane i gives the address of row i % 8 of matrix i / 8 (16 bytes). r[j]
/// receives elements 2t, 2t + 1 of row g of matrix j; with `transposed`, rows 2t, 2t + 1 of column g.
QP_DEVICE void load_matrices(uint32_t (&r)[4], const void* shared_row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
QP_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* shared_row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// ---------------------------------------------------------------- memory
/// Global memory that is read once: not kept in L1. Aligned to the size of what is loaded.
QP_DEVICE uint4 load_stream4(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
QP_DEVICE uint4 load4(const void* p) { return *static_cast<const uint4*>(p); }
QP_DEVICE uint2 load2(const void* p) { return *static_cast<const uint2*>(p); }
QP_DEVICE uint32_t load1(const void* p) { return *static_cast<const uint32_t*>(p); }
/// Through the read-only cache: memory that no kernel of the step writes.
QP_DEVICE uint32_t load_const32(const void* p) { return __ldg(static_cast<const unsigned int*>(p)); }
QP_DEVICE uint32_t load_const16(const void* p) { return __ldg(static_cast<const unsigned short*>(p)); }

/// N = 4, 8 or 16 bytes from global to shared memory; there after commit_copies and wait_copies, for this thread alone.
template <int N>
QP_DEVICE void copy_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    if constexpr (N == 16)
        asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(address), "l"(global) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0],[%1],%2;" ::"r"(address), "l"(global), "n"(N) : "memory");
#else
    if constexpr (N == 16)
        *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
    else if constexpr (N == 8)
        *static_cast<uint2*>(shared) = *static_cast<const uint2*>(global);
    else
        *static_cast<uint32_t*>(shared) = *static_cast<const uint32_t*>(global);
#endif
}
QP_DEVICE void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// All but the latest N committed groups of this thread have arrived.
template <int N>
QP_DEVICE void wait_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/// The line of 128 bytes around p is on its way to L2.
QP_DEVICE void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

QP_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
QP_DEVICE void fence_device() { __threadfence(); }

// ---------------------------------------------------------------- programmatic dependent launch (sm_90 and up)
/// What earlier kernels of the stream wrote is visible behind it. Every kernel calls it before it reads or writes
/// anything that another kernel of the step touches; weights may be read before.
QP_DEVICE void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel's blocks may start beside this one's last.
QP_DEVICE void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
QP_DEVICE unsigned char* dynamic_shared() { return dynamic_shared_memory; }

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels

#else
#include "kernels/cuda/shim/simt.h"
#endif

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

QP_DEVICE float warp_sum(float v) {
    for (int mask = 16; mask > 0; mask >>= 1) v += shuffle_xor(v, mask);
    return v;
}
QP_DEVICE float warp_max(float v) {
    for (int mask = 16; mask > 0; mask >>= 1) {
        const float other = shuffle_xor(v, mask);
        v = other > v ? other : v;
    }
    return v;
}

constexpr float half_max = 65504.0f;

/// Two floats as FP16, saturated; `saturated` counts the values that were beyond +-65504. NaN stays NaN.
QP_DEVICE uint32_t pack_saturated(float low, float high, uint32_t& saturated) {
    saturated += uint32_t(low > half_max || low < -half_max) + uint32_t(high > half_max || high < -half_max);
    low = low > half_max ? half_max : low < -half_max ? -half_max : low;
    high = high > half_max ? half_max : high < -half_max ? -half_max : high;
    return pack_half2(low, high);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
