// Both ends of the graph on the CPU: embedding, positions, and what a step wants of its logits.
#include <cstring>

#include "kernels/cpu/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

void CpuOps::load_hidden(Slot out) {
    const size_t width = size_t(spec_->hidden_size);
    for (int32_t r = 0; r < n_rows_; ++r)
        std::memcpy(row(out, r), step_->hidden_in.data() + size_t(r) * width, width * sizeof(float));
}

void CpuOps::store_hidden(Slot x) {
    const size_t width = size_t(spec_->hidden_size);
    result_->hidden.reserve(size_t(n_rows_) * width);
    for (int32_t r = 0; r < n_rows_; ++r) result_->hidden.insert(result_->hidden.end(), row(x, r), row(x, r) + width);
}

void CpuOps::embed_rows(Matrix embedding, float scale, Slot out) {
    const PackedMatrix& matrix = matrices[embedding.id];
    for_rows(n_rows_, [&](int32_t r) {
        float* to = row(out, r);
        embedding_row(matrix, step_->rows[size_t(r)].token, to);
        if (scale != 1) {
            for (int32_t i = 0; i < matrix.k; ++i) to[i] = to[i] * scale;
        }
    });
}

void CpuOps::add_positions(Matrix table, int32_t offset, Slot x) {
    const PackedMatrix& matrix = matrices[table.id];
    for_rows(n_rows_, [&](int32_t r) {
        float *to = row(x, r), *position = row(Slot::normed, r);  // free before the first layer
        embedding_row(matrix, step_->rows[size_t(r)].position + offset, position);
        for (int32_t i = 0; i < matrix.k; ++i) to[i] = to[i] + position[i];
    });
}

void CpuOps::select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) {
    n_wanted_ = int32_t(wanted.size());
    for (int32_t i = 0; i < n_wanted_; ++i)
        std::memcpy(row(out, i), row(x, wanted[size_t(i)].row), size_t(width) * sizeof(float));
}

void CpuOps::cap_logits(Slot logits, int32_t width, float scale, float softcap) {
    run_parallel(threads_, [&](int32_t index, int32_t total) {
        const int32_t begin = int32_t(cut(width, index, total)), end = int32_t(cut(width, index + 1, total));
        for (int32_t i = 0; i < n_wanted_; ++i) table_.cap(row(logits, i) + begin, end - begin, scale, softcap);
    });
}

void CpuOps::emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) {
    int32_t best[wanted_block] = {};
    double sums[wanted_block][2] = {};
    size_t first[wanted_block] = {};  // of its candidates
    size_t n_candidates = result->candidates.size();
    for (int32_t i = 0; i < n_wanted_; ++i) {
        first[i] = n_candidates;
        if (wanted[size_t(i)].what == Wanted::candidates) n_candidates += size_t(wanted[size_t(i)].n);
    }
    result->candidates.resize(n_candidates);
    const auto some = [&](int64_t begin, int64_t end) {
        Chooser chooser;
        for (int64_t i = begin; i < end; ++i) {
            const Wanted& one = wanted[size_t(i)];
            if (one.what == Wanted::candidates)
                choose_candidates(one, row(logits, i), n_vocab, chooser, result->candidates.data() + first[i], sums[i]);
            else if (one.what != Wanted::logits)
                table_.log_sum(row(logits, i), n_vocab, &best[i], &sums[i][0]);
        }
    };
    if (n_wanted_ == 1 || threads_ == 1) {
        some(0, n_wanted_);
    } else {
        run_parallel(threads_, [&](int32_t index, int32_t total) {
            some(cut(n_wanted_, index, total), cut(n_wanted_, index + 1, total));
        });
    }
    for (int32_t i = 0; i < n_wanted_; ++i) {
        const float* row_logits = row(logits, i);
        const Wanted& one = wanted[size_t(i)];
        switch (one.what) {
            case Wanted::logits:
                result->values.insert(result->values.end(), row_logits, row_logits + n_vocab);
                break;
            case Wanted::argmax:
                result->tokens.push_back(best[i]);
                result->values.push_back(float(double(row_logits[best[i]]) - sums[i][0]));
                break;
            case Wanted::logprob_of:
                result->values.push_back(float(double(row_logits[one.token]) - sums[i][0]));
                break;
            case Wanted::candidates:
                result->values.push_back(float(sums[i][0]));
                result->values.push_back(float(sums[i][1]));
                break;
        }
    }
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
