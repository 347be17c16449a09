// A backend with an engine and chat templates whose every answer is known: a step sends one token "x" for each request,
// and a request has as many as the first id of its prompt says; 0 is without end, and 5 ends in an error.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>

#include "tests/plugin_api/fake_backend.h"

namespace quantplug::test {

class FakeEngineModel : public FakeModel {
 public:
    explicit FakeEngineModel(std::atomic<int>& live) : FakeModel(live) {}

    uint64_t supported_sampling() const override { return supported; }

    uint64_t submit(const backend::GenerateParams& params) override {
        std::unique_lock<std::mutex> lock(mutex_);
        if (params.prompt.size > 32) throw Error(QP_RESOURCE_EXHAUSTED, "the cache can never hold it");
        last_sampling = params.sampling;
        const uint64_t number = ++last_number_;
        requests_[number] = {params.prompt.size, params.prompt[0], params.ignored};
        woken_ = true;
        changed_.notify_all();
        lock.unlock();
        if (after_submit) after_submit();
        return number;
    }

    uint64_t step(int32_t wait_ms, backend::EngineEvents& events) override {
        CHECK_FALSE(stepping_.exchange(true));
        struct Leave {
            std::atomic<bool>& flag;
            ~Leave() { flag = false; }
        } const leave{stepping_};
        ++n_steps;
        std::vector<uint64_t> numbers;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            const auto ready = [&] { return woken_ || !requests_.empty(); };
            waiting = true;
            if (wait_ms < 0)
                changed_.wait(lock, ready);
            else if (wait_ms > 0)
                changed_.wait_for(lock, std::chrono::milliseconds(wait_ms), ready);
            waiting = false;
            woken_ = false;
            for (const auto& [number, request] : requests_) numbers.push_back(number);
        }
        if (throw_in_step) throw Error(QP_UNAVAILABLE, "the device is gone");
        if (deaf && events.cancelled()) return numbers.size();
        for (const uint64_t number : numbers) advance(number, events);
        if (n_steps > 1) std::this_thread::sleep_for(pause);
        const std::lock_guard<std::mutex> lock(mutex_);
        return requests_.size();
    }

    void cancel(uint64_t request) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = requests_.find(request);
        if (found == requests_.end())
            throw Error(QP_NOT_FOUND, "there is no request " + std::to_string(request) + ", or it has ended");
        if (!deaf) found->second.cancelled = true;
    }

    void wake() override {
        const std::lock_guard<std::mutex> lock(mutex_);
        woken_ = true;
        changed_.notify_all();
    }

    void engine_status(qp_engine_status& out) const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        out.n_running = static_cast<uint32_t>(requests_.size());
        out.n_steps = n_steps;
    }

    backend::Finish generate(const backend::GenerateParams& params, backend::Emitter& emitter) override {
        const int now = ++generating;
        for (int seen = most_generating; now > seen && !most_generating.compare_exchange_weak(seen, now);) {
        }
        struct Leave {
            std::atomic<int>& count;
            ~Leave() { --count; }
        } const leave{generating};
        backend::Finish finish;
        finish.reason = QP_FINISH_CANCELLED;
        emitter.cached(params.prompt.size - 1);
        if (!emitter.prefill(params.prompt.size)) return finish;
        const qp_token token = {'g', -0.5f, 0, 0};
        for (int i = 0; i < params.prompt[0] || params.prompt[0] == 0; ++i) {
            if (!emitter.tokens(&token, 1, nullptr, 0, "g")) return finish;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        finish.reason = QP_FINISH_LENGTH;
        return finish;
    }

    std::string chat_render(std::string_view request_json) const override {
        if (request_json == "bad") throw Error(QP_INVALID_ARGUMENT, "the template says: roles must alternate");
        return "{\"prompt\":\"" + std::string(request_json) + "\"}";
    }
    std::string chat_parse(std::string_view) const override { return "{\"content\":null}"; }
    std::string chat_describe() const override { return describes ? "{\"templates\":[]}" : ""; }

    std::atomic<bool> throw_in_step{false}, deaf{false}, rude{false}, describes{true}, waiting{false};
    std::atomic<int> generating{0}, most_generating{0};
    std::atomic<uint64_t> n_steps{0}, supported{~uint64_t{0}};
    std::chrono::microseconds pause{200};
    std::function<void()> after_submit;
    qp_sampling last_sampling = make<qp_sampling>();

 private:
    struct Request {
        uint64_t n_prompt = 0;
        int32_t length = 0;
        uint64_t ignored = 0;
        uint64_t n_generated = 0;
        bool cancelled = false;
    };

    void advance(uint64_t number, backend::EngineEvents& events) {
        std::unique_lock<std::mutex> lock(mutex_);
        Request& request = requests_[number];  // only this thread removes it
        const uint64_t index = request.n_generated++;
        bool cancelled = request.cancelled;
        lock.unlock();
        qp_event event{};
        event.kind = index == 0 ? QP_EVENT_PREFILL : QP_EVENT_TOKENS;
        const qp_token token = {'x', -0.25f, 0, 0};
        if (index > 0) {
            event.n_tokens = 1;
            event.tokens = &token;
            event.text = "x";
            event.text_size = 1;
        }
        event.n_done = event.n_prompt = request.n_prompt;
        event.n_generated = index;
        event.stop_id = -1;
        if (!cancelled) {
            cancelled = !events.emit(number, event);
            if (cancelled && rude) CHECK_FALSE(events.emit(number, event));
        }
        const bool full = request.length != 0 && index >= static_cast<uint64_t>(request.length);
        if (!cancelled && !full) return;
        event = qp_event{};
        event.kind = QP_EVENT_END;
        event.n_done = event.n_prompt = request.n_prompt;
        event.n_generated = index;
        event.stop_id = -1;
        event.ignored = request.ignored;
        event.finish_reason = cancelled             ? QP_FINISH_CANCELLED
                              : request.length == 5 ? QP_FINISH_ERROR
                                                    : QP_FINISH_LENGTH;
        if (event.finish_reason == QP_FINISH_ERROR) event.error = "logits are not finite";
        lock.lock();
        requests_.erase(number);
        lock.unlock();
        events.emit(number, event);
    }

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::map<uint64_t, Request> requests_;
    uint64_t last_number_ = 0;
    bool woken_ = false;
    std::atomic<bool> stepping_{false};
};

class FakeEngineBackend : public FakeBackend {
 public:
    static constexpr unsigned extensions = backend::kScore | backend::kLogits | backend::kEngine | backend::kChat;

    std::unique_ptr<backend::Model> load(const backend::LoadParams&, backend::Progress&) const override {
        auto made = std::make_unique<FakeEngineModel>(live_models());
        last_engine() = made.get();
        return made;
    }
    static FakeEngineModel*& last_engine() {
        static FakeEngineModel* model = nullptr;
        return model;
    }
};

}  // namespace quantplug::test
