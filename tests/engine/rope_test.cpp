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
