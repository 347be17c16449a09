// GPTQ folders as real tools write them, one test a line of what users meet; named after it.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/base/error.h"
#include "engine/tools/dequantize.h"
#include "engine/tools/quantize.h"
#include "gptq_backend/gptq_format.h"
#include "gptq_backend/rtn.h"
#include "kernels/half.h"
#include "tests/gptq_backend/support.h"
#include "tests/support/folder_logits.h"
#include "tests/support/plain_model.h"

namespace quantplug::test {
namespace {

namespace fs = std::filesystem;
using engine::ModelFolder;
using engine::StoredType;
using nlohmann::json;

const std::vector<int32_t> ids = {3, 17, 4, 60, 9, 9, 31, 5, 44, 12, 68, 2};

fs::path tiny(const std::string& name) { return data_dir() / "tiny" / name; }

/// A folder that can be taken apart and put together: config.json and one file of tensors.
struct Parts {
    json config;
    Tensors tensors;

    static Parts of(const fs::path& path) {
        return {json::parse(read_text(path / "config.json")), read_tensors(ModelFolder::open(path))};
    }
    fs::path write(const fs::path& to) const {
        fs::create_directories(to);
        write_tensor_file(to / "model.safetensors", tensors);
        write_file(to / "config.json", config.dump());
        return to;
    }
    void take(const Parts& other, const std::string& module) {
        std::erase_if(tensors, [&](const auto& t) { return t.first.starts_with(module + "."); });
        for (const auto& [name, tensor] : other.tensors)
            if (name.starts_with(module + ".")) tensors[name] = tensor;
    }
};

fs::path quantised(const fs::path& in, const fs::path& out, int32_t bits = 4, int32_t group_size = 32,
                   bool sym = true) {
    engine::quantize({.in = in, .out = out, .bits = bits, .group_size = group_size, .sym = sym}, gptq::make_quantizer);
    return out;
}
fs::path dequantised(const fs::path& in, const fs::path& out) {
    engine::dequantize(*gptq::make_format(), in, out);
    return out;
}
std::vector<float> logits(const fs::path& path) {
    return folder_logits(ModelFolder::open(path), *gptq::make_format(), ids);
}

TEST_CASE("practice: BF16 embeddings and norms beside FP16 scales; scales of FP32") {
    const TempDir dir;
    Parts source = Parts::of(tiny("llama"));
    const auto is_plain = [](const std::string& name) {
        return name.find("norm") != std::string::npos || name.find("embed") != std::string::npos ||
               name.find("lm_head") != std::string::npos;
    };
    for (auto& [name, tensor] : source.tensors) {
        if (!is_plain(name)) continue;
        std::vector<float> values = tensor.values<float>();
        for (float& v : values)
            v = kernels::bf16_to_f32(kernels::f32_to_bf16(kernels::f16_to_f32(kernels::f32_to_f16(v))));
        tensor = make_tensor(StoredType::f32, tensor.shape, values);
    }
    const fs::path a = quantised(source.write(dir.path() / "source"), dir.path() / "a");
    const std::vector<float> expected = logits(a);
    Parts mixed = Parts::of(a);
    for (auto& [name, tensor] : mixed.tensors) {
        if (name.ends_with(".scales")) {
            std::vector<float> wide;
            for (const uint16_t bits : tensor.values<uint16_t>()) wide.push_back(kernels::f16_to_f32(bits));
            tensor = make_tensor(StoredType::f32, tensor.shape, wide);
        } else if (is_plain(name)) {
            std::vector<uint16_t> brain;
            if (tensor.type == StoredType::f32)
                for (const float v : tensor.values<float>()) brain.push_back(kernels::f32_to_bf16(v));
            else
                for (const uint16_t v : tensor.values<uint16_t>())
                    brain.push_back(kernels::f32_to_bf16(kernels::f16_to_f32(v)));
            tensor = make_tensor(StoredType::bf16, tensor.shape, brain);
        }
    }
    CHECK(largest_difference(logits(mixed.write(dir.path() / "b")), expected) < 1e-6);
}

TEST_CASE(
    "practice: a quantised lm_head wins over tied embeddings, is cut to the vocabulary, and stands in for a missing "
    "embedding") {
    const TempDir dir;
    const fs::path a = quantised(tiny("llama"), dir.path() / "a");
    Parts parts = Parts::of(a);
    const Tensor head = parts.tensors.at("lm_head.weight");
    const engine::WeightMatrix weight{"lm_head", int32_t(head.shape[1]), int32_t(head.shape[0]), head.type, head.bytes};
    const gptq::Packed packed = gptq::round_to_nearest(weight, {.bits = 8, .group_size = 32, .sym = false});
    parts.tensors.erase("lm_head.weight");
    parts.tensors["lm_head.qweight"] = make_tensor(StoredType::i32, {8, 96}, packed.qweight);
    parts.tensors["lm_head.qzeros"] = make_tensor(StoredType::i32, {1, 24}, packed.qzeros);
    parts.tensors["lm_head.scales"] = make_tensor(StoredType::f16, {1, 96}, packed.scales);
    parts.tensors["lm_head.g_idx"] = make_tensor(StoredType::i32, {32}, packed.g_idx);
    parts.config["tie_word_embeddings"] = true;
    const fs::path b = parts.write(dir.path() / "b");
    const std::vector<float> got = logits(b);
    CHECK(largest_difference(got, logits(dequantised(b, dir.path() / "b16"))) < 1e-4);
    CHECK(largest_difference(got, logits(a)) > 1e-4);
    CHECK(largest_difference(got, logits(a)) < 0.5);  // 8 bits

    parts.config["vocab_size"] = 90;
    const std::vector<float> cut = logits(parts.write(dir.path() / "c"));
    REQUIRE(cut.size() == ids.size() * 90);
    for (size_t row = 0; row < ids.size(); ++row)
        for (size_t column = 0; column < 90; ++column) CHECK(cut[row * 90 + column] == got[row * 96 + column]);

    parts.config["vocab_size"] = 96;
    parts.tensors.erase("model.embed_tokens.weight");
    const fs::path d = parts.write(dir.path() / "d");
    CHECK(largest_difference(logits(d), logits(dequantised(d, dir.path() / "d16"))) < 1e-4);
}

TEST_CASE(
    "practice: GPTQModel's dynamic: matrices of several widths, groups and symmetries, and plain ones, in one folder") {
    const TempDir dir;
    Parts mixed = Parts::of(quantised(tiny("llama"), dir.path() / "4")),
          plain = Parts::of(dequantised(dir.path() / "4", dir.path() / "4p"));
    const Parts eight = Parts::of(quantised(tiny("llama"), dir.path() / "8", 8, 64)),
                eight_plain = Parts::of(dequantised(dir.path() / "8", dir.path() / "8p")),
                three = Parts::of(quantised(tiny("llama"), dir.path() / "3", 3, 32, false)),
                three_plain = Parts::of(dequantised(dir.path() / "3", dir.path() / "3p")),
                source = Parts::of(tiny("llama"));
    const std::string layer = "model.layers.1.";
    const auto take = [&](const std::string& module, const Parts& from, const Parts& from_plain) {
        mixed.take(from, layer + module);
        plain.take(from_plain, layer + module);
    };
    take("mlp.down_proj", eight, eight_plain);
    take("self_attn.k_proj", three, three_plain);
    take("self_attn.o_proj", source, source);
    mixed.config["quantization_config"]["dynamic"] = {{"+:.*down.*", {{"bits", 8}, {"group_size", 64}}},
                                                      {"+:.*k_proj.*", {{"bits", 3}, {"sym", false}}},
                                                      {"-:.*o_proj.*", json::object()}};
    CHECK(largest_difference(logits(mixed.write(dir.path() / "m")), logits(plain.write(dir.path() / "p"))) < 1e-4);
    // Bits that neither the configuration nor dynamic has are refused, not guessed, where nothing else confirms them.
    mixed.tensors.erase(layer + "mlp.down_proj.g_idx");
    mixed.config["quantization_config"].erase("dynamic");
    CHECK_THROWS_WITH(logits(mixed.write(dir.path() / "n")), doctest::Contains("mlp.down_proj"));
}

TEST_CASE("practice: K that is no multiple of the group size") {
    const TempDir dir;
    const PlainModel model(7, StoredType::f16, false);  // 160 and 224 inputs
    const fs::path a = quantised(model.path(), dir.path() / "a", 4, 128);
    CHECK(ModelFolder::open(a).tensor("model.layers.0.self_attn.q_proj.scales").shape[0] == 2);
    CHECK(largest_difference(logits(a), logits(dequantised(a, dir.path() / "b"))) < 1e-4);
}

TEST_CASE("practice: fused projections stay one quantised matrix, cut by columns, with biases and any row order") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (const std::pair<const char*, const char*>& one :
         {std::pair("phi3", "model.layers.0.self_attn.qkv_proj"), std::pair("phi3", "model.layers.1.mlp.gate_up_proj"),
          std::pair("gpt2", "transformer.h.0.attn.c_attn"), std::pair("gpt_bigcode", "transformer.h.0.attn.c_attn"),
          std::pair("falcon", "transformer.h.1.self_attention.query_key_value"),
          std::pair("gpt_neox", "gpt_neox.layers.0.attention.query_key_value")}) {
        const std::string name = one.first, module = one.second;
        CAPTURE(name);
        const TempDir dir;
        Parts parts = Parts::of(quantised(tiny(name), dir.path() / "a", 4, 32, false));
        REQUIRE(parts.tensors.contains(module + ".qweight"));
        CHECK(parts.tensors.contains(module + ".bias") == Parts::of(tiny(name)).tensors.contains(module + ".bias"));
        // Act-order: rows belong to groups in no order. With one group, a second set of scales is added.
        Tensor& g_idx = parts.tensors.at(module + ".g_idx");
        Tensor& scales = parts.tensors.at(module + ".scales");
        Tensor& qzeros = parts.tensors.at(module + ".qzeros");
        const int64_t groups = scales.shape[0];
        std::vector<uint16_t> s = scales.values<uint16_t>();
        std::vector<int32_t> z = qzeros.values<int32_t>(), order = g_idx.values<int32_t>();
        const size_t n_scales = s.size(), n_zeros = z.size();
        for (size_t i = 0; i < n_scales; ++i) s.push_back(s[n_scales - 1 - i]);
        for (size_t i = 0; i < n_zeros; ++i) z.push_back(z[n_zeros - 1 - i]);
        for (int32_t& g : order) g = int32_t(random() % uint64_t(2 * groups));
        scales = make_tensor(StoredType::f16, {2 * groups, scales.shape[1]}, s);
        qzeros = make_tensor(StoredType::i32, {2 * groups, qzeros.shape[1]}, z);
        g_idx = make_tensor(StoredType::i32, g_idx.shape, order);
        const fs::path b = parts.write(dir.path() / "b");
        CHECK(largest_difference(logits(b), logits(dequantised(b, dir.path() / "c"))) < 1e-4);
    }
}

TEST_CASE("practice: look-alikes are declined by name; AutoRound's GPTQ packing and an old quantize_config.json load") {
    const TempDir dir;
    Parts parts = Parts::of(quantised(tiny("llama"), dir.path() / "a"));
    const std::vector<float> expected = logits(dir.path() / "a");
    const auto format = gptq::make_format();
    const json own = parts.config["quantization_config"];
    int number = 0;
    const auto with = [&](const json& changes) {
        Parts changed = parts;
        changed.config["quantization_config"].update(changes);
        return changed.write(dir.path() / ("x" + std::to_string(number++)));
    };
    for (const auto& [method, name] :
         {std::pair("exl3", "EXL3"), std::pair("awq", "AWQ"), std::pair("marlin", "Marlin"),
          std::pair("bitsandbytes", "bitsandbytes"), std::pair("compressed-tensors", "compressed-tensors"),
          std::pair("fp8", "FP8"), std::pair("hqq", "HQQ"), std::pair("vptq", "VPTQ")}) {
        const engine::Probe probe = format->probe(ModelFolder::open(with({{"quant_method", method}})));
        CHECK(probe.score == 0);
        CHECK(probe.reason.find(name) != std::string::npos);
    }
    const engine::Probe marlin = format->probe(ModelFolder::open(with({{"checkpoint_format", "marlin"}})));
    CHECK(marlin.score == 0);
    CHECK(marlin.reason.find("Marlin") != std::string::npos);
    const fs::path gguf = dir.path() / "gguf";
    fs::create_directories(gguf);
    write_file(gguf / "model.gguf", "GGUF");
    CHECK_THROWS_WITH(ModelFolder::open(gguf), doctest::Contains("import-gguf"));

    const fs::path auto_round = with({{"quant_method", "auto-round"}, {"packing_format", "auto_round:auto_gptq"}});
    CHECK(format->probe(ModelFolder::open(auto_round)).score == 90);
    CHECK(logits(auto_round) == expected);

    Parts old = parts;
    old.config.erase("quantization_config");
    const fs::path path = old.write(dir.path() / "old");
    write_file(path / "quantize_config.json", own.dump());
    CHECK(format->probe(ModelFolder::open(path)).score == 90);
    CHECK(logits(path) == expected);
}

}  // namespace
}  // namespace quantplug::test
