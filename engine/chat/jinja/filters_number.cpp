// Filters that make a number.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"
#include "engine/chat/jinja/registry.h"
#include "engine/chat/jinja/strings.h"
#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {
namespace {

// int() of a float: towards zero.
Value truncated(const Context& context, double value) {
    if (!(std::abs(value) < 9.2e18)) context.fail("the number ", float_repr(value), " does not fit in 64 bits");
    return Value::integer(static_cast<int64_t>(value));
}

Value int_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [otherwise, base] = arguments.bind<2>(context, "int", {"default", "base"});
    const Value fallback = otherwise ? *otherwise : Value::integer(0);
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (value.is_integral()) return Value::integer(value.as_integer());
    if (value.is(Kind::real)) {
        if (std::isnan(value.as_real())) return fallback;
        return truncated(context, value.as_real());
    }
    if (!value.is(Kind::string)) return fallback;
    int64_t whole = 0;
    if (parse_integer(context, value.bytes(), base ? integer_argument(context, *base, "int") : 10, whole))
        return Value::integer(whole);
    double real = 0;
    if (!parse_float(value.bytes(), real) || !std::isfinite(real)) return fallback;
    return truncated(context, real);
}

Value float_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [otherwise] = arguments.bind<1>(context, "float", {"default"});
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    double real = 0;
    if (value.is_number()) return Value::real(value.as_real());
    if (value.is(Kind::string) && parse_float(value.bytes(), real)) return Value::real(real);
    return otherwise ? *otherwise : Value::real(0.0);
}

Value abs_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    (void)arguments.bind<1>(context, "abs", {"value"});
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (value.is(Kind::real)) return Value::real(std::abs(value.as_real()));
    if (!value.is_integral()) context.fail("a ", type_name(value), " has no absolute value");
    return value.as_integer() < 0 ? negative(context, value) : Value::integer(value.as_integer());
}

// round(value, precision): to even where two are equally near, of the exact value.
double rounded(double value, int64_t precision) {
    if (!std::isfinite(value) || precision > 300) return value;
    if (precision < 0) {
        const double power = std::pow(10.0, static_cast<double>(-precision));
        return std::nearbyint(value / power) * power;
    }
    char buffer[700];  // 309 digits in front of the point and 300 behind it
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), value);
    return std::strtod(buffer, nullptr);
}

Value round_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [precision, method] = arguments.bind<2>(context, "round", {"precision", "method"});
    const int64_t digits = precision ? integer_argument(context, *precision, "round") : 0;
    const std::string how = method ? string_argument(context, *method, "round").bytes() : "common";
    if (how != "common" && how != "ceil" && how != "floor") context.fail("'round' knows no method '", how, "'");
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (!value.is_number()) context.fail("a ", type_name(value), " cannot be rounded");
    if (how == "common") {
        if (value.is_integral() && digits >= 0) return Value::integer(value.as_integer());
        const double out = rounded(value.as_real(), digits);
        return value.is_integral() ? truncated(context, out) : Value::real(out);
    }
    const double power = std::pow(10.0, static_cast<double>(digits));
    const double scaled = value.as_real() * power;
    return Value::real((how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / power);
}

Value length_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    if (!arguments.positional.empty() || !arguments.named.empty())
        context.fail("the filter 'length' takes no argument");
    return Value::integer(length(context, value));
}

Value wordcount(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    if (!arguments.positional.empty()) context.fail("the filter 'wordcount' takes no argument");
    const Text text = to_text(context, value);
    context.touch(text.size() * 4);
    int64_t n = 0;
    bool inside = false;
    for (size_t i = 0; i < text.size();) {
        const CodePoint one = code_point_at(text.bytes(), i);
        const bool word = is_word(one.code);
        n += word && !inside;
        inside = word;
        i += one.length;
    }
    return Value::integer(n);
}

constexpr NamedFilter table[] = {
    {"int", int_filter},       {"float", float_filter},  {"abs", abs_filter},      {"round", round_filter},
    {"length", length_filter}, {"count", length_filter}, {"wordcount", wordcount},
};

}  // namespace

std::span<const NamedFilter> number_filters() { return table; }

}  // namespace quantplug::engine::jinja
