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

class StepUnderWay {
 public:
    std::vector<kernels::Row> rows;
    std::vector<int32_t> table;
    std::vector<kernels::Wanted> wanted;
    std::vector<kernels::Adjust> adjusts;
    kernels::Step step;
    kernels::Ticket ticket;
    bool done = false;
    kernels::Status status;
    kernels::StepResult result;

    kernels::StepResult take() {
        if (!status.ok()) fail(Code(status.code), status.message.empty() ? "the step was cancelled" : status.message);
        return std::move(result);
    }
};

Model::~Model() { finish_all(); }

std::shared_ptr<StepUnderWay> Model::make_step(std::span<const StepPart> parts, std::span<const kernels::Wanted> wanted,
                                               std::span<const kernels::Adjust> adjusts, bool chosen_before) const {
    auto made = std::make_shared<StepUnderWay>();
    std::vector<kernels::Row>& rows = made->rows;
    size_t max_blocks = 1;
    bool prefill = false;
    for (size_t s = 0; s < parts.size(); ++s) {
        const StepPart& part = parts[s];
        const int64_t room = int64_t(part.blocks.size()) * kv_block_tokens;
        if (part.tokens.empty() || rows.size() + part.tokens.size() > size_t(max_step_rows_) ||
            int64_t(part.position) + int64_t(part.tokens.size()) > std::min<int64_t>(room, ctx_))
            fail(Code::out_of_range, "a step of ", part.tokens.size(), " tokens after ", part.position,
                 " does not fit the context of ", ctx_);
        for (size_t i = 0; i < part.tokens.size(); ++i) {
            if (!chosen_before || part.tokens[i] >= 0) check_token(part.tokens[i]);
            const int32_t position = part.position + int32_t(i);
            rows.push_back({int32_t(s), part.tokens[i], position, std::max(part.n_prompt, position + 1)});
        }
        max_blocks = std::max(max_blocks, part.blocks.size());
        prefill = prefill || part.position < part.n_prompt;
    }
    made->table.assign(parts.size() * max_blocks, -1);
    for (size_t s = 0; s < parts.size(); ++s)
        std::copy(parts[s].blocks.begin(), parts[s].blocks.end(), made->table.begin() + ptrdiff_t(s * max_blocks));
    made->wanted.assign(wanted.begin(), wanted.end());
    made->adjusts.assign(adjusts.begin(), adjusts.end());
    made->step = {.rows = rows,
                  .kv = kv_,
                  .block_table = made->table,
                  .max_blocks = int32_t(max_blocks),
                  .wanted = made->wanted,
                  .prefill = prefill,
                  .adjusts = made->adjusts,
                  .n_sampled = n_sampled()};
    return made;
}

void Model::start(const std::shared_ptr<StepUnderWay>& step, const std::function<bool()>& cancelled) {
    under_way_.reserve(under_way_.size() + 1);
    step->ticket = device_->submit(decoder_.spec, step->step, decoder_walk(decoder_.spec, cancelled));
    under_way_.push_back(step);
    latest_ = step;
}

void Model::finish(StepUnderWay& step) {
    while (!step.done) {
        StepUnderWay& oldest = *under_way_.front();
        oldest.status = device_->wait(oldest.ticket, &oldest.result);
        oldest.done = true;
        under_way_.erase(under_way_.begin());
    }
}

void Model::finish_all() {
    while (!under_way_.empty()) finish(*under_way_.front());
}

std::shared_ptr<StepUnderWay> Model::submit(std::span<const StepPart> parts, std::span<const kernels::Wanted> wanted,
                                            const std::function<bool()>& cancelled,
                                            std::span<const kernels::Adjust> adjusts, const StepUnderWay* before) {
    std::shared_ptr<StepUnderWay> step = make_step(parts, wanted, adjusts, before != nullptr);
    const std::lock_guard turn(device_queue_);
    if (!before)
        finish_all();
    else if (latest_.get() != before || (before->done && !before->status.ok()))
        return nullptr;
    start(step, cancelled);
    return step;
}

kernels::StepResult Model::wait(StepUnderWay& step) {
    const std::lock_guard turn(device_queue_);
    finish(step);
    return step.take();
}

kernels::StepResult Model::step(std::span<const StepPart> parts, std::span<const kernels::Wanted> wanted,
                                const std::function<bool()>& cancelled, std::span<const kernels::Adjust> adjusts) {
    const std::shared_ptr<StepUnderWay> step = make_step(parts, wanted, adjusts, false);
    const std::lock_guard turn(device_queue_);
    finish_all();
    const auto begin = std::chrono::steady_clock::now();
    start(step, cancelled);
    finish(*step);
    kernels::StepResult result = step->take();
    const int32_t n_rows = int32_t(step->rows.size());
    if (step->step.prefill && n_rows >= min_step_rows) {
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        const double rows_in_time = double(n_rows) * step_seconds / std::max(seconds, 1e-6);
        rows_per_step_.store(std::clamp(int32_t(std::min(rows_in_time, 1e6)), min_step_rows, max_step_rows_),
                             std::memory_order_relaxed);
    }
    return result;
}

int64_t Model::rope_key(int32_t position, int32_t length) const {
    // Lengths above a limit turn all alike (longrope), or each in its own way (dynamic).
    int64_t passed = 0;
    bool own = false;
    for (const kernels::RopeSpec& rope : decoder_.spec.ropes) {
        if (rope.length_limit == 0 || length <= rope.length_limit) continue;
        ++passed;
        own = own || rope.long_inv_freq.empty();
    }
    const int64_t path = options_.deterministic && device_ ? device_->path(position, length) : 0;
    return (own ? int64_t(length) << 32 : 0) + (path << 16) + passed;
}

kernels::MemoryUse Model::memory(int32_t part) {
    const std::lock_guard lock(device_queue_);
    device_->select(part);
    const kernels::MemoryUse use = device_->memory();
    device_->select(0);
    return use;
}

}  // namespace quantplug::engine
