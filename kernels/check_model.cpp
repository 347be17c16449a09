// Specs that do not fit their matrices, or hold numbers that no device computes with.
#include <cmath>
#include <string>

#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

Status invalid(std::string message) { return Status::error(invalid_argument, std::move(message)); }

std::string text(int64_t value) { return std::to_string(value); }

bool sane(float value) { return std::isfinite(value); }
bool limit(float value) { return std::isfinite(value) && value >= 0; }

// Names a part of the model; put into words only where something is wrong with it.
struct Part {
    static constexpr int64_t none = -1, shared = -2;
    int64_t layer = none, expert = none;
    const char* name = "";

    std::string words() const {
        return "the model's " + (layer >= 0 ? "layer " + text(layer) + " " : std::string()) +
               (expert >= 0        ? "expert " + text(expert) + " "
                : expert == shared ? "shared expert "
                                   : std::string()) +
               name;
    }
};

class Checker {
 public:
    Checker(const ModelSpec& spec, const Handles& handles) : spec_(spec), handles_(handles) {}

    Status matrix(Matrix matrix, int32_t k, int32_t n, const Part& part) const {
        int32_t got_k = 0, got_n = 0;
        if (!handles_.matrix_size(matrix, &got_k, &got_n))
            return invalid(part.words() + " matrix is not on this device");
        if (got_k != k || got_n != n) {
            return invalid(part.words() + " matrix is " + text(got_k) + " x " + text(got_n) +
                           ", its dimensions ask for " + text(k) + " x " + text(n));
        }
        return {};
    }

    // `heads`: a weight may also hold a piece for each of so many heads.
    Status norm(const NormSpec& norm, int32_t width, int32_t heads, const Part& part) const {
        if (norm.kind == NormSpec::none) return {};
        if (norm.kind != NormSpec::rms && norm.kind != NormSpec::layer)
            return invalid(part.words() + " has a kind that this library does not know");
        if (!limit(norm.eps)) return invalid(part.words() + " has an epsilon that is negative or not finite");
        if (norm.kind == NormSpec::rms && (!norm.weight.id || norm.bias.id))
            return invalid(part.words() + " is rms: it takes weights, and no bias");
        int32_t sizes[2] = {};
        const Vector vectors[2] = {norm.weight, norm.bias};
        for (int i = 0; i < 2; ++i) {
            if (!vectors[i].id) continue;
            if (!handles_.vector_size(vectors[i], &sizes[i]))
                return invalid("the weights of " + part.words() + " are not on this device");
            if (sizes[i] != width && int64_t(sizes[i]) != int64_t(width) * heads)
                return invalid(part.words() + " has " + text(sizes[i]) + " weights for " + text(width) + " values");
        }
        if (sizes[0] && sizes[1] && sizes[0] != sizes[1])
            return invalid(part.words() + " has a bias of another size than its weights");
        return {};
    }

    // gate absent: a plain MLP.
    Status mlp(const Mlp& mlp, int32_t inner, Part part) const {
        const auto one = [&](Matrix m, int32_t k, int32_t n, const char* name) {
            part.name = name;
            return matrix(m, k, n, part);
        };
        const int32_t hidden = spec_.hidden_size;
        if (mlp.gate.id) {
            if (Status status = one(mlp.gate, hidden, inner, "gate"); !status.ok()) return status;
        }
        if (Status status = one(mlp.up, hidden, inner, "up"); !status.ok()) return status;
        return one(mlp.down, inner, hidden, "down");
    }

    Status experts(const MoeSpec& moe, int64_t index) const {
        const int32_t hidden = spec_.hidden_size;
        if (moe.experts.size() != size_t(spec_.n_experts)) {
            return invalid("the model's layer " + text(index) + " has " + text(int64_t(moe.experts.size())) +
                           " experts, n_experts is " + text(spec_.n_experts));
        }
        if (moe.top_k < 1 || moe.top_k > spec_.n_experts) {
            return invalid("the model's layer " + text(index) + " takes " + text(moe.top_k) + " of " +
                           text(spec_.n_experts) + " experts");
        }
        if (Status status = matrix(moe.router, hidden, spec_.n_experts, {index, Part::none, "router"}); !status.ok())
            return status;
        for (size_t e = 0; e < moe.experts.size(); ++e) {
            if (Status status = mlp(moe.experts[e], spec_.expert_intermediate_size, {index, int64_t(e), ""});
                !status.ok())
                return status;
        }
        if (!moe.shared.down.id) {
            return moe.shared.up.id || moe.shared.gate.id || moe.shared_gate.id
                       ? invalid("the model's layer " + text(index) + " has half of a shared expert")
                       : Status{};
        }
        if (Status status = mlp(moe.shared, spec_.shared_intermediate_size, {index, Part::shared, ""}); !status.ok())
            return status;
        return moe.shared_gate.id ? matrix(moe.shared_gate, hidden, 1, {index, Part::none, "shared_gate"}) : Status{};
    }

    Status layer(const LayerSpec& layer, int64_t index) const {
        const int32_t hidden = spec_.hidden_size, dim = spec_.head_dim;
        const int32_t q_width = spec_.n_heads * dim, kv_width = spec_.n_kv_heads * dim;
        const struct {
            Matrix matrix;
            int32_t k, n;
            const char* name;
        } matrices[] = {{layer.q, hidden, q_width, "q"},
                        {layer.k, hidden, kv_width, "k"},
                        {layer.v, hidden, kv_width, "v"},
                        {layer.o, q_width, hidden, "o"}};
        for (const auto& m : matrices) {
            if (Status status = matrix(m.matrix, m.k, m.n, {index, Part::none, m.name}); !status.ok()) return status;
        }
        const bool full = layer.qk_norm_full;
        const struct {
            const NormSpec& norm;
            int32_t width, heads;
            const char* name;
        } norms[] = {{layer.attention_norm, hidden, 1, "attention norm"},
                     {layer.attention_post_norm, hidden, 1, "attention post norm"},
                     {layer.mlp_norm, hidden, 1, "mlp norm"},
                     {layer.mlp_post_norm, hidden, 1, "mlp post norm"},
                     {layer.q_norm, full ? q_width : dim, full ? 1 : spec_.n_heads, "q norm"},
                     {layer.k_norm, full ? kv_width : dim, full ? 1 : spec_.n_kv_heads, "k norm"}};
        for (const auto& n : norms) {
            if (Status status = norm(n.norm, n.width, n.heads, {index, Part::none, n.name}); !status.ok())
                return status;
        }
        if (Status status = layer.moe.experts.empty() ? mlp({layer.gate, layer.up, layer.down}, spec_.intermediate_size,
                                                            {index, Part::none, ""})
                                                      : experts(layer.moe, index);
            !status.ok())
            return status;
        const auto wrong = [&](const std::string& what) { return invalid("the model's layer " + text(index) + what); };
        if (layer.activation > Activation::relu2) return wrong(" has an activation that this library does not know");
        if (layer.block > Block::post) return wrong(" has a block form that this library does not know");
        if (layer.block == Block::parallel &&
            (layer.attention_post_norm.kind != NormSpec::none || layer.mlp_post_norm.kind != NormSpec::none))
            return wrong(" is parallel: it takes no norms after attention and MLP");
        if (layer.block == Block::post && spec_.residual_scale != 1)
            return wrong(" is post-normed: it takes no residual_scale");
        if (!sane(layer.attention_scale)) return wrong(" has an attention_scale that is not finite");
        if (layer.window < 0) return wrong(" has a window of " + text(layer.window) + " keys");
        if (layer.rope < -1 || layer.rope >= int32_t(spec_.ropes.size()))
            return wrong(" names rope " + text(layer.rope) + " of " + text(int64_t(spec_.ropes.size())));
        if (layer.device != 0) return wrong(" is on device " + text(layer.device) + "; there is one");
        return {};
    }

    // What is outside the layers.
    Status ends() const {
        if (spec_.embeds) {
            if (Status status = first_end(); !status.ok()) return status;
        }
        return spec_.has_head ? last_end() : Status{};
    }

 private:
    int32_t embedded() const { return spec_.embedding_size ? spec_.embedding_size : spec_.hidden_size; }

    // What turns tokens into the residual stream.
    Status first_end() const {
        const int32_t hidden = spec_.hidden_size;
        if (Status status = norm(spec_.embedding_norm, hidden, 1, {Part::none, Part::none, "embedding norm"});
            !status.ok())
            return status;
        if (Status status = matrix(spec_.embedding, embedded(), spec_.n_vocab, {Part::none, Part::none, "embedding"});
            !status.ok())
            return status;
        if (spec_.embedding_size && (spec_.project_in.id || embedded() != hidden)) {
            if (Status status = matrix(spec_.project_in, embedded(), hidden, {Part::none, Part::none, "project_in"});
                !status.ok())
                return status;
        }
        if (!spec_.embedding_size && spec_.project_in.id)
            return invalid("the model has a project_in and no embedding_size");
        if (!spec_.positions.id) return {};
        int32_t width = 0, count = 0;
        if (!handles_.matrix_size(spec_.positions, &width, &count) || width != hidden)
            return invalid("the model's position table is not on this device, or not " + text(hidden) + " wide");
        if (int64_t(spec_.max_positions) + spec_.position_offset > count) {
            return invalid("a context of " + text(spec_.max_positions) + " positions leaves the model's table of " +
                           text(int64_t(count) - spec_.position_offset) + "; take a smaller context");
        }
        return {};
    }

    // What turns the residual stream into logits.
    Status last_end() const {
        const int32_t hidden = spec_.hidden_size;
        if (Status status = norm(spec_.final_norm, hidden, 1, {Part::none, Part::none, "final norm"}); !status.ok())
            return status;
        if (Status status = matrix(spec_.head, embedded(), spec_.n_vocab, {Part::none, Part::none, "head"});
            !status.ok())
            return status;
        if (spec_.embedding_size && (spec_.project_out.id || embedded() != hidden)) {
            if (Status status = matrix(spec_.project_out, hidden, embedded(), {Part::none, Part::none, "project_out"});
                !status.ok())
                return status;
        }
        if (!spec_.embedding_size && spec_.project_out.id)
            return invalid("the model has a project_out and no embedding_size");
        return {};
    }

    const ModelSpec& spec_;
    const Handles& handles_;
};

Status check_rope(const ModelSpec& spec, const RopeSpec& rope) {
    if (rope.inv_freq.empty() || rope.inv_freq.size() > size_t(spec.head_dim) / 2) {
        return invalid("a rope has " + text(int64_t(rope.inv_freq.size())) + " frequencies for heads of " +
                       text(spec.head_dim));
    }
    if (!sane(rope.scale)) return invalid("a rope's scale is not finite");
    for (const auto* list : {&rope.inv_freq, &rope.long_inv_freq}) {
        for (float frequency : *list) {
            // The angles stay where the range reduction is exact to 1e-7.
            if (!sane(frequency) || std::fabs(frequency) > 64)
                return invalid("a rope's frequency is not finite or above 64");
        }
    }
    if (rope.length_limit < 0) return invalid("a rope's length_limit is " + text(rope.length_limit));
    if (rope.length_limit == 0) return {};
    if (!rope.long_inv_freq.empty()) {
        return rope.long_inv_freq.size() == rope.inv_freq.size()
                   ? Status{}
                   : invalid("a rope has " + text(int64_t(rope.long_inv_freq.size())) +
                             " frequencies beyond its length_limit, " + text(int64_t(rope.inv_freq.size())) +
                             " below it");
    }
    if (rope.inv_freq.size() < 2) return invalid("a rope that depends on the length turns fewer than 4 dimensions");
    // theta' stays finite, and its frequencies at most 1.
    if (!(rope.theta >= 1 && rope.theta <= 1e12) || !(rope.factor >= 1 && rope.factor <= 1e6))
        return invalid("a rope's theta is outside 1..1e12, or its factor outside 1..1e6");
    return {};
}

}  // namespace

Status check_dimensions(const ModelSpec& spec) {
    const struct {
        int32_t value, least, most;
        const char* name;
    } numbers[] = {{spec.hidden_size, 1, 1 << 24, "hidden_size"},
                   {spec.intermediate_size, 0, 1 << 24, "intermediate_size"},
                   {spec.n_vocab, 1, 1 << 26, "n_vocab"},
                   {spec.n_heads, 1, 1 << 13, "n_heads"},
                   {spec.n_kv_heads, 1, 1 << 13, "n_kv_heads"},
                   {spec.head_dim, 2, max_head_dim, "head_dim"},
                   {spec.n_experts, 0, 1 << 16, "n_experts"},
                   {spec.expert_intermediate_size, spec.n_experts > 0 ? 1 : 0, 1 << 24, "expert_intermediate_size"},
                   {spec.shared_intermediate_size, 0, 1 << 24, "shared_intermediate_size"},
                   {spec.embedding_size, 0, 1 << 24, "embedding_size"},
                   {spec.position_offset, 0, 1 << 24, "position_offset"},
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
    if (!sane(spec.attention_scale)) return invalid("attention_scale is not finite");
    if (!sane(spec.residual_scale) || !sane(spec.embedding_scale) || !sane(spec.logit_scale))
        return invalid("residual_scale, embedding_scale or logit_scale is not finite");
    if (!limit(spec.attention_softcap) || !limit(spec.logit_softcap) || !limit(spec.clip_qkv))
        return invalid("attention_softcap, logit_softcap or clip_qkv is negative or not finite");
    if (!spec.alibi_slopes.empty() && spec.alibi_slopes.size() != size_t(spec.n_heads)) {
        return invalid("there are " + text(int64_t(spec.alibi_slopes.size())) + " alibi_slopes for " +
                       text(spec.n_heads) + " heads");
    }
    for (float slope : spec.alibi_slopes) {
        if (!sane(slope)) return invalid("an alibi slope is not finite");
    }
    for (const RopeSpec& rope : spec.ropes) {
        if (Status status = check_rope(spec, rope); !status.ok()) return status;
    }
    return {};
}

Status check_model(const ModelSpec& spec, const Handles& handles) {
    if (Status status = check_dimensions(spec); !status.ok()) return status;
    const Checker checker(spec, handles);
    for (size_t i = 0; i < spec.layers.size(); ++i) {
        if (Status status = checker.layer(spec.layers[i], int64_t(i)); !status.ok()) return status;
    }
    return checker.ends();
}

Status check_kv(const ModelSpec& spec, const KvSpec& kv) {
    if (Status status = check_dimensions(spec); !status.ok()) return status;
    if (kv.type > KvSpec::q4) return invalid("the KV cache's type is none of f32, f16, q8, q4");
    if (kv.type == KvSpec::q4 && spec.head_dim % 32) {
        return invalid("a q4 KV cache needs a head_dim that is a multiple of 32, this model's is " +
                       text(spec.head_dim) + "; take q8 or f16");
    }
    if (kv.block_tokens < 1 || kv.block_tokens > 1 << 20)
        return invalid("block_tokens is " + text(kv.block_tokens) + ", outside 1..1048576");
    if (kv.n_blocks < 1) return invalid("the KV cache has " + text(kv.n_blocks) + " blocks");
    return {};
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
