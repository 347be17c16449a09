// Log-probabilities and logits of given ids.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/model/model.h"

namespace quantplug::engine {

/// logprobs[i] = ln p(ids[i+1] | ids[0..i]), ids.size() - 1 values; nothing is added to the ids. 2 to ctx ids,
/// otherwise OUT_OF_RANGE.
void score(Model& model, std::span<const int32_t> ids, std::span<float> logprobs, const Progress& progress,
           const std::function<bool()>& cancelled);

/// Whole rows of logits, one after the other, a few computed at a time.
class LogitsPass {
 public:
    /// 1 to ctx ids.
    LogitsPass(Model& model, std::vector<int32_t> ids);

    /// The next row (n_vocab floats), valid until the next call; empty after the last. *position: the prediction
    /// follows ids[*position].
    std::span<const float> next(uint64_t* position, const std::function<bool()>& cancelled);

 private:
    Model& model_;
    std::vector<int32_t> ids_;
    Sequence sequence_;
    std::vector<float> rows_;      // (computed rows, n_vocab)
    size_t first_ = 0, next_ = 0;  // ids before the first computed row; the next row to hand out
};

}  // namespace quantplug::engine
