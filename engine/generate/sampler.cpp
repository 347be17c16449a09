#include "engine/generate/sampler.h"

#include <algorithm>
#include <cmath>

#include "engine/base/error.h"

namespace quantplug::engine {

namespace {

// Logits stay within this, so that dividing by the least temperature stays within a float.
constexpr float largest = 1e30f;
// Below this a temperature leaves the most probable token alone.
constexpr double least_temperature = 1e-6;

constexpr double least_tfs_probability = 1e-8;

uint64_t system_seed() {
    std::random_device device;
    return (uint64_t(device()) << 32) | device();
}

/// Penalties and biases make a token unlikely, never impossible: a finite logit stays one.
float bounded(double logit) { return float(std::clamp(logit, double(-largest), double(largest))); }

[[noreturn]] void no_finite_logit() {
    fail(Code::internal, "the model computed no finite logit; its weights or scales are damaged");
}

size_t argmax(std::span<const float> logits) {
    size_t best = logits.size();
    float most = -INFINITY;
    for (size_t i = 0; i < logits.size(); ++i)
        if (logits[i] > most) {
            most = logits[i];
            best = i;
        }
    if (!std::isfinite(most)) no_finite_logit();
    return best;
}

}  // namespace

Sampler::Sampler(const Sampling& sampling, std::span<const int32_t> prompt, TokenTexts* texts,
                 std::span<const int32_t> stop_ids)
    : sampling_(sampling), stop_ids_(stop_ids.begin(), stop_ids.end()), mu_(2 * sampling.mirostat_tau) {
    validate(sampling_);
    order_ = sampler_order(sampling_.order);
    random_.seed(sampling_.seed ? *sampling_.seed : system_seed());
    std::sort(stop_ids_.begin(), stop_ids_.end());
    const bool dry = sampling_.dry_multiplier > 0 && sampling_.dry_range != 0;
    const bool counts =
        sampling_.repetition_penalty != 1 || sampling_.frequency_penalty != 0 || sampling_.presence_penalty != 0;
    penalises_ = dry || counts;
    adjusts_ = penalises_ || !sampling_.banned.empty() || !sampling_.bias.empty() || sampling_.min_tokens > 0;
    if (penalises_) history_.emplace(prompt, counts ? sampling_.penalty_range : 0);
    if (dry && texts) {
        if (sampling_.dry_breakers.empty()) sampling_.dry_breakers = {"\n", ":", "\"", "*"};
        breakers_ = texts->containing(sampling_.dry_breakers);
    }
    if (sampling_.xtc_probability > 0 && texts) newlines_ = texts->containing({"\n"});
}

void Sampler::accept(int32_t id) {
    ++n_accepted_;
    if (history_) history_->push(id);
    if (sampling_.mirostat_tau > 0 && id == drawn_)
        mu_ -= sampling_.mirostat_eta * (drawn_surprise_ - sampling_.mirostat_tau);
    drawn_ = -1;
}

int32_t Sampler::sample(std::span<const float> logits) {
    if (sampling_.temperature == 0 && !adjusts_) return int32_t(argmax(logits));
    narrow(logits);
    double probability = 1;
    drawn_ = candidates_.draw(sampling_.temperature == 0 ? 0 : uniform(), &probability).id;
    drawn_surprise_ = -std::log2(probability);
    return drawn_;
}

std::vector<TokenProbability> Sampler::distribution(std::span<const float> logits) {
    narrow(logits);
    std::vector<TokenProbability> out;
    for (const Candidate& c : candidates_.all())
        if (c.logit > -INFINITY) out.push_back({c.id, double(candidates_.weight(c)) / candidates_.mass()});
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
    return out;
}

/// Leaves in candidates_ what can be drawn.
void Sampler::narrow(std::span<const float> logits) {
    if (!(std::abs(candidates_.assign(logits)) <= largest)) no_finite_logit();
    if (adjusts_) adjust();
    if (!(candidates_.top() > -INFINITY))
        fail(Code::invalid_argument, "the bans, logit_bias and min_tokens of the request leave no token to draw");
    const bool greedy = sampling_.temperature == 0;
    for (const SamplerStep step : order_)
        if (!greedy || step <= SamplerStep::dry) apply(step);
    if (greedy)
        candidates_.keep_best();
    else if (sampling_.mirostat_tau > 0)
        mirostat();
}

/// Uniform in [0, 1), of 53 bits.
double Sampler::uniform() { return double(random_() >> 11) * 0x1p-53; }

/// Bans, min_tokens and biases, while id i is at i.
void Sampler::adjust() {
    const std::span<Candidate> all = candidates_.all();
    const auto ban = [&](int32_t id) {
        if (size_t(id) < all.size()) all[size_t(id)].logit = -INFINITY;
    };
    for (const LogitBias& b : sampling_.bias) {
        if (size_t(b.id) >= all.size()) continue;
        float& logit = all[size_t(b.id)].logit;
        if (std::isfinite(logit)) logit = std::isfinite(b.bias) ? bounded(double(logit) + b.bias) : -INFINITY;
    }
    for (const int32_t id : sampling_.banned) ban(id);
    if (n_accepted_ < sampling_.min_tokens)
        for (const int32_t id : stop_ids_)
            if (id >= 0) ban(id);
    candidates_.changed(false);
}

void Sampler::apply(SamplerStep step) {
    const Sampling& s = sampling_;
    const bool truncates = s.mirostat_tau == 0;  // mirostat is in the place of all truncations
    switch (step) {
        case SamplerStep::repetition_penalty:
            if (s.repetition_penalty != 1) penalise_repetition();
            break;
        case SamplerStep::frequency_penalty:
            if (s.frequency_penalty != 0) penalise(step);
            break;
        case SamplerStep::presence_penalty:
            if (s.presence_penalty != 0) penalise(step);
            break;
        case SamplerStep::dry:
            if (s.dry_multiplier > 0 && s.dry_range != 0) penalise(step);
            break;
        case SamplerStep::temperature:
            if (s.temperature != 1 && s.dynatemp_high == 0) scale(s.temperature);
            break;
        case SamplerStep::dynatemp:
            if (s.dynatemp_high > 0) dynamic_temperature();
            break;
        case SamplerStep::smoothing:
            if (s.smoothing_factor > 0) smooth();
            break;
        case SamplerStep::top_n_sigma:
            if (s.top_n_sigma > 0 && truncates) top_n_sigma();
            break;
        case SamplerStep::top_k:
            if (s.top_k > 0 && truncates) candidates_.keep(size_t(s.top_k));
            break;
        case SamplerStep::top_p:
            // Nucleus sampling: Holtzman et al. 2019, arXiv 1904.09751.
            if (s.top_p < 1 && truncates) candidates_.keep_mass(s.top_p);
            break;
        case SamplerStep::top_a:
            if (s.top_a > 0 && truncates) top_a();
            break;
        case SamplerStep::min_p:
            if (s.min_p > 0 && truncates) candidates_.keep_from(float(double(candidates_.top()) + std::log(s.min_p)));
            break;
        case SamplerStep::tfs:
            if (s.tfs < 1 && truncates) tail_free();
            break;
        case SamplerStep::typical_p:
            // Locally typical sampling: Meister et al. 2022, arXiv 2202.00666.
            if (s.typical_p < 1 && truncates) candidates_.keep_typical(s.typical_p);
            break;
        case SamplerStep::xtc:
            if (s.xtc_probability > 0 && truncates) exclude_top_choices();
            break;
    }
}

/// change(logit, value) for every candidate whose id is in `ids`.
template <typename Change>
void Sampler::change_ids(const std::unordered_map<int32_t, int32_t>& ids, const Change& change) {
    const std::span<Candidate> all = candidates_.all();
    if (ids.empty()) return;
    if (candidates_.in_id_order()) {
        for (const auto& entry : ids)
            if (entry.first >= 0 && size_t(entry.first) < all.size()) {
                float& logit = all[size_t(entry.first)].logit;
                if (logit > -INFINITY) logit = bounded(change(double(logit), double(entry.second)));
            }
    } else {
        for (Candidate& c : all)
            if (const auto entry = ids.find(c.id); entry != ids.end() && c.logit > -INFINITY)
                c.logit = bounded(change(double(c.logit), double(entry->second)));
    }
    candidates_.changed(false);
}

/// CTRL (arXiv 1909.05858, section 4.1), with the sign rule that Hugging Face added.
void Sampler::penalise_repetition() {
    const double penalty = sampling_.repetition_penalty;
    change_ids(history_->counts(), [&](double logit, double) { return logit > 0 ? logit / penalty : logit * penalty; });
}

/// Frequency and presence as OpenAI's API defines them; DRY as its author does (token_history.h).
void Sampler::penalise(SamplerStep step) {
    const Sampling& s = sampling_;
    if (step == SamplerStep::frequency_penalty) {
        change_ids(history_->counts(), [&](double logit, double n) { return logit - n * s.frequency_penalty; });
    } else if (step == SamplerStep::presence_penalty) {
        change_ids(history_->counts(), [&](double logit, double) { return logit - s.presence_penalty; });
    } else {
        std::span<const int32_t> ids = history_->ids();
        if (s.dry_range > 0 && ids.size() > size_t(s.dry_range)) ids = ids.last(size_t(s.dry_range));
        dry_lengths(ids, breakers_.get(), dry_lengths_);
        change_ids(dry_lengths_, [&](double logit, double length) {
            const double beyond = length - s.dry_allowed_length;
            return beyond < 0 ? logit : logit - s.dry_multiplier * std::pow(s.dry_base, beyond);
        });
    }
}

void Sampler::scale(double temperature) {
    if (temperature < least_temperature) return candidates_.keep_best();
    const float factor = float(1 / temperature);
    for (Candidate& c : candidates_.all()) c.logit *= factor;
    candidates_.changed(true);
}

/// low + (high - low) * (entropy / largest possible entropy)^exponent, as ExLlamaV2 and llama.cpp have it.
void Sampler::dynamic_temperature() {
    const size_t n = candidates_.count();
    if (n < 2) return;
    const double entropy = std::log(candidates_.mass()) - candidates_.mean_logit();
    const double share = std::clamp(entropy / std::log(double(n)), 0.0, 1.0);
    scale(sampling_.dynatemp_low +
          (sampling_.dynatemp_high - sampling_.dynatemp_low) * std::pow(share, sampling_.dynatemp_exponent));
}

/// With d the distance to the largest logit (d <= 0): -f k d^2 + f s d^3, k = (3 - curve) / 2, s = (curve - 1) / 2:
/// quadratic at curve 1, cubic above, as text-generation-webui has it.
void Sampler::smooth() {
    const double top = candidates_.top(), factor = sampling_.smoothing_factor;
    const double square = factor * (3 - sampling_.smoothing_curve) / 2,
                 cube = factor * (sampling_.smoothing_curve - 1) / 2;
    for (Candidate& c : candidates_.all()) {
        if (!(c.logit > -INFINITY)) continue;
        const double d = double(c.logit) - top;
        c.logit = bounded(top + d * d * (cube * d - square));
    }
    candidates_.changed(sampling_.smoothing_curve <= 3);  // above 3 a near one may overtake the first
}

/// arXiv 2411.07641: the threshold is n standard deviations (divisor: the number of candidates) below the largest
/// logit.
void Sampler::top_n_sigma() {
    double sum = 0, n = 0;
    const double top = candidates_.top();
    for (const Candidate& c : candidates_.all())
        if (c.logit > -INFINITY) sum += double(c.logit) - top, n += 1;
    const double mean = sum / n;
    double squares = 0;
    for (const Candidate& c : candidates_.all())
        if (c.logit > -INFINITY) squares += (double(c.logit) - top - mean) * (double(c.logit) - top - mean);
    candidates_.keep_from(float(top - sampling_.top_n_sigma * std::sqrt(squares / n)));
}

void Sampler::top_a() {
    // p >= a pmax^2, with p = pmax exp(logit - top) and pmax = 1 / mass.
    const double least = sampling_.top_a / candidates_.mass();
    candidates_.keep_from(float(double(candidates_.top()) + std::log(least)));
}

/// Tail-free sampling (trentbrick.github.io/Tail-Free-Sampling) as ExLlamaV2 has it: ranks are kept while the sum of
/// the normalised second differences before them is at most z, and one more, to centre on the cut. Probabilities below
/// 1e-8 are no part of it.
void Sampler::tail_free() {
    size_t n = 0;
    slopes_.clear();  // probabilities, then second differences
    const double least = least_tfs_probability * candidates_.mass();
    for (; candidates_.has(n); ++n) {
        slopes_.push_back(double(candidates_.weight(candidates_[n])));
        if (slopes_.back() < least) break;
    }
    if (n < 3) return candidates_.keep(n);
    double total = 0;
    for (size_t i = 0; i + 2 < n; ++i) {
        slopes_[i] = std::abs(slopes_[i] - 2 * slopes_[i + 1] + slopes_[i + 2]);
        total += slopes_[i];
    }
    if (!(total > 0)) return;  // all equally probable: no tail
    size_t kept = 0;
    double sum = 0;
    while (kept + 2 < n && (sum += slopes_[kept]) <= sampling_.tfs * total) ++kept;
    candidates_.keep(kept + 1);
}

/// XTC, "exclude top choices", as its author has it (text-generation-webui, pull request 6335): with xtc_probability,
/// all tokens of at least the threshold go but the least probable of them; nothing goes where a stop id or a newline
/// would be among them.
void Sampler::exclude_top_choices() {
    if (uniform() >= sampling_.xtc_probability) return;
    const double least = sampling_.xtc_threshold * candidates_.mass();
    size_t n = 0;
    while (candidates_.has(n) && double(candidates_.weight(candidates_[n])) >= least) ++n;
    if (n < 2) return;
    for (size_t rank = 0; rank + 1 < n; ++rank) {
        const int32_t id = candidates_[rank].id;
        if (std::binary_search(stop_ids_.begin(), stop_ids_.end(), id)) return;
        if (newlines_ && newlines_->contains(id)) return;
    }
    candidates_.drop_first(n - 1);
}

/// Mirostat 2.0 (arXiv 2007.14966): tokens whose surprise is above mu go; accept() moves mu by the surprise of what
/// was drawn from the rest, as llama.cpp and ExLlamaV2 measure it.
void Sampler::mirostat() {
    const double least = std::exp2(-mu_) * candidates_.mass();
    const double distance = least < 1 ? std::log(least) : 0;
    candidates_.keep_from(float(double(candidates_.top()) + distance));
}

}  // namespace quantplug::engine
