// Random requests to one scheduler, each against what it gives alone.
#pragma once

#include <doctest/doctest.h>

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "checkpoint_files.h"
#include "engine/base/error.h"
#include "schedule_support.h"

namespace quantplug::test {

struct Company {
    std::string model;
    int32_t n_streams;
    int32_t cache_tokens = 0;
    int32_t threads = 1;
    kernels::KvSpec::Type mode = kernels::KvSpec::f16;
    kernels::Compute compute = kernels::Compute::standard;
    std::optional<engine::StepStyle> style = std::nullopt;
    bool is_greedy = false;  // every request
    int32_t n_more_ids = 0;  // of the vocabulary: equally likely ones
};

/// The scheduler's counters at the end.
inline engine::ScheduleStatus random_company(const Company& company, int n_requests, uint32_t seed) {
    const int32_t n_streams = company.n_streams;
    CAPTURE(company.model);
    CAPTURE(n_streams);
    CAPTURE(int(company.mode));
    engine::LoadOptions options;
    options.max_streams = n_streams;
    options.cache_tokens = company.cache_tokens;
    options.threads = company.threads;
    options.cache_mode = company.mode;
    options.compute = company.compute;
    const auto model = load_tiny(company.model.c_str(), options, company.n_more_ids);
    options.threads = 1;
    options.cache_tokens = 0;
    const auto lone_model = load_tiny(company.model.c_str(), options, company.n_more_ids);
    engine::Scheduler scheduler(*model, 0, company.style);
    RandomRequests requests(seed, 120);
    struct Entry {
        engine::GenerateRequest request;
        Generated got;
        int events_until_cancel = -1;
    };
    std::map<uint64_t, Entry> all;
    int left = n_requests;
    uint64_t active = 0;
    while (left > 0 || active > 0) {
        for (int burst = requests.below(3) ? 0 : requests.below(2 * n_streams + 1); burst-- > 0 && left > 0; --left) {
            Entry entry;
            entry.request = requests.next();
            if (company.is_greedy) {
                entry.request.sampling = {};
                entry.request.n_top = 0;
            }
            if (requests.below(6) == 0) entry.events_until_cancel = requests.below(10);
            all.emplace(scheduler.submit(entry.request), std::move(entry));
        }
        if (requests.below(8) == 0 && !all.empty()) {
            const uint64_t id = 1 + uint64_t(requests.below(int32_t(all.size())));
            try {
                scheduler.cancel(id);
                CHECK(all[id].got.ends == 0);
            } catch (const engine::Error& error) {
                CHECK(error.code() == engine::Code::not_found);
                CHECK(all[id].got.ends == 1);
            }
        }
        active = scheduler.step(0, [&](uint64_t id, const engine::GenerateEvent& event) {
            Entry& entry = all.at(id);
            entry.got.add(event);
            return entry.events_until_cancel < 0 || entry.events_until_cancel-- > 0;
        });
        if (requests.below(20) == 0) REQUIRE(model->blocks().check() == "");
    }
    int cancelled = 0;
    for (auto& [number, entry] : all) {
        const uint64_t id = number;
        CAPTURE(id);
        cancelled += entry.got.finish == engine::Finish::cancelled;
        check_alone(entry.got, entry.request, *lone_model);
    }
    CHECK(int(all.size()) == n_requests);
    check_empty(scheduler, *model);
    const engine::ScheduleStatus status = scheduler.status();
    MESSAGE(company.model << ", " << n_streams << " streams: " << n_requests << " requests, " << cancelled
                          << " cancelled, " << status.n_steps << " steps, " << status.n_cached_tokens
                          << " prompt tokens from the cache, " << status.n_preempted << " preempted");
    return status;
}

}  // namespace quantplug::test
