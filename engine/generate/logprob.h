// Probabilities from logits: sums over a whole vocabulary, fast and the same on every machine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quantplug::engine {

struct TokenLogprob {
    int32_t id = 0;
    float logprob = 0;  // natural log of the model's own distribution
};

/// ln of the sum of exp(logits), within 1e-6. Logits that are all -inf or contain NaN give NaN.
double log_sum_exp(std::span<const float> logits);

/// The n most probable ids, most probable first, ties to the lowest id.
std::vector<TokenLogprob> most_probable(std::span<const float> logits, size_t n);

inline constexpr size_t exp_block_size = 64;

/// out[i] = exp(x[i]) for x[i] <= 0, relative error below 3e-7; 0 below -87. Plain multiplications and additions, so
/// the bits do not depend on the machine's instruction set or C library, as those of std::exp do.
void exp_block(const float (&x)[exp_block_size], float (&out)[exp_block_size]);
float exp_one(float x);

/// The sum of a block in one fixed order.
double sum_block(const float (&x)[exp_block_size]);

}  // namespace quantplug::engine
