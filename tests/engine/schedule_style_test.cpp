// Steps as a GPU likes them, candidates in place of logits and one step ahead: the same tokens, on the CPU.
#include <doctest/doctest.h>

#include "schedule_company.h"

namespace quantplug::test {

using engine::Finish;
using engine::GenerateEvent;
using engine::GenerateRequest;
using engine::Scheduler;
using engine::ScheduleStatus;
using engine::StepStyle;

namespace {

constexpr StepStyle ahead{false, true}, candidates{true, false}, both{true, true};

GenerateRequest greedy(std::vector<int32_t> prompt, int32_t max_tokens) {
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.ignore_eos = true;
    return request;
}

}  // namespace

TEST_CASE("schedule: any style gives each request what it gives alone") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    const kernels::KvSpec::Type f16 = kernels::KvSpec::f16;
    const kernels::Compute standard = kernels::Compute::standard;
    struct Case {
        Company company;
        bool runs_ahead, asks, repeats;
    };
    const Case cases[] = {
        {{"llama", 1, 0, 1, f16, standard, ahead, true}, true, false, false},
        {{"llama", 4, 512, 2, f16, standard, ahead, true}, true, false, false},
        {{"llama", 3, 0, 1, f16, standard, ahead, true, 300}, true, false, false},
        {{"qwen3", 6, 448, 1, kernels::KvSpec::q8, standard, both}, false, true, false},
        {{"llama", 4, 0, 1, f16, standard, candidates}, false, true, false},
        {{"llama", 2, 0, 2, f16, standard, both, false, 500}, true, true, true},
    };
    for (const Case& c : cases) {
        const ScheduleStatus status = random_company(c.company, 160 / sanitizer_factor, seed);
        CHECK(status.n_ahead <= status.n_steps);
        if (c.runs_ahead) CHECK(status.n_ahead > 0);
        CHECK((status.n_candidates > 0) == c.asks);
        CHECK((status.n_repeated > 0) == c.repeats);
        CHECK(status.n_repeated <= status.n_candidates);
    }
}

TEST_CASE("schedule: nearly every step of greedy streams is one ahead, and none beyond a limit") {
    const auto model = load_tiny("llama", {});
    Scheduler scheduler(*model, 256, ahead);
    std::vector<GenerateRequest> requests;
    for (int32_t i = 0; i < 3; ++i) {
        requests.push_back(greedy({5 + i, 6}, 60));
        scheduler.submit(requests.back());
    }
    std::map<uint64_t, Generated> got;
    const auto on_event = [&](uint64_t id, const GenerateEvent& event) { return got[id].add(event), true; };
    while (scheduler.step(0, on_event) > 0) {
    }
    const auto lone_model = load_tiny("llama", {});
    for (uint64_t id = 1; id <= 3; ++id) check_alone(got[id], requests[id - 1], *lone_model);
    const ScheduleStatus status = scheduler.status();
    CHECK(status.n_steps == 60);  // the prompts' one, then no step whose rows are all dropped
    CHECK(status.n_ahead == 58);  // not the prompts' and the first that decodes
    check_empty(scheduler, *model);

    // To the end of the context.
    GenerateRequest longest = greedy({5, 6}, 0);
    const Finish finish =
        scheduler.generate(longest, [&](const GenerateEvent& event) { return got[9].add(event), true; }, {});
    CHECK(finish == Finish::length);
    CHECK(got[9].ids.size() == 254);
    check_alone(got[9], longest, *lone_model);
    check_empty(scheduler, *model);
}

TEST_CASE("schedule: a step under way gives way to whoever uses the model, and to what ends without it") {
    const auto model = load_tiny("llama", {});
    const auto lone_model = load_tiny("llama", {});
    Generated got;
    const GenerateRequest request = greedy({5, 6, 7}, 40);
    {
        Scheduler scheduler(*model, 256, ahead);
        scheduler.submit(request);
        const std::vector<int32_t> ids = {7, 8, 9, 10};
        const kernels::Wanted last{3, kernels::Wanted::logits};
        int between = 0;
        const auto on_event = [&](uint64_t, const GenerateEvent& event) { return got.add(event), true; };
        while (scheduler.step(0, on_event) > 0) {
            if (++between % 3) continue;
            engine::Sequence mine(*model, 4), theirs(*lone_model, 4);  // on the same thread, between two steps
            CHECK(model->step(mine, ids, {&last, 1}, true, {}).values ==
                  lone_model->step(theirs, ids, {&last, 1}, true, {}).values);
        }
        CHECK(scheduler.status().n_ahead > 0);
        CHECK(scheduler.status().n_ahead < 30);
        check_alone(got, request, *lone_model);
        check_empty(scheduler, *model);

        // A cancel while a step is under way; then a new request.
        got = {};
        const uint64_t first = scheduler.submit(request);
        for (int i = 0; i < 10; ++i) scheduler.step(0, on_event);
        scheduler.cancel(first);
        CHECK(scheduler.step(0, on_event) == 0);
        CHECK(got.finish == Finish::cancelled);
        check_alone(got, request, *lone_model);
        check_empty(scheduler, *model);
        got = {};
        scheduler.submit(request);
        while (scheduler.step(0, on_event) > 0) {
        }
        check_alone(got, request, *lone_model);
        scheduler.submit(request);
        for (int i = 0; i < 10; ++i) scheduler.step(0, [](uint64_t, const GenerateEvent&) { return true; });
    }  // gone with a step under way
    Scheduler other(*model, 256, ahead);
    got = {};
    other.generate(request, [&](const GenerateEvent& event) { return got.add(event), true; }, {});
    check_alone(got, request, *lone_model);
    check_empty(other, *model);
}

}  // namespace quantplug::test
