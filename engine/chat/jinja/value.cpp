#include "engine/chat/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "engine/chat/jinja/print.h"

namespace quantplug::engine::jinja {
namespace {

constexpr size_t index_from = 8;  // items of a dict that are searched one by one

int deepest(const std::vector<Value>& items) {
    int depth = 0;
    for (const Value& item : items) depth = std::max(depth, item.depth());
    return depth + 1;
}

int deepest(const DictObject::Items& items) {
    int depth = 0;
    for (const auto& item : items) depth = std::max({depth, item.first.depth(), item.second.depth()});
    return depth + 1;
}

}  // namespace

Object::Object(Context* owner, uint64_t content, int depth_inside)
    : context(owner), bytes(content + 64), depth(depth_inside) {
    if (!context) return;
    if (depth > max_value_depth) context->exhausted("nests values too deeply");
    context->grow(bytes);
}

Object::~Object() {
    if (context) context->shrink(bytes);
}

Value Value::boolean(bool value) {
    Value out(Kind::boolean);
    out.integer_ = value;
    return out;
}

Value Value::integer(int64_t value) {
    Value out(Kind::integer);
    out.integer_ = value;
    return out;
}

Value Value::real(double value) {
    Value out(Kind::real);
    out.real_ = value;
    return out;
}

Value Value::string(Context* context, Text text) {
    return Value(Kind::string, std::make_shared<StringObject>(context, std::move(text)));
}

Value Value::undefined(Context& context, std::string why, bool unsafe) {
    return Value(Kind::undefined, std::make_shared<UndefinedObject>(context, std::move(why), unsafe));
}

const Text& Value::text() const { return as<StringObject>().text; }
const SequenceObject& Value::sequence() const { return as<SequenceObject>(); }
SequenceObject& Value::sequence() { return as<SequenceObject>(); }
const DictObject& Value::dict() const { return as<DictObject>(); }

SequenceObject::SequenceObject(Context& owner, Flavour kind, std::vector<Value> values, bool is_named)
    : Object(&owner, values.size() * sizeof(Value), deepest(values)),
      flavour(kind),
      items(std::move(values)),
      named(is_named) {}

DictObject::DictObject(Context& owner, Items values, std::unordered_map<std::string, size_t> index)
    : Object(&owner, values.size() * 2 * sizeof(Value), deepest(values)),
      items(std::move(values)),
      index_(std::move(index)) {}

const Value* DictObject::find(Context& at, const Value& key) const {
    if (key.is(Kind::string)) return find(key.bytes());
    const std::string wanted = hash_key(at, key);
    if (!index_.empty()) {
        const auto it = index_.find(wanted);
        return it == index_.end() ? nullptr : &items[it->second].second;
    }
    for (const auto& [one, value] : items)
        if (!one.is(Kind::string) && hash_key(at, one) == wanted) return &value;
    return nullptr;
}

const Value* DictObject::find(std::string_view key) const {
    if (!index_.empty()) {
        const auto it = index_.find(std::string("s").append(key));
        return it == index_.end() ? nullptr : &items[it->second].second;
    }
    for (const auto& [one, value] : items)
        if (one.is(Kind::string) && one.bytes() == key) return &value;
    return nullptr;
}

int64_t RangeObject::size() const {
    if (step > 0) return start < stop ? (stop - start - 1) / step + 1 : 0;
    return start > stop ? (start - stop - 1) / -step + 1 : 0;
}

Value* SpaceObject::find(std::string_view name) {
    for (auto& [key, value] : items)
        if (key.bytes() == name) return &value;
    return nullptr;
}

Value make_string(Context& context, Text text) {
    context.check_text(text.size());
    context.touch(text.size());
    return Value::string(&context, std::move(text));
}

Value make_string(Context& context, std::string_view plain) { return make_string(context, Text(std::string(plain))); }

Value make_sequence(Context& context, Flavour flavour, std::vector<Value> items) {
    context.step(1 + items.size());
    return Value(Kind::sequence, std::make_shared<SequenceObject>(context, flavour, std::move(items)));
}

Value make_dict(Context& context, DictObject::Items items) {
    context.step(1 + items.size());
    std::unordered_map<std::string, size_t> index;
    DictObject::Items kept;
    for (auto& [key, value] : items) {
        const auto [it, fresh] = index.emplace(hash_key(context, key), kept.size());
        if (fresh)
            kept.emplace_back(std::move(key), std::move(value));
        else
            kept[it->second].second = std::move(value);
    }
    if (kept.size() <= index_from) index.clear();
    return Value(Kind::dict, std::make_shared<DictObject>(context, std::move(kept), std::move(index)));
}

std::string hash_key(Context& context, const Value& key) {
    switch (key.kind()) {
        case Kind::string:
            return "s" + key.bytes();
        case Kind::none:
            return "0";
        case Kind::boolean:
        case Kind::integer:
            return "n" + std::to_string(key.as_integer());
        case Kind::real: {
            const double value = key.as_real();
            if (value == std::floor(value) && std::abs(value) < 9e18) return "n" + std::to_string(int64_t(value));
            return "f" + float_repr(value);
        }
        case Kind::sequence:
            if (key.sequence().flavour == Flavour::tuple) {
                std::string out = "t";
                for (const Value& item : key.sequence().items) {
                    const std::string one = hash_key(context, item);
                    out += std::to_string(one.size()) + ":" + one;
                }
                context.touch(out.size());
                return out;
            }
            [[fallthrough]];
        case Kind::dict:
            context.fail("a ", type_name(key), " cannot be the key of a dict");
        default:
            return "p" + std::to_string(reinterpret_cast<uintptr_t>(key.object()));
    }
}

std::string_view type_name(const Value& value) {
    switch (value.kind()) {
        case Kind::undefined:
            return "Undefined";
        case Kind::none:
            return "NoneType";
        case Kind::boolean:
            return "bool";
        case Kind::integer:
            return "int";
        case Kind::real:
            return "float";
        case Kind::string:
            return "str";
        case Kind::sequence:
            switch (value.sequence().flavour) {
                case Flavour::list:
                    return "list";
                case Flavour::tuple:
                    return "tuple";
                case Flavour::generator:
                    return "generator";
                case Flavour::keys:
                    return "dict_keys";
                case Flavour::values:
                    return "dict_values";
                case Flavour::items:
                    return "dict_items";
            }
            break;
        case Kind::dict:
            return "dict";
        case Kind::range:
            return "range";
        case Kind::space:
            return "Namespace";
        case Kind::function:
            return "function";
        case Kind::macro:
            return "Macro";
        case Kind::loop:
            return "LoopContext";
    }
    return "object";
}

}  // namespace quantplug::engine::jinja
