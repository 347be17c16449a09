// Every EXL2 golden file and the mini checkpoint, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "engine/checkpoint/folder.h"
#include "exl2_backend/exl2_format.h"
#include "tests/exl2_backend/support.h"

namespace quantplug::test {
namespace {

TEST_CASE("every golden file decodes bit for bit") {
    const auto format = exl2::make_format();
    int files = 0;
    for (const auto& path : golden_files("exl2_")) {
        CAPTURE(path.filename().string());
        const Tensors golden = read_tensor_file(path);
        const auto& expected = golden.at("expected");
        const int32_t k = int32_t(expected.shape[0]), n_stored = int32_t(expected.shape[1]);
        const TempDir dir;
        write_tensor_file(dir.path() / "output.safetensors", as_module(golden, "m"));
        const auto folder = engine::ModelFolder::open(dir.path());
        CHECK(format->probe(folder).score == 90);
        CHECK(format->has(folder, "m"));
        CHECK(!format->has(folder, "n"));

        // The stored width, and one that makes columns padding.
        for (const int32_t n : {n_stored, n_stored - 28}) {
            const auto stored = format->describe(folder, "m", k, n);
            const auto source = format->open(folder, "m", k, n);
            CHECK(kernels::validate(source).message == "");
            CHECK(same_shape(source.shape(), stored.shape));
            CHECK(first_difference(decode_original(source), crop(expected.values<uint16_t>(), n_stored, n)) == -1);
            CHECK(read_all_codes(source) == crop(golden.at("codes").values<uint8_t>(), n_stored, n));
            CHECK(source.bias.empty() == !golden.contains("bias"));
            if (golden.contains("bias")) CHECK(source.bias == crop(folder.read_f32("m.bias"), n_stored, n));
        }
        ++files;
    }
    MESSAGE("EXL2 golden files decoded bit for bit: " << files);
    CHECK(files == 17);
}

TEST_CASE("the mini checkpoint: matrices spread over files, a stale index, a padded head") {
    const auto format = exl2::make_format();
    const auto goldens = data_dir() / "goldens";
    const auto folder = engine::ModelFolder::open(goldens / "exl2_mini_checkpoint");
    const auto expected = engine::ModelFolder::open_file(goldens / "exl2mini_expected.safetensors");
    CHECK(format->probe(folder).score == 90);
    const auto modules = format->modules(folder);
    CHECK(modules.size() == 15);
    for (const auto& module : modules) {
        CAPTURE(module.name);
        const auto& info = expected.tensor(module.name + ".expected");
        CHECK(info.shape[0] == module.in_features);
        if (module.name == "lm_head")
            CHECK(module.out_features == 300);
        else
            CHECK(info.shape[1] == module.out_features);
        const auto source = format->open(folder, module.name, module.in_features, module.out_features);
        CHECK(kernels::validate(source).message == "");
        const auto want = crop(expected.read_values<uint16_t>(info.name), int32_t(info.shape[1]), module.out_features);
        CHECK(first_difference(decode_original(source), want) == -1);
    }
}

TEST_CASE("codes can be asked for in pieces of any size within a group, and not across groups") {
    const auto format = exl2::make_format();
    const TempDir dir;
    const Tensors golden = read_tensor_file(data_dir() / "goldens" / "exl2_w865432_g128_partial.safetensors");
    write_tensor_file(dir.path() / "output.safetensors", as_module(golden, "m"));
    const auto folder = engine::ModelFolder::open(dir.path());
    const auto source = format->open(folder, "m", 576, 64);
    const auto want = golden.at("codes").values<uint8_t>();
    for (const int32_t piece : {1, 7, 32, 100}) {
        CAPTURE(piece);
        int32_t group0 = 0;
        for (const auto& group : source.groups) {
            for (int32_t row = 0; row < group.rows; row += piece) {
                const int32_t rows = std::min(piece, group.rows - row);
                std::vector<uint8_t> codes(size_t(rows) * 64 + 1, 0xcd);
                REQUIRE(source.read_codes(group0 + row, rows, codes.data()).ok());
                REQUIRE(std::equal(codes.begin(), codes.end() - 1, want.begin() + size_t(group0 + row) * 64));
                REQUIRE(codes.back() == 0xcd);
            }
            group0 += group.rows;
        }
    }
    std::vector<uint8_t> codes(4096 * 64);
    CHECK(!source.read_codes(120, 16, codes.data()).ok());
    CHECK(!source.read_codes(-1, 1, codes.data()).ok());
    CHECK(!source.read_codes(576, 1, codes.data()).ok());
}

}  // namespace
}  // namespace quantplug::test
