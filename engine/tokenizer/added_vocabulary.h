// The added tokens of a tokenizer: those of its file with what the files beside it say of them.
#pragma once

#include <string_view>
#include <vector>

#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/vocab.h"

namespace quantplug::engine {

/// As transformers does when it loads a tokenizer.json: an entry of added_tokens_decoder replaces the flags of the
/// token that is there, or adds it, with its id in the vocabulary or else the next free one; a token that is named
/// (eos_token, pad_token, ...) is special, one of the list additional_special_tokens if it was no added token. A name
/// that the tokenizer lacks is left out, where transformers makes up an id that the model has no row for.
std::vector<AddedToken> merge_added_tokens(std::vector<AddedToken> listed, const SpecialTokens& names,
                                           const Vocab& vocab);

}  // namespace quantplug::engine
