// host_extensions.hpp - engine/1 and chat/1 as objects over a Model. Included by host.hpp. C++11.
#ifndef QUANTPLUG_DETAIL_HOST_EXTENSIONS_HPP
#define QUANTPLUG_DETAIL_HOST_EXTENSIONS_HPP

#include <quantplug/host.hpp>

namespace quantplug {

/// quantplug.engine/1: many generations of one model at once. Keeps the model alive, as Detokenizer does. A host stops
/// its stepping thread (wake, join) before the model is unloaded.
class Engine {
 public:
    explicit Engine(const Model& model) : model_(model.state_), table_() {
        model.handle();
        table_ = detail::extension<qp_engine>(model.hooks(), QP_EXT_ENGINE, model_->plugin->name);
    }

    /// [any-thread] The request's number. Its first event may come, in another thread's step, before this returns.
    uint64_t submit(const qp_generate_params& params) const {
        detail::Status status;
        uint64_t request = 0;
        status.check(table_.submit(handle(), &params, &request, status.get()), "engine submit");
        return request;
    }
    uint64_t submit(const GenerateRequest& request) const {
        const detail::BorrowedRequest borrowed(request);
        return submit(borrowed.params);
    }

    /// [one thread at a time] The number of requests that have not had their final event. `on_event` answers false to
    /// cancel its request; what it throws cancels that one request, and comes out when the step is over. An unload
    /// beside it is Error with QP_CANCELLED.
    uint64_t step(int32_t wait_ms, const EngineEventFn& on_event) const {
        detail::Status status;
        Events events(on_event);
        uint64_t n_active = 0;
        const int32_t code = table_.step(handle(), wait_ms, &Engine::on_event, &events, &n_active, status.get());
        if (events.thrown) std::rethrow_exception(events.thrown);
        status.check(code, "engine step");
        return n_active;
    }

    /// [any-thread, from callbacks too] False: there is no such request, or it has ended.
    bool cancel(uint64_t request) const {
        detail::Status status;
        const int32_t code = table_.cancel(handle(), request, status.get());
        if (code != QP_NOT_FOUND) status.check(code, "engine cancel");
        return code == QP_OK;
    }

    /// [any-thread, from callbacks too] Ends the wait of this or the next step.
    void wake() const {
        detail::Status status;
        status.check(table_.wake(handle(), status.get()), "engine wake");
    }

    /// [any-thread, from callbacks too]
    qp_engine_status status() const {
        detail::Status status;
        qp_engine_status out = make<qp_engine_status>();
        status.check(table_.status(handle(), &out, status.get()), "engine status");
        return out;
    }

 private:
    struct Events {
        const EngineEventFn& fn;
        std::exception_ptr thrown;
        explicit Events(const EngineEventFn& f) : fn(f), thrown() {}
    };

    static int32_t QP_CALL on_event(void* user, uint64_t request, const qp_event* event) noexcept {
        Events& events = *static_cast<Events*>(user);
        try {
            return !events.fn || events.fn(request, copy_sized(event)) ? 0 : 1;
        } catch (...) {
            if (!events.thrown) events.thrown = std::current_exception();
            return 1;
        }
    }

    qp_model* handle() const {
        if (!model_->handle) throw Error(QP_FAILED_PRECONDITION, "the model is unloaded: load it again");
        return model_->handle;
    }

    std::shared_ptr<detail::ModelState> model_;
    qp_engine table_;
};

/// quantplug.chat/1: JSON in and out, as ext/chat.h has it. [any-thread]
class Chat {
 public:
    explicit Chat(const Model& model) : model_(model), table_() {
        table_ = detail::extension<qp_chat>(model.hooks(), QP_EXT_CHAT, model.state_->plugin->name);
    }

    std::string render(const std::string& request_json) const {
        return call("chat render", [&](void* user, qp_error* error) {
            return table_.render(model_.handle(), request_json.c_str(), &Chat::on_result, user, error);
        });
    }
    std::string parse(const std::string& request_json) const {
        return call("chat parse", [&](void* user, qp_error* error) {
            return table_.parse(model_.handle(), request_json.c_str(), &Chat::on_result, user, error);
        });
    }
    std::string describe() const {
        return call("chat describe", [&](void* user, qp_error* error) {
            return table_.describe(model_.handle(), &Chat::on_result, user, error);
        });
    }

 private:
    struct Result {
        std::string json;
        std::exception_ptr thrown;
        Result() : json(), thrown() {}
    };

    static int32_t QP_CALL on_result(void* user, const char* json) noexcept {
        Result& result = *static_cast<Result*>(user);
        try {
            result.json = json ? json : "";
            return 0;
        } catch (...) {
            result.thrown = std::current_exception();
            return 1;
        }
    }

    template <class Call>
    static std::string call(const char* hook, Call call_hook) {
        detail::Status status;
        Result result;
        const int32_t code = call_hook(&result, status.get());
        if (result.thrown) std::rethrow_exception(result.thrown);
        status.check(code, hook);
        if (result.json.empty())
            throw Error(QP_INTERNAL,
                        "the plugin's " + std::string(hook) + " gave no result and no error: report it to its author");
        return result.json;
    }

    Model model_;
    qp_chat table_;
};

}  // namespace quantplug

#endif
