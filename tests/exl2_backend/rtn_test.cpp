// The scale search and the round-to-nearest quantiser against the original converter's results.
#include "exl2_backend/rtn.h"

#include <doctest/doctest.h>

#include <cmath>

#include "exl2_backend/exl2_format.h"
#include "exl2_backend/scale_search.h"
#include "kernels/half.h"
#include "tests/exl2_backend/support.h"

namespace quantplug::test {
namespace {

TEST_CASE("scale search: grid sums, chosen index, codes and scales of the original") {
    const Tensors golden = read_tensor_file(data_dir() / "goldens" / "conv_scale_search.safetensors");
    for (const int32_t bits : {2, 3, 4, 5, 6, 8}) {
        CAPTURE(bits);
        const std::string b = std::to_string(bits);
        const auto x = golden.at("x_" + b).values<float>();  // (64, 64)
        std::vector<float> maxima(64);
        for (size_t i = 0; i < x.size(); ++i) maxima[i % 64] = std::max(maxima[i % 64], std::fabs(x[i]));
        const exl2::ScaleGrid grid = exl2::make_grid(maxima, bits);
        std::array<double, exl2::grid_size> errors{};
        exl2::add_errors(x.data(), 64, grid.steps.data(), grid.largest, bits, errors);
        const exl2::GroupScales scales = exl2::choose_scales(grid, errors);

        const auto expected = golden.at("err_" + b).values<float>();
        const double unit = std::exp2(3.5 * std::ilogb(grid.largest));
        for (size_t i = 0; i < errors.size(); ++i) {
            CAPTURE(i);
            CHECK(errors[i] * unit == doctest::Approx(double(expected[i])).epsilon(2e-3));
        }
        CHECK(scales.best == golden.at("best_" + b).values<int32_t>()[0]);
        CHECK(scales.maximum == doctest::Approx(golden.at("qscale_max_" + b).values<float>()[0]).epsilon(1e-6));
        const auto codes = golden.at("qscale_" + b).values<int16_t>();
        CHECK(std::vector<int16_t>(grid.codes.begin(), grid.codes.end()) == codes);
        const auto scale = golden.at("scale_" + b).values<float>();
        for (size_t n = 0; n < 64; ++n) CHECK(kernels::f16_to_f32(scales.scales[n]) == scale[n]);
    }
}

TEST_CASE("round to nearest: the packed tensors of the original's head, 8 and 6 bits, permuted") {
    const Tensors golden = read_tensor_file(data_dir() / "goldens" / "conv_rtn_head6_k320_n64.safetensors");
    const exl2::Plan plan{{{8, 128}, {6, 128}, {6, 64}}, golden.at("perm").values<int32_t>()};
    const auto& weight = golden.at("in_weight");
    const exl2::Packed packed = exl2::round_to_nearest({"lm_head", 320, 64, weight.type, weight.bytes}, plan);
    CHECK(packed.q_groups == golden.at("q_groups").values<uint16_t>());
    CHECK(packed.q_scale == golden.at("q_scale").values<uint32_t>());
    CHECK(packed.q_scale_max == golden.at("q_scale_max").values<uint16_t>());
    CHECK(packed.q_invperm == golden.at("q_invperm").values<int32_t>());
    CHECK(first_difference(packed.q_weight, golden.at("q_weight").values<uint32_t>()) == -1);
}

TEST_CASE("a group of zeros, and weights near the ends of FP16") {
    for (const float size : {0.0f, 1e-7f, 3e-5f, 6e4f}) {
        CAPTURE(size);
        std::vector<float> values(64 * 32);
        for (size_t i = 0; i < values.size(); ++i) values[i] = size * float(int(i * 7919 % 201) - 100) / 100.0f;
        const auto weight = make_tensor(engine::StoredType::f32, {32, 64}, values);
        const auto packed =
            exl2::round_to_nearest({"m", 64, 32, weight.type, weight.bytes}, exl2::uniform_plan(64, 4, 32));
        for (const uint16_t maximum : packed.q_scale_max) CHECK(std::isfinite(kernels::f16_to_f32(maximum)));
        if (size == 0.0f)
            for (const uint32_t word : packed.q_weight) REQUIRE(word == 0x88888888u);
    }
    const auto weight = make_tensor(engine::StoredType::f32, {32, 32}, std::vector<float>(1024, 3e6f));
    CHECK_THROWS_WITH(
        exl2::round_to_nearest({"model.layers.0.x", 32, 32, weight.type, weight.bytes}, exl2::uniform_plan(32, 4, 32)),
        doctest::Contains("model.layers.0.x"));
}

}  // namespace
}  // namespace quantplug::test
