#include "kernels/step.h"

#include <algorithm>
#include <string>

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

Status invalid(std::string message) { return Status::error(invalid_argument, std::move(message)); }

std::string text(int64_t value) { return std::to_string(value); }

}  // namespace

Status check_quant(const QuantSource& source) {
    if (Status status = validate(source); !status.ok()) return status;
    if (source.in_features > 1 << 24 || source.out_features > 1 << 26) {
        return invalid("a matrix of " + text(source.in_features) + " x " + text(source.out_features) +
                       " is larger than 2^24 x 2^26");
    }
    return {};
}

Status check_dense(const DenseSource& source) {
    if (source.in_features <= 0 || source.out_features <= 0 || source.in_features > 1 << 24 ||
        source.out_features > 1 << 26) {
        return invalid("a matrix of " + text(source.in_features) + " x " + text(source.out_features) +
                       " is outside 1..2^24 x 1..2^26");
    }
    if (source.dtype != DType::f32 && source.dtype != DType::f16 && source.dtype != DType::bf16) {
        return invalid("a dense matrix has a type that is none of f32, f16, bf16");
    }
    if (!source.bias.empty() && source.bias.size() != size_t(source.out_features)) {
        return invalid("there are " + text(int64_t(source.bias.size())) + " bias values for " +
                       text(source.out_features) + " columns");
    }
    if (!source.read_rows) return invalid("a dense matrix has no reader of its rows");
    return {};
}

Status check_step(const ModelSpec& spec, const Step& step, const KvSpec& kv, int32_t max_rows, int32_t max_wanted,
                  std::vector<int64_t>& slots) {
    if (step.rows.empty()) return invalid("a step has no rows");
    if (step.rows.size() > size_t(max_rows)) {
        return invalid("a step has " + text(int64_t(step.rows.size())) + " rows, prepared for " + text(max_rows));
    }
    if (step.wanted.size() > size_t(max_wanted)) {
        return invalid("a step wants " + text(int64_t(step.wanted.size())) + " rows of logits, prepared for " +
                       text(max_wanted));
    }
    if (step.max_blocks < 1 || step.block_table.size() % size_t(step.max_blocks)) {
        return invalid("a block table of " + text(int64_t(step.block_table.size())) +
                       " entries is not a multiple of max_blocks " + text(step.max_blocks));
    }
    const uint64_t n_hidden = spec.embeds ? 0 : uint64_t(step.rows.size()) * count_of(spec.hidden_size);
    if (step.hidden_in.size() != n_hidden) {
        return invalid("a step has " + text(int64_t(step.hidden_in.size())) + " hidden values, its rows take " +
                       text(int64_t(n_hidden)));
    }
    const int64_t n_sequences = int64_t(step.block_table.size() / size_t(step.max_blocks));
    slots.clear();
    slots.resize(step.rows.size());
    int32_t checked_sequence = -1, checked_blocks = 0;  // a prefill's rows share one check
    for (size_t r = 0; r < step.rows.size(); ++r) {
        const Row& row = step.rows[r];
        const auto at = [&] { return " in row " + text(int64_t(r)); };
        if (row.token < 0 || row.token >= spec.n_vocab) {
            return invalid("token " + text(row.token) + at() + " is outside the vocabulary of " + text(spec.n_vocab));
        }
        if (row.position < 0 || row.position >= spec.max_positions) {
            return invalid("position " + text(row.position) + at() + " is outside the context of " +
                           text(spec.max_positions));
        }
        if (row.length < 0 || row.length > spec.max_positions) {
            return invalid("a length of " + text(row.length) + " tokens" + at() + " is outside the context of " +
                           text(spec.max_positions));
        }
        if (row.sequence < 0 || row.sequence >= n_sequences) {
            return invalid("sequence " + text(row.sequence) + at() + " is outside the block table of " +
                           text(n_sequences) + " sequences");
        }
        const int32_t needed = row.position / kv.block_tokens + 1;
        if (needed > step.max_blocks) {
            return invalid("position " + text(row.position) + at() + " needs " + text(needed) +
                           " blocks, the block table has " + text(step.max_blocks));
        }
        const int32_t* blocks = step.block_table.data() + int64_t(row.sequence) * step.max_blocks;
        for (int32_t b = row.sequence == checked_sequence ? checked_blocks : 0; b < needed; ++b) {
            if (blocks[b] < 0 || blocks[b] >= kv.n_blocks) {
                return invalid("block " + text(blocks[b]) + " of sequence " + text(row.sequence) +
                               " is outside the KV cache of " + text(kv.n_blocks) + " blocks");
            }
        }
        checked_blocks = row.sequence == checked_sequence ? std::max(checked_blocks, needed) : needed;
        checked_sequence = row.sequence;
        slots[r] = int64_t(blocks[needed - 1]) * kv.block_tokens + row.position % kv.block_tokens;
    }
    std::sort(slots.begin(), slots.end());
    if (std::adjacent_find(slots.begin(), slots.end()) != slots.end()) {
        return invalid("two rows of a step write the same place of the KV cache");
    }
    for (size_t w = 0; w < step.wanted.size(); ++w) {
        const Wanted& wanted = step.wanted[w];
        if (wanted.row < 0 || size_t(wanted.row) >= step.rows.size()) {
            return invalid("row " + text(wanted.row) + " is wanted of a step of " + text(int64_t(step.rows.size())) +
                           " rows");
        }
        if (wanted.what != Wanted::argmax && wanted.what != Wanted::logits && wanted.what != Wanted::logprob_of) {
            return invalid("a step wants something that is none of argmax, logits, logprob_of");
        }
        if (wanted.what == Wanted::logprob_of && (wanted.token < 0 || wanted.token >= spec.n_vocab)) {
            return invalid("the log-probability of token " + text(wanted.token) +
                           " is wanted, outside the vocabulary of " + text(spec.n_vocab));
        }
    }
    return {};
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
