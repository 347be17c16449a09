// A tiny random model on any device, and the walk of its graph.
#pragma once

#include <doctest/doctest.h>

#include "support.h"

namespace quantplug::test {

enum class QkNorm { none, shared, per_head, full };

struct TinyOptions {
    Compute compute = Compute::standard;
    int32_t n_heads = 4, n_kv_heads = 2, head_dim = 16, hidden = 64, inner = 96, n_vocab = 101, n_layers = 2,
            window = 0;
    bool tied_quantised = false, dense = false, bias = false, perm = false;
    int32_t max_positions = 64;

    Block block = Block::sequential;
    NormSpec::Kind norm = NormSpec::rms;
    bool norm_weight = true, norm_bias = false;  // of kind layer
    bool pre_norms = true, mlp_norm = true, post_norms = false, final_norm = true;
    float residual_scale = 1;
    Activation activation = Activation::silu;
    bool plain_mlp = false;

    QkNorm qk_norm = QkNorm::none;
    bool qk_norm_after_rope = false;
    float attention_scale = 0, softcap = 0, clip_qkv = 0;  // the scale: of the odd layers
    bool alibi = false, rope = true;
    int32_t rotary_dim = 0;  // 0: head_dim
    bool interleaved = false, longrope = false;
    int32_t length_limit = 0;
    double rope_factor = 4;

    int32_t n_experts = 0, top_k = 2, expert_inner = 48, shared_inner = 0;  // layer 0 stays dense
    bool renormalise = false, shared_gate = false;

    float embedding_scale = 1;
    bool embedding_norm = false, head_bias = false;
    int32_t embedding_size = 0, position_offset = -1;  // -1: no learned positions
    float logit_scale = 1, logit_softcap = 0;
};

/// A model is its options and a seed: every matrix is drawn from a generator of its own, so that a switch changes
/// nothing but what it switches. The embedding of the last token is NaN where it is dense: see poison() below.
struct TinyModel {
    TinyOptions options;
    uint64_t seed;

    TinyModel(const TinyOptions& o, uint64_t s) : options(o), seed(s) {}
};

inline bool walk_all(const ModelSpec& spec, Ops& ops) {
    const Activations x = ops.embed(spec);
    for (size_t l = 0; l < spec.layers.size(); ++l) {
        const LayerSpec& layer = spec.layers[l];
        const bool parallel = layer.block == Block::parallel, dense = layer.moe.experts.empty();
        Activations h;
        const auto mlp = [&] { dense ? void(h = ops.gate_up_act(spec, layer, x)) : ops.moe_add(spec, layer, x); };
        const Activations attended = ops.rope_append_attend(spec, layer, int32_t(l), ops.norm_qkv(spec, layer, x));
        if (parallel) mlp();
        ops.project_add(spec, layer, attended, x);
        if (!parallel) mlp();
        if (dense) ops.down_add(spec, layer, h, x);
    }
    ops.head_sample(spec, x);
    return true;
}

/// One device with the model packed, a KV cache and its scratch; the parts of a split one take equal shares of the
/// layers.
class Loaded {
 public:
    std::unique_ptr<Device> device;
    ModelSpec spec;
    KvSpec kv_spec;
    Kv kv;

    Loaded(std::unique_ptr<Device> d, const TinyModel& model, int32_t max_rows, int32_t max_wanted, KvSpec kv_options)
        : device(std::move(d)), kv_spec(kv_options), o_(model.options), seed_(model.seed) {
        numbers();
        const int32_t n_parts = device->n_parts();
        for (int32_t l = 0; l < o_.n_layers; ++l) {
            const int32_t part = l * n_parts / o_.n_layers;
            device->select(part);
            spec.layers.push_back(layer(l));
            spec.layers.back().device = part;
        }
        device->select(0);
        draw_from(-1);
        const int32_t embedded = o_.embedding_size ? o_.embedding_size : o_.hidden;
        if (o_.tied_quantised) {
            const auto both = random_quant({"", embedded, o_.n_vocab, groups_of(6, embedded, 32)}, random_, 1);
            spec.embedding = spec.head = pack(both->source);
            if (n_parts > 1) {
                device->select(n_parts - 1);
                spec.head = pack(both->source);
            }
        } else {
            const auto embedding = random_dense(embedded, o_.n_vocab, DType::f16, false, random_, 1);
            std::memset(embedding->bytes.data() + size_t(o_.n_vocab - 1) * size_t(embedded) * 2, 0x7e,
                        size_t(embedded) * 2);
            spec.embedding = pack(embedding->source);
            device->select(n_parts - 1);
            spec.head = pack(random_dense(embedded, o_.n_vocab, DType::f16, o_.head_bias, random_, 0.3f)->source);
        }
        draw_from(-2);
        device->select(n_parts - 1);
        if (o_.final_norm) spec.final_norm = norm(o_.hidden, o_.norm);
        device->select(0);
        if (o_.embedding_norm) spec.embedding_norm = norm(o_.hidden, o_.norm);
        if (o_.position_offset >= 0) {
            spec.position_offset = o_.position_offset;
            spec.positions = pack(
                random_dense(o_.hidden, o_.max_positions + o_.position_offset, DType::f16, false, random_, 1)->source);
        }
        if (o_.embedding_size) {
            spec.project_in = pack(random_dense(embedded, o_.hidden, DType::f16, false, random_, 0.2f)->source);
            device->select(n_parts - 1);
            spec.project_out = pack(random_dense(o_.hidden, embedded, DType::f16, false, random_, 0.2f)->source);
        }
        REQUIRE(device->prepare(spec, max_rows, max_wanted).ok());
        const Status status = device->make_kv(spec, kv_spec, &kv);
        REQUIRE_MESSAGE(status.ok(), status.message);
    }

    Status run(const std::vector<Row>& rows, const std::vector<int32_t>& table, int32_t max_blocks,
               const std::vector<Wanted>& wanted, StepResult* result) {
        const Step step{rows, kv, table, max_blocks, wanted, rows.size() > 1};
        return device->wait(device->submit(spec, step, [&](Ops& ops) { return walk_all(spec, ops); }), result);
    }

    /// Fills the scratch with NaN, by a step of as many rows as it has. Writes positions 0 .. n-1 of sequence 0.
    void poison(int32_t n, const std::vector<int32_t>& table, int32_t max_blocks) {
        if (o_.tied_quantised) return;
        std::vector<Row> rows;
        std::vector<Wanted> wanted;
        for (int32_t r = 0; r < n; ++r) {
            rows.push_back({0, o_.n_vocab - 1, r, 0});
            wanted.push_back({r, Wanted::logits, 0});
        }
        StepResult result;
        const Status status = run(rows, table, max_blocks, wanted, &result);
        REQUIRE_MESSAGE(status.ok(), status.message);
        REQUIRE(std::isnan(result.values.back()));
    }

 private:
    void draw_from(int32_t part) { random_.seed(seed_ + uint64_t(part) * 0x9e3779b97f4a7c15u); }
    template <class Source>
    Matrix pack(const Source& source) {
        Matrix matrix;
        const Status status = device->pack(source, &matrix);
        REQUIRE_MESSAGE(status.ok(), status.message);
        return matrix;
    }
    Vector vector(int32_t n, float mean, float sigma) {
        std::vector<float> values(static_cast<size_t>(n));
        for (float& value : values) value = mean + gauss(random_, sigma);
        Vector v;
        REQUIRE(device->upload(values, &v).ok());
        return v;
    }
    NormSpec norm(int32_t n, NormSpec::Kind kind) {
        NormSpec spec_norm{kind, 1e-5f, {}, {}};
        if (kind == NormSpec::rms || o_.norm_weight) spec_norm.weight = vector(n, 1, 0.1f);
        if (kind == NormSpec::layer && o_.norm_bias) spec_norm.bias = vector(n, 0, 0.3f);
        return spec_norm;
    }
    // Widths, types and zero points take turns by part.
    Matrix matrix(int32_t part, int32_t k, int32_t n, const std::vector<int32_t>* perm = nullptr) {
        draw_from(part);
        if (o_.dense) {
            const DType types[] = {DType::f32, DType::f16, DType::bf16};
            return pack(random_dense(k, n, types[part % 3], o_.bias, random_, 0.15f)->source);
        }
        auto data =
            random_quant({"", k, n, groups_of(2 + part % 7, k, 32), part % 2 == 0, false, o_.bias}, random_, 0.3f);
        if (o_.perm && perm) data->source.perm = *perm;
        return pack(data->source);
    }
    std::vector<int32_t> shuffled(int32_t part, int32_t k) {
        draw_from(part);
        std::vector<int32_t> perm(static_cast<size_t>(k));
        std::iota(perm.begin(), perm.end(), 0);
        std::shuffle(perm.begin(), perm.end(), random_);
        return perm;
    }
    Mlp mlp(int32_t part, int32_t inner, bool up_shares_order) {
        const auto in = shuffled(part + 3, o_.hidden), middle = shuffled(part + 4, inner);
        Mlp m;
        if (!o_.plain_mlp) m.gate = matrix(part, o_.hidden, inner, &in);
        m.up = matrix(part + 1, o_.hidden, inner, up_shares_order ? &in : nullptr);
        m.down = matrix(part + 2, inner, o_.hidden, &middle);
        return m;
    }

    void numbers() {
        spec.hidden_size = o_.hidden;
        spec.intermediate_size = o_.inner;
        spec.n_vocab = o_.n_vocab;
        spec.n_heads = o_.n_heads;
        spec.n_kv_heads = o_.n_kv_heads;
        spec.head_dim = o_.head_dim;
        spec.n_experts = o_.n_experts;
        spec.expert_intermediate_size = o_.n_experts ? o_.expert_inner : 0;
        spec.shared_intermediate_size = o_.shared_inner;
        spec.attention_scale = 1 / std::sqrt(float(o_.head_dim));
        spec.attention_softcap = o_.softcap;
        spec.clip_qkv = o_.clip_qkv;
        for (int32_t h = 0; o_.alibi && h < o_.n_heads; ++h) spec.alibi_slopes.push_back(std::ldexp(1.0f, -1 - h));
        spec.residual_scale = o_.residual_scale;
        spec.max_positions = o_.max_positions;
        spec.compute = o_.compute;
        spec.embedding_size = o_.embedding_size;
        spec.embedding_scale = o_.embedding_scale;
        spec.logit_scale = o_.logit_scale;
        spec.logit_softcap = o_.logit_softcap;
        RopeSpec rope;
        const int32_t dims = o_.rotary_dim ? o_.rotary_dim : o_.head_dim;
        for (int32_t t = 0; t < dims / 2; ++t) {
            rope.inv_freq.push_back(std::pow(10000.0f, -2 * float(t) / float(dims)));
            if (o_.longrope) rope.long_inv_freq.push_back(rope.inv_freq.back() / (1 + float(t)));
        }
        rope.interleaved = o_.interleaved;
        rope.length_limit = o_.length_limit;
        rope.theta = 10000;
        rope.factor = o_.rope_factor;
        if (o_.longrope) rope.scale = 1.2f;
        spec.ropes = {rope};
    }

    LayerSpec layer(int32_t l) {
        const int32_t q_width = o_.n_heads * o_.head_dim, kv_width = o_.n_kv_heads * o_.head_dim, part = 1000 * l;
        LayerSpec layer;
        layer.block = o_.block;
        layer.activation = o_.activation;
        layer.window = l % 2 ? o_.window : 0;
        layer.rope = o_.rope ? 0 : -1;
        layer.attention_scale = l % 2 ? o_.attention_scale : 0;
        const auto order = shuffled(part, o_.hidden);
        layer.q = matrix(part + 1, o_.hidden, q_width, &order);
        layer.k = matrix(part + 2, o_.hidden, kv_width, &order);
        layer.v = matrix(part + 3, o_.hidden, kv_width, &order);
        layer.o = matrix(part + 4, q_width, o_.hidden);
        draw_from(part + 5);
        if (o_.pre_norms) layer.attention_norm = norm(o_.hidden, o_.norm);
        if (o_.pre_norms && o_.mlp_norm) layer.mlp_norm = norm(o_.hidden, o_.norm);
        draw_from(part + 6);
        if (o_.post_norms) {
            layer.attention_post_norm = norm(o_.hidden, o_.norm);
            layer.mlp_post_norm = norm(o_.hidden, o_.norm);
        }
        draw_from(part + 7);
        if (o_.qk_norm != QkNorm::none) {
            const bool one = o_.qk_norm == QkNorm::shared;
            layer.q_norm = norm(one ? o_.head_dim : q_width, o_.norm);
            layer.k_norm = norm(one ? o_.head_dim : kv_width, o_.norm);
            layer.qk_norm_full = o_.qk_norm == QkNorm::full;
            layer.qk_norm_after_rope = o_.qk_norm_after_rope;
        }
        if (o_.n_experts == 0 || l == 0) {
            const Mlp dense = mlp(part + 10, o_.inner, l == 0);
            layer.gate = dense.gate;
            layer.up = dense.up;
            layer.down = dense.down;
            return layer;
        }
        for (int32_t e = 0; e < o_.n_experts; ++e)
            layer.moe.experts.push_back(mlp(part + 100 + 10 * e, o_.expert_inner, e % 2));
        layer.moe.top_k = o_.top_k;
        layer.moe.renormalise = o_.renormalise;
        draw_from(part + 20);
        layer.moe.router = pack(random_dense(o_.hidden, o_.n_experts, DType::f16, false, random_, 0.15f)->source);
        if (o_.shared_inner) layer.moe.shared = mlp(part + 30, o_.shared_inner, true);
        draw_from(part + 40);
        if (o_.shared_gate)
            layer.moe.shared_gate = pack(random_dense(o_.hidden, 1, DType::f16, false, random_, 0.15f)->source);
        return layer;
    }

    const TinyOptions o_;
    const uint64_t seed_;
    Random random_;
};

// One block per 8 tokens, scattered; two sequences.
inline const KvSpec small_blocks{KvSpec::f32, 8, 40};

inline std::vector<int32_t> scrambled_table(Random& random, int32_t sequences, int32_t max_blocks) {
    std::vector<int32_t> blocks(static_cast<size_t>(small_blocks.n_blocks));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), random);
    blocks.resize(size_t(sequences * max_blocks));
    return blocks;
}

inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
        norm += double(b[i]) * double(b[i]);
    }
    return std::sqrt(error / norm);
}

// Logits of every row of two interleaved sequences of `length` tokens.
inline std::vector<float> run_all(Loaded& loaded, const std::vector<Row>& rows, const std::vector<int32_t>& table,
                                  int32_t max_blocks, const std::vector<size_t>& cuts) {
    std::vector<float> logits;
    size_t begin = 0;
    for (size_t end : cuts) {
        const std::vector<Row> piece(rows.begin() + int64_t(begin), rows.begin() + int64_t(end));
        std::vector<Wanted> wanted;
        for (size_t r = 0; r < piece.size(); ++r) wanted.push_back({int32_t(r), Wanted::logits, 0});
        StepResult result;
        const Status status = loaded.run(piece, table, max_blocks, wanted, &result);
        REQUIRE_MESSAGE(status.ok(), status.message);
        REQUIRE(result.values.size() == piece.size() * size_t(loaded.spec.n_vocab));
        logits.insert(logits.end(), result.values.begin(), result.values.end());
        begin = end;
    }
    return logits;
}

inline std::vector<Row> two_sequences(Random& random, int32_t length, int32_t n_vocab) {
    std::vector<Row> rows;
    for (int32_t p = 0; p < length; ++p) {
        // The first as decode has it, the second a prefill of known length. The last token is the poison.
        rows.push_back({0, below(random, n_vocab - 1), p, 0});
        rows.push_back({1, below(random, n_vocab - 1), p, length});
    }
    return rows;
}

}  // namespace quantplug::test
