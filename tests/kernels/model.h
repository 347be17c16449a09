// A tiny random model on any device, and the walk of its graph.
#pragma once

#include <doctest/doctest.h>

#include "support.h"

namespace quantplug::test {

struct TinyOptions {
    Compute compute = Compute::standard;
    int32_t n_heads = 4, n_kv_heads = 2, head_dim = 16, hidden = 64, inner = 96, n_vocab = 101, n_layers = 2,
            window = 0;
    bool qk_norm = false, tied_quantised = false, dense = false, bias = false, perm = false;
    int32_t max_positions = 64;
};

/// The sources, made once from a seed, so that every device packs the same model.
struct TinyModel {
    TinyOptions options;
    struct Layer {
        std::unique_ptr<QuantData> q, k, v, o, gate, up, down;
        std::vector<float> attention_norm, mlp_norm, q_norm, k_norm;
    };
    std::vector<Layer> layers;
    std::vector<float> final_norm;
    std::unique_ptr<DenseData> embedding, head;
    std::unique_ptr<QuantData> quantised_head;
    std::vector<std::unique_ptr<DenseData>> dense;  // 7 a layer where options.dense

    TinyModel(const TinyOptions& o, uint64_t seed) : options(o) {
        Random random(seed);
        const int32_t q_width = o.n_heads * o.head_dim, kv_width = o.n_kv_heads * o.head_dim;
        const auto weights = [&](int32_t n) {
            std::vector<float> w(static_cast<size_t>(n));
            for (float& value : w) value = 1 + gauss(random, 0.1f);
            return w;
        };
        int32_t count = 0;
        const auto quant = [&](int32_t k, int32_t n, const std::vector<int32_t>* perm) {
            const int32_t bits = 2 + count++ % 7;
            auto data = random_quant({"", k, n, groups_of(bits, k, 32), count % 2 == 0, false, o.bias}, random, 0.3f);
            if (perm) data->source.perm = *perm;
            return data;
        };
        const auto shuffled = [&](int32_t k) {
            std::vector<int32_t> perm(static_cast<size_t>(k));
            std::iota(perm.begin(), perm.end(), 0);
            std::shuffle(perm.begin(), perm.end(), random);
            return perm;
        };
        for (int32_t l = 0; l < o.n_layers; ++l) {
            Layer layer;
            const auto qkv_perm = shuffled(o.hidden), mlp_perm = shuffled(o.hidden), down_perm = shuffled(o.inner);
            layer.q = quant(o.hidden, q_width, o.perm ? &qkv_perm : nullptr);
            layer.k = quant(o.hidden, kv_width, o.perm ? &qkv_perm : nullptr);
            layer.v = quant(o.hidden, kv_width, o.perm ? &qkv_perm : nullptr);
            layer.o = quant(q_width, o.hidden, nullptr);
            layer.gate = quant(o.hidden, o.inner, o.perm ? &mlp_perm : nullptr);
            layer.up = quant(o.hidden, o.inner, o.perm && l == 0 ? &mlp_perm : nullptr);
            layer.down = quant(o.inner, o.hidden, o.perm ? &down_perm : nullptr);
            layer.attention_norm = weights(o.hidden);
            layer.mlp_norm = weights(o.hidden);
            layer.q_norm = weights(o.head_dim);
            layer.k_norm = weights(o.head_dim);
            layers.push_back(std::move(layer));
            if (o.dense) {
                const DType types[] = {DType::f32, DType::f16, DType::bf16};
                const auto add = [&](int32_t k, int32_t n) {
                    dense.push_back(random_dense(k, n, types[dense.size() % 3], o.bias, random, 0.15f));
                };
                add(o.hidden, q_width), add(o.hidden, kv_width), add(o.hidden, kv_width), add(q_width, o.hidden);
                add(o.hidden, o.inner), add(o.hidden, o.inner), add(o.inner, o.hidden);
            }
        }
        final_norm = weights(o.hidden);
        embedding = random_dense(o.hidden, o.n_vocab, DType::f16, false, random, 1);
        head = random_dense(o.hidden, o.n_vocab, DType::f16, false, random, 0.3f);
        quantised_head = random_quant({"", o.hidden, o.n_vocab, groups_of(6, o.hidden, 32)}, random, 1);
    }
};

inline bool walk_all(const ModelSpec& spec, Ops& ops) {
    const Activations x = ops.embed(spec);
    for (size_t l = 0; l < spec.layers.size(); ++l) {
        const LayerSpec& layer = spec.layers[l];
        const Activations qkv = ops.norm_qkv(spec, layer, x);
        ops.project_add(spec, layer, ops.rope_append_attend(spec, layer, int32_t(l), qkv), x);
        ops.down_add(spec, layer, ops.gate_up_act(spec, layer, x), x);
    }
    ops.head_sample(spec, x);
    return true;
}

/// One device with the model packed, a KV cache and its scratch.
struct Loaded {
    std::unique_ptr<Device> device;
    ModelSpec spec;
    KvSpec kv_spec;
    Kv kv;

    Loaded(std::unique_ptr<Device> d, const TinyModel& model, int32_t max_rows, int32_t max_wanted, KvSpec kv_options)
        : device(std::move(d)), kv_spec(kv_options) {
        const TinyOptions& o = model.options;
        const auto pack = [&](const auto& source) {
            Matrix matrix;
            const Status status = device->pack(source, &matrix);
            REQUIRE_MESSAGE(status.ok(), status.message);
            return matrix;
        };
        const auto norm = [&](const std::vector<float>& weights) {
            NormSpec n{NormSpec::rms, 1e-5f, {}};
            REQUIRE(device->upload(weights, &n.weight).ok());
            return n;
        };
        spec.hidden_size = o.hidden;
        spec.intermediate_size = o.inner;
        spec.n_vocab = o.n_vocab;
        spec.n_heads = o.n_heads;
        spec.n_kv_heads = o.n_kv_heads;
        spec.head_dim = o.head_dim;
        spec.attention_scale = 1 / std::sqrt(float(o.head_dim));
        spec.max_positions = o.max_positions;
        spec.compute = o.compute;
        RopeSpec rope;
        for (int32_t t = 0; t < o.head_dim / 2; ++t)
            rope.inv_freq.push_back(std::pow(10000.0f, -2 * float(t) / float(o.head_dim)));
        spec.ropes = {rope};
        size_t next = 0;
        for (size_t l = 0; l < model.layers.size(); ++l) {
            const TinyModel::Layer& from = model.layers[l];
            LayerSpec layer;
            const auto matrix = [&](const QuantData& quant) {
                return o.dense ? pack(model.dense[next++]->source) : pack(quant.source);
            };
            layer.q = matrix(*from.q);
            layer.k = matrix(*from.k);
            layer.v = matrix(*from.v);
            layer.o = matrix(*from.o);
            layer.gate = matrix(*from.gate);
            layer.up = matrix(*from.up);
            layer.down = matrix(*from.down);
            layer.attention_norm = norm(from.attention_norm);
            layer.mlp_norm = norm(from.mlp_norm);
            if (o.qk_norm) {
                layer.q_norm = norm(from.q_norm);
                layer.k_norm = norm(from.k_norm);
            }
            layer.window = l % 2 ? o.window : 0;
            spec.layers.push_back(layer);
        }
        spec.final_norm = norm(model.final_norm);
        if (o.tied_quantised) {
            spec.embedding = spec.head = pack(model.quantised_head->source);
        } else {
            spec.embedding = pack(model.embedding->source);
            spec.head = pack(model.head->source);
        }
        REQUIRE(device->prepare(spec, max_rows, max_wanted).ok());
        REQUIRE(device->make_kv(spec, kv_spec, &kv).ok());
    }

    Status run(const std::vector<Row>& rows, const std::vector<int32_t>& table, int32_t max_blocks,
               const std::vector<Wanted>& wanted, StepResult* result) {
        const Step step{rows, kv, table, max_blocks, wanted, rows.size() > 1};
        return device->wait(device->submit(spec, step, [&](Ops& ops) { return walk_all(spec, ops); }), result);
    }
};

}  // namespace quantplug::test
