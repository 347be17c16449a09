// Plain folders through dequantize: types, files, configuration, cancel. Quantised ones are in the backends' tests.
#include "engine/tools/dequantize.h"

#include <doctest/doctest.h>

#include "engine/base/error.h"
#include "tests/support/plain_model.h"

namespace quantplug::test {
namespace {

using engine::StoredType;

class PlainFormat final : public engine::Format {
 public:
    const char* name() const override { return "plain"; }
    engine::Probe probe(const engine::ModelFolder& folder) const override {
        return folder.has("nothing") ? engine::Probe{0, "", "the folder holds nothing"}
                                     : engine::Probe{50, "plain", ""};
    }
    bool has(const engine::ModelFolder&, const std::string&) const override { return false; }
    engine::StoredMatrix describe(const engine::ModelFolder&, const std::string&, int32_t, int32_t) const override {
        return {};
    }
    kernels::QuantSource open(const engine::ModelFolder&, const std::string&, int32_t, int32_t) const override {
        return {};
    }
};

TEST_CASE("a plain folder is widened to F32 or stays what it is; several files get an index") {
    const PlainFormat format;
    const PlainModel model(9, StoredType::bf16, true);
    const TempDir dir;
    const auto source = engine::ModelFolder::open(model.path());
    for (const StoredType type : {StoredType::f16, StoredType::f32})
        for (const uint64_t limit : {uint64_t{1} << 30, uint64_t{50000}}) {
            const auto out = dir.path() / (std::to_string(int(type)) + "-" + std::to_string(limit));
            double last = -1;
            const auto result = engine::dequantize(
                format, model.path(), out,
                {.type = type, .max_file_bytes = limit, .progress = [&](double fraction, const std::string&) {
                     CHECK(fraction >= last);
                     last = fraction;
                     return true;
                 }});
            CHECK(last == 1.0);
            const auto folder = engine::ModelFolder::open(out);
            CHECK(std::filesystem::exists(out / "model.safetensors.index.json") == (limit == 50000));
            CHECK(std::filesystem::exists(out / "model.safetensors") == (limit != 50000));
            CHECK(result.tensors == int64_t(source.tensors().size()));
            CHECK(result.bytes == folder.file_bytes());
            for (const auto& info : source.tensors()) {
                CAPTURE(info.name);
                CHECK(folder.tensor(info.name).type == (type == StoredType::f32 ? type : info.type));
                CHECK(folder.read_f32(info.name) == source.read_f32(info.name));
            }
            CHECK(folder.config().string("torch_dtype") == (type == StoredType::f16 ? "float16" : "float32"));
            CHECK(folder.config().boolean("tie_word_embeddings") == true);
            CHECK(read_text(out / "tokenizer.json") == "{}");
        }
}

TEST_CASE("what cannot be: another type, a declined folder, a folder that is there, a cancel") {
    const PlainFormat format;
    const TempDir dir;
    std::filesystem::create_directory(dir.path() / "in");
    write_tensor_file(dir.path() / "in/model.safetensors",
                      {{"a.weight", make_tensor(StoredType::f32, {2}, std::vector<float>{1.0f, 1e6f})},
                       {"ids", make_tensor(StoredType::i64, {2}, std::vector<int64_t>{1, -5})}});
    const auto out = dir.path() / "out";
    CHECK_THROWS_WITH(engine::dequantize(format, dir.path() / "in", out, {.type = StoredType::bf16}),
                      doctest::Contains("BF16"));
    for (int at = 1; at <= 3; ++at) {
        int calls = 0;
        CHECK_THROWS_AS(engine::dequantize(format, dir.path() / "in", out,
                                           {.type = StoredType::f32,
                                            .progress = [&](double, const std::string&) { return ++calls < at; }}),
                        engine::Error);
        CHECK(calls == at);
        CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 1);
    }
    engine::dequantize(format, dir.path() / "in", out, {.type = StoredType::f32});
    const auto folder = engine::ModelFolder::open(out);
    CHECK(folder.read_f32("a.weight") == std::vector<float>{1.0f, 1e6f});
    CHECK(folder.read_values<int64_t>("ids") == std::vector<int64_t>{1, -5});
    CHECK_THROWS_WITH(engine::dequantize(format, dir.path() / "in", out), doctest::Contains("not empty"));

    std::filesystem::create_directory(dir.path() / "declined");
    write_tensor_file(dir.path() / "declined/model.safetensors",
                      {{"nothing", make_tensor(StoredType::f32, {1}, std::vector<float>{1})}});
    CHECK_THROWS_WITH(engine::dequantize(format, dir.path() / "declined", dir.path() / "x"),
                      "the folder holds nothing");
}

}  // namespace
}  // namespace quantplug::test
