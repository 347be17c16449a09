// EXL2 folders as real tools write them, one test a line of what users meet; named after it.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "engine/tools/dequantize.h"
#include "engine/tools/quantize.h"
#include "exl2_backend/exl2_format.h"
#include "exl2_backend/rtn.h"
#include "tests/support/data.h"
#include "tests/support/folder_logits.h"
#include "tests/support/tensor_files.h"

namespace quantplug::test {
namespace {

namespace fs = std::filesystem;
using engine::ModelFolder;

const std::vector<int32_t> ids = {3, 17, 4, 60, 9, 9, 31, 5, 44, 12, 68, 2};

fs::path quantised(const std::string& name, const fs::path& out) {
    engine::quantize({.in = data_dir() / "tiny" / name, .out = out, .bits = 4, .group_size = 32}, exl2::make_quantizer);
    return out;
}
std::vector<float> logits(const fs::path& path) {
    return folder_logits(ModelFolder::open(path), *exl2::make_format(), ids);
}

TEST_CASE("practice: the source's index beside EXL2 files is ignored") {
    const TempDir dir;
    const fs::path a = quantised("llama", dir.path() / "a");
    const std::vector<float> expected = logits(a);
    write_file(a / "model.safetensors.index.json",
               R"({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors",
                   "lm_head.weight": "model-00002-of-00002.safetensors"}})");
    CHECK(logits(a) == expected);
}

TEST_CASE("practice: an EXL2 head beside tied embeddings wins") {
    const TempDir dir;
    const fs::path a = quantised("qwen3", dir.path() / "a");
    const ModelFolder folder = ModelFolder::open(a);
    CHECK(folder.has("model.embed_tokens.weight"));
    CHECK(folder.has("lm_head.q_weight"));
    const engine::Decoder decoder = engine::read_decoder(folder, *exl2::make_format());
    CHECK_FALSE(decoder.tied);
    CHECK(decoder.bits_per_weight(true) > 6);
    engine::dequantize(*exl2::make_format(), a, dir.path() / "b");
    CHECK(largest_difference(logits(a), logits(dir.path() / "b")) < 1e-4);
}

TEST_CASE("practice: a converter's names: fused projections split, experts apart, the head of unit length once") {
    for (const std::pair<const char*, const char*>& one :
         {std::pair("phi3", "model.layers.0.self_attn.v_proj"), std::pair("phi3", "model.layers.1.mlp.gate_proj"),
          std::pair("gpt2", "model.layers.0.self_attn.k_proj"), std::pair("gpt_bigcode", "model.layers.0.mlp.c_fc"),
          std::pair("dbrx", "model.layers.1.block_sparse_moe.experts.3.v1"), std::pair("index", "lm_head")}) {
        const std::string name = one.first, module = one.second;
        CAPTURE(name);
        const TempDir dir;
        const fs::path a = quantised(name, dir.path() / "a");
        CHECK(ModelFolder::open(a).has(module + ".q_weight"));
        engine::dequantize(*exl2::make_format(), a, dir.path() / "b");
        CHECK(largest_difference(logits(a), logits(dir.path() / "b")) < 1e-4);
        CHECK(largest_difference(logits(a), logits(data_dir() / "tiny" / name)) > 1e-3);
    }
}

}  // namespace
}  // namespace quantplug::test
