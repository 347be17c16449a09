// exports_engine.hpp - the table of engine/1: which requests are live, one step at a time, final events at an unload.
// Included by exports.hpp. C++17.
#ifndef QUANTPLUG_DETAIL_EXPORTS_ENGINE_HPP
#define QUANTPLUG_DETAIL_EXPORTS_ENGINE_HPP

#include <quantplug/detail/generation.hpp>

namespace quantplug::backend {

inline bool EngineEvents::cancelled() const noexcept { return model_.cancel.load(std::memory_order_relaxed); }

inline bool EngineEvents::emit(uint64_t request, const qp_event& event) {
    qp_event sent = event;
    sent.struct_size = static_cast<uint32_t>(sizeof sent);
    if (!sent.text) sent.text = "", sent.text_size = 0;
    if (!sent.error) sent.error = "";
    const bool last = sent.kind == QP_EVENT_END;
    if (last) {
        const bool good = sent.finish_reason == QP_FINISH_STOP || sent.finish_reason == QP_FINISH_LENGTH;
        if (good)
            sent.status = QP_OK;
        else if (sent.finish_reason == QP_FINISH_CANCELLED)
            sent.status = QP_CANCELLED;
        else if (sent.status <= QP_CANCELLED || sent.status > QP_DATA_LOSS)
            sent.status = QP_INTERNAL;
    }
    {
        const std::lock_guard<std::mutex> lock(model_.mutex);
        detail::EngineRequest& state = model_.requests[request];
        if (state.ended) return false;
        if (!last && (state.cancelled || cancelled())) return false;
        state.ended = last;
        if (last && state.submitted) model_.requests.erase(request);
    }
    const bool cancel = fn_(user_, request, &sent) != 0;
    detail::set_default_float_state();
    if (last) return true;
    if (cancel) {
        const std::lock_guard<std::mutex> lock(model_.mutex);
        model_.requests[request].cancelled = true;
    }
    return !cancel && !cancelled();
}

namespace detail {

/// A model's one step.
class Stepping {
 public:
    Stepping(ModelHandle& model, const char* hook) : model_(model) {
        refuse_in_callback(model, hook);
        const std::lock_guard<std::mutex> lock(model_.mutex);
        if (model_.stepping)
            throw Error(QP_FAILED_PRECONDITION,
                        std::string(hook) + ": another thread is in a step of this model: step from one at a time");
        model_.stepping = true;
    }
    ~Stepping() {
        const std::lock_guard<std::mutex> lock(model_.mutex);
        model_.stepping = false;
    }
    Stepping(const Stepping&) = delete;
    Stepping& operator=(const Stepping&) = delete;

 private:
    ModelHandle& model_;
};

/// Within the step that unload found running: every live request gets its final event, from the model where it can.
inline void end_all(ModelHandle& handle, EngineEvents& events) {
    const auto live = [&] {
        const std::lock_guard<std::mutex> lock(handle.mutex);
        std::vector<uint64_t> requests;
        for (const auto& [request, state] : handle.requests)
            if (!state.ended) requests.push_back(request);
        return requests;
    };
    for (const uint64_t request : live()) {
        try {
            handle.model->cancel(request);
        } catch (...) {  // it has ended meanwhile
        }
    }
    try {
        handle.model->step(0, events);
    } catch (...) {  // what has no final event by now gets it here
    }
    for (const uint64_t request : live()) {
        qp_event event = make<qp_event>();
        event.kind = QP_EVENT_END;
        event.finish_reason = QP_FINISH_CANCELLED;
        event.stop_id = -1;
        events.emit(request, event);
    }
}

template <class B>
struct QUANTPLUG_HIDDEN EngineExports {
    static constexpr State& state = StateOf<B>::state;

    static int32_t QP_CALL submit(qp_model* model, const qp_generate_params* params, uint64_t* request,
                                  qp_error* error) noexcept {
        return guarded(state, "engine submit", error, [&](const Backend&) {
            *need(request, "engine submit", "request") = 0;
            ModelHandle& handle = ModelHandle::from(model, "engine submit");
            const ModelCall call(handle, "engine submit");
            refuse_in_callback(handle, "engine submit");
            GenerateParams read;
            read_generate_params(handle, params, "engine submit", read);
            const uint64_t number = handle.model->submit(read);
            const std::lock_guard<std::mutex> lock(handle.mutex);
            // A step that unload found running may have ended its requests already.
            if (handle.unloading) throw being_unloaded("engine submit");
            EngineRequest& made = handle.requests[number];
            made.submitted = true;
            if (made.ended) handle.requests.erase(number);
            *request = number;
        });
    }

    static int32_t QP_CALL step(qp_model* model, int32_t wait_ms, qp_engine_event_fn on_event, void* user,
                                uint64_t* n_active, qp_error* error) noexcept {
        return guarded(state, "engine step", error, [&](const Backend&) {
            *need(n_active, "engine step", "n_active") = 0;
            need(on_event, "engine step", "on_event");
            ModelHandle& handle = ModelHandle::from(model, "engine step");
            const ModelCall call(handle, "engine step");
            const Stepping stepping(handle, "engine step");
            EngineEvents events(handle, on_event, user);
            uint64_t active = 0;
            try {
                active = handle.model->step(wait_ms < 0 ? -1 : wait_ms, events);
            } catch (...) {
                if (!events.cancelled()) throw;
            }
            if (events.cancelled()) {
                end_all(handle, events);
                throw being_unloaded("engine step");
            }
            *n_active = active;
        });
    }

    static int32_t QP_CALL cancel(qp_model* model, uint64_t request, qp_error* error) noexcept {
        return guarded(state, "engine cancel", error, [&](const Backend&) {
            ModelHandle& handle = ModelHandle::from(model, "engine cancel");
            const ModelCall call(handle, "engine cancel");
            handle.model->cancel(request);
        });
    }

    static int32_t QP_CALL wake(qp_model* model, qp_error* error) noexcept {
        return guarded(state, "engine wake", error, [&](const Backend&) {
            ModelHandle& handle = ModelHandle::from(model, "engine wake");
            const ModelCall call(handle, "engine wake");
            handle.model->wake();
        });
    }

    static int32_t QP_CALL status(qp_model* model, qp_engine_status* out, qp_error* error) noexcept {
        return guarded(state, "engine status", error, [&](const Backend&) {
            ModelHandle& handle = ModelHandle::from(model, "engine status");
            const ModelCall call(handle, "engine status");
            write_out(out, "engine status", [&](qp_engine_status& full) { handle.model->engine_status(full); });
        });
    }

    static constexpr qp_engine table = {sizeof(qp_engine), 0, submit, step, cancel, wake, status};
};

}  // namespace detail

}  // namespace quantplug::backend

#endif
