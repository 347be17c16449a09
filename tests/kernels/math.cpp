// exp, silu, sin, cos and log against libm in double precision.
#include "kernels/cpu/math.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "support.h"

using namespace quantplug::test;
using namespace quantplug::kernels::cpu;

namespace {

double ulps(float got, double expected) {
    int exponent;
    std::frexp(expected, &exponent);
    return std::fabs(double(got) - expected) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

}  // namespace

TEST_CASE("exp is within 2 units in the last place, silu within 4") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    double worst = 0, worst_silu = 0;
    for (int i = 0; i < 3000000; ++i) {
        const float x = i < 1000000   ? std::uniform_real_distribution<float>(-104, 88.7f)(random)
                        : i < 2000000 ? gauss(random, 3)
                                      : gauss(random, 1e-3f);
        worst = std::max(worst, ulps(exp_f32(x), std::exp(double(x))));
        if (x > -80) worst_silu = std::max(worst_silu, ulps(silu_f32(x), double(x) / (1 + std::exp(-double(x)))));
    }
    MESSAGE("worst exp " << worst << " ulp, silu " << worst_silu << " ulp");
    CHECK(worst <= 2);
    CHECK(worst_silu <= 4);
    CHECK(exp_f32(0) == 1);
    CHECK(exp_f32(-200) == 0);
    CHECK(exp_f32(-INFINITY) == 0);
    CHECK(exp_f32(100) == INFINITY);
    CHECK(std::isnan(exp_f32(std::nanf(""))));
    CHECK(silu_f32(0) == 0);
    CHECK(silu_f32(100) == 100);
    CHECK(std::fabs(silu_f32(-200)) == 0);
}

TEST_CASE("sin and cos of rope angles are exact to 1e-15 below 2^20, to 1e-6 below 2^30") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    double worst = 0, worst_large = 0;
    for (int i = 0; i < 1000000; ++i) {
        const double angle = std::uniform_real_distribution<double>(0, i % 2 ? 1048576 : 100)(random);
        double s, c;
        sin_cos(i % 4 < 2 ? angle : -angle, &s, &c);
        const double x = i % 4 < 2 ? angle : -angle;
        worst = std::max({worst, std::fabs(s - std::sin(x)), std::fabs(c - std::cos(x))});
        const double large = std::uniform_real_distribution<double>(0, 0x1p30)(random);
        sin_cos(large, &s, &c);
        worst_large = std::max({worst_large, std::fabs(s - std::sin(large)), std::fabs(c - std::cos(large))});
    }
    MESSAGE("worst " << worst << " below 2^20, " << worst_large << " below 2^30");
    CHECK(worst < 1e-15);
    CHECK(worst_large < 1e-6);
}

TEST_CASE("log is exact to 1e-15") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    double worst = 0;
    for (int i = 0; i < 1000000; ++i) {
        const double x = std::ldexp(1 + double(random() >> 12) * 0x1p-52, int(random() % 200) - 60);
        const double expected = std::log(x);
        if (expected != 0) worst = std::max(worst, std::fabs(log_f64(x) / expected - 1));
    }
    CHECK(worst < 1e-15);
    CHECK(log_f64(1) == 0);
    CHECK(log_f64(0) == -INFINITY);
    CHECK(log_f64(INFINITY) == INFINITY);
    CHECK(std::isnan(log_f64(-1)));
    CHECK(std::isnan(log_f64(std::nan(""))));
}
