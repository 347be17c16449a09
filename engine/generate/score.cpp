#include "engine/generate/score.h"

#include <algorithm>

#include "engine/base/error.h"

namespace quantplug::engine {

namespace {

constexpr size_t logits_rows = 16;  // rows of a step of LogitsPass: 16 x 152k floats are 10 MB

void check_length(const Model& model, size_t n, size_t least) {
    if (n < least || n > size_t(model.ctx()))
        fail(Code::out_of_range, n, " token ids are given; from ", least, " to the context of ", model.ctx(),
             " can be scored");
}

}  // namespace

void score(Model& model, std::span<const int32_t> ids, std::span<float> logprobs, const Progress& progress,
           const std::function<bool()>& cancelled) {
    check_length(model, ids.size(), 2);
    if (logprobs.size() != ids.size() - 1)
        fail(Code::invalid_argument, "room for ", logprobs.size(), " values instead of ", ids.size() - 1);
    const size_t n = ids.size() - 1;  // the last id is only predicted
    Sequence sequence(model, int32_t(n), int32_t(ids.size()));
    std::vector<kernels::Wanted> wanted;
    for (size_t done = 0; done < n;) {
        if (progress && !progress(double(done) / double(n), "scoring")) fail(Code::cancelled, "scoring was cancelled");
        const size_t rows = std::min({n - done, size_t(model.prefill_rows()), size_t(max_step_wanted)});
        wanted.clear();
        for (size_t i = 0; i < rows; ++i)
            wanted.push_back({int32_t(i), kernels::Wanted::logprob_of, ids[done + i + 1]});
        const kernels::StepResult result = model.step(sequence, ids.subspan(done, rows), wanted, true, cancelled);
        std::copy_n(result.values.begin(), rows, logprobs.begin() + ptrdiff_t(done));
        done += rows;
    }
}

LogitsPass::LogitsPass(Model& model, std::vector<int32_t> ids)
    : model_(model),
      ids_((check_length(model, ids.size(), 1), std::move(ids))),
      sequence_(model, int32_t(ids_.size()), int32_t(ids_.size())) {}

std::span<const float> LogitsPass::next(uint64_t* position, const std::function<bool()>& cancelled) {
    const size_t n_vocab = size_t(model_.n_vocab());
    if (next_ == ids_.size()) return {};
    if (next_ == first_ + rows_.size() / n_vocab) {
        const size_t rows = std::min({ids_.size() - next_, size_t(model_.prefill_rows()), logits_rows});
        std::vector<kernels::Wanted> wanted;
        for (size_t i = 0; i < rows; ++i) wanted.push_back({int32_t(i), kernels::Wanted::logits, 0});
        rows_ =
            model_.step(sequence_, std::span<const int32_t>(ids_).subspan(next_, rows), wanted, true, cancelled).values;
        first_ = next_;
    }
    const std::span<const float> row(rows_.data() + (next_ - first_) * n_vocab, n_vocab);
    *position = next_++;
    return row;
}

}  // namespace quantplug::engine
