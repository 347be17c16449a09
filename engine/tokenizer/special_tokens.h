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
    std::string bos, eos;           // empty: not said, or null
    std::optional<bool> add_bos;    // add_bos_token
    std::optional<bool> legacy;     // Llama's prefix space in front of every piece of text
    std::vector<AddedToken> added;  // added_tokens_decoder, then added_tokens.json; ids as they say

    /// Missing files say nothing; a file that is there and cannot be read is an error.
    static SpecialTokens read(const std::filesystem::path& folder);
};

/// Whether the folder has an entry of this name; a link that goes nowhere counts, so that reading it names it.
bool has_file(const std::filesystem::path& path);

/// A file's whole text, at most 1 GiB; a Git LFS pointer is an error.
std::string read_text(const std::filesystem::path& path);

}  // namespace quantplug::engine
