#include "host_stub/cli/statistics.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace quantplug::host {
namespace {

using Rows = std::vector<std::vector<int32_t>>;

std::vector<int32_t> counted(size_t n) {
    std::vector<int32_t> ids(n);
    std::iota(ids.begin(), ids.end(), 0);
    return ids;
}

}  // namespace

TEST_CASE("rows are consecutive pieces, BOS before each where asked, the incomplete last one dropped") {
    CHECK(perplexity_rows(counted(7), 3, std::nullopt) == Rows{{0, 1, 2}, {3, 4, 5}});
    CHECK(perplexity_rows(counted(6), 3, std::nullopt) == Rows{{0, 1, 2}, {3, 4, 5}});
    CHECK(perplexity_rows(counted(7), 3, 99) == Rows{{99, 0, 1}, {99, 2, 3}, {99, 4, 5}});
    CHECK(perplexity_rows(counted(2), 3, std::nullopt).empty());
    CHECK(perplexity_rows(counted(2), 3, 99) == Rows{{99, 0, 1}});
    CHECK(perplexity_rows({}, 512, 99).empty());
    CHECK(perplexity_rows(counted(4), 1, 99).empty());
}

TEST_CASE("log-softmax agrees with the plain formula, and does not overflow") {
    const unsigned seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 4);
    for (const size_t n : {1, 2, 37, 5000}) {
        std::vector<float> logits(n);
        for (float& logit : logits) logit = normal(random);
        std::vector<double> out(n, -1);
        log_softmax(logits, out);
        long double sum = 0;
        for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
        for (size_t i = 0; i < n; ++i)
            CHECK(out[i] == doctest::Approx(static_cast<double>(static_cast<long double>(logits[i]) - std::log(sum)))
                                .epsilon(1e-12));
    }
    const std::vector<float> large = {3000, 2990, -std::numeric_limits<float>::infinity()};
    std::vector<double> out(3);
    log_softmax(large, out);
    CHECK(out[0] == doctest::Approx(-std::log1p(std::exp(-10.0))));
    CHECK(std::isinf(out[2]));
}

TEST_CASE("KL divergence of known distributions") {
    const std::vector<double> p = {std::log(0.5), std::log(0.5), -std::numeric_limits<double>::infinity()};
    const std::vector<double> q = {std::log(0.25), std::log(0.5), std::log(0.25)};
    CHECK(kl_divergence(p, q) == doctest::Approx(0.5 * std::log(2.0)));
    CHECK(kl_divergence(q, q) == 0.0);
    CHECK(kl_divergence(p, p) == 0.0);
    CHECK(std::isinf(kl_divergence(q, p)));
}

TEST_CASE("mean, its standard error, the 99th percentile, the most probable token") {
    const std::vector<double> values = {1, 2, 3, 4};
    CHECK(mean_and_error(values).mean == doctest::Approx(2.5));
    CHECK(mean_and_error(values).standard_error == doctest::Approx(std::sqrt(5.0 / 3.0) / 2.0));
    CHECK(mean_and_error(std::vector<double>{7}).standard_error == 0);
    std::vector<double> hundred(100);
    std::iota(hundred.begin(), hundred.end(), 1.0);
    std::shuffle(hundred.begin(), hundred.end(), std::mt19937(std::random_device{}()));
    CHECK(percentile_99(hundred) == doctest::Approx(99.01));
    hundred.push_back(101);
    CHECK(percentile_99(hundred) == 100);
    CHECK(percentile_99({5}) == 5);
    CHECK(percentile_99({6, 5}) == doctest::Approx(5.99));
    CHECK(argmax(std::vector<double>{1, 3, 3, 2}) == 1);
}

}  // namespace quantplug::host
