// Filters, tests, methods and global functions by name.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/chat/jinja/value.h"

namespace quantplug::engine::jinja {

/// Evaluated arguments of a call.
struct Arguments {
    std::vector<Value> positional;
    std::vector<std::pair<std::string, Value>> named;

    /// Pointers to the arguments in the order of `names`, null where one is not given. Fails for others, and where one
    /// of the first `required` is missing.
    template <size_t N>
    std::array<const Value*, N> bind(const Context& context, std::string_view what,
                                     const std::array<std::string_view, N>& names, size_t required = 0) const {
        std::array<const Value*, N> out{};
        bind(context, what, names, out, required);
        return out;
    }

 private:
    void bind(const Context& context, std::string_view what, std::span<const std::string_view> names,
              std::span<const Value*> out, size_t required) const;
};

using FilterFunction = Value (*)(Evaluator&, const Value& value, Arguments& arguments);
using TestFunction = bool (*)(Evaluator&, const Value& value, Arguments& arguments);

/// Null where there is none of that name.
FilterFunction find_filter(std::string_view name);
TestFunction find_test(std::string_view name);
FunctionObject::Call find_global(std::string_view name);
/// Methods of strings and of containers; `name` of the result belongs to the table.
struct Method {
    std::string_view name;
    FunctionObject::Call call = nullptr;
};
Method find_string_method(std::string_view name);
Method find_container_method(Kind kind, std::string_view name);

struct NamedFilter {
    std::string_view name;
    FilterFunction function;
};
std::span<const NamedFilter> text_filters();
std::span<const NamedFilter> number_filters();
std::span<const NamedFilter> sequence_filters();
std::span<const NamedFilter> selection_filters();

}  // namespace quantplug::engine::jinja
