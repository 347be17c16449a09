// One generation on one sequence: prefill in chunks, then token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/generate/sampler.h"
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
};

struct GeneratedToken {
    int32_t id = 0;
    float logprob = 0;
    std::vector<TokenLogprob> top;  // n_top, most probable first
};

struct GenerateEvent {
    enum Kind : uint8_t { prefill, tokens, end } kind = prefill;
    std::span<const GeneratedToken> new_tokens = {};
    std::string text = {};  // certain by now, whole characters
    uint64_t n_done = 0, n_prompt = 0, n_generated = 0;
    double prefill_seconds = 0, decode_seconds = 0;  // end
    Finish finish = Finish::none;                    // end
    int32_t stop_id = -1;                            // end: the stop id that ended it
};

/// Calls on_event on this thread until the end event, which always comes, also before an error is thrown. on_event
/// returns false to cancel; `cancelled` is asked between layers too. A prompt longer than the context is OUT_OF_RANGE.
Finish generate(Model& model, const GenerateRequest& request, const std::function<bool(const GenerateEvent&)>& on_event,
                const std::function<bool()>& cancelled);

}  // namespace quantplug::engine
