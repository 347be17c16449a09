// What the files beside a tokenizer say of its special tokens: tokenizer_config.json, special_tokens_map.json,
// added_tokens.json.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer/added_tokens.h"

namespace quantplug::engine {

struct SpecialTokens {
    std::string bos, eos;                  // empty: not said, or null
    std::vector<std::string> others;       // unk_token, pad_token, ..., those of extra_special_tokens by name
    std::vector<std::string> additional;   // lists additional_special_tokens and extra_special_tokens
    std::optional<bool> add_bos, add_eos;  // add_bos_token, add_eos_token
    std::optional<bool> legacy;            // Llama's prefix space in front of every piece of text
    std::optional<bool> add_prefix_space;  // false: no prefix space at all, where not `legacy`
    std::vector<AddedToken> added;         // added_tokens_decoder, by id
    std::vector<AddedToken> added_json;    // added_tokens.json, but for those in `added`

    /// Missing files say nothing; a file that is there and cannot be read is an error.
    static SpecialTokens read(const std::filesystem::path& folder);
};

/// Whether the folder has an entry of this name; a link that goes nowhere counts, so that reading it names it.
bool has_file(const std::filesystem::path& path);

/// A file's whole text, at most 1 GiB; a Git LFS pointer is an error.
std::string read_text(const std::filesystem::path& path);

}  // namespace quantplug::engine
