// + - * / // % ** of numbers, strings and lists.
#include <cmath>
#include <limits>

#include "engine/chat/jinja/format.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/strings.h"

namespace quantplug::engine::jinja {
namespace {

constexpr const char* symbol_of(Op op) {
    switch (op) {
        case Op::add:
            return "+";
        case Op::subtract:
            return "-";
        case Op::multiply:
            return "*";
        case Op::divide:
            return "/";
        case Op::floor_divide:
            return "//";
        case Op::modulo:
            return "%";
        default:
            return "**";
    }
}

void check(Context& context, bool overflow) {
    if (overflow) context.fail("an integer does not fit in 64 bits");
}

int64_t integer_power(Context& context, int64_t base, int64_t exponent) {
    int64_t out = 1;
    while (exponent > 0) {
        if (exponent & 1) {
            const int64_t before = out;
            check(context, __builtin_mul_overflow(before, base, &out));
        }
        exponent >>= 1;
        if (exponent > 0) {
            const int64_t before = base;
            check(context, __builtin_mul_overflow(before, before, &base));
        }
    }
    return out;
}

Value integers(Context& context, Op op, int64_t a, int64_t b) {
    int64_t out = 0;
    switch (op) {
        case Op::add:
            check(context, __builtin_add_overflow(a, b, &out));
            return Value::integer(out);
        case Op::subtract:
            check(context, __builtin_sub_overflow(a, b, &out));
            return Value::integer(out);
        case Op::multiply:
            check(context, __builtin_mul_overflow(a, b, &out));
            return Value::integer(out);
        case Op::power:
            if (b >= 0) return Value::integer(integer_power(context, a, b));
            if (a == 0) context.fail("zero cannot be raised to a negative power");
            return Value::real(std::pow(static_cast<double>(a), static_cast<double>(b)));
        default:
            break;
    }
    if (b == 0) context.fail("division by zero");
    if (op == Op::divide) return Value::real(static_cast<double>(a) / static_cast<double>(b));
    if (a == INT64_MIN && b == -1) {
        if (op == Op::modulo) return Value::integer(0);
        check(context, true);
    }
    int64_t quotient = a / b, rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) {  // towards minus infinity
        --quotient;
        rest += b;
    }
    return Value::integer(op == Op::floor_divide ? quotient : rest);
}

Value reals(Context& context, Op op, double a, double b) {
    switch (op) {
        case Op::add:
            return Value::real(a + b);
        case Op::subtract:
            return Value::real(a - b);
        case Op::multiply:
            return Value::real(a * b);
        case Op::power: {
            if (a == 0 && b < 0) context.fail("zero cannot be raised to a negative power");
            if (a < 0 && b != std::floor(b)) context.fail("a negative number to a fraction is no real number");
            const double out = std::pow(a, b);
            if (std::isinf(out) && std::isfinite(a) && std::isfinite(b)) context.fail("a number is too large");
            return Value::real(out);
        }
        default:
            break;
    }
    if (b == 0) context.fail("division by zero");
    if (op == Op::divide) return Value::real(a / b);
    // As float.__divmod__ does it.
    double rest = std::fmod(a, b);
    double quotient = (a - rest) / b;
    if (rest != 0) {
        if ((b < 0) != (rest < 0)) {
            rest += b;
            quotient -= 1;
        }
    } else {
        rest = std::copysign(0.0, b);
    }
    if (op == Op::modulo) return Value::real(rest);
    if (quotient == 0) return Value::real(std::copysign(0.0, a / b));
    double whole = std::floor(quotient);
    if (quotient - whole > 0.5) whole += 1;
    return Value::real(whole);
}

Value repeated(Context& context, const Value& value, int64_t n) {
    const auto times = static_cast<uint64_t>(std::max<int64_t>(n, 0));
    if (value.is(Kind::string)) {
        const uint64_t size = value.text().size();
        if (size > 0 && times > context.limits.text_bytes / size) context.exhausted("makes too long a text");
        Text out;
        for (uint64_t i = 0; size > 0 && i < times; ++i) {
            context.step();
            out.append(value.text());
        }
        return make_string(context, out.as_safe(value.text().safe()));
    }
    const auto& items = value.sequence().items;
    if (!items.empty() && times > context.limits.bytes / sizeof(Value) / items.size())
        context.exhausted("needs too much memory");
    context.step(items.size() * times);
    std::vector<Value> out;
    for (uint64_t i = 0; !items.empty() && i < times; ++i) out.insert(out.end(), items.begin(), items.end());
    return make_sequence(context, value.sequence().flavour, std::move(out));
}

bool repeatable(const Value& value) {
    return value.is(Kind::string) || (value.is(Kind::sequence) && value.sequence().indexed());
}

}  // namespace

Value arithmetic(Context& context, Op op, const Value& a, const Value& b) {
    if (a.is(Kind::undefined)) fail_undefined(context, a);
    if (op == Op::modulo && a.is(Kind::string)) return make_string(context, format_percent(context, a.text(), b));
    if (b.is(Kind::undefined)) fail_undefined(context, b);
    if (a.is_integral() && b.is_integral()) return integers(context, op, a.as_integer(), b.as_integer());
    if (a.is_number() && b.is_number()) return reals(context, op, a.as_real(), b.as_real());
    if (op == Op::add && a.is(Kind::string) && b.is(Kind::string)) {
        context.check_text(a.text().size() + b.text().size());
        const bool safe = a.text().safe() || b.text().safe();
        Text out = safe ? escape_html(context, a.text()) : a.text();
        out.append(safe ? escape_html(context, b.text()) : b.text());
        return make_string(context, std::move(out));
    }
    if (op == Op::add && a.is(Kind::sequence) && b.is(Kind::sequence) && a.sequence().indexed() &&
        a.sequence().flavour == b.sequence().flavour) {
        std::vector<Value> out = a.sequence().items;
        out.insert(out.end(), b.sequence().items.begin(), b.sequence().items.end());
        return make_sequence(context, a.sequence().flavour, std::move(out));
    }
    if (op == Op::multiply && repeatable(a) && b.is_integral()) return repeated(context, a, b.as_integer());
    if (op == Op::multiply && repeatable(b) && a.is_integral()) return repeated(context, b, a.as_integer());
    context.fail("a ", type_name(a), " ", symbol_of(op), " a ", type_name(b), " is not possible");
}

Value negative(Context& context, const Value& value) {
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (value.is(Kind::real)) return Value::real(-value.as_real());
    if (!value.is_integral()) context.fail("a ", type_name(value), " has no negative");
    if (value.as_integer() == INT64_MIN) context.fail("an integer does not fit in 64 bits");
    return Value::integer(-value.as_integer());
}

}  // namespace quantplug::engine::jinja
