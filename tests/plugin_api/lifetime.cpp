// Counts of init, live children, unload beside running calls, callbacks that call back, fork.
#include <sys/wait.h>
#include <unistd.h>

#include "tests/plugin_api/fake_backend.h"

using namespace quantplug;
using namespace quantplug::test;

namespace {

/// Runs generate on the plugin's model in a thread of its own, and waits until it has sent `at_least` events.
template <class P>
class Generating {
 public:
    Generating(P& plugin, size_t at_least) {
        thread_ = std::thread([this, &plugin] {
            const int32_t prompt[] = {1, 2};
            qp_generate_params params = make<qp_generate_params>();
            params.prompt = prompt;
            params.n_prompt = 2;
            status_ = plugin.table.generate(plugin.model, &params, &Generating::on_event, this, nullptr);
        });
        while (seen_ < at_least) std::this_thread::yield();
    }
    int32_t join() {
        thread_.join();
        return status_;
    }
    bool ended() const { return ended_; }
    size_t seen() const { return seen_; }

 private:
    static int32_t QP_CALL on_event(void* user, const qp_event* event) {
        auto& self = *static_cast<Generating*>(user);
        CHECK_FALSE(self.ended_);
        if (event->kind == QP_EVENT_END) self.ended_ = true;
        ++self.seen_;
        return 0;
    }

    std::thread thread_;
    std::atomic<size_t> seen_{0};
    std::atomic<bool> ended_{false};
    int32_t status_ = -1;
};

struct Scoring : FakeBackend {
    static constexpr unsigned extensions = backend::kScore | backend::kLogits;
};

}  // namespace

TEST_CASE("init is counted") {
    struct B : FakeBackend {
        B() { ++made(); }
        ~B() override { --made(); }
        static int& made() {
            static int count = 0;
            return count;
        }
    };
    const qp_plugin& t = *backend::make_entry<B>("b", "1", "f").plugin;
    Host host;
    qp_error error = make<qp_error>();
    qp_probe_result out = make<qp_probe_result>();
    CHECK(t.probe("x", &out, &error) == QP_FAILED_PRECONDITION);
    CHECK(std::string(error.message) == "probe called before init: call init first");
    CHECK(t.deinit(&error) == QP_FAILED_PRECONDITION);
    for (int round = 0; round < 2; ++round) {
        CHECK(t.init(host.table(), &error) == QP_OK);
        CHECK(t.init(host.table(), &error) == QP_OK);
        CHECK(B::made() == 1);
        CHECK(t.deinit(&error) == QP_OK);
        CHECK(t.probe("x", &out, &error) == QP_OK);
        CHECK(t.deinit(&error) == QP_OK);
        CHECK(B::made() == 0);
        CHECK(t.probe("x", &out, &error) == QP_FAILED_PRECONDITION);
    }
}

TEST_CASE("what has live children is not destroyed") {
    struct B : FakeBackend {};
    Running<B> plugin;
    const qp_plugin& t = plugin.table;
    plugin.load();
    CHECK(t.deinit(&plugin.error) == QP_FAILED_PRECONDITION);
    CHECK(std::string(plugin.error.message).find("1 models") != std::string::npos);
    qp_detokenizer* detokenizer = nullptr;
    REQUIRE(t.detokenizer_create(plugin.model, 0, &detokenizer, &plugin.error) == QP_OK);
    CHECK(t.unload(plugin.model, &plugin.error) == QP_FAILED_PRECONDITION);
    CHECK(std::string(plugin.error.message).find("destroy them first") != std::string::npos);
    const char* text = nullptr;
    uint64_t size = 0;
    CHECK(t.detokenizer_push(detokenizer, 'q', &text, &size, nullptr) == QP_OK);  // still loaded
    CHECK(std::string(text, size) == "q");
    CHECK(t.detokenizer_finish(detokenizer, &text, &size, nullptr) == QP_OK);
    CHECK(std::string(text, size) == ".");
    uint64_t n = 0;
    CHECK(t.tokenize(plugin.model, "ab", 2, 0, nullptr, 0, &n, nullptr) == QP_OK);
    t.detokenizer_destroy(detokenizer);
    plugin.unload();
    CHECK(FakeBackend::live_models() == 0);
}

TEST_CASE("a refused unload cancels nothing") {
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load("endless");
    qp_detokenizer* detokenizer = nullptr;
    REQUIRE(plugin.table.detokenizer_create(plugin.model, 0, &detokenizer, nullptr) == QP_OK);
    Generating generating(plugin, 3);
    CHECK(plugin.table.unload(plugin.model, nullptr) == QP_FAILED_PRECONDITION);
    const size_t seen = generating.seen();
    while (generating.seen() < seen + 3) std::this_thread::yield();
    CHECK_FALSE(generating.ended());
    plugin.table.detokenizer_destroy(detokenizer);
    plugin.unload();
    CHECK(generating.join() == QP_CANCELLED);
}

TEST_CASE("a detokenizer that is being made when unload begins is not made") {
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load("endless");
    auto& handle = backend::detail::ModelHandle::from(plugin.model, "test");
    std::atomic<bool> entered{false};
    plugin.backend_model().before_detokenizer = [&] {
        entered = true;
        for (bool unloading = false; !unloading; std::this_thread::yield()) {
            const std::lock_guard<std::mutex> lock(handle.mutex);
            unloading = handle.unloading;
        }
    };
    Generating generating(plugin, 3);
    qp_detokenizer* detokenizer = nullptr;
    qp_error error = make<qp_error>();
    int32_t status = -1;
    std::thread creating(
        [&, model = plugin.model] { status = plugin.table.detokenizer_create(model, 0, &detokenizer, &error); });
    while (!entered) std::this_thread::yield();
    plugin.unload();
    creating.join();
    CHECK(status == QP_CANCELLED);
    CHECK(std::string(error.message) == "detokenizer_create: the model is being unloaded");
    CHECK(detokenizer == nullptr);
    CHECK(generating.join() == QP_CANCELLED);
    CHECK(FakeBackend::live_models() == 0);
}

TEST_CASE("a refused deinit disturbs no call beside it") {
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load();
    std::atomic<bool> stop{false};
    std::atomic<int> probes{0}, refused{0};
    std::thread calling([&] {
        qp_probe_result out = make<qp_probe_result>();
        while (!stop) {
            if (plugin.table.probe("x", &out, nullptr) != QP_OK) ++refused;
            ++probes;
        }
    });
    int accepted = 0;
    for (int i = 0; i < 2000 || probes < 2000; ++i) accepted += plugin.table.deinit(nullptr) == QP_OK;
    stop = true;
    calling.join();
    CHECK(accepted == 0);
    CHECK(refused == 0);
    plugin.unload();
}

TEST_CASE("unload cancels what runs and what waits, and returns after their final events") {
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load("endless");
    Generating first(plugin, 3);
    Generating second(plugin, 0), third(plugin, 0);  // they wait for the first
    auto& handle = backend::detail::ModelHandle::from(plugin.model, "test");
    const auto calls = [&] {
        const std::lock_guard<std::mutex> lock(handle.mutex);
        return handle.callers.size();
    };
    while (calls() < 3) std::this_thread::yield();
    CHECK(second.seen() == 0);
    plugin.unload();
    CHECK(FakeBackend::live_models() == 0);
    CHECK(first.ended());
    CHECK(first.join() == QP_CANCELLED);
    CHECK(second.ended());
    CHECK(third.ended());
    CHECK(second.join() == QP_CANCELLED);
    CHECK(third.join() == QP_CANCELLED);
}

TEST_CASE("calls on one model queue, and the tokenizer does not") {
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load();
    std::vector<std::thread> threads;
    std::atomic<int> done{0};
    for (int i = 0; i < 8; ++i)
        threads.emplace_back([&] {
            for (int k = 0; k < 20; ++k) {
                Generating generating(plugin, 0);
                uint64_t n = 0;
                if (plugin.table.tokenize(plugin.model, "abc", 3, 0, nullptr, 0, &n, nullptr) == QP_OK && n == 3)
                    ++done;
                if (generating.join() == QP_OK && generating.seen() == 6) ++done;
            }
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(done == 8 * 20 * 2);
    plugin.unload();
}

TEST_CASE("a callback that calls its own model is refused instead of waiting for itself") {
    const qp_entry entry = backend::make_entry<Scoring>("b", "1", "f");
    Host host;
    Plugin plugin(&entry, host.table());
    Model model = plugin.load("m");
    const auto code = [](auto&& call) {
        try {
            call();
        } catch (const Error& e) {
            return e.code();
        }
        return QP_OK;
    };
    GenerateRequest request;
    request.prompt = {1};
    auto session = std::make_unique<LogitsSession>(model, std::vector<int32_t>{1, 2});
    const float* row = nullptr;
    uint64_t position = 0;
    int calls = 0;
    const qp_event end = model.generate(request, [&](const qp_event& event) {
        ++calls;
        CHECK(code([&] { model.generate(request, [](const qp_event&) { return true; }); }) == QP_FAILED_PRECONDITION);
        CHECK(code([&] { model.score({1, 2}); }) == QP_FAILED_PRECONDITION);
        CHECK(code([&] { LogitsSession(model, {1}); }) == QP_FAILED_PRECONDITION);
        CHECK(model.tokenize("abc").size() == 3);
        if (event.kind == QP_EVENT_PREFILL)
            CHECK(code([&] { session->next(row, position); }) == QP_FAILED_PRECONDITION);
        session.reset();  // closing is allowed
        CHECK(code([&] { model.unload(); }) == QP_FAILED_PRECONDITION);
        return true;
    });
    CHECK(calls == 6);
    CHECK(end.finish_reason == QP_FINISH_LENGTH);
    request.prompt = {-1};
    calls = 0;
    CHECK(code([&] {
              model.generate(request, [&](const qp_event&) {
                  ++calls;
                  return code([&] { model.unload(); }) == QP_FAILED_PRECONDITION;
              });
          }) == QP_INVALID_ARGUMENT);
    CHECK(calls == 1);
    REQUIRE(model);
    model.unload();
    CHECK(FakeBackend::live_models() == 0);
    CHECK(code([&] { model.info(); }) == QP_FAILED_PRECONDITION);
}

TEST_CASE("an exception out of a host's callback cancels and comes out of the call") {
    struct B : FakeBackend {};
    const qp_entry entry = backend::make_entry<B>("b", "1", "f");
    Host host;
    Plugin plugin(&entry, host.table());
    CHECK_THROWS_AS(plugin.load("m", {}, [](double, const char*) -> bool { throw 5; }), int);
    CHECK_THROWS_AS(plugin.load("m", {}, [](double, const char*) { return false; }), Error);
    CHECK(FakeBackend::live_models() == 0);
    Model model = plugin.load("endless");
    GenerateRequest request;
    request.prompt = {1};
    int events = 0;
    CHECK_THROWS_AS(model.generate(request, [&](const qp_event&) -> bool { throw ++events; }), int);
    CHECK(events == 1);
    const qp_event end = model.generate(request, [&](const qp_event&) { return ++events < 5; });
    CHECK(end.finish_reason == QP_FINISH_CANCELLED);
    CHECK(end.tokens == nullptr);
}

TEST_CASE("objects of host.hpp keep alive what they came from") {
    struct B : FakeBackend {};
    Host host;
    auto detokenizer = [&] {
        const qp_entry entry = backend::make_entry<B>("b", "1", "f");
        return std::make_unique<Detokenizer>(Plugin(&entry, host.table()).load("m"));
    }();
    CHECK(FakeBackend::live_models() == 1);
    CHECK(detokenizer->push('z') == "z");
    detokenizer.reset();
    CHECK(FakeBackend::live_models() == 0);
    CHECK(backend::make_entry<B>("b", "1", "f").plugin->deinit(nullptr) == QP_FAILED_PRECONDITION);  // balanced already
}

TEST_CASE("a call in the child of a fork is an error") {
    struct B : FakeBackend {};
    Running<B> plugin;
    plugin.load("endless");
    const qp_plugin& t = plugin.table;
    qp_detokenizer* detokenizer = nullptr;
    REQUIRE(t.detokenizer_create(plugin.model, 0, &detokenizer, nullptr) == QP_OK);
    Generating generating(plugin, 2);  // its queue is taken in the child for ever
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        qp_error error = make<qp_error>();
        int wrong = 0;
        const auto refused = [&](int32_t status) {
            if (status != QP_FAILED_PRECONDITION || !std::strstr(error.message, "after fork")) ++wrong;
            error = make<qp_error>();
        };
        qp_probe_result probe = make<qp_probe_result>();
        const int32_t prompt = 1;
        qp_generate_params params = make<qp_generate_params>();
        params.prompt = &prompt;
        params.n_prompt = 1;
        refused(t.probe("x", &probe, &error));
        refused(t.init(plugin.host.table(), &error));
        refused(t.generate(plugin.model, &params, plugin.on_event(), &plugin, &error));
        refused(t.unload(plugin.model, &error));
        refused(t.deinit(&error));
        t.detokenizer_destroy(detokenizer);
        if (plugin.events.size() != 1 || plugin.events[0].kind != QP_EVENT_END) wrong += 100;
        ::_exit(wrong);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    t.detokenizer_destroy(detokenizer);
    plugin.unload();
    CHECK(generating.join() == QP_CANCELLED);
}
