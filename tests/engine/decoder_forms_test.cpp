// What the rows of the table make of a configuration, form by form. Whole computations are compared in tests/e2e.
#include <doctest/doctest.h>

#include <cmath>

#include "checkpoint_files.h"
#include "engine/model/decoder.h"
#include "kernels/half.h"
#include "tests/support/refusal.h"
#include "tiny_folders.h"

namespace quantplug::test {

using engine::Code;
using engine::ColumnRange;
using engine::Decoder;
using kernels::Block;

namespace {

Decoder decoder_of(const TinyFolder& tiny) { return engine::read_decoder(tiny.open(), PlainFormat()); }

const engine::LinearPart& part_of(const Decoder& d, kernels::Matrix kernels::LayerSpec::*slot, int32_t layer = 0) {
    for (const engine::LinearPart& l : d.linears)
        if (l.layer == layer && l.slot.of_layer == slot) return l;
    FAIL("no such part");
    return d.linears.front();
}

void rename(TinyFolder& tiny, const std::string& from, const std::string& to) {
    Tensors renamed;
    for (auto& [name, tensor] : tiny.tensors) {
        std::string out = name;
        if (const size_t at = out.find(from); at != std::string::npos) out.replace(at, from.size(), to);
        renamed[out] = std::move(tensor);
    }
    tiny.tensors = std::move(renamed);
}

}  // namespace

TEST_CASE("decoder: blocks by row and key") {
    using Norm = kernels::NormSpec;
    const auto layer = [](const Decoder& d) { return d.spec.layers[0]; };
    const auto gemma = layer(decoder_of(TinyFolder("gemma2")));
    CHECK(gemma.block == Block::sequential);
    CHECK(gemma.attention_post_norm.kind == Norm::rms);
    CHECK(gemma.mlp_post_norm.kind == Norm::rms);
    const auto olmo = layer(decoder_of(TinyFolder("olmo2")));
    CHECK(olmo.attention_norm.kind == Norm::none);
    CHECK(olmo.mlp_post_norm.kind == Norm::rms);
    CHECK(olmo.qk_norm_full);
    const auto cohere = layer(decoder_of(TinyFolder("cohere")));
    CHECK(cohere.block == Block::parallel);
    CHECK(cohere.mlp_norm.kind == Norm::none);
    CHECK(cohere.q_norm.kind == Norm::layer);
    TinyFolder neox("gpt_neox");
    CHECK(layer(decoder_of(neox)).block == Block::parallel);
    CHECK(layer(decoder_of(neox)).mlp_norm.kind == Norm::layer);
    CHECK(layer(decoder_of(neox.with({{"use_parallel_residual", false}}))).block == Block::sequential);
    CHECK(layer(decoder_of(neox.with({{"use_parallel_residual", "<drop>"}}))).block == Block::parallel);
    TinyFolder stablelm("stablelm");
    CHECK(layer(decoder_of(stablelm)).block == Block::parallel);
    // Sequential, it needs the second norm that the file does not have.
    CHECK_REFUSED(decoder_of(stablelm.with({{"use_parallel_residual", "<drop>"}})), Code::not_found,
                  "model.layers.0.post_attention_layernorm.weight");
    const Decoder opt = decoder_of(TinyFolder("opt"));
    CHECK(layer(opt).block == Block::post);
    CHECK(layer(opt).attention_norm.kind == Norm::none);
    CHECK(opt.spec.final_norm.kind == Norm::none);
    CHECK(opt.spec.embedding_size == 32);
    CHECK(opt.spec.position_offset == 2);
    CHECK(opt.position_limit == 64);
}

TEST_CASE("decoder: fused projections are cut in the order of their layout") {
    using L = kernels::LayerSpec;
    using Ranges = std::vector<ColumnRange>;
    // All q, all k, all v: 2 heads and 1 key/value head of 16.
    const Decoder phi = decoder_of(TinyFolder("phi3"));
    CHECK(part_of(phi, &L::q).columns == Ranges{{0, 32}});
    CHECK(part_of(phi, &L::k).columns == Ranges{{32, 16}});
    CHECK(part_of(phi, &L::v).columns == Ranges{{48, 16}});
    CHECK(part_of(phi, &L::gate).columns == Ranges{{0, 64}});
    CHECK(part_of(phi, &L::up).columns == Ranges{{64, 64}});
    CHECK(part_of(phi, &L::q).module == "model.layers.0.self_attn.qkv_proj");
    CHECK(part_of(phi, &L::q).split_name == "model.layers.0.self_attn.q_proj");
    // For each of 2 key/value heads: 2 queries, key, value of 8.
    const Decoder falcon = decoder_of(TinyFolder("falcon"));
    CHECK(part_of(falcon, &L::q).columns == Ranges{{0, 16}, {32, 16}});
    CHECK(part_of(falcon, &L::k).columns == Ranges{{16, 8}, {48, 8}});
    CHECK(part_of(falcon, &L::v).columns == Ranges{{24, 8}, {56, 8}});
    // Conv1D lies as (in, out).
    const Decoder gpt2 = decoder_of(TinyFolder("gpt2"));
    CHECK(part_of(gpt2, &L::q).transposed);
    CHECK(part_of(gpt2, &L::o).transposed);
    CHECK_FALSE(part_of(decoder_of(TinyFolder("gpt_bigcode")), &L::o).transposed);
}

TEST_CASE("decoder: names of wrappers, of GPTQModel and without a head's class") {
    const auto loads = [](TinyFolder& tiny, size_t n_linears) { return decoder_of(tiny).linears.size() == n_linears; };
    const size_t n = decoder_of(TinyFolder("mistral")).linears.size();
    TinyFolder top("mistral");
    rename(top, "model.", "language_model.model.");
    rename(top, "lm_head", "language_model.lm_head");
    CHECK(loads(top, n));
    TinyFolder deep("mistral");
    rename(deep, "model.", "model.language_model.");
    CHECK(loads(deep, n));  // the head stays on top
    TinyFolder bare("mistral");
    rename(bare, "model.", "");
    CHECK(loads(bare, n));
    TinyFolder gpt2("gpt2");
    const size_t m = decoder_of(gpt2).linears.size();
    rename(gpt2, "transformer.", "");
    CHECK(loads(gpt2, m));
    TinyFolder mixtral("mixtral");
    const size_t experts = decoder_of(mixtral).linears.size();
    rename(mixtral, "block_sparse_moe.gate", "mlp.gate");
    for (const char* e : {"0", "1", "2", "3"})
        for (const auto& [from, to] :
             {std::pair("w1", "gate_proj"), std::pair("w2", "down_proj"), std::pair("w3", "up_proj")})
            for (int layer = 0; layer < 2; ++layer)
                rename(mixtral, std::string("block_sparse_moe.experts.") + e + "." + from,
                       std::string("mlp.experts.") + e + "." + to);
    CHECK(loads(mixtral, experts));
}

TEST_CASE("decoder: experts by layer, key and naming") {
    const Decoder qwen = decoder_of(TinyFolder("qwen2_moe"));
    CHECK(qwen.spec.n_experts == 4);
    CHECK(qwen.spec.expert_intermediate_size == 32);
    CHECK(qwen.spec.shared_intermediate_size == 64);
    CHECK(qwen.spec.layers[0].moe.experts.size() == 4);
    CHECK(qwen.spec.layers[1].moe.experts.empty());  // mlp_only_layers
    CHECK(qwen.spec.layers[0].moe.top_k == 2);
    CHECK_FALSE(qwen.spec.layers[0].moe.renormalise);
    CHECK(decoder_of(TinyFolder("qwen2_moe").with({{"norm_topk_prob", true}})).spec.layers[0].moe.renormalise);
    CHECK(decoder_of(TinyFolder("mixtral")).spec.layers[0].moe.renormalise);
    CHECK_REFUSED(decoder_of(TinyFolder("mixtral").with({{"num_experts_per_tok", "<drop>"}})), Code::invalid_argument,
                  "num_experts_per_tok");
    CHECK_REFUSED(decoder_of(TinyFolder("mixtral").with({{"num_experts_per_tok", 5}})), Code::invalid_argument,
                  "num_experts_per_tok", "5", "4");
    CHECK_REFUSED(decoder_of(TinyFolder("mixtral").with({{"num_local_experts", 5}})), Code::invalid_argument,
                  "model.layers.0.block_sparse_moe.gate.weight", "4", "5");
    const Decoder dbrx = decoder_of(TinyFolder("dbrx"));
    for (const engine::LinearPart& l : dbrx.linears)
        if (l.slot.of_mlp == &kernels::Mlp::down) {
            CHECK(l.transposed);
            CHECK(l.first_row == int64_t(l.slot.expert) * 32);
        }
    TinyFolder powers("dbrx");
    powers.config["ffn_config"]["moe_normalize_expert_weights"] = 2;
    CHECK_REFUSED(decoder_of(powers), Code::unimplemented, "moe_normalize_expert_weights", "2");
    powers.config["ffn_config"]["moe_normalize_expert_weights"] = nullptr;
    CHECK_FALSE(decoder_of(powers).spec.layers[0].moe.renormalise);
}

TEST_CASE("decoder: ALiBi's slopes, where the heads are a power of two and where not") {
    const std::vector<float> four = decoder_of(TinyFolder("bloom")).spec.alibi_slopes;
    REQUIRE(four.size() == 4);
    for (int h = 0; h < 4; ++h) CHECK(four[size_t(h)] == doctest::Approx(std::pow(2.0, -2.0 * (h + 1))));

    // 6 heads of 4.
    TinyFolder six("bloom");
    six.with({{"n_head", 6}, {"num_attention_heads", 6}, {"head_dim", 4}});
    for (const char* layer : {"transformer.h.0.self_attention.", "transformer.h.1.self_attention."}) {
        const std::string at = layer;
        Tensor& qkv = six.tensors[at + "query_key_value.weight"];
        qkv = with_rows(qkv, 72);
        Tensor& bias = six.tensors[at + "query_key_value.bias"];
        bias = with_rows(bias, 72);
        Tensor& dense = six.tensors[at + "dense.weight"];
        dense = reshaped(dense, {32, 24});
    }
    const std::vector<float> bloom = decoder_of(six).spec.alibi_slopes;
    const double expected[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
    REQUIRE(bloom.size() == 6);
    for (size_t h = 0; h < 6; ++h) CHECK(bloom[h] == doctest::Approx(expected[h]));

    for (const auto& [from, to] :
         {std::pair("word_embeddings_layernorm", "unread"), std::pair("word_embeddings", "wte"),
          std::pair("ln_f", "norm_f"), std::pair("transformer.h.", "transformer.blocks."),
          std::pair("input_layernorm", "norm_1"), std::pair("post_attention_layernorm", "norm_2"),
          std::pair("self_attention.query_key_value", "attn.Wqkv"), std::pair("self_attention.dense", "attn.out_proj"),
          std::pair("mlp.dense_h_to_4h", "ffn.up_proj"), std::pair("mlp.dense_4h_to_h", "ffn.down_proj")})
        rename(six, from, to);
    six.with({{"architectures", {"MPTForCausalLM"}}, {"attn_config", {{"alibi", true}, {"clip_qkv", 2.5}}}});
    const Decoder mpt = decoder_of(six);
    const double of_eight[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};  // 2nd, 4th, 6th, 8th, 1st, 3rd of 8
    REQUIRE(mpt.spec.alibi_slopes.size() == 6);
    for (size_t h = 0; h < 6; ++h) CHECK(mpt.spec.alibi_slopes[h] == doctest::Approx(of_eight[h]));
    CHECK(mpt.spec.clip_qkv == 2.5f);
    six.config["attn_config"]["alibi_bias_max"] = 16;
    CHECK(decoder_of(six).spec.alibi_slopes[0] == 0.0625f);
    six.config["attn_config"]["alibi"] = false;
    CHECK_REFUSED(decoder_of(six), Code::unimplemented, "attn_config.alibi");
}

TEST_CASE("decoder: constants that scale the embedding, the residual and the logits") {
    const auto granite = decoder_of(TinyFolder("granite")).spec;
    CHECK(granite.embedding_scale == 6.0f);
    CHECK(granite.residual_scale == 0.3f);
    CHECK(granite.attention_scale == 0.05f);
    CHECK(granite.logit_scale == 0.25f);
    CHECK(decoder_of(TinyFolder("cohere").with({{"logit_scale", "<drop>"}})).spec.logit_scale == 0.0625f);
    const auto gemma = decoder_of(TinyFolder("gemma2")).spec;
    CHECK(gemma.embedding_scale == float(std::sqrt(32.0)));
    CHECK(gemma.attention_softcap == 2.0f);
    CHECK(gemma.logit_softcap == 3.0f);
    CHECK(gemma.attention_scale == float(1 / std::sqrt(24.0)));
    // An explicit null is off, a missing key the class's default.
    CHECK(decoder_of(TinyFolder("gemma2").with({{"attn_logit_softcapping", nullptr}})).spec.attention_softcap == 0);
    CHECK(decoder_of(TinyFolder("gemma2").with({{"attn_logit_softcapping", "<drop>"}})).spec.attention_softcap == 50);
    CHECK(decoder_of(TinyFolder("gemma2").with({{"final_logit_softcapping", "<drop>"}})).spec.logit_softcap == 30);
    TinyFolder minicpm("llama");
    minicpm.with(
        {{"architectures", {"MiniCPMForCausalLM"}}, {"scale_emb", 12}, {"scale_depth", 1.4}, {"dim_model_base", 16}});
    const auto spec = decoder_of(minicpm).spec;
    CHECK(spec.embedding_scale == 12.0f);
    CHECK(spec.residual_scale == doctest::Approx(1.4 / std::sqrt(2.0)));
    CHECK(spec.logit_scale == 0.5f);
    // An unknown architecture with such a key is no Llama.
    CHECK_REFUSED(decoder_of(minicpm.with({{"architectures", {"NovelForCausalLM"}}})), Code::unimplemented,
                  "scale_emb");
}

TEST_CASE("decoder: Gemma's normaliser is rounded to the type of the embedding") {
    const auto scale = [](engine::StoredType type) {
        TinyFolder tiny("gemma2");
        Tensor& t = tiny.tensors["model.embed_tokens.weight"];
        std::vector<uint16_t> bits;
        for (const float v : t.values<float>())
            bits.push_back(type == engine::StoredType::f16 ? kernels::f32_to_f16(v) : kernels::f32_to_bf16(v));
        t = make_tensor(type, {96, 32}, bits);
        return decoder_of(tiny).spec.embedding_scale;
    };
    CHECK(scale(engine::StoredType::bf16) == 5.65625f);
    CHECK(scale(engine::StoredType::f16) == 5.65625f);
}

TEST_CASE("decoder: layers without rotation, and with one of their own") {
    const auto ropes = [](const TinyFolder& tiny) {
        std::vector<int32_t> out;
        for (const auto& layer : decoder_of(tiny).spec.layers) out.push_back(layer.rope);
        return out;
    };
    using R = std::vector<int32_t>;
    CHECK(ropes(TinyFolder("smollm3")) == R{0, -1});
    CHECK(ropes(TinyFolder("smollm3").with({{"no_rope_layers", "<drop>"}, {"no_rope_layer_interval", 1}})) ==
          R{-1, -1});
    CHECK(ropes(TinyFolder("smollm3").with({{"no_rope_layers", "<drop>"}})) == R{0, 0});
    CHECK(ropes(TinyFolder("cohere2")) == R{0, -1});
    CHECK(ropes(TinyFolder("exaone4")) == R{0, -1});
    CHECK(ropes(TinyFolder("exaone4").with({{"sliding_window", nullptr}})) == R{0, 0});
    CHECK(ropes(TinyFolder("gpt2")) == R{-1, -1});
    CHECK(ropes(TinyFolder("gemma3")) == R{1, 0});
    // The flat spelling of the same.
    TinyFolder flat("gemma3");
    flat.with({{"rope_parameters", "<drop>"},
               {"rope_theta", 1e6},
               {"rope_local_base_freq", 1e4},
               {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}});
    const auto a = decoder_of(TinyFolder("gemma3")).spec, b = decoder_of(flat).spec;
    REQUIRE(b.ropes.size() == 2);
    for (size_t i = 0; i < 2; ++i) CHECK(a.ropes[i].inv_freq == b.ropes[i].inv_freq);
    CHECK(decoder_of(TinyFolder("cohere")).spec.ropes[0].interleaved);
    CHECK(decoder_of(TinyFolder("glm4")).spec.ropes[0].inv_freq.size() == 4);
}

TEST_CASE("decoder: windows by pattern, parity and use") {
    const auto windows = [](const std::string& model, const json& changes) {
        std::vector<int32_t> out;
        for (const auto& layer :
             decoder_of(TinyFolder(model).with({{"layer_types", "<drop>"}}).with(changes)).spec.layers)
            out.push_back(layer.window);
        return out;
    };
    using W = std::vector<int32_t>;
    CHECK(windows("gemma2", {}) == W{8, 0});
    CHECK(windows("cohere2", {}) == W{8, 8});
    CHECK(windows("cohere2", {{"sliding_window_pattern", 2}}) == W{8, 0});
    CHECK(windows("exaone4", {{"sliding_window_pattern", "LG"}}) == W{8, 0});
    CHECK(windows("exaone4", {{"sliding_window_pattern", 0}}) == W{0, 0});
    CHECK(windows("qwen2_moe", {{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", 1}}) ==
          W{8, 0});
    CHECK(windows("phi3", {}) == W{8, 8});
    CHECK(windows("phi3", {{"sliding_window", nullptr}}) == W{0, 0});
}

TEST_CASE("decoder: learned positions end the context") {
    const Decoder d = decoder_of(TinyFolder("gpt2").with({{"n_positions", 4096}}));
    CHECK(d.position_limit == 64);
    CHECK(d.spec.max_positions == 64);
}

}  // namespace quantplug::test
