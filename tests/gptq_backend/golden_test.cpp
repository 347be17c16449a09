// Every GPTQ golden file, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>

#include "engine/checkpoint/folder.h"
#include "gptq_backend/gptq_format.h"
#include "kernels/half.h"
#include "tests/gptq_backend/support.h"

namespace quantplug::test {
namespace {

/// Zero points (G, N) of a source, 2^(bits-1) where it stores none.
std::vector<int16_t> zero_points(const kernels::QuantSource& source) {
    std::vector<int16_t> out(source.zeros.begin(), source.zeros.end());
    if (out.empty())
        out.assign(source.groups.size() * size_t(source.out_features), int16_t(1 << (source.groups[0].bits - 1)));
    return out;
}

/// Codes in input order.
std::vector<uint8_t> codes_in_order(const kernels::QuantSource& source) {
    const std::vector<uint8_t> sorted = read_all_codes(source);
    std::vector<uint8_t> out(sorted.size());
    const size_t n = size_t(source.out_features);
    for (size_t r = 0; r < sorted.size() / n; ++r)
        std::copy_n(sorted.begin() + std::ptrdiff_t(r * n), n,
                    out.begin() + std::ptrdiff_t((source.perm.empty() ? r : size_t(source.perm[r])) * n));
    return out;
}

TEST_CASE("every golden file decodes bit for bit") {
    const auto format = gptq::make_format();
    int files = 0, damaged = 0;
    for (const auto& path : golden_files("gptq_")) {
        CAPTURE(path.filename().string());
        const Tensors golden = read_tensor_file(path);
        const auto& codes = golden.at("codes");
        const int32_t k = int32_t(codes.shape[0]), n = int32_t(codes.shape[1]);
        const TempDir dir;
        write_tensor_file(dir.path() / "model.safetensors", as_module(golden, "m"));
        write_file(dir.path() / "quantize_config.json", config_of(path));
        const auto folder = engine::ModelFolder::open(dir.path());
        CHECK(format->probe(folder).score == 90);
        CHECK(format->has(folder, "m"));
        const auto modules = format->modules(folder);
        REQUIRE(modules.size() == 1);
        CHECK(modules[0].in_features == k);
        CHECK(modules[0].out_features == n);

        const auto stored = format->describe(folder, "m", k, n);
        const auto source = format->open(folder, "m", k, n);
        CHECK(kernels::validate(source).message == "");
        CHECK(same_shape(source.shape(), stored.shape));
        CHECK(codes_in_order(source) == codes.values<uint8_t>());
        const bool act = path.filename().string().find("_act") != std::string::npos && source.groups.size() > 1;
        const bool is_static = path.filename().string().find("_static") != std::string::npos;
        CHECK(source.perm.empty() == (!act || is_static));
        if (golden.contains("bias")) CHECK(source.bias == folder.read_f32("m.bias"));
        ++files;

        if (golden.contains("expected")) {
            CHECK(first_difference(decode_original(source), golden.at("expected").values<uint16_t>()) == -1);
            CHECK(zero_points(source) == golden.at("zeros").values<int16_t>());
            continue;
        }
        // Zero points that AutoGPTQ lost: what its own reader makes of them, which wraps for 4 bits and does not for 3.
        ++damaged;
        const auto decoded = decode_original(source);
        const auto reference = golden.at("expected_cuda_old").values<uint16_t>();
        if (source.groups[0].bits == 4) CHECK(first_difference(decoded, reference) == -1);
        const auto zeros = zero_points(source);
        size_t compared = 0;
        for (size_t row = 0; row < size_t(k); ++row)
            for (size_t column = 0; column < size_t(n); ++column) {
                if (zeros[row / 32 * size_t(n) + column] == 0) continue;
                ++compared;
                REQUIRE(decoded[row * size_t(n) + column] == reference[row * size_t(n) + column]);
            }
        CHECK(compared > size_t(k) * size_t(n) / 4);
    }
    MESSAGE("GPTQ golden files decoded bit for bit: "
            << files - damaged << " to the expected matrix, and " << damaged
            << " with zero points damaged by the writer to what its reader makes of them");
    CHECK(files == 34);
    CHECK(damaged == 2);
}

TEST_CASE("old 3-bit symmetric zero words are recognised without version information") {
    const auto format = gptq::make_format();
    const auto path = data_dir() / "goldens" / "gptq_v1_w3_sym_oldgptqmodel.safetensors";
    const Tensors golden = read_tensor_file(path);
    for (const char* config : {R"({"bits": 3, "group_size": 32})",
                               R"({"bits": 3, "group_size": 32, "meta": {"quantizer": ["gptqmodel"]}})"}) {
        const TempDir dir;
        write_tensor_file(dir.path() / "model.safetensors", as_module(golden, "m"));
        write_file(dir.path() / "quantize_config.json", config);
        const auto source = format->open(engine::ModelFolder::open(dir.path()), "m", 64, 64);
        CHECK(source.zeros.empty());
        CHECK(first_difference(decode_original(source), golden.at("expected").values<uint16_t>()) == -1);
    }
}

TEST_CASE("5, 6 and 7 bits are planar whatever the configuration says") {
    const auto format = gptq::make_format();
    for (const int bits : {5, 6, 7}) {
        const auto path = data_dir() / "goldens" / ("gptq_p_w" + std::to_string(bits) + "_g64_asym.safetensors");
        const Tensors golden = read_tensor_file(path);
        const TempDir dir;
        write_tensor_file(dir.path() / "model.safetensors", as_module(golden, "m"));
        write_file(dir.path() / "quantize_config.json",
                   R"({"bits": 4, "group_size": 128, "checkpoint_format": "gptq_v2"})");
        const auto source = format->open(engine::ModelFolder::open(dir.path()), "m", 128, 32);
        CHECK(source.groups[0].bits == bits);
        CHECK(first_difference(decode_original(source), golden.at("expected").values<uint16_t>()) == -1);
    }
}

TEST_CASE("GPTQModel 1.8 wrote 3-bit zero points of 32 columns only: restored where symmetric, refused where not") {
    const auto format = gptq::make_format();
    const auto path = data_dir() / "goldens" / "gptq_v1_w3_sym_oldgptqmodel.safetensors";
    const Tensors golden = read_tensor_file(path);
    Tensors tensors = as_module(golden, "m");
    auto words = tensors["m.qzeros"].values<uint32_t>();  // (2, 6); zeros less the constants beyond column 31
    for (size_t g = 0; g < 2; ++g) {
        words[g * 6 + 3] = 0u - 0x24924924u;
        words[g * 6 + 4] = 0u - 0x92492492u;
        words[g * 6 + 5] = 0u - 0x49249249u;
    }
    tensors["m.qzeros"] = make_tensor(engine::StoredType::i32, {2, 6}, words);
    const auto open_with = [&](const char* sym) {
        const TempDir dir;
        write_tensor_file(dir.path() / "model.safetensors", tensors);
        write_file(dir.path() / "quantize_config.json",
                   std::string(R"({"bits": 3, "group_size": 32, "meta": {"quantizer": ["gptqmodel:1.8.1"]}, "sym": )") +
                       sym + "}");
        return format->open(engine::ModelFolder::open(dir.path()), "m", 64, 64);
    };
    const auto source = open_with("true");
    CHECK(source.zeros.empty());
    CHECK(first_difference(decode_original(source), golden.at("expected").values<uint16_t>()) == -1);
    CHECK_THROWS_WITH(open_with("false"), doctest::Contains("m.qzeros"));
}

}  // namespace
}  // namespace quantplug::test
