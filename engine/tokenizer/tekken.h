// Mistral's tekken.json: a byte-level vocabulary whose ranks are its ids behind the special tokens, with the expression
// that cuts words and the special tokens in the file.
#pragma once

#include <memory>
#include <string_view>

#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/tokenizer.h"

namespace quantplug::engine {

/// Reads without building a document of the vocabulary. Errors name `name` and the key.
std::unique_ptr<Tokenizer> parse_tekken(std::string_view json, SpecialTokens names, std::string_view name);

}  // namespace quantplug::engine
