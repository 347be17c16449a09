// The word model of a tokenizer file: its vocabulary and merges checked and put into tables.
#pragma once

#include <memory>
#include <string_view>

#include "engine/tokenizer/tokenizer_file.h"
#include "engine/tokenizer/word_model.h"

namespace quantplug::engine {

/// One past the largest id that a vocabulary of n entries may have: ids may have holes, 65,536 in all.
int32_t token_id_limit(size_t n_entries);

/// `raw_bytes`: words come as bytes (PreTokenizer::raw_bytes()). Errors name `name` and the token: ids or tokens twice,
/// merges of tokens that are not there, an unk_id outside the vocabulary, options that change the ids and are unknown.
std::unique_ptr<WordModel> make_word_model(const TokenizerFile& file, bool raw_bytes, std::string_view name);

}  // namespace quantplug::engine
