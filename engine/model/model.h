// A loaded model: weights on a device, a KV cache cut in blocks, steps.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engine/model/decoder.h"
#include "engine/model/format.h"
#include "engine/tokenizer/tokenizer.h"
#include "kernels/device.h"

namespace quantplug::engine {

struct LoadOptions {
    std::string device = "auto";  // auto, cpu, cuda[:N]
    kernels::Compute compute = kernels::Compute::standard;
    int32_t threads = 0;      // 0: physical cores, affinity and cgroup quota
    int32_t ctx = 0;          // 0: the model's own, or what memory allows
    bool vocab_only = false;  // tokenizer and configuration, no weights
};

/// Bytes. Equal to what a load allocates.
struct MemoryPlan {
    int32_t ctx = 0;
    uint64_t weights = 0, kv_cache = 0, scratch = 0, other = 0, available = 0;
    uint64_t total() const;  // saturating: a part may be UINT64_MAX, more than any machine has
};

using Progress = std::function<bool(double fraction, const char* what)>;  // false cancels
using Log = std::function<void(const std::string& line)>;                 // warnings

inline constexpr int32_t kv_block_tokens = 64;
inline constexpr int32_t max_step_rows = 128;   // prompt tokens of one step
inline constexpr int32_t max_step_wanted = 32;  // rows of logits of one step

class Model;

/// A place in the cache for one sequence; gives its blocks back when it goes. One thread at a time.
class Sequence {
 public:
    /// Room for n_tokens. RESOURCE_EXHAUSTED with the numbers when other sequences hold the blocks.
    Sequence(Model& model, int32_t n_tokens);
    ~Sequence();
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;

    int32_t size() const { return n_tokens_; }  // tokens in the cache

 private:
    friend class Model;
    Model& model_;
    std::vector<int32_t> blocks_;
    int32_t n_tokens_ = 0;
};

class Model {
 public:
    /// Before any weight is read. ctx 0 in the options: the model's own, reduced to what memory allows.
    static MemoryPlan plan(const ModelFolder& folder, const Format& format, const LoadOptions& options, const Log& log);

    static std::unique_ptr<Model> load(const ModelFolder& folder, const Format& format, const LoadOptions& options,
                                       const Progress& progress, const Log& log);

    const Decoder& decoder() const { return decoder_; }
    const Tokenizer& tokenizer() const { return *tokenizer_; }
    const std::vector<int32_t>& stop_ids() const { return stop_ids_; }  // ascending
    int32_t ctx() const { return ctx_; }
    int32_t n_vocab() const { return decoder_.spec.n_vocab; }
    int32_t n_sampled() const;  // ids below this have a token: padding rows of the head are never drawn
    std::string device() const;
    const LoadOptions& options() const { return options_; }
    bool has_weights() const { return device_ != nullptr; }

    /// One step: appends `tokens` (at most max_step_rows) to the sequence and answers `wanted` (rows count from the
    /// first of `tokens`, at most max_step_wanted). Steps of several threads queue. CANCELLED leaves the sequence as it
    /// was.
    kernels::StepResult step(Sequence& sequence, std::span<const int32_t> tokens,
                             std::span<const kernels::Wanted> wanted, bool prefill,
                             const std::function<bool()>& cancelled);

    /// Prompt tokens for the next step of a prefill: as many as keep it within about 150 ms by what the steps so far
    /// took.
    int32_t prefill_rows() const { return rows_per_step_.load(std::memory_order_relaxed); }

 private:
    friend class Sequence;
    Model() = default;
    void load_weights(const ModelFolder& folder, const Format& format, const Progress& progress);
    void check_token(int32_t id) const;

    Decoder decoder_;
    LoadOptions options_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::vector<int32_t> stop_ids_;
    std::unique_ptr<kernels::Device> device_;
    kernels::Kv kv_;
    int32_t ctx_ = 0;

    std::mutex step_mutex_;  // the device, one step at a time
    std::mutex blocks_mutex_;
    std::vector<int32_t> free_blocks_;
    std::atomic<int32_t> rows_per_step_{16};
};

/// Ids that end a generation: eos of config.json and generation_config.json, the tokenizer's, and its end-of-turn
/// tokens by name. Ascending.
std::vector<int32_t> find_stop_ids(const ModelConfig& config, const Tokenizer& tokenizer);

}  // namespace quantplug::engine
