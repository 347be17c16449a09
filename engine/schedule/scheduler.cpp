#include "engine/schedule/scheduler.h"

#include <algorithm>
#include <chrono>

#include "engine/base/error.h"
#include "engine/schedule/stream.h"

namespace quantplug::engine {

namespace {

// A generate() whose request cannot run looks at its cancel function this often.
constexpr auto poll_time = std::chrono::milliseconds(20);

}  // namespace

Scheduler::Scheduler(Model& model, int32_t reserve_tokens, std::optional<StepStyle> style)
    : model_(model),
      pool_(model.blocks()),
      n_streams_(size_t(model.options().max_streams)),
      reserve_tokens_(reserve_tokens),
      style_(style.value_or(StepStyle{model.prefers_candidates(), model.runs_ahead()})) {
    pool_.listen([this] {
        const std::lock_guard lock(mutex_);
        changed_.notify_all();
    });
}

Scheduler::~Scheduler() {
    pool_.listen({});
    for (const StreamPtr& s : running_) pool_.release(s->blocks);
}

uint64_t Scheduler::submit(GenerateRequest request) {
    auto stream = std::make_shared<Stream>(model_, std::move(request));
    stream->submitted = true;
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= max_waiting)
        fail(Code::resource_exhausted, waiting_.size(), " requests wait already; submit again when some have ended");
    enqueue(stream);
    ++n_submitted_;
    return stream->id;
}

void Scheduler::enqueue(StreamPtr stream) {
    stream->id = next_id_++;
    waiting_.push_back(std::move(stream));
    changed_.notify_all();
}

uint64_t Scheduler::step(int32_t wait_ms, const OnEvent& on_event) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(std::max(wait_ms, 0));
    Lock lock(mutex_);
    const bool waits = !std::exchange(woken_, false) && wait_ms != 0;
    bool computed = false;
    while (true) {
        if (deliver(lock, on_event) || computed) break;
        const bool other = stepping_;  // another thread computes, for these too
        if (!other && n_submitted_ > 0 && run_step(lock)) {
            computed = true;
            continue;
        }
        if (!(other && n_submitted_ > 0) && (!waits || (wait_ms > 0 && Clock::now() >= deadline))) break;
        if ((other && n_submitted_ > 0) || wait_ms < 0)
            changed_.wait(lock);
        else
            changed_.wait_until(lock, deadline);
        if (std::exchange(woken_, false)) {
            deliver(lock, on_event);
            break;
        }
    }
    return n_submitted_;
}

bool Scheduler::deliver(Lock& lock, const OnEvent& on_event) {
    if (events_.empty()) return false;
    for (size_t n = events_.size(); n > 0; --n) {
        const StreamPtr s = std::move(events_.front().first);
        GenerateEvent event = std::move(events_.front().second);
        events_.pop_front();
        const bool last = event.kind == GenerateEvent::end;
        bool go_on = true;
        if (last || !s->silent) {
            if (last && s->silent) event.finish = Finish::cancelled, event.code = Code::cancelled;
            lock.unlock();
            try {
                go_on = on_event(s->id, event);
            } catch (...) {
                lock.lock();
                s->cancelled = s->silent = true;
                --s->n_undelivered;
                n_submitted_ -= last;
                throw;
            }
            lock.lock();
        }
        if (!go_on) s->cancelled = s->silent = true;
        --s->n_undelivered;
        n_submitted_ -= last;
    }
    changed_.notify_all();  // a stream that was ahead of its events can run again
    return true;
}

void Scheduler::send(const StreamPtr& s, GenerateEvent event) {
    if (s->submitted)
        events_.emplace_back(s, std::move(event));
    else
        s->outbox.push_back(std::move(event));
    ++s->n_undelivered;
}

void Scheduler::end(const StreamPtr& s) {
    release(*s);
    s->is_cancelled = nullptr;
    if (s->running) {
        running_.erase(std::find(running_.begin(), running_.end(), s));
        s->running = false;
    } else {
        waiting_.erase(std::find(waiting_.begin(), waiting_.end(), s));
    }
    send(s, s->generation.end());
}

void Scheduler::end_cancelled() {
    std::vector<StreamPtr> ended;
    for (const StreamPtr& s : running_)
        if (s->gives_up()) ended.push_back(s);
    for (const StreamPtr& s : waiting_)
        if (s->gives_up()) ended.push_back(s);
    for (const StreamPtr& s : ended) {
        s->generation.stop(Finish::cancelled, Code::cancelled);
        end(s);
    }
    if (!ended.empty()) changed_.notify_all();
}

bool Scheduler::run_step(Lock& lock) {
    const size_t before = events_.size();
    end_cancelled();
    std::unique_ptr<Flight> flight = std::move(flight_);
    if (!flight || !flight->is_needed()) {
        admit();
        Batch batch = plan();
        if (batch.empty()) return events_.size() > before;
        flight = std::make_unique<Flight>(Flight{std::move(batch)});
    }
    std::unique_ptr<Flight> next = plan_ahead(*flight);
    stepping_ = true;
    lock.unlock();
    try {
        compute(*flight, next);
    } catch (...) {  // no memory: nothing of the step counts
        lock.lock();
        stepping_ = false;
        changed_.notify_all();
        throw;
    }
    lock.lock();
    stepping_ = false;
    changed_.notify_all();
    commit(*flight);
    if (next && next->is_needed()) flight_ = std::move(next);
    return true;
}

void Scheduler::cancel(uint64_t request) {
    const std::lock_guard lock(mutex_);
    const auto is_it = [&](const StreamPtr& s) { return s->id == request && s->submitted; };
    StreamPtr found;
    if (const auto at = std::find_if(running_.begin(), running_.end(), is_it); at != running_.end()) found = *at;
    if (const auto at = std::find_if(waiting_.begin(), waiting_.end(), is_it); at != waiting_.end()) found = *at;
    if (!found) fail(Code::not_found, "there is no request ", request, ", or it has ended");
    found->cancelled = true;
    changed_.notify_all();
}

void Scheduler::cancel_all() {
    const std::lock_guard lock(mutex_);
    for (const StreamPtr& s : running_) s->cancelled = true;
    for (const StreamPtr& s : waiting_) s->cancelled = true;
    changed_.notify_all();
}

void Scheduler::wake() {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
}

ScheduleStatus Scheduler::status() const {
    const std::lock_guard lock(mutex_);
    ScheduleStatus out = counters_;
    out.n_running = int32_t(running_.size());
    out.n_waiting = int32_t(waiting_.size());
    out.n_streams_max = int32_t(n_streams_);
    out.blocks = pool_.counts();
    return out;
}

Finish Scheduler::generate(GenerateRequest request, const std::function<bool(const GenerateEvent&)>& on_event,
                           const std::function<bool()>& cancelled) {
    const uint64_t n_prompt = request.prompt.size();
    StreamPtr s;
    try {
        s = std::make_shared<Stream>(model_, std::move(request));
    } catch (const Error& error) {
        GenerateEvent event;
        event.kind = GenerateEvent::end;
        event.n_prompt = n_prompt;
        event.finish = Finish::error;
        event.code = error.code();
        event.error = error.what();
        on_event(event);
        throw;
    }
    if (cancelled) s->is_cancelled = &cancelled;

    Lock lock(mutex_);
    enqueue(s);
    while (true) {
        if (!s->outbox.empty()) {
            GenerateEvent event = std::move(s->outbox.front());
            s->outbox.pop_front();
            --s->n_undelivered;
            const bool last = event.kind == GenerateEvent::end;
            if (s->silent && !last) continue;
            if (s->silent) event.finish = Finish::cancelled, event.code = Code::cancelled;
            changed_.notify_all();
            lock.unlock();
            bool go_on = false;
            try {
                go_on = on_event(event);
            } catch (...) {
                lock.lock();
                changed_.wait(lock, [&] { return !stepping_; });  // its function is not asked any more
                s->generation.stop(Finish::cancelled, Code::cancelled);
                if (!last && (s->running || std::find(waiting_.begin(), waiting_.end(), s) != waiting_.end())) end(s);
                throw;
            }
            if (last) {
                if (event.finish == Finish::error) throw Error(event.code, event.error);
                return event.finish;
            }
            lock.lock();
            if (!go_on) s->cancelled = s->silent = true;
            continue;
        }
        if (stepping_)
            changed_.wait(lock);
        else if (!run_step(lock) && s->outbox.empty())
            changed_.wait_for(lock, poll_time);
    }
}

}  // namespace quantplug::engine
