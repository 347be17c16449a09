// A tokenizer made from a tokenizer.model, through libquantplug_sentencepiece.
#pragma once

#include <filesystem>
#include <memory>

#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/tokenizer.h"

namespace quantplug::engine {

/// Errors name the file: no SentencePiece model, tiktoken text (unimplemented), libquantplug_sentencepiece missing.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& model, const SpecialTokens& names);

}  // namespace quantplug::engine
