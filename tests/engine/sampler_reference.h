// The chain of samplers by its definitions: double precision, everything sorted, nothing skipped.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <vector>

#include "engine/generate/sampling.h"

namespace quantplug::test {

struct ReferenceToken {
    double logit, p;
    int32_t id;
};

/// One row. `margin` is how near the closest decision was: rounding may turn those below about 1e-5.
class ReferenceChain {
 public:
    ReferenceChain(const std::vector<float>& logits, const std::vector<int32_t>& history, const engine::Sampling& s)
        : history_(history), s_(s) {
        for (size_t i = 0; i < logits.size(); ++i)
            if (std::find(s.banned.begin(), s.banned.end(), int32_t(i)) == s.banned.end())
                tokens_.push_back({double(logits[i]), 0, int32_t(i)});
        for (const engine::LogitBias& b : s.bias)
            for (ReferenceToken& t : tokens_)
                if (t.id == b.id) t.logit += double(b.bias);
        for (const engine::SamplerStep step : engine::sampler_order(s.order)) apply(step);
        softmax();
        if (s.mirostat_tau > 0)
            keep_while([&](size_t i) { return share(tokens_[i].p, std::exp2(-2 * s_.mirostat_tau)); });
        softmax();
    }

    /// By id.
    std::map<int32_t, double> distribution() const {
        std::map<int32_t, double> out;
        for (const ReferenceToken& t : tokens_) out[t.id] = t.p;
        return out;
    }
    double margin = 1;

 private:
    /// Sorts too.
    void softmax() {
        std::sort(tokens_.begin(), tokens_.end(), [](const auto& a, const auto& b) { return a.logit > b.logit; });
        double sum = 0;
        for (ReferenceToken& t : tokens_) sum += t.p = std::exp(t.logit - tokens_[0].logit);
        for (ReferenceToken& t : tokens_) t.p /= sum;
    }
    /// a >= b, and how sure that is.
    bool share(double a, double b) {
        margin = std::min(margin, std::abs(a - b) / std::max({std::abs(a), std::abs(b), 1e-30}));
        return a >= b;
    }
    void keep_while(const std::function<bool(size_t)>& keep) {
        size_t n = 1;
        while (n < tokens_.size() && keep(n)) ++n;
        resize(n);
    }
    void resize(size_t n) {
        if (n < tokens_.size()) look_at_cut(n);
        tokens_.resize(n);
    }
    /// Ranks n-1 and n are on different sides: single precision may order equal ones otherwise.
    void look_at_cut(size_t n) {
        if (std::abs(tokens_[n - 1].logit - tokens_[n].logit) < 4e-6) margin = 0;
    }
    std::map<int32_t, int> counts() const {
        std::map<int32_t, int> out;
        const size_t n = history_.size();
        const size_t range = s_.penalty_range < 0 ? n : std::min(n, size_t(s_.penalty_range));
        for (size_t i = n - range; i < n; ++i) ++out[history_[i]];
        return out;
    }
    void temper(double t) {
        for (ReferenceToken& token : tokens_) token.logit /= t;
    }
    double entropy() {
        softmax();
        double h = 0;
        for (const ReferenceToken& t : tokens_)
            if (t.p > 0) h -= t.p * std::log(t.p);
        return h;
    }

    void apply(engine::SamplerStep step) {
        using engine::SamplerStep;
        const auto seen = counts();
        softmax();
        const bool truncates = s_.mirostat_tau == 0;
        switch (step) {
            case SamplerStep::repetition_penalty:
                for (ReferenceToken& t : tokens_)
                    if (seen.count(t.id)) t.logit *= t.logit > 0 ? 1 / s_.repetition_penalty : s_.repetition_penalty;
                break;
            case SamplerStep::frequency_penalty:
                for (ReferenceToken& t : tokens_)
                    if (seen.count(t.id)) t.logit -= s_.frequency_penalty * seen.at(t.id);
                break;
            case SamplerStep::presence_penalty:
                for (ReferenceToken& t : tokens_)
                    if (seen.count(t.id)) t.logit -= s_.presence_penalty;
                break;
            case SamplerStep::dry:
                if (s_.dry_multiplier > 0) dry();
                break;
            case SamplerStep::temperature:
                if (s_.dynatemp_high == 0) temper(s_.temperature);
                break;
            case SamplerStep::dynatemp:
                if (s_.dynatemp_high > 0 && tokens_.size() > 1)
                    temper(s_.dynatemp_low +
                           (s_.dynatemp_high - s_.dynatemp_low) *
                               std::pow(entropy() / std::log(double(tokens_.size())), s_.dynatemp_exponent));
                break;
            case SamplerStep::smoothing:
                if (s_.smoothing_factor > 0) {
                    const double top = tokens_[0].logit, c = s_.smoothing_curve, f = s_.smoothing_factor;
                    for (ReferenceToken& t : tokens_) {
                        const double d = t.logit - top;
                        t.logit = top - (3 - c) / 2 * f * d * d + (c - 1) / 2 * f * d * d * d;
                    }
                }
                break;
            case SamplerStep::top_n_sigma:
                if (s_.top_n_sigma > 0 && truncates) {
                    double mean = 0, variance = 0;
                    for (const ReferenceToken& t : tokens_) mean += t.logit / double(tokens_.size());
                    for (const ReferenceToken& t : tokens_)
                        variance += (t.logit - mean) * (t.logit - mean) / double(tokens_.size());
                    const double top = tokens_[0].logit, sigma = s_.top_n_sigma * std::sqrt(variance);
                    keep_while([&](size_t i) { return share(sigma, top - tokens_[i].logit); });
                }
                break;
            case SamplerStep::top_k:
                if (s_.top_k > 0 && truncates && size_t(s_.top_k) < tokens_.size()) {
                    const size_t k = size_t(s_.top_k);
                    keep_while([&](size_t i) { return i < k; });
                }
                break;
            case SamplerStep::top_p:
                if (s_.top_p < 1 && truncates) {
                    double sum = tokens_[0].p;
                    keep_while([&](size_t i) {
                        const bool more = !share(sum, s_.top_p);
                        sum += tokens_[i].p;
                        return more;
                    });
                }
                break;
            case SamplerStep::top_a:
                if (s_.top_a > 0 && truncates)
                    keep_while([&](size_t i) { return share(tokens_[i].p, s_.top_a * tokens_[0].p * tokens_[0].p); });
                break;
            case SamplerStep::min_p:
                if (s_.min_p > 0 && truncates)
                    keep_while([&](size_t i) { return share(tokens_[i].p, s_.min_p * tokens_[0].p); });
                break;
            case SamplerStep::tfs:
                if (s_.tfs < 1 && truncates) tail_free();
                break;
            case SamplerStep::typical_p:
                if (s_.typical_p < 1 && truncates) typical();
                break;
            case SamplerStep::xtc:
                if (s_.xtc_probability > 0 && truncates) {
                    size_t n = 0;
                    while (n < tokens_.size() && share(tokens_[n].p, s_.xtc_threshold)) ++n;
                    if (n > 1) {
                        look_at_cut(n - 1);
                        tokens_.erase(tokens_.begin(), tokens_.begin() + ptrdiff_t(n) - 1);
                    }
                }
                break;
        }
    }

    void tail_free() {
        std::vector<double> p;
        for (const ReferenceToken& t : tokens_)
            if (share(t.p, 1e-8)) p.push_back(t.p);
        if (p.size() < 3) {
            resize(p.size());
            return;
        }
        std::vector<double> second;
        double total = 0;
        for (size_t i = 0; i + 2 < p.size(); ++i) {
            second.push_back(std::abs((p[i + 2] - p[i + 1]) - (p[i + 1] - p[i])));
            total += second.back();
        }
        double sum = 0;
        size_t n = 1;
        for (const double d : second) {
            sum += d / total;
            // Second differences of nearly equal probabilities drown in the rounding of single precision.
            if (std::abs(s_.tfs - sum) < 2e-6 * p[0] * double(p.size()) / total) margin = 0;
            if (!share(s_.tfs, sum)) break;
            ++n;
        }
        resize(n);
    }

    void typical() {
        const double h = entropy();
        const auto away = [&](const ReferenceToken& t) { return std::abs(-std::log(t.p) - h); };
        std::sort(tokens_.begin(), tokens_.end(), [&](const auto& a, const auto& b) { return away(a) < away(b); });
        for (size_t i = 0; i + 1 < tokens_.size(); ++i) share(away(tokens_[i + 1]) + 1, away(tokens_[i]) + 1);
        double sum = tokens_[0].p;
        keep_while([&](size_t i) {
            const bool more = !share(sum, s_.typical_p);
            sum += tokens_[i].p;
            return more;
        });
    }

    void dry() {
        const int64_t n = int64_t(history_.size());
        for (ReferenceToken& t : tokens_) {
            int64_t longest = 0;
            // The history with t behind it: the longest end that occurs before.
            for (int64_t at = 0; at < n; ++at) {
                if (history_[size_t(at)] != t.id) continue;
                int64_t length = 0;
                while (length < at && history_[size_t(at - 1 - length)] == history_[size_t(n - 1 - length)]) ++length;
                longest = std::max(longest, length);
            }
            if (longest > 0 && longest >= s_.dry_allowed_length)
                t.logit -= s_.dry_multiplier * std::pow(s_.dry_base, double(longest - s_.dry_allowed_length));
        }
    }

    std::vector<int32_t> history_;
    engine::Sampling s_;
    std::vector<ReferenceToken> tokens_;
};

}  // namespace quantplug::test
