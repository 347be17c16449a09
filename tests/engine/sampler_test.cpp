// Each sampler alone against numbers that are not of this program: those of transformers' own processors, or of a
// few lines of NumPy that follow the definitions.
#include "engine/generate/sampler.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "engine/base/error.h"

namespace quantplug::test {

using namespace engine;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const std::vector<float> logits = {2.0f, 1.5f, 1.2f, 0.7f, 0.3f, -0.4f, -1.0f, -1.1f, -3.0f, 0.9f};
const std::vector<int32_t> prompt = {0, 3, 3, 6, 0, 3};

std::vector<double> distribution(Sampler& sampler, const std::vector<float>& row) {
    std::vector<double> out(row.size());
    for (const TokenProbability& t : sampler.distribution(row)) out[size_t(t.id)] = t.probability;
    return out;
}

void check_distribution(const char* name, Sampling s, const std::vector<double>& expected) {
    CAPTURE(name);
    s.seed = 1;
    Sampler sampler(s, prompt, nullptr, {});
    const std::vector<double> p = distribution(sampler, logits);
    for (size_t i = 0; i < p.size(); ++i) {
        CAPTURE(i);
        CHECK(std::abs(p[i] - expected[i]) < 1e-6);
        CHECK((p[i] == 0) == (expected[i] == 0));
    }
}

std::string refusal(const Sampling& s) {
    try {
        validate(s);
    } catch (const Error& e) {
        CHECK(e.code() == Code::invalid_argument);
        return e.what();
    }
    return {};
}

}  // namespace

TEST_CASE("exact vectors of every sampler") {
    check_distribution("temperature", {.temperature = 0.5},
                       {0.5552442, 0.2042629, 0.1121019, 0.04123997, 0.01853032, 0.004569519, 0.001376313, 0.00112683,
                        2.520805e-05, 0.06152281});
    check_distribution("top_k", {.temperature = 1, .top_k = 3}, {0.4864145, 0.2950253, 0.2185601, 0, 0, 0, 0, 0, 0, 0});
    check_distribution("top_k above the vocabulary", {.temperature = 1, .top_k = 100},
                       {0.3293549, 0.1997639, 0.1479887, 0.08975969, 0.06016772, 0.0298784, 0.01639762, 0.01483718,
                        0.002219176, 0.1096327});
    const std::vector<double> four = {0.4186324, 0.2539134, 0.1881036, 0, 0, 0, 0, 0, 0, 0.1393506};
    check_distribution("top_p", {.temperature = 1, .top_p = 0.7}, four);
    check_distribution("top_p 0", {.temperature = 1, .top_p = 0}, {1, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    check_distribution("min_p", {.temperature = 1, .min_p = 0.3}, four);
    check_distribution("typical_p .5", {.temperature = 1, .typical_p = 0.5},
                       {0, 0.3651022, 0.2704744, 0.164051, 0, 0, 0, 0, 0, 0.2003724});
    check_distribution("typical_p .8", {.temperature = 1, .typical_p = 0.8},
                       {0.3757615, 0.2279109, 0.1688405, 0.102407, 0, 0, 0, 0, 0, 0.1250801});
    const std::vector<double> six = {0.3516241, 0.2132708, 0.1579949, 0.09582875, 0.06423593, 0, 0, 0, 0, 0.1170455};
    check_distribution("top_a", {.temperature = 1, .top_a = 0.5}, six);
    check_distribution("tfs .8", {.temperature = 1, .tfs = 0.8}, six);
    check_distribution("tfs .5", {.temperature = 1, .tfs = 0.5}, {0.6224593, 0.3775407, 0, 0, 0, 0, 0, 0, 0, 0});
    check_distribution("top_n_sigma", {.temperature = 1, .top_n_sigma = 1},
                       {0.3757615, 0.2279109, 0.1688405, 0.102407, 0, 0, 0, 0, 0, 0.1250801});
    check_distribution("repetition_penalty", {.temperature = 1, .repetition_penalty = 1.5},
                       {0.2075797, 0.2452265, 0.1816682, 0.08725622, 0.0738608, 0.03667819, 0.01220911, 0.01821385,
                        0.00272422, 0.1345831});
    check_distribution("frequency_penalty", {.temperature = 1, .frequency_penalty = 0.4},
                       {0.197186, 0.2661732, 0.197186, 0.03602263, 0.08016983, 0.03981116, 0.01464571, 0.01976964,
                        0.002956917, 0.146079});
    check_distribution("presence_penalty", {.temperature = 1, .presence_penalty = 0.6},
                       {0.2249575, 0.2486165, 0.1841796, 0.06130808, 0.07488186, 0.03718523, 0.01119998, 0.01846564,
                        0.00276188, 0.1364436});
    check_distribution("dynatemp with an exponent",
                       {.temperature = 1, .dynatemp_low = 0.3, .dynatemp_high = 1.7, .dynatemp_exponent = 2},
                       {0.2888096, 0.190413, 0.1483021, 0.09777598, 0.07006482, 0.03910378, 0.02372032, 0.02182416,
                        0.004481875, 0.1155043});
    check_distribution("dynatemp in temperature's place",
                       {.temperature = 0.1, .dynatemp_low = 0.5, .dynatemp_high = 1.5},
                       {0.2729993, 0.1859386, 0.1476707, 0.1005778, 0.07397223, 0.04320757, 0.0272527, 0.02523778,
                        0.005864642, 0.1172787});
    check_distribution("smoothing, quadratic", {.temperature = 1, .smoothing_factor = 0.5},
                       {0.2567091, 0.226545, 0.1864091, 0.1102713, 0.06051816, 0.0144103, 0.00285178, 0.002102114,
                        9.566658e-07, 0.1401823});
    check_distribution("smoothing, cubic", {.temperature = 1, .smoothing_factor = 0.5, .smoothing_curve = 2},
                       {0.268939, 0.2448718, 0.2016401, 0.101772, 0.03823436, 0.002010703, 3.318971e-05, 1.418223e-05,
                        1.391909e-17, 0.1424847});
    check_distribution(
        "xtc", {.temperature = 1, .xtc_probability = 1, .xtc_threshold = 0.12},
        {0, 0, 0.3142803, 0.1906207, 0.1277768, 0.06345211, 0.03482325, 0.03150938, 0.004712815, 0.2328246});
    check_distribution("mirostat in the place of truncations", {.temperature = 1, .top_k = 1, .mirostat_tau = 1.5},
                       {0.4864145, 0.2950253, 0.2185601, 0, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("the order of the samplers") {
    check_distribution("temperature first", {.temperature = 2, .top_p = 0.7},
                       {0.2818397, 0.219497, 0.1889228, 0.1471332, 0, 0, 0, 0, 0, 0.1626074});
    check_distribution("temperature last", {.temperature = 2, .top_p = 0.7, .order = " top_p , temperature"},
                       {0.3304616, 0.2573637, 0.221515, 0, 0, 0, 0, 0, 0, 0.1906597});
    // A penalty after a truncation changes only what is left: ids 0, 1, 2 at 2, 1.5, 1.2, and id 0 divided by 4.
    const double a = std::exp(0.5), b = std::exp(1.5), c = std::exp(1.2);
    check_distribution("penalty after top_k",
                       {.temperature = 1, .top_k = 3, .repetition_penalty = 4, .order = "top_k,repetition_penalty"},
                       {a / (a + b + c), b / (a + b + c), c / (a + b + c), 0, 0, 0, 0, 0, 0, 0});

    CHECK(sampler_order("") == sampler_order("repetition_penalty,frequency_penalty"));
    const SamplerOrder order = sampler_order("xtc,temperature");
    CHECK(order[0] == SamplerStep::xtc);
    CHECK(order[1] == SamplerStep::temperature);
    CHECK(order[2] == SamplerStep::repetition_penalty);
    CHECK(order[n_sampler_steps - 1] == SamplerStep::typical_p);
    CHECK(refusal({.order = "top_k,nucleus"}).find("'nucleus'; there are repetition_penalty") != std::string::npos);
    CHECK(refusal({.order = "top_k,min_p,top_k"}).find("top_k twice") != std::string::npos);
    CHECK(refusal({.order = "top_k,,min_p"}).find("''") != std::string::npos);
}

TEST_CASE("penalties look at the latest tokens, prompt included") {
    // Of 0 3 3 6 0 3 the latest two are 0 and 3; an accepted 5 pushes the 0 out.
    Sampler sampler({.temperature = 1, .presence_penalty = 100, .penalty_range = 2}, prompt, nullptr, {});
    const auto penalised = [&] {
        std::vector<int32_t> ids;
        const std::vector<double> p = distribution(sampler, std::vector<float>(8, 0.0f));
        for (size_t i = 0; i < p.size(); ++i)
            if (p[i] < 1e-20) ids.push_back(int32_t(i));
        return ids;
    };
    CHECK(penalised() == std::vector<int32_t>{0, 3});
    sampler.accept(5);
    CHECK(penalised() == std::vector<int32_t>{3, 5});
    sampler.accept(5);
    CHECK(penalised() == std::vector<int32_t>{5});
    Sampler none({.temperature = 1, .presence_penalty = 100, .penalty_range = 0}, prompt, nullptr, {});
    CHECK(distribution(none, {0, 0})[0] == doctest::Approx(0.5));
    // Penalties work on the greedy choice too.
    Sampler greedy({.presence_penalty = 1}, prompt, nullptr, {});
    CHECK(greedy.sample(logits) == 1);
}

TEST_CASE("DRY: the longest repetition counts, beyond the allowed length") {
    const auto lengths = [](std::vector<int32_t> ids, const TokenSet* breakers) {
        std::unordered_map<int32_t, int32_t> out;
        dry_lengths(ids, breakers, out);
        return out;
    };
    // "1 2 3" was followed by 4, "2 3" by 5 once.
    const std::vector<int32_t> ids = {1, 2, 3, 4, 2, 3, 5, 1, 2, 3};
    CHECK(lengths(ids, nullptr) == std::unordered_map<int32_t, int32_t>{{4, 3}, {5, 2}});
    TokenSet two;
    two.insert(2);
    CHECK(lengths(ids, &two) == std::unordered_map<int32_t, int32_t>{{4, 1}, {5, 1}});
    TokenSet ends;
    ends.insert(3);
    CHECK(lengths(ids, &ends).empty());
    TokenSet four;
    four.insert(4);
    CHECK(lengths(ids, &four) == std::unordered_map<int32_t, int32_t>{{5, 2}});
    CHECK(lengths({7, 7, 7, 7}, nullptr) == std::unordered_map<int32_t, int32_t>{{7, 3}});
    CHECK(lengths(std::vector<int32_t>(2000, 7), nullptr).at(7) == max_dry_length);
    CHECK(lengths({7}, nullptr).empty());
    CHECK(lengths({}, nullptr).empty());

    // 0.8 * 1.75^(3 - 2) = 1.4 off token 4, 0.8 off token 5.
    const auto after = [&](Sampling s) {
        s.temperature = 1;
        s.dry_multiplier = 0.8;
        Sampler sampler(s, ids, nullptr, {});
        const std::vector<double> p = distribution(sampler, std::vector<float>(6, 0.0f));
        return std::pair(std::log(p[4] / p[0]), std::log(p[5] / p[0]));
    };
    CHECK(after({}).first == doctest::Approx(-1.4));
    CHECK(after({}).second == doctest::Approx(-0.8));
    CHECK(after({.dry_allowed_length = 3}).first == doctest::Approx(-0.8));
    CHECK(after({.dry_allowed_length = 3}).second == doctest::Approx(0));
    // The latest nine tokens lack the first 1: two tokens are left of the sequence before 4.
    CHECK(after({.dry_range = 9}).first == doctest::Approx(-0.8));
    CHECK(after({.dry_range = 0}).first == doctest::Approx(0));
}

TEST_CASE("mirostat moves mu by the surprise of what was accepted") {
    // Four equal tokens: surprise 2 bits, tau 3, eta 0.5: mu 6, 6.5, 7.0, ...: and below 2 bits one token is left.
    const std::vector<float> flat(4, 1.0f);
    Sampler up({.temperature = 1, .mirostat_tau = 3, .mirostat_eta = 0.5, .seed = 3});
    for (int i = 0; i < 10; ++i) up.accept(up.sample(flat));
    CHECK(up.distribution(flat).size() == 4);
    // tau 1.55: mu 3.1, 2.875, 2.65, 2.425, 2.2 while 2 bits are drawn, then 1.975: only the largest is left.
    Sampler down({.temperature = 1, .mirostat_tau = 1.55, .mirostat_eta = 0.5, .seed = 3});
    const std::vector<float> nearly = {1.0f, 1.0f - 1e-6f, 1.0f - 2e-6f, 1.0f - 3e-6f};
    int drawn = 0;
    while (down.distribution(nearly).size() == 4 && drawn < 10) {
        down.accept(down.sample(nearly));
        ++drawn;
    }
    CHECK(drawn == 5);
    CHECK(down.distribution(nearly).size() == 1);
    // Another token than the drawn one says nothing about the surprise.
    Sampler other({.temperature = 1, .mirostat_tau = 1.5, .mirostat_eta = 1, .seed = 3});
    for (int i = 0; i < 10; ++i) other.accept((other.sample(nearly) + 1) % 4);
    CHECK(other.distribution(nearly).size() == 4);
}

TEST_CASE("xtc leaves one, acts as often as said, and never takes a stop id") {
    const std::vector<float> row = {2, 2, 2, -1};
    const Sampling s = {.temperature = 1, .xtc_probability = 0.25, .xtc_threshold = 0.1, .seed = 11};
    Sampler sampler(s, {}, nullptr, {});
    int acted = 0;
    for (int i = 0; i < 4000; ++i) acted += sampler.distribution(row).size() == 2;
    CHECK(std::abs(acted - 1000) < 6 * std::sqrt(4000 * 0.25 * 0.75));
    const std::vector<int32_t> first = {0}, last = {2};
    Sampling always = s;
    always.xtc_probability = 1;
    CHECK(Sampler(always, {}, nullptr, first).distribution(row).size() == 4);
    CHECK(Sampler(always, {}, nullptr, last).distribution(row).size() == 2);  // 2 is the one that stays
    CHECK(Sampler(always).distribution(std::vector<float>{5, -5}).size() == 2);
    always.xtc_threshold = 0.6;
    CHECK(Sampler(always).distribution(row).size() == 4);
}

TEST_CASE("bans, biases and min_tokens come first") {
    const std::vector<int32_t> stops = {0, 1};
    Sampler sampler({.min_tokens = 2, .bias = {{2, -0.6f}, {9, 0.5f}, {77, 5.0f}}, .banned = {3, 99}}, {}, nullptr,
                    stops);
    CHECK(sampler.sample(logits) == 9);  // 0.9 + 0.5 against 1.2 - 0.6
    sampler.accept(9);
    CHECK(sampler.sample(logits) == 9);
    sampler.accept(9);
    CHECK(sampler.sample(logits) == 0);
    Sampler infinite({.bias = {{0, -infinity}, {1, -infinity}}});
    CHECK(infinite.sample(logits) == 2);
    // A bias does not revive a token that the model itself excludes.
    CHECK(Sampler({.bias = {{0, 1e30f}}}).sample(std::vector<float>{-infinity, -3}) == 1);

    Sampler nothing({.temperature = 1, .banned = {0, 1}});
    try {
        nothing.sample(std::vector<float>{1, 2});
        CHECK(false);
    } catch (const Error& e) {
        CHECK(e.code() == Code::invalid_argument);
        CHECK(std::string(e.what()).find("leave no token") != std::string::npos);
    }
    // Penalties make tokens unlikely; they leave them.
    const std::vector<int32_t> all = {0, 1};
    Sampler penalised({.temperature = 1, .top_p = 0.5, .presence_penalty = 1e300}, all, nullptr, {});
    CHECK(penalised.sample(std::vector<float>{1, 2}) >= 0);
}

TEST_CASE("greedy takes the most probable token, ties to the lowest id") {
    Sampler sampler(Sampling{});
    CHECK(sampler.sample(std::vector<float>{1, 5, 5, 2}) == 1);
    CHECK(sampler.sample(std::vector<float>{-infinity, NAN, -3}) == 2);
    Sampler adjusted({.banned = {1}});
    CHECK(adjusted.sample(std::vector<float>{1, 7, 5, 5}) == 2);
    CHECK(Sampler({.temperature = 1, .top_k = 2}).distribution(std::vector<float>{1, 5, 5, 5})[1].id == 2);
    CHECK(Sampler({.temperature = 1e-9}).distribution(logits).size() == 1);
}

TEST_CASE("logits that are no numbers") {
    for (const double temperature : {0.0, 1.0}) {
        Sampler sampler({.temperature = temperature, .top_p = 0.9});
        CHECK_THROWS_AS(sampler.sample(std::vector<float>{NAN, NAN}), Error);
        CHECK_THROWS_AS(sampler.sample(std::vector<float>{-infinity, -infinity}), Error);
        CHECK_THROWS_AS(sampler.sample(std::vector<float>{infinity, 0}), Error);
        CHECK_THROWS_AS(sampler.sample({}), Error);
        CHECK(sampler.sample(std::vector<float>{NAN, 0, -infinity}) == 1);
        CHECK(sampler.sample(std::vector<float>{-2}) == 0);
    }
    Sampling everything = {.temperature = 0.7,
                           .top_k = 50,
                           .top_p = 0.9,
                           .min_p = 0.01,
                           .typical_p = 0.9,
                           .top_a = 0.1,
                           .tfs = 0.9,
                           .top_n_sigma = 2,
                           .xtc_probability = 1,
                           .dynatemp_low = 0.5,
                           .dynatemp_high = 2,
                           .smoothing_factor = 0.2,
                           .smoothing_curve = 4,
                           .repetition_penalty = 1.2,
                           .frequency_penalty = 0.1,
                           .presence_penalty = 0.1,
                           .dry_multiplier = 1};
    const std::vector<float> rows[] = {{-2}, {NAN, 3}, {1e30f, -1e30f, 0}, {-1e30f, -1e30f}, {0, 0, 0, 0, 0}};
    for (const char* order : {"", "tfs,typical_p", "xtc,temperature,top_p,dry,repetition_penalty", "smoothing,min_p"}) {
        everything.order = order;
        for (const std::vector<float>& row : rows) {
            Sampler sampler(everything, std::vector<int32_t>{0, 0, 0, 0}, nullptr, {});
            const int32_t id = sampler.sample(row);
            CHECK(id >= 0);
            CHECK(size_t(id) < row.size());
        }
    }
}

TEST_CASE("a seed reproduces, another one differs") {
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> row(500);
    for (float& l : row) l = normal(random);
    const auto draw = [&](uint64_t seed) {
        Sampler sampler({.temperature = 1, .xtc_probability = 0.5, .seed = seed});
        std::vector<int32_t> ids;
        for (int i = 0; i < 20; ++i) ids.push_back(sampler.sample(row));
        return ids;
    };
    CHECK(draw(1) == draw(1));
    CHECK(draw(1) != draw(2));
    // From mt19937_64's own first outputs, in Python: the top 53 bits against the cumulative distribution by falling
    // logit.
    Sampler sampler({.temperature = 1, .seed = 5489});
    std::vector<int32_t> ids;
    for (int i = 0; i < 12; ++i) ids.push_back(sampler.sample(logits));
    CHECK(ids == std::vector<int32_t>{3, 0, 9, 5, 0, 1, 0, 0, 1, 1, 0, 2});
}

TEST_CASE("log-probabilities are of the model's own distribution") {
    const std::vector<float> row = {0, 1, 2, 1};
    const double total = std::log(1 + 2 * std::exp(1.0) + std::exp(2.0));
    CHECK(std::abs(log_sum_exp(row) - total) < 1e-6);
    const auto top = most_probable(row, 3);
    REQUIRE(top.size() == 3);
    CHECK(top[0].id == 2);
    CHECK(top[1].id == 1);  // ties to the lowest id
    CHECK(top[2].id == 3);
    CHECK(top[0].logprob == doctest::Approx(2 - total));
    CHECK(most_probable(row, 100).size() == 4);
    const auto with_holes = most_probable(std::vector<float>{NAN, 1, -infinity}, 3);
    REQUIRE(with_holes.size() == 3);
    CHECK(with_holes[0].id == 1);
    CHECK(with_holes[2].logprob == -infinity);

    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-60, 0);
    for (const size_t n : {1, 63, 64, 65, 1000, 50000}) {
        std::vector<float> values(n);
        double sum = 0;
        for (float& v : values) sum += std::exp(double(v = uniform(random)));
        CHECK(std::abs(log_sum_exp(values) - std::log(sum)) < 1e-6);
    }
    for (int i = 0; i < 2000; ++i) {
        const float x = uniform(random) * 1.45f;
        CHECK(std::abs(double(exp_one(x)) / std::exp(double(x)) - 1) < 3e-7);
    }
    CHECK(exp_one(0) == 1);
    CHECK(exp_one(-88) == 0);
    CHECK(exp_one(-infinity) == 0);
    CHECK(std::isnan(exp_one(NAN)));
}

TEST_CASE("values out of range are refused by name") {
    const std::pair<const char*, Sampling> cases[] = {
        {"temperature", {.temperature = -1}},
        {"temperature", {.temperature = NAN}},
        {"top_k", {.top_k = -2}},
        {"top_p", {.top_p = 1.5}},
        {"min_p", {.min_p = -0.1}},
        {"typical_p", {.typical_p = NAN}},
        {"top_a", {.top_a = 2}},
        {"tfs", {.tfs = -1}},
        {"top_n_sigma", {.top_n_sigma = -1}},
        {"xtc_probability", {.xtc_probability = 1.1}},
        {"xtc_threshold", {.xtc_threshold = -0.1}},
        {"mirostat_tau", {.mirostat_tau = -1}},
        {"mirostat_eta", {.mirostat_eta = 7}},
        {"dynatemp_low", {.dynatemp_low = -1}},
        {"dynatemp_high", {.dynatemp_low = 1, .dynatemp_high = 0.5}},
        {"dynatemp_exponent", {.dynatemp_exponent = NAN}},
        {"smoothing_factor", {.smoothing_factor = -1}},
        {"smoothing_curve", {.smoothing_curve = 0.5}},
        {"repetition_penalty", {.repetition_penalty = 0}},
        {"frequency_penalty", {.frequency_penalty = infinity}},
        {"presence_penalty", {.presence_penalty = NAN}},
        {"penalty_range", {.penalty_range = -2}},
        {"dry_multiplier", {.dry_multiplier = -1}},
        {"dry_base", {.dry_base = 0.9}},
        {"dry_allowed_length", {.dry_allowed_length = -1}},
        {"dry_range", {.dry_range = -5}},
        {"dry_breakers", {.dry_breakers = std::vector<std::string>(129, "x")}},
        {"dry_breaker", {.dry_breakers = {""}}},
        {"logit_bias", {.bias = {{-1, 0}}}},
        {"logit_bias of token 5", {.bias = {{5, NAN}}}},
        {"banned", {.banned = {-3}}},
    };
    for (const auto& c : cases) {
        CAPTURE(c.first);
        CHECK(refusal(c.second).find(c.first) != std::string::npos);
    }
    CHECK(refusal({.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05}).empty());
    CHECK(refusal({}).empty());
}

}  // namespace quantplug::test
