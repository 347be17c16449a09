// The template backend as a host meets it: opened from its file, through host.hpp.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <quantplug/host.hpp>

#include "tests/support/data.h"

using namespace quantplug;

namespace {

const qp_entry* open_template() {
    static void* library =
        ::dlopen((std::string(QP_BINARY_DIR) + "/template/libquantplug_template.so").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) FAIL(::dlerror());
    return static_cast<const qp_entry*>(::dlsym(library, QP_ENTRY_SYMBOL));  // stays mapped until exit
}

std::string folder_with(const test::TempDir& dir, const std::string& words) {
    std::ofstream(dir.path() / "words.txt", std::ios::binary) << words;
    return dir.path().string();
}

Error error_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const Error& e) {
        return e;
    }
    return Error(QP_OK, "");
}

}  // namespace

TEST_CASE("template backend: probe to unload") {
    test::TempDir dir;
    std::vector<std::string> log;
    Host host([&](int32_t, const char* line) { log.push_back(line); });
    const qp_entry* entry = open_template();
    REQUIRE(entry_problem(entry) == "");
    Plugin plugin(entry, host.table());
    CHECK(plugin.name() == "template");
    CHECK(plugin.probe(dir.path().string()).score == 0);
    CHECK(std::string(plugin.probe(dir.path().string()).reason).find("no words.txt") != std::string::npos);
    const std::string folder = folder_with(dir, "in\nthe\nbeginning\nwas\nd\xc3\xa9j\xc3\xa0\n");
    CHECK(plugin.probe(folder).score == 90);
    CHECK(plugin.inspect(folder).n_vocab == 5);
    const qp_memory_plan plan = plugin.plan_memory(folder);
    CHECK(plan.total >= plan.weights);
    CHECK(plan.weights > 0);
    REQUIRE(plugin.load_options().size() == 1);
    CHECK(std::string(plugin.load_options()[0].key) == "repeat");
    CHECK(error_of([&] { plugin.load(folder, {{"repeat", "0"}}); }).code() == QP_INVALID_ARGUMENT);
    CHECK(error_of([&] {
              plugin.load(folder, {{"colour", "red"}});
          }).what() == std::string("unknown load option 'colour': this plugin has repeat"));
    CHECK(error_of([&] { plugin.load(folder, {}, [](double, const char*) { return false; }); }).code() == QP_CANCELLED);

    Model model = plugin.load(folder);
    CHECK(log == std::vector<std::string>{"loaded " + folder});
    CHECK(std::string(model.info().device) == "cpu");
    CHECK(model.default_sampling().set == 0);
    const std::vector<int32_t> ids = model.tokenize("was the d\xc3\xa9j\xc3\xa0 elsewhere ");
    CHECK(ids == std::vector<int32_t>{3, 1, 4, 0});
    CHECK(model.detokenize(ids) == "was the d\xc3\xa9j\xc3\xa0 in ");
    CHECK(model.tokenize("").empty());

    GenerateRequest request;
    request.prompt = {1};
    request.temperature(0.5).seed(7);
    request.n_top = 3;
    std::string text;
    std::vector<int32_t> generated;
    const auto run = [&] {
        text.clear();
        generated.clear();
        return model.generate(request, [&](const qp_event& event) {
            text.append(event.text, event.text_size);
            for (uint32_t i = 0; i < event.n_tokens; ++i) generated.push_back(event.tokens[i].id);
            for (uint32_t i = 0; i < event.n_tokens; ++i)
                CHECK(event.tokens[i].first_top + event.tokens[i].n_top <= event.n_top);
            return true;
        });
    };
    qp_event end = run();
    CHECK(text == "in the beginning was d\xc3\xa9j\xc3\xa0 ");
    CHECK(generated == std::vector<int32_t>{0, 1, 2, 3, 4});
    CHECK(end.finish_reason == QP_FINISH_STOP);
    CHECK(end.ignored == (QP_SET_TEMPERATURE | QP_SET_SEED));
    CHECK(end.n_generated == 5);

    request.max_tokens = 2;
    CHECK(run().finish_reason == QP_FINISH_LENGTH);
    CHECK(text == "in the ");
    request.max_tokens = 0;
    request.stop = {"was d", "nowhere"};
    CHECK(run().finish_reason == QP_FINISH_STOP);
    CHECK(text == "in the beginning ");
    request.stop = {"xx\xc3\xa0yyyyyyyyy"};  // long enough to hold text back inside a character
    CHECK(run().finish_reason == QP_FINISH_STOP);
    CHECK(text == "in the beginning was d\xc3\xa9j\xc3\xa0 ");
    request.stop.clear();
    request.stop_ids = {2};
    end = run();
    CHECK(end.stop_id == 2);
    CHECK(text == "in the beginning ");
    request.stop_ids.clear();
    int events = 0;
    CHECK(model.generate(request, [&](const qp_event&) { return ++events < 3; }).finish_reason == QP_FINISH_CANCELLED);
    CHECK(events == 4);
    request.prompt.assign(1025, 0);
    CHECK(error_of([&] { run(); }).code() == QP_OUT_OF_RANGE);

    CHECK(plugin.has_extension(QP_EXT_SCORE));
    const std::vector<float> logprobs = model.score({3, 4, 0, 2});
    CHECK(logprobs[0] == 0);
    CHECK(logprobs[1] == 0);
    CHECK(std::isinf(logprobs[2]));
    {
        Detokenizer detokenizer(model);
        CHECK(error_of([&] { model.unload(); }).code() == QP_FAILED_PRECONDITION);
        CHECK(detokenizer.push(4) == "d\xc3\xa9j\xc3\xa0 ");
        CHECK(detokenizer.push(-5) == "");
        CHECK(detokenizer.finish() == "");
    }
    model.unload();
    CHECK_FALSE(model);
}

TEST_CASE("template backend: bad folders") {
    Host host;
    Plugin plugin(open_template(), host.table());
    const auto refused = [&](const std::string& words, const char* part) {
        test::TempDir dir;
        const std::string folder = folder_with(dir, words);
        const Error error = error_of([&] { plugin.load(folder); });
        CHECK(error.code() == QP_DATA_LOSS);
        CHECK_MESSAGE(std::string(error.what()).find(part) != std::string::npos, error.what());
        CHECK(std::string(error.what()).find("words.txt") != std::string::npos);
    };
    refused("", "no line");
    refused("cut", "cut off");
    refused("ok\n\n", "line 2 is empty");
    refused("ok\n\xff\n", "not UTF-8");
    refused(std::string(5000, 'x') + "\n", "longer than 4096");
    std::string many;
    for (int i = 0; i < 65537; ++i) many += "a\n";
    refused(many, "65536");
    CHECK(error_of([&] { plugin.load("/nowhere/at/all"); }).code() == QP_NOT_FOUND);
}
