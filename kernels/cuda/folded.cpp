// RMS norms of decode rows without a kernel of their own. The product that adds to the residual stream leaves the next
// products' operand but for the norm's factor, and sums of squares; the next ones multiply their sums by the factor.
//
// Whether a norm is folded depends on the model and the device's scratch alone, never on the step: a row that is
// computed as decode has the same bits alone and beside prompts, whose rows are normed by `prepare`.
#include "kernels/cuda/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// The operands of every step's rows.
bool CudaOps::fits_always(OperandRole role, const StoredMatrix& matrix) const {
    return row_bucket(layout_.max_rows) <= rows_that_fit(role, matrix.view.k_padded);
}

CudaOps::FoldTarget CudaOps::target(const NormSpec& norm, Matrix reader) const {
    const bool can = norm.kind == NormSpec::rms && norm.weight.id && !norm.bias.id && reader.id &&
                     fits_always(OperandRole::general, matrices[reader.id]);
    return can ? FoldTarget{&norm, reader} : FoldTarget{};
}

CudaOps::FoldTarget CudaOps::mlp_target(const LayerSpec& layer) const {
    if (layer.block != kernels::Block::sequential || !layer.moe.experts.empty()) return {};
    if ((layer.gate.id && !same_order(layer.gate, layer.up)) ||
        !fits_always(OperandRole::gated, matrices[layer.down.id]))
        return {};
    return target(layer.mlp_norm, layer.up);
}

CudaOps::FoldTarget CudaOps::attention_target(const LayerSpec& layer) const {
    if (layer.block != kernels::Block::sequential || !same_order(layer.q, layer.k) || !same_order(layer.q, layer.v))
        return {};
    return target(layer.attention_norm, layer.q);
}

void CudaOps::project_add(const ModelSpec& spec, const LayerSpec& layer, Activations attended, Activations x) {
    if (!expect(spec, &layer, attended, Slot::attended)) return;
    const bool folds = fold_norms && layer.block == kernels::Block::sequential;
    if (folds && fits_always(OperandRole::attended, matrices[layer.o.id])) fold_target_ = mlp_target(layer);
    BlockOps::project_add(spec, layer, attended, x);
    fold_target_ = {};
}

void CudaOps::down_add(const ModelSpec& spec, const LayerSpec& layer, Activations h, Activations x) {
    if (!expect(spec, &layer, h, Slot::gate)) return;
    const LayerSpec* next = &layer + 1;
    const bool folds = fold_norms && layer.block == kernels::Block::sequential;
    if (folds && next < spec.layers.data() + spec.layers.size() &&
        fits_always(OperandRole::gated, matrices[layer.down.id]))
        fold_target_ = attention_target(*next);
    BlockOps::down_add(spec, layer, h, x);
    fold_target_ = {};
}

RowSquares CudaOps::squares_buffer(int32_t i, int32_t n) const {
    return {at<float>(layout_.squares[i]), n, layout_.squares_ld};
}

RowSquares CudaOps::squares_of(Slot from, const NormView& norm) {
    if (from != Slot::residual || norm.kind != NormSpec::rms || squares_.x) return {};
    return squares_ = squares_buffer(squares_at_, 1);
}

FoldOut CudaOps::fold_out() {
    if (!fold_target_.norm || !squares_.x) return {};
    const StoredMatrix& reader = matrices[fold_target_.reader.id];
    FoldOut out;
    out.packed = operand_buffer(OperandRole::general, reader.view.k_padded, 0);
    out.order = reader.view;
    out.weight = vectors[fold_target_.norm->weight.id].data;
    out.squares = squares_buffer(1 - squares_at_, folded_parts((reader.view.k + block_columns - 1) / block_columns));
    out.exponents = at<int32_t>(layout_.exponents[1 - squares_at_]);
    out.before = squares_;
    out.saturation = saturation();
    return out;
}

void CudaOps::keep_fold(const FoldOut& out) {
    squares_at_ = 1 - squares_at_;
    squares_ = out.squares;
    ready_[size_t(OperandRole::general)] = {};
    folded_ = {true,
               out.weight,
               matrices[fold_target_.reader.id].order,
               out.packed,
               {out.squares, out.exponents, spec_->hidden_size, fold_target_.norm->eps}};
}

const CudaOps::FoldedNorm* CudaOps::folded(const StoredMatrix& matrix, Slot x) const {
    const bool due = pending_.there && pending_.to == x && pending_.from == Slot::residual;
    const bool same = due && folded_.there && folded_.order == matrix.order && folded_.weight == pending_.norm.weight &&
                      folded_.in.eps == pending_.norm.eps && pending_.norm.kind == NormSpec::rms;
    return same ? &folded_ : nullptr;
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
