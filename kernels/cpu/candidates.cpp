// The best candidates of a row of logits.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

void CpuOps::choose_candidates(const Wanted& wanted, float* logits, int32_t n_vocab, Chooser& chooser, Candidate* out,
                               double sums[2]) const {
    using Ranked = Chooser::Ranked;
    const auto ahead = [](const Ranked& a, const Ranked& b) {
        return a.adjusted != b.adjusted ? a.adjusted > b.adjusted : a.id < b.id;
    };
    const std::span<const Adjust> adjusts =
        step_->adjusts.subspan(size_t(wanted.first_adjust), size_t(wanted.n_adjusts));
    const int32_t n_sampled = step_->n_sampled > 0 ? step_->n_sampled : n_vocab;
    int32_t largest = 0;
    table_.log_sum(logits, n_vocab, &largest, &sums[0]);
    chooser.before.clear();
    for (const Adjust& a : adjusts) {
        float& logit = logits[a.token];
        chooser.before.push_back(logit);
        logit = adjusted(logit, a);
    }
    table_.log_sum(logits, n_sampled, &largest, &sums[1]);

    // Of equals that come later none is better than the n-th, so that a strict comparison drops most of the row.
    const size_t n = size_t(wanted.n), room = 2 * n;
    std::vector<Ranked>& best = chooser.best;
    best.clear();
    best.reserve(room);
    const auto halve = [&] { std::nth_element(best.begin(), best.begin() + ptrdiff_t(n) - 1, best.end(), ahead); };
    float least = -INFINITY;
    for (int32_t id = 0; id < n_sampled; ++id) {
        if (!(logits[id] > least)) continue;
        best.push_back({logits[id], id});
        if (best.size() < room) continue;
        halve();
        best.resize(n);
        least = best.back().adjusted;
    }
    if (best.size() > n) {
        halve();
        best.resize(n);
    }
    std::sort(best.begin(), best.end(), ahead);
    if (best.empty()) sums[1] = -INFINITY;

    for (size_t i = 0; i < adjusts.size(); ++i) logits[adjusts[i].token] = chooser.before[i];
    for (size_t i = 0; i < n; ++i)
        out[i] = i < best.size() ? Candidate{best[i].id, logits[best[i].id]} : Candidate{-1, 0};
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
