// The mixture of experts of the reference.
#include <algorithm>
#include <cmath>

#include "kernels/reference/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace reference {

void ReferenceOps::route(const MoeSpec& moe, Slot chosen) {
    const int32_t n = int32_t(moe.experts.size());
    for (int32_t r = 0; r < rows(chosen); ++r) {
        double* p = row(chosen, r);
        const double largest = *std::max_element(p, p + n);
        double sum = 0;
        for (int32_t e = 0; e < n; ++e) sum += p[e] = std::exp(p[e] - largest);
        for (int32_t e = 0; e < n; ++e) p[e] /= sum;
        std::vector<int32_t> order(static_cast<size_t>(n));
        for (int32_t e = 0; e < n; ++e) order[size_t(e)] = e;
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return p[a] > p[b]; });
        double kept = 0;
        for (int32_t i = 0; i < moe.top_k; ++i) kept += p[order[size_t(i)]];
        for (int32_t i = 0; i < n; ++i) {
            double& weight = p[order[size_t(i)]];
            if (i >= moe.top_k) {
                weight = -1;
            } else if (moe.renormalise) {
                weight /= kept;
            }
        }
    }
}

bool ReferenceOps::gather(int32_t expert, Slot chosen, Slot x, Slot out) {
    expert_rows_.clear();
    for (int32_t r = 0; r < rows(chosen); ++r) {
        if (row(chosen, r)[expert] < 0) continue;
        std::copy_n(row(x, r), slots_[size_t(out)].width, row(out, int32_t(expert_rows_.size())));
        expert_rows_.push_back(r);
    }
    return !expert_rows_.empty();
}

void ReferenceOps::scatter(int32_t expert, Slot chosen, Slot from, Slot to) {
    for (size_t i = 0; i < expert_rows_.size(); ++i) {
        const int32_t r = expert_rows_[i];
        const double weight = row(chosen, r)[expert];
        for (uint64_t c = 0; c < slots_[size_t(to)].width; ++c) row(to, r)[c] += weight * row(from, int32_t(i))[c];
    }
}

void ReferenceOps::clear(Slot x, int32_t width) {
    for (int32_t r = 0; r < rows(x); ++r) std::fill_n(row(x, r), width, 0.0);
}

void ReferenceOps::add_gated(Slot from, Slot gate, int32_t width, Slot to) {
    for (int32_t r = 0; r < rows(from); ++r) {
        const double weight = 1 / (1 + std::exp(-row(gate, r)[0]));
        for (int32_t i = 0; i < width; ++i) row(to, r)[i] += weight * row(from, r)[i];
    }
}

}  // namespace reference
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
