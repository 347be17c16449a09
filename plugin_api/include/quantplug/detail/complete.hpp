// complete.hpp - copies of a plugin's tables in which every slot can be called: missing ones answer QP_UNIMPLEMENTED.
// C++11.
#ifndef QUANTPLUG_DETAIL_COMPLETE_HPP
#define QUANTPLUG_DETAIL_COMPLETE_HPP

#include <quantplug/ext/chat.h>
#include <quantplug/ext/engine.h>
#include <quantplug/ext/logits.h>
#include <quantplug/ext/quantize.h>
#include <quantplug/ext/score.h>
#include <quantplug/ext/tools.h>
#include <quantplug/plugin.h>

#include <quantplug/common.hpp>
#include <string>

namespace quantplug {
namespace detail {

inline qp_error* last(qp_error* error) noexcept { return error; }
template <class First, class... Rest>
qp_error* last(First, Rest... rest) noexcept {
    return last(rest...);
}

/// What stands in for a missing hook, by its signature. `Name` has text(): the hook's name.
template <class Name, class Hook>
struct Stub;

template <class Name, class... Args>
struct Stub<Name, int32_t(QP_CALL*)(Args...)> {
    static int32_t QP_CALL call(Args... args) noexcept {
        char text[160];
        size_t n = 0;
        const char* parts[] = {"the plugin has no hook '", Name::text(), "': use a newer version of it, or do without"};
        for (const char* part : parts)
            for (; *part && n < sizeof text; ++part) text[n++] = *part;
        set_error(last(args...), QP_UNIMPLEMENTED, text, n);
        return QP_UNIMPLEMENTED;
    }
};
template <class Name, class... Args>
struct Stub<Name, void(QP_CALL*)(Args...)> {
    static void QP_CALL call(Args...) noexcept {}
};
template <class Name, class... Args>
struct Stub<Name, const void*(QP_CALL*)(Args...)> {
    static const void* QP_CALL call(Args...) noexcept { return nullptr; }
};

template <class Name, class Hook>
void fill(Hook& slot) noexcept {
    if (!slot) slot = &Stub<Name, Hook>::call;
}

/// Two 32-bit fields, then slots of 8 bytes: a slot that a table holds in part is not there.
template <class Table>
Table whole_slots(const Table* in) noexcept {
    Table out = make<Table>();
    const size_t size = in->struct_size < sizeof out ? in->struct_size & ~7u : sizeof out;
    std::memcpy(&out, in, size);
    out.struct_size = static_cast<uint32_t>(sizeof out);
    return out;
}

#define QUANTPLUG_FILL(table, hook)                     \
    do {                                                \
        struct Name {                                   \
            static const char* text() { return #hook; } \
        };                                              \
        ::quantplug::detail::fill<Name>((table).hook);  \
    } while (0)

inline qp_plugin complete(const qp_plugin* in) noexcept {
    qp_plugin out = whole_slots(in);
    QUANTPLUG_FILL(out, init);
    QUANTPLUG_FILL(out, deinit);
    QUANTPLUG_FILL(out, probe);
    QUANTPLUG_FILL(out, list_load_options);
    QUANTPLUG_FILL(out, inspect);
    QUANTPLUG_FILL(out, plan_memory);
    QUANTPLUG_FILL(out, load);
    QUANTPLUG_FILL(out, unload);
    QUANTPLUG_FILL(out, model_info);
    QUANTPLUG_FILL(out, default_sampling);
    QUANTPLUG_FILL(out, tokenize);
    QUANTPLUG_FILL(out, detokenize);
    QUANTPLUG_FILL(out, detokenizer_create);
    QUANTPLUG_FILL(out, detokenizer_push);
    QUANTPLUG_FILL(out, detokenizer_finish);
    QUANTPLUG_FILL(out, detokenizer_destroy);
    QUANTPLUG_FILL(out, generate);
    QUANTPLUG_FILL(out, get_extension);
    return out;
}

inline qp_score complete(const qp_score* in) noexcept {
    qp_score out = whole_slots(in);
    QUANTPLUG_FILL(out, score);
    return out;
}

inline qp_logits complete(const qp_logits* in) noexcept {
    qp_logits out = whole_slots(in);
    QUANTPLUG_FILL(out, open);
    QUANTPLUG_FILL(out, next);
    QUANTPLUG_FILL(out, close);
    return out;
}

inline qp_tools complete(const qp_tools* in) noexcept {
    qp_tools out = whole_slots(in);
    QUANTPLUG_FILL(out, get);
    QUANTPLUG_FILL(out, run);
    return out;
}

inline qp_engine complete(const qp_engine* in) noexcept {
    qp_engine out = whole_slots(in);
    QUANTPLUG_FILL(out, submit);
    QUANTPLUG_FILL(out, step);
    QUANTPLUG_FILL(out, cancel);
    QUANTPLUG_FILL(out, wake);
    QUANTPLUG_FILL(out, status);
    return out;
}

inline qp_chat complete(const qp_chat* in) noexcept {
    qp_chat out = whole_slots(in);
    QUANTPLUG_FILL(out, render);
    QUANTPLUG_FILL(out, parse);
    QUANTPLUG_FILL(out, describe);
    return out;
}

inline qp_quantize complete(const qp_quantize* in) noexcept {
    qp_quantize out = whole_slots(in);
    QUANTPLUG_FILL(out, describe);
    QUANTPLUG_FILL(out, run);
    return out;
}

#undef QUANTPLUG_FILL

/// The completed table of extension `id`; throws UNIMPLEMENTED where the plugin has none, DATA_LOSS where its size is
/// absurd.
template <class Table>
Table extension(const qp_plugin& hooks, const char* id, const std::string& plugin_name) {
    const Table* table = static_cast<const Table*>(hooks.get_extension(id));
    if (!table)
        throw Error(QP_UNIMPLEMENTED,
                    "plugin '" + plugin_name + "' has no extension " + id + ": use another plugin for this");
    const uint32_t size = table->struct_size;
    if (size < 8 || size > (1u << 16))
        throw Error(QP_DATA_LOSS, "extension " + std::string(id) + " of plugin '" + plugin_name + "' says it has " +
                                      std::to_string(size) + " bytes: the plugin is damaged");
    return complete(table);
}

}  // namespace detail
}  // namespace quantplug

#endif
