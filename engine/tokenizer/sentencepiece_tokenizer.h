// A tokenizer made from a tokenizer.model, through libquantplug_sentencepiece.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/tokenizer.h"

namespace quantplug::engine {

/// `bytes` is what the file `model` holds. Errors name the file: no SentencePiece model, libquantplug_sentencepiece
/// missing.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& model, std::string_view bytes,
                                              const SpecialTokens& names);

}  // namespace quantplug::engine
