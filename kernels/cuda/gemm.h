// Products of many rows: weights decoded block by block into a scratch that stays in L2, then a plain FP16 product, by
// cuBLAS where the machine has it and by a kernel of our own where not.
#pragma once

#include <memory>

#include "kernels/cuda/product.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// out (rows, columns) = or += alpha * x (rows, k) w (columns, k)^T; FP16 in, FP32 sums and out. k a multiple of 32
/// (what lies beyond a matrix's K' is never read), rows and columns any. 16-byte aligned rows of x and w.
struct GemmLaunch {
    const uint16_t* x = nullptr;
    int64_t x_ld = 0;
    const uint16_t* w = nullptr;
    int64_t w_ld = 0;
    int32_t rows = 0, columns = 0, k = 0;
    float alpha = 1;
    float* out = nullptr;
    int64_t ld = 0;
    Store store = Store::set;
};
/// mma.sync tiles of tile_rows (64, 128; 0: as fits the shape) x 128. An element's order of additions depends on k
/// alone.
void gemm(Queue& queue, const GemmLaunch& launch, int32_t tile_rows = 0);

constexpr uint64_t blas_workspace_bytes = uint64_t(32) << 20;  // what NVIDIA advises for Hopper

/// cuBLAS, found at run time; the current device's. One thread at a time. Device memory: blas_workspace_bytes and what
/// the library takes for itself.
class Blas {
 public:
    /// Null where there is none that we know (libcublas.so.13, .12), or QUANTPLUG_CUBLAS=off: then `gemm` serves. Any
    /// other QUANTPLUG_CUBLAS is the library's path.
    static std::unique_ptr<Blas> open();
    ~Blas();
    Blas(const Blas&) = delete;
    Blas& operator=(const Blas&) = delete;
    /// One fixed algorithm for a shape, no atomics. Allocates nothing, so that a stream may be captured.
    void gemm(Queue& queue, const GemmLaunch& launch);
    const char* version() const;  // "cuBLAS 13.0.2"

    /// From the functions that `symbol` finds by their names in cublas_v2.h. Null where one is missing or fails.
    static std::unique_ptr<Blas> from_symbols(void* (*symbol)(void* context, const char* name), void* context);

 private:
    struct Library;
    explicit Blas(std::unique_ptr<Library> library);
    std::unique_ptr<Library> library_;
};

/// Halves of scratch that gemm_product needs for matrices of at most this K'.
uint64_t gemm_scratch_halves(int32_t k_padded);

/// As product(), for any number of rows: the matrices in blocks of columns, one after another decoded into `scratch`
/// and multiplied. One scratch, not two in turns: on one stream they could not overlap, and would take twice the L2.
void gemm_product(Queue& queue, Blas* blas, const ProductLaunch& launch, uint16_t* scratch);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
