// One generation as a state machine: which tokens are to be computed next, and what follows from their logits. Knows no
// threads and no other generation.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/generate/sampler.h"
#include "engine/generate/stop.h"
#include "engine/model/model.h"

namespace quantplug::engine {

enum class Finish : uint8_t { none, stop, length, cancelled, error };

struct GenerateRequest {
    std::vector<int32_t> prompt;  // at least one id; nothing is added
    Sampling sampling;
    std::vector<std::string> stop;  // strings that end the text and are not part of it
    std::vector<int32_t> stop_ids;  // beside the model's own
    bool ignore_eos = false;        // go on after the model's own stop ids
    bool special_text = false;      // special tokens are written as their text; never the stop id that ended it
    int32_t max_tokens = 0;         // 0: until the context is full
    int32_t n_top = 0;              // most probable tokens to report beside each token's own
    uint64_t tag = 0;               // the caller's: the final event has it
};

struct GeneratedToken {
    int32_t id = 0;
    float logprob = 0;
    std::vector<TokenLogprob> top;  // n_top, most probable first
};

struct GenerateEvent {
    enum Kind : uint8_t { prefill, tokens, end } kind = prefill;
    std::vector<GeneratedToken> new_tokens = {};
    std::string text = {};  // certain by now, whole characters
    uint64_t n_done = 0, n_prompt = 0, n_generated = 0;
    uint64_t n_cached = 0;                           // part of n_done: taken from the cache, not computed
    double prefill_seconds = 0, decode_seconds = 0;  // end; from the first step, without the wait in the queue
    Finish finish = Finish::none;                    // end
    int32_t stop_id = -1;                            // end: the stop id that ended it
    Code code = Code::unknown;                       // end with Finish::error, and one sentence
    std::string error = {};
    uint64_t tag = 0;  // end
};

/// One thread at a time.
class Generation {
 public:
    /// Refuses what cannot be: INVALID_ARGUMENT, OUT_OF_RANGE for a prompt that is longer than the context.
    Generation(const Model& model, GenerateRequest request);

    /// Prompt and generated ids: all that is to lie in the cache at some time.
    std::span<const int32_t> ids() const { return ids_; }
    int32_t n_prompt() const { return int32_t(request_.prompt.size()); }
    int64_t n_left() const { return limit_ - int64_t(n_generated_); }  // tokens that may still come
    bool finished() const { return finish_ != Finish::none; }

    /// What the row after the last id is asked for, but for its number, and the adjustments of the logits that it comes
    /// with, added to `adjusts`. `candidates`: may be asked for where a whole row of logits is not needed.
    kernels::Wanted wanted(bool candidates, std::vector<kernels::Adjust>& adjusts);
    /// wanted() is Wanted::argmax throughout.
    bool is_greedy() const { return greedy_; }

    /// What came of wanted().
    struct Answer {
        int32_t id = 0;                 // argmax
        std::span<const float> values;  // n_vocab logits, two sums beside candidates, one log-probability beside `id`
        std::span<const kernels::Candidate> candidates;
    };

    /// The first step begins.
    void start();

    /// The first n ids lie in the cache, `taken` of them since the last call without being computed. The event is to be
    /// sent where the prompt has come on.
    std::optional<GenerateEvent> advance(int32_t n, int32_t taken);

    /// The next token. Never throws an Error: a generation that fails is finished(). Nothing either where candidates
    /// were not enough to tell: needs_logits(), and wanted() is Wanted::logits.
    std::optional<GenerateEvent> accept(const Answer& answer);
    bool needs_logits() const { return needs_logits_ && !finished(); }

    /// The end from outside: CANCELLED or an error. Once, while not finished().
    void stop(Finish finish, Code code = Code::unknown, std::string error = {});

    /// The last event, once finished(). After a cancel it holds no text (what was held back is not sent).
    GenerateEvent end();

 private:
    bool pick(const Answer& answer, GeneratedToken& token);
    bool pick_candidate(const Answer& answer, GeneratedToken& token);
    GenerateEvent event(GenerateEvent::Kind kind) const;
    using Clock = std::chrono::steady_clock;

    const Model& model_;
    GenerateRequest request_;
    std::vector<int32_t> stop_ids_;  // ascending
    Sampler sampler_;
    StopFilter filter_;
    Detokenizer detokenizer_;
    bool greedy_ = false, tries_candidates_ = false, needs_logits_ = false;
    uint64_t n_short_ = 0;  // how often candidates were not enough
    int64_t limit_ = 0;
    std::vector<int32_t> ids_;
    uint64_t n_done_ = 0, n_generated_ = 0, n_cached_ = 0;
    Finish finish_ = Finish::none;
    int32_t stop_id_ = -1;
    Code code_ = Code::unknown;
    std::string error_;
    std::optional<Clock::time_point> started_, first_token_;
};

}  // namespace quantplug::engine
