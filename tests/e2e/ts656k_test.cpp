// TinyStories-656K in FP32, EXL2 and GPTQ against goldens computed in double precision on the decoded weights.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tests/e2e/plugins.h"
#include "tests/support/data.h"

namespace quantplug::test {

namespace {

using nlohmann::json;

struct Folder {
    const char* name;
    const char* backend;
    double perplexity;  // models/ts656k/README.md
};
constexpr Folder folders[] = {
    {"f32", "exl2", 35.0346}, {"exl2-4.0bpw", "exl2", 37.4370}, {"gptq-4bit-128g-act", "gptq", 36.8040}};

std::filesystem::path root() { return models_dir() / "ts656k"; }

bool absent() {
    if (std::filesystem::exists(root() / "golden.json")) return false;
    MESSAGE("skipped: " << root().string() << " is not there (QUANTPLUG_TEST_MODELS names the folder of test models)");
    return true;
}

#if defined(__has_feature)
#define QP_CLANG_FEATURE(x) __has_feature(x)
#else
#define QP_CLANG_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || QP_CLANG_FEATURE(address_sanitizer) || \
    QP_CLANG_FEATURE(thread_sanitizer)
constexpr bool sanitized = true;  // twenty times slower: a few rows instead of all
#else
constexpr bool sanitized = false;
#endif

json golden() {
    std::ifstream in(root() / "golden.json");
    return json::parse(in);
}

std::string eval_text() {
    std::ifstream in(root() / "eval.txt", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

Model load(const Folder& folder, const char* compute, const char* threads = "2") {
    return open_plugin(folder.backend)
        .load((root() / folder.name).string(), {{"compute", compute}, {"threads", threads}, {"device", "cpu"}});
}

/// Rows of 512 ids as the README's protocol cuts them: BOS, then 511 tokens.
std::vector<std::vector<int32_t>> eval_rows(const Model& model, size_t limit) {
    const std::vector<int32_t> ids = model.tokenize(eval_text(), QP_BOS_OFF);
    REQUIRE(ids.size() == 31272);
    std::vector<std::vector<int32_t>> rows;
    for (size_t at = 0; at + 511 <= ids.size() && rows.size() < limit; at += 511) {
        rows.push_back({1});
        rows.back().insert(rows.back().end(), ids.begin() + ptrdiff_t(at), ids.begin() + ptrdiff_t(at + 511));
    }
    return rows;
}

std::vector<std::vector<float>> logits_of(const Model& model, const std::vector<int32_t>& ids) {
    std::vector<std::vector<float>> rows;
    LogitsSession session(model, ids);
    const float* row = nullptr;
    uint64_t position = 0;
    while (session.next(row, position)) {
        REQUIRE(position == rows.size());
        rows.emplace_back(row, row + model.info().n_vocab);
    }
    return rows;
}

std::vector<double> log_softmax(const std::vector<float>& row) {
    const double top = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (const float l : row) sum += std::exp(l - top);
    std::vector<double> out;
    for (const float l : row) out.push_back(l - top - std::log(sum));
    return out;
}

}  // namespace

TEST_CASE("ts656k exact: greedy tokens and log-probabilities equal the goldens") {
    if (absent()) return;
    const json cases = golden()["greedy"]["cases"];
    for (const Folder& folder : folders) {
        CAPTURE(folder.name);
        const Model model = load(folder, "exact");
        int tokens = 0, equal = 0;
        double worst = 0;
        for (const json& c : cases[folder.name]) {
            CHECK(model.tokenize(c["prompt"].get<std::string>()) == c["prompt_tokens"].get<std::vector<int32_t>>());
            GenerateRequest request;
            request.prompt = c["prompt_tokens"].get<std::vector<int32_t>>();
            request.max_tokens = 64;
            request.flags = QP_GENERATE_IGNORE_EOS;
            std::vector<int32_t> ids;
            std::vector<double> logprobs;
            std::string text;
            model.generate(request, [&](const qp_event& e) {
                for (uint32_t i = 0; i < e.n_tokens; ++i) {
                    ids.push_back(e.tokens[i].id);
                    logprobs.push_back(e.tokens[i].logprob);
                }
                if (e.text_size) text.append(e.text, e.text_size);
                return true;
            });
            const auto expected = c["greedy_tokens"].get<std::vector<int32_t>>();
            REQUIRE(ids.size() == expected.size());
            for (size_t i = 0; i < ids.size(); ++i) {
                ++tokens;
                equal += ids[i] == expected[i];
                worst = std::max(worst, std::abs(logprobs[i] - c["step_logprob"][i].get<double>()));
            }
            CHECK(text == c["text"].get<std::string>());
        }
        std::printf("ts656k %s exact: %d of %d greedy tokens, largest difference of log-probabilities %.2e\n",
                    folder.name, equal, tokens, worst);
        CHECK(tokens == 512);
        CHECK(equal == tokens);
        CHECK(worst < 1e-4);
    }
}

TEST_CASE("ts656k exact: perplexity within 0.01 % of the documented one") {
    if (absent()) return;
    for (const Folder& folder : folders) {
        CAPTURE(folder.name);
        const Model model = load(folder, "exact");
        double nll = 0;
        int predictions = 0;
        for (const auto& row : eval_rows(model, sanitized ? 1 : SIZE_MAX))
            for (const float l : model.score(row)) {
                nll -= l;
                ++predictions;
            }
        const double perplexity = std::exp(nll / predictions);
        std::printf("ts656k %s exact: perplexity %.4f over %d predictions\n", folder.name, perplexity, predictions);
        if (sanitized) continue;
        CHECK(predictions == 31171);
        CHECK(std::abs(perplexity / folder.perplexity - 1) < 1e-4);
    }
}

TEST_CASE("ts656k default: golden token wherever its margin is above 0.02, log-probabilities within 0.02") {
    if (absent()) return;
    const json cases = golden()["greedy"]["cases"];
    for (const Folder& folder : folders) {
        CAPTURE(folder.name);
        const Model model = load(folder, "default");
        double worst = 0;
        int wrong = 0, clear = 0;
        for (const json& c : cases[folder.name]) {
            auto ids = c["prompt_tokens"].get<std::vector<int32_t>>();
            const size_t n_prompt = ids.size();
            const auto expected = c["greedy_tokens"].get<std::vector<int32_t>>();
            ids.insert(ids.end(), expected.begin(), expected.end() - 1);
            const auto rows = logits_of(model, ids);
            for (size_t i = 0; i < expected.size(); ++i) {
                const std::vector<float>& row = rows[n_prompt - 1 + i];
                const auto best = int32_t(std::max_element(row.begin(), row.end()) - row.begin());
                worst = std::max(worst,
                                 std::abs(log_softmax(row)[size_t(expected[i])] - c["step_logprob"][i].get<double>()));
                if (c["step_margin"][i].get<double>() <= 0.02) continue;
                ++clear;
                wrong += best != expected[i];
            }
        }
        std::printf("ts656k %s default: %d of %d clear tokens differ, largest difference of log-probabilities %.2e\n",
                    folder.name, wrong, clear, worst);
        CHECK(clear > 400);
        CHECK(wrong == 0);
        CHECK(worst < 0.02);
    }
}

TEST_CASE("ts656k default: KL divergence from exact at most 5e-6") {
    if (absent()) return;
    for (const Folder& folder : folders) {
        CAPTURE(folder.name);
        const Model exact = load(folder, "exact"), quick = load(folder, "default");
        double kl = 0;
        int n = 0;
        for (const auto& ids : eval_rows(exact, sanitized ? 1 : 4)) {
            const auto base = logits_of(exact, ids), other = logits_of(quick, ids);
            for (size_t i = 0; i < base.size(); ++i, ++n) {
                const auto p = log_softmax(base[i]), q = log_softmax(other[i]);
                for (size_t v = 0; v < p.size(); ++v) kl += std::exp(p[v]) * (p[v] - q[v]);
            }
        }
        std::printf("ts656k %s: KL(exact || default) %.2e over %d predictions\n", folder.name, kl / n, n);
        CHECK(kl / n <= 5e-6);
    }
}

TEST_CASE("ts656k: the same bits on any instruction set and number of threads") {
    if (absent()) return;
    for (const Folder& folder : folders)
        for (const char* compute : {"default", "exact"}) {
            CAPTURE(folder.name);
            CAPTURE(compute);
            std::vector<std::vector<float>> first;
            for (const char* set : {"portable", "avx2"})
                for (const char* threads : {"1", "2"}) {
                    setenv("QUANTPLUG_CPU", set, 1);
                    Model model;
                    try {
                        model = load(folder, compute, threads);
                    } catch (const Error& e) {
                        unsetenv("QUANTPLUG_CPU");
                        REQUIRE(std::string(set) == "avx2");
                        MESSAGE("skipped avx2: " << e.what());
                        continue;
                    }
                    unsetenv("QUANTPLUG_CPU");
                    std::vector<int32_t> row = eval_rows(model, 1)[0];
                    if (sanitized) row.resize(70);
                    const auto logits = logits_of(model, row);
                    if (first.empty()) first = logits;
                    bool same = first.size() == logits.size();
                    for (size_t i = 0; same && i < logits.size(); ++i)
                        same = std::memcmp(first[i].data(), logits[i].data(), logits[i].size() * sizeof(float)) == 0;
                    CHECK_MESSAGE(same, set, " with ", threads, " threads");
                }
        }
}

}  // namespace quantplug::test
