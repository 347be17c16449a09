// callbacks.hpp - the host's callbacks as a backend sees them: progress, JSON events, the events of a generation and of
// an engine. C++17.
#ifndef QUANTPLUG_DETAIL_CALLBACKS_HPP
#define QUANTPLUG_DETAIL_CALLBACKS_HPP

#include <quantplug/ext/engine.h>
#include <quantplug/ext/tools.h>
#include <quantplug/generate.h>
#include <quantplug/host.h>

#include <atomic>
#include <chrono>
#include <quantplug/common.hpp>
#include <string>
#include <string_view>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace quantplug::backend {

namespace detail {

struct State;
struct GenerateCall;
struct ModelHandle;

#if defined(__SSE__)
inline void set_default_float_state() noexcept {
    _mm_setcsr(0x1f80);
}  // all exceptions masked, nearest even, denormals kept

/// The caller's MXCSR comes back, whatever happens between.
class FloatScope {
 public:
    FloatScope() noexcept : saved_(_mm_getcsr()) { set_default_float_state(); }
    ~FloatScope() { _mm_setcsr(saved_); }
    FloatScope(const FloatScope&) = delete;
    FloatScope& operator=(const FloatScope&) = delete;

 private:
    unsigned saved_;
};
#else
inline void set_default_float_state() noexcept {}
struct FloatScope {
    FloatScope() noexcept {}
};
#endif

}  // namespace detail

/// Progress of a load or a score. On the calling thread only.
class Progress {
 public:
    Progress(qp_progress_fn fn, void* user, const std::atomic<bool>* cancel = nullptr) noexcept
        : fn_(fn), user_(user), cancel_(cancel) {}

    /// False: cancelled; then throw Error(QP_CANCELLED, ...) soon, or let report do it.
    bool go_on(double fraction, const char* what) {
        if (!stopped_ && fn_) {
            const double bounded = fraction > 0 ? (fraction < 1 ? fraction : 1.0) : 0.0;
            if (fn_(user_, bounded, what)) stopped_ = true;
            detail::set_default_float_state();
        }
        return !cancelled();
    }
    void report(double fraction, const char* what) {
        if (!go_on(fraction, what)) throw Error(QP_CANCELLED, "cancelled by the caller");
    }
    bool cancelled() const noexcept { return stopped_ || (cancel_ && cancel_->load(std::memory_order_relaxed)); }

 private:
    qp_progress_fn fn_;
    void* user_;
    const std::atomic<bool>* cancel_;
    bool stopped_ = false;
};

/// Events of a tool or a quantiser: one JSON object each. On the calling thread only.
class JsonEvents {
 public:
    JsonEvents(qp_json_event_fn fn, void* user) noexcept : fn_(fn), user_(user) {}

    /// False: cancelled; then throw Error(QP_CANCELLED, ...) soon. What is emitted after a cancel does not reach the
    /// host.
    bool emit(const std::string& json) {
        if (!stopped_ && fn_) {
            if (fn_(user_, json.c_str())) stopped_ = true;
            detail::set_default_float_state();
        }
        return !stopped_;
    }
    bool cancelled() const noexcept { return stopped_; }

 private:
    qp_json_event_fn fn_;
    void* user_;
    bool stopped_ = false;
};

/// Events of one generation. Sends are for the calling thread, cancelled() for any.
class Emitter {
 public:
    Emitter(qp_event_fn fn, void* user) noexcept : fn_(fn), user_(user), start_(Clock::now()) {}
    Emitter(const Emitter&) = delete;
    Emitter& operator=(const Emitter&) = delete;

    /// Tokens of the prompt that an earlier request left in the cache. Before the first send.
    void cached(uint64_t n_cached) noexcept { n_cached_ = n_cached; }

    /// `n_done` tokens of the prompt are computed. False: cancelled.
    bool prefill(uint64_t n_done) {
        n_done_ = n_done;
        qp_event event = base(QP_EVENT_PREFILL);
        return send(event);
    }

    /// `n_tokens` tokens, with `n_top` entries that their first_top points into, and the text that is certain by now
    /// (whole characters; 0 tokens with a text are allowed). False: cancelled.
    bool tokens(const qp_token* tokens, uint32_t n_tokens, const qp_top* top, uint32_t n_top, std::string_view text) {
        if (n_tokens && !n_generated_) first_tokens_ = Clock::now();
        n_done_ = n_prompt_;
        n_generated_ += n_tokens;
        qp_event event = base(QP_EVENT_TOKENS);
        event.n_tokens = n_tokens;
        event.n_top = n_top;
        event.tokens = tokens;
        event.top = top;
        event.text = text.data() ? text.data() : "";
        event.text_size = text.size();
        return send(event);
    }

    /// The callback asked for it, or the model is being unloaded.
    bool cancelled() const noexcept {
        return stopped_.load(std::memory_order_relaxed) || (unload_ && unload_->load(std::memory_order_relaxed));
    }

 private:
    friend struct detail::GenerateCall;
    using Clock = std::chrono::steady_clock;

    qp_event base(uint32_t kind) const noexcept {
        qp_event event = make<qp_event>();
        event.kind = kind;
        event.text = "";
        event.n_done = n_done_;
        event.n_prompt = n_prompt_;
        event.n_generated = n_generated_;
        event.n_cached = n_cached_;
        event.stop_id = -1;
        event.error = "";
        return event;
    }

    bool send(const qp_event& event) {
        if (!cancelled()) {
            if (fn_(user_, &event)) stopped_.store(true, std::memory_order_relaxed);
            detail::set_default_float_state();
        }
        return !cancelled();
    }

    qp_event_fn fn_;
    void* user_;
    Clock::time_point start_, first_tokens_{};
    const std::atomic<bool>* unload_ = nullptr;
    std::atomic<bool> stopped_{false};
    bool ended_ = false;
    uint64_t n_done_ = 0, n_prompt_ = 0, n_generated_ = 0, n_cached_ = 0;
};

/// Events of the requests of a step. On the thread that called step only.
class EngineEvents {
 public:
    EngineEvents(detail::ModelHandle& model, qp_engine_event_fn fn, void* user) noexcept
        : model_(model), fn_(fn), user_(user) {}

    /// One event of one request; struct_size is filled here, null texts become "", and the status of a final event
    /// becomes that of its finish_reason where it is not one of it. False: the host cancelled this request, and its
    /// final event is to follow from this step or the next. What is emitted for it in between does not reach the host.
    bool emit(uint64_t request, const qp_event& event);

    /// The model is being unloaded: return from step soon.
    bool cancelled() const noexcept;

 private:
    detail::ModelHandle& model_;
    qp_engine_event_fn fn_;
    void* user_;
};

}  // namespace quantplug::backend

#endif
