#include "kernels/step.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

Status invalid(std::string message) { return Status::error(invalid_argument, std::move(message)); }

std::string text(int64_t value) { return std::to_string(value); }

Status check_chosen(int32_t token, size_t row, const StepBefore* before) {
    const int64_t i = -1 - int64_t(token);
    const std::string name =
        "row " + text(int64_t(row)) + " takes the token of wanted " + text(i) + " of the step before";
    if (!before || before->failed) {
        return Status::error(failed_precondition,
                             name + ", which failed, was cancelled or never came; submit the row with its token");
    }
    if (i >= int64_t(before->wanted.size()))
        return invalid(name + ", which wanted " + text(int64_t(before->wanted.size())));
    if (before->wanted[size_t(i)] != Wanted::argmax) return invalid(name + ", which was not an argmax");
    return {};
}

Status check_candidates(const ModelSpec& spec, const Step& step, const Wanted& wanted) {
    if (wanted.n < 1 || wanted.n > max_candidates)
        return invalid(text(wanted.n) + " candidates are wanted, outside 1.." + text(max_candidates));
    const int64_t n_adjusts = int64_t(step.adjusts.size());
    if (wanted.first_adjust < 0 || wanted.n_adjusts < 0 ||
        int64_t(wanted.first_adjust) + wanted.n_adjusts > n_adjusts) {
        return invalid("adjustments " + text(wanted.first_adjust) + " to " +
                       text(int64_t(wanted.first_adjust) + wanted.n_adjusts) + " are outside the step's " +
                       text(n_adjusts));
    }
    if (wanted.n_adjusts > max_adjusts)
        return invalid(text(wanted.n_adjusts) + " logits of a row are adjusted, more than " + text(max_adjusts));
    for (const Adjust& a : step.adjusts.subspan(size_t(wanted.first_adjust), size_t(wanted.n_adjusts))) {
        if (a.token < 0 || a.token >= spec.n_vocab) {
            return invalid("the logit of token " + text(a.token) + " is adjusted, outside the vocabulary of " +
                           text(spec.n_vocab));
        }
        if (!(a.repeat > 0) || !std::isfinite(a.repeat) || std::isnan(a.add) || a.add == INFINITY) {
            return invalid("the adjustment of token " + text(a.token) + " divides by " + std::to_string(a.repeat) +
                           " and adds " + std::to_string(a.add) +
                           "; the one must be positive and finite, the other finite or -infinity");
        }
    }
    return {};
}

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

void keep_chosen(const Step& step, const StepResult& result, StepBefore& before, std::vector<int32_t>& chosen) {
    before.wanted.clear();
    chosen.clear();
    if (step.wanted.empty() || (result.tokens.empty() && result.values.empty())) return;  // a stage without a head
    size_t n = 0;
    for (const Wanted& wanted : step.wanted) {
        before.wanted.push_back(wanted.what);
        chosen.push_back(wanted.what == Wanted::argmax ? result.tokens[n++] : -1);
    }
}

std::span<const Row> KnownRows::fill(std::span<const Row> rows, std::span<const int32_t> chosen) {
    if (std::all_of(rows.begin(), rows.end(), [](const Row& row) { return row.token >= 0; })) return rows;
    rows_.assign(rows.begin(), rows.end());
    for (Row& row : rows_) {
        if (row.token < 0) row.token = chosen[size_t(-1 - row.token)];
    }
    return rows_;
}

Status check_step(const ModelSpec& spec, const Step& step, const KvSpec& kv, int32_t max_rows, int32_t max_wanted,
                  std::vector<int64_t>& slots, const StepBefore* before) {
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
    if (step.n_sampled < 0 || step.n_sampled > spec.n_vocab) {
        return invalid("ids below " + text(step.n_sampled) + " may be drawn, outside the vocabulary of " +
                       text(spec.n_vocab));
    }
    const int64_t n_sequences = int64_t(step.block_table.size() / size_t(step.max_blocks));
    slots.clear();
    slots.resize(step.rows.size());
    int32_t checked_sequence = -1, checked_blocks = 0;  // a prefill's rows share one check
    for (size_t r = 0; r < step.rows.size(); ++r) {
        const Row& row = step.rows[r];
        const auto at = [&] { return " in row " + text(int64_t(r)); };
        if (row.token < 0) {
            if (Status status = check_chosen(row.token, r, before); !status.ok()) return status;
        } else if (row.token >= spec.n_vocab) {
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
        if (wanted.what > Wanted::candidates)
            return invalid("a step wants something that is none of argmax, logits, logprob_of, candidates");
        if (wanted.what == Wanted::logprob_of && (wanted.token < 0 || wanted.token >= spec.n_vocab)) {
            return invalid("the log-probability of token " + text(wanted.token) +
                           " is wanted, outside the vocabulary of " + text(spec.n_vocab));
        }
        if (wanted.what != Wanted::candidates) continue;
        if (Status status = check_candidates(spec, step, wanted); !status.ok()) return status;
    }
    return {};
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
