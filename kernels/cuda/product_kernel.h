// What a block of product.cu's kernel does around product_range.h's loop.
//
// Block = 8 or 16 warps on one column block and one slab of 8 NB rows; each of the 8 or 16 ranges of K' (MatrixView::
// split_begin) is one warp's, or one half of a warp's. Sums of ranges meet in shared memory: pairs first where there
// are 16, then in order, so that neither the number of warps nor NB shows in a row's bits. Lanes of rows that the slab
// lacks take the last row's activations: no test in the loop, and nothing is stored of them.
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
    // FoldIn, or FoldOut with `packed` as its operand; of one launch at most one.
    RowSquares fold_from, fold_squares;  // x null: no fold, no FoldOut
    const float* fold_weight = nullptr;
    const int32_t* fold_exponents = nullptr;
    int32_t* fold_exponents_out = nullptr;
    float fold_per_value = 1, fold_eps = 0;  // 1 / width
    bool two_ranges = false;                 // some warp has two of a matrix
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
    int slab, block;  // block: the column block in its matrix
    int matrix;       // the first (plain: the only) matrix
    int row0, count;  // rows of the slab
    int expert;       // -1: none
    int n_warps;
};

/// Ranges of a matrix that a warp has: 2 where there are 16 for 8 warps.
QP_DEVICE int ranges_a_warp(int n_splits, int n_warps) { return n_splits > n_warps ? n_splits / n_warps : 1; }

/// Bytes of shared memory a warp: its ring, and sums that must outlive it.
QP_HOST_DEVICE constexpr uint32_t warp_bytes(int nb, ProductForm form, bool two_ranges) {
    return uint32_t(ring_bytes + ((form == ProductForm::gated) + two_ranges) * nb * 512);
}

/// Where the warps' sums of matrix j lie. The latest range's sums may take the ring's place, which is empty then;
/// others lie behind the rings.
struct Sums {
    float* at;
    int stride;  // floats from one warp's to the next
};
template <int NB>
QP_DEVICE Sums sums_of(const ProductArguments& a, int j, int n_warps) {
    const bool two = a.form == ProductForm::gated, behind = a.two_ranges || (two && j == 0);
    unsigned char* shared = dynamic_shared();
    if (behind) shared += n_warps * (ring_bytes + j * NB * 512);
    return {reinterpret_cast<float*>(shared), behind ? NB * 128 : ring_bytes / 4};
}

/// A warp's sums of its ranges of matrix j of the block, element q of n-tile nb at (4 nb + q) * 32 + lane.
template <int NB, bool Zeros>
QP_DEVICE void sum_ranges(const ProductArguments& a, const ProductBlock& at, int j, const uint16_t* const (&x)[NB],
                          bool& waited) {
    const int warp = int(threadIdx.x) >> 5, lane = int(threadIdx.x) & 31, i = at.matrix + j;
    const MatrixView* entry = at.expert >= 0 ? a.tables[j] + at.expert : nullptr;
    const int n_splits = of_matrix(a, entry, i, [](const MatrixView& m) { return m.n_splits; });
    const int each = ranges_a_warp(n_splits, at.n_warps);
    if (warp * each >= n_splits) return;
    const int n_sections = of_matrix(a, entry, i, [](const MatrixView& m) { return m.n_sections; });
    RangeOperands<NB> in;
    const int64_t block = at.block;
    const int64_t group = block * of_matrix(a, entry, i, [](const MatrixView& m) { return m.n_groups; });
    const int64_t column = group * 8 + (lane >> 2);
    in.words = of_matrix(a, entry, i, [=](const MatrixView& m) { return m.words + block * m.block_words; });
    in.scales = of_matrix(a, entry, i, [](const MatrixView& m) { return m.scales; }) + column;
    in.zeros = nullptr;
    if constexpr (Zeros) {
        const uint16_t* zeros = of_matrix(a, entry, i, [](const MatrixView& m) { return m.zeros; });
        if (zeros) in.zeros = zeros + column;
    }
    QP_UNROLL
    for (int nb = 0; nb < NB; ++nb) in.x[nb] = x[nb];
    in.ring = reinterpret_cast<uint32_t*>(dynamic_shared() + warp * ring_bytes);
    in.lane = lane;

    QP_NO_UNROLL
    for (int s = 0; s < each; ++s) {
        const int split = warp * each + s;
        const int lo = of_matrix(a, entry, i, [=](const MatrixView& m) { return m.split_begin[split]; });
        const int hi = of_matrix(a, entry, i, [=](const MatrixView& m) { return m.split_begin[split + 1]; });
        float sums[NB][4] = {};
        QP_NO_UNROLL
        for (int part = 0; part < n_sections; ++part) {
            const Section section = of_matrix(a, entry, i, [=](const MatrixView& m) { return m.sections[part]; });
            add_section<Zeros, NB>(in, section, lo, hi, waited, sums);
        }
        const Sums kept = sums_of<NB>(a, j, at.n_warps);
        sync_warp();  // they may lie where other lanes read the ring
        QP_UNROLL
        for (int nb = 0; nb < NB; ++nb) {
            QP_UNROLL
            for (int q = 0; q < 4; ++q) {
                float* to = kept.at + warp * kept.stride + (4 * nb + q) * 32 + lane;
                *to = s == 0 ? sums[nb][q] : *to + sums[nb][q];
            }
        }
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

// ---------------------------------------------------------------- folded norms
/// 2^-e of a row: 16 times below its root mean square before the product, so that FP16 holds 2^20 times as much, and
/// never above 2^8, as a row of zeros may become anything. Neither costs a usual value a bit.
constexpr int fold_headroom = 4, least_fold_exponent = -8, most_fold_exponent = 40;

/// What the slab's row `row` is multiplied by, its sums (FoldIn) or the operand that it leaves (FoldOut): at the end of
/// a warp's ring, beyond sums that lie there.
QP_DEVICE float* row_factor(const ProductBlock& at, int row) {
    const int warp = row % at.n_warps, i = row / at.n_warps;  // i < 4: 32 rows, 8 warps
    return reinterpret_cast<float*>(dynamic_shared() + (warp + 1) * ring_bytes) - 4 + i;
}

/// round(log2(root of the mean square)) and the headroom, from the exponent alone.
QP_DEVICE int fold_exponent(float mean) {
    const int e = ((int(float_bits(mean) >> 23 & 0xffu) - 126) >> 1) + fold_headroom;
    return e < least_fold_exponent ? least_fold_exponent : e > most_fold_exponent ? most_fold_exponent : e;
}

/// After the warp's sums, before the block's barrier: a row a warp at a time, its squares summed in one order.
QP_DEVICE void factor_rows(const ProductArguments& a, const ProductBlock& at) {
    sync_warp();  // other lanes may have read the ring
    const int warp = int(threadIdx.x) >> 5, lane = int(threadIdx.x) & 31, n = a.fold_from.n;
    QP_NO_UNROLL
    for (int r = warp; r < at.count; r += at.n_warps) {
        const int64_t row = at.row0 + r;
        const float* parts = a.fold_from.x + row * a.fold_from.ld;
        const int given = a.fold_exponents ? a.fold_exponents[row] : 0;
        float sum = 0.0f;
        for (int i = 4 * lane; i < n; i += 128) {
            const uint4 v = load4(parts + i);
            const float p0 = bits_float(v.x), p1 = i + 1 < n ? bits_float(v.y) : 0.0f;
            const float p2 = i + 2 < n ? bits_float(v.z) : 0.0f, p3 = i + 3 < n ? bits_float(v.w) : 0.0f;
            sum += (p0 + p1) + (p2 + p3);
        }
        const float mean = mul_rn(warp_sum(sum), a.fold_per_value);
        if (lane != 0) continue;
        if (a.fold_squares.x) {
            const int e = fold_exponent(mean);
            *row_factor(at, r) = power_of_two(-e);
            if (at.block == 0) a.fold_exponents_out[row] = e;
        } else {
            *row_factor(at, r) = power_of_two(given) / sqrtf(add_rn(mean, a.fold_eps));
        }
    }
}

template <int NB>
QP_DEVICE void store_results(const ProductArguments& a, const ProductBlock& at) {
    const bool gated = a.form == ProductForm::gated;
    const float scale = power_of_two(a.x.exponent), packed_scale = power_of_two(-a.packed.exponent);
    const auto entry_of = [&](int j) { return at.expert >= 0 ? a.tables[j] + at.expert : nullptr; };
    const int n = of_matrix(a, entry_of(0), at.matrix, [](const MatrixView& m) { return m.n; });
    const int32_t* scatter = at.expert >= 0 && a.down ? a.down[at.expert].scatter : a.scatter;
    const bool folds = a.fold_squares.x, factors = a.fold_from.x && !folds;
    uint32_t saturated = 0;
    // Stores element i of the block; its square where that is asked for.
    const auto store = [&](int i, int row, int column) {
        if (row >= at.count || column >= n) return 0.0f;
        const float row_scale = factors ? *row_factor(at, row) : scale;
        const auto value = [&](int j) {
            const MatrixView* entry = entry_of(j);
            const int n_splits = of_matrix(a, entry, at.matrix + j, [](const MatrixView& m) { return m.n_splits; });
            const float* bias = of_matrix(a, entry, at.matrix + j, [](const MatrixView& m) { return m.bias; });
            const Sums sums = sums_of<NB>(a, j, at.n_warps);
            const float v = mul_rn(reduce_ranges(sums.at, sums.stride, i, n_splits, at.n_warps), row_scale);
            return bias ? v + bias[column] : v;
        };
        float v = value(0);
        if (a.form != ProductForm::plain) v = activated(a.activation, v);
        if (gated) v = mul_rn(v, value(1));
        const int64_t to = at.row0 + row;
        if (a.out) {
            float* out = a.out + to * a.ld + (a.form == ProductForm::plain ? a.columns[at.matrix] : 0) + column;
            if (a.add) v = add_rn(*out, v);
            *out = v;
        }
        if (a.packed.x) {
            const float left = folds ? v * a.fold_weight[column] * *row_factor(at, row) : v * packed_scale;
            a.packed.x[to * a.packed.ld + scatter[column]] = uint16_t(pack_saturated(left, 0.0f, saturated));
        }
        return mul_rn(v, v);
    };
    for (int i = int(threadIdx.x); i < NB * 128; i += int(blockDim.x)) {
        const int lane = i & 31, q = (i >> 5) & 3;
        const int row = 8 * (i >> 7) + 2 * (lane & 3) + (q & 1);
        float square = store(i, row, block_columns * at.block + (lane >> 2) + 8 * (q >> 1));
        if (!folds) continue;
        for (int mask = 4; mask < 32; mask *= 2) square += shuffle_xor(square, mask);  // the row's 8 columns
        if (lane < 4 && row < at.count)
            a.fold_squares.x[(at.row0 + row) * int64_t(a.fold_squares.ld) + 2 * at.block + (q >> 1)] = square;
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

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
