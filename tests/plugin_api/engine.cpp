// engine/1 and chat/1 through the C table and through host.hpp: requests, cancels, wake, exclusion, unload, errors.
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "tests/plugin_api/fake_engine.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

using namespace quantplug;
using namespace quantplug::test;

namespace {

template <class Call>
int32_t code_of(Call&& call) {
    try {
        call();
    } catch (const Error& e) {
        return e.code();
    }
    return QP_OK;
}

struct Claims : FakeBackend {
    static constexpr unsigned extensions = backend::kEngine | backend::kChat;
};

/// What each request was sent.
struct Log {
    struct Request {
        std::string kinds;  // p, t, e for each event
        std::string text;
        qp_event end = make<qp_event>();
        std::string error;
    };
    std::map<uint64_t, Request> requests;

    void add(uint64_t request, const qp_event& event) {
        Request& r = requests[request];
        r.kinds += event.kind == QP_EVENT_PREFILL ? 'p' : event.kind == QP_EVENT_TOKENS ? 't' : 'e';
        r.text.append(event.text, event.text_size);
        if (event.kind != QP_EVENT_END) return;
        r.end = event;
        r.error = event.error;
    }
    EngineEventFn fn() {
        return [this](uint64_t request, const qp_event& event) { return add(request, event), true; };
    }
};

/// A plugin, a model and its engine through host.hpp. Each test derives its own backend.
template <class B>
struct Fixture {
    qp_entry entry = backend::make_entry<B>("fake", "1", "f");
    Host host;
    Plugin plugin{&entry, host.table()};
    Model model = plugin.load("m");
    Engine engine{model};
    FakeEngineModel& fake = *FakeEngineBackend::last_engine();
    Log log;

    /// `length`: as fake_engine.h has it.
    uint64_t submit(int32_t length) {
        GenerateRequest request;
        request.prompt = {length, 1, 2};
        return engine.submit(request);
    }
    void run() {
        while (engine.step(0, log.fn()) > 0) {
        }
    }
};

}  // namespace

TEST_CASE("engine: submitted requests run side by side, and each has one final event, last") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    CHECK(f.engine.step(0, f.log.fn()) == 0);
    const uint64_t a = f.submit(2), b = f.submit(4), c = f.submit(5);
    CHECK(a == 1);
    CHECK(c == 3);
    CHECK(f.engine.status().n_running == 3);
    CHECK(f.engine.step(0, f.log.fn()) == 3);
    f.run();
    CHECK(f.log.requests[a].kinds == "ptte");
    CHECK(f.log.requests[b].kinds == "ptttte");
    CHECK(f.log.requests[b].text == "xxxx");
    CHECK(f.log.requests[b].end.finish_reason == QP_FINISH_LENGTH);
    CHECK(f.log.requests[b].end.status == QP_OK);
    CHECK(f.log.requests[b].error == "");
    CHECK(f.log.requests[c].end.finish_reason == QP_FINISH_ERROR);
    CHECK(f.log.requests[c].end.status == QP_INTERNAL);
    CHECK(f.log.requests[c].error == "logits are not finite");
    CHECK(f.engine.status().n_running == 0);
    CHECK_FALSE(f.engine.cancel(a));
    CHECK_FALSE(f.engine.cancel(99));
}

TEST_CASE("engine: submit checks what generate checks, copies its sampling and reports what is ignored") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    f.fake.supported = ~uint64_t{QP_SET_DRY};
    GenerateRequest request;
    CHECK(code_of([&] { f.engine.submit(request); }) == QP_INVALID_ARGUMENT);
    request.prompt.assign(65, 1);
    CHECK(code_of([&] { f.engine.submit(request); }) == QP_OUT_OF_RANGE);
    request.prompt.assign(40, 1);
    CHECK(code_of([&] { f.engine.submit(request); }) == QP_RESOURCE_EXHAUSTED);
    request.prompt = {300};
    CHECK(code_of([&] { f.engine.submit(request); }) == QP_INVALID_ARGUMENT);
    request.prompt = {1};
    request.stop = {""};
    CHECK(code_of([&] { f.engine.submit(request); }) == QP_INVALID_ARGUMENT);
    request.stop.clear();
    request.top_p(1.5);
    try {
        f.engine.submit(request);
        FAIL("accepted");
    } catch (const Error& e) {
        CHECK(std::string(e.what()) == "engine submit: top_p is 1.500000, give 0 to 1");
    }
    request.top_p(0.5).dry(-1, 0, -9, -9, {}).logit_bias(7, 0.5f).order("min_p,top_k");
    const uint64_t number = f.engine.submit(request);
    CHECK(f.fake.last_sampling.set == (QP_SET_TOP_P | QP_SET_LOGIT_BIAS | QP_SET_ORDER));
    CHECK(f.fake.last_sampling.n_bias == 1);
    f.run();
    CHECK(f.log.requests[number].end.ignored == QP_SET_DRY);
    qp_generate_params params = make<qp_generate_params>();
    qp_error error = make<qp_error>();
    const auto* table = static_cast<const qp_engine*>(f.plugin.hooks().get_extension(QP_EXT_ENGINE));
    REQUIRE(table);
    CHECK(table->submit(f.model.handle(), &params, nullptr, &error) == QP_INVALID_ARGUMENT);
    CHECK(std::string(error.message).find("'request'") != std::string::npos);
    uint64_t n = 7;
    CHECK(table->submit(f.model.handle(), nullptr, &n, &error) == QP_INVALID_ARGUMENT);
    CHECK(n == 0);
    CHECK(table->step(f.model.handle(), 0, nullptr, nullptr, &n, &error) == QP_INVALID_ARGUMENT);
    CHECK(std::string(error.message).find("'on_event'") != std::string::npos);
    const qp_engine_event_fn on_event = [](void*, uint64_t, const qp_event*) -> int32_t { return 0; };
    CHECK(table->step(f.model.handle(), 0, on_event, nullptr, nullptr, &error) == QP_INVALID_ARGUMENT);
    CHECK(table->step(nullptr, 0, on_event, nullptr, &n, &error) == QP_INVALID_ARGUMENT);
    CHECK(table->status(f.model.handle(), nullptr, &error) == QP_INVALID_ARGUMENT);
}

TEST_CASE("engine: cancels from events and from cancel, and nothing but the final event after them") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    f.fake.rude = true;  // emits once more after a cancel
    const uint64_t a = f.submit(0), b = f.submit(0), c = f.submit(3);
    int steps = 0;
    while (f.engine.step(0, [&](uint64_t request, const qp_event& event) {
        f.log.add(request, event);
        if (request == a && event.kind == QP_EVENT_TOKENS) CHECK(f.engine.cancel(b) == (steps < 2));
        return request != a || event.kind != QP_EVENT_TOKENS;
    }) > 0)
        REQUIRE(++steps < 20);
    CHECK(f.log.requests[a].kinds == "pte");
    CHECK(f.log.requests[a].end.finish_reason == QP_FINISH_CANCELLED);
    CHECK(f.log.requests[a].end.status == QP_CANCELLED);
    CHECK(f.log.requests[b].kinds == "pe");  // its cancel came before its turn in that step
    CHECK(f.log.requests[c].kinds == "pttte");
    CHECK(f.log.requests[c].end.finish_reason == QP_FINISH_LENGTH);
    CHECK_FALSE(f.engine.cancel(a));
}

TEST_CASE("engine: a step waits for a submit or a wake, and a wake is not lost") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    std::thread waker([&] {
        while (!f.fake.waiting) std::this_thread::yield();
        f.engine.wake();
    });
    CHECK(f.engine.step(-1, f.log.fn()) == 0);
    waker.join();
    f.engine.wake();
    CHECK(f.engine.step(-1, f.log.fn()) == 0);  // the next one does not wait
    const auto start = std::chrono::steady_clock::now();
    CHECK(f.engine.step(20, f.log.fn()) == 0);
    CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(15));
    std::thread submitter([&] {
        while (!f.fake.waiting) std::this_thread::yield();
        f.submit(1);
    });
    CHECK(f.engine.step(-1, f.log.fn()) == 1);
    submitter.join();
    f.run();
}

TEST_CASE("engine: one step at a time, and callbacks may do what their tags say") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    const uint64_t first = f.submit(1);
    const auto nothing = [](uint64_t, const qp_event&) { return true; };
    int32_t other = -1, calls = 0;
    GenerateRequest request;
    request.prompt = {1};
    f.engine.step(0, [&](uint64_t number, const qp_event&) {
        ++calls;
        std::thread([&] { other = code_of([&] { f.engine.step(0, nothing); }); }).join();
        CHECK(code_of([&] { f.engine.step(0, nothing); }) == QP_FAILED_PRECONDITION);
        CHECK(code_of([&] { f.engine.submit(request); }) == QP_FAILED_PRECONDITION);
        CHECK(code_of([&] { f.model.generate(request, nullptr); }) == QP_FAILED_PRECONDITION);
        CHECK(code_of([&] { f.model.score({1, 2}); }) == QP_FAILED_PRECONDITION);
        CHECK(code_of([&] { f.model.unload(); }) == QP_FAILED_PRECONDITION);
        CHECK(f.model.tokenize("abc").size() == 3);
        CHECK(Chat(f.model).describe() == "{\"templates\":[]}");
        CHECK(f.engine.status().n_running == 1);
        f.engine.wake();
        CHECK(f.engine.cancel(number));
        return true;
    });
    CHECK(calls == 1);
    CHECK(other == QP_FAILED_PRECONDITION);
    f.run();
    CHECK(f.log.requests[first].end.finish_reason == QP_FINISH_CANCELLED);
    // From within generate's events, too.
    const qp_event end = f.model.generate(request, [&](const qp_event&) {
        CHECK(code_of([&] { f.engine.step(0, nothing); }) == QP_FAILED_PRECONDITION);
        CHECK(code_of([&] { f.engine.submit(request); }) == QP_FAILED_PRECONDITION);
        f.engine.wake();
        return true;
    });
    CHECK(end.n_cached == 0);
    CHECK(end.status == QP_OK);
}

TEST_CASE("engine: generate neither queues behind other generates nor behind a step; score still does its own") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    std::atomic<int> cancel{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            GenerateRequest request;
            request.prompt = {0, 1};
            const qp_event end = f.model.generate(request, [&](const qp_event&) { return cancel == 0; });
            if (end.finish_reason == QP_FINISH_CANCELLED && end.n_cached == 1) ++cancel;
        });
    while (f.fake.most_generating < 3) std::this_thread::yield();
    f.submit(2);
    f.run();
    CHECK(f.log.requests[1].kinds == "ptte");
    CHECK(f.model.score({1, 2}) == std::vector<float>{-2});
    CHECK(f.fake.generating == 3);
    cancel = 1;
    for (std::thread& thread : threads) thread.join();
    CHECK(cancel == 4);
}

/// The same through the C tables alone, for what must not touch the C++ objects from two threads.
template <class B>
struct Raw : Running<B> {
    using Running<B>::table;
    using Running<B>::model;
    const qp_engine& engine = *static_cast<const qp_engine*>(table.get_extension(QP_EXT_ENGINE));
    Log log;
    std::atomic<int> seen{0};
    std::function<void()> in_event;

    Raw() { this->load(); }
    FakeEngineModel& fake() { return *FakeEngineBackend::last_engine(); }

    uint64_t submit(int32_t length) {
        const int32_t prompt[] = {length, 1};
        qp_generate_params params = make<qp_generate_params>();
        params.prompt = prompt;
        params.n_prompt = 2;
        uint64_t request = 0;
        CHECK(engine.submit(model, &params, &request, &this->error) == QP_OK);
        return request;
    }
    int32_t step(int32_t wait_ms, qp_error* out = nullptr) {
        uint64_t n_active = 9;
        const auto on_event = [](void* user, uint64_t request, const qp_event* event) -> int32_t {
            auto& self = *static_cast<Raw*>(user);
            self.log.add(request, *event);
            ++self.seen;
            if (self.in_event) self.in_event();
            return 0;
        };
        return engine.step(model, wait_ms, on_event, this, &n_active, out);
    }
    bool unloading() {
        auto& handle = backend::detail::ModelHandle::from(model, "test");
        const std::lock_guard<std::mutex> lock(handle.mutex);
        return handle.unloading;
    }
};

TEST_CASE("engine: unload gives the requests of a running step their final events") {
    struct B : FakeEngineBackend {};
    for (const bool deaf : {false, true}) {  // deaf: a backend that ends nothing by itself
        CAPTURE(deaf);
        Raw<B> f;
        f.fake().deaf = deaf;
        const uint64_t a = f.submit(0), b = f.submit(0);
        f.in_event = [&] {
            while (f.seen == 9 && !f.unloading()) std::this_thread::yield();
        };
        int32_t status = QP_OK;
        qp_error error = make<qp_error>();
        std::thread stepper([&] {
            while ((status = f.step(-1, &error)) == QP_OK) {
            }
        });
        while (f.seen < 9) std::this_thread::yield();
        CHECK(f.table.unload(f.model, nullptr) == QP_OK);
        CHECK(FakeBackend::live_models() == 0);
        stepper.join();
        CHECK(status == QP_CANCELLED);
        CHECK(std::string(error.message) == "engine step: the model is being unloaded");
        for (const uint64_t request : {a, b}) {
            const std::string& kinds = f.log.requests[request].kinds;
            CHECK(kinds.find('e') == kinds.size() - 1);
            CHECK(f.log.requests[request].end.finish_reason == QP_FINISH_CANCELLED);
            CHECK(f.log.requests[request].end.status == QP_CANCELLED);
        }
        CHECK(f.seen <= 12);
    }
}

TEST_CASE("engine: unload ends a step that waits, and needs none") {
    struct B : FakeEngineBackend {};
    {
        Raw<B> f;
        int32_t status = QP_OK;
        std::thread stepper([&] { status = f.step(-1); });
        while (!f.fake().waiting) std::this_thread::yield();
        CHECK(f.table.unload(f.model, nullptr) == QP_OK);
        stepper.join();
        CHECK(status == QP_CANCELLED);
    }
    Raw<B> f;
    f.submit(0);
    f.step(0);
    f.unload();
    CHECK(f.log.requests[1].kinds == "p");
    CHECK(FakeBackend::live_models() == 0);
}

TEST_CASE("engine: events may come before submit returns, and an unload may come between") {
    struct B : FakeEngineBackend {};
    {
        Raw<B> f;
        f.fake().after_submit = [&] {
            std::thread([&] {
                for (int i = 0; i < 3; ++i) CHECK(f.step(0) == QP_OK);
            }).join();
        };
        const uint64_t request = f.submit(1);
        CHECK(f.log.requests[request].kinds == "pte");
        CHECK(f.step(0) == QP_OK);
        CHECK(backend::detail::ModelHandle::from(f.model, "test").requests.empty());
        f.unload();
    }
    Raw<B> f;
    f.fake().after_submit = [&] {
        while (!f.unloading()) std::this_thread::yield();
    };
    int32_t status = QP_OK;
    uint64_t request = 7;
    std::atomic<bool> begun{false};
    std::thread submitter([&, model = f.model] {
        const int32_t prompt = 0;
        qp_generate_params params = make<qp_generate_params>();
        params.prompt = &prompt;
        params.n_prompt = 1;
        begun = true;
        status = f.engine.submit(model, &params, &request, nullptr);
    });
    qp_engine_status out = make<qp_engine_status>();
    while (f.engine.status(f.model, &out, nullptr) == QP_OK && out.n_running == 0) std::this_thread::yield();
    CHECK(f.table.unload(f.model, nullptr) == QP_OK);
    submitter.join();
    CHECK(status == QP_CANCELLED);
    CHECK(request == 0);
}

TEST_CASE("engine: a step that fails ends no request") {
    struct B : FakeEngineBackend {};
    Raw<B> f;
    const uint64_t request = f.submit(1);
    f.fake().throw_in_step = true;
    qp_error error = make<qp_error>();
    CHECK(f.step(0, &error) == QP_UNAVAILABLE);
    CHECK(std::string(error.message) == "the device is gone");
    CHECK(f.log.requests.empty());
    f.fake().throw_in_step = false;
    for (int i = 0; i < 3; ++i) CHECK(f.step(0) == QP_OK);
    CHECK(f.log.requests[request].kinds == "pte");
    f.unload();
}

TEST_CASE("engine: submits, cancels and wakes of four threads beside one stepper") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    f.fake.pause = std::chrono::microseconds(0);
    const uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::atomic<bool> stop{false};
    std::thread stepper([&] {
        while (f.engine.step(-1, f.log.fn()) > 0 || !stop) {
        }
    });
    std::vector<std::thread> threads;
    std::atomic<int> submitted{0};
    for (uint32_t t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            std::mt19937 random(seed + t);
            for (int i = 0; i < 200; ++i) {
                const int32_t length = static_cast<int32_t>(random() % 4);
                const uint64_t request = f.submit(length);
                ++submitted;
                if (length == 0 || random() % 4 == 0) f.engine.cancel(request);
                if (random() % 8 == 0) f.engine.wake();
            }
        });
    for (std::thread& thread : threads) thread.join();
    stop = true;
    f.engine.wake();
    stepper.join();
    CHECK(submitted == 800);
    CHECK(f.log.requests.size() == 800);
    for (const auto& [request, r] : f.log.requests) {
        CHECK(r.kinds.find('e') == r.kinds.size() - 1);
        CHECK(r.text == std::string(r.text.size(), 'x'));
    }
    CHECK(backend::detail::ModelHandle::from(f.model.handle(), "test").requests.empty());
}

TEST_CASE("engine: what a callback throws cancels its request alone, and comes out of the step") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    const uint64_t a = f.submit(2), b = f.submit(2);
    const auto on_event = [&](uint64_t request, const qp_event& event) {
        f.log.add(request, event);
        if (request == a) throw std::runtime_error("request " + std::to_string(request));
        return true;
    };
    CHECK_THROWS_WITH(f.engine.step(0, on_event), "request 1");
    f.run();
    CHECK(f.log.requests[a].kinds == "pe");
    CHECK(f.log.requests[b].kinds == "ptte");
}

TEST_CASE("chat: documents in and out, and what a template raises") {
    struct B : FakeEngineBackend {};
    Fixture<B> f;
    const Chat chat(f.model);
    CHECK(chat.render("{}") == "{\"prompt\":\"{}\"}");
    CHECK(chat.parse("{}") == "{\"content\":null}");
    CHECK(chat.describe() == "{\"templates\":[]}");
    CHECK_THROWS_WITH(chat.render("bad"), "the template says: roles must alternate");
    f.fake.describes = false;
    CHECK(code_of([&] { chat.describe(); }) == QP_INTERNAL);
    const auto* table = static_cast<const qp_chat*>(f.plugin.hooks().get_extension(QP_EXT_CHAT));
    REQUIRE(table);
    const qp_json_event_fn on_result = [](void*, const char*) -> int32_t { return 1; };  // its answer does not matter
    CHECK(table->render(f.model.handle(), "{}", on_result, nullptr, nullptr) == QP_OK);
    CHECK(table->render(f.model.handle(), nullptr, on_result, nullptr, nullptr) == QP_INVALID_ARGUMENT);
    CHECK(table->render(f.model.handle(), "{}", nullptr, nullptr, nullptr) == QP_INVALID_ARGUMENT);
    CHECK(table->parse(nullptr, "{}", on_result, nullptr, nullptr) == QP_INVALID_ARGUMENT);
}

TEST_CASE("engine and chat of a plugin that has none") {
    struct B : FakeBackend {};
    Host host;
    const qp_entry entry = backend::make_entry<B>("b", "1", "f");
    const qp_entry claims = backend::make_entry<Claims>("claims", "1", "f");
    const Model without = Plugin(&entry, host.table()).load("m");
    CHECK(code_of([&] { Engine{without}; }) == QP_UNIMPLEMENTED);
    CHECK(code_of([&] { Chat{without}; }) == QP_UNIMPLEMENTED);
    // The extension is there, and its methods are the defaults.
    const Model empty = Plugin(&claims, host.table()).load("m");
    const Engine engine(empty);
    GenerateRequest request;
    request.prompt = {1};
    CHECK(code_of([&] { engine.submit(request); }) == QP_UNIMPLEMENTED);
    CHECK(code_of([&] { engine.step(0, nullptr); }) == QP_UNIMPLEMENTED);
    CHECK(code_of([&] { engine.cancel(1); }) == QP_UNIMPLEMENTED);
    CHECK(code_of([&] { engine.status(); }) == QP_UNIMPLEMENTED);
    CHECK_THROWS_WITH(Chat(empty).render("{}"), "this model has no chat templates: give it raw text");
}

TEST_CASE("engine and chat in the child of a fork") {
    struct B : FakeEngineBackend {};
    Raw<B> f;
    f.submit(1);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        qp_error error = make<qp_error>();
        int wrong = 0;
        const auto refused = [&](int32_t status) {
            if (status != QP_FAILED_PRECONDITION || !std::strstr(error.message, "after fork")) ++wrong;
            error = make<qp_error>();
        };
        uint64_t n = 0;
        const qp_generate_params params = make<qp_generate_params>();
        qp_engine_status out = make<qp_engine_status>();
        const auto* chat = static_cast<const qp_chat*>(f.table.get_extension(QP_EXT_CHAT));
        refused(f.engine.submit(f.model, &params, &n, &error));
        refused(f.step(-1, &error));
        refused(f.engine.cancel(f.model, 1, &error));
        refused(f.engine.wake(f.model, &error));
        refused(f.engine.status(f.model, &out, &error));
        refused(chat->describe(
            f.model, [](void*, const char*) -> int32_t { return 0; }, nullptr, &error));
        ::_exit(wrong);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    f.unload();
}

#if defined(__SSE__)
TEST_CASE("engine: MXCSR is the default in a step, also after its callbacks, and the caller's afterwards") {
    struct Changed : FakeEngineModel {
        using FakeEngineModel::FakeEngineModel;
        uint64_t step(int32_t wait_ms, backend::EngineEvents& events) override {
            const uint64_t n = FakeEngineModel::step(wait_ms, events);
            if ((_mm_getcsr() & 0xffc0) != 0x1f80) throw Error(QP_INTERNAL, "changed");
            return n;
        }
    };
    struct B : FakeEngineBackend {
        std::unique_ptr<backend::Model> load(const backend::LoadParams&, backend::Progress&) const override {
            auto made = std::make_unique<Changed>(live_models());
            last_engine() = made.get();
            return made;
        }
    };
    Raw<B> f;
    f.submit(2);
    const unsigned before = _mm_getcsr();
    f.in_event = [] { _mm_setcsr(0x1f80 | 0x8040); };
    _mm_setcsr(0x1f80 | 0x6000);
    const int32_t status = f.step(0);
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    CHECK(status == QP_OK);
    CHECK((after & 0xffc0) == (0x1f80 | 0x6000));
    f.unload();
}
#endif
