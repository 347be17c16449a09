// Values of a template: Python's, as far as templates see them. All but namespaces are immutable, as in jinja2's
// ImmutableSandboxedEnvironment.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/chat/jinja/context.h"
#include "engine/chat/jinja/text.h"

namespace quantplug::engine::jinja {

enum class Kind : uint8_t {
    undefined,
    none,
    boolean,
    integer,
    real,
    string,
    sequence,
    dict,
    range,
    space,  // namespace()
    function,
    macro,
    loop,
};

/// Counted against the context's limit where it has one (constants of the template have none). A context outlives its
/// objects.
struct Object {
    Object(Context* owner, uint64_t content, int depth_inside);
    virtual ~Object();
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;

    Context* const context;
    const uint64_t bytes;
    const int depth;  // of the values inside
};

struct StringObject;
struct SequenceObject;
struct DictObject;

class Value {
 public:
    Value() = default;  // undefined without a name
    static Value none() { return Value(Kind::none); }
    static Value boolean(bool value);
    static Value integer(int64_t value);
    static Value real(double value);
    static Value string(Context* context, Text text);
    static Value undefined(Context& context, std::string why, bool unsafe = false);
    Value(Kind kind, std::shared_ptr<Object> object) : kind_(kind), object_(std::move(object)) {}

    Kind kind() const { return kind_; }
    bool is(Kind kind) const { return kind_ == kind; }
    bool is_integral() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
    bool is_number() const { return is_integral() || kind_ == Kind::real; }

    bool as_bool() const { return integer_ != 0; }
    int64_t as_integer() const { return integer_; }  // of booleans too
    double as_real() const { return kind_ == Kind::real ? real_ : double(integer_); }
    const Text& text() const;
    const std::string& bytes() const { return text().bytes(); }
    const SequenceObject& sequence() const;
    SequenceObject& sequence();
    const DictObject& dict() const;
    template <typename T>
    T& as() const {
        return static_cast<T&>(*object_);
    }
    const Object* object() const { return object_.get(); }
    int depth() const { return object_ ? object_->depth : 0; }

 private:
    explicit Value(Kind kind) : kind_(kind) {}

    Kind kind_ = Kind::undefined;
    union {
        int64_t integer_ = 0;
        double real_;
    };
    std::shared_ptr<Object> object_;
};

struct StringObject : Object {
    StringObject(Context* owner, Text value) : Object(owner, value.size(), 0), text(std::move(value)) {}
    const Text text;
};

struct UndefinedObject : Object {
    UndefinedObject(Context& owner, std::string message, bool is_unsafe)
        : Object(&owner, message.size(), 0), why(std::move(message)), unsafe(is_unsafe) {}
    const std::string why;
    const bool unsafe;  // the sandbox's
};

/// How Python calls a sequence: what it prints as, and whether it has a length or an index.
enum class Flavour : uint8_t { list, tuple, generator, keys, values, items };

struct SequenceObject : Object {
    SequenceObject(Context& owner, Flavour kind, std::vector<Value> values, bool is_named = false);
    const Flavour flavour;
    const std::vector<Value> items;
    const bool named = false;  // a pair of groupby: .grouper and .list
    size_t taken = 0;          // of a generator: elements that are gone
    bool sized() const { return flavour != Flavour::generator; }
    bool indexed() const { return flavour == Flavour::list || flavour == Flavour::tuple; }
};

struct DictObject : Object {
    using Items = std::vector<std::pair<Value, Value>>;
    /// `items` have keys that differ (make_dict).
    DictObject(Context& owner, Items values, std::unordered_map<std::string, size_t> index);
    const Items items;
    const Value* find(Context& at, const Value& key) const;  // null: not there
    const Value* find(std::string_view key) const;

 private:
    const std::unordered_map<std::string, size_t> index_;  // by hash_key; empty where there are few items
};

struct RangeObject : Object {
    RangeObject(Context& owner, int64_t from, int64_t to, int64_t by)
        : Object(&owner, 0, 0), start(from), stop(to), step(by) {}
    const int64_t start, stop, step;
    int64_t size() const;
    int64_t at(int64_t i) const { return start + i * step; }
};

struct SpaceObject : Object {
    explicit SpaceObject(Context& owner) : Object(&owner, 0, 0) {}
    DictObject::Items items;  // keys are strings
    Value* find(std::string_view name);
};

class Evaluator;
struct Arguments;

/// A global function, or a method with the value that it belongs to.
struct FunctionObject : Object {
    using Call = Value (*)(Evaluator&, const Value& self, Arguments& arguments);
    FunctionObject(Context& owner, std::string_view called, Call body, Value belongs_to)
        : Object(&owner, 0, belongs_to.depth() + 1), name(called), call(body), self(std::move(belongs_to)) {}
    const std::string_view name;  // of a table of constants
    const Call call;
    const Value self;
};

Value make_string(Context& context, Text text);
Value make_string(Context& context, std::string_view plain);
Value make_sequence(Context& context, Flavour flavour, std::vector<Value> items);
inline Value make_list(Context& context, std::vector<Value> items) {
    return make_sequence(context, Flavour::list, std::move(items));
}
/// Of equal keys the last value wins, at the place of the first. Keys must be hashable.
Value make_dict(Context& context, DictObject::Items items);

/// What a dict knows a key by: equal for equal keys. Fails for what is not hashable.
std::string hash_key(Context& context, const Value& key);

/// Python's name of its type: "str", "int", "dict".
std::string_view type_name(const Value& value);

}  // namespace quantplug::engine::jinja
