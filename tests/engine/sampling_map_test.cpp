// Sampling as it comes through the ABI, and DRY's breakers as it meets a tokenizer.
#include "engine/plugin/sampling_map.h"

#include <doctest/doctest.h>

#include <cmath>
#include <quantplug/common.hpp>
#include <string>

#include "checkpoint_files.h"
#include "engine/generate/sampler.h"
#include "engine/tokenizer/tokenizer.h"

namespace quantplug::test {

using engine::Code;
using engine::Sampling;
using engine::sampling_of;

namespace {

constexpr int32_t n_vocab = 100;

qp_sampling with(uint64_t set) {
    qp_sampling s = make<qp_sampling>();
    s.set = set;
    return s;
}

}  // namespace

TEST_CASE("every field of qp_sampling arrives, and only where its bit is set") {
    const qp_token_bias bias[] = {{7, -1.5f}, {8, -INFINITY}};
    const int32_t banned[] = {3, 99};
    const qp_text breakers[] = {{"\n", 1}, {"ab\0c", 4}};
    qp_sampling in = with(engine::supported_sampling_mask);
    in.top_k = 40;
    in.seed = 5;
    in.temperature = 0.7;
    in.top_p = 0.9;
    in.min_p = 0.05;
    in.typical_p = 0.8;
    in.repetition_penalty = 1.1;
    in.frequency_penalty = 0.2;
    in.presence_penalty = 0.3;
    in.top_a = 0.4;
    in.tfs = 0.95;
    in.mirostat_tau = 5;
    in.mirostat_eta = 0.2;
    in.xtc_probability = 0.5;
    in.xtc_threshold = 0.15;
    in.dry_multiplier = 0.8;
    in.dry_base = 1.5;
    in.dynatemp_low = 0.5;
    in.dynatemp_high = 1.5;
    in.dynatemp_exponent = 2;
    in.smoothing_factor = 0.25;
    in.smoothing_curve = 1.5;
    in.top_n_sigma = 1.25;
    in.penalty_range = 64;
    in.dry_allowed_length = 3;
    in.dry_range = 512;
    in.min_tokens = 4;
    in.n_bias = 2;
    in.bias = bias;
    in.n_banned = 2;
    in.banned = banned;
    in.n_dry_breakers = 2;
    in.dry_breakers = breakers;
    in.order = "top_k,temperature";
    const Sampling s = sampling_of(in, n_vocab);
    CHECK(s.top_k == 40);
    CHECK(s.seed == std::optional<uint64_t>(5));
    CHECK(s.temperature == 0.7);
    CHECK(s.top_p == 0.9);
    CHECK(s.min_p == 0.05);
    CHECK(s.typical_p == 0.8);
    CHECK(s.repetition_penalty == 1.1);
    CHECK(s.frequency_penalty == 0.2);
    CHECK(s.presence_penalty == 0.3);
    CHECK(s.top_a == 0.4);
    CHECK(s.tfs == 0.95);
    CHECK(s.mirostat_tau == 5);
    CHECK(s.mirostat_eta == 0.2);
    CHECK(s.xtc_probability == 0.5);
    CHECK(s.xtc_threshold == 0.15);
    CHECK(s.dry_multiplier == 0.8);
    CHECK(s.dry_base == 1.5);
    CHECK(s.dynatemp_low == 0.5);
    CHECK(s.dynatemp_high == 1.5);
    CHECK(s.dynatemp_exponent == 2);
    CHECK(s.smoothing_factor == 0.25);
    CHECK(s.smoothing_curve == 1.5);
    CHECK(s.top_n_sigma == 1.25);
    CHECK(s.penalty_range == 64);
    CHECK(s.dry_allowed_length == 3);
    CHECK(s.dry_range == 512);
    CHECK(s.min_tokens == 4);
    REQUIRE(s.bias.size() == 2);
    CHECK(s.bias[0].id == 7);
    CHECK(s.bias[0].bias == -1.5f);
    CHECK(s.bias[1].bias == -INFINITY);
    CHECK(s.banned == std::vector<int32_t>{3, 99});
    CHECK(s.dry_breakers == std::vector<std::string>{"\n", std::string("ab\0c", 4)});
    CHECK(s.order == "top_k,temperature");

    in.set = 0;
    const Sampling off = sampling_of(in, n_vocab);
    CHECK(off.temperature == 0);
    CHECK(off.top_k == 0);
    CHECK(off.top_p == 1);
    CHECK(off.repetition_penalty == 1);
    CHECK(off.penalty_range == -1);
    CHECK(off.dynatemp_high == 0);
    CHECK(off.mirostat_tau == 0);
    CHECK(off.dry_multiplier == 0);
    CHECK(off.bias.empty());
    CHECK(off.banned.empty());
    CHECK(off.order.empty());
    CHECK(!off.seed);
}

TEST_CASE("a sampler without a temperature draws at 1, penalties alone are greedy") {
    qp_sampling in = with(QP_SET_TYPICAL_P);
    in.typical_p = 0.9;
    CHECK(sampling_of(in, n_vocab).temperature == 1);
    in = with(QP_SET_REPETITION_PENALTY | QP_SET_SEED);
    in.repetition_penalty = 1.1;
    CHECK(sampling_of(in, n_vocab).temperature == 0);
    in = with(QP_SET_TOP_K | QP_SET_TEMPERATURE);
    in.top_k = 5;
    CHECK(sampling_of(in, n_vocab).temperature == 0);
}

TEST_CASE("what the ABI's struct has wrong is named") {
    qp_sampling in = with(QP_SET_TFS);
    in.tfs = 3;
    CHECK_REFUSED(sampling_of(in, n_vocab), Code::invalid_argument, "tfs", "3");
    const qp_token_bias bias[] = {{100, 1}};
    in = with(QP_SET_LOGIT_BIAS);
    in.n_bias = 1;
    CHECK_REFUSED(sampling_of(in, n_vocab), Code::invalid_argument, "logit_bias", "null");
    in.bias = bias;
    CHECK_REFUSED(sampling_of(in, n_vocab), Code::invalid_argument, "100", "0 to 99");
    const int32_t banned[] = {-1};
    in = with(QP_SET_BANNED);
    in.n_banned = 1;
    in.banned = banned;
    CHECK_REFUSED(sampling_of(in, n_vocab), Code::invalid_argument, "banned", "-1");
    const qp_text breaker = {"x", 1000};
    in = with(QP_SET_DRY);
    in.dry_base = 1;
    in.n_dry_breakers = 1;
    in.dry_breakers = &breaker;
    CHECK_REFUSED(sampling_of(in, n_vocab), Code::invalid_argument, "dry_breaker 0", "1000");
    in.n_dry_breakers = 4000000000u;
    CHECK_REFUSED(sampling_of(in, n_vocab), Code::invalid_argument, "dry_breakers", "at most 128");
    in = with(QP_SET_ORDER);
    CHECK_REFUSED(sampling_of(in, n_vocab), Code::invalid_argument, "order", "null");
    in.order = "temperature,luck";
    CHECK_REFUSED(sampling_of(in, n_vocab), Code::invalid_argument, "luck", "top_k");
}

TEST_CASE("tokens that contain a breaker, and DRY and XTC with them") {
    const auto tokenizer = engine::parse_tokenizer_json(
        R"({"model": {"type": "BPE", "vocab": {"a": 0, "b\n": 1, ":": 2, "\"x": 3, "**": 4, "c:": 5, "x": 6, "y": 7},
            "merges": []}})",
        "test");
    engine::TokenTexts texts(*tokenizer);
    const auto ids = [&](const std::vector<std::string>& pieces) {
        std::vector<int32_t> out;
        const auto set = texts.containing(pieces);
        for (int32_t id = -1; id < 70; ++id)
            if (set->contains(id)) out.push_back(id);
        return out;
    };
    CHECK(ids({"\n", ":", "\"", "*"}) == std::vector<int32_t>{1, 2, 3, 4, 5});
    CHECK(ids({"c:"}) == std::vector<int32_t>{5});
    CHECK(ids({"x"}) == std::vector<int32_t>{3, 6});
    CHECK(ids({"xy"}).empty());  // of two tokens
    CHECK(ids({"::"}).empty());
    CHECK(ids({}).empty());
    CHECK(texts.containing({"x"}) == texts.containing({"x"}));
    for (int i = 0; i < 20; ++i) CHECK(ids({std::string(1, char('a' + i))}).size() <= 2);

    // "x : y" was said; after "x :" the 7 is a repetition, unless the colon breaks the sequence.
    const std::vector<int32_t> history = {6, 2, 7, 6, 2};
    const std::vector<float> flat(8, 0.0f);
    const auto of_7 = [&](const std::vector<std::string>& breakers, engine::TokenTexts* of) {
        const Sampling s = {.temperature = 1, .dry_multiplier = 50, .dry_breakers = breakers};
        engine::Sampler sampler(s, history, of, {});
        for (const auto& t : sampler.distribution(flat))
            if (t.id == 7) return t.probability;
        return 0.0;
    };
    CHECK(of_7({}, &texts) == doctest::Approx(0.125));  // the usual breakers have the colon
    CHECK(of_7({"zz"}, &texts) < 1e-9);
    CHECK(of_7({}, nullptr) < 1e-9);

    // XTC keeps its hands off where a newline would go.
    const std::vector<float> newline_first = {0, 5, 4, -9, -9, -9, -9, -9};
    const Sampling xtc = {.temperature = 1, .xtc_probability = 1, .xtc_threshold = 0.1};
    CHECK(engine::Sampler(xtc, {}, &texts, {}).distribution(newline_first).size() == 8);
    CHECK(engine::Sampler(xtc, {}, nullptr, {}).distribution(newline_first).size() == 7);
}

}  // namespace quantplug::test
