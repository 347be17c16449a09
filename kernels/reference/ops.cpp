// Embedding, norms, products, activations and the head of the reference.
#include "kernels/reference/ops.h"

#include <algorithm>
#include <cmath>

#include "kernels/reference/activation.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace reference {
namespace {

double log_sum_exp(std::span<const double> z) {
    const double largest = *std::max_element(z.begin(), z.end());
    double sum = 0;
    for (const double v : z) sum += std::exp(v - largest);
    return largest + std::log(sum);
}

}  // namespace

std::vector<PlainSlot> plain_slots(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) {
    const uint64_t hidden = count_of(spec.hidden_size), n_rows = count_of(max_rows), n_wanted = count_of(max_wanted);
    const uint64_t q_width = saturating_mul(count_of(spec.n_heads), count_of(spec.head_dim));
    const uint64_t kv_width = saturating_mul(count_of(spec.n_kv_heads), count_of(spec.head_dim));
    const uint64_t expert_rows = spec.n_experts > 0 ? n_rows : 0, expert = count_of(spec.expert_intermediate_size);
    const uint64_t inner = std::max(count_of(spec.intermediate_size), count_of(spec.shared_intermediate_size));
    std::vector<PlainSlot> slots(static_cast<size_t>(Slot::count));
    const auto set = [&](Slot slot, uint64_t slot_rows, uint64_t width) { slots[size_t(slot)] = {slot_rows, width}; };
    set(Slot::residual, n_rows, hidden);
    set(Slot::normed, n_rows, hidden);
    set(Slot::embedded, n_rows, count_of(spec.embedding_size));
    set(Slot::qkv, n_rows, saturating_add(q_width, saturating_mul(kv_width, 2)));
    set(Slot::attended, n_rows, q_width);
    set(Slot::gate, n_rows, inner);
    set(Slot::up, n_rows, inner);
    set(Slot::chosen, expert_rows, count_of(spec.n_experts));
    set(Slot::expert_in, expert_rows, hidden);
    set(Slot::expert_gate, expert_rows, expert);
    set(Slot::expert_up, expert_rows, expert);
    set(Slot::expert_out, expert_rows, hidden);
    set(Slot::expert_sum, expert_rows, hidden);
    set(Slot::wanted, n_wanted, hidden);
    set(Slot::wanted_narrow, n_wanted, count_of(spec.embedding_size));
    set(Slot::logits, n_wanted, count_of(spec.n_vocab));
    return slots;
}

void ReferenceOps::prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted) {
    slots_ = plain_slots(spec, max_rows, max_wanted);
    values_.clear();
    for (const PlainSlot& slot : slots_) values_.emplace_back(slot.rows * slot.width);
    wanted_rows_ = std::max(1, max_wanted);
}

uint64_t ReferenceOps::scratch_bytes() const {
    uint64_t bytes = 0;
    for (const auto& values : values_) bytes += values.size() * sizeof(double);
    return bytes;
}

int32_t ReferenceOps::rows(Slot slot) const {
    switch (slot) {
        case Slot::wanted:
        case Slot::wanted_narrow:
        case Slot::logits:
            return n_wanted_;
        case Slot::expert_in:
        case Slot::expert_gate:
            return int32_t(expert_rows_.size());
        default:
            return int32_t(step_->rows.size());
    }
}

void ReferenceOps::load_hidden(Slot out) {
    const size_t width = size_t(spec_->hidden_size);
    for (int32_t r = 0; r < rows(out); ++r)
        std::copy_n(step_->hidden_in.begin() + ptrdiff_t(size_t(r) * width), width, row(out, r));
}

void ReferenceOps::store_hidden(Slot x) {
    for (int32_t r = 0; r < rows(x); ++r)
        for (int32_t i = 0; i < spec_->hidden_size; ++i) result_->hidden.push_back(float(row(x, r)[i]));
}

void ReferenceOps::embed_rows(Matrix embedding, float scale, Slot out) {
    const PlainMatrix& matrix = matrices[embedding.id];
    for (int32_t r = 0; r < rows(out); ++r) {
        const float* from = matrix.weights.data() + size_t(step_->rows[size_t(r)].token) * size_t(matrix.k);
        for (int32_t i = 0; i < matrix.k; ++i) row(out, r)[i] = double(scale) * double(from[i]);
    }
}

void ReferenceOps::add_positions(Matrix table, int32_t offset, Slot x) {
    const PlainMatrix& matrix = matrices[table.id];
    for (int32_t r = 0; r < rows(x); ++r) {
        const float* from = matrix.weights.data() + size_t(step_->rows[size_t(r)].position + offset) * size_t(matrix.k);
        for (int32_t i = 0; i < matrix.k; ++i) row(x, r)[i] += double(from[i]);
    }
}

void ReferenceOps::norm_values(const NormSpec& spec, const double* x, int32_t n, size_t at, double* out) const {
    double mean = 0, square = 0;
    if (spec.kind == NormSpec::layer) {
        for (int32_t i = 0; i < n; ++i) mean += x[i] / n;
    }
    for (int32_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean) / n;
    const double deviation = std::sqrt(square + double(spec.eps));
    for (int32_t i = 0; i < n; ++i) {
        const double weight = spec.weight.id ? double(vectors[spec.weight.id][at + size_t(i)]) : 1;
        const double bias = spec.bias.id ? double(vectors[spec.bias.id][at + size_t(i)]) : 0;
        out[i] = weight * (x[i] - mean) / deviation + bias;
    }
}

void ReferenceOps::norm(const NormSpec& spec, Slot x, int32_t width, Slot out) {
    for (int32_t r = 0; r < rows(x); ++r) {
        if (spec.kind == NormSpec::none) {
            if (x != out) std::copy(row(x, r), row(x, r) + width, row(out, r));
        } else {
            norm_values(spec, row(x, r), width, 0, row(out, r));
        }
    }
}

void ReferenceOps::project(Matrix w, Slot x, Slot out, int32_t column, Store store) {
    const PlainMatrix& matrix = matrices[w.id];
    for (int32_t r = 0; r < rows(x); ++r) {
        for (int32_t n = 0; n < matrix.n; ++n) {
            double sum = matrix.bias.empty() ? 0 : double(matrix.bias[size_t(n)]);
            const float* weights = matrix.weights.data() + size_t(n) * size_t(matrix.k);
            for (int32_t k = 0; k < matrix.k; ++k) sum += row(x, r)[k] * double(weights[k]);
            double& to = row(out, r)[column + n];
            to = store == Store::add ? to + sum : sum;
        }
    }
}

void ReferenceOps::add_scaled(Slot from, float scale, int32_t width, Slot to) {
    for (int32_t r = 0; r < rows(from); ++r) {
        for (int32_t i = 0; i < width; ++i) row(to, r)[i] += double(scale) * row(from, r)[i];
    }
}

void ReferenceOps::activate(Activation activation, Slot gate, Slot up, int32_t width) {
    for (int32_t r = 0; r < rows(gate); ++r) {
        for (int32_t i = 0; i < width; ++i) {
            double& value = row(gate, r)[i];
            value = activated(activation, value) * (up == Slot::none ? 1 : row(up, r)[i]);
        }
    }
}

void ReferenceOps::select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) {
    n_wanted_ = int32_t(wanted.size());
    for (int32_t i = 0; i < n_wanted_; ++i) std::copy_n(row(x, wanted[size_t(i)].row), width, row(out, i));
}

void ReferenceOps::cap_logits(Slot logits, int32_t width, float scale, float softcap) {
    for (int32_t i = 0; i < n_wanted_; ++i) {
        for (int32_t v = 0; v < width; ++v) {
            double& z = row(logits, i)[v];
            z *= double(scale);
            if (softcap > 0) z = double(softcap) * std::tanh(z / double(softcap));
        }
    }
}

void ReferenceOps::emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) {
    for (int32_t i = 0; i < n_wanted_; ++i) {
        const Wanted& one = wanted[size_t(i)];
        const std::span<const double> z(row(logits, i), size_t(n_vocab));
        switch (one.what) {
            case Wanted::logits:
                result->values.insert(result->values.end(), z.begin(), z.end());
                break;
            case Wanted::argmax: {
                const auto best = std::max_element(z.begin(), z.end());  // the first of equals
                result->tokens.push_back(int32_t(best - z.begin()));
                result->values.push_back(float(*best - log_sum_exp(z)));
                break;
            }
            case Wanted::logprob_of:
                result->values.push_back(float(z[size_t(one.token)] - log_sum_exp(z)));
                break;
            case Wanted::candidates:
                emit_candidates(one, z, result);
                break;
        }
    }
}

void ReferenceOps::emit_candidates(const Wanted& wanted, std::span<const double> z, StepResult* result) const {
    const size_t n_sampled = step_->n_sampled > 0 ? size_t(step_->n_sampled) : z.size();
    std::vector<float> logit(z.begin(), z.end());
    for (const Adjust& a : step_->adjusts.subspan(size_t(wanted.first_adjust), size_t(wanted.n_adjusts)))
        logit[size_t(a.token)] = adjusted(logit[size_t(a.token)], a);
    std::vector<int32_t> ids;
    for (size_t id = 0; id < n_sampled; ++id) {
        if (logit[id] > -INFINITY) ids.push_back(int32_t(id));
    }
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logit[size_t(a)] > logit[size_t(b)]; });
    for (size_t i = 0; i < size_t(wanted.n); ++i) {
        result->candidates.push_back(i < ids.size() ? Candidate{ids[i], float(z[size_t(ids[i])])} : Candidate{});
    }
    const std::vector<double> sampled(logit.begin(), logit.begin() + ptrdiff_t(n_sampled));
    result->values.push_back(float(log_sum_exp(z)));
    result->values.push_back(ids.empty() ? -INFINITY : float(log_sum_exp(sampled)));
}

}  // namespace reference
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
