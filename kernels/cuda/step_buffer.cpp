#include "kernels/cuda/step_buffer.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/cuda/scratch.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

namespace {

uint64_t aligned(uint64_t bytes) { return round_up(bytes, 64); }

}  // namespace

void StepBuffer::plan(const ScratchLayout& layout) {
    const uint64_t n_rows = count_of(row_bucket(layout.max_rows)), n_wanted = count_of(row_bucket(layout.max_wanted));
    n_adjusts_ = saturating_mul(n_wanted, most_adjusts_per_row);
    n_table_ = saturating_mul(std::min<uint64_t>(n_rows, most_sequences), count_of(layout.max_blocks));
    uint64_t at = aligned(sizeof(StepHeader));
    const auto take = [&](uint64_t bytes) {
        const uint64_t offset = at;
        at = saturating_add(at, aligned(bytes));
        return offset;
    };
    rows_ = take(n_rows * sizeof(StepRow));
    wanted_ = take(n_wanted * sizeof(StepWanted));
    tiles_ = take(n_rows * sizeof(RowTile));
    table_ = take(saturating_mul(n_table_, sizeof(int32_t)));
    adjusts_ = take(saturating_mul(n_adjusts_, sizeof(AdjustRecord)));
    total_ = at;
}

uint64_t StepBuffer::bytes(const ScratchLayout& layout) {
    StepBuffer buffer;
    buffer.plan(layout);
    return buffer.total_;
}

Status StepBuffer::prepare(const ScratchLayout& layout, uint8_t* device) {
    plan(layout);
    device_ = device;
    order_.reserve(size_t(layout.max_rows));
    places_.reserve(size_t(layout.max_rows));
    sequences_.reserve(most_sequences);
    return Block::make(total_, Block::host, &host_);
}

StepView StepBuffer::view() const {
    return {reinterpret_cast<const StepHeader*>(device_), reinterpret_cast<const StepRow*>(device_ + rows_),
            reinterpret_cast<const int32_t*>(device_ + table_), reinterpret_cast<const StepWanted*>(device_ + wanted_)};
}

Status StepBuffer::write(const Step& step, int32_t block_tokens, StepShape* shape) {
    const int32_t n = int32_t(step.rows.size());
    const auto prompt = [&](int32_t r) {
        const Row& row = step.rows[size_t(r)];
        return is_prompt_row(row.position, row.length);
    };
    order_.resize(size_t(n));
    for (int32_t r = 0; r < n; ++r) order_[size_t(r)] = r;
    const auto middle = std::stable_partition(order_.begin(), order_.end(), [&](int32_t r) { return !prompt(r); });
    std::sort(middle, order_.end(), [&](int32_t a, int32_t b) {
        const Row &x = step.rows[size_t(a)], &y = step.rows[size_t(b)];
        return x.sequence != y.sequence ? x.sequence < y.sequence : x.position < y.position;
    });
    StepShape out;
    out.n_rows = n;
    out.n_decode = int32_t(middle - order_.begin());
    out.n_wanted = int32_t(step.wanted.size());
    out.decode_rows = out.n_decode == n ? row_bucket(n) : out.n_decode;
    out.rows = out.n_decode == n ? out.decode_rows : n;
    out.wanted = row_bucket(out.n_wanted);

    // Of the block table only the rows of sequences that the step has, and only so much of them as it reaches.
    sequences_.clear();
    int32_t max_blocks = 1;
    const auto index_of = [&](int32_t sequence) {
        const auto at = std::find(sequences_.begin(), sequences_.end(), sequence);
        if (at == sequences_.end()) sequences_.push_back(sequence);
        return int32_t(at - sequences_.begin());
    };
    auto* rows = reinterpret_cast<StepRow*>(host_.data() + rows_);
    places_.resize(size_t(n));
    for (int32_t i = 0; i < n; ++i) {
        const Row& row = step.rows[size_t(order_[size_t(i)])];
        const size_t known = sequences_.size();
        const int32_t sequence = index_of(row.sequence);
        if (sequences_.size() > most_sequences)
            return Status::error(invalid_argument, "a step on a CUDA device has at most " +
                                                       std::to_string(most_sequences) + " sequences");
        out.distinct = out.distinct && sequences_.size() > known;
        max_blocks = std::max(max_blocks, row.position / block_tokens + 1);
        const int32_t block =
            step.block_table[size_t(row.sequence) * size_t(step.max_blocks) + size_t(row.position / block_tokens)];
        rows[i] = {row.token, row.position, sequence, std::max(row.length, row.position + 1),
                   block * block_tokens + row.position % block_tokens};
        places_[size_t(order_[size_t(i)])] = i;
    }
    for (int32_t i = n; i < out.rows; ++i) rows[i] = {0, 0, -1, 1, -1};

    auto* tiles = reinterpret_cast<RowTile*>(host_.data() + tiles_);
    for (int32_t i = out.n_decode; i < n; ++i) {
        RowTile* last = out.n_tiles ? &tiles[out.n_tiles - 1] : nullptr;
        const bool joins = last && last->n_rows < prefill_tile_rows && rows[i - 1].sequence == rows[i].sequence &&
                           rows[i - 1].position + 1 == rows[i].position;
        if (joins)
            ++last->n_rows;
        else
            tiles[out.n_tiles++] = {i, 1};
    }

    auto* wanted = reinterpret_cast<StepWanted*>(host_.data() + wanted_);
    auto* adjusts = reinterpret_cast<AdjustRecord*>(host_.data() + adjusts_);
    uint64_t n_adjusts = 0;
    for (int32_t i = 0; i < out.n_wanted; ++i) {
        const Wanted& w = step.wanted[size_t(i)];
        wanted[i] = {place(w.row), w.what == Wanted::logprob_of ? w.token : 0, int32_t(n_adjusts), 0};
        if (w.what != Wanted::candidates) continue;
        out.n_candidates = std::max(out.n_candidates, w.n);
        if (n_adjusts + uint64_t(w.n_adjusts) > n_adjusts_)
            return Status::error(invalid_argument, "a step on a CUDA device changes at most " +
                                                       std::to_string(n_adjusts_) +
                                                       " logits before candidates are taken");
        wanted[i].n_adjusts = w.n_adjusts;
        for (int32_t a = 0; a < w.n_adjusts; ++a) {
            const Adjust& from = step.adjusts[size_t(w.first_adjust + a)];
            adjusts[n_adjusts++] = {from.token, from.repeat, from.add};
        }
    }
    for (int32_t i = out.n_wanted; i < out.wanted; ++i) wanted[i] = {0, 0, 0, 0};

    auto* table = reinterpret_cast<int32_t*>(host_.data() + table_);
    for (size_t s = 0; s < sequences_.size(); ++s) {
        const int32_t* from = step.block_table.data() + size_t(sequences_[s]) * size_t(step.max_blocks);
        const int32_t there = std::min(max_blocks, step.max_blocks);
        std::copy_n(from, there, table + s * size_t(max_blocks));
        std::fill_n(table + s * size_t(max_blocks) + there, max_blocks - there, 0);
    }
    *reinterpret_cast<StepHeader*>(host_.data()) = {n, max_blocks, out.n_wanted, int32_t(n_adjusts)};
    *shape = out;
    written_ = table_ + sequences_.size() * size_t(max_blocks) * sizeof(int32_t);
    adjusts_written_ = n_adjusts * sizeof(AdjustRecord);
    return {};
}

Status StepBuffer::upload(StreamHandle stream) const {
    if (Status status = copy_to_device(stream, device_, host_.data(), written_); !status.ok()) return status;
    if (!adjusts_written_) return {};
    return copy_to_device(stream, device_ + adjusts_, host_.data() + adjusts_, adjusts_written_);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
