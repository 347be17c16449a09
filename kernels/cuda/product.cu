#include <algorithm>
#include <string>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/product_kernel.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

/// grid: slabs * column blocks, slabs of one column block side by side.
template <int NB, bool Zeros>
QP_KERNEL QP_BOUNDS(NB == 1 ? 512 : 256, 1) product_kernel(QP_PARAM ProductArguments a) {
    ProductBlock at;
    at.slab = int(blockIdx.x) % a.n_slabs;
    at.block = int(blockIdx.x) / a.n_slabs;
    at.n_warps = int(blockDim.x) >> 5;
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
        const int lane = int(threadIdx.x) & 31, row = 8 * nb + (lane >> 2), last = at.count - 1;
        x[nb] = a.x.x + int64_t(at.row0 + (row < last ? row : last)) * a.x.ld + 8 * (lane & 3);
    }
    // What is needed again between the loops would take registers from them; more rows have enough, and no shared
    // memory left.
    auto* const kept =
        reinterpret_cast<ProductBlock*>(dynamic_shared() + at.n_warps * warp_bytes(NB, a.form, a.two_ranges));
    if constexpr (NB == 1) {
        if (threadIdx.x == 0) *kept = at;
        if (threadIdx.x == 0 && a.fold_weight) {
            prefetch_l2(a.fold_weight + block_columns * at.block);
            prefetch_l2(a.scatter + block_columns * at.block);
        }
        sync_block();
    }
    const ProductBlock& block = NB == 1 ? *kept : at;
    QP_NO_UNROLL
    for (int j = 0; j < (a.form == ProductForm::gated ? 2 : 1); ++j) sum_ranges<NB, Zeros>(a, block, j, x, waited);
    let_next_kernel_start();
    if (!waited) wait_for_earlier_kernels();
    if (a.fold_from.x) factor_rows(a, block);
    sync_block();
    store_results<NB>(a, block);
}

Status refused(const char* what, int64_t value) {
    return Status::error(internal, std::string("a product with ") + what + " " + std::to_string(value) +
                                       " is none that the kernel can compute");
}

bool usable(const MatrixView& matrix) {
    return matrix.words && matrix.scales && matrix.n_blocks > 0 && matrix.n > 0 && matrix.n_sections > 0 &&
           matrix.n_sections <= max_sections && (matrix.n_splits == 8 || matrix.n_splits == 16);
}

Status check_operand(const Operand& x, int32_t k_padded) {
    if (!x.x || (reinterpret_cast<uintptr_t>(x.x) & 15) != 0)
        return refused("activations at", reinterpret_cast<intptr_t>(x.x));
    if (x.ld % 8 != 0 || x.ld < k_padded) return refused("a row stride of", x.ld);
    if (x.exponent <= -127 || x.exponent >= 127) return refused("an exponent of", x.exponent);
    return {};
}

Status check_packed(const ProductArguments& a) {
    if (!a.packed.x) return {};
    if (!a.saturation) return refused("an FP16 result and a count of saturated values at", 0);
    if (a.packed.exponent <= -127 || a.packed.exponent >= 127) return refused("an exponent of", a.packed.exponent);
    return {};
}

bool usable(const RowSquares& squares) {
    return squares.x && (reinterpret_cast<uintptr_t>(squares.x) & 15) == 0 && squares.n > 0 &&
           squares.n <= squares.ld && squares.ld % 4 == 0;
}

Status set_fold_in(ProductArguments& a, const FoldIn& fold) {
    if (!fold.squares.x) return {};
    if (!usable(fold.squares) || !fold.exponents) return refused("a norm folded in of parts numbering", fold.squares.n);
    if (a.x.exponent != 0) return refused("a norm folded in and an exponent of", a.x.exponent);
    if (fold.width <= 0) return refused("a norm folded in of a width of", fold.width);
    a.fold_from = fold.squares;
    a.fold_exponents = fold.exponents;
    a.fold_per_value = 1.0f / float(fold.width);
    a.fold_eps = fold.eps;
    return {};
}

Status set_fold_out(ProductArguments& a, const ProductLaunch& launch) {
    const FoldOut& fold = launch.fold_out;
    if (!fold.packed.x) return {};
    const int32_t n = launch.matrices[0].n, parts = folded_parts(launch.matrices[0].n_blocks);
    if (a.fold_from.x) return refused("a norm folded in and one folded out, its inputs numbering", fold.order.k);
    if (launch.n_matrices != 1 || fold.order.k != n)
        return refused("a norm folded out for the next one's inputs numbering", fold.order.k);
    if (!usable(fold.squares) || fold.squares.n != parts || !usable(fold.before) || fold.before.x == fold.squares.x)
        return refused("a norm folded out of parts numbering", fold.squares.n);
    if (!fold.weight || !fold.exponents || fold.packed.exponent != 0)
        return refused("a norm folded out with an exponent of", fold.packed.exponent);
    if (fold.packed.x == launch.x.x || fold.packed.ld < fold.order.k_padded)
        return refused("a norm folded out to a row stride of", fold.packed.ld);
    a.packed = fold.packed;
    a.scatter = fold.order.scatter;
    a.padding = fold.order.padding;
    a.n_padding = fold.order.n_padding;
    a.saturation = fold.saturation;
    a.fold_squares = fold.squares;
    a.fold_from = fold.before;
    a.fold_per_value = 1.0f / float(n);
    a.fold_weight = fold.weight;
    a.fold_exponents_out = fold.exponents;
    return check_packed(a);
}

template <int NB, bool Zeros>
void start(Queue& queue, const char* name, const ProductArguments& a, int64_t n_blocks, int32_t n_warps) {
    const uint32_t shared_bytes =
        uint32_t(n_warps) * warp_bytes(NB, a.form, a.two_ranges) + (NB == 1 ? sizeof(ProductBlock) : 0);
    launch(queue, name, product_kernel<NB, Zeros>, Extent{uint32_t(n_blocks * a.n_slabs), 1, 1},
           Extent{uint32_t(n_warps) * 32, 1, 1}, shared_bytes, a);
}

template <bool Zeros>
void start(Queue& queue, const char* name, ProductArguments& a, int64_t n_blocks, int32_t slab_rows, int32_t n_splits) {
    // Two matrices, or more rows, are enough work a block for 8.
    const int32_t n_warps = a.form == ProductForm::plain && slab_rows == 8 && !a.slabs ? n_splits : 8;
    a.two_ranges = n_splits > n_warps;
    if (n_blocks * a.n_slabs > INT32_MAX)
        return queue.keep(refused("blocks and slabs numbering", n_blocks * a.n_slabs));
    if (slab_rows == 8)
        start<1, Zeros>(queue, name, a, n_blocks, n_warps);
    else if (slab_rows == 16)
        start<2, Zeros>(queue, name, a, n_blocks, n_warps);
    else
        start<4, Zeros>(queue, name, a, n_blocks, n_warps);
}

int32_t slab_rows_of(int32_t rows) { return rows <= 8 ? 8 : rows <= 16 ? 16 : 32; }

}  // namespace

void product(Queue& queue, const ProductLaunch& launch) {
    if (launch.rows == 0) return;
    if (launch.rows < 0) return queue.keep(refused("rows numbering", launch.rows));
    if (launch.n_matrices < 1 || launch.n_matrices > 3)
        return queue.keep(refused("matrices numbering", launch.n_matrices));
    if (!launch.out) return queue.keep(refused("its result at", 0));
    ProductArguments a;
    int32_t n_blocks = 0, n_splits = 8;
    bool zeros = false;
    for (int32_t i = 0; i < launch.n_matrices; ++i) {
        const MatrixView& matrix = launch.matrices[i];
        if (!usable(matrix)) return queue.keep(refused("an unpacked matrix as number", i));
        if (Status status = check_operand(launch.x, matrix.k_padded); !status.ok()) return queue.keep(status);
        a.matrices[i] = matrix;
        a.columns[i] = launch.columns[i];
        a.block_end[i] = n_blocks += matrix.n_blocks;
        zeros |= matrix.zeros != nullptr;
        n_splits = std::max(n_splits, matrix.n_splits);
    }
    const int32_t slab = slab_rows_of(launch.rows);
    a.x = launch.x;
    a.rows = launch.rows;
    a.n_slabs = (launch.rows + slab - 1) / slab;
    a.out = launch.out;
    a.ld = launch.ld;
    a.add = launch.store == Store::add;
    if (Status status = set_fold_in(a, launch.fold_in); !status.ok()) return queue.keep(status);
    if (Status status = set_fold_out(a, launch); !status.ok()) return queue.keep(status);
    zeros ? start<true>(queue, "product", a, n_blocks, slab, n_splits)
          : start<false>(queue, "product", a, n_blocks, slab, n_splits);
}

void gated_product(Queue& queue, const GatedLaunch& launch) {
    if (launch.rows == 0) return;
    if (launch.rows < 0) return queue.keep(refused("rows numbering", launch.rows));
    if (!launch.out && !launch.packed.x) return queue.keep(refused("its result at", 0));
    ProductArguments a;
    const bool gated = launch.gate.words != nullptr;
    a.form = gated ? ProductForm::gated : ProductForm::ungated;
    a.matrices[0] = gated ? launch.gate : launch.up;
    a.matrices[1] = launch.up;
    for (int32_t i = 0; i < (gated ? 2 : 1); ++i) {
        if (!usable(a.matrices[i])) return queue.keep(refused("an unpacked matrix as number", i));
        if (Status status = check_operand(launch.x, a.matrices[i].k_padded); !status.ok()) return queue.keep(status);
    }
    if (a.matrices[0].n != launch.up.n) return queue.keep(refused("columns of the gate numbering", a.matrices[0].n));
    if (launch.packed.x && launch.down.k != launch.up.n)
        return queue.keep(refused("columns for the next one's inputs numbering", launch.down.k));
    const int32_t slab = slab_rows_of(launch.rows);
    a.x = launch.x;
    a.rows = launch.rows;
    a.n_slabs = (launch.rows + slab - 1) / slab;
    a.out = launch.out;
    a.ld = launch.ld;
    a.activation = launch.activation;
    a.packed = launch.packed;
    a.scatter = launch.down.scatter;
    a.padding = launch.down.padding;
    a.n_padding = launch.down.n_padding;
    a.saturation = launch.saturation;
    if (Status status = check_packed(a); !status.ok()) return queue.keep(status);
    if (Status status = set_fold_in(a, launch.fold_in); !status.ok()) return queue.keep(status);
    const int32_t n_splits = std::max(a.matrices[0].n_splits, launch.up.n_splits);
    a.matrices[0].zeros || launch.up.zeros
        ? start<true>(queue, "gated_product", a, launch.up.n_blocks, slab, n_splits)
        : start<false>(queue, "gated_product", a, launch.up.n_blocks, slab, n_splits);
}

namespace {

/// The experts' matrices may differ in all but their sizes: the kernel that knows zero points serves every one.
void start_experts(Queue& queue, const char* name, ProductArguments& a, const MatrixView& shape, const Routed& routed) {
    if (routed.max_slabs == 0) return;
    if (!routed.slabs || !routed.n_slabs || (routed.slab_rows != 8 && routed.slab_rows != 32))
        return queue.keep(refused("slabs of experts whose rows number", routed.slab_rows));
    if (routed.max_slabs < 0 || shape.n_blocks <= 0)
        return queue.keep(refused("slabs of experts numbering", routed.max_slabs));
    if (Status status = check_operand(a.x, shape.k); !status.ok()) return queue.keep(status);
    if (Status status = check_packed(a); !status.ok()) return queue.keep(status);
    a.n_slabs = routed.max_slabs;
    a.slabs = routed.slabs;
    a.n_live_slabs = routed.n_slabs;
    start<true>(queue, name, a, shape.n_blocks, routed.slab_rows, shape.n_splits);
}

}  // namespace

void expert_product(Queue& queue, const ExpertProductLaunch& launch) {
    if (!launch.table || !launch.out) return queue.keep(refused("its matrices or its result at", 0));
    ProductArguments a;
    a.block_end[0] = launch.shape.n_blocks;
    a.x = launch.x;
    a.out = launch.out;
    a.ld = launch.ld;
    a.tables[0] = launch.table;
    start_experts(queue, "expert_product", a, launch.shape, launch.routed);
}

void expert_gated_product(Queue& queue, const ExpertGatedLaunch& launch) {
    if (!launch.ups || !launch.downs || !launch.packed.x)
        return queue.keep(refused("its matrices or its result at", 0));
    if (launch.down_shape.k != launch.shape.n)
        return queue.keep(refused("columns for the next one's inputs numbering", launch.down_shape.k));
    ProductArguments a;
    a.form = launch.gates ? ProductForm::gated : ProductForm::ungated;
    a.tables[0] = launch.gates ? launch.gates : launch.ups;
    a.tables[1] = launch.ups;
    a.down = launch.downs;
    a.x = launch.x;
    a.activation = launch.activation;
    a.packed = launch.packed;
    a.saturation = launch.saturation;
    start_experts(queue, "expert_gated_product", a, launch.shape, launch.routed);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
