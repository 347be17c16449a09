// What a request says about sampling, in the engine's own copies.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

struct LogitBias {
    int32_t id = 0;
    float bias = 0;  // added to the id's logit; -infinity bans it
};

/// Every field starts as "off". The meaning of each step is at its function in sampler.cpp, with its source.
struct Sampling {
    double temperature = 0;      // 0: the most probable token of what bans, biases and penalties leave
    int32_t top_k = 0;           // > 0: this many most probable tokens
    double top_p = 1;            // < 1: the smallest set of most probable tokens with at least this mass
    double min_p = 0;            // > 0: tokens with at least this share of the most probable one's probability
    double typical_p = 1;        // < 1: the tokens whose surprise is nearest to the entropy, with at least this mass
    double top_a = 0;            // > 0: tokens with at least top_a * (the largest probability)^2
    double tfs = 1;              // < 1: tail-free sampling's z
    double top_n_sigma = 0;      // > 0: tokens within so many standard deviations of the largest logit
    double xtc_probability = 0;  // > 0: how often XTC acts
    double xtc_threshold = 0.1;  // in 0..1
    double mirostat_tau = 0;     // > 0: the surprise to hold, in bits; takes the place of all truncations
    double mirostat_eta = 0.1;   // in 0..1
    double dynatemp_low = 0;     // dynatemp is on where dynatemp_high > 0, and then in temperature's place
    double dynatemp_high = 0;
    double dynatemp_exponent = 1;
    double smoothing_factor = 0;  // > 0
    double smoothing_curve = 1;   // >= 1
    double repetition_penalty = 1;
    double frequency_penalty = 0;
    double presence_penalty = 0;
    int32_t penalty_range = -1;  // latest tokens that penalties look at, prompt included; -1: all
    double dry_multiplier = 0;   // > 0: on
    double dry_base = 1.75;
    int32_t dry_allowed_length = 2;
    int32_t dry_range = -1;                      // as penalty_range
    std::vector<std::string> dry_breakers = {};  // none: the usual ones, newline, colon, quote and asterisk
    uint32_t min_tokens = 0;                     // no stop id before that many tokens
    std::vector<LogitBias> bias = {};
    std::vector<int32_t> banned = {};
    std::string order = {};                       // as sampler_order() reads it
    std::optional<uint64_t> seed = std::nullopt;  // absent: from the system
};

/// The steps whose order a request may change.
enum class SamplerStep : uint8_t {
    repetition_penalty,
    frequency_penalty,
    presence_penalty,
    dry,
    temperature,
    dynatemp,
    smoothing,
    top_n_sigma,
    top_k,
    top_p,
    top_a,
    min_p,
    tfs,
    typical_p,
    xtc,
};
inline constexpr size_t n_sampler_steps = 15;
using SamplerOrder = std::array<SamplerStep, n_sampler_steps>;

/// The steps in the order of a list of their names, separated by commas; those that it does not name come after in the
/// order above, which is that of an empty list. INVALID_ARGUMENT for an unknown name or one that comes twice.
SamplerOrder sampler_order(std::string_view names);

/// Refuses values out of range, by name. INVALID_ARGUMENT.
void validate(const Sampling& sampling);

inline constexpr size_t max_dry_breakers = 128;
inline constexpr size_t max_dry_breaker_bytes = 128;

}  // namespace quantplug::engine
