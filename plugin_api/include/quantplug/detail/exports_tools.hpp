// exports_tools.hpp - the tables of tools/1 and quantize/1. Included by exports.hpp. C++17.
#ifndef QUANTPLUG_DETAIL_EXPORTS_TOOLS_HPP
#define QUANTPLUG_DETAIL_EXPORTS_TOOLS_HPP

#include <quantplug/detail/barrier.hpp>

namespace quantplug::backend::detail {

template <class B>
struct QUANTPLUG_HIDDEN ToolExports {
    static constexpr State& state = StateOf<B>::state;

    static int32_t QP_CALL tools_get(uint32_t index, qp_tool_info* out, qp_error* error) noexcept {
        return guarded(state, "tools get", error, [&](const Backend& backend) {
            write_out(out, "tools get", [&](qp_tool_info& full) {
                if (!backend.tool(index, full))
                    throw Error(QP_NOT_FOUND, "there is no tool number " + std::to_string(index));
            });
        });
    }

    static int32_t QP_CALL tools_run(const char* name, const char* arguments_json, qp_json_event_fn on_event,
                                     void* user, qp_error* error) noexcept {
        return guarded(state, "tools run", error, [&](const Backend& backend) {
            need(name, "tools run", "name");
            need(arguments_json, "tools run", "arguments_json");
            std::string names;
            for (uint32_t i = 0;; ++i) {
                qp_tool_info info = make<qp_tool_info>();
                if (!backend.tool(i, info))
                    throw Error(QP_NOT_FOUND, "unknown tool '" + std::string(name) + "': this plugin has " +
                                                  (names.empty() ? "none" : names));
                if (std::string_view(info.name) == name) break;
                names.append(names.empty() ? "" : ", ").append(info.name);
            }
            JsonEvents events(on_event, user);
            backend.run_tool(name, arguments_json, events);
        });
    }

    static int32_t QP_CALL quantize_describe(qp_tool_info* out, qp_error* error) noexcept {
        return guarded(state, "quantize describe", error, [&](const Backend& backend) {
            write_out(out, "quantize describe", [&](qp_tool_info& full) { backend.quantizer(full); });
        });
    }

    static int32_t QP_CALL quantize_run(const char* arguments_json, qp_json_event_fn on_event, void* user,
                                        qp_error* error) noexcept {
        return guarded(state, "quantize run", error, [&](const Backend& backend) {
            need(arguments_json, "quantize run", "arguments_json");
            JsonEvents events(on_event, user);
            backend.quantize(arguments_json, events);
        });
    }

    static constexpr qp_tools tools_table = {sizeof(qp_tools), 0, tools_get, tools_run};
    static constexpr qp_quantize quantize_table = {sizeof(qp_quantize), 0, quantize_describe, quantize_run};
};

}  // namespace quantplug::backend::detail

#endif
