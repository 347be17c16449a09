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
#include "engine/tokenizer/tokenizer.h"
#include "kernels/device.h"

namespace quantplug::engine {

struct LoadOptions {
    std::string device = "auto";  // auto, cpu, cuda[:N]
    kernels::Compute compute = kernels::Compute::standard;
    int32_t threads = 0;                                      // 0: physical cores, affinity and cgroup quota
    int32_t ctx = 0;                                          // 0: the model's own, or what memory allows
    bool vocab_only = false;                                  // tokenizer and configuration, no weights
    int32_t max_streams = 16;                                 // generations that run at once, at most max_streams_limit
    int32_t cache_tokens = 0;                                 // of all sequences together; 0: ctx
    kernels::KvSpec::Type cache_mode = kernels::KvSpec::f16;  // Compute::exact: FP32 in place of f16
};

/// Bytes. Equal to what a load allocates.
struct MemoryPlan {
    int32_t ctx = 0, cache_tokens = 0;
    uint64_t weights = 0, kv_cache = 0, scratch = 0, other = 0, available = 0;
    uint64_t total() const;  // saturating: a part may be UINT64_MAX, more than any machine has
};

using Progress = std::function<bool(double fraction, const char* what)>;  // false cancels
using Log = std::function<void(const std::string& line)>;                 // warnings

inline constexpr int32_t kv_block_tokens = 64;
inline constexpr int32_t max_step_rows = 128;   // prompt tokens of one step
inline constexpr int32_t max_step_wanted = 32;  // rows of logits of one step, more where there are more streams
inline constexpr int32_t max_streams_limit = 64;

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

class Model {
 public:
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

    /// One step: appends `tokens` (at most max_step_rows) to the sequence and answers `wanted` (rows count from the
    /// first of `tokens`, at most max_step_wanted). Steps of several threads queue. CANCELLED leaves the sequence as it
    /// was.
    kernels::StepResult step(Sequence& sequence, std::span<const int32_t> tokens,
                             std::span<const kernels::Wanted> wanted, bool prefill,
                             const std::function<bool()>& cancelled);

    /// One step of several sequences, at most max_step_rows tokens in all. Rows of `wanted` count through the parts.
    /// After an error or CANCELLED the tokens count as not appended.
    kernels::StepResult step(std::span<const StepPart> parts, std::span<const kernels::Wanted> wanted,
                             const std::function<bool()>& cancelled);

    /// Prompt tokens for the next step of a prefill: as many as keep it within about 150 ms by what the steps so far
    /// took.
    int32_t prefill_rows() const { return rows_per_step_.load(std::memory_order_relaxed); }

    /// Equal for two lengths where every rope turns by the same angles at both: keys and values of one serve the other.
    int64_t rope_key(int32_t length) const;

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
    int32_t ctx_ = 0;

    DeviceQueue device_queue_;  // one step at a time
    std::unique_ptr<BlockPool> blocks_;
    std::atomic<int32_t> rows_per_step_{16};
};

/// Ids that end a generation: eos of config.json and generation_config.json, the tokenizer's, and its end-of-turn
/// tokens by name. Ascending.
std::vector<int32_t> find_stop_ids(const ModelConfig& config, const Tokenizer& tokenizer);

}  // namespace quantplug::engine
