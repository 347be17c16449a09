// The mixture of experts on the CPU. Rows are grouped by expert: an expert's weights are read once a step, those of an
// unchosen one never. What a row gets does not depend on the others: products do not (table.h), and a row's experts
// are added in the order of their ids.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/math.h"
#include "kernels/cpu/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr float unchosen = -1.0f;

// Router logits (n) of a row -> the softmax's values of the top_k largest (ties: the lower id), -1 for the others.
// Plain loops: the same bits on every machine.
void choose(const MoeSpec& moe, float* p, int32_t n) {
    float largest = p[0];
    for (int32_t e = 1; e < n; ++e) largest = p[e] > largest ? p[e] : largest;
    float sum = 0;
    for (int32_t e = 0; e < n; ++e) {
        p[e] = exp_f32(p[e] - largest);
        sum += p[e];
    }
    for (int32_t e = 0; e < n; ++e) p[e] = p[e] / sum;
    // A chosen value gets its sign set until all are chosen.
    for (int32_t i = 0; i < moe.top_k; ++i) {
        int32_t best = -1;
        for (int32_t e = 0; e < n; ++e) {
            if (as_bits(p[e]) >> 31 == 0 && (best < 0 || p[e] > p[best])) best = e;
        }
        if (best < 0) break;  // NaNs with their signs set
        p[best] = as_float(as_bits(p[best]) | 0x80000000u);
    }
    float kept = 0;
    for (int32_t e = 0; e < n; ++e) {
        const bool taken = as_bits(p[e]) >> 31;
        p[e] = taken ? as_float(as_bits(p[e]) & 0x7fffffffu) : unchosen;
        kept += taken ? p[e] : 0.0f;
    }
    if (moe.renormalise) {
        for (int32_t e = 0; e < n; ++e) p[e] = p[e] == unchosen ? unchosen : p[e] / kept;
    }
}

// The matrix whose order the input of gate and up is prepared in.
Matrix input_of(const Mlp& expert) { return expert.gate.id ? expert.gate : expert.up; }

// What a tile costs in a product of so many rows: reading it, and per row about a quarter of that.
int64_t cost_of(const PackedMatrix& matrix, int32_t rows) { return int64_t(matrix.tile_cost) * (4 + rows); }

}  // namespace

void CpuOps::route(const MoeSpec& moe, Slot chosen) {
    for_rows(n_rows_, [&](int32_t r) { choose(moe, row(chosen, r), int32_t(moe.experts.size())); });
}

// Few rows each: the experts of a batch share one region for gate and up and one for down.
void CpuOps::run_experts(const ModelSpec& spec, const LayerSpec& layer) {
    const MoeSpec& moe = layer.moe;
    for (const Mlp& expert : moe.experts) {
        const PackedMatrix &input = matrices[input_of(expert).id], &up = matrices[expert.up.id];
        const bool one_order = input.quantised == up.quantised && (!up.quantised || input.order == up.order);
        const uint64_t bytes = std::max(row_bytes(input), row_bytes(matrices[expert.down.id])) * uint64_t(n_rows_);
        if (!one_order || bytes > plan_.activation_bytes) return BlockOps::run_experts(spec, layer);
    }
    clear(Slot::expert_sum, spec.hidden_size);
    for (int32_t expert = 0; expert < spec.n_experts;) {
        expert = gather_batch(moe, expert);
        if (batch_.empty()) break;
        expert_products(spec, layer, false);
        expert_products(spec, layer, true);
        for (const ExpertRows& rows_of : batch_) {
            expert_rows_begin_ = rows_of.row0;
            n_expert_rows_ = rows_of.count;
            scatter(rows_of.expert, Slot::chosen, Slot::expert_out, Slot::expert_sum);
        }
    }
}

int32_t CpuOps::gather_batch(const MoeSpec& moe, int32_t expert) {
    batch_.clear();
    int32_t filled = 0;
    uint64_t prepared = 0;
    for (; expert < int32_t(moe.experts.size()); ++expert) {
        const Mlp& mlp = moe.experts[size_t(expert)];
        const uint64_t bytes = std::max(row_bytes(matrices[input_of(mlp).id]), row_bytes(matrices[mlp.down.id]));
        int32_t count = 0;
        for (int32_t r = 0; r < n_rows_; ++r) count += row(Slot::chosen, r)[expert] != unchosen;
        if (count == 0) continue;
        const uint64_t room = bytes * uint64_t(count);
        if (filled + count > plan_.rows || prepared + room > plan_.activation_bytes) break;
        batch_.push_back({expert, filled, count, prepared});
        for (int32_t r = 0; r < n_rows_; ++r) {
            if (row(Slot::chosen, r)[expert] != unchosen) expert_rows()[filled++] = r;
        }
        prepared += room;
    }
    for_rows(filled, [&](int32_t i) {
        std::memcpy(row(Slot::expert_in, i), row(Slot::normed, expert_rows()[i]),
                    size_t(spec_->hidden_size) * sizeof(float));
    });
    return expert;
}

void CpuOps::expert_products(const ModelSpec& spec, const LayerSpec& layer, bool down) {
    const auto mlp_of = [&](const ExpertRows& rows_of) -> const Mlp& {
        return layer.moe.experts[size_t(rows_of.expert)];
    };
    const auto lead_of = [&](const ExpertRows& rows_of) -> const PackedMatrix& {
        return matrices[down ? mlp_of(rows_of).down.id : input_of(mlp_of(rows_of)).id];
    };
    const Slot x = down ? Slot::expert_gate : Slot::expert_in;
    int32_t count = 0;
    int64_t cost = 0;
    for (const ExpertRows& rows_of : batch_) {
        count += rows_of.count;
        cost += cost_of(lead_of(rows_of), rows_of.count) * lead_of(rows_of).n_tiles;
    }
    for_rows(count, [&](int32_t i) {
        size_t b = 0;
        while (i >= batch_[b].row0 + batch_[b].count) ++b;
        const PackedMatrix& lead = lead_of(batch_[b]);
        if (lead.quantised)
            prepare_row(lead, activations(lead, batch_[b].count, batch_[b].prepared), row(x, i), i - batch_[b].row0);
    });
    run_parallel(threads_, [&](int32_t index, int32_t total) {
        Share share(cost, index, total);
        for (const ExpertRows& rows_of : batch_) {
            const Mlp& mlp = mlp_of(rows_of);
            const PackedMatrix& lead = lead_of(rows_of);
            const Share::Units tiles = share.next(cost_of(lead, rows_of.count), lead.n_tiles);
            if (tiles.first >= tiles.last) continue;
            const auto multiply = [&](Matrix w, Slot out) {
                product({&matrices[w.id], out, 0, Store::set, rows_of.prepared}, x, rows_of.row0, rows_of.count,
                        tiles.first, tiles.last);
            };
            if (down) {
                multiply(mlp.down, Slot::expert_out);
                continue;
            }
            multiply(input_of(mlp), Slot::expert_gate);
            if (mlp.gate.id) multiply(mlp.up, Slot::expert_up);
            const int32_t column = tiles.first * tile_columns,
                          width = std::min(tiles.last * tile_columns, spec.expert_intermediate_size) - column;
            for (int32_t r = rows_of.row0; r < rows_of.row0 + rows_of.count; ++r)
                table_.gated(layer.activation, row(Slot::expert_gate, r) + column,
                             mlp.gate.id ? row(Slot::expert_up, r) + column : nullptr, width);
        }
    });
}

bool CpuOps::gather(int32_t expert, Slot chosen, Slot x, Slot out) {
    n_expert_rows_ = expert_rows_begin_ = 0;
    for (int32_t r = 0; r < n_rows_; ++r) {
        if (row(chosen, r)[expert] != unchosen) expert_rows()[n_expert_rows_++] = r;
    }
    for_rows(n_expert_rows_, [&](int32_t i) {
        std::memcpy(row(out, i), row(x, expert_rows()[i]), size_t(spec_->hidden_size) * sizeof(float));
    });
    return n_expert_rows_ > 0;
}

void CpuOps::scatter(int32_t expert, Slot chosen, Slot from, Slot to) {
    for_rows(n_expert_rows_, [&](int32_t i) {
        const int32_t at = expert_rows_begin_ + i, r = expert_rows()[at];
        const float weight = row(chosen, r)[expert];
        const float* y = row(from, at);
        float* sum = row(to, r);
        for (int32_t c = 0; c < spec_->hidden_size; ++c) sum[c] = sum[c] + weight * y[c];
    });
}

void CpuOps::clear(Slot x, int32_t width) {
    for_rows(n_rows_, [&](int32_t r) { std::memset(row(x, r), 0, size_t(width) * sizeof(float)); });
}

void CpuOps::add_gated(Slot from, Slot gate, int32_t width, Slot to) {
    for_rows(n_rows_, [&](int32_t r) {
        const float weight = 1.0f / (1.0f + exp_f32(-row(gate, r)[0]));
        const float* y = row(from, r);
        float* sum = row(to, r);
        for (int32_t c = 0; c < width; ++c) sum[c] = sum[c] + weight * y[c];
    });
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
