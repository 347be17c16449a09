// The normalizer of a tokenizer.json: what happens to text before it is split in words.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/regex.h"

namespace quantplug::engine {

class Normalizer {
 public:
    /// The object of the key "normalizer", or null. Known: NFC, NFD, NFKC, NFKD, Prepend, Replace, Lowercase, Strip,
    /// ByteLevel, Sequence. Errors name `name` and the type.
    static Normalizer parse(const nlohmann::json& json, std::string_view name);

    bool empty() const { return steps_.empty(); }

    /// `text` is valid UTF-8.
    std::string apply(std::string_view text, RegexScratch& scratch) const;

 private:
    enum class Kind { nfc, nfd, nfkc, nfkd, prepend, replace, lowercase, strip, byte_level };
    struct Step {
        Kind kind;
        std::string text;  // prepend, replace: the content
        Regex pattern = Regex::literal("");
        bool left = false, right = false;  // strip
    };
    void add(const nlohmann::json& json, std::string_view name);

    std::vector<Step> steps_;
};

}  // namespace quantplug::engine
