#include "engine/model/rope.h"

#include <doctest/doctest.h>

#include <cmath>

#include "engine/base/error.h"

namespace quantplug::test {

using namespace engine;

TEST_CASE("plain frequencies are theta^(-2t/d)") {
    RopeConfig rope;
    rope.theta = 10000;
    const kernels::RopeSpec spec = rope_spec(rope, 64);
    REQUIRE(spec.inv_freq.size() == 32);
    for (size_t t = 0; t < 32; ++t) CHECK(spec.inv_freq[t] == doctest::Approx(std::pow(10000.0, -double(t) / 32)));
    CHECK(spec.scale == 1.0f);
}

TEST_CASE("linear divides every frequency") {
    RopeConfig rope;
    rope.type = "linear";
    rope.factor = 4;
    CHECK(rope_spec(rope, 8).inv_freq[0] == 0.25f);
    rope.factor.reset();
    CHECK_THROWS_AS(rope_spec(rope, 8), Error);
}

TEST_CASE("llama3: factor 32, low 1, high 4, original 8192, theta 500000, head_dim 64") {
    RopeConfig rope;
    rope.type = "llama3";
    rope.theta = 500000;
    rope.factor = 32;
    rope.low_freq_factor = 1;
    rope.high_freq_factor = 4;
    rope.original_max_positions = 8192;
    const kernels::RopeSpec spec = rope_spec(rope, 64);
    const double unscaled_0 = 1.0, unscaled_31 = std::pow(500000.0, -62.0 / 64);
    CHECK(spec.inv_freq[0] == doctest::Approx(unscaled_0));         // wavelength 2 pi < 8192 / 4
    CHECK(spec.inv_freq[31] == doctest::Approx(unscaled_31 / 32));  // wavelength above 8192
    // Between: wavelength 2 pi / f in 2048 .. 8192.
    bool between = false;
    for (size_t t = 0; t < 32; ++t) {
        const double f = std::pow(500000.0, -2.0 * double(t) / 64), wavelength = 2 * M_PI / f;
        if (wavelength <= 2048 || wavelength >= 8192) continue;
        const double smooth = (8192 / wavelength - 1) / 3;
        CHECK(spec.inv_freq[t] == doctest::Approx((1 - smooth) * f / 32 + smooth * f));
        between = true;
    }
    CHECK(between);
}

TEST_CASE("dynamic: plain up to the context, theta grows with the length beyond; alpha is a constant") {
    RopeConfig rope;
    rope.type = "dynamic";
    rope.theta = 500;
    rope.max_positions = 16;
    CHECK_THROWS_AS(rope_spec(rope, 32), Error);  // no factor
    rope.factor = 4;
    const kernels::RopeSpec spec = rope_spec(rope, 32);
    CHECK(spec.length_limit == 16);
    CHECK(spec.theta == 500);
    CHECK(spec.factor == 4);
    CHECK(spec.long_inv_freq.empty());
    CHECK(spec.inv_freq[5] == doctest::Approx(std::pow(500.0, -10.0 / 32)));
    rope.alpha = 1000;
    const kernels::RopeSpec alpha = rope_spec(rope, 32);
    CHECK(alpha.length_limit == 0);
    CHECK(alpha.inv_freq[5] == doctest::Approx(std::pow(500.0 * std::pow(1000.0, 32.0 / 30), -10.0 / 32)));
}

TEST_CASE("yarn: high frequencies stay, low ones are divided, and the scale follows the factor") {
    RopeConfig rope;
    rope.type = "yarn";
    rope.theta = 10000;
    rope.factor = 4;
    rope.original_max_positions = 2048;
    const kernels::RopeSpec spec = rope_spec(rope, 128);
    // c(32) = 128 ln(2048 / (64 pi)) / (2 ln 10000) = 16.1, c(1) = 40.2: kept up to 16, divided from 41.
    for (const size_t t : {size_t(0), size_t(10), size_t(16)})
        CHECK(spec.inv_freq[t] == doctest::Approx(std::pow(10000.0, -2.0 * double(t) / 128)));
    for (const size_t t : {size_t(41), size_t(63)})
        CHECK(spec.inv_freq[t] == doctest::Approx(std::pow(10000.0, -2.0 * double(t) / 128) / 4));
    const double k = 12.0 / 25, f = std::pow(10000.0, -56.0 / 128);
    CHECK(spec.inv_freq[28] == doctest::Approx(k * f / 4 + (1 - k) * f));
    CHECK(spec.scale == doctest::Approx(0.1 * std::log(4.0) + 1));
    rope.mscale = 0.8;
    rope.mscale_all_dim = 0.5;
    CHECK(rope_spec(rope, 128).scale == doctest::Approx((0.08 * std::log(4.0) + 1) / (0.05 * std::log(4.0) + 1)));
    rope.attention_factor = 1.25;
    CHECK(rope_spec(rope, 128).scale == 1.25f);
}

TEST_CASE("longrope: two sets of factors by length, and one scale for both") {
    RopeConfig rope;
    rope.type = "longrope";
    rope.theta = 10000;
    rope.max_positions = 16384;
    rope.original_max_positions = 4096;
    rope.short_factor = {1, 2};
    rope.long_factor = {1, 4};
    const kernels::RopeSpec spec = rope_spec(rope, 4);
    CHECK(spec.length_limit == 4096);
    CHECK(spec.inv_freq[1] == doctest::Approx(0.01 / 2));
    CHECK(spec.long_inv_freq[1] == doctest::Approx(0.01 / 4));
    CHECK(spec.scale == doctest::Approx(std::sqrt(1 + std::log(4.0) / std::log(4096.0))));
    rope.long_factor = {1};
    CHECK_THROWS_AS(rope_spec(rope, 4), Error);
    rope.long_factor = {1, 0};
    CHECK_THROWS_AS(rope_spec(rope, 4), Error);
}

TEST_CASE("an unread type is an error that names it") {
    RopeConfig rope;
    rope.type = "spiral";
    try {
        rope_spec(rope, 64);
        FAIL("accepted");
    } catch (const Error& e) {
        CHECK(std::string(e.what()).find("spiral") != std::string::npos);
        CHECK(e.code() == Code::unimplemented);
    }
}

}  // namespace quantplug::test
