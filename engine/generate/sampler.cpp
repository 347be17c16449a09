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

// Logits within this are never bounded below: candidates of larger ones are left to the whole row.
constexpr float usual = 1e20f;

float bounded(double logit) { return float(std::clamp(logit, double(-largest), double(largest))); }

/// As the device does it. Penalties and biases make a token unlikely, never impossible: a finite logit stays one.
float changed(float logit, const kernels::Adjust& a) {
    if (!(logit > -INFINITY) || a.add == -INFINITY) return -INFINITY;
    return bounded(double(kernels::adjusted(logit, a)));
}

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
    find_leading();
}

/// Which penalties can be one division and one addition for each id, before everything else; and whether something cuts
/// the candidates to few ones before a step needs to know each.
void Sampler::find_leading() {
    const bool biased = std::any_of(sampling_.bias.begin(), sampling_.bias.end(),
                                    [](const LogitBias& b) { return std::isfinite(b.bias); });
    bool leads = true, cut = false;
    can_use_candidates_ = true;
    for (const SamplerStep step : order_) {
        if (!active(step)) continue;
        switch (step) {
            case SamplerStep::repetition_penalty:
            case SamplerStep::frequency_penalty:
            case SamplerStep::presence_penalty:
            case SamplerStep::dry:
                // The division comes first.
                leads = leads && !(step == SamplerStep::repetition_penalty && (biased || leading_ != 0));
                if (leads)
                    leading_ |= 1u << unsigned(step);
                else if (!cut)
                    can_use_candidates_ = false;
                continue;
            case SamplerStep::top_k:
                cut = cut || sampling_.top_k < kernels::max_candidates;
                break;
            case SamplerStep::top_p:
            case SamplerStep::top_a:
            case SamplerStep::min_p:
                cut = true;
                break;
            case SamplerStep::temperature:
            case SamplerStep::xtc:
                break;
            default:
                if (!cut) can_use_candidates_ = false;
        }
        leads = false;
    }
}

/// Whether a step does anything.
bool Sampler::active(SamplerStep step) const {
    const Sampling& s = sampling_;
    const bool truncates = s.mirostat_tau == 0;  // mirostat is in the place of all truncations
    if (s.temperature == 0 && step > SamplerStep::dry) return false;
    switch (step) {
        case SamplerStep::repetition_penalty:
            return s.repetition_penalty != 1;
        case SamplerStep::frequency_penalty:
            return s.frequency_penalty != 0;
        case SamplerStep::presence_penalty:
            return s.presence_penalty != 0;
        case SamplerStep::dry:
            return s.dry_multiplier > 0 && s.dry_range != 0;
        case SamplerStep::temperature:
            return s.temperature != 1 && s.dynatemp_high == 0;
        case SamplerStep::dynatemp:
            return s.dynatemp_high > 0;
        case SamplerStep::smoothing:
            return s.smoothing_factor > 0;
        case SamplerStep::top_n_sigma:
            return s.top_n_sigma > 0 && truncates;
        case SamplerStep::top_k:
            return s.top_k > 0 && truncates;
        case SamplerStep::top_p:
            return s.top_p < 1 && truncates;
        case SamplerStep::top_a:
            return s.top_a > 0 && truncates;
        case SamplerStep::min_p:
            return s.min_p > 0 && truncates;
        case SamplerStep::tfs:
            return s.tfs < 1 && truncates;
        case SamplerStep::typical_p:
            return s.typical_p < 1 && truncates;
        case SamplerStep::xtc:
            return s.xtc_probability > 0 && truncates;
    }
    return false;
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
    return draw();
}

std::optional<int32_t> Sampler::sample(std::span<const kernels::Candidate> best, float log_sum, size_t n_sampled) {
    const std::mt19937_64 random = random_;
    if (narrow(best, log_sum, n_sampled)) {
        if (!from_top_) return draw();
        if (const Candidate* candidate = top_.draw(uniform())) return drawn_ = candidate->id;
    }
    random_ = random;
    return std::nullopt;
}

int32_t Sampler::draw() {
    double probability = 1;
    drawn_ = candidates_.draw(sampling_.temperature == 0 ? 0 : uniform(), &probability).id;
    drawn_surprise_ = -std::log2(probability);
    return drawn_;
}

std::vector<TokenProbability> Sampler::distribution(std::span<const float> logits) {
    narrow(logits);
    std::vector<TokenProbability> out;
    const double mass = candidates_.mass();
    for (const Candidate& c : candidates_.all())
        if (c.logit > -INFINITY) out.push_back({c.id, double(candidates_.weight(c)) / mass});
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
    return out;
}

/// Leaves in candidates_ what can be drawn.
void Sampler::narrow(std::span<const float> logits) {
    if (!(std::abs(candidates_.assign(logits)) <= largest)) no_finite_logit();
    if (adjusts_) {
        collect_leading();
        change_candidates();
    }
    if (!(candidates_.top() > -INFINITY))
        fail(Code::invalid_argument, "the bans, logit_bias and min_tokens of the request leave no token to draw");
    for (const SamplerStep step : order_)
        if (active(step)) apply(step);
    if (sampling_.temperature == 0)
        candidates_.keep_best();
    else if (sampling_.mirostat_tau > 0)
        mirostat();
}

/// The same from the best candidates: in candidates_, or in top_ where that can be drawn from. False where it cannot be
/// told.
bool Sampler::narrow(std::span<const kernels::Candidate> best, float log_sum, size_t n_sampled) {
    if (!can_use_candidates_ || !(std::abs(log_sum) <= usual)) return false;
    if (adjusts_) collect_leading();
    ranked_.clear();
    for (const kernels::Candidate& c : best) {
        if (c.token < 0) break;
        const auto change = adjusts_ ? changes_.find(c.token) : changes_.end();
        const float logit = change == changes_.end() ? c.logit : changed(c.logit, record(c.token, change->second));
        if (!(std::abs(c.logit) <= usual && std::abs(logit) <= usual)) return false;
        ranked_.push_back({logit, c.token});
    }
    if (ranked_.empty() || !std::is_sorted(ranked_.begin(), ranked_.end(), ranks_before)) return false;
    from_top_ = false;
    if (sampling_.temperature == 0) {
        candidates_.assign({ranked_.data(), 1});
        return true;
    }
    const size_t n_rest = ranked_.size() < best.size() ? 0 : n_sampled - std::min(n_sampled, ranked_.size());
    top_.assign(ranked_, n_rest, double(log_sum));
    from_top_ = true;
    const auto settle = [&] {
        if (!from_top_ || !top_.certain()) return;
        candidates_.assign(top_.items());
        from_top_ = false;
    };
    settle();
    for (const SamplerStep step : order_) {
        if (!active(step) || (leading_ >> unsigned(step) & 1)) continue;
        if (!from_top_)
            apply(step);
        else if (!narrow_top(step))
            return false;
        settle();
    }
    if (sampling_.mirostat_tau == 0) return true;
    if (from_top_) {
        const TopCandidates::Mass mass = top_.mass();
        top_.keep_from(least_of_mirostat(top_.top(), mass.low), least_of_mirostat(top_.top(), mass.high));
        settle();
        return !from_top_;  // accept() needs the probability
    }
    mirostat();
    return true;
}

/// A step on candidates that are uncertain.
bool Sampler::narrow_top(SamplerStep step) {
    const Sampling& s = sampling_;
    switch (step) {
        case SamplerStep::temperature:
            if (s.temperature < least_temperature)
                top_.keep(1);
            else
                top_.scale(float(1 / s.temperature));
            return true;
        case SamplerStep::top_k:
            top_.keep(size_t(s.top_k));
            return true;
        case SamplerStep::top_p:
            top_.keep_mass(s.top_p);
            return true;
        case SamplerStep::top_a: {
            const TopCandidates::Mass mass = top_.mass();
            top_.keep_from(least_of_top_a(top_.top(), mass.high), least_of_top_a(top_.top(), mass.low));
            return true;
        }
        case SamplerStep::min_p: {
            const float least = least_of_min_p(top_.top());
            top_.keep_from(least, least);
            return true;
        }
        case SamplerStep::xtc: {
            if (uniform() >= s.xtc_probability) return true;
            const int n = top_.count_above(s.xtc_threshold);
            for (int rank = 0; rank + 1 < n; ++rank)
                if (stays(top_.items()[size_t(rank)].id)) return true;
            if (n > 1) top_.drop_first(size_t(n) - 1);
            return n >= 0;
        }
        default:
            return false;
    }
}

/// Uniform in [0, 1), of 53 bits.
double Sampler::uniform() { return double(random_() >> 11) * 0x1p-53; }

void Sampler::apply(SamplerStep step) {
    const Sampling& s = sampling_;
    switch (step) {
        case SamplerStep::repetition_penalty:
        case SamplerStep::frequency_penalty:
        case SamplerStep::presence_penalty:
        case SamplerStep::dry:
            if (leading_ >> unsigned(step) & 1) break;
            changes_.clear();
            collect(step);
            change_candidates();
            break;
        case SamplerStep::temperature:
            scale(s.temperature);
            break;
        case SamplerStep::dynatemp:
            dynamic_temperature();
            break;
        case SamplerStep::smoothing:
            smooth();
            break;
        case SamplerStep::top_n_sigma:
            top_n_sigma();
            break;
        case SamplerStep::top_k:
            candidates_.keep(size_t(s.top_k));
            break;
        case SamplerStep::top_p:
            // Nucleus sampling: Holtzman et al. 2019, arXiv 1904.09751.
            candidates_.keep_mass(s.top_p);
            break;
        case SamplerStep::top_a:
            candidates_.keep_from(least_of_top_a(candidates_.top(), candidates_.mass()));
            break;
        case SamplerStep::min_p:
            candidates_.keep_from(least_of_min_p(candidates_.top()));
            break;
        case SamplerStep::tfs:
            tail_free();
            break;
        case SamplerStep::typical_p:
            // Locally typical sampling: Meister et al. 2022, arXiv 2202.00666.
            candidates_.keep_typical(s.typical_p);
            break;
        case SamplerStep::xtc:
            exclude_top_choices();
            break;
    }
}

// ---------------------------------------------------------------- changes of single logits

std::span<const kernels::Adjust> Sampler::adjusts(size_t n_sampled) {
    records_.clear();
    if (!adjusts_) return records_;
    collect_leading();
    for (const auto& [id, change] : changes_)
        if (id >= 0 && size_t(id) < n_sampled) records_.push_back(record(id, change));
    return records_;
}

kernels::Adjust Sampler::record(int32_t id, const Change& change) {
    return {id, float(std::clamp(change.divide, 1 / double(largest), double(largest))),
            change.add == -INFINITY ? -INFINITY : bounded(change.add)};
}

/// Bans, min_tokens, biases and the leading penalties.
void Sampler::collect_leading() {
    changes_.clear();
    for (const LogitBias& b : sampling_.bias) changes_[b.id].add += double(b.bias);
    for (const int32_t id : sampling_.banned) changes_[id].add = -INFINITY;
    if (n_accepted_ < sampling_.min_tokens)
        for (const int32_t id : stop_ids_) changes_[id].add = -INFINITY;
    for (const SamplerStep step : order_)
        if (leading_ >> unsigned(step) & 1) collect(step);
}

/// CTRL's repetition penalty (arXiv 1909.05858, section 4.1) with the sign rule that Hugging Face added; frequency and
/// presence as OpenAI's API defines them; DRY as its author does (token_history.h).
void Sampler::collect(SamplerStep step) {
    const Sampling& s = sampling_;
    if (step == SamplerStep::repetition_penalty) {
        for (const auto& entry : history_->counts()) changes_[entry.first].divide = s.repetition_penalty;
    } else if (step == SamplerStep::frequency_penalty) {
        for (const auto& entry : history_->counts()) changes_[entry.first].add -= entry.second * s.frequency_penalty;
    } else if (step == SamplerStep::presence_penalty) {
        for (const auto& entry : history_->counts()) changes_[entry.first].add -= s.presence_penalty;
    } else {
        std::span<const int32_t> ids = history_->ids();
        if (s.dry_range > 0 && ids.size() > size_t(s.dry_range)) ids = ids.last(size_t(s.dry_range));
        dry_lengths(ids, breakers_.get(), dry_lengths_);
        for (const auto& entry : dry_lengths_)
            if (const double beyond = double(entry.second) - s.dry_allowed_length; beyond >= 0)
                changes_[entry.first].add -= s.dry_multiplier * std::pow(s.dry_base, beyond);
    }
}

/// changes_ of the candidates.
void Sampler::change_candidates() {
    const std::span<Candidate> all = candidates_.all();
    if (changes_.empty()) return;
    if (candidates_.in_id_order()) {
        for (const auto& [id, change] : changes_)
            if (id >= 0 && size_t(id) < all.size()) {
                float& logit = all[size_t(id)].logit;
                logit = changed(logit, record(id, change));
            }
    } else {
        for (Candidate& c : all)
            if (const auto change = changes_.find(c.id); change != changes_.end())
                c.logit = changed(c.logit, record(c.id, change->second));
    }
    candidates_.changed(false);
}

// ---------------------------------------------------------------- steps

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
    candidates_.settle();
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

float Sampler::least_of_min_p(float top) const { return float(double(top) + std::log(sampling_.min_p)); }

float Sampler::least_of_top_a(float top, double mass) const {
    // p >= a pmax^2, with p = pmax exp(logit - top) and pmax = 1 / mass.
    return float(double(top) + std::log(sampling_.top_a / mass));
}

/// Mirostat 2.0 (arXiv 2007.14966): tokens whose surprise is above mu go; accept() moves mu by the surprise of what
/// was drawn from the rest, as llama.cpp and ExLlamaV2 measure it.
float Sampler::least_of_mirostat(float top, double mass) const {
    const double least = std::exp2(-mu_) * mass;
    return float(double(top) + (least < 1 ? std::log(least) : 0));
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
    for (size_t rank = 0; rank + 1 < n; ++rank)
        if (stays(candidates_[rank].id)) return;
    candidates_.drop_first(n - 1);
}

/// Whether XTC leaves everything where it would take this one.
bool Sampler::stays(int32_t id) const {
    return std::binary_search(stop_ids_.begin(), stop_ids_.end(), id) || (newlines_ && newlines_->contains(id));
}

void Sampler::mirostat() { candidates_.keep_from(least_of_mirostat(candidates_.top(), candidates_.mass())); }

}  // namespace quantplug::engine
