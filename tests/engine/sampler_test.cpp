#include "engine/generate/sampler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "engine/base/error.h"

namespace quantplug::test {

using namespace engine;

namespace {

std::vector<float> random_logits(size_t n, std::mt19937& random) {
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> logits(n);
    for (float& l : logits) l = normal(random);
    return logits;
}

/// The distribution that the documented order defines, by plain sorting.
std::vector<double> expected(const std::vector<float>& logits, const Sampling& s) {
    std::vector<size_t> order(logits.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    std::vector<double> p;
    for (const size_t i : order) p.push_back(std::exp((logits[i] - logits[order[0]]) / s.temperature));
    size_t kept = p.size();
    if (s.top_k > 0) kept = std::min(kept, size_t(s.top_k));
    double total = 0;
    for (size_t i = 0; i < kept; ++i) total += p[i];
    double mass = 0;
    size_t n = 0;
    while (n < kept && (n == 0 || mass < s.top_p * total)) mass += p[n++];
    while (n > 1 && p[n - 1] < s.min_p * p[0]) mass -= p[--n];
    std::vector<double> out(logits.size());
    for (size_t i = 0; i < n; ++i) out[order[i]] = p[i] / mass;
    return out;
}

}  // namespace

TEST_CASE("greedy takes the most probable token, ties to the lowest id") {
    Sampler sampler(Sampling{});
    CHECK(sampler.sample(std::vector<float>{1, 5, 5, 2}) == 1);
    CHECK(sampler.sample(std::vector<float>{-INFINITY, NAN, -3}) == 2);
}

TEST_CASE("no finite logit is an error, not a token") {
    Sampler sampler(Sampling{});
    CHECK_THROWS_AS(sampler.sample(std::vector<float>{NAN, NAN}), Error);
    CHECK_THROWS_AS(sampler.sample(std::vector<float>{-INFINITY, -INFINITY}), Error);
    CHECK_THROWS_AS(sampler.sample(std::vector<float>{INFINITY, 0}), Error);
    CHECK_THROWS_AS(sampler.sample({}), Error);
}

TEST_CASE("draws follow the documented distribution (chi-square)") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const Sampling cases[] = {
        {.temperature = 1},
        {.temperature = 0.7, .top_k = 5},
        {.temperature = 1.3, .top_p = 0.8},
        {.temperature = 1, .min_p = 0.1},
        {.temperature = 1.5, .top_k = 12, .top_p = 0.9, .min_p = 0.02},
        {.temperature = 1, .top_k = 1},
        {.temperature = 1, .top_p = 0},
    };
    for (Sampling s : cases) {
        s.seed = random();
        const std::vector<float> logits = random_logits(40, random);
        const std::vector<double> p = expected(logits, s);
        Sampler sampler(s);
        constexpr int draws = 20000;
        std::vector<int> counts(logits.size());
        for (int i = 0; i < draws; ++i) ++counts[size_t(sampler.sample(logits))];
        double chi = 0;
        int cells = 0;
        double small_p = 0, small_n = 0;  // cells that are expected under 5 times share one
        for (size_t i = 0; i < p.size(); ++i) {
            if (p[i] == 0) {
                CHECK(counts[i] == 0);
            } else if (p[i] * draws < 5) {
                small_p += p[i];
                small_n += counts[i];
            } else {
                chi += std::pow(counts[i] - p[i] * draws, 2) / (p[i] * draws);
                ++cells;
            }
        }
        if (small_p > 0) {
            chi += std::pow(small_n - small_p * draws, 2) / std::max(5.0, small_p * draws);
            ++cells;
        }
        // Mean cells-1, deviation sqrt(2(cells-1)): six of them are one false alarm in 1e6 runs.
        CHECK(chi < (cells - 1) + 6 * std::sqrt(2.0 * std::max(1, cells - 1)) + 6);
    }
}

TEST_CASE("a seed reproduces, another one differs") {
    std::mt19937 random(7);
    const std::vector<float> logits = random_logits(500, random);
    const auto draw = [&](uint64_t seed) {
        Sampler sampler({.temperature = 1, .seed = seed});
        std::vector<int32_t> ids;
        for (int i = 0; i < 20; ++i) ids.push_back(sampler.sample(logits));
        return ids;
    };
    CHECK(draw(1) == draw(1));
    CHECK(draw(1) != draw(2));
}

TEST_CASE("log-probabilities are of the model's own distribution") {
    const std::vector<float> logits = {0, 1, 2, 1};
    const double total = std::log(1 + 2 * std::exp(1.0) + std::exp(2.0));
    CHECK(log_sum_exp(logits) == doctest::Approx(total));
    const auto top = most_probable(logits, 3);
    REQUIRE(top.size() == 3);
    CHECK(top[0].id == 2);
    CHECK(top[1].id == 1);  // ties to the lowest id
    CHECK(top[2].id == 3);
    CHECK(top[0].logprob == doctest::Approx(2 - total));
    CHECK(most_probable(logits, 100).size() == 4);
}

TEST_CASE("values out of range are refused by name") {
    const auto message = [](const Sampling& s) {
        try {
            validate(s);
        } catch (const Error& e) {
            return std::string(e.what());
        }
        return std::string();
    };
    CHECK(message({.temperature = -1}).find("temperature") != std::string::npos);
    CHECK(message({.temperature = NAN}).find("temperature") != std::string::npos);
    CHECK(message({.top_k = -2}).find("top_k") != std::string::npos);
    CHECK(message({.top_p = 1.5}).find("top_p") != std::string::npos);
    CHECK(message({.min_p = -0.1}).find("min_p") != std::string::npos);
    CHECK(message({.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05}).empty());
}

}  // namespace quantplug::test
