// From a row of logits to the next token.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

namespace quantplug::engine {

/// Applied in this order: temperature, top-k, top-p, min-p, draw. Unset is off.
struct Sampling {
    double temperature = 0;  // 0: the most probable token, ties to the lowest id
    int32_t top_k = 0;       // > 0: this many most probable tokens
    double top_p = 1;        // < 1: the smallest set of most probable tokens with at least this mass
    double min_p = 0;        // > 0: tokens with at least this share of the most probable one's probability
    std::optional<uint64_t> seed = std::nullopt;  // absent: from the system
};

/// Refuses values out of range, by name. INVALID_ARGUMENT.
void validate(const Sampling& sampling);

struct TokenLogprob {
    int32_t id = 0;
    float logprob = 0;  // natural log of the model's own distribution
};

/// ln of the sum of exp(logits), accumulated in double. Logits that are all -inf or contain NaN give NaN.
double log_sum_exp(std::span<const float> logits);

/// The n most probable ids, most probable first, ties to the lowest id.
std::vector<TokenLogprob> most_probable(std::span<const float> logits, size_t n);

/// One generation's sampler: the same seed and the same logits give the same tokens.
class Sampler {
 public:
    explicit Sampler(const Sampling& sampling);

    /// `logits` (n): only ids below n can be drawn. INTERNAL if no logit is a finite number.
    int32_t sample(std::span<const float> logits);

 private:
    struct Candidate {
        double p;
        int32_t id;
    };
    Sampling sampling_;
    std::mt19937_64 random_;
    std::vector<Candidate> candidates_;  // reused from token to token
};

}  // namespace quantplug::engine
