// A scheduler between several threads: steps, blocking generations, scores, cancels. Under TSan too.
#include <doctest/doctest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "checkpoint_files.h"
#include "engine/generate/score.h"
#include "schedule_support.h"

namespace quantplug::test {

using engine::Code;
using engine::Finish;
using engine::GenerateEvent;
using engine::GenerateRequest;
using engine::Scheduler;

namespace {

void run_threads(engine::StepStyle style, uint32_t seed) {
    engine::LoadOptions options;
    options.max_streams = 6;
    options.cache_tokens = 384;
    options.threads = sanitizer_factor > 1 ? 2 : 1;  // two cost much time where other programs compute
    const auto model = load_tiny("llama", options);
    const auto lone_model = load_tiny("llama", {});
    Scheduler scheduler(*model, 0, style);
    const auto plain = [&](GenerateRequest& request) {  // what can run ahead
        if (style.ahead && request.prompt.size() % 8) request.sampling = {}, request.n_top = 0;
    };
    const int n_each = 48 / sanitizer_factor;

    struct Entry {
        GenerateRequest request;
        Generated got;
    };
    std::mutex mutex;  // the maps
    std::map<uint64_t, GenerateRequest> submitted;
    std::map<uint64_t, Generated> got;
    std::vector<Entry> generated;
    std::atomic<int> producers{2};
    std::atomic<bool> wrong_thread{false};

    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t)
        threads.emplace_back([&, t] {  // submits, and cancels some
            RandomRequests requests(seed + uint32_t(t), 150);
            for (int i = 0; i < n_each; ++i) {
                GenerateRequest request = requests.next();
                plain(request);
                const uint64_t id = scheduler.submit(request);
                {
                    const std::lock_guard lock(mutex);
                    submitted.emplace(id, request);
                }
                if (requests.below(4) == 0)
                    std::this_thread::sleep_for(std::chrono::microseconds(requests.below(2000)));
                if (requests.below(5) == 0) try {
                        scheduler.cancel(id);
                    } catch (const engine::Error&) {
                    }
                static_cast<void>(scheduler.status());
            }
            --producers;
            scheduler.wake();
        });
    for (int t = 0; t < 2; ++t)
        threads.emplace_back([&, t] {  // generates
            RandomRequests requests(seed + 10 + uint32_t(t), 150);
            for (int i = 0; i < n_each; ++i) {
                Entry entry;
                entry.request = requests.next();
                plain(entry.request);
                const auto self = std::this_thread::get_id();
                int until_cancel = requests.below(5) ? 1000 : requests.below(10);
                std::atomic<bool> flag{false};
                const bool by_flag = requests.below(2);
                scheduler.generate(
                    entry.request,
                    [&](const GenerateEvent& event) {
                        if (std::this_thread::get_id() != self) wrong_thread = true;
                        entry.got.add(event);
                        static_cast<void>(scheduler.status());
                        if (--until_cancel < 0 && by_flag) flag = true;
                        return until_cancel >= 0 || by_flag;
                    },
                    [&] { return flag.load(); });
                const std::lock_guard lock(mutex);
                generated.push_back(std::move(entry));
            }
        });
    threads.emplace_back([&] {  // scores
        RandomRequests requests(seed + 20, 150);
        for (int i = 0; i < n_each / 2; ++i) {
            const std::vector<int32_t> ids = requests.ids(2 + requests.below(60));
            std::vector<float> values(ids.size() - 1), expected(ids.size() - 1);
            try {
                engine::score(*model, ids, values, {}, {});
            } catch (const engine::Error& error) {
                if (error.code() != Code::resource_exhausted) wrong_thread = true;
                continue;
            }
            const std::lock_guard lock(mutex);
            engine::score(*lone_model, ids, expected, {}, {});
            if (values != expected) wrong_thread = true;
        }
    });
    std::thread stepper([&] {
        const auto self = std::this_thread::get_id();
        uint64_t active = 0;
        for (bool last = false; !last || active > 0;) {
            last = producers == 0;  // before the step: what was submitted by then is counted by it
            active = scheduler.step(last ? 0 : -1, [&](uint64_t id, const GenerateEvent& event) {
                if (std::this_thread::get_id() != self) wrong_thread = true;
                const std::lock_guard lock(mutex);
                Generated& outcome = got[id];
                outcome.add(event);
                if (id % 7 == 0 && outcome.ids.size() == 3 && event.kind != GenerateEvent::end) {
                    try {
                        scheduler.cancel(id + 1);  // from a callback
                    } catch (const engine::Error&) {
                    }
                    return false;
                }
                return true;
            });
        }
    });
    for (std::thread& t : threads) t.join();
    stepper.join();

    CHECK_FALSE(wrong_thread.load());
    CHECK(submitted.size() == size_t(2 * n_each));
    CHECK(got.size() == submitted.size());
    CHECK(generated.size() == size_t(2 * n_each));
    for (const auto& [number, request] : submitted) {
        const uint64_t id = number;
        CAPTURE(id);
        check_alone(got[id], request, *lone_model);
    }
    for (const Entry& entry : generated) check_alone(entry.got, entry.request, *lone_model);
    check_empty(scheduler, *model);
    MESSAGE(scheduler.status().n_ahead << " of " << scheduler.status().n_steps << " steps one ahead");
}

}  // namespace

TEST_CASE("schedule: submit, cancel, generate and score from several threads beside a stepping one") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    run_threads({}, seed);
    run_threads({.candidates = true, .ahead = true}, seed);
}

TEST_CASE("schedule: a step that waits ends with a wake, a submit or its time; a wake before it counts") {
    const auto model = load_tiny("llama", {});
    Scheduler scheduler(*model);
    const auto nothing = [](uint64_t, const GenerateEvent&) { return true; };
    const auto seconds = [&](int32_t wait_ms) {
        const auto start = std::chrono::steady_clock::now();
        scheduler.step(wait_ms, nothing);
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    CHECK(seconds(0) < 5);
    CHECK(seconds(60) >= 0.06);
    scheduler.wake();
    CHECK(seconds(-1) < 10);
    for (int i = 0; i < 20; ++i) {
        std::thread waker([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(i * 100));
            scheduler.wake();
        });
        seconds(-1);
        waker.join();
    }
    std::atomic<bool> ended{false};
    std::thread submitter([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        GenerateRequest request;
        request.prompt = {5, 6};
        request.max_tokens = 3;
        scheduler.submit(request);
    });
    int steps = 0;
    while (!ended && ++steps < 100)
        scheduler.step(-1, [&](uint64_t, const GenerateEvent& event) {
            ended = event.kind == GenerateEvent::end;
            return true;
        });
    submitter.join();
    CHECK(ended.load());
}

TEST_CASE("schedule: a generation runs where nobody steps, and ends where it cannot run and is cancelled") {
    engine::LoadOptions options;
    options.max_streams = 1;
    const auto model = load_tiny("llama", options);
    Scheduler scheduler(*model);
    GenerateRequest request;
    request.prompt = {5, 6, 7};
    request.max_tokens = 20;
    request.ignore_eos = true;
    // A submitted request has the only stream and goes on at most as far as its events may lie undelivered.
    scheduler.submit(request);
    std::atomic<bool> cancelled{false};
    std::thread canceller([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        cancelled = true;
    });
    int ends = 0;
    const Finish finish = scheduler.generate(
        request, [&](const GenerateEvent& event) { return ends += event.kind == GenerateEvent::end, true; },
        [&] { return cancelled.load(); });
    canceller.join();
    CHECK(finish == Finish::cancelled);
    CHECK(ends == 1);
    CHECK(scheduler.status().n_generated_tokens <= Scheduler::max_undelivered);
    Generated got;
    while (scheduler.step(0, [&](uint64_t, const GenerateEvent& event) { return got.add(event), true; }) > 0) {
    }
    CHECK(got.ids.size() == 20);
    CHECK(scheduler.generate(request, [&](const GenerateEvent& event) { return got.add(event), true; }, {}) ==
          Finish::length);
    // One that throws in its callback leaves nothing behind.
    CHECK_THROWS_AS(
        scheduler.generate(request, [](const GenerateEvent&) -> bool { throw std::runtime_error("mine"); }, {}),
        std::runtime_error);
    check_empty(scheduler, *model);
}

}  // namespace quantplug::test
