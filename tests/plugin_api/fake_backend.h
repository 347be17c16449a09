// A backend whose every answer is known, and a plugin made of it. A test derives its own class: each has tables and a
// state of its own.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <functional>
#include <quantplug/backend.hpp>
#include <quantplug/host.hpp>
#include <thread>

namespace quantplug::test {

/// One id a byte, a context of 64, and four tokens "x" whatever the prompt is.
class FakeModel : public backend::Model {
 public:
    explicit FakeModel(std::atomic<int>& live) : live_(live) { ++live_; }
    ~FakeModel() override { --live_; }

    void info(qp_model_info& out) const override {
        out.n_vocab = 256;
        out.n_ctx = 64;
    }
    uint64_t supported_sampling() const override {
        return QP_SET_TEMPERATURE | QP_SET_TOP_K | QP_SET_TOP_P | QP_SET_MIN_P;
    }
    std::vector<int32_t> tokenize(std::string_view text, uint32_t) const override {
        std::vector<int32_t> ids;
        for (unsigned char c : text) ids.push_back(c);
        return ids;
    }
    std::string detokenize(backend::Ids ids, uint32_t) const override {
        std::string text;
        for (int32_t id : ids) text += static_cast<char>(id);
        return text;
    }

    class Bytes : public backend::Detokenizer {
     public:
        std::string push(int32_t id) override { return std::string(1, static_cast<char>(id)); }
        std::string finish() override { return "."; }
    };
    std::unique_ptr<backend::Detokenizer> detokenizer(uint32_t) const override {
        if (before_detokenizer) before_detokenizer();
        return std::make_unique<Bytes>();
    }

    backend::Finish generate(const backend::GenerateParams& params, backend::Emitter& emitter) override {
        CHECK_FALSE(inside_.exchange(true));  // one at a time
        struct Leave {
            std::atomic<bool>& flag;
            ~Leave() { flag = false; }
        } leave{inside_};
        backend::Finish finish;
        finish.reason = QP_FINISH_CANCELLED;
        emitter.prefill(params.prompt.size);
        if (throw_in_generate) throw Error(QP_UNAVAILABLE, "the device is gone");
        const qp_token token = {'x', -0.5f, 0, 0};
        for (int i = 0; i < 4 || endless; ++i) {
            if (!emitter.tokens(&token, 1, nullptr, 0, "x")) return finish;
            if (endless) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        finish.reason = QP_FINISH_LENGTH;
        return finish;
    }

    void score(backend::Ids ids, float* logprobs, backend::Progress& progress) override {
        progress.report(0, "score");
        for (size_t i = 1; i < ids.size; ++i) logprobs[i - 1] = static_cast<float>(-ids[i]);
    }

    class Rows : public backend::LogitsSession {
     public:
        explicit Rows(std::vector<int32_t> ids) : ids_(std::move(ids)), row_(256) {}
        bool next(const float*& row, uint64_t& position) override {
            if (at_ == ids_.size()) return false;
            row_.assign(256, 0.0f);
            row_[static_cast<size_t>(ids_[at_])] = 1.0f;
            row = row_.data();
            position = at_++;
            return true;
        }

     private:
        std::vector<int32_t> ids_;
        std::vector<float> row_;
        size_t at_ = 0;
    };
    std::unique_ptr<backend::LogitsSession> open_logits(std::vector<int32_t> ids) override {
        return std::make_unique<Rows>(std::move(ids));
    }

    std::atomic<bool> throw_in_generate{false}, endless{false};
    std::function<void()> before_detokenizer;

 private:
    std::atomic<int>& live_;
    std::atomic<bool> inside_{false};
};

class FakeBackend : public backend::Backend {
 public:
    void probe(const char*, qp_probe_result& out) const override { out.score = 7; }
    void inspect(const char*, qp_model_info& out) const override { out.n_layers = 3; }
    void plan_memory(const backend::LoadParams&, qp_memory_plan& out) const override { out.weights = 1; }
    std::unique_ptr<backend::Model> load(const backend::LoadParams& params,
                                         backend::Progress& progress) const override {
        progress.report(0.5, "weights");
        auto made = std::make_unique<FakeModel>(live_models());
        made->endless = params.path == "endless";
        last_model() = made.get();
        return made;
    }
    bool tool(uint32_t index, qp_tool_info& out) const override {
        if (index) return false;
        out.name = "echo";
        return true;
    }
    void run_tool(std::string_view, std::string_view arguments_json, backend::JsonEvents& events) const override {
        if (!events.emit(std::string(arguments_json))) throw Error(QP_CANCELLED, "cancelled");
        events.emit("{\"event\":\"done\"}");
    }
    void quantizer(qp_tool_info& out) const override { out.name = "fakeformat"; }
    void quantize(std::string_view, backend::JsonEvents& events) const override { events.emit("{\"event\":\"done\"}"); }

    static std::atomic<int>& live_models() {
        static std::atomic<int> count{0};
        return count;
    }
    static FakeModel*& last_model() {
        static FakeModel* model = nullptr;
        return model;
    }
};

/// An initialised plugin of backend B, and one model of it, through the C table alone.
template <class B>
class Running {
 public:
    Running() : table(*backend::make_entry<B>("fake", "1", "f").plugin) {
        REQUIRE(table.init(host.table(), &error) == QP_OK);
    }
    ~Running() { CHECK(table.deinit(&error) == QP_OK); }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

    void load(const char* path = "m") {
        qp_load_params params = make<qp_load_params>();
        params.path = path;
        REQUIRE(table.load(&params, &model, &error) == QP_OK);
        REQUIRE(model);
    }
    void unload() {
        CHECK(table.unload(model, &error) == QP_OK);
        model = nullptr;
    }
    static FakeModel& backend_model() { return *FakeBackend::last_model(); }

    static qp_event_fn on_event() {
        return [](void* user, const qp_event* event) -> int32_t {
            auto& self = *static_cast<Running*>(user);
            self.events.push_back(*event);
            self.last_error = event->error;
            return self.cancel_at && self.events.size() >= self.cancel_at;
        };
    }

    Host host;
    qp_error error = make<qp_error>();
    const qp_plugin& table;
    qp_model* model = nullptr;
    std::vector<qp_event> events;
    std::string last_error;  // the last event's, which borrows it
    size_t cancel_at = 0;    // the event at which the callback cancels; 0: none
};

}  // namespace quantplug::test
