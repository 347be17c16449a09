// Tiny random models of every architecture against logits that transformers computed in FP32 (tests/data/tiny/make.py),
// and against themselves: quantised, dequantised, in one pass and token by token.
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
namespace fs = std::filesystem;

constexpr const char* names[] = {"llama",     "llama3_rope", "mistral", "qwen2",  "qwen3",  "dynamic_rope", "mixtral",
                                 "qwen2_moe", "dbrx",        "gemma2",  "gemma3", "cohere", "cohere2",      "phi3",
                                 "gpt2",      "gpt_bigcode", "granite", "glm4",   "phi",    "stablelm",     "gpt_neox",
                                 "falcon",    "opt",         "bloom",   "olmo",   "olmo2",  "exaone4",      "smollm3",
                                 "nemotron",  "hunyuan",     "index"};

fs::path folder_of(const std::string& name) { return data_dir() / "tiny" / name; }

struct Golden {
    std::vector<int32_t> ids;
    std::vector<float> logits;  // (ids, n_vocab)
};

Golden golden(const std::string& name) {
    std::ifstream in(data_dir() / "tiny" / (name + ".golden.safetensors"), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    uint64_t n = 0;
    std::memcpy(&n, bytes.data(), 8);
    const json header = json::parse(bytes.substr(8, n));
    const auto copy = [&](const char* key, auto& out) {
        const auto range = header.at(key).at("data_offsets");
        out.resize((range[1].get<size_t>() - range[0].get<size_t>()) / 4);
        std::memcpy(out.data(), bytes.data() + 8 + n + range[0].get<size_t>(), out.size() * 4);
    };
    Golden g;
    copy("ids", g.ids);
    copy("logits", g.logits);
    return g;
}

std::vector<float> logits_of(const Model& model, const std::vector<int32_t>& ids) {
    std::vector<float> all;
    LogitsSession session(model, ids);
    const float* row = nullptr;
    uint64_t position = 0;
    while (session.next(row, position)) all.insert(all.end(), row, row + model.info().n_vocab);
    return all;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    REQUIRE(a.size() == b.size());
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i)
        worst = std::max(worst, std::isnan(a[i]) ? INFINITY : std::abs(double(a[i]) - double(b[i])));
    return worst;
}

std::vector<float> log_softmax_rows(const std::vector<float>& logits, size_t n_vocab) {
    std::vector<float> out;
    for (size_t at = 0; at < logits.size(); at += n_vocab) {
        double sum = 0;
        for (size_t v = 0; v < n_vocab; ++v) sum += std::exp(double(logits[at + v]));
        for (size_t v = 0; v < n_vocab; ++v) out.push_back(float(double(logits[at + v]) - std::log(sum)));
    }
    return out;
}

std::string quantised(const TempDir& dir, const std::string& name, const char* format) {
    const std::string out = (dir.path() / (name + "-" + format)).string();
    json arguments = {
        {"in", folder_of(name).string()}, {"out", out}, {"method", "rtn"}, {"bits", 4}, {"group_size", 32}};
    int layers = 0;
    bool done = false;
    open_plugin(format).quantize(arguments.dump(), [&](const char* text) {
        const json event = json::parse(text);
        layers += event.at("event") == "layer";
        done = event.at("event") == "done";
        return true;
    });
    CHECK(done);
    CHECK(layers >= 6);
    return out;
}

}  // namespace

TEST_CASE("tiny models: logits equal transformers' within 1e-4 of the largest") {
    for (const std::string name : names) {
        CAPTURE(name);
        const Golden g = golden(name);
        const Model model = open_plugin("exl2").load(folder_of(name).string(), {{"compute", "exact"}, {"ctx", "64"}});
        const std::vector<float> logits = logits_of(model, g.ids);
        double largest = 0;
        for (const float l : g.logits) largest = std::max(largest, double(std::abs(l)));
        const double worst = largest_difference(logits, g.logits) / largest;
        std::printf("tiny %s: largest difference %.1e of the largest logit\n", name.c_str(), worst);
        CHECK(worst < 1e-4);
    }
}

TEST_CASE("tiny models: decode after prefill gives the bits of one pass") {
    for (const std::string name : names)
        for (const char* compute : {"exact", "default"}) {
            // Beyond its 16 positions keys keep the frequencies of the length at which they were computed.
            if (name == "dynamic_rope") continue;
            CAPTURE(name);
            CAPTURE(compute);
            const Model model =
                open_plugin("exl2").load(folder_of(name).string(), {{"compute", compute}, {"ctx", "64"}});
            GenerateRequest request;
            request.prompt = golden(name).ids;
            request.max_tokens = 20;
            request.flags = QP_GENERATE_IGNORE_EOS;
            std::vector<int32_t> ids = request.prompt;
            std::vector<float> logprobs;
            model.generate(request, [&](const qp_event& e) {
                for (uint32_t i = 0; i < e.n_tokens; ++i) {
                    ids.push_back(e.tokens[i].id);
                    logprobs.push_back(e.tokens[i].logprob);
                }
                return true;
            });
            REQUIRE(logprobs.size() == 20);
            const std::vector<float> scored = model.score(ids);
            for (size_t i = 0; i < logprobs.size(); ++i)
                CHECK(scored[request.prompt.size() - 1 + i] == doctest::Approx(logprobs[i]).epsilon(1e-6));
        }
}

TEST_CASE("tiny models: quantised folders agree with their own dequantised ones") {
    const TempDir dir;
    for (const std::string name : names)
        for (const char* format : {"exl2", "gptq"}) {
            CAPTURE(name);
            CAPTURE(format);
            const std::string quant = quantised(dir, name, format);
            const std::string plain = quant + "-f16";
            const Plugin plugin = open_plugin(format);
            CHECK(plugin.probe(quant).score == 90);
            plugin.run_tool("dequantize", json({{"in", quant}, {"out", plain}, {"dtype", "f16"}}).dump(),
                            [](const char*) { return true; });
            const std::vector<int32_t> ids = golden(name).ids;
            const Model a = plugin.load(quant, {{"compute", "exact"}, {"ctx", "64"}});
            const Model b = open_plugin("exl2").load(plain, {{"compute", "exact"}, {"ctx", "64"}});
            const size_t n_vocab = a.info().n_vocab;
            CHECK(largest_difference(log_softmax_rows(logits_of(a, ids), n_vocab),
                                     log_softmax_rows(logits_of(b, ids), n_vocab)) < 1e-4);
            CHECK(a.info().bits_per_weight > 4);
            // Quantised at all: the original differs.
            const Model original =
                open_plugin("exl2").load(folder_of(name).string(), {{"compute", "exact"}, {"ctx", "64"}});
            CHECK(largest_difference(logits_of(a, ids), logits_of(original, ids)) > 1e-3);
            // What info promises before loading is what is loaded.
            const qp_model_info before = plugin.inspect(quant), after = a.info();
            CHECK(before.n_params == after.n_params);
            CHECK(before.bits_per_weight == after.bits_per_weight);
            CHECK(std::string(before.format) == format);
        }
}

TEST_CASE("tiny models: requests that cannot be are refused with the reason") {
    const Model model = open_plugin("exl2").load(folder_of("llama").string(), {{"ctx", "64"}});
    const auto message = [&](GenerateRequest request) {
        try {
            model.generate(request, [](const qp_event&) { return true; });
        } catch (const Error& e) {
            return std::string(e.what());
        }
        return std::string("accepted");
    };
    GenerateRequest request;
    CHECK(message(request) != "accepted");
    request.prompt.assign(64, 5);
    CHECK(message(request).find("64") != std::string::npos);
    request.prompt.assign(3, 96);
    CHECK(message(request).find("96") != std::string::npos);
    request.prompt.assign(3, 5);
    request.top_p(1.5);
    CHECK(message(request).find("top_p") != std::string::npos);
    // The model is usable after all of them.
    CHECK(model.score({3, 4, 5}).size() == 2);
    CHECK_THROWS_AS(open_plugin("exl2").load(folder_of("llama").string(), {{"colour", "red"}}), Error);
    CHECK_THROWS_AS(open_plugin("gptq").load(folder_of("llama").string()), Error);
}

TEST_CASE("tiny models: cancel ends a generation, and the end event comes") {
    const Model model = open_plugin("exl2").load(folder_of("llama").string(), {{"ctx", "256"}});
    GenerateRequest request;
    request.prompt = {3, 4, 5};
    request.flags = QP_GENERATE_IGNORE_EOS;
    int tokens = 0, ends = 0;
    const qp_event end = model.generate(request, [&](const qp_event& e) {
        tokens += int(e.n_tokens);
        ends += e.kind == QP_EVENT_END;
        return tokens < 5;
    });
    CHECK(end.finish_reason == QP_FINISH_CANCELLED);
    CHECK(tokens == 5);
    CHECK(ends == 1);
}

TEST_CASE("tiny models: stop strings, stop ids, length and top tokens") {
    const Model model = open_plugin("exl2").load(folder_of("llama").string(), {{"ctx", "256"}});
    GenerateRequest request;
    request.prompt = {3, 4, 5};
    request.flags = QP_GENERATE_IGNORE_EOS;
    request.max_tokens = 30;
    request.n_top = 3;
    std::vector<int32_t> ids;
    std::string text;
    const auto run = [&] {
        ids.clear();
        text.clear();
        return model.generate(request, [&](const qp_event& e) {
            for (uint32_t i = 0; i < e.n_tokens; ++i) {
                const qp_token& t = e.tokens[i];
                ids.push_back(t.id);
                REQUIRE(t.n_top == 3);
                CHECK(e.top[t.first_top].id == t.id);  // greedy
                CHECK(e.top[t.first_top].logprob == t.logprob);
                CHECK(e.top[t.first_top + 1].logprob >= e.top[t.first_top + 2].logprob);
            }
            if (e.text_size) text.append(e.text, e.text_size);
            return true;
        });
    };
    CHECK(run().finish_reason == QP_FINISH_LENGTH);
    REQUIRE(ids.size() == 30);
    CHECK(text == model.detokenize(ids));
    const std::vector<int32_t> all = ids;
    const std::string whole = text;

    request.stop_ids = {all[10]};
    const size_t first = size_t(std::find(all.begin(), all.end(), all[10]) - all.begin());
    const qp_event by_id = run();
    CHECK(by_id.finish_reason == QP_FINISH_STOP);
    CHECK(by_id.stop_id == all[10]);
    CHECK(ids.size() == first + 1);

    request.stop_ids.clear();
    request.stop = {whole.substr(10, 3)};
    CHECK(run().finish_reason == QP_FINISH_STOP);
    CHECK(text == whole.substr(0, whole.find(request.stop[0])));
}

}  // namespace quantplug::test
