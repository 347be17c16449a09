// Random rows of logits and random chains of samplers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/generate/sampling.h"

namespace quantplug::test {

inline std::vector<float> random_logits(size_t n, float deviation, std::mt19937& random) {
    std::normal_distribution<float> normal(-2, deviation);
    std::vector<float> logits(n);
    for (float& l : logits) l = normal(random);
    return logits;
}

class RandomSampling {
 public:
    explicit RandomSampling(std::mt19937& random) : random_(random) {}

    engine::Sampling make(size_t n) {
        engine::Sampling s;
        s.temperature = one_in(2) ? 1.0 : real(0.3, 3);
        if (one_in(4)) s.top_k = int32_t(random_() % 300) + 1;
        if (one_in(4)) s.top_p = real(0, 1);
        if (one_in(4)) s.min_p = real(0, 0.3);
        if (one_in(6)) s.typical_p = real(0.05, 1);
        if (one_in(6)) s.top_a = real(0, 1);
        if (one_in(6)) s.tfs = real(0.3, 1);
        if (one_in(6)) s.top_n_sigma = real(0.5, 3);
        if (one_in(6)) s.xtc_probability = 1, s.xtc_threshold = real(0.001, 0.3);
        if (one_in(8)) s.mirostat_tau = real(1, 6);
        if (one_in(6)) {
            s.dynatemp_low = real(0.1, 1);
            s.dynatemp_high = s.dynatemp_low + real(0, 2);
            s.dynatemp_exponent = real(0.5, 2);
        }
        if (one_in(6)) s.smoothing_factor = real(0.05, 1), s.smoothing_curve = real(1, 2.9);
        if (one_in(3)) s.repetition_penalty = real(0.8, 1.5);
        if (one_in(4)) s.frequency_penalty = real(-0.5, 1);
        if (one_in(4)) s.presence_penalty = real(-1, 1);
        if (one_in(3)) s.penalty_range = int32_t(random_() % 60);
        if (one_in(4)) s.dry_multiplier = real(0.1, 2), s.dry_allowed_length = int32_t(random_() % 4);
        if (one_in(4))
            for (int i = 0; i < 3; ++i) s.bias.push_back({int32_t(random_() % n), float(real(-3, 3))});
        if (one_in(4) && n > 5)
            for (int i = 0; i < 3; ++i) s.banned.push_back(int32_t(random_() % n));
        if (one_in(2)) s.order = order();
        s.seed = random_();
        return s;
    }

 private:
    bool one_in(uint32_t k) { return random_() % k == 0; }
    double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random_); }
    std::string order() {
        std::vector<std::string> names = {"repetition_penalty",
                                          "presence_penalty",
                                          "dry",
                                          "temperature",
                                          "smoothing",
                                          "top_k",
                                          "top_p",
                                          "min_p",
                                          "tfs",
                                          "typical_p",
                                          "dynatemp",
                                          "top_n_sigma"};
        std::shuffle(names.begin(), names.end(), random_);
        std::string out;
        for (size_t i = random_() % names.size(); i < names.size(); ++i) out += (out.empty() ? "" : ",") + names[i];
        return out;
    }

    std::mt19937& random_;
};

inline std::string describe(const engine::Sampling& s) {
    std::string out = "order '" + s.order + "'";
    const auto add = [&](const char* name, double value, double off) {
        if (value != off) out += std::string(" ") + name + " " + std::to_string(value);
    };
    add("temperature", s.temperature, 1), add("top_k", s.top_k, 0), add("top_p", s.top_p, 1), add("min_p", s.min_p, 0);
    add("typical_p", s.typical_p, 1), add("top_a", s.top_a, 0), add("tfs", s.tfs, 1);
    add("top_n_sigma", s.top_n_sigma, 0), add("xtc", s.xtc_probability, 0), add("mirostat", s.mirostat_tau, 0);
    add("dynatemp", s.dynatemp_high, 0), add("smoothing", s.smoothing_factor, 0);
    add("repetition", s.repetition_penalty, 1), add("dry", s.dry_multiplier, 0);
    return out;
}

}  // namespace quantplug::test
