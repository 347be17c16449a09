// A sampler that sees the best candidates of a row against one that sees the whole row: the same tokens.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "engine/base/error.h"
#include "engine/generate/sampler.h"
#include "random_sampling.h"

namespace quantplug::test {

using namespace engine;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// What a device answers; `error`: how far its sum may be off.
struct Candidates256 {
    std::vector<kernels::Candidate> best;
    float log_sum = -infinity;

    Candidates256(const std::vector<float>& row, std::span<const kernels::Adjust> adjusts, size_t n, double error) {
        std::vector<float> z = row;
        for (const kernels::Adjust& a : adjusts) {
            REQUIRE(a.token >= 0);
            REQUIRE(size_t(a.token) < z.size());
            z[size_t(a.token)] = kernels::adjusted(z[size_t(a.token)], a);
        }
        std::vector<int32_t> ids;
        for (size_t id = 0; id < z.size(); ++id)
            if (z[id] > -infinity) ids.push_back(int32_t(id));
        std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return z[size_t(a)] > z[size_t(b)]; });
        double sum = 0;
        for (const int32_t id : ids) sum += std::exp(double(z[size_t(id)]) - double(z[size_t(ids[0])]));
        if (!ids.empty()) log_sum = float(double(z[size_t(ids[0])]) + std::log(sum) + error);
        n = std::min(n, z.size());
        for (size_t i = 0; i < n; ++i)
            best.push_back(i < ids.size() ? kernels::Candidate{ids[i], row[size_t(ids[i])]} : kernels::Candidate{});
    }
};

/// Two samplers with one seed, side by side.
class Pair {
 public:
    Pair(const Sampling& s, std::span<const int32_t> prompt, std::span<const int32_t> stop_ids = {})
        : whole_(s, prompt, nullptr, stop_ids),
          top_(s, prompt, nullptr, stop_ids),
          n_(s.temperature == 0 ? 1 : size_t(kernels::max_candidates)) {}

    /// One token by both; whether the candidates were enough.
    bool step(const std::vector<float>& row, double error = 0) {
        const int32_t expected = whole_.sample(row);
        std::optional<int32_t> got;
        if (top_.can_use_candidates()) {
            const Candidates256 seen(row, top_.adjusts(row.size()), n_, error);
            got = top_.sample(seen.best, seen.log_sum, row.size());
        }
        REQUIRE(got.value_or(expected) == expected);
        // The random numbers go on alike.
        if (!got) REQUIRE(top_.sample(row) == expected);
        whole_.accept(expected);
        top_.accept(expected);
        return got.has_value();
    }

 private:
    Sampler whole_, top_;
    size_t n_;
};

/// As of a language model: few likely tokens, a tail that falls with the rank.
std::vector<float> peaked_logits(size_t n, float slope, std::mt19937& random) {
    std::normal_distribution<float> noise(0, 0.5f);
    std::vector<float> logits(n);
    for (size_t i = 0; i < n; ++i) logits[i] = 15 - slope * std::log(float(i + 1)) + noise(random);
    std::shuffle(logits.begin(), logits.end(), random);
    return logits;
}

std::vector<float> any_logits(size_t n, std::mt19937& random) {
    switch (random() % 6) {
        case 0:
            return random_logits(n, 0.05f, random);
        case 1:
            return random_logits(n, 1, random);
        case 2: {  // many equals
            std::vector<float> logits = random_logits(n, 3, random);
            for (float& l : logits) l = std::round(2 * l) / 2;
            return logits;
        }
        case 3: {
            std::vector<float> logits = peaked_logits(n, 2.5f, random);
            for (size_t i = 1; i < n; i += 1 + random() % 5) logits[i] = random() % 8 ? -infinity : NAN;
            return logits;
        }
        case 4:
            return peaked_logits(n, 1.2f, random);
        default:
            return peaked_logits(n, 2.5f, random);
    }
}

// The sum of a device may be off by its own rounding.
double some_error(std::mt19937& random) { return std::uniform_real_distribution<double>(-1e-5, 1e-5)(random); }

}  // namespace

TEST_CASE("random chains draw the same from candidates as from whole rows") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    RandomSampling sampling(random);
    int enough = 0, tried = 0;
    for (int trial = 0; trial < 1500; ++trial) {
        CAPTURE(trial);
        const size_t sizes[] = {1, 2, 100, 256, 257, 1000, 4000};
        const size_t n = sizes[random() % 7];
        Sampling s = sampling.make(n);
        s.xtc_probability = s.xtc_probability > 0 ? 0.5 : 0;
        if (random() % 6 == 0) s.temperature = 0;
        if (random() % 6 == 0)
            s.top_k = 0, s.typical_p = s.tfs = 1,
            s.top_n_sigma = s.dynatemp_low = s.dynatemp_high = s.smoothing_factor = 0;
        s.min_tokens = random() % 4 ? 0 : 3;
        const std::string chain = describe(s);
        CAPTURE(chain);
        std::vector<int32_t> prompt(random() % 40);
        for (int32_t& id : prompt) id = int32_t(random() % std::min<size_t>(n, 9));
        const std::vector<int32_t> stops = {0, 5};
        Pair pair(s, prompt, stops);
        for (int i = 0; i < 5; ++i) {
            std::vector<float> row = any_logits(n, random);
            row[random() % n] = 3;  // finite, whatever is banned
            try {
                enough += pair.step(row, some_error(random));
                ++tried;
            } catch (const Error& error) {
                REQUIRE(error.code() == Code::invalid_argument);  // the bans leave none
                break;
            }
        }
    }
    CAPTURE(tried);
    CAPTURE(enough);
    CHECK(enough > tried / 4);
}

TEST_CASE("each sampler draws the same from candidates, and those that should be enough are") {
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    struct Case {
        const char* name;
        Sampling sampling;
        double least;  // share of steps that candidates are enough for, on peaked rows
    };
    const Case cases[] = {
        {"the default", {.temperature = 0.8, .top_p = 0.95, .min_p = 0.05}, 0.999},
        {"with top_k", {.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05}, 1},
        {"with penalties",
         {.temperature = 0.8, .top_p = 0.95, .min_p = 0.05, .repetition_penalty = 1.1, .frequency_penalty = 0.1},
         0.999},
        {"temperature", {.temperature = 1}, 0.95},
        {"low temperature", {.temperature = 0.5}, 0.99},
        {"no temperature", {.temperature = 1e-9}, 1},
        {"top_k", {.temperature = 1, .top_k = 40}, 1},
        {"top_k, then temperature", {.temperature = 1.7, .top_k = 256, .order = "top_k"}, 1},
        {"top_p", {.temperature = 1, .top_p = 0.9}, 0.99},
        {"min_p", {.temperature = 1, .min_p = 0.02}, 1},
        {"top_a", {.temperature = 1, .top_a = 0.2}, 0.99},
        {"typical_p after top_k", {.temperature = 1, .top_k = 60, .typical_p = 0.8}, 1},
        {"tfs after min_p", {.temperature = 1, .min_p = 0.01, .tfs = 0.9}, 0.99},
        {"top_n_sigma after top_k", {.temperature = 1, .top_k = 50, .top_n_sigma = 1, .order = "top_k,top_n_sigma"}, 1},
        {"xtc", {.temperature = 1, .min_p = 0.02, .xtc_probability = 0.5, .xtc_threshold = 0.05}, 0.99},
        {"xtc alone", {.temperature = 0.7, .xtc_probability = 0.5, .xtc_threshold = 0.05}, 0.9},
        {"mirostat", {.temperature = 1, .mirostat_tau = 1}, 0.9},
        {"dynamic temperature",
         {.temperature = 1, .top_k = 100, .dynatemp_low = 0.5, .dynatemp_high = 1.5, .order = "top_k,dynatemp"},
         1},
        {"smoothing", {.temperature = 1, .top_k = 100, .smoothing_factor = 0.3, .order = "top_k,smoothing"}, 1},
        {"dry", {.temperature = 1, .min_p = 0.05, .dry_multiplier = 0.8}, 0.99},
        {"greedy, penalties", {.repetition_penalty = 1.3, .presence_penalty = 0.5}, 1},
        {"greedy, biases and bans", {.min_tokens = 5, .bias = {{1, 9}, {2, -9}, {1, 2}}, .banned = {4, 5, 6}}, 1},
        {"greedy, dry", {.dry_multiplier = 2}, 1},
        {"bans", {.temperature = 1, .min_p = 0.02, .min_tokens = 500, .bias = {{1, 3}}, .banned = {4, 5, 6}}, 0.99},
        {"late penalties", {.temperature = 1, .top_k = 90, .frequency_penalty = 0.7, .order = "top_k"}, 1},
        {"a whole row: dynamic temperature", {.temperature = 1, .dynatemp_low = 0.5, .dynatemp_high = 1.5}, 0},
        {"a whole row: typical_p", {.temperature = 1, .typical_p = 0.9}, 0},
        {"a whole row: bias, then repetition", {.repetition_penalty = 1.3, .bias = {{1, 9}}}, 0},
        {"a whole row: top_k", {.temperature = 1, .top_k = 300}, 0},
    };
    const std::vector<int32_t> stops = {0, 5};
    for (const Case& c : cases) {
        const std::string name = c.name;
        CAPTURE(name);
        Sampling s = c.sampling;
        s.seed = random();
        const std::vector<int32_t> prompt = {1, 2, 3, 4, 1, 2, 3};
        Pair pair(s, prompt, stops);
        int enough = 0;
        constexpr int steps = 400;
        for (int i = 0; i < steps; ++i) enough += pair.step(peaked_logits(4000, 2.5f, random), some_error(random));
        CAPTURE(enough);
        CHECK(enough >= int(std::floor(c.least * steps)));
        if (c.least == 0 && std::string(c.name).find("top_k") == std::string::npos)
            CHECK_FALSE(Sampler(s).can_use_candidates());
    }
}

TEST_CASE("a seed goes on where candidates were not enough, and damaged rows are left to the whole row") {
    std::mt19937 random(5);
    // Nearly flat: 256 of 4000 hold little of the mass.
    Pair flat({.temperature = 1, .xtc_probability = 0.5, .seed = 3}, {});
    int enough = 0;
    for (int i = 0; i < 200; ++i) enough += flat.step(random_logits(4000, 0.5f, random));
    CHECK(enough > 0);
    CHECK(enough < 150);

    // Neighbouring numbers, of which a temperature makes some equal: ranks go by their ids then, also at the list's
    // end.
    for (const int32_t top_k : {20, 250, 256}) {
        Pair close({.temperature = 1.8, .top_k = top_k, .seed = 3}, {});
        for (int i = 0; i < 500; ++i) {
            std::vector<float> row(1000);
            for (float& l : row) l = 1.9f + float(random() % 512) * 0x1p-23f;
            close.step(row);
        }
    }

    Sampler sampler({.temperature = 1, .min_p = 0.1, .seed = 3});
    const auto sample = [&](std::vector<kernels::Candidate> best, float log_sum) {
        return sampler.sample(best, log_sum, 1000).has_value();
    };
    CHECK(sample({{3, 2.0f}, {1, -5.0f}}, 2.1f));
    CHECK(sample({{3, 2.0f}, {1, -5.0f}, {-1, 0}}, 2.1f));
    CHECK_FALSE(sample({{3, 2.0f}, {1, 1.9f}}, 5.0f));  // as likely ones may follow
    CHECK_FALSE(sample({{3, 2.0f}, {1, -5.0f}}, NAN));
    CHECK_FALSE(sample({{3, infinity}, {1, -5.0f}}, infinity));
    CHECK_FALSE(sample({{3, 1e25f}, {1, -5.0f}}, 1e19f));
    CHECK_FALSE(sample({{-1, 0}}, -infinity));
    CHECK_FALSE(sample({}, 0));
    CHECK_FALSE(sample({{3, 2.0f}, {1, 2.5f}, {-1, 0}}, 3.1f));  // not in their order
}

}  // namespace quantplug::test
