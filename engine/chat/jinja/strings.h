// Python's string functions on texts, with the marks kept.
#pragma once

#include <string_view>
#include <vector>

#include "engine/chat/jinja/context.h"
#include "engine/chat/jinja/text.h"
#include "engine/chat/jinja/value.h"

namespace quantplug::engine::jinja {

/// `chars` null: white space.
Text strip(Context& context, const Text& text, const std::string* chars, bool left, bool right);
/// `count` < 0: all.
Text replace(Context& context, const Text& text, const std::string& old_bytes, const Text& fresh, int64_t count);
/// `separator` null: runs of white space. `most` < 0: all. From the right where `from_right`.
std::vector<Text> split(Context& context, const Text& text, const std::string* separator, int64_t most,
                        bool from_right);
std::vector<Text> split_lines(Context& context, const Text& text, bool keep_ends);
Text join(Context& context, const std::vector<Text>& parts, const Text& separator);
/// Filled up to `width` code points; in front where `right` aligns, else behind; both: str.center.
Text pad(Context& context, const Text& text, int64_t width, std::string_view fill, bool in_front, bool behind);

/// Of what is safe already: itself.
Text escape_html(Context& context, const Text& text);
/// jinja2's title filter: a letter behind white space, '-' or an opening bracket is large.
Text title_filter(Context& context, const Text& text);
Text indent(Context& context, const Text& text, const Text& indentation, bool first, bool blank);

/// float() and int() of a string; false where it is none.
bool parse_float(std::string_view text, double& out);
bool parse_integer(const Context& context, std::string_view text, int64_t base, int64_t& out);

// Arguments of filters and methods: a failure that names `what` where they are of another type.
const Text& string_argument(const Context& context, const Value& value, std::string_view what);
int64_t integer_argument(const Context& context, const Value& value, std::string_view what);

}  // namespace quantplug::engine::jinja
