#include "kernels/cpu/ops.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/math.h"
#include "kernels/step.h"
#include "kernels/threads/pool.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr int32_t parallel_rows = 8;  // fewer are done faster by the calling thread than by waking others

// Bytes of one prepared row of K'.
uint64_t activation_row_bytes(uint64_t chunks, bool exact) {
    return exact ? chunks * chunk_rows * 4 : chunks * (chunk_rows * 2 + 8);
}

int64_t cut(int64_t total, int32_t index, int32_t count) { return int64_t(__int128(total) * index / count); }

}  // namespace

ScratchPlan::ScratchPlan(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted, int32_t threads) {
    const uint64_t n_rows = count_of(max_rows), n_wanted = std::min<uint64_t>(count_of(max_wanted), wanted_block);
    const uint64_t hidden = count_of(spec.hidden_size), inner = count_of(spec.intermediate_size),
                   dim = count_of(spec.head_dim);
    const uint64_t q_width = saturating_mul(count_of(spec.n_heads), dim),
                   kv_width = saturating_mul(count_of(spec.n_kv_heads), dim);
    const auto take = [&](uint64_t floats) {
        const uint64_t offset = total;
        total = saturating_add(total, round_up(saturating_mul(floats, 4), 64));
        return offset;
    };
    const auto slot = [&](Slot name, uint64_t slot_rows, uint64_t width) {
        const uint64_t padded = round_up(width, 16);
        slots[size_t(name)] = {take(saturating_mul(slot_rows, padded)), int64_t(padded)};
    };
    slot(Slot::residual, n_rows, hidden);
    slot(Slot::normed, n_rows, hidden);
    slot(Slot::qkv, n_rows, saturating_add(q_width, saturating_mul(kv_width, 2)));
    slot(Slot::attended, n_rows, q_width);
    slot(Slot::gate, n_rows, inner);
    slot(Slot::up, n_rows, inner);
    slot(Slot::wanted, n_wanted, hidden);
    slot(Slot::logits, n_wanted, count_of(spec.n_vocab));
    angles_ld = round_up(dim / 2, 16);
    angles = take(saturating_mul(saturating_mul(spec.ropes.size(), n_rows), angles_ld * 2));
    // The widest input for all rows, with room for the padding of usual groups. More padding (groups of a few rows):
    // fewer rows at once, one at least.
    const uint64_t widest = std::max({hidden, inner, q_width});
    const bool exact = spec.compute == Compute::exact;
    const uint64_t usual = activation_row_bytes(round_up(widest + widest / 8, chunk_rows) / chunk_rows, exact);
    activation_bytes = std::max(saturating_mul(usual, std::max(n_rows, n_wanted)), activation_row_bytes(widest, exact));
    activations = take(activation_bytes / 4);
    scores_ld = saturating_mul(
        count_of(spec.max_positions),
        std::max<uint64_t>(1, count_of(spec.n_heads) / std::max<uint64_t>(1, count_of(spec.n_kv_heads))));
    scores_ld = round_up(scores_ld, 16);
    scores = take(saturating_mul(scores_ld, count_of(threads)));
}

float* CpuOps::row(Slot slot, int64_t r) const {
    const ScratchPlan::Part& part = plan_.slots[size_t(slot)];
    return reinterpret_cast<float*>(scratch_ + part.offset) + r * part.ld;
}

template <class Work>
void CpuOps::for_rows(int32_t count, Work&& work) {
    if (count < parallel_rows || threads_ == 1) {
        for (int32_t r = 0; r < count; ++r) work(r);
        return;
    }
    run_parallel(threads_, [&](int32_t index, int32_t total) {
        for (int64_t r = cut(count, index, total), end = cut(count, index + 1, total); r < end; ++r) work(int32_t(r));
    });
}

void CpuOps::begin_step(const ModelSpec& spec, const Step& step, const KvCache& kv, StepResult* result) {
    begin(spec, step, result);
    kv_ = &kv;
    n_rows_ = int32_t(step.rows.size());
    n_wanted_ = 0;
    exact_ = spec.compute == Compute::exact;
    // Every layer turns by the same angles: once per step.
    for (size_t i = 0; i < spec.ropes.size(); ++i) {
        const RopeSpec& rope = spec.ropes[i];
        for_rows(n_rows_, [&](int32_t r) {
            float* cosine = reinterpret_cast<float*>(scratch_ + plan_.angles) +
                            (i * size_t(n_rows_) + size_t(r)) * plan_.angles_ld * 2;
            for (size_t t = 0; t < rope.inv_freq.size(); ++t) {
                double c, s;
                sin_cos(double(step.rows[size_t(r)].position) * double(rope.inv_freq[t]), &s, &c);
                cosine[t] = float(c) * rope.scale;
                cosine[plan_.angles_ld + t] = float(s) * rope.scale;
            }
        });
    }
}

void CpuOps::embed_rows(Matrix embedding, Slot out) {
    const PackedMatrix& matrix = matrices[embedding.id];
    for_rows(n_rows_, [&](int32_t r) { embedding_row(matrix, step_->rows[size_t(r)].token, row(out, r)); });
}

void CpuOps::norm(const NormSpec& norm, Slot x, int32_t width, Slot out) {
    for_rows(rows(x), [&](int32_t r) {
        if (norm.kind == NormSpec::none) {
            if (x != out) std::memcpy(row(out, r), row(x, r), size_t(width) * sizeof(float));
        } else {
            table_.rms_norm(row(x, r), vectors[norm.weight.id].data, width, norm.eps, row(out, r));
        }
    });
}

// ---------------------------------------------------------------- products

ActView CpuOps::activations(const PackedMatrix& matrix, int32_t count) const {
    const int64_t chunks = matrix.quant.chunks;
    uint8_t* at = scratch_ + plan_.activations;
    if (exact_) return {nullptr, nullptr, nullptr, reinterpret_cast<const float*>(at), matrix.quant.chunks, count};
    const auto* x = reinterpret_cast<const int16_t*>(at);
    const auto* scale = reinterpret_cast<const float*>(at + count * chunks * chunk_rows * 2);
    return {x, scale, reinterpret_cast<const int32_t*>(scale + count * chunks), nullptr, matrix.quant.chunks, count};
}

int32_t CpuOps::batch_rows(const PackedMatrix& matrix) const {
    if (!matrix.quantised) return max_step_rows;
    return int32_t(std::min<uint64_t>(
        plan_.activation_bytes / activation_row_bytes(uint64_t(matrix.quant.chunks), exact_), max_step_rows));
}

void CpuOps::prepare_activations(const PackedMatrix& matrix, Slot x, int32_t row0, int32_t count) {
    if (!matrix.quantised) return;
    const ActView view = activations(matrix, count);
    for_rows(count, [&](int32_t r) {
        const float* from = row(x, row0 + r);
        if (exact_) {
            table_.sort_values(from, matrix.gather, matrix.k, view.chunks, count,
                               const_cast<float*>(view.value) + r * chunk_rows);
        } else {
            table_.quantize(from, matrix.gather, matrix.k, view.chunks, count,
                            const_cast<int16_t*>(view.x) + r * chunk_rows, const_cast<float*>(view.scale) + r,
                            const_cast<int32_t*>(view.sum) + r);
        }
    });
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
        table_.product_exact(matrix.quant, activations(matrix, count), count, tile0, tile1, out, ld(target.out),
                             target.store);
    } else {
        table_.product(matrix.quant, activations(matrix, count), count, tile0, tile1, out, ld(target.out),
                       target.store);
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
                const int64_t begin = cut(int64_t(cost), index, total), end = cut(int64_t(cost), index + 1, total);
                int64_t base = 0;  // cost of the targets before
                for (const Target& target : group) {
                    const int64_t tile_cost = int64_t(target.matrix->tile_cost);
                    // A tile belongs to the thread in whose range it begins.
                    const auto tile_at = [&](int64_t at) {
                        return int32_t(
                            std::clamp<int64_t>((at - base + tile_cost - 1) / tile_cost, 0, target.matrix->n_tiles));
                    };
                    product(target, x, row0, n, begin <= base ? 0 : tile_at(begin), end <= base ? 0 : tile_at(end));
                    base += tile_cost * target.matrix->n_tiles;
                }
            });
        }
    }
}

void CpuOps::project(Matrix w, Slot x, Slot out, int32_t column, Store store) {
    const Target target[] = {{&matrices[w.id], out, column, store}};
    project_all(target, x);
}

Activations CpuOps::norm_qkv(const ModelSpec& spec, const LayerSpec& layer, Activations x) {
    if (!expect(spec, &layer, x, Slot::residual)) return {};
    const int32_t q_width = spec.n_heads * spec.head_dim, kv_width = spec.n_kv_heads * spec.head_dim;
    norm(layer.attention_norm, Slot::residual, spec.hidden_size, Slot::normed);
    const Target targets[] = {{&matrices[layer.q.id], Slot::qkv, 0, Store::set},
                              {&matrices[layer.k.id], Slot::qkv, q_width, Store::set},
                              {&matrices[layer.v.id], Slot::qkv, q_width + kv_width, Store::set}};
    project_all(targets, Slot::normed);
    if (layer.q_norm.kind != NormSpec::none) head_norm(layer.q_norm, Slot::qkv, 0, spec.n_heads, spec.head_dim);
    if (layer.k_norm.kind != NormSpec::none)
        head_norm(layer.k_norm, Slot::qkv, q_width, spec.n_kv_heads, spec.head_dim);
    return handle(Slot::qkv);
}

Activations CpuOps::gate_up_act(const ModelSpec& spec, const LayerSpec& layer, Activations x) {
    const PackedMatrix &gate = matrices[layer.gate.id], &up = matrices[layer.up.id];
    const bool shared = gate.quantised == up.quantised && (!gate.quantised || gate.order == up.order);
    if (!shared) return BlockOps::gate_up_act(spec, layer, x);
    if (!expect(spec, &layer, x, Slot::residual)) return {};
    norm(layer.mlp_norm, Slot::residual, spec.hidden_size, Slot::normed);
    const Target gates = {&gate, Slot::gate, 0, Store::set}, ups = {&up, Slot::up, 0, Store::set};
    const int32_t batch = batch_rows(gate);
    for (int32_t row0 = 0; row0 < n_rows_; row0 += batch) {
        const int32_t n = std::min(batch, n_rows_ - row0);
        prepare_activations(gate, Slot::normed, row0, n);
        run_parallel(threads_, [&](int32_t index, int32_t total) {
            const int32_t tile0 = int32_t(cut(gate.n_tiles, index, total)),
                          tile1 = int32_t(cut(gate.n_tiles, index + 1, total));
            product(gates, Slot::normed, row0, n, tile0, tile1);
            product(ups, Slot::normed, row0, n, tile0, tile1);
            const int32_t column = tile0 * tile_columns, width = std::min(tile1 * tile_columns, gate.n) - column;
            for (int32_t r = row0; r < row0 + n; ++r)
                table_.silu_mul(row(Slot::gate, r) + column, row(Slot::up, r) + column, width);
        });
    }
    return handle(Slot::gate);
}

// ---------------------------------------------------------------- attention

void CpuOps::head_norm(const NormSpec& norm, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) {
    for_rows(rows(x), [&](int32_t r) {
        for (int32_t h = 0; h < n_heads; ++h) {
            float* head = row(x, r) + column + h * head_dim;
            table_.rms_norm(head, vectors[norm.weight.id].data, head_dim, norm.eps, head);
        }
    });
}

void CpuOps::rope(const RopeSpec& rope, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) {
    const size_t index = size_t(&rope - spec_->ropes.data());
    for_rows(rows(x), [&](int32_t r) {
        const float* cosine = reinterpret_cast<const float*>(scratch_ + plan_.angles) +
                              (index * size_t(n_rows_) + size_t(r)) * plan_.angles_ld * 2;
        for (int32_t h = 0; h < n_heads; ++h) {
            table_.rotate(row(x, r) + column + h * head_dim, cosine, cosine + plan_.angles_ld,
                          int32_t(rope.inv_freq.size()));
        }
    });
}

// KV cache: (layer, keys | values, block, kv_head, token, head_dim).
KvView CpuOps::kv_view(int32_t layer, int32_t head, int32_t sequence) const {
    const KvSpec& spec = kv_->spec;
    const uint64_t element = spec.type == KvSpec::f16 ? 2 : 4;
    const uint64_t head_elements = uint64_t(spec.block_tokens) * uint64_t(kv_->head_dim);
    const uint64_t block_stride = head_elements * uint64_t(kv_->n_kv_heads),
                   half = block_stride * uint64_t(spec.n_blocks);
    const uint64_t at = uint64_t(layer) * 2 * half + uint64_t(head) * head_elements;
    return {kv_->memory.data() + at * element,
            kv_->memory.data() + (at + half) * element,
            step_->block_table.data() + int64_t(sequence) * step_->max_blocks,
            block_stride,
            spec.block_tokens,
            kv_->head_dim,
            spec.type == KvSpec::f16};
}

void CpuOps::append(const ModelSpec& spec, int32_t layer, Slot qkv) {
    const int32_t dim = spec.head_dim, q_width = spec.n_heads * dim, kv_width = spec.n_kv_heads * dim;
    for_rows(n_rows_, [&](int32_t r) {
        const Row& token = step_->rows[size_t(r)];
        for (int32_t h = 0; h < spec.n_kv_heads; ++h) {
            const KvView view = kv_view(layer, h, token.sequence);
            const uint64_t at = uint64_t(view.blocks[token.position / view.block_tokens]) * view.block_stride +
                                uint64_t(token.position % view.block_tokens) * uint64_t(dim);
            const float* key = row(qkv, r) + q_width + h * dim;
            const float* value = key + kv_width;
            if (view.half) {
                table_.to_half(key, dim, const_cast<uint16_t*>(static_cast<const uint16_t*>(view.keys)) + at);
                table_.to_half(value, dim, const_cast<uint16_t*>(static_cast<const uint16_t*>(view.values)) + at);
            } else {
                std::memcpy(const_cast<float*>(static_cast<const float*>(view.keys)) + at, key,
                            size_t(dim) * sizeof(float));
                std::memcpy(const_cast<float*>(static_cast<const float*>(view.values)) + at, value,
                            size_t(dim) * sizeof(float));
            }
        }
    });
}

void CpuOps::attend(const ModelSpec& spec, const LayerSpec& layer, int32_t index, Slot qkv, Slot out) {
    const int32_t dim = spec.head_dim, group = spec.n_heads / spec.n_kv_heads;
    const auto first_key = [&](int32_t position) {
        return layer.window > 0 ? std::max(0, position - layer.window + 1) : 0;
    };
    // Threads split the query heads of all rows by their number of keys; what one computes depends on neither.
    const auto row_cost = [&](int32_t r) {
        const int32_t position = step_->rows[size_t(r)].position;
        return int64_t(position - first_key(position) + 16);
    };
    int64_t total_cost = 0;
    for (int32_t r = 0; r < n_rows_; ++r) total_cost += row_cost(r) * spec.n_heads;
    run_parallel(threads_, [&](int32_t thread, int32_t total) {
        float* scores = reinterpret_cast<float*>(scratch_ + plan_.scores) + uint64_t(thread) * plan_.scores_ld;
        const int64_t begin = cut(total_cost, thread, total), end = cut(total_cost, thread + 1, total);
        int64_t base = 0;
        for (int32_t r = 0; r < n_rows_; ++r) {
            const int64_t cost = row_cost(r);
            // A head belongs to the thread in whose range it begins.
            const auto head_at = [&](int64_t at) {
                return int32_t(std::clamp<int64_t>((at - base + cost - 1) / cost, 0, spec.n_heads));
            };
            const int32_t head1 = end <= base ? 0 : head_at(end);
            const Row& token = step_->rows[size_t(r)];
            for (int32_t h = begin <= base ? 0 : head_at(begin); h < head1;) {
                const int32_t kv_head = h / group, n = std::min(head1, (kv_head + 1) * group) - h;
                table_.attend(kv_view(index, kv_head, token.sequence), row(qkv, r) + h * dim, n, spec.attention_scale,
                              first_key(token.position), token.position, scores, row(out, r) + h * dim);
                h += n;
            }
            base += cost * spec.n_heads;
        }
    });
}

// ---------------------------------------------------------------- the rest

void CpuOps::gated(Activation, Slot gate, Slot up, int32_t width) {
    for_rows(rows(gate), [&](int32_t r) { table_.silu_mul(row(gate, r), row(up, r), width); });
}

void CpuOps::select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) {
    n_wanted_ = int32_t(wanted.size());
    for (int32_t i = 0; i < n_wanted_; ++i)
        std::memcpy(row(out, i), row(x, wanted[size_t(i)].row), size_t(width) * sizeof(float));
}

void CpuOps::emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) {
    int32_t best[wanted_block] = {};
    double log_sum[wanted_block] = {};
    const auto one = [&](int32_t i) {
        if (wanted[size_t(i)].what != Wanted::logits) table_.log_sum(row(logits, i), n_vocab, &best[i], &log_sum[i]);
    };
    if (n_wanted_ == 1 || threads_ == 1) {
        for (int32_t i = 0; i < n_wanted_; ++i) one(i);
    } else {
        run_parallel(threads_, [&](int32_t index, int32_t total) {
            for (int64_t i = cut(n_wanted_, index, total), end = cut(n_wanted_, index + 1, total); i < end; ++i)
                one(int32_t(i));
        });
    }
    for (int32_t i = 0; i < n_wanted_; ++i) {
        const float* row_logits = row(logits, i);
        if (wanted[size_t(i)].what == Wanted::logits) {
            result->values.insert(result->values.end(), row_logits, row_logits + n_vocab);
        } else if (wanted[size_t(i)].what == Wanted::argmax) {
            result->tokens.push_back(best[i]);
            result->values.push_back(float(double(row_logits[best[i]]) - log_sum[i]));
        } else {
            result->values.push_back(float(double(row_logits[wanted[size_t(i)].token]) - log_sum[i]));
        }
    }
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
