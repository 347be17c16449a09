#include "engine/generate/sampler.h"

#include <algorithm>
#include <cmath>

#include "engine/base/error.h"

namespace quantplug::engine {

namespace {

uint64_t system_seed() {
    std::random_device device;
    return (uint64_t(device()) << 32) | device();
}

size_t argmax(std::span<const float> logits) {
    size_t best = logits.size();
    for (size_t i = 0; i < logits.size(); ++i)
        if (!std::isnan(logits[i]) && (best == logits.size() || logits[i] > logits[best])) best = i;
    if (best == logits.size() || !std::isfinite(logits[best]))
        fail(Code::internal, "the model computed no finite logit; its weights or scales are damaged");
    return best;
}

}  // namespace

void validate(const Sampling& s) {
    if (!(s.temperature >= 0) || !std::isfinite(s.temperature))
        fail(Code::invalid_argument, "temperature is ", s.temperature, "; it must be 0 (greedy) or a positive number");
    if (s.top_k < 0) fail(Code::invalid_argument, "top_k is ", s.top_k, "; it must be 0 (off) or positive");
    if (!(s.top_p >= 0 && s.top_p <= 1)) fail(Code::invalid_argument, "top_p is ", s.top_p, "; it must lie in 0..1");
    if (!(s.min_p >= 0 && s.min_p <= 1)) fail(Code::invalid_argument, "min_p is ", s.min_p, "; it must lie in 0..1");
}

double log_sum_exp(std::span<const float> logits) {
    float top = -INFINITY;
    for (const float l : logits) top = std::max(top, l);
    if (!std::isfinite(top)) return NAN;
    double sum = 0;
    for (const float l : logits) sum += std::exp(double(l) - double(top));
    return double(top) + std::log(sum);
}

std::vector<TokenLogprob> most_probable(std::span<const float> logits, size_t n) {
    std::vector<TokenLogprob> order(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) order[i] = {int32_t(i), std::isnan(logits[i]) ? -INFINITY : logits[i]};
    n = std::min(n, order.size());
    const auto before = [](const TokenLogprob& a, const TokenLogprob& b) {
        return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
    };
    std::partial_sort(order.begin(), order.begin() + ptrdiff_t(n), order.end(), before);
    order.resize(n);
    const double total = log_sum_exp(logits);
    for (TokenLogprob& t : order) t.logprob = float(double(t.logprob) - total);
    return order;
}

Sampler::Sampler(const Sampling& sampling)
    : sampling_(sampling), random_(sampling.seed ? *sampling.seed : system_seed()) {
    validate(sampling);
}

int32_t Sampler::sample(std::span<const float> logits) {
    const size_t best = argmax(logits);
    if (sampling_.temperature == 0) return int32_t(best);

    candidates_.resize(logits.size());
    const double top = logits[best];
    double total = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
        const double p = std::isnan(logits[i]) ? 0 : std::exp((double(logits[i]) - top) / sampling_.temperature);
        candidates_[i] = {p, int32_t(i)};
        total += p;
    }

    // Heap order gives the most probable ones first at the cost of those alone; ties to the lowest id.
    const auto after = [](const Candidate& a, const Candidate& b) { return a.p != b.p ? a.p < b.p : a.id > b.id; };
    size_t kept = candidates_.size();
    if (sampling_.top_k > 0 || sampling_.top_p < 1 || sampling_.min_p > 0) {
        const auto begin = candidates_.begin();
        std::make_heap(begin, candidates_.end(), after);
        const size_t limit = sampling_.top_k > 0 ? std::min(kept, size_t(sampling_.top_k)) : kept;
        // top-p is a share of what top-k left: its mass is known once those are popped.
        double mass_of_k = total;
        size_t popped = 0;
        const auto pop = [&] { std::pop_heap(begin, candidates_.end() - ptrdiff_t(popped++), after); };
        const auto at = [&](size_t rank) -> const Candidate& { return candidates_[candidates_.size() - 1 - rank]; };
        if (limit < kept) {
            mass_of_k = 0;
            while (popped < limit) {
                pop();
                mass_of_k += at(popped - 1).p;
            }
        }
        kept = 0;
        double mass = 0;
        while (kept < limit) {
            if (popped == kept) pop();
            const Candidate& c = at(kept);
            if (kept > 0 && (mass >= sampling_.top_p * mass_of_k || c.p < sampling_.min_p * at(0).p)) break;
            mass += c.p;
            ++kept;
        }
        std::reverse(begin, candidates_.end());
        total = mass;
    }

    const double u = double(random_() >> 11) * 0x1p-53 * total;  // [0, total)
    double sum = 0;
    for (size_t i = 0; i < kept; ++i) {
        sum += candidates_[i].p;
        if (u < sum) return candidates_[i].id;
    }
    // Rounding left u at the very end: the last candidate that can be drawn at all.
    for (size_t i = kept; i-- > 0;)
        if (candidates_[i].p > 0) return candidates_[i].id;
    return int32_t(best);
}

}  // namespace quantplug::engine
