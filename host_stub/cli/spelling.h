// ExLlamaV2's spellings: one dash and several letters.
#pragma once

#include <string>
#include <vector>

namespace quantplug::host {

/// `arguments` (without the program's name) with ExLlamaV2's spellings as their long forms: -cf -> --compile-full, -hb
/// -> --head-bits and so on. CLI11 alone reads `-mode x` as `-m ode x`. Left alone: what follows "--", and the value of
/// a flag that takes text (-p, --prompt, --stop, --system, --dry-sequence-breakers).
std::vector<std::string> expand_spellings(std::vector<std::string> arguments);

}  // namespace quantplug::host
