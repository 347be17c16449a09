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

Sequence::Sequence(Model& model, int32_t n_tokens, int32_t length) : model_(model), length_(length) {
    if (!model.has_weights())
        fail(Code::failed_precondition, "the model was loaded with vocab_only: it has no weights");
    const size_t need = size_t((n_tokens + kv_block_tokens - 1) / kv_block_tokens);
    if (!model.blocks().allocate(need, blocks_)) {
        const BlockPool::Counts counts = model.blocks().counts();
        fail(Code::resource_exhausted, "the cache has room for ",
             int64_t(counts.free + counts.cached) * kv_block_tokens, " more tokens and ", n_tokens,
             " are asked for; close other sequences or load with more cache_tokens");
    }
}

Sequence::~Sequence() {
    model_.blocks().release(blocks_);
    model_.blocks().announce();
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
    const int32_t end = sequence.n_tokens_ + int32_t(tokens.size());
    const StepPart part{tokens, sequence.n_tokens_, prefill ? std::max(sequence.length_, end) : 0, sequence.blocks_};
    kernels::StepResult result = step({&part, 1}, wanted, cancelled);
    sequence.n_tokens_ = end;
    return result;
}

kernels::StepResult Model::step(std::span<const StepPart> parts, std::span<const kernels::Wanted> wanted,
                                const std::function<bool()>& cancelled) {
    std::vector<kernels::Row> rows;
    size_t max_blocks = 1;
    bool prefill = false;
    for (size_t s = 0; s < parts.size(); ++s) {
        const StepPart& part = parts[s];
        const int64_t room = int64_t(part.blocks.size()) * kv_block_tokens;
        if (part.tokens.empty() || rows.size() + part.tokens.size() > size_t(max_step_rows) ||
            int64_t(part.position) + int64_t(part.tokens.size()) > std::min<int64_t>(room, ctx_))
            fail(Code::out_of_range, "a step of ", part.tokens.size(), " tokens after ", part.position,
                 " does not fit the context of ", ctx_);
        for (size_t i = 0; i < part.tokens.size(); ++i) {
            check_token(part.tokens[i]);
            const int32_t position = part.position + int32_t(i);
            rows.push_back({int32_t(s), part.tokens[i], position, std::max(part.n_prompt, position + 1)});
        }
        max_blocks = std::max(max_blocks, part.blocks.size());
        prefill = prefill || part.position < part.n_prompt;
    }
    std::vector<int32_t> table(parts.size() * max_blocks, -1);
    for (size_t s = 0; s < parts.size(); ++s)
        std::copy(parts[s].blocks.begin(), parts[s].blocks.end(), table.begin() + ptrdiff_t(s * max_blocks));

    const std::lock_guard lock(device_queue_);
    const auto start = std::chrono::steady_clock::now();
    const kernels::Step step{.rows = rows,
                             .kv = kv_,
                             .block_table = table,
                             .max_blocks = int32_t(max_blocks),
                             .wanted = wanted,
                             .prefill = prefill};
    kernels::StepResult result;
    const kernels::Status status =
        device_->wait(device_->submit(decoder_.spec, step, decoder_walk(decoder_.spec, cancelled)), &result);
    if (!status.ok()) fail(Code(status.code), status.message.empty() ? "the step was cancelled" : status.message);

    if (prefill && int32_t(rows.size()) >= min_step_rows) {
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const double rows_in_time = double(rows.size()) * step_seconds / std::max(seconds, 1e-6);
        rows_per_step_.store(std::clamp(int32_t(std::min(rows_in_time, 1e6)), min_step_rows, max_step_rows),
                             std::memory_order_relaxed);
    }
    return result;
}

int64_t Model::rope_key(int32_t length) const {
    // Lengths above a limit turn all alike (longrope), or each in its own way (dynamic).
    int64_t passed = 0;
    bool own = false;
    for (const kernels::RopeSpec& rope : decoder_.spec.ropes) {
        if (rope.length_limit == 0 || length <= rope.length_limit) continue;
        ++passed;
        own = own || rope.long_inv_freq.empty();
    }
    return own ? (int64_t(length) << 32) + passed : passed;
}

}  // namespace quantplug::engine
