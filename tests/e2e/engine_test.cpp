// quantplug.engine/1 and quantplug.chat/1 through the built plugins, as a host uses them.
#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "tests/e2e/plugins.h"
#include "tests/support/data.h"

namespace quantplug::test {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string tiny(const char* name) { return (data_dir() / "tiny" / name).string(); }

struct Answer {
    std::vector<int32_t> ids;
    std::string text;
    uint32_t finish = QP_FINISH_NONE;
    int n_ends = 0;
};

void add(Answer& answer, const qp_event& event) {
    for (uint32_t i = 0; i < event.n_tokens; ++i) answer.ids.push_back(event.tokens[i].id);
    answer.text.append(event.text, event.text_size);
    if (event.kind != QP_EVENT_END) return;
    ++answer.n_ends;
    answer.finish = event.finish_reason;
}

Answer alone(const Plugin& plugin, const std::string& folder, const GenerateRequest& request) {
    Answer answer;
    const Model model = plugin.load(folder);  // a new one: nothing in its cache
    model.generate(request, [&](const qp_event& event) {
        add(answer, event);
        return true;
    });
    return answer;
}

std::vector<GenerateRequest> requests_of(std::mt19937& random, size_t n, int32_t n_vocab) {
    std::vector<int32_t> shared(70);
    for (int32_t& id : shared) id = 3 + int32_t(random() % uint32_t(n_vocab - 3));
    std::vector<GenerateRequest> out(n);
    for (GenerateRequest& r : out) {
        r.prompt.assign(shared.begin(), shared.begin() + ptrdiff_t(1 + random() % shared.size()));
        for (uint32_t i = random() % 20; i > 0; --i) r.prompt.push_back(3 + int32_t(random() % uint32_t(n_vocab - 3)));
        r.max_tokens = 1 + random() % 40;
        if (random() % 2) r.temperature(0.9).top_p(0.9).seed(random());
        if (random() % 3 == 0) r.repetition_penalty(1.2);
    }
    return out;
}

}  // namespace

TEST_CASE("engine: every answer of a loaded plugin is the one its request gets alone") {
    const unsigned seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const Plugin plugin = open_plugin("exl2");
    for (const char* name : {"mixtral", "gemma2"}) {
        CAPTURE(name);
        const Model model = plugin.load(tiny(name));
        const Engine engine(model);
        const auto requests = requests_of(random, 10, int32_t(model.info().n_vocab));
        std::map<uint64_t, Answer> answers;
        std::map<uint64_t, size_t> index;
        size_t submitted = 0;
        uint64_t active = 0;
        do {
            if (submitted < requests.size() && random() % 3)
                index[engine.submit(requests[submitted])] = submitted, ++submitted;
            active = engine.step(0, [&](uint64_t request, const qp_event& event) {
                add(answers[request], event);
                return true;
            });
        } while (submitted < requests.size() || active > 0);
        REQUIRE(answers.size() == requests.size());
        for (const auto& [number, answer] : answers) {
            const size_t at = index.at(number);
            CAPTURE(at);
            const Answer lone = alone(plugin, tiny(name), requests[at]);
            CHECK(answer.ids == lone.ids);
            CHECK(answer.text == lone.text);
            CHECK(answer.finish == lone.finish);
            CHECK(answer.n_ends == 1);
        }
        const qp_engine_status status = engine.status();
        CHECK(status.n_running == 0);
        CHECK(status.n_waiting == 0);
        CHECK(status.n_blocks_used == 0);
    }
}

TEST_CASE("engine: generate runs beside a stepping thread, and unload ends what is left") {
    const Plugin plugin = open_plugin("gptq");
    TempDir dir;
    const std::string folder = (dir.path() / "m").string();
    plugin.quantize(json{{"in", tiny("llama")}, {"out", folder}, {"method", "rtn"}, {"bits", 4}}.dump(),
                    [](const std::string&) { return true; });
    Model model = plugin.load(folder);
    GenerateRequest request;
    request.prompt = {1, 5, 9, 13};
    request.max_tokens = 60;
    request.flags = QP_GENERATE_IGNORE_EOS;
    const Answer lone = alone(plugin, folder, request);
    REQUIRE(lone.ids.size() == 60);
    {
        const Engine engine(model);
        Answer by_step, by_generate;
        const uint64_t id = engine.submit(request);
        std::thread other([&] {
            model.generate(request, [&](const qp_event& event) {
                add(by_generate, event);
                return true;
            });
        });
        while (engine.step(50, [&](uint64_t from, const qp_event& event) {
            CHECK(from == id);
            add(by_step, event);
            return true;
        }) > 0) {
        }
        other.join();
        CHECK(by_step.ids == lone.ids);
        CHECK(by_generate.ids == lone.ids);

        const uint64_t cancelled = engine.submit(request);
        CHECK(engine.cancel(cancelled));
        Answer ended;
        while (engine.step(0, [&](uint64_t, const qp_event& event) {
            add(ended, event);
            return true;
        }) > 0) {
        }
        CHECK(ended.finish == QP_FINISH_CANCELLED);
        CHECK(ended.n_ends == 1);
        CHECK_FALSE(engine.cancel(cancelled));
        CHECK(engine.status().n_blocks_used == 0);

        engine.submit(request);  // not stepped: unload is not refused
    }
    CHECK_NOTHROW(model.unload());
}

TEST_CASE("chat: a folder's own template makes the prompt, and text that looks like a token stays text") {
    TempDir dir;
    const fs::path folder = dir.path() / "m";
    fs::copy(tiny("llama"), folder, fs::copy_options::recursive);
    std::ofstream(folder / "chat_template.jinja")
        << "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}: {{ m.content }}"
           "</s>{% endfor %}{% if add_generation_prompt %}a: {% endif %}";
    std::ofstream(folder / "tokenizer_config.json") << R"({"bos_token": "<s>", "eos_token": "</s>"})";
    const Plugin plugin = open_plugin("exl2");
    const Model model = plugin.load(folder.string());
    const Chat chat(model);
    const json described = json::parse(chat.describe());
    CHECK(described.at("source") == "chat_template.jinja");
    const json out = json::parse(chat.render(
        json{{"messages", {{{"role", "user"}, {"content", "a</s>b"}}}}, {"add_generation_prompt", true}}.dump()));
    CHECK(out.at("prompt") == "<s>u: a</s>b</s>a: ");
    const std::vector<int32_t> ids = out.at("ids");
    REQUIRE(!ids.empty());
    CHECK(ids.front() == 1);
    CHECK(std::count(ids.begin(), ids.end(), 1) == 1);  // BOS once
    CHECK(std::count(ids.begin(), ids.end(), 2) == 1);  // the template's token; the user's is text
    CHECK_THROWS_AS(chat.render(R"({"messages": [], "wrong": 1})"), Error);
}

}  // namespace quantplug::test
