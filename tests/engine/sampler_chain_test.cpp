// Chains of samplers against a plain implementation of the definitions, and draws against the distribution.
#include <doctest/doctest.h>

#include <cmath>

#include "engine/generate/sampler.h"
#include "random_sampling.h"
#include "sampler_reference.h"

namespace quantplug::test {

using namespace engine;

TEST_CASE("random chains give what the definitions give") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    RandomSampling sampling(random);
    int near = 0;
    constexpr int trials = 600;
    for (int trial = 0; trial < trials; ++trial) {
        const size_t sizes[] = {1, 2, 3, 20, 300, 1500};
        const size_t n = sizes[random() % 6];
        const std::vector<float> logits = random_logits(n, trial % 5 == 0 ? 0.05f : 3.0f, random);
        std::vector<int32_t> history(random() % 80);
        for (int32_t& id : history) id = int32_t(random() % std::min<size_t>(n, 7));
        const Sampling s = sampling.make(n);
        CAPTURE(trial);
        const std::string chain = describe(s);
        CAPTURE(chain);

        const ReferenceChain reference(logits, history, s);
        if (reference.margin < 2e-5) {
            ++near;
            continue;
        }
        const size_t n_prompt = history.size() / 2;
        Sampler sampler(s, std::span(history).first(n_prompt), nullptr, {});
        for (size_t i = n_prompt; i < history.size(); ++i) sampler.accept(history[i]);
        const std::map<int32_t, double> expected = reference.distribution();
        const std::vector<TokenProbability> got = sampler.distribution(logits);
        REQUIRE(got.size() <= expected.size());
        double kept = 0, worst = 0;
        for (const TokenProbability& t : got) {
            REQUIRE(expected.count(t.id) == 1);
            worst = std::max(worst, std::abs(t.probability - expected.at(t.id)));
            kept += expected.at(t.id);
        }
        CHECK(worst < 2e-5);
        // What rounding leaves out is nothing: tokens of less than e^-87.
        CHECK(std::abs(kept - 1) < 1e-9);
        if (got.size() < expected.size()) CHECK(expected.size() > 100);
        const int32_t id = sampler.sample(logits);
        CHECK(expected.count(id) == 1);
    }
    CHECK(near < trials / 4);
}

TEST_CASE("draws follow the distribution (chi-square)") {
    const Sampling cases[] = {
        {.temperature = 1},
        {.temperature = 0.7, .top_k = 5},
        {.temperature = 1.3, .top_p = 0.8},
        {.temperature = 1, .min_p = 0.1},
        {.temperature = 1.5, .top_k = 12, .top_p = 0.9, .min_p = 0.02},
        {.temperature = 0.8, .top_p = 0.95, .min_p = 0.05, .repetition_penalty = 1.1},
        {.temperature = 1, .top_k = 1},
        {.temperature = 1, .typical_p = 0.8},
        {.temperature = 1.2, .tfs = 0.9},
        {.temperature = 1, .top_n_sigma = 1.5, .order = "top_n_sigma,temperature"},
        {.temperature = 1, .min_p = 0.02, .dynatemp_low = 0.5, .dynatemp_high = 2},
        {.temperature = 1, .mirostat_tau = 1.5},
        {.temperature = 1, .xtc_probability = 0.4, .xtc_threshold = 0.05},
        {.temperature = 1, .smoothing_factor = 0.2, .dry_multiplier = 0.8},
    };
    std::mt19937 random(20);
    const std::vector<int32_t> history = {1, 2, 3, 4, 1, 2, 3};
    for (Sampling s : cases) {
        const std::string chain = describe(s);
        CAPTURE(chain);
        s.seed = random();
        // 70 and 700: a draw within one block of probabilities, and over several.
        const std::vector<float> logits = random_logits(random() % 2 ? 70 : 700, 2, random);
        std::vector<double> p(logits.size());
        const auto add = [&](const Sampling& of, double share) {
            for (const auto& t : ReferenceChain(logits, history, of).distribution())
                p[size_t(t.first)] += share * t.second;
        };
        Sampling without = s;
        without.xtc_probability = 0;
        add(s, s.xtc_probability);
        add(without, 1 - s.xtc_probability);

        Sampler sampler(s, history, nullptr, {});
        constexpr int draws = 20000;
        std::vector<int> counts(logits.size());
        for (int i = 0; i < draws; ++i) ++counts[size_t(sampler.sample(logits))];
        double chi = 0, small_p = 0, small_n = 0;  // cells that are expected under 5 times share one
        int cells = 0;
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
        // Mean cells - 1, deviation sqrt(2 (cells - 1)).
        CHECK(chi < (cells - 1) + 4 * std::sqrt(2.0 * std::max(1, cells - 1)) + 4);
    }
}

}  // namespace quantplug::test
