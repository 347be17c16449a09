// exp, the activations, tanh, sin, cos and log against libm in double precision.
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

TEST_CASE("tanh is within 3 units in the last place, gelu and its kin within 1e-6") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    double worst_tanh = 0, worst_gelu = 0, worst_tanh_gelu = 0, worst_quick = 0;
    for (int i = 0; i < 1000000; ++i) {
        const float x = i % 3 == 0   ? std::uniform_real_distribution<float>(-12, 12)(random)
                        : i % 3 == 1 ? gauss(random)
                                     : gauss(random, 1e-3f);
        const double y = double(x);
        worst_tanh = std::max(worst_tanh, ulps(tanh_f32(x), std::tanh(y)));
        // Absolute, and relative to large values.
        const double unit = std::max(1.0, std::fabs(y));
        worst_gelu = std::max(worst_gelu, std::fabs(double(gelu_f32(x)) - y * 0.5 * std::erfc(-y / M_SQRT2)) / unit);
        const double u = std::sqrt(2 / M_PI) * (y + 0.044715 * y * y * y);
        worst_tanh_gelu =
            std::max(worst_tanh_gelu, std::fabs(double(gelu_tanh_f32(x)) - y / (1 + std::exp(-2 * u))) / unit);
        worst_quick =
            std::max(worst_quick, std::fabs(double(quick_gelu_f32(x)) - y / (1 + std::exp(-1.702 * y))) / unit);
    }
    MESSAGE("worst tanh " << worst_tanh << " ulp; gelu " << worst_gelu << ", gelu_tanh " << worst_tanh_gelu
                          << ", quick_gelu " << worst_quick);
    CHECK(worst_tanh <= 3);
    CHECK(worst_gelu < 1e-6);
    CHECK(worst_tanh_gelu < 1e-6);
    CHECK(worst_quick < 1e-6);
    CHECK(tanh_f32(0) == 0);
    CHECK(tanh_f32(100) == 1);
    CHECK(tanh_f32(-INFINITY) == -1);
    CHECK(std::isnan(tanh_f32(std::nanf(""))));
    CHECK(gelu_f32(0) == 0);
    CHECK(gelu_f32(40) == 40);
    CHECK(std::fabs(gelu_f32(-40)) == 0);
    CHECK(gelu_tanh_f32(1e4f) == 1e4f);
    CHECK(std::fabs(gelu_tanh_f32(-1e4f)) == 0);
    CHECK(std::isnan(gelu_f32(std::nanf(""))));
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

TEST_CASE("exp of doubles is exact to 1e-15") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    double worst = 0;
    for (int i = 0; i < 300000; ++i) {
        const double x = std::uniform_real_distribution<double>(-60, i % 2 ? 60 : 0.01)(random);
        worst = std::max(worst, std::fabs(exp_f64(x) / std::exp(x) - 1));
    }
    MESSAGE("worst " << worst);
    CHECK(worst < 1e-15);
    CHECK(exp_f64(0) == 1);
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
