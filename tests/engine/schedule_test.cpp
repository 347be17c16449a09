// What a scheduler gives a request: the same as alone, whatever the company, the cache and the order of arrival.
#include <doctest/doctest.h>

#include <map>

#include "checkpoint_files.h"
#include "engine/schedule/scheduler.h"
#include "schedule_company.h"

namespace quantplug::test {

using engine::Code;
using engine::Finish;
using engine::GenerateEvent;
using engine::GenerateRequest;
using engine::Model;
using engine::Scheduler;

namespace {

/// Steps until all submitted requests have ended.
std::map<uint64_t, Generated> run_all(Scheduler& scheduler) {
    std::map<uint64_t, Generated> out;
    while (scheduler.step(0, [&](uint64_t id, const GenerateEvent& event) { return out[id].add(event), true; }) > 0) {
    }
    return out;
}

GenerateRequest greedy(std::vector<int32_t> prompt, int32_t max_tokens) {
    GenerateRequest r;
    r.prompt = std::move(prompt);
    r.max_tokens = max_tokens;
    r.ignore_eos = true;
    return r;
}

}  // namespace

TEST_CASE("schedule: 1,000 requests in any company give what each gives alone") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    const Company companies[] = {{"llama", 1},
                                 {"qwen3", 2, 0, 1, kernels::KvSpec::q8},
                                 {"llama", 4, 512, 2},
                                 {"mistral", 8, 320, 1, kernels::KvSpec::f16, kernels::Compute::exact},
                                 {"llama", 16, 448}};
    uint64_t n_cached = 0, n_preempted = 0;  // of all: chance may leave one company without
    for (const Company& company : companies) {
        const auto status = random_company(company, 200 / sanitizer_factor, seed + uint32_t(company.n_streams));
        n_cached += status.n_cached_tokens;
        n_preempted += status.n_preempted;
    }
    CHECK(n_cached > 0);
    if (sanitizer_factor == 1) CHECK(n_preempted > 0);
}

TEST_CASE("schedule: prefixes are not shared between lengths that a rope turns differently") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    for (const char* name : {"dynamic_rope", "phi3"}) {
        random_company({name, 4, 512}, 60 / sanitizer_factor, seed);
        engine::LoadOptions options;
        options.cache_tokens = 1024;
        const auto model = load_tiny(name, options);
        const auto lone_model = load_tiny(name, {});
        const int32_t limit = model->decoder().spec.ropes[0].length_limit;
        REQUIRE(limit > 0);
        const bool own = model->decoder().spec.ropes[0].long_inv_freq.empty();
        CHECK(model->rope_key(0, limit) == model->rope_key(0, 1));
        CHECK(model->rope_key(0, limit + 1) != model->rope_key(0, limit));
        CHECK((model->rope_key(0, limit + 1) == model->rope_key(0, limit + 2)) == !own);
        Scheduler scheduler(*model);
        RandomRequests requests(seed, 10);
        GenerateRequest request = greedy(requests.ids(limit + 70), 3);
        const auto cached = [&] {
            const uint64_t id = scheduler.submit(request);
            const Generated got = run_all(scheduler)[id];
            check_alone(got, request, *lone_model);
            return got.n_cached;
        };
        CHECK(cached() == 0);
        CHECK(cached() >= 64);  // the same length
        request.prompt.push_back(5);
        CHECK((cached() >= 64) == !own);
        check_empty(scheduler, *model);
    }
}

TEST_CASE("schedule: a second turn computes its new tokens only") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    RandomRequests requests(seed, 10);
    const auto model = load_tiny("llama", {});
    const auto lone_model = load_tiny("llama", {});
    Scheduler scheduler(*model);
    GenerateRequest first = greedy(requests.ids(100), 20);
    const uint64_t a = scheduler.submit(first);
    const Generated turn1 = run_all(scheduler)[a];
    check_against(turn1, alone(*lone_model, first));
    CHECK(turn1.n_cached == 0);
    CHECK(scheduler.status().n_prompt_tokens == 100);

    GenerateRequest second = greedy(first.prompt, 20);
    second.prompt.insert(second.prompt.end(), turn1.ids.begin(), turn1.ids.end());
    const std::vector<int32_t> more = requests.ids(7);
    second.prompt.insert(second.prompt.end(), more.begin(), more.end());
    const uint64_t b = scheduler.submit(second);
    const Generated turn2 = run_all(scheduler)[b];
    check_against(turn2, alone(*lone_model, second));
    // The last generated id was never computed.
    CHECK(turn2.n_cached == 119);
    CHECK(scheduler.status().n_prompt_tokens == 100 + 8);
    CHECK(scheduler.status().n_cached_tokens == 119);

    // Another end of the first block and of the tail: nothing that differs is taken.
    for (const size_t at : {size_t(3), size_t(70)}) {
        GenerateRequest other = second;
        other.prompt[at] = other.prompt[at] == 5 ? 6 : 5;
        const uint64_t c = scheduler.submit(other);
        const Generated got = run_all(scheduler)[c];
        CHECK(got.n_cached == at / 64 * 64);
        check_against(got, alone(*lone_model, other));
    }
    check_empty(scheduler, *model);
}

TEST_CASE("schedule: equal prompts at once are computed once") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    RandomRequests requests(seed, 10);
    engine::LoadOptions options;
    options.cache_tokens = 2048;
    const auto model = load_tiny("mistral", options);
    const auto lone_model = load_tiny("mistral", {});
    Scheduler scheduler(*model);
    const GenerateRequest request = greedy(requests.ids(200), 10);
    for (int i = 0; i < 8; ++i) scheduler.submit(request);
    const Generated lone = alone(*lone_model, request);
    for (const auto& [id, got] : run_all(scheduler)) check_against(got, lone);
    CHECK(scheduler.status().n_prompt_tokens == 200 + 7 * (200 - 192));
    check_empty(scheduler, *model);
}

TEST_CASE("schedule: while a long prompt comes in, every step gives every other stream its token") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    RandomRequests requests(seed, 10);
    engine::LoadOptions options;
    options.ctx = 4096;
    options.cache_tokens = 8192;
    const auto model = load_tiny("llama", options);
    Scheduler scheduler(*model);
    const uint64_t a = scheduler.submit(greedy(requests.ids(5), 1000)),
                   b = scheduler.submit(greedy(requests.ids(9), 1000));
    std::map<uint64_t, int> tokens;
    uint64_t done = 0;
    const auto step = [&] {
        tokens.clear();
        scheduler.step(0, [&](uint64_t id, const GenerateEvent& event) {
            tokens[id] += int(event.new_tokens.size());
            if (event.kind == GenerateEvent::prefill && id > b) done = event.n_done;
            return true;
        });
    };
    for (int i = 0; i < 3; ++i) step();
    const int32_t n_long = sanitizer_factor > 1 ? 400 : 1500;
    const uint64_t c = scheduler.submit(greedy(requests.ids(n_long), 5));
    int steps = 0;
    while (true) {
        if (done >= uint64_t(n_long)) break;
        ++steps;
        step();
        CHECK(tokens[a] == 1);
        CHECK(tokens[b] == 1);
        REQUIRE(steps < 1000);
    }
    CHECK(steps >= n_long / model->max_step_rows());
    CHECK(tokens[c] == 1);
    // A short prompt does not wait for the end of a long one either.
    scheduler.submit(greedy(requests.ids(2 * n_long), 5));
    step();
    const uint64_t e = scheduler.submit(greedy(requests.ids(4), 5));
    step();
    CHECK(tokens[e] == 1);
    scheduler.cancel_all();
    run_all(scheduler);
    check_empty(scheduler, *model);
}

TEST_CASE("schedule: where others hold the cache, a request waits and a pass is refused") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    RandomRequests requests(seed, 10);
    const auto model = load_tiny("llama", {});
    const auto lone_model = load_tiny("llama", {});
    Scheduler scheduler(*model);
    const GenerateRequest request = greedy(requests.ids(100), 60);  // three blocks of four at its end
    const Generated lone = alone(*lone_model, request);

    auto held = std::make_unique<engine::Sequence>(*model, 192);
    const uint64_t a = scheduler.submit(request);
    Generated got;
    const auto add = [&](uint64_t, const GenerateEvent& event) { return got.add(event), true; };
    CHECK(scheduler.step(0, add) == 1);
    CHECK(scheduler.status().n_waiting == 1);
    held.reset();
    held = std::make_unique<engine::Sequence>(*model, 64);
    for (int i = 0; i < 5; ++i) scheduler.step(0, add);
    CHECK(scheduler.status().n_running == 1);
    // Its second block is not full yet, and then there is no third.
    auto rest = std::make_unique<engine::Sequence>(*model, 64);
    CHECK_REFUSED(engine::Sequence(*model, 1), Code::resource_exhausted, "room for 0 ");
    for (int i = 0; i < 100; ++i) scheduler.step(0, add);
    CHECK(scheduler.status().n_preempted > 0);
    CHECK(scheduler.status().n_waiting == 1);
    CHECK(got.ends == 0);
    held.reset();
    rest.reset();
    while (scheduler.step(0, add) > 0) {
    }
    check_against(got, lone);
    static_cast<void>(a);
    check_empty(scheduler, *model);
}

TEST_CASE("schedule: a request that fails ends alone") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    RandomRequests requests(seed, 10);
    const auto model = load_tiny("llama", {});
    const auto lone_model = load_tiny("llama", {});
    Scheduler scheduler(*model);
    const GenerateRequest good = greedy(requests.ids(10), 20);
    GenerateRequest bad = good;
    for (int32_t id = 0; id < 96; ++id) bad.sampling.banned.push_back(id);
    const uint64_t a = scheduler.submit(good), b = scheduler.submit(bad);
    std::string error;
    Code code = Code::unknown;
    std::map<uint64_t, Generated> got;
    while (scheduler.step(0, [&](uint64_t id, const GenerateEvent& event) {
        got[id].add(event);
        if (event.kind == GenerateEvent::end && id == b) error = event.error, code = event.code;
        return true;
    }) > 0) {
    }
    check_against(got[a], alone(*lone_model, good));
    CHECK(got[b].ends == 1);
    CHECK(got[b].finish == Finish::error);
    CHECK(code == Code::invalid_argument);
    CHECK(error.find("ban") != std::string::npos);
    CHECK_REFUSED(scheduler.generate(bad, [](const GenerateEvent&) { return true; }, {}), Code::invalid_argument,
                  "ban");
    check_empty(scheduler, *model);
}

TEST_CASE("schedule: refusals of submit, and cancels of what is not there") {
    const auto model = load_tiny("llama", {});
    Scheduler scheduler(*model);
    CHECK_REFUSED(scheduler.submit(greedy({}, 5)), Code::invalid_argument, "prompt");
    CHECK_REFUSED(scheduler.submit(greedy({96}, 5)), Code::invalid_argument, "96");
    CHECK_REFUSED(scheduler.submit(greedy({-1}, 5)), Code::invalid_argument, "-1");
    CHECK_REFUSED(scheduler.submit(greedy(std::vector<int32_t>(256, 5), 5)), Code::out_of_range, "256");
    CHECK_REFUSED(scheduler.submit(greedy({5}, -1)), Code::invalid_argument, "negative");
    CHECK_REFUSED(scheduler.cancel(1), Code::not_found, "1");
    const uint64_t a = scheduler.submit(greedy({5}, 5));
    scheduler.cancel(a);
    const auto got = run_all(scheduler);
    CHECK(got.at(a).finish == Finish::cancelled);
    CHECK(got.at(a).ids.empty());
    CHECK_REFUSED(scheduler.cancel(a), Code::not_found);
    for (size_t i = 0; i < Scheduler::max_waiting; ++i) scheduler.submit(greedy({5}, 1));
    CHECK_REFUSED(scheduler.submit(greedy({5}, 1)), Code::resource_exhausted, std::to_string(Scheduler::max_waiting));
    scheduler.cancel_all();
    CHECK(run_all(scheduler).size() == Scheduler::max_waiting);
    check_empty(scheduler, *model);
    // To the last position of the context.
    const uint64_t whole = scheduler.submit(greedy(std::vector<int32_t>(255, 5), 0));
    CHECK(run_all(scheduler).at(whole).ids.size() == 1);
    const uint64_t room = scheduler.submit(greedy(std::vector<int32_t>(250, 6), 0));
    const Generated last = run_all(scheduler).at(room);
    CHECK(last.ids.size() == 6);
    CHECK(last.finish == Finish::length);
}

}  // namespace quantplug::test
