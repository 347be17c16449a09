// Which names a scope holds from its beginning. jinja2 decides this before it runs a template: a name that a scope
// assigns, outside of conditions and before it reads it, is the scope's own, and undefined until then, for scopes
// inside too.
#pragma once

#include "engine/chat/jinja/ast.h"

namespace quantplug::engine::jinja {

/// Fills `unset` of the template, its macros and its statements.
void find_unset_names(Syntax& syntax);

}  // namespace quantplug::engine::jinja
