// Many generations on one model: continuous batching over a paged cache with shared prefixes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/generate/generation.h"
#include "engine/model/model.h"

namespace quantplug::engine {

struct ScheduleStatus {
    int32_t n_running = 0, n_waiting = 0, n_streams_max = 0;
    BlockPool::Counts blocks;
    uint64_t n_steps = 0, n_prompt_tokens = 0, n_cached_tokens = 0, n_generated_tokens = 0, n_preempted = 0;
    uint64_t n_ahead = 0;       // of n_steps: submitted before the answers of the step before
    uint64_t n_candidates = 0;  // tokens that were asked for as candidates,
    uint64_t n_repeated = 0;    // and of them those whose row had to be computed again for its logits
};

/// How steps are taken: the same tokens either way.
struct StepStyle {
    bool candidates = false;  // in place of rows of logits where a sampler can do with them
    bool ahead = false;       // the next step of streams that are all greedy is submitted before this one's answers
};

/// Requests are admitted in the order they came, while there is a stream and room in the cache for their prompt and a
/// reserve. Every step takes one row of each request that decodes and shares what is left of about 150 ms among the
/// prompts. Where the cache is full the youngest request gives its place up; its tokens are computed again later. What
/// a request gets depends on itself alone: rows of a step do not see each other, and equal prefixes have equal keys.
///
/// Where all that run are greedy and nothing else is to be done, a device that would idle between steps gets the next
/// one before this one's answers are known: a stream that turns out to have ended drops its row.
///
/// No thread of its own: step() and generate() compute, one thread at a time and for all; the others wait for their
/// events. Events of submitted requests are delivered by step, those of generate on its own thread, at most
/// max_undelivered of a request ahead of what was delivered. All methods may be called from any thread, step by one at
/// a time; from a callback: submit, cancel, wake and status.
class Scheduler {
 public:
    static constexpr size_t max_waiting = 4096;
    static constexpr size_t max_undelivered = 3;

    /// reserve_tokens: of its answer that a request is admitted with room for. No style: the device's.
    explicit Scheduler(Model& model, int32_t reserve_tokens = 256, std::optional<StepStyle> style = std::nullopt);
    ~Scheduler();  // no call is running
    Scheduler(const Scheduler&) = delete;
    Scheduler& operator=(const Scheduler&) = delete;

    using OnEvent = std::function<bool(uint64_t request, const GenerateEvent& event)>;  // false cancels the request

    /// The request's number, from 1. Refusals as Generation's, RESOURCE_EXHAUSTED where max_waiting wait.
    uint64_t submit(GenerateRequest request);

    /// One step for all that run, then the events there are. Where nothing can run it waits at most wait_ms (negative:
    /// without end) for a submit or a wake. Returns how many submitted requests have not had their final event.
    uint64_t step(int32_t wait_ms, const OnEvent& on_event);

    /// Takes effect within a step; the final event comes from step. NOT_FOUND where there is no such request, or it has
    /// ended.
    void cancel(uint64_t request);
    void cancel_all();

    /// A step that waits, or else the next one, does not wait.
    void wake();

    ScheduleStatus status() const;

    /// One generation on this thread until its end event, which always comes, also before an error is thrown. on_event
    /// returns false to cancel; `cancelled` is asked between layers too, from whichever thread computes.
    Finish generate(GenerateRequest request, const std::function<bool(const GenerateEvent&)>& on_event,
                    const std::function<bool()>& cancelled);

 private:
    struct Stream;
    using StreamPtr = std::shared_ptr<Stream>;
    struct Item;
    using Batch = std::vector<Item>;
    struct Flight;
    struct Task;
    using Lock = std::unique_lock<std::mutex>;

    // The queue and its events: scheduler.cpp. All but the public ones under the mutex.
    void enqueue(StreamPtr stream);
    bool deliver(Lock& lock, const OnEvent& on_event);
    void send(const StreamPtr& s, GenerateEvent event);
    void end(const StreamPtr& s);
    void end_cancelled();
    bool run_step(Lock& lock);

    // What a step consists of: batch.cpp.
    void admit();
    Batch plan();
    std::unique_ptr<Flight> plan_ahead(const Flight& flight);
    void commit(Flight& flight);
    void extend_from_cache(Stream& s);
    bool waits_for_prefix(const Stream& s, const std::vector<StreamPtr>& earlier) const;
    bool grow(const StreamPtr& s, int32_t n_tokens);
    void preempt(const StreamPtr& s);
    void publish(Stream& s);
    void release(Stream& s);
    std::optional<int64_t> key_of(const Stream& s, int32_t first, int32_t last) const;

    // What is computed, without the mutex: compute.cpp.
    void compute(Flight& flight, std::unique_ptr<Flight>& next);
    kernels::StepResult run(std::span<const Task> tasks, std::span<const kernels::Adjust> adjusts,
                            const std::function<bool()>& cancelled);
    kernels::StepResult run_ahead(Flight& flight, std::unique_ptr<Flight>& next, std::span<const Task> tasks);
    void follow(std::span<Task> tasks);

    Model& model_;
    BlockPool& pool_;
    const size_t n_streams_;
    const int64_t reserve_tokens_;
    const StepStyle style_;

    mutable std::mutex mutex_;  // before the pool's; not held while a step computes or a callback runs
    std::condition_variable changed_;
    std::vector<StreamPtr> running_;                          // oldest first, all older than those that wait
    std::deque<StreamPtr> waiting_;                           // oldest first
    std::deque<std::pair<StreamPtr, GenerateEvent>> events_;  // of submitted requests
    uint64_t next_id_ = 1, n_submitted_ = 0;                  // n_submitted_: without their final event yet
    std::unique_ptr<Flight> flight_;  // the step that was submitted ahead; its streams may have ended
    bool stepping_ = false, woken_ = false;
    ScheduleStatus counters_;
};

}  // namespace quantplug::engine
