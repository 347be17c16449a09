// tiktoken vocabularies: text with a token in base64 and its rank in each line (Llama 3's and 4's original
// tokenizer.model, Qwen 1's qwen.tiktoken, GLM-4's tokenizer.model). Expression and special tokens are not in the file:
// they follow from the family that config.json and tokenizer_config.json tell.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/tokenizer_file.h"

namespace quantplug::engine {

/// Whether a file looks like one: its first line is base64, a space and a number.
bool is_tiktoken(std::string_view text);

/// The stages of a tokenizer with this vocabulary, without added tokens and with a pre-tokenizer of `expression`.
/// Errors name `name` and the line: no base64, no rank, a byte without a rank.
TokenizerFile read_tiktoken(std::string_view text, std::string_view expression, std::string_view name);

/// Appends a token of a byte-level vocabulary, its bytes as their stand-ins.
void add_byte_level_token(TokenizerFile& file, std::string_view bytes, int32_t id);

/// Sets what every tiktoken vocabulary has in common and checks that each byte is a token.
void finish_byte_level(TokenizerFile& file, std::string_view expression, std::string_view name);

/// A template that puts these tokens, which are among file.added, in front of a text.
nlohmann::json prefix_template(const TokenizerFile& file, const std::vector<std::string>& tokens);

/// The tokenizer of the file `path` of a model folder. unimplemented where the family is none of those above.
std::unique_ptr<Tokenizer> load_tiktoken(const std::filesystem::path& path, SpecialTokens names);

}  // namespace quantplug::engine
