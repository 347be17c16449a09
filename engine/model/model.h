// A loaded model: weights on a device, a KV cache cut in blocks, steps.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/generate/token_texts.h"
#include "engine/model/block_pool.h"
#include "engine/model/decoder.h"
#include "engine/model/device_queue.h"
#include "engine/model/format.h"
#include "engine/model/options.h"
#include "engine/tokenizer/tokenizer.h"
#include "kernels/device.h"

namespace quantplug::engine {

class Model;

/// A place in the cache for one sequence; gives its blocks back when it goes. One thread at a time.
class Sequence {
 public:
    /// Room for n_tokens; prefixes that nobody holds make room. RESOURCE_EXHAUSTED with the numbers when other
    /// sequences hold the blocks. `length`: tokens that the whole is known to have (kernels::Row::length).
    Sequence(Model& model, int32_t n_tokens, int32_t length = 0);
    ~Sequence();
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;

    int32_t size() const { return n_tokens_; }  // tokens in the cache

 private:
    friend class Model;
    Model& model_;
    std::vector<int32_t> blocks_;
    int32_t n_tokens_ = 0, length_ = 0;
};

/// Consecutive tokens of one sequence in a step.
struct StepPart {
    std::span<const int32_t> tokens;  // to be appended
    int32_t position = 0;             // of the first
    int32_t n_prompt = 0;             // length of the prompt: rows before it know it (kernels::Row::length)
    std::span<const int32_t> blocks;  // of the sequence, enough for all
};

/// A step on the device, with all that it reads.
class StepUnderWay;

class Model {
 public:
    ~Model();

    /// Before any weight is read. ctx 0 in the options: the model's own, reduced to what memory allows.
    static MemoryPlan plan(const ModelFolder& folder, const Format& format, const LoadOptions& options, const Log& log);

    static std::unique_ptr<Model> load(const ModelFolder& folder, const Format& format, const LoadOptions& options,
                                       const Progress& progress, const Log& log);

    const Decoder& decoder() const { return decoder_; }
    const Tokenizer& tokenizer() const { return *tokenizer_; }
    TokenTexts& token_texts() const { return *token_texts_; }           // thread-safe
    const std::vector<int32_t>& stop_ids() const { return stop_ids_; }  // ascending
    int32_t ctx() const { return ctx_; }
    int32_t n_vocab() const { return decoder_.spec.n_vocab; }
    int32_t n_sampled() const;           // ids below this have a token: padding rows of the head are never drawn
    void check_token(int32_t id) const;  // INVALID_ARGUMENT where it is not in the vocabulary
    std::string device() const;
    const LoadOptions& options() const { return options_; }
    bool has_weights() const { return device_ != nullptr; }

    /// Tokens of one step, prompts and decode together.
    int32_t max_step_rows() const { return max_step_rows_; }

    /// What part i of the device has allocated, in the order of MemoryPlan::parts.
    int32_t n_parts() const { return device_ ? device_->n_parts() : 0; }
    kernels::MemoryUse memory(int32_t part);

    /// One step: appends `tokens` (at most max_step_rows()) to the sequence and answers `wanted` (rows count from the
    /// first of `tokens`, at most max_step_wanted). Steps of several threads queue. CANCELLED leaves the sequence as it
    /// was.
    kernels::StepResult step(Sequence& sequence, std::span<const int32_t> tokens,
                             std::span<const kernels::Wanted> wanted, bool prefill,
                             const std::function<bool()>& cancelled);

    /// One step of several sequences, at most max_step_rows() tokens in all. Rows of `wanted` count through the parts.
    /// After an error or CANCELLED the tokens count as not appended.
    kernels::StepResult step(std::span<const StepPart> parts, std::span<const kernels::Wanted> wanted,
                             const std::function<bool()>& cancelled, std::span<const kernels::Adjust> adjusts = {});

    /// The same in two halves: up to two steps of a caller may be under way. With `before`, tokens may be
    /// kernels::chosen_before() of that step; null where another step came between or `before` has failed. `cancelled`
    /// is asked until submit returns. A step that nobody waits for is finished by the next one.
    std::shared_ptr<StepUnderWay> submit(std::span<const StepPart> parts, std::span<const kernels::Wanted> wanted,
                                         const std::function<bool()>& cancelled,
                                         std::span<const kernels::Adjust> adjusts = {},
                                         const StepUnderWay* before = nullptr);
    kernels::StepResult wait(StepUnderWay& step);  // once

    bool prefers_candidates() const { return device_ && device_->prefers_candidates(); }
    bool runs_ahead() const { return device_ && device_->runs_ahead(); }

    /// Prompt tokens for the next step of a prefill: as many as keep it within about 150 ms by what the steps so far
    /// took.
    int32_t prefill_rows() const { return rows_per_step_.load(std::memory_order_relaxed); }

    /// Equal for two rows where keys and values of one serve the other: every rope turns by the same angles at both
    /// lengths, and where the load is deterministic the device computes both in the same way.
    int64_t rope_key(int32_t position, int32_t length) const;

    BlockPool& blocks() { return *blocks_; }  // where there are weights

 private:
    Model() = default;

    Decoder decoder_;
    LoadOptions options_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::unique_ptr<TokenTexts> token_texts_;
    std::vector<int32_t> stop_ids_;
    std::unique_ptr<kernels::Device> device_;
    kernels::Kv kv_;
    int32_t ctx_ = 0, max_step_rows_ = 0;

    std::shared_ptr<StepUnderWay> make_step(std::span<const StepPart> parts, std::span<const kernels::Wanted> wanted,
                                            std::span<const kernels::Adjust> adjusts, bool chosen_before) const;
    // In the caller's turn.
    void start(const std::shared_ptr<StepUnderWay>& step, const std::function<bool()>& cancelled);
    void finish(StepUnderWay& step);
    void finish_all();

    DeviceQueue device_queue_;                              // turns on the device, and what follows
    std::vector<std::shared_ptr<StepUnderWay>> under_way_;  // oldest first
    std::shared_ptr<StepUnderWay> latest_;                  // under way or not
    std::unique_ptr<BlockPool> blocks_;
    std::atomic<int32_t> rows_per_step_{16};
};

/// Ids that end a generation: eos of config.json and generation_config.json, the tokenizer's, and its end-of-turn
/// tokens by name. Ascending.
std::vector<int32_t> find_stop_ids(const ModelConfig& config, const Tokenizer& tokenizer);

}  // namespace quantplug::engine
