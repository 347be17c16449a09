// A plain folder quantised to GPTQ, read back.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "engine/base/error.h"
#include "engine/tools/dequantize.h"
#include "engine/tools/quantize_json.h"
#include "gptq_backend/gptq_format.h"
#include "gptq_backend/rtn.h"
#include "kernels/half.h"
#include "tests/gptq_backend/support.h"
#include "tests/support/plain_model.h"

namespace quantplug::test {
namespace {

using engine::StoredType;

TEST_CASE("every width and group size, symmetric and not: reloads, error within a step, the same bytes again") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    const PlainModel model(seed, StoredType::f32, false);
    const auto format = gptq::make_format();
    for (const int32_t bits : {2, 3, 4, 8})
        for (const int32_t group_size : {32, 64, 128, -1})
            for (const bool sym : {true, false}) {
                CAPTURE(bits);
                CAPTURE(group_size);
                CAPTURE(sym);
                const TempDir dir;
                engine::QuantizeRequest request{
                    .in = model.path(), .out = dir.path() / "out", .bits = bits, .group_size = group_size, .sym = sym};
                const auto result = engine::quantize(request, gptq::make_quantizer);
                CHECK(result.bits_per_weight > bits);
                CHECK(result.bits_per_weight_head == 0);
                const auto folder = engine::ModelFolder::open(dir.path() / "out");
                CHECK(format->probe(folder).score == 90);
                const auto modules = format->modules(folder);
                CHECK(modules.size() == model.matrices().size());
                for (const auto& module : modules) {
                    CAPTURE(module.name);
                    const Matrix32& weight = model.matrix(module.name);
                    REQUIRE(module.in_features == weight.k);
                    const auto source = format->open(folder, module.name, weight.k, weight.n);
                    CHECK(kernels::validate(source).message == "");
                    CHECK(source.zeros.empty() == sym);
                    CHECK(source.perm.empty());
                    const auto decoded = decode_original(source);
                    int32_t row0 = 0;
                    for (size_t g = 0; g < source.groups.size(); ++g) {
                        for (int32_t n = 0; n < weight.n; ++n) {
                            const float step = kernels::f16_to_f32(source.scales[g * size_t(weight.n) + size_t(n)]);
                            // Half a step; the ends of the range may lose what rounding the scale to FP16 takes (2^-11
                            // of 2^bits steps), and a whole step where no weight of the column is negative (zero point
                            // kept at 1).
                            for (int32_t r = row0; r < row0 + source.groups[g].rows; ++r)
                                REQUIRE(
                                    std::fabs(weight.at(r, n) -
                                              kernels::f16_to_f32(decoded[size_t(r) * size_t(weight.n) + size_t(n)])) <=
                                    (sym ? 0.65f : 1.01f) * step);
                        }
                        row0 += source.groups[g].rows;
                    }
                    if (group_size == 64) CHECK(relative_error(weight, decoded) < 1.7 * std::exp2(1 - bits));
                }
                if (bits == 4 && group_size == 64) {
                    const TempDir again;
                    request.out = again.path() / "out";
                    engine::quantize(request, gptq::make_quantizer);
                    CHECK(read_text(again.path() / "out/model.safetensors") ==
                          read_text(dir.path() / "out/model.safetensors"));
                    CHECK(folder.tensor("lm_head.weight").type == StoredType::f16);  // F32 matrices become F16
                    CHECK(folder.tensor("model.norm.weight").type == StoredType::f32);
                    CHECK(std::filesystem::exists(dir.path() / "out/quantize_config.json"));
                    CHECK(folder.read_f32("model.layers.0.self_attn.q_proj.bias")[41] == 42.0f);
                }
            }
}

TEST_CASE("every golden becomes plain: the expected matrix, transposed") {
    const auto format = gptq::make_format();
    for (const auto& path : golden_files("gptq_w")) {
        CAPTURE(path.filename().string());
        const Tensors golden = read_tensor_file(path);
        const TempDir dir;
        std::filesystem::create_directory(dir.path() / "in");
        write_tensor_file(dir.path() / "in/model.safetensors", as_module(golden, "m"));
        write_file(dir.path() / "in/quantize_config.json", config_of(path));
        engine::dequantize(*format, dir.path() / "in", dir.path() / "out");
        const auto plain = engine::ModelFolder::open(dir.path() / "out");
        const auto got = plain.read_values<uint16_t>("m.weight"), want = golden.at("expected").values<uint16_t>();
        const size_t k = size_t(golden.at("expected").shape[0]), n = size_t(golden.at("expected").shape[1]);
        size_t wrong = 0;
        for (size_t row = 0; row < k; ++row)
            for (size_t column = 0; column < n; ++column) wrong += want[row * n + column] != got[column * k + row];
        CHECK(wrong == 0);
        CHECK(!std::filesystem::exists(dir.path() / "out/quantize_config.json"));
    }
}

TEST_CASE("a cancel at any event leaves nothing behind") {
    const PlainModel model(3, StoredType::f16, true);
    const auto format = gptq::make_format();
    const TempDir dir;
    for (const int at : {1, 2, 7, 20}) {
        int seen = 0;
        const auto stop = [&](const std::string&) { return ++seen < at; };
        const std::string arguments =
            R"({"in": ")" + model.path().string() + R"(", "out": ")" + (dir.path() / "out").string() + "\"}";
        try {
            engine::run_quantize(gptq::make_quantizer, gptq::quantize_arguments(), arguments, stop);
            FAIL("was not cancelled");
        } catch (const engine::Error& error) {
            CHECK(error.code() == engine::Code::cancelled);
        }
        CHECK(seen == at);
        CHECK(std::filesystem::is_empty(dir.path()));
    }
}

TEST_CASE("matrices that GPTQ cannot hold are refused by name") {
    const auto quantizer = gptq::make_quantizer({});
    for (const auto& [k, n] : {std::array<int32_t, 2>{48, 32}, {32, 48}})
        CHECK_THROWS_WITH(quantizer->layout("model.layers.0.mlp.up_proj", k, n, false, false),
                          doctest::Contains("model.layers.0.mlp.up_proj"));
    const TempDir dir;
    const auto source = data_dir() / "tiny" / "llama";
    std::filesystem::copy_file(source / "config.json", dir.path() / "config.json");
    Tensors tensors = read_tensor_file(source / "model.safetensors");
    Tensor& weight = tensors.at("model.layers.0.mlp.up_proj.weight");  // (64, 32) FP32
    std::vector<float> values = weight.values<float>();
    values[32 + 18] = std::nanf("");
    weight = make_tensor(StoredType::f32, weight.shape, values);
    write_tensor_file(dir.path() / "model.safetensors", tensors);
    CHECK_THROWS_WITH(
        engine::quantize({.in = dir.path(), .out = dir.path() / "out"}, gptq::make_quantizer),
        "matrix model.layers.0.mlp.up_proj: the weight of output 1, input 18 is NaN or infinite; get the model again");
    CHECK_FALSE(std::filesystem::exists(dir.path() / "out"));
}

}  // namespace
}  // namespace quantplug::test
