#include "engine/generate/sampling.h"

#include <algorithm>
#include <cmath>

#include "engine/base/error.h"

namespace quantplug::engine {

namespace {

constexpr std::array<std::string_view, n_sampler_steps> step_names = {"repetition_penalty",
                                                                      "frequency_penalty",
                                                                      "presence_penalty",
                                                                      "dry",
                                                                      "temperature",
                                                                      "dynatemp",
                                                                      "smoothing",
                                                                      "top_n_sigma",
                                                                      "top_k",
                                                                      "top_p",
                                                                      "top_a",
                                                                      "min_p",
                                                                      "tfs",
                                                                      "typical_p",
                                                                      "xtc"};

std::string_view trimmed(std::string_view text) {
    const size_t first = text.find_first_not_of(" \t\r\n");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

template <typename T>
[[noreturn]] void refuse(std::string_view name, const T& value, std::string_view allowed) {
    fail(Code::invalid_argument, name, " is ", value, "; it must be ", allowed);
}

void require_share(std::string_view name, double value) {
    if (!(value >= 0 && value <= 1)) refuse(name, value, "in 0..1");
}

void require_finite(std::string_view name, double value) {
    if (!std::isfinite(value)) refuse(name, value, "a finite number");
}

void require_at_least(std::string_view name, double value, double least, std::string_view allowed) {
    if (!(value >= least) || !std::isfinite(value)) refuse(name, value, allowed);
}

void require_range(std::string_view name, int32_t value) {
    if (value < -1) refuse(name, value, "-1 (all tokens), 0 (none) or a number of tokens");
}

}  // namespace

SamplerOrder sampler_order(std::string_view names) {
    SamplerOrder order{};
    std::array<bool, n_sampler_steps> named{};
    size_t n = 0;
    std::string_view rest = trimmed(names);
    while (!rest.empty()) {
        const size_t comma = rest.find(',');
        const std::string_view name = trimmed(rest.substr(0, comma));
        rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
        const size_t step = size_t(std::find(step_names.begin(), step_names.end(), name) - step_names.begin());
        if (step == n_sampler_steps) {
            std::string known;
            for (const std::string_view s : step_names) known += (known.empty() ? "" : ", ") + std::string(s);
            fail(Code::invalid_argument, "the sampler order names '", name.substr(0, 64), "'; there are ", known);
        }
        if (named[step]) fail(Code::invalid_argument, "the sampler order names ", name, " twice; name it once");
        named[step] = true;
        order[n++] = SamplerStep(step);
    }
    for (size_t step = 0; step < n_sampler_steps; ++step)
        if (!named[step]) order[n++] = SamplerStep(step);
    return order;
}

void validate(const Sampling& s) {
    require_at_least("temperature", s.temperature, 0, "0 (greedy) or a positive number");
    if (s.top_k < 0) refuse("top_k", s.top_k, "0 (off) or positive");
    require_share("top_p", s.top_p);
    require_share("min_p", s.min_p);
    require_share("typical_p", s.typical_p);
    require_share("top_a", s.top_a);
    require_share("tfs", s.tfs);
    require_at_least("top_n_sigma", s.top_n_sigma, 0, "0 (off) or a positive number");
    require_share("xtc_probability", s.xtc_probability);
    require_share("xtc_threshold", s.xtc_threshold);
    require_at_least("mirostat_tau", s.mirostat_tau, 0, "0 (off) or a positive number of bits");
    require_share("mirostat_eta", s.mirostat_eta);
    require_at_least("dynatemp_low", s.dynatemp_low, 0, "0 or a positive temperature");
    require_at_least("dynatemp_high", s.dynatemp_high, s.dynatemp_low, "a temperature of at least dynatemp_low");
    require_at_least("dynatemp_exponent", s.dynatemp_exponent, 0, "0 or a positive number");
    require_at_least("smoothing_factor", s.smoothing_factor, 0, "0 (off) or a positive number");
    require_at_least("smoothing_curve", s.smoothing_curve, 1, "1 or more");
    if (!(s.repetition_penalty > 0) || !std::isfinite(s.repetition_penalty))
        refuse("repetition_penalty", s.repetition_penalty, "a positive number; 1 is off");
    require_finite("frequency_penalty", s.frequency_penalty);
    require_finite("presence_penalty", s.presence_penalty);
    require_range("penalty_range", s.penalty_range);
    require_at_least("dry_multiplier", s.dry_multiplier, 0, "0 (off) or a positive number");
    require_at_least("dry_base", s.dry_base, 1, "1 or more");
    if (s.dry_allowed_length < 0) refuse("dry_allowed_length", s.dry_allowed_length, "0 or more tokens");
    require_range("dry_range", s.dry_range);
    if (s.dry_breakers.size() > max_dry_breakers)
        refuse("the number of dry_breakers", s.dry_breakers.size(), concat("at most ", max_dry_breakers));
    for (const std::string& breaker : s.dry_breakers)
        if (breaker.empty() || breaker.size() > max_dry_breaker_bytes)
            refuse("a dry_breaker's length", breaker.size(), concat("1 to ", max_dry_breaker_bytes, " bytes"));
    for (const LogitBias& b : s.bias) {
        if (b.id < 0) refuse("a token id of logit_bias", b.id, "0 or more");
        if (std::isnan(b.bias) || b.bias == INFINITY)
            refuse(concat("the logit_bias of token ", b.id), b.bias, "a number, or -infinity for a ban");
    }
    for (const int32_t id : s.banned)
        if (id < 0) refuse("a banned token id", id, "0 or more");
    sampler_order(s.order);
}

}  // namespace quantplug::engine
