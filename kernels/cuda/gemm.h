// Products of many rows: weights decoded block by block into a scratch that stays in L2, then a plain FP16 product, by
// cuBLAS where the machine has it and by a kernel of our own where not.
#pragma once

#include <memory>

#include "kernels/cuda/product.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// out (rows, columns) = or += alpha * x (rows, k) w (columns, k)^T; FP16 in, FP32 sums and out. k a multiple of 32 (what
/// lies beyond a matrix's K' is never read), rows and columns any. 16-byte aligned rows of x and w.
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
/// mma.sync tiles. An element's order of additions depends on k alone.
void gemm(Queue& queue, const GemmLaunch& launch);

/// cuBLAS, found at run time; the current device's. One thread at a time.
class Blas {
 public:
    /// Null where there is none that we know (libcublas.so.13, .12), or QUANTPLUG_CUBLAS=off: then `gemm` serves.
    static std::unique_ptr<Blas> open();
    ~Blas();
    Blas(const Blas&) = delete;
    Blas& operator=(const Blas&) = delete;
    void gemm(Queue& queue, const GemmLaunch& launch);  // one fixed algorithm
    const char* version() const;                        // "cuBLAS 13.0.2"

 private:
    Blas();
    struct Library;
    std::unique_ptr<Library> library_;
};

/// Halves of scratch that gemm_product needs for matrices of at most this K'.
uint64_t gemm_scratch_halves(int32_t k_padded);

/// As product(), for any number of rows: every matrix in blocks of columns, decoded into `scratch` in turns of two.
void gemm_product(Queue& queue, Blas* blas, const ProductLaunch& launch, uint16_t* scratch);

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
