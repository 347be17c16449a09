// Python's two ways of formatting: "%s" % values and "{}".format(values).
#pragma once

#include "engine/chat/jinja/registry.h"
#include "engine/chat/jinja/value.h"

namespace quantplug::engine::jinja {

/// `values`: a tuple, a dict for %(name)s, or one value.
Text format_percent(Context& context, const Text& pattern, const Value& values);
Text format_braces(Evaluator& evaluator, const Text& pattern, const Arguments& arguments);

}  // namespace quantplug::engine::jinja
