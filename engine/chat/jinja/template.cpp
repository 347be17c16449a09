#include "engine/chat/jinja/template.h"

#include <nlohmann/json.hpp>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/parser.h"

namespace quantplug::engine::jinja {
namespace {

Value from_json(Context& context, const nlohmann::ordered_json& json, bool marked, int depth) {
    if (depth > max_value_depth) context.exhausted("is given values that are nested too deeply");
    switch (json.type()) {
        case nlohmann::ordered_json::value_t::boolean:
            return Value::boolean(json.get<bool>());
        case nlohmann::ordered_json::value_t::number_integer:
            return Value::integer(json.get<int64_t>());
        case nlohmann::ordered_json::value_t::number_unsigned:
            if (json.get<uint64_t>() > uint64_t{INT64_MAX})
                context.fail("the integer ", json.get<uint64_t>(), " does not fit in 64 bits");
            return Value::integer(json.get<int64_t>());
        case nlohmann::ordered_json::value_t::number_float:
            return Value::real(json.get<double>());
        case nlohmann::ordered_json::value_t::string:
            return make_string(context, Text(json.get_ref<const std::string&>(), marked));
        case nlohmann::ordered_json::value_t::array: {
            std::vector<Value> items;
            for (const auto& one : json) items.push_back(from_json(context, one, marked, depth + 1));
            return make_list(context, std::move(items));
        }
        case nlohmann::ordered_json::value_t::object: {
            DictObject::Items items;
            for (const auto& one : json.items())
                items.emplace_back(make_string(context, Text(one.key(), marked)),
                                   from_json(context, one.value(), marked, depth + 1));
            return make_dict(context, std::move(items));
        }
        default:
            return Value::none();
    }
}

Syntax parse(std::string_view source, const std::string& name) {
    if (source.size() > max_template_bytes)
        fail(Code::resource_exhausted, name, " has ", source.size(), " bytes, more than the ", max_template_bytes,
             " that a template may have");
    return Parser(source, name).parse();
}

}  // namespace

Template::Template(std::string_view source, std::string name) : name_(std::move(name)), syntax_(parse(source, name_)) {}

Text Template::render(std::span<const Variable> variables, std::time_t now, const Limits& limits) const {
    Context context(name_, limits, now);
    Evaluator evaluator(syntax_, context);
    for (const Variable& one : variables)
        evaluator.set_variable(one.name, from_json(context, *one.value, one.marked, 0));
    return evaluator.run();
}

}  // namespace quantplug::engine::jinja
