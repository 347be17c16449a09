#include "kernels/cpu/ops.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/math.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// Of the pair t of a rope for a sequence of so many tokens (model.h: RopeSpec).
double frequency(const RopeSpec& rope, size_t t, int32_t length) {
    if (rope.length_limit <= 0 || length <= rope.length_limit) return double(rope.inv_freq[t]);
    if (!rope.long_inv_freq.empty()) return double(rope.long_inv_freq[t]);
    const double dims = 2 * double(rope.inv_freq.size());
    const double stretch = rope.factor * double(length) / double(rope.length_limit) - (rope.factor - 1);
    const double log_theta = log_f64(rope.theta) + dims / (dims - 2) * log_f64(stretch);
    return double(float(exp_f64(-2 * double(t) / dims * log_theta)));
}

}  // namespace

int32_t CpuOps::rows(Slot slot) const {
    switch (slot) {
        case Slot::wanted:
        case Slot::wanted_narrow:
        case Slot::logits:
            return n_wanted_;
        case Slot::expert_in:
        case Slot::expert_gate:
            return n_expert_rows_;
        default:
            return n_rows_;
    }
}

float* CpuOps::angles(size_t rope, int32_t r) const {
    return reinterpret_cast<float*>(scratch_ + plan_.angles) +
           (rope * size_t(n_rows_) + size_t(r)) * plan_.angles_ld * 2;
}

void CpuOps::begin_step(const ModelSpec& spec, const Step& step, const KvCache& kv, StepResult* result) {
    begin(spec, step, result);
    kv_ = &kv;
    n_rows_ = int32_t(step.rows.size());
    n_wanted_ = n_expert_rows_ = 0;
    exact_ = spec.compute == Compute::exact;
    // Every layer turns by the same angles: once per step.
    for (size_t i = 0; i < spec.ropes.size(); ++i) {
        const RopeSpec& rope = spec.ropes[i];
        for_rows(n_rows_, [&](int32_t r) {
            const Row& token = step.rows[size_t(r)];
            float* cosine = angles(i, r);
            for (size_t t = 0; t < rope.inv_freq.size(); ++t) {
                double c, s;
                sin_cos(double(token.position) * frequency(rope, t, std::max(token.length, token.position + 1)), &s,
                        &c);
                cosine[t] = float(c) * rope.scale;
                cosine[plan_.angles_ld + t] = float(s) * rope.scale;
            }
        });
    }
}

void CpuOps::norm_row(const NormSpec& norm, const float* x, int32_t n, int32_t at, float* out) const {
    const float* weight = norm.weight.id ? vectors[norm.weight.id].data + at : nullptr;
    const float* bias = norm.bias.id ? vectors[norm.bias.id].data + at : nullptr;
    if (norm.kind == NormSpec::rms) {
        table_.rms_norm(x, weight, n, norm.eps, out);
    } else {
        table_.layer_norm(x, weight, bias, n, norm.eps, out);
    }
}

void CpuOps::norm(const NormSpec& norm, Slot x, int32_t width, Slot out) {
    for_rows(rows(x), [&](int32_t r) {
        if (norm.kind != NormSpec::none) {
            norm_row(norm, row(x, r), width, 0, row(out, r));
        } else if (x != out) {
            std::memcpy(row(out, r), row(x, r), size_t(width) * sizeof(float));
        }
    });
}

void CpuOps::add_scaled(Slot from, float scale, int32_t width, Slot to) {
    for_rows(rows(from), [&](int32_t r) {
        const float* y = row(from, r);
        float* x = row(to, r);
        for (int32_t i = 0; i < width; ++i) x[i] = x[i] + scale * y[i];
    });
}

void CpuOps::activate(Activation activation, Slot gate, Slot up, int32_t width) {
    for_rows(rows(gate), [&](int32_t r) {
        table_.gated(activation, row(gate, r), up == Slot::none ? nullptr : row(up, r), width);
    });
}

// ---------------------------------------------------------------- products

uint64_t CpuOps::row_bytes(const PackedMatrix& matrix) const {
    return matrix.quantised ? activation_row_bytes(uint64_t(matrix.quant.chunks), exact_) : 0;
}

ActView CpuOps::activations(const PackedMatrix& matrix, int32_t count, uint64_t offset) const {
    const int64_t chunks = matrix.quant.chunks;
    uint8_t* at = scratch_ + plan_.activations + offset;
    if (exact_) return {nullptr, nullptr, nullptr, reinterpret_cast<const float*>(at), matrix.quant.chunks, count};
    const auto* x = reinterpret_cast<const int16_t*>(at);
    const auto* scale = reinterpret_cast<const float*>(at + count * chunks * chunk_rows * 2);
    return {x, scale, reinterpret_cast<const int32_t*>(scale + count * chunks), nullptr, matrix.quant.chunks, count};
}

int32_t CpuOps::batch_rows(const PackedMatrix& matrix) const {
    if (!matrix.quantised) return max_step_rows;
    return int32_t(std::min<uint64_t>(plan_.activation_bytes / row_bytes(matrix), max_step_rows));
}

void CpuOps::prepare_row(const PackedMatrix& matrix, const ActView& view, const float* values, int32_t r) const {
    if (exact_) {
        table_.sort_values(values, matrix.gather, matrix.k, view.chunks, view.rows,
                           const_cast<float*>(view.value) + r * chunk_rows);
    } else {
        table_.quantize(values, matrix.gather, matrix.k, view.chunks, view.rows,
                        const_cast<int16_t*>(view.x) + r * chunk_rows, const_cast<float*>(view.scale) + r,
                        const_cast<int32_t*>(view.sum) + r);
    }
}

void CpuOps::prepare_activations(const PackedMatrix& matrix, Slot x, int32_t row0, int32_t count) {
    if (!matrix.quantised) return;
    const ActView view = activations(matrix, count, 0);
    for_rows(count, [&](int32_t r) { prepare_row(matrix, view, row(x, row0 + r), r); });
}

void CpuOps::product(const Target& target, Slot x, int32_t row0, int32_t count, int32_t tile0, int32_t tile1) {
    if (tile0 >= tile1) return;
    const PackedMatrix& matrix = *target.matrix;
    float* out = row(target.out, row0) + target.column;
    if (!matrix.quantised) {
        const int32_t n1 = std::min(tile1 * tile_columns, matrix.n);
        table_.dense(matrix.dense, row(x, row0), ld(x), count, tile0 * tile_columns, n1, out, ld(target.out),
                     target.store);
    } else if (exact_) {
        table_.product_exact(matrix.quant, activations(matrix, count, target.prepared), count, tile0, tile1, out,
                             ld(target.out), target.store);
    } else {
        table_.product(matrix.quant, activations(matrix, count, target.prepared), count, tile0, tile1, out,
                       ld(target.out), target.store);
    }
}

void CpuOps::project_all(std::span<const Target> targets, Slot x) {
    const int32_t count = rows(x);
    for (size_t first = 0, last; first < targets.size(); first = last) {
        const PackedMatrix& lead = *targets[first].matrix;
        uint64_t cost = 0;
        for (last = first; last < targets.size(); ++last) {
            const PackedMatrix& matrix = *targets[last].matrix;
            if (matrix.quantised != lead.quantised || (lead.quantised && matrix.order != lead.order)) break;
            cost += matrix.tile_cost * uint64_t(matrix.n_tiles);
        }
        const auto group = targets.subspan(first, last - first);
        const int32_t batch = batch_rows(lead);
        for (int32_t row0 = 0; row0 < count; row0 += batch) {
            const int32_t n = std::min(batch, count - row0);
            prepare_activations(lead, x, row0, n);
            run_parallel(threads_, [&](int32_t index, int32_t total) {
                Share share(int64_t(cost), index, total);
                for (const Target& target : group) {
                    const Share::Units tiles = share.next(int64_t(target.matrix->tile_cost), target.matrix->n_tiles);
                    product(target, x, row0, n, tiles.first, tiles.last);
                }
            });
        }
    }
}

void CpuOps::project(Matrix w, Slot x, Slot out, int32_t column, Store store) {
    const Target target[] = {{&matrices[w.id], out, column, store}};
    project_all(target, x);
}

void CpuOps::project_qkv(const ModelSpec& spec, const LayerSpec& layer, Slot x, Slot out) {
    const int32_t q_width = spec.n_heads * spec.head_dim, kv_width = spec.n_kv_heads * spec.head_dim;
    const Target targets[] = {{&matrices[layer.q.id], out, 0, Store::set},
                              {&matrices[layer.k.id], out, q_width, Store::set},
                              {&matrices[layer.v.id], out, q_width + kv_width, Store::set}};
    project_all(targets, x);
}

// Each thread activates the columns that it has multiplied.
void CpuOps::gate_up(Activation activation, const Mlp& mlp, int32_t inner, Slot x, Slot gate_slot, Slot up_slot) {
    const bool has_gate = mlp.gate.id != 0;
    const PackedMatrix &first = matrices[has_gate ? mlp.gate.id : mlp.up.id], &up = matrices[mlp.up.id];
    if (first.quantised != up.quantised || (first.quantised && first.order != up.order))
        return BlockOps::gate_up(activation, mlp, inner, x, gate_slot, up_slot);
    const Target gates = {&first, gate_slot, 0, Store::set}, ups = {&up, up_slot, 0, Store::set};
    const int32_t batch = batch_rows(first), count = rows(x);
    for (int32_t row0 = 0; row0 < count; row0 += batch) {
        const int32_t n = std::min(batch, count - row0);
        prepare_activations(first, x, row0, n);
        run_parallel(threads_, [&](int32_t index, int32_t total) {
            const int32_t tile0 = int32_t(cut(first.n_tiles, index, total)),
                          tile1 = int32_t(cut(first.n_tiles, index + 1, total));
            product(gates, x, row0, n, tile0, tile1);
            if (has_gate) product(ups, x, row0, n, tile0, tile1);
            const int32_t column = tile0 * tile_columns, width = std::min(tile1 * tile_columns, inner) - column;
            for (int32_t r = row0; r < row0 + n; ++r)
                table_.gated(activation, row(gate_slot, r) + column, has_gate ? row(up_slot, r) + column : nullptr,
                             width);
        });
    }
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
