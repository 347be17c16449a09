// The kernel behind product.h: what a block does around product_range.h's loop. Instantiated by product.cu.
//
// Block = 8 or 16 warps on one column block and one slab of 8 NB rows; each of the 8 or 16 ranges of K' (MatrixView::
// split_begin) is one warp's, or one half of a warp's. Sums of ranges meet in shared memory: pairs first where there are
// 16, then in order, so that neither the number of warps nor NB shows in a row's bits.
// Lanes of rows that the slab lacks take the last row's activations: no test in the loop, and nothing is stored of them.
#pragma once

#include "kernels/cuda/activation.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_range.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

enum class ProductForm : int32_t { plain, gated, ungated };  // x W + b; act(x W0 + b0) * (x W1 + b1); act(x W0 + b0)

struct ProductArguments {
    MatrixView matrices[3];  // plain: side by side; gated: gate, up; ungated: up
    int32_t columns[3] = {};
    int32_t block_end[3] = {};  // plain: column blocks up to and with matrix i
    ProductForm form = ProductForm::plain;
    Operand x;
    int32_t rows = 0, n_slabs = 1;
    float* out = nullptr;
    int64_t ld = 0;
    bool add = false;
    Activation activation = Activation::silu;
    Operand packed;
    const int32_t* scatter = nullptr;  // of the matrix whose order `packed` has
    const int32_t* padding = nullptr;
    int32_t n_padding = 0;
    Saturation* saturation = nullptr;
    // Experts, by id; null without. down: whose order `packed` has.
    const MatrixView* tables[2] = {};
    const MatrixView* down = nullptr;
    const ExpertSlab* slabs = nullptr;
    const int32_t* n_live_slabs = nullptr;
};

/// 2^e as FP32, |e| < 127.
QP_DEVICE float power_of_two(int e) { return bits_float(uint32_t(127 + e) << 23); }

/// A matrix of the launch: its entry in an expert's table, or the one that came by value.
template <class Get>
QP_DEVICE auto of_matrix(const ProductArguments& a, const MatrixView* entry, int i, Get&& get) {
    return entry ? get(*entry) : get(a.matrices[i]);
}

struct ProductBlock {
    int slab, block;    // block: the column block in its matrix
    int matrix;         // the first (plain: the only) matrix
    int row0, count;    // rows of the slab
    int expert;         // -1: none
    int n_warps, warp, lane;
};

/// Ranges of a matrix that a warp has: 2 where there are 16 for 8 warps.
QP_DEVICE int ranges_a_warp(int n_splits, int n_warps) { return n_splits > n_warps ? n_splits / n_warps : 1; }

/// A warp's sums of its ranges of matrix i to partial[(4 nb + q) * 32 + lane].
template <int NB, bool Zeros>
QP_DEVICE void sum_ranges(const ProductArguments& a, const ProductBlock& at, const MatrixView* entry, int i,
                          const uint16_t* const (&x)[NB], uint32_t* ring, float* partial, bool& waited) {
    const int n_splits = of_matrix(a, entry, i, [](const MatrixView& m) { return m.n_splits; });
    const int each = ranges_a_warp(n_splits, at.n_warps);
    if (at.warp * each >= n_splits) return;
    const int n_sections = of_matrix(a, entry, i, [](const MatrixView& m) { return m.n_sections; });
    RangeOperands<NB> in;
    const int64_t block = at.block;
    const int64_t group = block * of_matrix(a, entry, i, [](const MatrixView& m) { return m.n_groups; });
    const int64_t column = group * 8 + (at.lane >> 2);
    in.words = of_matrix(a, entry, i, [=](const MatrixView& m) { return m.words + block * m.block_words; });
    in.scales = of_matrix(a, entry, i, [](const MatrixView& m) { return m.scales; }) + column;
    in.zeros = nullptr;
    if constexpr (Zeros) {
        const uint16_t* zeros = of_matrix(a, entry, i, [](const MatrixView& m) { return m.zeros; });
        if (zeros) in.zeros = zeros + column;
    }
    QP_UNROLL
    for (int nb = 0; nb < NB; ++nb) in.x[nb] = x[nb];
    in.ring = ring;
    in.lane = at.lane;

    float total[NB][4];
    QP_NO_UNROLL
    for (int s = 0; s < each; ++s) {
        const int split = at.warp * each + s;
        const int lo = of_matrix(a, entry, i, [=](const MatrixView& m) { return m.split_begin[split]; });
        const int hi = of_matrix(a, entry, i, [=](const MatrixView& m) { return m.split_begin[split + 1]; });
        float sums[NB][4] = {};
        QP_NO_UNROLL
        for (int j = 0; j < n_sections; ++j) {
            const Section section = of_matrix(a, entry, i, [=](const MatrixView& m) { return m.sections[j]; });
            add_section<Zeros, NB>(in, section, lo, hi, waited, sums);
        }
        QP_UNROLL
        for (int nb = 0; nb < NB; ++nb) {
            QP_UNROLL
            for (int q = 0; q < 4; ++q) total[nb][q] = s == 0 ? sums[nb][q] : total[nb][q] + sums[nb][q];
        }
    }
    sync_warp();  // the partial sums may lie where other lanes read the ring
    QP_UNROLL
    for (int nb = 0; nb < NB; ++nb) {
        QP_UNROLL
        for (int q = 0; q < 4; ++q) partial[(4 * nb + q) * 32 + at.lane] = total[nb][q];
    }
}

/// Element `index` of the warps' partial sums, `stride` floats from one warp's to the next.
QP_DEVICE float reduce_ranges(const float* partial, int stride, int index, int n_splits, int n_warps) {
    const int n = n_splits / ranges_a_warp(n_splits, n_warps), pair = n / 8;
    float sum = 0.0f;
    for (int i = 0; i < 8; ++i) {
        float v = partial[i * pair * stride + index];
        if (pair == 2) v += partial[(2 * i + 1) * stride + index];
        sum = i == 0 ? v : sum + v;
    }
    return sum;
}

template <int NB>
QP_DEVICE void store_results(const ProductArguments& a, const ProductBlock& at, const MatrixView* (&entries)[2],
                             const float* (&partials)[2], const int (&strides)[2]) {
    const bool gated = a.form == ProductForm::gated;
    const float scale = power_of_two(a.x.exponent), packed_scale = power_of_two(-a.packed.exponent);
    const int n = of_matrix(a, entries[0], at.matrix, [](const MatrixView& m) { return m.n; });
    const int32_t* scatter = at.expert >= 0 && a.down ? a.down[at.expert].scatter : a.scatter;
    uint32_t saturated = 0;
    for (int i = int(threadIdx.x); i < NB * 128; i += int(blockDim.x)) {
        const int lane = i & 31, q = (i >> 5) & 3;
        const int row = 8 * (i >> 7) + 2 * (lane & 3) + (q & 1);
        const int column = block_columns * at.block + (lane >> 2) + 8 * (q >> 1);
        if (row >= at.count || column >= n) continue;
        const auto value = [&](int j) {
            const int m = at.matrix + j;
            const int n_splits = of_matrix(a, entries[j], m, [](const MatrixView& v) { return v.n_splits; });
            const float* bias = of_matrix(a, entries[j], m, [](const MatrixView& v) { return v.bias; });
            const float v = reduce_ranges(partials[j], strides[j], i, n_splits, at.n_warps) * scale;
            return bias ? v + bias[column] : v;
        };
        float v = value(0);
        if (a.form != ProductForm::plain) v = activated(a.activation, v);
        if (gated) v = mul_rn(v, value(1));
        const int64_t to = at.row0 + row;
        if (a.out) {
            float* out = a.out + to * a.ld + (a.form == ProductForm::plain ? a.columns[at.matrix] : 0) + column;
            *out = a.add ? *out + v : v;
        }
        if (a.packed.x)
            a.packed.x[to * a.packed.ld + scatter[column]] =
                uint16_t(pack_saturated(v * packed_scale, 0.0f, saturated));
    }
    if (saturated) atomic_add(&a.saturation->count, saturated);
    if (a.packed.x && at.block == 0) {
        const bool by_table = at.expert >= 0 && a.down;
        const int32_t* padding = by_table ? a.down[at.expert].padding : a.padding;
        const int n_padding = by_table ? a.down[at.expert].n_padding : a.n_padding;
        for (int row = 0; row < at.count; ++row) {
            for (int i = int(threadIdx.x); i < n_padding; i += int(blockDim.x))
                a.packed.x[int64_t(at.row0 + row) * a.packed.ld + padding[i]] = 0;
        }
    }
}

/// grid: slabs * column blocks, slabs of one column block side by side. Shared memory: a ring a warp; where two matrices
/// are multiplied, NB * 512 bytes a warp more.
template <int NB, bool Zeros>
QP_KERNEL QP_BOUNDS(NB == 4 ? 256 : 512, 1) product_kernel(QP_PARAM ProductArguments a) {
    ProductBlock at;
    at.slab = int(blockIdx.x) % a.n_slabs;
    at.block = int(blockIdx.x) / a.n_slabs;
    at.n_warps = int(blockDim.x) >> 5;
    at.warp = int(threadIdx.x) >> 5;
    at.lane = int(threadIdx.x) & 31;
    at.matrix = 0;
    at.expert = -1;
    at.row0 = at.slab * 8 * NB;
    at.count = a.rows - at.row0;
    bool waited = false;
    if (a.slabs) {
        wait_for_earlier_kernels();
        waited = true;
        if (at.slab >= *a.n_live_slabs) return;
        const ExpertSlab slab = a.slabs[at.slab];
        at.expert = slab.expert;
        at.row0 = slab.first;
        at.count = slab.count;
    }
    at.count = at.count < 8 * NB ? at.count : 8 * NB;
    if (a.form == ProductForm::plain) {
        while (at.block >= a.block_end[at.matrix]) ++at.matrix;
        if (at.matrix > 0) at.block -= a.block_end[at.matrix - 1];
    }
    const uint16_t* x[NB];
    QP_UNROLL
    for (int nb = 0; nb < NB; ++nb) {
        const int row = 8 * nb + (at.lane >> 2), last = at.count - 1;
        x[nb] = a.x.x + int64_t(at.row0 + (row < last ? row : last)) * a.x.ld + 8 * (at.lane & 3);
    }
    unsigned char* shared = dynamic_shared();
    uint32_t* ring = reinterpret_cast<uint32_t*>(shared + at.warp * ring_bytes);
    const int n_matrices = a.form == ProductForm::gated ? 2 : 1;
    // The latest matrix's sums take the ring's place, which is empty then.
    constexpr int own_floats = NB * 128, ring_floats = ring_bytes / 4;
    const int strides[2] = {n_matrices == 2 ? own_floats : ring_floats, ring_floats};
    float* kept[2] = {reinterpret_cast<float*>(shared + (n_matrices == 2 ? at.n_warps * ring_bytes : 0)),
                      reinterpret_cast<float*>(shared)};
    const MatrixView* entries[2] = {at.expert >= 0 ? a.tables[0] + at.expert : nullptr,
                                    at.expert >= 0 && n_matrices == 2 ? a.tables[1] + at.expert : nullptr};
    QP_NO_UNROLL
    for (int j = 0; j < n_matrices; ++j) {
        const MatrixView* entry = j == 0 ? entries[0] : entries[1];
        float* partial = j == 0 ? kept[0] + at.warp * strides[0] : kept[1] + at.warp * strides[1];
        sum_ranges<NB, Zeros>(a, at, entry, at.matrix + j, x, ring, partial, waited);
    }
    let_next_kernel_start();
    if (!waited) wait_for_earlier_kernels();
    sync_block();
    const float* partials[2] = {kept[0], kept[1]};
    store_results<NB>(a, at, entries, partials, strides);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
