// A plain folder quantised to EXL2, read back.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "engine/base/error.h"
#include "engine/tools/dequantize.h"
#include "engine/tools/quantize_json.h"
#include "exl2_backend/exl2_format.h"
#include "exl2_backend/rtn.h"
#include "kernels/half.h"
#include "tests/exl2_backend/support.h"
#include "tests/support/plain_model.h"

namespace quantplug::test {
namespace {

using engine::StoredType;

TEST_CASE("every width: reloads, error within a step, the same bytes again") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    const PlainModel model(seed, StoredType::f16, true);
    for (const int32_t bits : {2, 3, 4, 5, 6, 8}) {
        CAPTURE(bits);
        const TempDir dir;
        engine::QuantizeRequest request{
            .in = model.path(), .out = dir.path() / "out", .bits = bits, .group_size = bits == 5 ? 32 : 64};
        const auto result = engine::quantize(request, exl2::make_quantizer);
        CHECK(result.bits_per_weight > bits);
        CHECK(result.bits_per_weight < bits + 1.5);

        const auto format = exl2::make_format();
        const auto folder = engine::ModelFolder::open(dir.path() / "out");
        CHECK(format->probe(folder).score == 90);
        const auto modules = format->modules(folder);
        CHECK(modules.size() == model.matrices().size() + 1);  // and the tied head
        for (const auto& module : modules) {
            CAPTURE(module.name);
            const Matrix32& weight = model.matrix(module.name == "lm_head" ? "model.embed_tokens" : module.name);
            REQUIRE(module.in_features == weight.k);
            REQUIRE(module.out_features == weight.n);
            const auto source = format->open(folder, module.name, weight.k, weight.n);
            CHECK(kernels::validate(source).message == "");
            CHECK(source.perm.empty());
            CHECK(source.groups[0].bits == (module.name == "lm_head" ? 6 : bits));
            const auto decoded = decode_original(source);
            // A column's step is at most (17/16)^2 of what its largest weight needs, or (1/16)^2 of the group's
            // largest; the search may clip the largest at 0.7 of it. Half a step, or what was clipped.
            int32_t row0 = 0;
            for (size_t g = 0; g < source.groups.size(); ++g) {
                for (int32_t n = 0; n < weight.n; ++n) {
                    const float step = kernels::f16_to_f32(source.scales[g * size_t(weight.n) + size_t(n)]);
                    const float high = step * float((1 << (source.groups[g].bits - 1)) - 1),
                                low = -step * float(1 << (source.groups[g].bits - 1));
                    for (int32_t r = row0; r < row0 + source.groups[g].rows; ++r) {
                        const float w = weight.at(r, n),
                                    w2 = kernels::f16_to_f32(decoded[size_t(r) * size_t(weight.n) + size_t(n)]);
                        const float clipped = std::max({w - high, low - w, 0.0f});
                        REQUIRE(std::fabs(w - w2) <= std::max(0.501f * step, clipped * 1.001f) + std::fabs(w) * 1e-3f);
                    }
                }
                row0 += source.groups[g].rows;
            }
            CHECK(relative_error(weight, decoded) <
                  1.8 * std::exp2(1 - source.groups[0].bits));  // 1.1 to 1.3 seen: weights with outliers
        }
        if (bits == 4) {
            const TempDir again;
            request.out = again.path() / "out";
            engine::quantize(request, exl2::make_quantizer);
            CHECK(read_text(again.path() / "out/output.safetensors") ==
                  read_text(dir.path() / "out/output.safetensors"));
            CHECK(read_text(dir.path() / "out/tokenizer.json") == "{}");
            CHECK(read_text(dir.path() / "out/config.json").find("exl2") != std::string::npos);
            // Norms are as they were.
            CHECK(folder.read_f32("model.norm.weight") ==
                  engine::ModelFolder::open(model.path()).read_f32("model.norm.weight"));
        }
    }
}

TEST_CASE("the way back: quantised, dequantised, the decoded values") {
    const PlainModel model(5, StoredType::bf16, false);
    const TempDir dir;
    engine::quantize({.in = model.path(), .out = dir.path() / "q", .bits = 6, .max_file_bytes = 60000},
                     exl2::make_quantizer);
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(dir.path() / "q"))
        files += entry.path().filename().string().starts_with("output-0000");
    CHECK(files > 2);
    CHECK(!std::filesystem::exists(dir.path() / "q/output.safetensors"));
    const auto format = exl2::make_format();
    const auto result = engine::dequantize(*format, dir.path() / "q", dir.path() / "plain", {.max_file_bytes = 100000});
    const auto quantised = engine::ModelFolder::open(dir.path() / "q");
    const auto plain = engine::ModelFolder::open(dir.path() / "plain");
    CHECK(result.tensors == int64_t(plain.tensors().size()));
    CHECK(result.bytes == plain.file_bytes());
    CHECK(std::filesystem::exists(dir.path() / "plain" / "model.safetensors.index.json"));
    CHECK(format->probe(plain).format == "plain");
    for (const auto& module : format->modules(quantised)) {
        CAPTURE(module.name);
        const auto decoded =
            decode_original(format->open(quantised, module.name, module.in_features, module.out_features));
        const auto& info = plain.tensor(module.name + ".weight");
        CHECK(info.shape == std::vector<int64_t>{module.out_features, module.in_features});
        const auto stored = plain.read_values<uint16_t>(info.name);
        size_t wrong = 0;
        for (size_t k = 0; k < size_t(module.in_features); ++k)
            for (size_t n = 0; n < size_t(module.out_features); ++n)
                wrong += stored[n * size_t(module.in_features) + k] != decoded[k * size_t(module.out_features) + n];
        CHECK(wrong == 0);
    }
    // The bias of q_proj is 1, 2, 3, ...
    CHECK(plain.read_f32("model.layers.0.self_attn.q_proj.bias")[41] == 42.0f);
    // What was not quantised is as it was.
    CHECK(plain.tensor("model.embed_tokens.weight").type == StoredType::bf16);
}

TEST_CASE("the original's mini checkpoint becomes plain, its padded head cut to the vocabulary") {
    const TempDir dir;
    const auto format = exl2::make_format();
    for (const StoredType type : {StoredType::f16, StoredType::f32}) {
        const auto out = dir.path() / (type == StoredType::f16 ? "f16" : "f32");
        engine::dequantize(*format, data_dir() / "goldens/exl2_mini_checkpoint", out, {.type = type});
        const auto plain = engine::ModelFolder::open(out);
        const auto expected = engine::ModelFolder::open_file(data_dir() / "goldens/exl2mini_expected.safetensors");
        CHECK(plain.tensor("lm_head.weight").shape == std::vector<int64_t>{300, 128});
        for (const auto& info : expected.tensors()) {
            const std::string module = info.name.substr(0, info.name.size() - 9);
            const auto want = expected.read_f32(info.name), got = plain.read_f32(module + ".weight");
            const size_t k = size_t(info.shape[0]), n_stored = size_t(info.shape[1]), n = got.size() / k;
            size_t wrong = 0;
            for (size_t row = 0; row < k; ++row)
                for (size_t column = 0; column < n; ++column)
                    wrong += want[row * n_stored + column] != got[column * k + row];
            CHECK(wrong == 0);
        }
        for (const auto& info : plain.tensors()) CHECK(info.type == type);
        const auto config = plain.config();
        CHECK(!config.has("quantization_config"));
        CHECK(config.boolean("tie_word_embeddings") == false);
        CHECK(config.string("torch_dtype") == (type == StoredType::f16 ? "float16" : "float32"));
    }
}

TEST_CASE("requests that are refused, by name") {
    const PlainModel model(1, StoredType::f16, true);
    const TempDir dir;
    const auto refuse = [&](const std::string& rest) -> std::string {
        try {
            engine::run_quantize(exl2::make_quantizer, exl2::quantize_arguments(),
                                 R"({"in": ")" + model.path().string() + R"(", "out": ")" +
                                     (dir.path() / "out").string() + "\"" + rest + "}",
                                 {});
        } catch (const engine::Error& error) {
            CHECK(!std::filesystem::exists(dir.path() / "out"));
            return error.what();
        }
        return "";
    };
    const auto names = [](const std::string& message, const char* part) {
        CAPTURE(message);
        CHECK(message.find(part) != std::string::npos);
    };
    names(refuse(R"(, "method": "magic")"), "rtn");
    names(refuse(R"(, "bits": 7)"), "7");
    names(refuse(R"(, "bits": 4.25)"), "bits");
    names(refuse(R"(, "head_bits": 1)"), "head_bits");
    names(refuse(R"(, "group_size": 256)"), "group_size");
    names(refuse(R"(, "sym": true)"), "sym");
    CHECK(std::filesystem::is_empty(dir.path()));
    CHECK(refuse(R"(, "bits": 4.0)") == "");
    // What is quantised already.
    CHECK_THROWS_WITH(engine::quantize({.in = dir.path() / "out", .out = dir.path() / "twice"}, exl2::make_quantizer),
                      doctest::Contains("already"));
}

}  // namespace
}  // namespace quantplug::test
