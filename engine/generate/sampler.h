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
#include "engine/generate/top_candidates.h"
#include "kernels/device.h"

namespace quantplug::engine {

struct TokenProbability {
    int32_t id = 0;
    double probability = 0;
};

/// One generation's sampler: the same seed, prompt and logits give the same tokens, from whole rows or from their best
/// candidates. First bans, min_tokens and biases, then the steps of Sampling::order, then mirostat or the draw. Holds
/// about 8 bytes for each logit of a whole row.
class Sampler {
 public:
    explicit Sampler(const Sampling& sampling) : Sampler(sampling, {}, nullptr, {}) {}

    /// `prompt`: what penalties and DRY look at beside the accepted tokens. `texts`: the vocabulary's, or null: then no
    /// token breaks a sequence of DRY or is a newline to XTC. `stop_ids`: kept back by min_tokens, and from XTC.
    /// INVALID_ARGUMENT names the value that is out of range.
    Sampler(const Sampling& sampling, std::span<const int32_t> prompt, TokenTexts* texts,
            std::span<const int32_t> stop_ids);

    /// Whether a sample from candidates is worth a try: false where it would hardly ever be enough.
    bool can_use_candidates() const { return can_use_candidates_; }
    /// Bans, min_tokens, biases, and the penalties that come before every other step: each id at most once, below
    /// n_sampled. Valid until the next call.
    std::span<const kernels::Adjust> adjusts(size_t n_sampled);
    bool adjusts_any() const { return adjusts_; }
    /// As from the whole row of n_sampled logits, of which these are the best after adjusts(), `log_sum` the adjusted
    /// ones' ln sum exp. Nothing, and no random number spent, where they are not enough to tell.
    std::optional<int32_t> sample(std::span<const kernels::Candidate> best, float log_sum, size_t n_sampled);

    /// `logits` (n): only ids below n can be drawn. INTERNAL if no logit is a finite number, INVALID_ARGUMENT if bans
    /// leave none.
    int32_t sample(std::span<const float> logits);

    /// What sample() would draw from, by rising id. XTC spends the same random number as there.
    std::vector<TokenProbability> distribution(std::span<const float> logits);

    /// `id` is the sequence's next token: the one that sample() gave, or another.
    void accept(int32_t id);

 private:
    bool active(SamplerStep step) const;
    void find_leading();
    void narrow(std::span<const float> logits);
    bool narrow(std::span<const kernels::Candidate> best, float log_sum, size_t n_sampled);
    bool narrow_top(SamplerStep step);
    void apply(SamplerStep step);
    void collect_leading();
    void collect(SamplerStep step);
    void change_candidates();
    bool stays(int32_t id) const;
    float least_of_min_p(float top) const;
    float least_of_top_a(float top, double mass) const;
    float least_of_mirostat(float top, double mass) const;
    int32_t draw();
    void scale(double temperature);
    void dynamic_temperature();
    void smooth();
    void top_n_sigma();
    void tail_free();
    void exclude_top_choices();
    void mirostat();
    double uniform();

    Sampling sampling_;
    SamplerOrder order_;
    std::mt19937_64 random_;
    std::vector<int32_t> stop_ids_;
    std::shared_ptr<const TokenSet> breakers_, newlines_;
    bool penalises_ = false, adjusts_ = false, can_use_candidates_ = false;
    uint32_t leading_ = 0;                 // bits of the penalties that are part of adjusts()
    std::optional<TokenHistory> history_;  // where something looks at it
    uint32_t n_accepted_ = 0;

    double mu_ = 0;              // mirostat: the largest surprise that may be drawn
    int32_t drawn_ = -1;         // what sample() gave last,
    double drawn_surprise_ = 0;  // and its surprise in bits

    Candidates candidates_;
    TopCandidates top_;
    std::vector<Candidate> ranked_;
    bool from_top_ = false;  // what can be drawn is in top_, uncertain, else in candidates_
    struct Change {
        double divide = 1, add = 0;
    };
    static kernels::Adjust record(int32_t id, const Change& change);
    std::unordered_map<int32_t, Change> changes_;  // by id
    std::vector<kernels::Adjust> records_;
    std::unordered_map<int32_t, int32_t> dry_lengths_;
    std::vector<double> slopes_;
};

}  // namespace quantplug::engine
