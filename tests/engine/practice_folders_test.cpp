// Model folders as people have them, one test a line; named after it. What only one format has is tested in its room.
#include <doctest/doctest.h>

#include <set>

#include "checkpoint_files.h"
#include "engine/model/decoder.h"
#include "kernels/half.h"
#include "tiny_folders.h"

namespace quantplug::test {

namespace fs = std::filesystem;
using engine::Code;
using engine::ModelFolder;

namespace {

void put(const fs::path& path, const std::string& text) { write_file(path, text); }

/// One of tests/data/tiny as a folder whose files a test adds to, removes and links.
class PracticeFolder {
 public:
    explicit PracticeFolder(const std::string& model = "llama") {
        for (const char* file : {"config.json", "tokenizer.json", "model.safetensors"})
            fs::copy_file(data_dir() / "tiny" / model / file, path() / file);
    }
    const fs::path& path() const { return dir_.path(); }
    PracticeFolder& add(const std::string& name, const std::string& text) {
        put(path() / name, text);
        return *this;
    }
    /// The one file as two shards.
    PracticeFolder& cut() {
        const Tensors all = read_tensor_file(path() / "model.safetensors");
        Tensors halves[2];
        for (const auto& [name, tensor] : all) halves[name < "model.layers.1"][name] = tensor;
        write_tensor_file(path() / "model-00001-of-00002.safetensors", halves[1]);
        write_tensor_file(path() / "model-00002-of-00002.safetensors", halves[0]);
        fs::remove(path() / "model.safetensors");
        return *this;
    }
    size_t matrices() const { return engine::read_decoder(ModelFolder::open(path()), PlainFormat()).linears.size(); }

 private:
    TempDir dir_;
};

}  // namespace

TEST_CASE(
    "practice: a complete index wins, consolidated*, adapter_* and original/ are skipped, a tensor twice names both "
    "files") {
    PracticeFolder folder;
    folder.cut();
    CHECK(folder.matrices() == 16);
    json map;
    for (const char* shard : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"})
        for (const auto& entry : read_tensor_file(folder.path() / shard)) map[entry.first] = shard;
    folder.add("model.safetensors.index.json", json({{"weight_map", map}}).dump());
    const std::string junk = safetensors_of({"model.norm.weight"});
    folder.add("backup.safetensors", junk)
        .add("consolidated.00.safetensors", junk)
        .add("adapter_model.safetensors", junk);
    fs::create_directory(folder.path() / "original");
    folder.add("original/model.safetensors", junk);
    CHECK(folder.matrices() == 16);
    fs::remove(folder.path() / "model.safetensors.index.json");
    CHECK_REFUSED(folder.matrices(), Code::invalid_argument, "model.norm.weight", "backup.safetensors",
                  "model-00002-of-00002.safetensors");
}

TEST_CASE("practice: Git-LFS pointers, .part and .incomplete downloads and missing shards are said as such") {
    const std::string pointer =
        "version https://git-lfs.github.com/spec/v1\noid "
        "sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 538090408\n";
    CHECK_REFUSED(PracticeFolder().add("model.safetensors", pointer).matrices(), Code::data_loss, "model.safetensors",
                  "Git-LFS");
    for (const char* suffix : {".part", ".incomplete"})
        CHECK_REFUSED(
            PracticeFolder().cut().add(std::string("model-00002-of-00002.safetensors") + suffix, "x").matrices(),
            Code::data_loss, suffix, "unfinished");
    PracticeFolder missing;
    missing.cut();
    fs::remove(missing.path() / "model-00002-of-00002.safetensors");
    CHECK_REFUSED(missing.matrices(), Code::not_found, "model-00002-of-00002.safetensors");
}

TEST_CASE("practice: the Hugging Face cache's symbolic links are followed, an index leads nowhere else") {
    PracticeFolder cache;
    const fs::path blobs = cache.path() / "blobs", snapshot = cache.path() / "snapshots" / "0123abc";
    fs::create_directories(blobs);
    fs::create_directories(snapshot);
    for (const char* file : {"config.json", "tokenizer.json", "model.safetensors"}) {
        fs::rename(cache.path() / file, blobs / file);
        fs::create_symlink(fs::path("../../blobs") / file, snapshot / file);
    }
    CHECK(engine::read_decoder(ModelFolder::open(snapshot), PlainFormat()).linears.size() == 16);
    put(snapshot / "model.safetensors.index.json",
        R"({"weight_map": {"model.norm.weight": "../../blobs/model.safetensors"}})");
    CHECK_REFUSED(ModelFolder::open(snapshot), Code::invalid_argument, "plain file name");
    fs::remove(snapshot / "model.safetensors.index.json");
    fs::remove(blobs / "model.safetensors");
    CHECK_REFUSED(ModelFolder::open(snapshot), Code::not_found, "model.safetensors", "symbolic link");
}

TEST_CASE("practice: tensors of mixed types in one file") {
    TinyFolder tiny("llama");
    for (const char* name :
         {"model.norm.weight", "model.layers.0.input_layernorm.weight", "model.embed_tokens.weight"}) {
        Tensor& t = tiny.tensors[name];
        std::vector<uint16_t> brain;
        for (const float v : t.values<float>()) brain.push_back(kernels::f32_to_bf16(v));
        t = make_tensor(engine::StoredType::bf16, t.shape, brain);
    }
    const engine::Decoder d = engine::read_decoder(tiny.open(), PlainFormat());
    std::set<kernels::DType> types;
    for (const engine::LinearPart& l : d.linears) types.insert(l.shape.dtype);
    CHECK(types == std::set{kernels::DType::f32, kernels::DType::bf16});
}

TEST_CASE(
    "practice: a stored head wins over tie_word_embeddings, and either of two tied matrices stands in for the other") {
    TinyFolder tiny("llama");
    tiny.with({{"tie_word_embeddings", true}});
    CHECK_FALSE(engine::read_decoder(tiny.open(), PlainFormat()).tied);
    const Tensor head = tiny.tensors["lm_head.weight"];
    tiny.without({"lm_head.weight"});
    CHECK(engine::read_decoder(tiny.open(), PlainFormat()).tied);
    tiny.without({"model.embed_tokens.weight"}).tensors["lm_head.weight"] = head;
    CHECK(engine::read_decoder(tiny.open(), PlainFormat()).tied);
}

TEST_CASE("practice: look-alikes are declined by name") {
    for (const auto& [method, name] :
         {std::pair("exl3", "EXL3"), std::pair("awq", "AWQ"), std::pair("bitsandbytes", "bitsandbytes"),
          std::pair("compressed-tensors", "compressed-tensors"), std::pair("fp8", "FP8"), std::pair("hqq", "HQQ"),
          std::pair("vptq", "VPTQ"), std::pair("marlin", "Marlin")}) {
        TinyFolder tiny("llama");
        tiny.with({{"quantization_config", {{"quant_method", method}}}});
        CHECK(engine::unsupported_format(tiny.open()).find(name) != std::string::npos);
    }
    PracticeFolder gguf;
    fs::remove(gguf.path() / "model.safetensors");
    gguf.add("model-Q4_K_M.gguf", "GGUF");
    CHECK_REFUSED(gguf.matrices(), Code::unimplemented, "model-Q4_K_M.gguf", "import-gguf");
}

}  // namespace quantplug::test
