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

// Router logits (n) of a row -> the softmax's values of the top_k largest (ties: the lower id), -1 for the others. Plain
// loops: the same bits on every machine.
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

}  // namespace

void CpuOps::route(const MoeSpec& moe, Slot chosen) {
    for_rows(n_rows_, [&](int32_t r) { choose(moe, row(chosen, r), int32_t(moe.experts.size())); });
}

bool CpuOps::gather(int32_t expert, Slot chosen, Slot x, Slot out) {
    n_expert_rows_ = 0;
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
        const int32_t r = expert_rows()[i];
        const float weight = row(chosen, r)[expert];
        const float* y = row(from, i);
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
