#include "engine/checkpoint/folder.h"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint_files.h"
#include "engine/checkpoint/config.h"
#include "kernels/half.h"
#include "tests/support/data.h"

using namespace quantplug::engine;
using namespace quantplug::test;
namespace fs = std::filesystem;

namespace {

class Folder {
 public:
    Folder& add(const std::string& name, std::string_view bytes) {
        write_file(path() / name, bytes);
        return *this;
    }
    Folder& shard(const std::string& name, std::initializer_list<const char*> tensors) {
        return add(name, safetensors_of(tensors));
    }
    const fs::path& path() const { return dir_.path(); }
    ModelFolder open() const { return ModelFolder::open(path()); }

 private:
    TempDir dir_;
};

std::string index_of(std::initializer_list<std::pair<const char*, const char*>> map) {
    Json weights = Json::object();
    for (const auto& [tensor, file] : map) weights[tensor] = file;
    return Json({{"metadata", {{"total_size", 1}}}, {"weight_map", weights}}).dump();
}

size_t count(const Folder& folder) { return folder.open().tensors().size(); }

}  // namespace

TEST_CASE("folder: one file, several, an index") {
    CHECK(count(Folder().shard("model.safetensors", {"a", "b"})) == 2);
    CHECK(count(Folder().shard("x.safetensors", {"a"}).shard("y.safetensors", {"b"})) == 2);
    Folder indexed;
    indexed.shard("model-00001-of-00002.safetensors", {"a"}).shard("model-00002-of-00002.safetensors", {"b"});
    CHECK(count(indexed) == 2);
    indexed.add("model.safetensors.index.json",
                index_of({{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}}));
    CHECK(count(indexed) == 2);
    // A complete index wins: what it does not name is not read, so the tensor in two files is no clash.
    indexed.shard("backup.safetensors", {"a"});
    CHECK(count(indexed) == 2);
}

TEST_CASE("folder: an index that a converter copied is ignored") {
    const std::string stale =
        index_of({{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}});
    CHECK(count(Folder().shard("output.safetensors", {"a.q_weight", "n"}).add("model.safetensors.index.json", stale)) ==
          2);
    CHECK(count(Folder()
                    .shard("gptq_model-4bit-128g.safetensors", {"a.qweight"})
                    .add("model.safetensors.index.json", stale)) == 1);
    // EXL2 in files whose names the index has by chance: all files count, even those it does not name.
    Folder clash;
    clash.shard("model-00001-of-00002.safetensors", {"a.q_weight"}).shard("model-00002-of-00002.safetensors", {"b"});
    clash.shard("more.safetensors", {"c"}).add("model.safetensors.index.json", stale);
    CHECK(count(clash) == 3);
    // Not even valid JSON matters then.
    CHECK(count(Folder().shard("output.safetensors", {"a.q_weight"}).add("model.safetensors.index.json", "{")) == 1);
}

TEST_CASE("folder: files that do not count") {
    Folder folder;
    folder.shard("model.safetensors", {"a"})
        .shard("consolidated.safetensors", {"a"})
        .shard("adapter_model.safetensors", {"a"});
    folder.shard("._model.safetensors", {"a"});
    fs::create_directory(folder.path() / "original");
    folder.shard("original/model.safetensors", {"a"});
    CHECK(count(folder) == 1);
    CHECK_REFUSED(Folder().shard("consolidated.safetensors", {"a"}).open(), Code::unimplemented,
                  "consolidated.safetensors");
}

TEST_CASE("folder: what is missing is named") {
    CHECK_REFUSED(ModelFolder::open("/nonexistent/model"), Code::not_found, "/nonexistent/model");
    CHECK_REFUSED(Folder().open(), Code::not_found, "no *.safetensors");
    CHECK_REFUSED(Folder()
                      .shard("model-00001-of-00003.safetensors", {"a"})
                      .shard("model-00003-of-00003.safetensors", {"b"})
                      .open(),
                  Code::not_found, "model-00002-of-00003.safetensors");
    CHECK_REFUSED(Folder().shard("output-00002-of-00002.safetensors", {"a.q_weight"}).open(), Code::not_found,
                  "output-00001-of-00002.safetensors");
    CHECK_REFUSED(Folder().shard("model-00001-of-99999999999.safetensors", {"a"}).open().tensor("b"), Code::not_found,
                  "\"b\"");
    CHECK_REFUSED(Folder().shard("model-00001-of-999999999.safetensors", {"a"}).open(), Code::not_found,
                  "model-00002-of-999999999");
    const std::string index = index_of({{"a", "m-1.safetensors"}, {"b", "m-2.safetensors"}});
    CHECK_REFUSED(Folder().shard("m-1.safetensors", {"a"}).add("model.safetensors.index.json", index).open(),
                  Code::not_found, "m-2.safetensors", "model.safetensors.index.json");
    CHECK_REFUSED(Folder().add("model.safetensors.index.json", index).open(), Code::not_found, "m-1.safetensors");
    for (const char* suffix : {".part", ".incomplete", ".crdownload", ".aria2"}) {
        const std::string name = std::string("model-00002-of-00002.safetensors") + suffix;
        CHECK_REFUSED(Folder().shard("model-00001-of-00002.safetensors", {"a"}).add(name, "x").open(), Code::data_loss,
                      name, "unfinished download");
    }
    CHECK_REFUSED(
        Folder().add("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").open(),
        Code::data_loss, "model.safetensors", "Git-LFS");
    CHECK_REFUSED(Folder().add("model.safetensors", "").open(), Code::data_loss, "model.safetensors", "empty");
    const std::string good = safetensors_of({"a", "b"});
    CHECK_REFUSED(Folder().add("model.safetensors", good.substr(0, good.size() - 4)).open(), Code::data_loss,
                  "incomplete");
}

TEST_CASE("folder: a tensor in two files names both") {
    CHECK_REFUSED(Folder().shard("x.safetensors", {"a", "b"}).shard("y.safetensors", {"b"}).open(),
                  Code::invalid_argument, "\"b\"", "x.safetensors", "y.safetensors");
}

TEST_CASE("folder: an index never leads out of the folder") {
    for (const char* name : {"../secret.safetensors", "/etc/passwd", "a/b.safetensors", ""}) {
        Folder folder;
        folder.shard("m.safetensors", {"b"}).add("model.safetensors.index.json", index_of({{"a", name}}));
        CHECK_REFUSED(folder.open(), Code::invalid_argument, "model.safetensors.index.json", "plain file name");
    }
    CHECK_REFUSED(Folder()
                      .shard("m.safetensors", {"b"})
                      .add("model.safetensors.index.json", "{\"weight_map\": {\"a\": 7}}")
                      .open(),
                  Code::invalid_argument, "weight_map");
    CHECK_REFUSED(Folder().shard("m.safetensors", {"b"}).add("model.safetensors.index.json", "{}").open(),
                  Code::invalid_argument, "weight_map");
}

TEST_CASE("folder: the Hugging Face cache's links are followed") {
    Folder cache;
    fs::create_directories(cache.path() / "blobs");
    fs::create_directories(cache.path() / "snapshots" / "abc");
    cache.add("blobs/1", safetensors_of({"a"})).add("blobs/2", R"({"architectures": ["X"]})");
    const fs::path snapshot = cache.path() / "snapshots" / "abc";
    fs::create_symlink("../../blobs/1", snapshot / "model.safetensors");
    fs::create_symlink("../../blobs/2", snapshot / "config.json");
    fs::create_directory_symlink(snapshot, cache.path() / "link");
    for (const fs::path& path : {snapshot, cache.path() / "link"}) {
        const ModelFolder folder = ModelFolder::open(path);
        CHECK(folder.tensors().size() == 1);
        CHECK(folder.config().strings("architectures").at(0) == "X");
    }
    fs::remove(cache.path() / "blobs" / "1");
    CHECK_REFUSED(ModelFolder::open(snapshot), Code::not_found, "model.safetensors", "symbolic link");
    fs::remove(snapshot / "model.safetensors");
    fs::create_directory(snapshot / "model.safetensors");
    CHECK_REFUSED(ModelFolder::open(snapshot), Code::invalid_argument, "model.safetensors", "folder");
}

TEST_CASE("folder: configuration files") {
    Folder folder;
    folder.shard("model.safetensors", {"a"});
    CHECK_FALSE(folder.open().has_config());
    CHECK(folder.open().config().value().empty());
    CHECK_FALSE(folder.open().quantization_config());
    CHECK_REFUSED(read_model_config(folder.open()), Code::not_found, "config.json");
    folder.add("config.json", R"({"text_config": {"quantization_config": {"bits": 2}}})");
    CHECK(folder.open().quantization_config()->integer("bits") == 2);
    folder.add("config.json", R"({"quantization_config": {"bits": 3}})");
    CHECK(folder.open().quantization_config()->integer("bits") == 3);
    folder.add("quant_config.json", R"({"bits": 5})");
    CHECK(folder.open().quantization_config()->integer("bits") == 5);
    folder.add("quantize_config.json", R"({"bits": 4})");
    CHECK(folder.open().quantization_config()->integer("bits") == 4);
    folder.add("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
    CHECK(folder.open().tokenizer_config().integer("model_max_length") == std::numeric_limits<int64_t>::max());
    folder.add("generation_config.json", "[1]");
    CHECK_REFUSED(folder.open(), Code::invalid_argument, "generation_config.json", "object");
    folder.add("generation_config.json", "{\"a\":");
    CHECK_REFUSED(folder.open(), Code::invalid_argument, "generation_config.json", "JSON");
}

TEST_CASE("folder: reading tensors") {
    const std::vector<uint16_t> f16{0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x3555};
    std::vector<float> f32{1.5f, -2.25f, 1e-40f};
    std::vector<int32_t> i32{1, -2, 3, 4, 5, 6};
    Folder folder;
    folder.add("m.safetensors", safetensors({{"h", "F16", {6}, bytes_of(f16)},
                                             {"b", "BF16", {6}, bytes_of(f16)},
                                             {"f", "F32", {3}, bytes_of(f32)},
                                             {"i", "I32", {3, 2}, bytes_of(i32)},
                                             {"nan", "F16", {2}, bytes_of(std::vector<uint16_t>{0x3c00, 0x7e00})},
                                             {"inf", "F32", {1}, bytes_of(std::vector<float>{INFINITY})}}));
    const ModelFolder model = folder.open();
    const auto halves = model.read_f32("h"), brains = model.read_f32("b", 6);
    for (size_t i = 0; i < f16.size(); ++i) {
        CHECK(halves[i] == quantplug::kernels::f16_to_f32(f16[i]));
        CHECK(brains[i] == quantplug::kernels::bf16_to_f32(f16[i]));
    }
    CHECK(model.read_f32("f") == f32);
    CHECK(model.read_values<int32_t>("i") == i32);
    std::vector<int32_t> rows(4, -77);
    model.read_rows("i", 1, 2, std::as_writable_bytes(std::span(rows)));
    CHECK(rows == std::vector<int32_t>{3, 4, 5, 6});
    std::vector<int32_t> all(6, -77);
    model.read_tensor("i", std::as_writable_bytes(std::span(all)));
    CHECK(all == i32);
    const auto out = std::as_writable_bytes(std::span(rows));
    CHECK_REFUSED(model.read_rows("i", 2, 2, out), Code::out_of_range, "\"i\"", "3 rows");
    CHECK_REFUSED(model.read_rows("i", -1, 2, out), Code::out_of_range, "\"i\"");
    CHECK_REFUSED(model.read_rows("i", std::numeric_limits<int64_t>::max(), 2, out), Code::out_of_range, "\"i\"");
    CHECK_REFUSED(model.read_f32("nan"), Code::data_loss, "m.safetensors", "\"nan\"", "index 1");
    CHECK_REFUSED(model.read_f32("inf"), Code::data_loss, "\"inf\"", "inf");
    CHECK_REFUSED(model.read_f32("i"), Code::invalid_argument, "\"i\"", "I32 [3, 2]");
    CHECK_REFUSED(model.read_f32("h", 7), Code::invalid_argument, "\"h\"", "expected 7");
    CHECK_REFUSED(model.read_values<uint16_t>("i"), Code::invalid_argument, "\"i\"", "2 bytes");
    CHECK_REFUSED(model.tensor("gone"), Code::not_found, "\"gone\"");
    const std::array<int64_t, 2> shape{-1, 2}, other{3, 4};
    const std::array<StoredType, 2> types{StoredType::i32, StoredType::f16}, floats{StoredType::f16, StoredType::bf16};
    CHECK(model.tensor("i", shape, types).name == "i");
    CHECK_REFUSED(model.tensor("i", other, types), Code::invalid_argument, "I32 [3, 2]", "[3, 4]");
    CHECK_REFUSED(model.tensor("i", shape, floats), Code::invalid_argument, "F16 or BF16 [any, 2]");
    CHECK_REFUSED(model.tensor("h", shape, floats), Code::invalid_argument, "F16 [6]");
    CHECK(model.has_suffix("nf"));
    CHECK_FALSE(model.has_suffix(".q_weight"));
    CHECK(model.file_of(model.tensor("h")) == (folder.path() / "m.safetensors").string());
    const ModelFolder single = ModelFolder::open_file(folder.path() / "m.safetensors");
    CHECK(single.tensors().size() == 6);
    CHECK(single.read_f32("f") == f32);
}

TEST_CASE("folder: other formats are declined by name") {
    const auto sentence = [](const std::string& quantization, std::initializer_list<const char*> tensors = {"a"}) {
        Folder folder;
        folder.shard("model.safetensors", tensors)
            .add("config.json", "{\"quantization_config\": " + quantization + "}");
        return unsupported_format(folder.open());
    };
    const auto declines = [&](const std::string& quantization, const char* name) {
        CAPTURE(quantization);
        const std::string text = sentence(quantization);
        CAPTURE(text);
        CHECK(text.find(name) != std::string::npos);
        CHECK(text.find("config.json") != std::string::npos);
    };
    declines(R"({"quant_method": "exl3"})", "EXL3");
    declines(R"({"quant_method": "awq"})", "AWQ");
    declines(R"({"quant_method": "AWQ"})", "AWQ");
    declines(R"({"quant_method": "marlin"})", "Marlin");
    declines(R"({"quant_method": "gptq", "checkpoint_format": "marlin"})", "Marlin");
    declines(R"({"quant_method": "gptq", "is_marlin_format": true})", "Marlin");
    declines(R"({"quant_method": "bitsandbytes"})", "bitsandbytes");
    declines(R"({"load_in_4bit": true})", "bitsandbytes");
    declines(R"({"quant_method": "compressed-tensors"})", "compressed-tensors");
    declines(R"({"quant_method": "fp8"})", "FP8");
    declines(R"({"quant_method": "hqq"})", "HQQ");
    declines(R"({"quant_method": "vptq"})", "VPTQ");
    declines(R"({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"})", "AutoRound");
    declines(R"({"quant_method": "intel/auto-round"})", "AutoRound");
    declines(R"({"quant_method": "something-new"})", "something-new");
    CHECK(sentence(R"({"quant_method": "gptq", "checkpoint_format": "gptq_v2"})").empty());
    CHECK(sentence(R"({"quant_method": "gptq", "method": "gptq", "format": "gptq", "meta": {}})").empty());
    CHECK(sentence(R"({"quant_method": "exl2"})").empty());
    CHECK(sentence(R"({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"})").empty());
    CHECK(sentence(R"({"bits": 4, "load_in_4bit": false})").empty());
    CHECK(sentence(R"({"quant_method": "fp8"})", {"a.q_weight"}).empty());  // EXL2 made from an FP8 model

    const auto by_tensor = [](std::vector<RawTensor> tensors) {
        Folder folder;
        folder.add("model.safetensors", safetensors(tensors));
        return unsupported_format(folder.open());
    };
    const std::string four(4, '\1'), eight(8, '\1');
    const auto has = [](const std::string& text, const char* name) { return text.find(name) != std::string::npos; };
    CHECK(has(by_tensor({{"x.trellis", "I16", {4}, eight}}), "EXL3"));
    CHECK(has(by_tensor({{"x.weight_packed", "I32", {2}, eight}}), "compressed-tensors"));
    CHECK(has(by_tensor({{"x.weight.absmax", "F32", {2}, eight}}), "bitsandbytes"));
    CHECK(has(by_tensor({{"x.weight", "F8_E4M3", {4}, four}}), "FP8"));
    CHECK(has(by_tensor({{"x.W_q", "U8", {4}, four}}), "HQQ"));
    CHECK(has(by_tensor({{"x.B", "I32", {2}, eight}, {"x.s", "F16", {2}, four}}), "Marlin"));
    // The same names, packed along N and along K.
    CHECK(has(by_tensor({{"x.qweight", "I32", {8, 1}, std::string(32, '\1')},
                         {"x.scales", "F16", {1, 8}, std::string(16, '\1')}}),
              "AWQ"));
    CHECK(by_tensor(
              {{"x.qweight", "I32", {1, 8}, std::string(32, '\1')}, {"x.scales", "F16", {1, 8}, std::string(16, '\1')}})
              .empty());
    CHECK(by_tensor({{"x.weight", "F16", {4}, eight}}).empty());
}

TEST_CASE("folder: what is no folder of safetensors says what to do") {
    Folder folder;
    folder.add("model.gguf", "GGUF....").add("text", "hello");
    CHECK_REFUSED(folder.open(), Code::unimplemented, "model.gguf", "import-gguf");
    CHECK_REFUSED(ModelFolder::open(folder.path() / "model.gguf"), Code::unimplemented, "model.gguf", "import-gguf");
    CHECK_REFUSED(ModelFolder::open(folder.path() / "text"), Code::invalid_argument, "text", "folder");
    CHECK_REFUSED(Folder().add("pytorch_model.bin", "x").open(), Code::unimplemented, "pytorch_model.bin", "pickle");
}
