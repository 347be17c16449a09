#include "kernels/split/stage_spec.h"

#include <bit>
#include <string>
#include <type_traits>

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace split {
namespace {

Status invalid(std::string message) { return Status::error(invalid_argument, std::move(message)); }

class Translation {
 public:
    Translation(int32_t part, const PlacedHandles& matrices, const PlacedHandles& vectors)
        : part_(part), matrices_(matrices), vectors_(vectors) {}

    void operator()(Matrix& matrix) const { matrix.id = matrices_.on(part_, matrix.id); }
    void operator()(NormSpec& norm) const {
        norm.weight.id = vectors_.on(part_, norm.weight.id);
        norm.bias.id = vectors_.on(part_, norm.bias.id);
    }
    void operator()(Mlp& mlp) const { each(mlp.gate, mlp.up, mlp.down); }
    void operator()(MoeSpec& moe) const {
        each(moe.router, moe.shared, moe.shared_gate);
        for (Mlp& expert : moe.experts) (*this)(expert);
    }
    void operator()(LayerSpec& l) const {
        each(l.attention_norm, l.attention_post_norm, l.mlp_norm, l.mlp_post_norm, l.q_norm, l.k_norm);
        each(l.q, l.k, l.v, l.o, l.gate, l.up, l.down, l.moe);
    }
    template <class... Fields>
    void each(Fields&... fields) const {
        ((*this)(fields), ...);
    }

 private:
    int32_t part_;
    const PlacedHandles &matrices_, &vectors_;
};

// The bindings name every field: a new one does not compile until it is part of the image.
class ImageWriter {
 public:
    explicit ImageWriter(SpecImage& out) : out_(out) {}

    template <class... Values>
    void put(const Values&... values) {
        (one(values), ...);
    }

 private:
    template <class T>
    void one(const T& value) {
        if constexpr (std::is_same_v<T, float>) {
            out_.push_back(std::bit_cast<uint32_t>(value));
        } else if constexpr (std::is_same_v<T, double>) {
            const auto bits = std::bit_cast<uint64_t>(value);
            put(uint32_t(bits), uint32_t(bits >> 32));
        } else {
            static_assert(std::is_enum_v<T> || (std::is_integral_v<T> && sizeof(T) <= 4));
            out_.push_back(uint32_t(value));
        }
    }
    template <class T>
    void one(const std::vector<T>& values) {
        put(uint32_t(values.size()));
        for (const T& value : values) one(value);
    }
    void one(const Matrix& matrix) { put(matrix.id); }
    void one(const Vector& vector) { put(vector.id); }
    void one(const NormSpec& norm) {
        const auto& [kind, eps, weight, bias] = norm;
        put(kind, eps, weight, bias);
    }
    void one(const RopeSpec& rope) {
        const auto& [inv_freq, scale, interleaved, length_limit, long_inv_freq, theta, factor] = rope;
        put(inv_freq, scale, interleaved, length_limit, long_inv_freq, theta, factor);
    }
    void one(const Mlp& mlp) {
        const auto& [gate, up, down] = mlp;
        put(gate, up, down);
    }
    void one(const MoeSpec& moe) {
        const auto& [router, experts, top_k, renormalise, shared, shared_gate] = moe;
        put(router, experts, top_k, renormalise, shared, shared_gate);
    }
    void one(const LayerSpec& layer) {
        const auto& [block, attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, q_norm, k_norm, qk_norm_full,
                     qk_norm_after_rope, q, k, v, o, gate, up, down, moe, activation, attention_scale, window, rope,
                     device] = layer;
        put(block, attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, q_norm, k_norm, qk_norm_full,
            qk_norm_after_rope, q, k, v, o, gate, up, down, moe, activation, attention_scale, window, rope, device);
    }

 public:
    void one(const ModelSpec& spec) {
        const auto& [hidden_size, intermediate_size, n_vocab, n_heads, n_kv_heads, head_dim, n_experts,
                     expert_intermediate_size, shared_intermediate_size, attention_scale, attention_softcap, clip_qkv,
                     alibi_slopes, residual_scale, max_positions, ropes, layers, final_norm, embedding, head,
                     embedding_size, project_in, project_out, embedding_scale, embedding_norm, positions,
                     position_offset, logit_scale, logit_softcap, compute, embeds, has_head] = spec;
        put(hidden_size, intermediate_size, n_vocab, n_heads, n_kv_heads, head_dim, n_experts, expert_intermediate_size,
            shared_intermediate_size, attention_scale, attention_softcap, clip_qkv, alibi_slopes, residual_scale,
            max_positions, ropes, layers, final_norm, embedding, head, embedding_size, project_in, project_out,
            embedding_scale, embedding_norm, positions, position_offset, logit_scale, logit_softcap, compute, embeds,
            has_head);
    }

 private:
    SpecImage& out_;
};

}  // namespace

Status check_stages(const ModelSpec& whole, int32_t n_parts) {
    int32_t expected = 0;  // the stage of the layer before
    for (size_t i = 0; i < whole.layers.size(); ++i) {
        const int32_t device = whole.layers[i].device;
        const std::string layer = "the model's layer " + std::to_string(i) + " is on device " + std::to_string(device);
        if (device < 0 || device >= n_parts) return invalid(layer + "; there are " + std::to_string(n_parts));
        if (device < expected) return invalid(layer + ", the one before on " + std::to_string(expected));
        if (device > expected + (i > 0 ? 1 : 0))
            return invalid(layer + ": device " + std::to_string(device - 1) + " has none");
        expected = device;
    }
    if (whole.layers.empty() || expected != n_parts - 1) {
        return invalid("the model's " + std::to_string(whole.layers.size()) + " layers leave device " +
                       std::to_string(n_parts - 1) + " without one; give each device at least one layer");
    }
    return {};
}

ModelSpec stage_spec(const ModelSpec& whole, int32_t part, int32_t n_parts, const PlacedHandles& matrices,
                     const PlacedHandles& vectors) {
    ModelSpec stage = whole;
    std::erase_if(stage.layers, [&](const LayerSpec& layer) { return layer.device != part; });
    const Translation translate(part, matrices, vectors);
    for (LayerSpec& layer : stage.layers) {
        layer.device = 0;
        translate(layer);
    }
    stage.embeds = whole.embeds && part == 0;
    stage.has_head = whole.has_head && part == n_parts - 1;
    if (!stage.embeds) {
        stage.embedding = stage.project_in = stage.positions = {};
        stage.embedding_norm = {};
    }
    if (!stage.has_head) {
        stage.head = stage.project_out = {};
        stage.final_norm = {};
    }
    translate.each(stage.embedding, stage.project_in, stage.positions, stage.embedding_norm);
    translate.each(stage.head, stage.project_out, stage.final_norm);
    return stage;
}

void write_image(const ModelSpec& spec, SpecImage& out) {
    out.clear();
    ImageWriter(out).one(spec);
}

}  // namespace split
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
