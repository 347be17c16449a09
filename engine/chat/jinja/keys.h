// Attributes by path ("a.b.0") and keys that filters sort and compare by.
#pragma once

#include <string>
#include <vector>

#include "engine/chat/jinja/evaluator.h"

namespace quantplug::engine::jinja {

/// `attribute` of map, sort, sum, groupby: a string with dots, an integer, or null for the element itself.
class AttributePath {
 public:
    AttributePath(Context& context, const Value* attribute);
    Value of(Evaluator& evaluator, const Value& element, const Value* otherwise = nullptr) const;

 private:
    std::vector<Value> parts_;
};

/// The element's key for sorting: its attribute, in lower case unless the case counts.
Value sort_key(Evaluator& evaluator, const AttributePath& path, const Value& element, bool case_sensitive,
               const Value* otherwise = nullptr);

bool truth_of(const Value* argument);  // false where it is not given

/// A reversed string, or the elements from the last on.
Value reversed(Evaluator& evaluator, const Value& value);

}  // namespace quantplug::engine::jinja
