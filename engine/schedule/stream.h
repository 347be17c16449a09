// One request in the scheduler, and its part of a step.
#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/schedule/scheduler.h"

namespace quantplug::engine {

/// The generation and its blocks belong to the thread that steps, the rest to the scheduler's mutex.
struct Scheduler::Stream {
    Stream(const Model& model, GenerateRequest request) : generation(model, std::move(request)) {}

    uint64_t id = 0;
    bool submitted = false;  // else its generate() waits for it
    Generation generation;

    std::vector<int32_t> blocks;
    int32_t n_computed = 0;   // ids in the cache, always fewer than there are
    int32_t n_published = 0;  // full blocks that the pool knows, the first ones
    uint64_t node = BlockPool::root;
    bool publishes = true;  // until a block that no other length can use
    int32_t n_taken = 0;    // of n_computed, from the cache since the last step
    size_t n_reserved = 0;  // blocks that it was admitted for
    bool running = false;

    std::atomic<bool> cancelled{false};
    bool silent = false;                                  // a callback cancelled it: only the final event goes out
    const std::function<bool()>* is_cancelled = nullptr;  // of generate()
    std::deque<GenerateEvent> outbox;                     // of generate()
    size_t n_undelivered = 0;

    bool gives_up() const { return cancelled.load(std::memory_order_relaxed) || (is_cancelled && (*is_cancelled)()); }
    int32_t n_left() const { return int32_t(generation.ids().size()) - n_computed; }  // ids to be computed
};

struct Scheduler::Item {
    StreamPtr stream;
    int32_t rows = 0;
    bool wants = false;     // the row after the last id
    bool done = false;      // computed
    bool tried = false;     // asked for candidates,
    bool repeated = false;  // and then for logits
    std::optional<GenerateEvent> progress = {}, token = {};
    Code code = Code::cancelled;  // where not done
    std::string error = {};
};

/// A step and its streams.
struct Scheduler::Flight {
    Batch batch;
    std::shared_ptr<StepUnderWay> step = {};  // submitted
    std::vector<int32_t> tokens = {};         // of the batch's rows, where it is one ahead
    bool ahead = false;

    bool is_needed() const {
        return std::any_of(batch.begin(), batch.end(), [](const Item& item) { return item.stream->running; });
    }
};

}  // namespace quantplug::engine
