// From a row of logits to the next token.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/generate/candidates.h"
#include "engine/generate/logprob.h"
#include "engine/generate/sampling.h"
#include "engine/generate/token_history.h"
#include "engine/generate/token_texts.h"

namespace quantplug::engine {

struct TokenProbability {
    int32_t id = 0;
    double probability = 0;
};

/// One generation's sampler: the same seed, prompt and logits give the same tokens. First bans, min_tokens and biases,
/// then the steps of Sampling::order, then mirostat or the draw. Holds about 8 bytes for each logit.
class Sampler {
 public:
    explicit Sampler(const Sampling& sampling) : Sampler(sampling, {}, nullptr, {}) {}

    /// `prompt`: what penalties and DRY look at beside the accepted tokens. `texts`: the vocabulary's, or null: then no
    /// token breaks a sequence of DRY or is a newline to XTC. `stop_ids`: kept back by min_tokens, and from XTC.
    /// INVALID_ARGUMENT names the value that is out of range.
    Sampler(const Sampling& sampling, std::span<const int32_t> prompt, TokenTexts* texts,
            std::span<const int32_t> stop_ids);

    /// `logits` (n): only ids below n can be drawn. INTERNAL if no logit is a finite number, INVALID_ARGUMENT if bans
    /// leave none.
    int32_t sample(std::span<const float> logits);

    /// What sample() would draw from, by rising id. XTC spends the same random number as there.
    std::vector<TokenProbability> distribution(std::span<const float> logits);

    /// `id` is the sequence's next token: the one that sample() gave, or another.
    void accept(int32_t id);

 private:
    void narrow(std::span<const float> logits);
    void adjust();
    void apply(SamplerStep step);
    void penalise(SamplerStep step);
    void penalise_repetition();
    void scale(double temperature);
    void dynamic_temperature();
    void smooth();
    void top_n_sigma();
    void top_a();
    void tail_free();
    void exclude_top_choices();
    void mirostat();
    double uniform();

    template <typename Change>
    void change_ids(const std::unordered_map<int32_t, int32_t>& ids, const Change& change);

    Sampling sampling_;
    SamplerOrder order_;
    std::mt19937_64 random_;
    std::vector<int32_t> stop_ids_;
    std::shared_ptr<const TokenSet> breakers_, newlines_;
    bool penalises_ = false, adjusts_ = false;
    std::optional<TokenHistory> history_;  // where something looks at it
    uint32_t n_accepted_ = 0;

    double mu_ = 0;              // mirostat: the largest surprise that may be drawn
    int32_t drawn_ = -1;         // what sample() gave last,
    double drawn_surprise_ = 0;  // and its surprise in bits

    Candidates candidates_;
    std::unordered_map<int32_t, int32_t> dry_lengths_;
    std::vector<double> slopes_;
};

}  // namespace quantplug::engine
