#include "kernels/step.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

Status invalid(std::string message) { return Status::error(invalid_argument, std::move(message)); }

std::string text(int64_t value) { return std::to_string(value); }

Status check_matrix(const Handles& handles, Matrix matrix, int32_t k, int32_t n, const std::string& name) {
    int32_t got_k = 0, got_n = 0;
    if (!handles.matrix_size(matrix, &got_k, &got_n))
        return invalid("the model's " + name + " matrix is not on this device");
    if (got_k != k || got_n != n) {
        return invalid("the model's " + name + " matrix is " + text(got_k) + " x " + text(got_n) +
                       ", its dimensions ask for " + text(k) + " x " + text(n));
    }
    return {};
}

Status check_norm(const Handles& handles, const NormSpec& norm, int32_t width, const std::string& name) {
    if (norm.kind == NormSpec::none) return {};
    if (norm.kind != NormSpec::rms)
        return invalid("the model's " + name + " has a kind that this library does not know");
    if (!std::isfinite(norm.eps) || norm.eps < 0)
        return invalid("the model's " + name + " has an epsilon that is negative or not finite");
    int32_t size = 0;
    if (!handles.vector_size(norm.weight, &size))
        return invalid("the weights of the model's " + name + " are not on this device");
    if (size != width)
        return invalid("the model's " + name + " has " + text(size) + " weights for " + text(width) + " values");
    return {};
}

Status check_layer(const ModelSpec& spec, const LayerSpec& layer, const Handles& handles, const std::string& name) {
    const int32_t hidden = spec.hidden_size, inner = spec.intermediate_size;
    const int32_t q_width = spec.n_heads * spec.head_dim, kv_width = spec.n_kv_heads * spec.head_dim;
    const struct {
        Matrix matrix;
        int32_t k, n;
        const char* name;
    } matrices[] = {{layer.q, hidden, q_width, "q"},     {layer.k, hidden, kv_width, "k"},
                    {layer.v, hidden, kv_width, "v"},    {layer.o, q_width, hidden, "o"},
                    {layer.gate, hidden, inner, "gate"}, {layer.up, hidden, inner, "up"},
                    {layer.down, inner, hidden, "down"}};
    for (const auto& m : matrices) {
        if (Status status = check_matrix(handles, m.matrix, m.k, m.n, name + " " + m.name); !status.ok()) return status;
    }
    const struct {
        const NormSpec& norm;
        int32_t width;
        const char* name;
    } norms[] = {{layer.attention_norm, hidden, "attention norm"},
                 {layer.mlp_norm, hidden, "mlp norm"},
                 {layer.q_norm, spec.head_dim, "q norm"},
                 {layer.k_norm, spec.head_dim, "k norm"}};
    for (const auto& n : norms) {
        if (Status status = check_norm(handles, n.norm, n.width, name + " " + n.name); !status.ok()) return status;
    }
    if (layer.activation != Activation::silu)
        return invalid("the model's " + name + " has an activation that this library does not know");
    if (layer.window < 0) return invalid("the model's " + name + " has a window of " + text(layer.window) + " keys");
    if (layer.rope < -1 || layer.rope >= int32_t(spec.ropes.size())) {
        return invalid("the model's " + name + " names rope " + text(layer.rope) + " of " +
                       text(int64_t(spec.ropes.size())));
    }
    if (layer.device != 0)
        return invalid("the model's " + name + " is on device " + text(layer.device) + "; there is one");
    return {};
}

}  // namespace

Status check_dimensions(const ModelSpec& spec) {
    const struct {
        int32_t value, least, most;
        const char* name;
    } numbers[] = {{spec.hidden_size, 1, 1 << 24, "hidden_size"},
                   {spec.intermediate_size, 1, 1 << 24, "intermediate_size"},
                   {spec.n_vocab, 1, 1 << 26, "n_vocab"},
                   {spec.n_heads, 1, 1 << 13, "n_heads"},
                   {spec.n_kv_heads, 1, 1 << 13, "n_kv_heads"},
                   {spec.head_dim, 2, max_head_dim, "head_dim"},
                   {spec.max_positions, 1, 1 << 24, "max_positions"}};
    for (const auto& number : numbers) {
        if (number.value < number.least || number.value > number.most) {
            return invalid(std::string(number.name) + " is " + text(number.value) + ", outside " + text(number.least) +
                           ".." + text(number.most));
        }
    }
    if (spec.head_dim % 2) return invalid("head_dim is " + text(spec.head_dim) + ", not a multiple of 2");
    if (spec.n_heads % spec.n_kv_heads) {
        return invalid("n_heads " + text(spec.n_heads) + " is not a multiple of n_kv_heads " + text(spec.n_kv_heads));
    }
    if (!std::isfinite(spec.attention_scale)) return invalid("attention_scale is not finite");
    for (const RopeSpec& rope : spec.ropes) {
        if (rope.inv_freq.empty() || rope.inv_freq.size() > size_t(spec.head_dim) / 2) {
            return invalid("a rope has " + text(int64_t(rope.inv_freq.size())) + " frequencies for heads of " +
                           text(spec.head_dim));
        }
        if (!std::isfinite(rope.scale)) return invalid("a rope's scale is not finite");
        for (float frequency : rope.inv_freq) {
            // The angles stay where the range reduction is exact to 1e-7.
            if (!std::isfinite(frequency) || std::fabs(frequency) > 64)
                return invalid("a rope's frequency is not finite or above 64");
        }
    }
    return {};
}

Status check_model(const ModelSpec& spec, const Handles& handles) {
    if (Status status = check_dimensions(spec); !status.ok()) return status;
    for (size_t i = 0; i < spec.layers.size(); ++i) {
        if (Status status = check_layer(spec, spec.layers[i], handles, "layer " + text(int64_t(i))); !status.ok())
            return status;
    }
    if (Status status = check_norm(handles, spec.final_norm, spec.hidden_size, "final norm"); !status.ok())
        return status;
    if (Status status = check_matrix(handles, spec.embedding, spec.hidden_size, spec.n_vocab, "embedding");
        !status.ok())
        return status;
    return check_matrix(handles, spec.head, spec.hidden_size, spec.n_vocab, "head");
}

Status check_kv(const ModelSpec& spec, const KvSpec& kv) {
    if (Status status = check_dimensions(spec); !status.ok()) return status;
    if (kv.type != KvSpec::f32 && kv.type != KvSpec::f16) return invalid("the KV cache's type is neither f32 nor f16");
    if (kv.block_tokens < 1 || kv.block_tokens > 1 << 20)
        return invalid("block_tokens is " + text(kv.block_tokens) + ", outside 1..1048576");
    if (kv.n_blocks < 1) return invalid("the KV cache has " + text(kv.n_blocks) + " blocks");
    return {};
}

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
