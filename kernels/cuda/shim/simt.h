// CUDA kernels on a CPU, for tests: portable.h's vocabulary without a GPU. One fiber per CUDA thread; the blocks of a
// launch run one after another in random order, the threads of a block in random order between their meeting points.
// Found so: wrong indices (with ASan: out of bounds, byte by byte), misaligned vectors (UBSan), missing or divergent
// barriers, wrong fragments (mma computes as PTX documents it), reads before a copy_async has arrived (copies are made
// at their wait), reads of shared memory that nobody wrote (it is poisoned), results that depend on the order, reads
// before wait_for_earlier_kernels() of what the kernel ahead writes. Not found: blocks that need each other's progress,
// what a fence or a volatile is for, registers, speed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cuda/qualifiers.h"
#include "kernels/half.h"

#define QP_DEVICE inline
#define QP_KERNEL inline void
#define QP_BOUNDS(threads, blocks)
#define QP_PARAM const
#define QP_UNROLL
#define QP_NO_UNROLL

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace simt {

struct Index {
    uint32_t x = 0, y = 0, z = 0;
};

/// Of the thread that runs.
struct Position {
    Index thread, block, block_size, grid_size;
};
[[gnu::tls_model("initial-exec")]] extern thread_local constinit Position here;

/// What one lane brings to a warp operation, and what it takes away.
struct Exchange {
    uint32_t in[32][8];
    uint32_t out[32][4];
};

/// All lanes of the warp meet; the last to come runs `compute` once for all.
using Compute = void (*)(Exchange& exchange, const void* arguments);
void warp_operation(const char* name, const uint32_t* in, int n_in, uint32_t* out, int n_out, Compute compute,
                    const void* arguments);
void barrier();

/// A copy of `bytes` that wait_copies makes.
void defer_copy(void* shared, const void* global, int bytes);
void commit_copies();
void wait_copies(int pending_groups);

/// Where the thread waits for what earlier kernels wrote.
void wait_for_earlier();

unsigned char* shared_memory();
[[noreturn]] void die(const char* what);

struct GridLaunch {
    const char* name = nullptr;
    Index grid, block;
    size_t shared_bytes = 0;
    uint64_t seed = 0;  // of the order of blocks and threads
    void (*body)(const void*) = nullptr;
    const void* context = nullptr;
};
/// Runs `body` once for every thread of the grid. Called by the shim's runtime alone.
void run_grid(const GridLaunch& launch);
/// What a card may do while the kernel ahead is still at work: one block of `launch` runs up to
/// wait_for_earlier_kernels(). The kernel ahead runs next, by run_grid, and then `launch` itself.
void start_early(const GridLaunch& launch);

extern const float* const half_table;  // f16_to_f32 of every value

}  // namespace simt

// ---------------------------------------------------------------- FP16
inline float half_to_float(uint32_t h) { return simt::half_table[h & 0xffffu]; }
inline float low_to_float(uint32_t a) { return simt::half_table[a & 0xffffu]; }
inline float high_to_float(uint32_t a) { return simt::half_table[a >> 16]; }
inline uint16_t float_to_half(float v) { return f32_to_f16(v); }
inline uint32_t pack_half2(float low, float high) { return f32_to_f16(low) | (uint32_t(f32_to_f16(high)) << 16); }
inline uint32_t half2_sub(uint32_t a, uint32_t b) {
    return pack_half2(low_to_float(a) - low_to_float(b), high_to_float(a) - high_to_float(b));
}
inline uint32_t half2_mul(uint32_t a, uint32_t b) {
    return pack_half2(low_to_float(a) * low_to_float(b), high_to_float(a) * high_to_float(b));
}
inline uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
    // Product and sum of FP16 values are exact in double but for sums that span more than 53 bits, which round alike.
    const auto one = [](float x, float y, float z) { return float(double(x) * double(y) + double(z)); };
    return pack_half2(one(low_to_float(a), low_to_float(b), low_to_float(c)),
                      one(high_to_float(a), high_to_float(b), high_to_float(c)));
}

// ---------------------------------------------------------------- bits and arithmetic
inline uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) { return (a & mask) | bits; }
inline uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = (uint64_t(b) << 32) | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) out |= uint32_t((bytes >> (8 * ((selector >> (4 * i)) & 7))) & 0xff) << (8 * i);
    return out;
}
inline uint32_t bit_count(uint32_t v) { return uint32_t(__builtin_popcount(v)); }
inline uint32_t float_bits(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return bits;
}
inline float bits_float(uint32_t v) {
    float f;
    std::memcpy(&f, &v, 4);
    return f;
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }
inline float mul_rn(float a, float b) { return a * b; }
inline float add_rn(float a, float b) { return a + b; }
inline float div_rn(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// ---------------------------------------------------------------- warp
namespace simt {
inline uint32_t exchange_lane(const char* name, uint32_t v, int argument, bool is_xor) {
    uint32_t out = 0;
    const uint32_t in[2] = {v, uint32_t(argument)};
    warp_operation(name, in, 2, &out, 1,
                   is_xor ? Compute([](Exchange& e, const void*) {
                       for (uint32_t l = 0; l < 32; ++l) e.out[l][0] = e.in[(l ^ e.in[l][1]) & 31][0];
                   })
                          : Compute([](Exchange& e, const void*) {
                                for (uint32_t l = 0; l < 32; ++l) e.out[l][0] = e.in[e.in[l][1] & 31][0];
                            }),
                   nullptr);
    return out;
}
}  // namespace simt
inline uint32_t shuffle_xor(uint32_t v, int mask) { return simt::exchange_lane("shuffle_xor", v, mask, true); }
inline float shuffle_xor(float v, int mask) { return bits_float(shuffle_xor(float_bits(v), mask)); }
inline uint32_t shuffle(uint32_t v, int lane) { return simt::exchange_lane("shuffle", v, lane, false); }
inline float shuffle(float v, int lane) { return bits_float(shuffle(float_bits(v), lane)); }
inline uint32_t warp_ballot(bool v) {
    const uint32_t in = v;
    uint32_t out = 0;
    simt::warp_operation(
        "ballot", &in, 1, &out, 1,
        [](simt::Exchange& e, const void*) {
            uint32_t bits = 0;
            for (uint32_t l = 0; l < 32; ++l) bits |= e.in[l][0] << l;
            for (auto& lane : e.out) lane[0] = bits;
        },
        nullptr);
    return out;
}
inline void sync_warp() { simt::warp_operation("sync_warp", nullptr, 0, nullptr, 0, nullptr, nullptr); }
inline void sync_block() { simt::barrier(); }

namespace simt {
void mma_products(Exchange& e, const void*);  // out[lane] = its four sums of products
template <bool Transposed>
void load_four(uint32_t (&r)[4], const void* shared_row) {
    if (reinterpret_cast<uintptr_t>(shared_row) & 15) die("a row of load_matrices that is not aligned to 16 bytes");
    uint32_t in[4];
    std::memcpy(in, shared_row, 16);
    warp_operation(
        Transposed ? "load_matrices_transposed" : "load_matrices", in, 4, r, 4,
        [](Exchange& e, const void*) {
            uint16_t values[4][8][8];  // matrix, row, column
            for (uint32_t l = 0; l < 32; ++l) std::memcpy(values[l / 8][l % 8], e.in[l], 16);
            for (uint32_t l = 0; l < 32; ++l) {
                const uint32_t g = l / 4, t = l % 4;
                for (uint32_t m = 0; m < 4; ++m) {
                    const uint16_t low = Transposed ? values[m][2 * t][g] : values[m][g][2 * t];
                    const uint16_t high = Transposed ? values[m][2 * t + 1][g] : values[m][g][2 * t + 1];
                    e.out[l][m] = low | (uint32_t(high) << 16);
                }
            }
        },
        nullptr);
}
}  // namespace simt
inline void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t in[6] = {a[0], a[1], a[2], a[3], b0, b1};
    uint32_t out[4];
    simt::warp_operation("mma_16x8x16", in, 6, out, 4, simt::mma_products, nullptr);
    for (int q = 0; q < 4; ++q) c[q] += bits_float(out[q]);
}
inline void load_matrices(uint32_t (&r)[4], const void* shared_row) { simt::load_four<false>(r, shared_row); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* shared_row) { simt::load_four<true>(r, shared_row); }

// ---------------------------------------------------------------- memory
namespace simt {
template <class T>
const T& aligned(const void* p) {
    if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) die("a load of a misaligned address");
    return *static_cast<const T*>(p);
}
}  // namespace simt
inline uint4 load_stream4(const void* p) { return simt::aligned<uint4>(p); }
inline uint4 load4(const void* p) { return simt::aligned<uint4>(p); }
inline uint2 load2(const void* p) { return simt::aligned<uint2>(p); }
inline uint32_t load1(const void* p) { return simt::aligned<uint32_t>(p); }
inline uint32_t load_const32(const void* p) { return simt::aligned<uint32_t>(p); }
inline uint32_t load_const16(const void* p) { return simt::aligned<uint16_t>(p); }

template <int N>
inline void copy_async(void* shared, const void* global) {
    static_assert(N == 4 || N == 8 || N == 16);
    unsigned char there[N];
    std::memcpy(there, global, N);  // read and written here too, where a sanitizer names the kernel's line
    std::memset(shared, 0xff, N);
    simt::defer_copy(shared, global, N);
}
inline void commit_copies() { simt::commit_copies(); }
template <int N>
inline void wait_copies() {
    simt::wait_copies(N);
}
inline void prefetch_l2(const void* p) {
    (void)*static_cast<const volatile unsigned char*>(p);
}  // for AddressSanitizer

inline uint32_t atomic_add(uint32_t* p, uint32_t v) {
    const uint32_t old = *p;
    *p = old + v;
    return old;
}
inline void fence_device() {}
inline void wait_for_earlier_kernels() { simt::wait_for_earlier(); }
inline void let_next_kernel_start() {}
inline unsigned char* dynamic_shared() { return simt::shared_memory(); }

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels

#define threadIdx (::quantplug::kernels::cuda::simt::here.thread)
#define blockIdx (::quantplug::kernels::cuda::simt::here.block)
#define blockDim (::quantplug::kernels::cuda::simt::here.block_size)
#define gridDim (::quantplug::kernels::cuda::simt::here.grid_size)
