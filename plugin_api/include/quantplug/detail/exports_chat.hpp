// exports_chat.hpp - the table of chat/1. Included by exports.hpp. C++17.
#ifndef QUANTPLUG_DETAIL_EXPORTS_CHAT_HPP
#define QUANTPLUG_DETAIL_EXPORTS_CHAT_HPP

#include <quantplug/detail/model_handle.hpp>

namespace quantplug::backend::detail {

template <class B>
struct QUANTPLUG_HIDDEN ChatExports {
    static constexpr State& state = StateOf<B>::state;

    static int32_t QP_CALL render(qp_model* model, const char* request_json, qp_json_event_fn on_result, void* user,
                                  qp_error* error) noexcept {
        return answer("chat render", model, on_result, user, error, [&](const Model& object) {
            return object.chat_render(need(request_json, "chat render", "request_json"));
        });
    }

    static int32_t QP_CALL parse(qp_model* model, const char* request_json, qp_json_event_fn on_result, void* user,
                                 qp_error* error) noexcept {
        return answer("chat parse", model, on_result, user, error, [&](const Model& object) {
            return object.chat_parse(need(request_json, "chat parse", "request_json"));
        });
    }

    static int32_t QP_CALL describe(qp_model* model, qp_json_event_fn on_result, void* user, qp_error* error) noexcept {
        return answer("chat describe", model, on_result, user, error,
                      [](const Model& object) { return object.chat_describe(); });
    }

    static constexpr qp_chat table = {sizeof(qp_chat), 0, render, parse, describe};

 private:
    /// The document that make(const Model&) returns, to the host once; what the callback answers does not matter.
    template <class Make>
    static int32_t answer(const char* hook, qp_model* model, qp_json_event_fn on_result, void* user, qp_error* error,
                          Make&& make_document) noexcept {
        return guarded(state, hook, error, [&](const Backend&) {
            need(on_result, hook, "on_result");
            ModelHandle& handle = ModelHandle::from(model, hook);
            const ModelCall call(handle, hook);
            const std::string document = make_document(*handle.model);
            on_result(user, document.c_str());
            set_default_float_state();
        });
    }
};

}  // namespace quantplug::backend::detail

#endif
