// Python's operators on values. What Python raises fails with the context's line.
#pragma once

#include "engine/chat/jinja/ast.h"
#include "engine/chat/jinja/value.h"

namespace quantplug::engine::jinja {

/// An undefined value in an operation that needs one.
[[noreturn]] void fail_undefined(const Context& context, const Value& value);

bool truth(const Value& value);
bool equal(Context& context, const Value& a, const Value& b);
/// a < b.
bool less(Context& context, const Value& a, const Value& b);
bool compare(Context& context, Comparison comparison, const Value& a, const Value& b);
bool contains(Context& context, const Value& container, const Value& value);

Value arithmetic(Context& context, Op op, const Value& a, const Value& b);
Value negative(Context& context, const Value& value);

/// len(); a failure where there is none.
int64_t length(Context& context, const Value& value);
bool has_length(const Value& value);
bool is_iterable(const Value& value);
/// What a for loop would see: elements, keys, characters. Takes the elements of a generator.
std::vector<Value> elements(Context& context, const Value& value);

/// value[key]: undefined where it is not there.
Value get_item(Context& context, const Value& value, const Value& key);
/// Bounds may be undefined C++ values (Kind::undefined without an object): not given.
Value slice(Context& context, const Value& value, const Value* first, const Value* last, const Value* step);

}  // namespace quantplug::engine::jinja
