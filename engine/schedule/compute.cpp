// What a scheduler's step computes: rows on the device, then a token for each stream.
#include <algorithm>
#include <deque>
#include <new>

#include "engine/base/error.h"
#include "engine/schedule/scheduler.h"
#include "engine/schedule/stream.h"
#include "kernels/threads/pool.h"

namespace quantplug::engine {

namespace {

constexpr size_t least_parallel_vocab = 4096;  // below it a sampler is faster than a thread is woken

}  // namespace

/// Rows of a stream, and what came of them.
struct Scheduler::Task {
    Item* item = nullptr;
    StepPart part = {};
    std::optional<kernels::Wanted> wanted = {};  // of the last row, without its number
    bool again = false;                          // computed before, now for its logits
    bool done = false;
    Generation::Answer answer = {};
    Code code = Code::cancelled;  // where not done
    std::string error = {};

    Stream& stream() const { return *item->stream; }
    Generation& generation() const { return item->stream->generation; }

    /// All of a step's, one after the other.
    static void answer_all(std::span<Task> tasks, const kernels::StepResult& result, size_t n_vocab);
    /// Of a step that failed.
    static void fail_all(std::span<Task> tasks, const Error& error) {
        for (Task& task : tasks) task.code = error.code(), task.error = error.what();
    }
};

void Scheduler::Task::answer_all(std::span<Task> tasks, const kernels::StepResult& result, size_t n_vocab) {
    std::span<const float> values = result.values;
    std::span<const kernels::Candidate> candidates = result.candidates;
    size_t n_tokens = 0;
    const auto take = [](auto& from, size_t n) {
        const auto out = from.first(n);
        from = from.subspan(n);
        return out;
    };
    for (Task& task : tasks) {
        task.done = true;
        if (!task.wanted) continue;
        switch (task.wanted->what) {
            case kernels::Wanted::argmax:
                task.answer = {result.tokens[n_tokens++], take(values, 1), {}};
                break;
            case kernels::Wanted::candidates:
                task.answer = {0, take(values, 2), take(candidates, size_t(task.wanted->n))};
                break;
            default:
                task.answer = {0, take(values, n_vocab), {}};
        }
    }
}

kernels::StepResult Scheduler::run(std::span<const Task> tasks, std::span<const kernels::Adjust> adjusts,
                                   const std::function<bool()>& cancelled) {
    std::vector<StepPart> parts;
    std::vector<kernels::Wanted> wanted;
    int32_t n_rows = 0;
    for (const Task& task : tasks) {
        parts.push_back(task.part);
        n_rows += int32_t(task.part.tokens.size());
        if (!task.wanted) continue;
        wanted.push_back(*task.wanted);
        wanted.back().row = n_rows - 1;
    }
    return model_.step(parts, wanted, cancelled, adjusts);
}

/// The answers of a step of argmaxes, while the next one is under way: null where it cannot be.
kernels::StepResult Scheduler::run_ahead(Flight& flight, std::unique_ptr<Flight>& next, std::span<const Task> tasks) {
    const auto wanted_of = [](size_t n) {
        std::vector<kernels::Wanted> wanted;
        for (size_t i = 0; i < n; ++i) wanted.push_back({int32_t(i), kernels::Wanted::argmax});
        return wanted;
    };
    std::vector<StepPart> parts;
    if (!flight.step) {
        for (const Task& task : tasks) parts.push_back(task.part);
        flight.step = model_.submit(parts, wanted_of(parts.size()), {});
    }
    if (next) {
        parts.clear();
        for (size_t i = 0; i < next->batch.size(); ++i) {
            const Stream& s = *next->batch[i].stream;
            parts.push_back({{&next->tokens[i], 1}, s.n_computed + 1, s.generation.n_prompt(), s.blocks});
        }
        next->step = model_.submit(parts, wanted_of(parts.size()), {}, {}, flight.step.get());
        if (!next->step) next.reset();
    }
    return model_.wait(*flight.step);
}

void Scheduler::compute(Flight& flight, std::unique_ptr<Flight>& next) {
    std::vector<kernels::Adjust> adjusts;
    std::deque<kernels::StepResult> results;  // what the answers point to
    const size_t n_vocab = size_t(model_.n_vocab());
    const auto compute_all = [&](std::span<Task> tasks, const std::function<kernels::StepResult()>& all) {
        try {
            Task::answer_all(tasks, results.emplace_back(all()), n_vocab);
            return;
        } catch (const Error& error) {
            next.reset();  // it takes its tokens from here
            Task::fail_all(tasks, error);
            if (tasks.size() == 1 || error.code() == Code::cancelled) return;
        }
        // Whose fault it is shows when each is computed alone; the others go on.
        for (Task& task : tasks) {
            if (!task.stream().running) continue;
            try {
                results.push_back(run({&task, 1}, adjusts, [&] { return task.stream().gives_up(); }));
                Task::answer_all({&task, 1}, results.back(), n_vocab);
            } catch (const Error& own) {
                Task::fail_all({&task, 1}, own);
            }
        }
    };
    const auto all_give_up = [](const std::vector<Task>& tasks) {
        return [&tasks] {
            return std::all_of(tasks.begin(), tasks.end(), [](const Task& task) { return task.stream().gives_up(); });
        };
    };

    std::vector<Task> tasks;
    for (Item& item : flight.batch) {
        const Stream& s = *item.stream;
        Task& task = tasks.emplace_back(Task{.item = &item});
        if (s.running)
            task.part = {s.generation.ids().subspan(size_t(s.n_computed), size_t(item.rows)), s.n_computed,
                         s.generation.n_prompt(), s.blocks};
        if (!item.wants) continue;
        task.wanted = task.generation().wanted(style_.candidates, adjusts);
        item.tried = task.wanted->what == kernels::Wanted::candidates;
    }
    compute_all(tasks, [&] {
        return flight.step || next ? run_ahead(flight, next, tasks) : run(tasks, adjusts, all_give_up(tasks));
    });
    for (Task& task : tasks) {
        task.item->done = task.done;
        task.item->code = task.code;
        task.item->error = std::move(task.error);
    }
    follow(tasks);

    // The same row once more for its logits: its key and value are written again, with the same bits.
    std::vector<Task> again;
    for (const Task& task : tasks) {
        if (!task.generation().needs_logits()) continue;
        const Stream& s = task.stream();
        const int32_t last = s.n_computed + task.item->rows - 1;
        again.push_back({.item = task.item, .wanted = task.generation().wanted(false, adjusts), .again = true});
        again.back().part = {s.generation.ids().subspan(size_t(last), 1), last, s.generation.n_prompt(), s.blocks};
        task.item->repeated = true;
    }
    if (again.empty()) return;
    compute_all(again, [&] { return run(again, {}, all_give_up(again)); });
    for (Task& task : again)
        if (!task.done && task.code != Code::cancelled)
            task.generation().stop(Finish::error, task.code, std::move(task.error));
    follow(again);
}

/// Samplers look at whole rows of logits, a millisecond each with a large vocabulary: every thread takes some.
void Scheduler::follow(std::span<Task> tasks) {
    const auto one = [](Task& task) {
        Stream& s = task.stream();
        if (!task.done || !s.running || s.gives_up()) return;
        try {
            if (!task.again) task.item->progress = s.generation.advance(s.n_computed + task.item->rows, s.n_taken);
            if (task.wanted) task.item->token = s.generation.accept(task.answer);
        } catch (const std::bad_alloc&) {
            s.generation.stop(Finish::error, Code::resource_exhausted, "there is no memory for an event");
        }
    };
    const int64_t n_rows = std::count_if(tasks.begin(), tasks.end(), [](const Task& task) {
        return task.wanted && task.wanted->what == kernels::Wanted::logits;
    });
    const int32_t own = model_.options().threads;
    const int64_t threads = size_t(model_.n_vocab()) < least_parallel_vocab
                                ? 1
                                : std::min<int64_t>(n_rows, own > 0 ? own : kernels::default_threads());
    kernels::run_parallel(int32_t(std::max<int64_t>(threads, 1)), [&](int32_t index, int32_t count) {
        for (size_t i = size_t(index); i < tasks.size(); i += size_t(count)) one(tasks[i]);
    });
}

}  // namespace quantplug::engine
