// Norms, products and what lies between them.
#include "kernels/cuda/ops.h"

#include <algorithm>

#include "kernels/cuda/rows.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

void CudaOps::begin_step(const ModelSpec& spec, const Step& step, const StoredKv& kv, const StepBuffer& buffer,
                         const StepShape& shape, Queue* queue, Blas* blas, StepResult* result) {
    begin(spec, step, result);
    kv_ = &kv;
    buffer_ = &buffer;
    view_ = buffer.view();
    shape_ = shape;
    queue_ = queue;
    blas_ = blas;
    pending_ = {};
    for (Ready& ready : ready_) ready = {};
    fold_target_ = {};
    folded_ = {};
    squares_ = {};
    squares_at_ = 0;
    std::fill(std::begin(normed_), std::end(normed_), false);
    std::fill(std::begin(void_), std::end(void_), false);
}

namespace {

bool is_wanted(Slot slot) { return slot == Slot::wanted || slot == Slot::wanted_narrow || slot == Slot::logits; }

}  // namespace

int32_t CudaOps::rows(Slot slot) const { return is_wanted(slot) ? shape_.wanted : shape_.rows; }

int32_t CudaOps::decode_rows(Slot slot) const { return is_wanted(slot) ? shape_.wanted : shape_.decode_rows; }

RowsView CudaOps::rows_of(Slot slot) const {
    const ScratchLayout::Rows& part = layout_.slots[size_t(slot)];
    return {reinterpret_cast<float*>(memory_ + part.offset), part.ld};
}

NormView CudaOps::view_of(const NormSpec& norm, int32_t head_dim) const {
    const StoredVector &weight = vectors[norm.weight.id], &bias = vectors[norm.bias.id];
    const int32_t size = std::max(weight.size, bias.size);
    return {int32_t(norm.kind), norm.eps, weight.data, bias.data, head_dim > 0 && size > head_dim};
}

// ---------------------------------------------------------------- what the slots hold

RowsView CudaOps::read(Slot slot) {
    if (pending_.there && pending_.to == slot) {
        pending_.there = false;
        PrepareLaunch launch;
        launch.x = rows_of(pending_.from);
        launch.width = pending_.width;
        launch.rows = rows(slot);
        launch.norm = pending_.norm;
        launch.normed = rows_of(slot);
        launch.squares = squares_of(pending_.from, pending_.norm);
        prepare(*queue_, launch);
        void_[size_t(slot)] = false;
    }
    if (void_[size_t(slot)]) fail(internal, "an op reads activations that were never computed");
    return rows_of(slot);
}

RowsView CudaOps::write(Slot slot) {
    drop(slot);
    if (pending_.there && pending_.from == slot) {  // its result was read by products alone, or never will be
        pending_.there = false;
        void_[size_t(pending_.to)] = true;
    }
    normed_[size_t(slot)] = void_[size_t(slot)] = false;
    return rows_of(slot);
}

void CudaOps::drop(Slot source) {
    for (Ready& ready : ready_) {
        if (ready.slot == source) ready = {};
    }
    if (pending_.there && pending_.to == source) pending_.there = false;
    if (source == Slot::residual) {
        folded_ = {};
        squares_ = {};
    }
}

void CudaOps::norm(const NormSpec& spec, Slot x, int32_t width, Slot out) {
    if (spec.kind == NormSpec::none && x == out) return;
    read(x);
    if (x != out)
        write(out);
    else
        drop(out);
    if (pending_.there) void_[size_t(pending_.to)] = true;
    pending_ = {true, view_of(spec), x, out, width};
    normed_[size_t(out)] = spec.kind != NormSpec::none;
}

// ---------------------------------------------------------------- operands

OperandRole CudaOps::role_of(Slot slot) {
    return slot == Slot::attended ? OperandRole::attended
           : slot == Slot::gate   ? OperandRole::gated
                                  : OperandRole::general;
}

int32_t CudaOps::rows_that_fit(OperandRole role, int32_t k_padded) const {
    return int32_t(std::min<uint64_t>(layout_.operands[size_t(role)].elements / uint64_t(k_padded), max_step_rows));
}

Operand CudaOps::operand_buffer(OperandRole role, int32_t k_padded, int32_t exponent) const {
    return {reinterpret_cast<uint16_t*>(memory_ + layout_.operands[size_t(role)].offset), k_padded, exponent};
}

CudaOps::Ready CudaOps::operand_of(const StoredMatrix& matrix, Slot x, int32_t row0, int32_t n) {
    const OperandRole role = role_of(x);
    Ready& ready = ready_[size_t(role)];
    const bool whole = row0 == 0 && n == rows(x);
    if (whole && ready.slot == x && ready.order == matrix.order) return ready;
    const bool due = pending_.there && pending_.to == x;
    const RowsView from = due ? rows_of(pending_.from) : read(x);
    // Behind a norm values are of order one, and attention's are within those of the cache, which are FP16.
    const bool bounded = normed_[size_t(x)] || x == Slot::attended;
    Ready made{x, matrix.order, operand_buffer(role, matrix.view.k_padded, bounded ? 0 : 6), {}};
    int32_t first = row0;
    if (const FoldedNorm* fold = folded(matrix, x); fold && whole) {
        made.operand = fold->operand;
        made.fold = fold->in;
        first = decode_rows(x);
    } else if (role == OperandRole::general) {
        folded_ = {};  // it lies in this buffer
    }
    PrepareLaunch launch;
    launch.x = {from.x + first * from.ld, from.ld};
    launch.width = matrix.view.k;
    launch.rows = row0 + n - first;
    if (due) launch.norm = pending_.norm;
    if (due && first == row0 && fits_always(role, matrix)) launch.squares = squares_of(pending_.from, pending_.norm);
    launch.matrix = matrix.view;
    launch.operand = made.operand;
    launch.operand.x += int64_t(first - row0) * made.operand.ld;
    launch.saturation = saturation();
    prepare(*queue_, launch);
    ready = whole ? made : Ready{};
    return made;
}

// ---------------------------------------------------------------- products

void CudaOps::multiply(const ProductLaunch& launch, int32_t row0, int32_t n, int32_t n_decode) {
    const auto part = [&](int32_t begin, int32_t end) {
        ProductLaunch piece = launch;
        piece.x.x += int64_t(begin - row0) * launch.x.ld;
        piece.out += int64_t(begin) * launch.ld;
        piece.rows = end - begin;
        return piece;
    };
    const int32_t middle = std::clamp(n_decode, row0, row0 + n);
    if (middle > row0) product(*queue_, part(row0, middle));
    if (middle == row0 + n) return;
    ProductLaunch prompts = part(middle, row0 + n);
    prompts.fold_in = {};
    prompts.fold_out = {};
    int32_t widest = 0;
    for (int32_t i = 0; i < launch.n_matrices; ++i) widest = std::max(widest, launch.matrices[i].k_padded);
    if (gemm_scratch_halves(widest) * sizeof(uint16_t) <= layout_.decoded.bytes)
        gemm_product(*queue_, blas_, prompts, at<uint16_t>(layout_.decoded));
    else  // more padding than usual
        product(*queue_, prompts);
}

void CudaOps::project_together(std::span<const Target> targets, Slot x, Slot out, Store store) {
    const StoredMatrix& first = matrices[targets[0].w.id];
    const int32_t count = rows(x), n_decode = decode_rows(x);
    const int32_t at_once = std::min(count, rows_that_fit(role_of(x), first.view.k_padded));
    ProductLaunch launch;
    launch.n_matrices = int32_t(targets.size());
    for (size_t i = 0; i < targets.size(); ++i) {
        launch.matrices[i] = matrices[targets[i].w.id].view;
        launch.columns[i] = targets[i].column;
    }
    launch.store = store;
    for (int32_t row0 = 0; row0 < count; row0 += at_once) {
        const int32_t n = std::min(at_once, count - row0);
        const Ready ready = operand_of(first, x, row0, n);
        launch.x = ready.operand;
        launch.fold_in = ready.fold;
        const RowsView to = row0 == 0 ? (store == Store::add ? read(out) : rows_of(out)) : rows_of(out);
        if (store == Store::add && out == Slot::residual && n == count && n_decode > 0) launch.fold_out = fold_out();
        if (row0 == 0) write(out);
        launch.out = to.x;
        launch.ld = to.ld;
        multiply(launch, row0, n, n_decode);
        if (launch.fold_out.packed.x) keep_fold(launch.fold_out);
    }
}

void CudaOps::project(Matrix w, Slot x, Slot out, int32_t column, Store store) {
    const Target target[] = {{w, column}};
    project_together(target, x, out, store);
}

void CudaOps::project_qkv(const ModelSpec& spec, const LayerSpec& layer, Slot x, Slot out) {
    const int32_t q_width = spec.n_heads * spec.head_dim, kv_width = spec.n_kv_heads * spec.head_dim;
    if (!same_order(layer.q, layer.k) || !same_order(layer.q, layer.v))
        return BlockOps::project_qkv(spec, layer, x, out);
    const Target targets[] = {{layer.q, 0}, {layer.k, q_width}, {layer.v, q_width + kv_width}};
    project_together(targets, x, out, Store::set);
}

void CudaOps::gate_up(Activation activation, const Mlp& mlp, int32_t inner, Slot x, Slot gate, Slot up) {
    const StoredMatrix &up_matrix = matrices[mlp.up.id], &down = matrices[mlp.down.id];
    const int32_t count = rows(x), n_decode = decode_rows(x);
    const bool has_gate = mlp.gate.id != 0, one_order = !has_gate || same_order(mlp.gate, mlp.up);
    const bool fits = count <= rows_that_fit(role_of(x), up_matrix.view.k_padded) &&
                      count <= rows_that_fit(OperandRole::gated, down.view.k_padded);
    if (!one_order || !fits) return BlockOps::gate_up(activation, mlp, inner, x, gate, up);

    const Ready ready = operand_of(up_matrix, x, 0, count);
    const Operand& operand = ready.operand;
    const Operand packed = operand_buffer(OperandRole::gated, down.view.k_padded, 6);
    const RowsView gates = write(gate), ups = write(up);
    if (n_decode > 0) {
        GatedLaunch launch;
        if (has_gate) launch.gate = matrices[mlp.gate.id].view;
        launch.up = up_matrix.view;
        launch.activation = activation;
        launch.x = operand;
        launch.rows = n_decode;
        launch.packed = packed;
        launch.down = down.view;
        launch.saturation = saturation();
        launch.fold_in = ready.fold;
        gated_product(*queue_, launch);
    }
    if (const int32_t n_prompt = count - n_decode; n_prompt > 0) {
        ProductLaunch launch;
        launch.x = operand;
        launch.x.x += int64_t(n_decode) * operand.ld;
        launch.matrices[0] = has_gate ? matrices[mlp.gate.id].view : up_matrix.view;
        launch.out = gates.x;
        launch.ld = gates.ld;
        multiply(launch, n_decode, n_prompt, n_decode);
        if (has_gate) {
            launch.matrices[0] = up_matrix.view;
            launch.out = ups.x;
            launch.ld = ups.ld;
            multiply(launch, n_decode, n_prompt, n_decode);
        }
        ActivateLaunch act;
        act.gate = {gates.x + n_decode * gates.ld, gates.ld};
        if (has_gate) act.up = {ups.x + n_decode * ups.ld, ups.ld};
        act.width = inner;
        act.rows = n_prompt;
        act.activation = activation;
        act.keep = false;
        act.matrix = down.view;
        act.operand = packed;
        act.operand.x += int64_t(n_decode) * packed.ld;
        act.saturation = saturation();
        cuda::activate(*queue_, act);
    }
    void_[size_t(gate)] = void_[size_t(up)] = true;  // it lies in the operand alone
    ready_[size_t(OperandRole::gated)] = {gate, down.order, packed, {}};
}

// ---------------------------------------------------------------- element by element

void CudaOps::activate(Activation activation, Slot gate, Slot up, int32_t width) {
    ActivateLaunch launch;
    launch.up = up == Slot::none ? RowsView{} : read(up);
    launch.gate = read(gate);
    write(gate);
    launch.width = width;
    launch.rows = rows(gate);
    launch.activation = activation;
    cuda::activate(*queue_, launch);
}

void CudaOps::add_scaled(Slot from, float scale, int32_t width, Slot to) {
    const RowsView x = read(from), y = read(to);
    write(to);
    cuda::add_scaled(*queue_, x, scale, width, rows(from), y);
}

void CudaOps::clamp(Slot x, int32_t width, float limit) {
    const RowsView values = read(x);
    write(x);
    cuda::clamp(*queue_, values, width, limit, rows(x));
}

void CudaOps::add_gated(Slot from, Slot gate, int32_t width, Slot to) {
    const RowsView x = read(from), g = read(gate), y = read(to);
    write(to);
    cuda::add_gated(*queue_, x, g, width, rows(from), y);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
