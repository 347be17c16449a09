// Steps of a loaded model, and the blocks of its cache.
#include <algorithm>
#include <chrono>

#include "engine/base/error.h"
#include "engine/model/graph.h"
#include "engine/model/model.h"

namespace quantplug::engine {

namespace {

constexpr double step_seconds =
    0.150;  // a step lasts at most about 200 ms, so that cancel and other streams need not wait longer
constexpr int32_t min_step_rows = 8;

}  // namespace

Sequence::Sequence(Model& model, int32_t n_tokens) : model_(model) {
    if (!model.has_weights())
        fail(Code::failed_precondition, "the model was loaded with vocab_only: it has no weights");
    const size_t need = size_t((n_tokens + kv_block_tokens - 1) / kv_block_tokens);
    const std::lock_guard lock(model.blocks_mutex_);
    if (need > model.free_blocks_.size())
        fail(Code::resource_exhausted, "the cache has room for ", model.free_blocks_.size() * size_t(kv_block_tokens),
             " more tokens and ", n_tokens, " are asked for; close other sequences or load with a larger ctx");
    blocks_.assign(model.free_blocks_.end() - ptrdiff_t(need), model.free_blocks_.end());
    model.free_blocks_.resize(model.free_blocks_.size() - need);
}

Sequence::~Sequence() {
    const std::lock_guard lock(model_.blocks_mutex_);
    // Room was reserved when the blocks were taken out: this cannot fail.
    model_.free_blocks_.insert(model_.free_blocks_.end(), blocks_.begin(), blocks_.end());
}

int32_t Model::n_sampled() const { return std::min(tokenizer_->size(), decoder_.spec.n_vocab); }

std::string Model::device() const { return device_ ? device_->describe() : "none"; }

void Model::check_token(int32_t id) const {
    if (id < 0 || id >= decoder_.spec.n_vocab)
        fail(Code::invalid_argument, "token id ", id, " is not in the vocabulary of ", decoder_.spec.n_vocab, " ids");
}

kernels::StepResult Model::step(Sequence& sequence, std::span<const int32_t> tokens,
                                std::span<const kernels::Wanted> wanted, bool prefill,
                                const std::function<bool()>& cancelled) {
    const int64_t room = int64_t(sequence.blocks_.size()) * kv_block_tokens;
    if (tokens.empty() || int32_t(tokens.size()) > max_step_rows ||
        int64_t(sequence.n_tokens_) + int64_t(tokens.size()) > std::min<int64_t>(room, ctx_))
        fail(Code::out_of_range, "a step of ", tokens.size(), " tokens after ", sequence.n_tokens_,
             " does not fit the context of ", ctx_);
    std::vector<kernels::Row> rows(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
        check_token(tokens[i]);
        rows[i] = {0, tokens[i], sequence.n_tokens_ + int32_t(i)};
    }

    const std::lock_guard lock(step_mutex_);
    const auto start = std::chrono::steady_clock::now();
    const kernels::Step step{.rows = rows,
                             .kv = kv_,
                             .block_table = sequence.blocks_,
                             .max_blocks = int32_t(sequence.blocks_.size()),
                             .wanted = wanted,
                             .prefill = prefill};
    kernels::StepResult result;
    const kernels::Status status =
        device_->wait(device_->submit(decoder_.spec, step, decoder_walk(decoder_.spec, cancelled)), &result);
    if (!status.ok()) fail(Code(status.code), status.message.empty() ? "the step was cancelled" : status.message);
    sequence.n_tokens_ += int32_t(tokens.size());

    if (prefill && int32_t(tokens.size()) >= min_step_rows) {
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const double rows_in_time = double(tokens.size()) * step_seconds / std::max(seconds, 1e-6);
        rows_per_step_.store(std::clamp(int32_t(std::min(rows_in_time, 1e6)), min_step_rows, max_step_rows),
                             std::memory_order_relaxed);
    }
    return result;
}

}  // namespace quantplug::engine
