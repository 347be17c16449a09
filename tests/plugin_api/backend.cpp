// backend.hpp: the barrier, the checks of arguments, out-structs, floating-point state, extensions.
#include <doctest/doctest.h>

#include <cstdlib>
#include <limits>
#include <new>

#include "tests/plugin_api/fake_backend.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

using namespace quantplug;
using namespace quantplug::test;

namespace {

struct MyError {
    int32_t code;
    std::string text;
};

qp_load_params params_of(const char* path) {
    qp_load_params params = make<qp_load_params>();
    params.path = path;
    return params;
}

struct Some : FakeBackend {
    static constexpr unsigned extensions = backend::kScore | backend::kTools;
    static const void* extension(const char* id) {
        static constexpr int32_t own = 5;
        return std::string_view(id) == "vendor.own/1" ? &own : nullptr;
    }
};

struct All : FakeBackend {
    static constexpr unsigned extensions = backend::kScore | backend::kLogits | backend::kTools | backend::kQuantize;
};

}  // namespace

TEST_CASE("every exception becomes a status and a sentence") {
    struct B : FakeBackend {
        void probe(const char* path, qp_probe_result&) const override {
            switch (*path) {
                case 'e':
                    throw Error(QP_DATA_LOSS, "file x is cut off");
                case 'z':
                    throw Error(QP_OK, "an error that says OK");
                case 'n':
                    throw Error(-5, "a negative code");
                case 'm':
                    throw std::bad_alloc();
                case 'M':
                    throw std::bad_array_new_length();
                case 's':
                    throw std::runtime_error("some detail");
                case 'i':
                    throw 42;
                case 't':
                    throw MyError{QP_NOT_FOUND, "translated"};
                case 'l':
                    throw Error(QP_INTERNAL, std::string(5000, 'x'));
                case 'u':
                    throw std::runtime_error("bytes \xff here");
            }
        }
        bool translate(int32_t& code, std::string& message) const override {
            try {
                throw;
            } catch (const MyError& e) {
                return code = e.code, message = e.text, true;
            }
        }
    };
    Running<B> plugin;
    const auto outcome = [&](const char* path) {
        qp_probe_result out = make<qp_probe_result>();
        plugin.error = make<qp_error>();
        const int32_t status = plugin.table.probe(path, &out, &plugin.error);
        CHECK(plugin.error.code == status);
        CHECK(plugin.table.probe(path, &out, nullptr) == status);
        return std::make_pair(status, std::string(plugin.error.message));
    };
    CHECK(outcome("e") == std::make_pair(QP_DATA_LOSS, std::string("file x is cut off")));
    CHECK(outcome("z").first == QP_INTERNAL);
    CHECK(outcome("n").first == QP_INTERNAL);
    CHECK(outcome("m").first == QP_RESOURCE_EXHAUSTED);
    CHECK(outcome("m").second.find("probe") != std::string::npos);
    CHECK(outcome("M").first == QP_RESOURCE_EXHAUSTED);
    CHECK(outcome("s") == std::make_pair(QP_INTERNAL, std::string("probe failed: some detail")));
    CHECK(outcome("i").first == QP_INTERNAL);
    CHECK(outcome("i").second.find("unknown type") != std::string::npos);
    CHECK(outcome("t") == std::make_pair(QP_NOT_FOUND, std::string("translated")));
    CHECK(outcome("l").second.size() == sizeof plugin.error.message - 1);
    CHECK(outcome("u").second == "probe failed: bytes ? here");
    CHECK(outcome("ok") == std::make_pair(QP_OK, std::string()));
}

TEST_CASE("a constructor that throws is init's failure") {
    struct B : FakeBackend {
        B() { throw Error(QP_UNAVAILABLE, "no device"); }
    };
    const qp_plugin& table = *backend::make_entry<B>("b", "1", "f").plugin;
    Host host;
    qp_error error = make<qp_error>();
    CHECK(table.init(host.table(), &error) == QP_UNAVAILABLE);
    CHECK(std::string(error.message) == "no device");
    CHECK(table.deinit(nullptr) == QP_FAILED_PRECONDITION);
}

TEST_CASE("null pointers and short structs are refused by the argument's name") {
    struct B : FakeBackend {};
    Running<B> plugin;
    const qp_plugin& t = plugin.table;
    qp_error& error = plugin.error;
    qp_probe_result probe = make<qp_probe_result>();
    const auto says = [&](int32_t status, const char* part) {
        CHECK(status == QP_INVALID_ARGUMENT);
        CHECK_MESSAGE(std::string(error.message).find(part) != std::string::npos, error.message);
    };
    says(t.init(nullptr, &error), "'host'");
    says(t.probe(nullptr, &probe, &error), "'path'");
    says(t.probe("x", nullptr, &error), "'out'");
    probe.struct_size = 8;
    says(t.probe("x", &probe, &error), "struct_size");
    says(t.inspect("x", nullptr, &error), "'out'");
    says(t.list_load_options(0, nullptr, &error), "'out'");
    qp_model* model = nullptr;
    says(t.load(nullptr, &model, &error), "'params'");
    qp_load_params params = params_of("m");
    says(t.load(&params, nullptr, &error), "'out'");
    params.path = nullptr;
    says(t.load(&params, &model, &error), "params.path");
    params.path = "";
    says(t.load(&params, &model, &error), "empty");
    params = params_of("m");
    params.n_options = 1;
    says(t.load(&params, &model, &error), "params.options");
    params.n_options = 0;
    params.struct_size = 12;
    says(t.load(&params, &model, &error), "struct_size");
    says(t.unload(nullptr, &error), "'model'");
    qp_model_info info = make<qp_model_info>();
    says(t.model_info(nullptr, &info, &error), "'model'");
    uint64_t n = 0;
    says(t.tokenize(nullptr, "a", 1, 0, nullptr, 0, &n, &error), "'model'");

    plugin.load();
    says(t.model_info(plugin.model, nullptr, &error), "'out'");
    says(t.default_sampling(plugin.model, nullptr, &error), "'out'");
    says(t.tokenize(plugin.model, nullptr, 1, 0, nullptr, 0, &n, &error), "'text'");
    says(t.tokenize(plugin.model, "a", 1, 0, nullptr, 0, nullptr, &error), "'n_ids'");
    says(t.tokenize(plugin.model, "a", 1, 64, nullptr, 0, &n, &error), "flags");
    says(t.tokenize(plugin.model, "a", 1, QP_BOS_ON | QP_BOS_OFF, nullptr, 0, &n, &error), "QP_BOS_OFF");
    says(t.detokenize(plugin.model, nullptr, 1, 0, nullptr, 0, &n, &error), "'ids'");
    says(t.detokenizer_create(plugin.model, 0, nullptr, &error), "'out'");
    const char* text = nullptr;
    says(t.detokenizer_push(nullptr, 1, &text, &n, &error), "'detokenizer'");
    t.detokenizer_destroy(nullptr);
    says(t.generate(plugin.model, nullptr, plugin.on_event(), &plugin, &error), "'params'");
    qp_generate_params generate = make<qp_generate_params>();
    says(t.generate(plugin.model, &generate, nullptr, nullptr, &error), "'on_event'");
    plugin.unload();
}

TEST_CASE("out-structs are filled as far as the caller's struct goes, and no further") {
    struct B : FakeBackend {};
    Running<B> plugin;
    struct Newer {  // a host of a later minor version
        qp_probe_result known;
        unsigned char later[24];
    } newer;
    std::memset(&newer, 0xa5, sizeof newer);
    newer.known.struct_size = sizeof newer;
    REQUIRE(plugin.table.probe("x", &newer.known, nullptr) == QP_OK);
    CHECK(newer.known.struct_size == sizeof newer);
    CHECK(newer.known.score == 7);
    for (unsigned char byte : newer.later) CHECK(byte == 0xa5);
}

TEST_CASE("size queries") {
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load();
    const qp_plugin& t = plugin.table;
    uint64_t n = 99;
    CHECK(t.tokenize(plugin.model, "abc", 3, 0, nullptr, 0, &n, nullptr) == QP_OK);
    CHECK(n == 3);
    int32_t ids[4] = {-7, -7, -7, -7};
    CHECK(t.tokenize(plugin.model, "abc", 3, 0, ids, 2, &n, &plugin.error) == QP_OUT_OF_RANGE);
    CHECK(n == 3);
    CHECK(ids[0] == -7);  // untouched
    CHECK(t.tokenize(plugin.model, "abc", 3, 0, ids, 3, &n, nullptr) == QP_OK);
    CHECK(ids[2] == 'c');
    CHECK(ids[3] == -7);
    CHECK(t.tokenize(plugin.model, nullptr, 0, 0, ids, 3, &n, nullptr) == QP_OK);
    CHECK(n == 0);
    char text[4] = {'#', '#', '#', '#'};
    CHECK(t.detokenize(plugin.model, ids, 3, 0, text, 2, &n, nullptr) == QP_OUT_OF_RANGE);
    CHECK(text[0] == '#');
    CHECK(t.detokenize(plugin.model, ids, 3, 0, text, 3, &n, nullptr) == QP_OK);
    CHECK(std::string(text, 4) == "abc#");
    plugin.unload();
}

TEST_CASE("invalid UTF-8 reaches a tokenizer as U+FFFD, one for each maximal part") {
    using backend::detail::replace_invalid;
    const std::string r = "\xef\xbf\xbd";
    CHECK(replace_invalid("a\xff"
                          "b") == "a" + r + "b");
    CHECK(replace_invalid("\xe2\x82") == r);
    CHECK(replace_invalid("\xe2\x82z") == r + "z");
    CHECK(replace_invalid("\xf0\x9f\x98") == r);
    CHECK(replace_invalid("\xc0\xaf") == r + r);
    CHECK(replace_invalid("\xed\xa0\x80") == r + r + r);
    CHECK(replace_invalid("\xf4\x91\x92\x93") == r + r + r + r);
    // Unicode 15, table 3-11.
    CHECK(replace_invalid("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41") == r + r + r + r + "A");
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load();
    uint64_t n = 0;
    CHECK(plugin.table.tokenize(plugin.model, "\xff", 1, 0, nullptr, 0, &n, nullptr) == QP_OK);
    CHECK(n == 3);  // the fake has one id a byte
    plugin.unload();
}

TEST_CASE("load options are checked against the list") {
    struct B : FakeBackend {
        bool load_option(uint32_t index, qp_option_info& out) const override {
            static constexpr qp_option_info all[] = {
                {sizeof(qp_option_info), QP_OPTION_INT, "ctx", "h", "512", nullptr, 1, 4096},
                {sizeof(qp_option_info), QP_OPTION_BOOL, "lock", "h", "0", nullptr, 0, 0},
                {sizeof(qp_option_info), QP_OPTION_CHOICE, "compute", "h", "default", "default|exact|fast", 0, 0},
                {sizeof(qp_option_info), QP_OPTION_TEXT, "note", "h", "", nullptr, 0, 0}};
            return index < 4 ? out = all[index], true : false;
        }
        void plan_memory(const backend::LoadParams& params, qp_memory_plan& out) const override {
            out.weights = static_cast<uint64_t>(params.options.integer("ctx"));
            out.scratch = params.options.flag("lock");
            out.other = params.options.text("compute").size();
            CHECK(params.path == "m");
        }
    };
    Running<B> plugin;
    const auto plan = [&](std::vector<qp_option> options) {
        qp_load_params params = params_of("m");
        params.options = options.data();
        params.n_options = static_cast<uint32_t>(options.size());
        qp_memory_plan out = make<qp_memory_plan>();
        plugin.error = make<qp_error>();
        const int32_t status = plugin.table.plan_memory(&params, &out, &plugin.error);
        if (status == QP_OK) CHECK(out.total == out.weights + out.scratch + out.other);
        return status == QP_OK
                   ? std::to_string(out.weights) + "/" + std::to_string(out.scratch) + "/" + std::to_string(out.other)
                   : std::string(plugin.error.message);
    };
    CHECK(plan({}) == "512/0/7");
    CHECK(plan({{"ctx", "4096"}, {"lock", "1"}, {"compute", "exact"}, {"note", "anything at all"}}) == "4096/1/5");
    CHECK(plan({{"depth", "1"}}).find("unknown load option 'depth': this plugin has ctx, lock, compute, note") == 0);
    for (const char* bad : {"0", "4097", "", " 1", "1 ", "1.0", "0x10", "+1", "99999999999999999999", "-1"})
        CHECK(plan({{"ctx", bad}}) ==
              "load option 'ctx' is '" + std::string(bad) + "': give an integer from 1 to 4096");
    CHECK(plan({{"lock", "true"}}).find("0 or 1") != std::string::npos);
    for (const char* bad : {"", "def", "default|exact", "exact|"})
        CHECK(plan({{"compute", bad}}).find("one of default|exact|fast") != std::string::npos);
    CHECK(plan({{"ctx", "1"}, {"ctx", "1"}}).find("twice") != std::string::npos);
    CHECK(plan({{nullptr, "1"}}).find("null") != std::string::npos);
    CHECK(plan({{"ctx", nullptr}}).find("null") != std::string::npos);
    qp_option_info info = make<qp_option_info>();
    CHECK(plugin.table.list_load_options(3, &info, nullptr) == QP_OK);
    CHECK(std::string(info.key) == "note");
    CHECK(plugin.table.list_load_options(4, &info, nullptr) == QP_NOT_FOUND);
    CHECK(plugin.table.list_load_options(0xffffffffu, &info, nullptr) == QP_NOT_FOUND);
}

TEST_CASE("generation: parameters are checked, and a final event always comes") {
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load();
    const std::vector<int32_t> prompt = {1, 2, 3};
    qp_generate_params params = make<qp_generate_params>();
    params.prompt = prompt.data();
    params.n_prompt = prompt.size();
    qp_sampling sampling = make<qp_sampling>();
    params.sampling = &sampling;
    const auto run = [&] {
        plugin.events.clear();
        plugin.error = make<qp_error>();
        const int32_t status = plugin.table.generate(plugin.model, &params, plugin.on_event(), &plugin, &plugin.error);
        REQUIRE(!plugin.events.empty());
        CHECK(plugin.events.back().kind == QP_EVENT_END);
        for (size_t i = 0; i + 1 < plugin.events.size(); ++i) CHECK(plugin.events[i].kind != QP_EVENT_END);
        const uint32_t expected = status == QP_OK          ? QP_FINISH_LENGTH
                                  : status == QP_CANCELLED ? QP_FINISH_CANCELLED
                                                           : QP_FINISH_ERROR;
        CHECK(plugin.events.back().finish_reason == expected);
        CHECK(plugin.events.back().status == status);
        CHECK(plugin.last_error == (expected == QP_FINISH_ERROR ? plugin.error.message : ""));
        return status;
    };
    CHECK(run() == QP_OK);
    CHECK(plugin.events.size() == 6);  // prefill, four tokens, end
    CHECK(plugin.events.back().n_generated == 4);
    CHECK(plugin.events.back().n_done == 3);
    CHECK(plugin.events.back().n_prompt == 3);
    CHECK(plugin.events.back().prefill_seconds >= 0);
    CHECK(plugin.events.back().status == QP_OK);

    const std::vector<int32_t> too_long(65, 1);
    params.prompt = too_long.data();
    params.n_prompt = 65;
    CHECK(run() == QP_OUT_OF_RANGE);
    CHECK(std::string(plugin.error.message).find("65 ids and the context holds 64") != std::string::npos);
    params.n_prompt = 64;
    CHECK(run() == QP_OK);
    params.n_prompt = 0;
    CHECK(run() == QP_INVALID_ARGUMENT);
    params.n_prompt = 1;
    for (int32_t id : {-1, 256, std::numeric_limits<int32_t>::min()}) {
        params.prompt = &id;
        CHECK(run() == QP_INVALID_ARGUMENT);
        CHECK(std::string(plugin.error.message).find(std::to_string(id)) != std::string::npos);
        params.prompt = prompt.data();
        params.stop_ids = &id;
        params.n_stop_ids = 1;
        CHECK(run() == QP_INVALID_ARGUMENT);
        params.n_stop_ids = 0;
    }
    params.flags = 4;
    CHECK(run() == QP_INVALID_ARGUMENT);
    params.flags = 0;
    params.n_top = 257;
    CHECK(run() == QP_INVALID_ARGUMENT);
    params.n_top = 0;
    qp_text stop = {"", 0};
    params.stop = &stop;
    params.n_stop = 1;
    CHECK(run() == QP_INVALID_ARGUMENT);
    params.n_stop = 0;

    const auto bad = [&](uint64_t bit, double& field, double value) {
        sampling = make<qp_sampling>();
        field = value;
        CHECK(run() == QP_OK);  // not set: not looked at
        sampling.set = bit;
        CHECK(run() == QP_INVALID_ARGUMENT);
    };
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (double value : {-0.1, nan, std::numeric_limits<double>::infinity()})
        bad(QP_SET_TEMPERATURE, sampling.temperature, value);
    for (double value : {-0.1, 1.1, nan}) bad(QP_SET_TOP_P, sampling.top_p, value);
    for (double value : {-0.1, 1.1, nan}) bad(QP_SET_MIN_P, sampling.min_p, value);
    sampling = make<qp_sampling>();
    sampling.set = QP_SET_TOP_K;
    sampling.top_k = -1;
    CHECK(run() == QP_INVALID_ARGUMENT);
    sampling.top_k = 0;
    CHECK(run() == QP_OK);
    sampling.set = QP_SET_TOP_P | QP_SET_SEED | (1ull << 50);  // the fake has no seed
    CHECK(run() == QP_OK);
    CHECK(plugin.events.back().ignored == (QP_SET_SEED | (1ull << 50)));
    sampling.struct_size = 16;
    CHECK(run() == QP_INVALID_ARGUMENT);
    sampling = make<qp_sampling>();

    plugin.cancel_at = 3;
    CHECK(run() == QP_CANCELLED);
    CHECK(plugin.events.size() == 4);  // nothing but the end after the cancel
    plugin.cancel_at = 1;
    CHECK(run() == QP_CANCELLED);
    CHECK(plugin.events.size() == 2);
    plugin.cancel_at = 0;
    plugin.backend_model().throw_in_generate = true;
    CHECK(run() == QP_UNAVAILABLE);
    plugin.backend_model().throw_in_generate = false;
    CHECK(run() == QP_OK);
    plugin.unload();
}

TEST_CASE("every sampling value out of range is refused by name, and one whose bit is not set is not looked at") {
    struct Every : FakeModel {
        using FakeModel::FakeModel;
        uint64_t supported_sampling() const override { return ~uint64_t{0}; }
    };
    struct B : FakeBackend {
        std::unique_ptr<backend::Model> load(const backend::LoadParams&, backend::Progress&) const override {
            return std::make_unique<Every>(live_models());
        }
    };
    const qp_entry entry = backend::make_entry<B>("b", "1", "f");
    Host host;
    const Model model = Plugin(&entry, host.table()).load("m");
    const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
    GenerateRequest good;
    good.prompt = {1};
    good.temperature(1).top_k(5).top_p(0.9).min_p(0.1).seed(1).typical_p(0.5).top_a(0.2).tfs(0.9).top_n_sigma(1.5);
    good.min_tokens(2).repetition_penalty(1.1).frequency_penalty(-0.5).presence_penalty(0.5).penalty_range(-1);
    good.mirostat(5, 0.1).xtc(0.5, 0.1).dry(0.8, 1.75, 2, -1, {"\n"}).dynatemp(0.5, 1.5, 1).smoothing(0.2, 1);
    good.logit_bias(3, -1).logit_bias(4, -std::numeric_limits<float>::infinity()).ban(5).order("xtc,temperature");
    const auto refusal = [&](const GenerateRequest& request) -> std::string {
        try {
            return "accepted; ignored " + std::to_string(model.generate(request, nullptr).ignored);
        } catch (const Error& e) {
            return e.code() == QP_INVALID_ARGUMENT ? e.what() : "code " + std::to_string(e.code());
        }
    };
    CHECK(refusal(good) == "accepted; ignored 0");
    const auto doubles = [&](double qp_sampling::*field, const char* name, std::vector<double> values) {
        for (const double value : values) {
            GenerateRequest bad = good;
            bad.sampling.*field = value;
            CHECK_MESSAGE(refusal(bad).find(std::string("generate: ") + name + " is ") == 0, refusal(bad));
            bad.sampling.set = 0;
            CHECK(refusal(bad) == "accepted; ignored 0");
        }
    };
    doubles(&qp_sampling::temperature, "temperature", {-1, nan, infinity});
    doubles(&qp_sampling::top_p, "top_p", {-0.1, 1.1, nan});
    doubles(&qp_sampling::min_p, "min_p", {-0.1, 1.1, nan});
    doubles(&qp_sampling::typical_p, "typical_p", {-0.1, 1.1, nan});
    doubles(&qp_sampling::repetition_penalty, "repetition_penalty", {0, -1, nan, infinity});
    doubles(&qp_sampling::frequency_penalty, "frequency_penalty", {nan, infinity, -infinity});
    doubles(&qp_sampling::presence_penalty, "presence_penalty", {nan, infinity, -infinity});
    doubles(&qp_sampling::top_a, "top_a", {-0.1, 1.1, nan});
    doubles(&qp_sampling::tfs, "tfs", {-0.1, 1.1, nan});
    doubles(&qp_sampling::mirostat_tau, "mirostat_tau", {0, -1, nan});
    doubles(&qp_sampling::mirostat_eta, "mirostat_eta", {-0.1, 1.1, nan});
    doubles(&qp_sampling::xtc_probability, "xtc_probability", {-0.1, 1.1, nan});
    doubles(&qp_sampling::xtc_threshold, "xtc_threshold", {-0.1, 1.1, nan});
    doubles(&qp_sampling::dry_multiplier, "dry_multiplier", {-0.1, nan});
    doubles(&qp_sampling::dry_base, "dry_base", {0.9, nan});
    doubles(&qp_sampling::dynatemp_low, "dynatemp_low", {-0.1, nan});
    doubles(&qp_sampling::dynatemp_high, "dynatemp_high", {0.4, nan, infinity});
    doubles(&qp_sampling::dynatemp_exponent, "dynatemp_exponent", {0, -1, nan});
    doubles(&qp_sampling::smoothing_factor, "smoothing_factor", {-0.1, nan});
    doubles(&qp_sampling::smoothing_curve, "smoothing_curve", {0.9, nan});
    doubles(&qp_sampling::top_n_sigma, "top_n_sigma", {-0.1, nan});
    const auto integers = [&](int32_t qp_sampling::*field, const char* name, int32_t value) {
        GenerateRequest bad = good;
        bad.sampling.*field = value;
        CHECK_MESSAGE(refusal(bad).find(std::string("generate: ") + name + " is ") == 0, refusal(bad));
    };
    integers(&qp_sampling::top_k, "top_k", -1);
    integers(&qp_sampling::penalty_range, "penalty_range", -2);
    integers(&qp_sampling::dry_range, "dry_range", -2);
    integers(&qp_sampling::dry_allowed_length, "dry_allowed_length", -1);

    const auto says = [&](const char* part, auto&& change) {
        GenerateRequest bad = good;
        change(bad);
        CHECK_MESSAGE(refusal(bad).find(part) != std::string::npos, refusal(bad));
    };
    says("id number 2 of 'bias' is 256", [](GenerateRequest& r) { r.logit_bias(256, 1); });
    says("the bias of id 9 is", [&](GenerateRequest& r) { r.logit_bias(9, static_cast<float>(nan)); });
    says("the bias of id 9 is", [&](GenerateRequest& r) { r.logit_bias(9, static_cast<float>(infinity)); });
    says("id number 1 of 'banned' is -1", [](GenerateRequest& r) { r.ban(-1); });
    says("text number 1 of dry_breakers is empty", [](GenerateRequest& r) { r.dry_breakers.emplace_back(); });
    says("order names 'xtc' twice", [](GenerateRequest& r) { r.order("xtc,top_k,xtc"); });
    says("order names 'mirostat', which is no sampler: there are repetition_penalty,",
         [](GenerateRequest& r) { r.order("mirostat"); });
    says("order names ''", [](GenerateRequest& r) { r.order("xtc,"); });
    for (const uint64_t bit : {QP_SET_LOGIT_BIAS, QP_SET_BANNED, QP_SET_DRY})
        says("is null", [&](GenerateRequest& r) {
            r.bias.clear(), r.banned.clear(), r.dry_breakers.clear();
            r.sampling.set = bit;
            r.sampling.n_bias = r.sampling.n_banned = r.sampling.n_dry_breakers = 1;
        });
    says("'sampling.order' is null", [](GenerateRequest& r) { r.sampler_order.clear(); });
}

TEST_CASE("extensions that a backend has are there, others are not") {
    Running<Some> plugin;
    CHECK(plugin.table.get_extension(QP_EXT_SCORE));
    CHECK(plugin.table.get_extension(QP_EXT_TOOLS));
    CHECK_FALSE(plugin.table.get_extension(QP_EXT_LOGITS));
    CHECK_FALSE(plugin.table.get_extension(QP_EXT_QUANTIZE));
    CHECK_FALSE(plugin.table.get_extension("quantplug.score/2"));
    CHECK_FALSE(plugin.table.get_extension(nullptr));
    CHECK(*static_cast<const int32_t*>(plugin.table.get_extension("vendor.own/1")) == 5);
}

TEST_CASE("score, logits, tools and quantize through host.hpp") {
    const qp_entry entry = backend::make_entry<All>("all", "1", "f");
    Host host;
    Plugin plugin(&entry, host.table());
    const auto code = [](auto&& call) {
        try {
            call();
        } catch (const Error& e) {
            return e.code();
        }
        return QP_OK;
    };
    {
        Model model = plugin.load("m");
        CHECK(model.score({1, 2, 3, 5}) == std::vector<float>{-2, -3, -5});
        CHECK(code([&] { model.score({1}); }) == QP_OUT_OF_RANGE);
        CHECK(code([&] { model.score(std::vector<int32_t>(65, 1)); }) == QP_OUT_OF_RANGE);
        CHECK(code([&] { model.score({1, 900}); }) == QP_INVALID_ARGUMENT);
        CHECK(code([&] { model.score({1, 2}, [](double, const char*) { return false; }); }) == QP_CANCELLED);
        CHECK_THROWS_AS(model.score({1, 2}, [](double, const char*) -> bool { throw 7; }), int);

        LogitsSession session(model, {4, 5});
        CHECK(code([&] { model.unload(); }) == QP_FAILED_PRECONDITION);
        const float* row = nullptr;
        uint64_t position = 9;
        CHECK(session.next(row, position));
        CHECK(position == 0);
        CHECK(row[4] == 1.0f);
        CHECK(session.next(row, position));
        CHECK(position == 1);
        CHECK_FALSE(session.next(row, position));
        CHECK(code([&] { LogitsSession(model, {}); }) == QP_INVALID_ARGUMENT);
    }
    CHECK(plugin.tools().size() == 1);
    std::vector<std::string> seen;
    plugin.run_tool("echo", "{\"a\":1}", [&](const char* json) { return seen.push_back(json), true; });
    CHECK(seen == std::vector<std::string>{"{\"a\":1}", "{\"event\":\"done\"}"});
    CHECK(code([&] { plugin.run_tool("echo", "{}", [&](const char*) { return false; }); }) == QP_CANCELLED);
    CHECK_THROWS_AS(plugin.run_tool("echo", "{}", [&](const char*) -> bool { throw 7; }), int);
    CHECK(code([&] { plugin.run_tool("other", "{}", nullptr); }) == QP_NOT_FOUND);
    CHECK(std::string(plugin.quantizer().name) == "fakeformat");
    CHECK(code([&] { plugin.quantize("{}", nullptr); }) == QP_OK);
}

TEST_CASE("guard: a barrier for a table of a backend's own") {
    struct B : FakeBackend {};
    qp_error error = make<qp_error>();
    CHECK(backend::guard<B>("own", &error, [](const B&) {}) == QP_FAILED_PRECONDITION);  // before init
    Running<B> plugin;
    CHECK(backend::guard<B>("own", &error, [](const B&) {}) == QP_OK);
    CHECK(backend::guard<B>("own", &error, [](const B&) { throw Error(QP_ABORTED, "stopped"); }) == QP_ABORTED);
    CHECK(std::string(error.message) == "stopped");
}

#if defined(__SSE__)
TEST_CASE("MXCSR is the default inside, also after a callback changed it, and the caller's afterwards") {
    struct B : FakeBackend {
        void probe(const char*, qp_probe_result& out) const override {
            out.score = static_cast<int32_t>(_mm_getcsr() & 0xffc0);
        }
        std::unique_ptr<backend::Model> load(const backend::LoadParams&, backend::Progress& progress) const override {
            progress.report(0.5, "half");
            if ((_mm_getcsr() & 0xffc0) != 0x1f80) throw Error(QP_INTERNAL, "changed");
            throw Error(QP_ABORTED, "as it should be");
        }
    };
    struct Unused : FakeBackend {};
    const qp_plugin& unused = *backend::make_entry<Unused>("unused", "1", "f").plugin;
    Running<B> plugin;
    const unsigned before = _mm_getcsr();
    const unsigned odd = 0x1f80 | 0x8040 | 0x6000;  // flush to zero, denormals are zero, round toward zero
    _mm_setcsr(odd);
    qp_probe_result out = make<qp_probe_result>();
    const int32_t status = plugin.table.probe("x", &out, nullptr);
    const unsigned after = _mm_getcsr();
    qp_load_params params = params_of("m");
    params.progress = [](void*, double, const char*) -> int32_t { return _mm_setcsr(0x1f80 | 0x8040), 0; };
    qp_model* model = nullptr;
    const int32_t load_status = plugin.table.load(&params, &model, nullptr);
    const unsigned after_load = _mm_getcsr();
    // A refused generation (before init, so that the model is not looked at): its final event goes through a callback
    // that changes it too.
    const auto on_event = [](void*, const qp_event*) -> int32_t { return _mm_setcsr(0x1f80 | 0x2000), 0; };
    const int32_t generate_status =
        unused.generate(reinterpret_cast<qp_model*>(&out), nullptr, on_event, nullptr, nullptr);
    const unsigned after_generate = _mm_getcsr();
    _mm_setcsr(before);
    CHECK(status == QP_OK);
    CHECK(out.score == 0x1f80);
    CHECK((after & 0xffc0) == (odd & 0xffc0));
    CHECK(load_status == QP_ABORTED);
    CHECK((after_load & 0xffc0) == (odd & 0xffc0));
    CHECK(generate_status == QP_FAILED_PRECONDITION);
    CHECK((after_generate & 0xffc0) == (odd & 0xffc0));
}
#endif

TEST_CASE("log lines have no line feed, and a host without a log is fine") {
    struct B : FakeBackend {
        void probe(const char* path, qp_probe_result&) const override { log(QP_LOG_WARNING, path); }
    };
    std::vector<std::string> lines;
    Host host([&](int32_t level, const char* line) { lines.push_back(std::to_string(level) + line); });
    const qp_entry entry = backend::make_entry<B>("b", "1", "f");
    { Plugin(&entry, host.table()).probe("one\ntwo"); }
    CHECK(lines == std::vector<std::string>{"1one two"});
    qp_host silent = make<qp_host>();
    CHECK_NOTHROW(Plugin(&entry, &silent).probe("x"));
}
