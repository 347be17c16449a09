// The normalizer of a tokenizer.json: what happens to text before it is split in words.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/charsmap.h"
#include "engine/tokenizer/regex.h"

namespace quantplug::engine {

class Normalizer {
 public:
    /// The object of the key "normalizer", or null. Known: NFC, NFD, NFKC, NFKD, Nmt, Prepend, Replace, Lowercase,
    /// Strip, StripAccents, ByteLevel, Precompiled, Sequence. Errors name `name` and the type. NFC with
    /// "all_characters": true, a key of our own, is Unicode's, where Hugging Face's tables lack what came after
    /// Unicode 10.
    static Normalizer parse(const nlohmann::json& json, std::string_view name);

    bool empty() const { return steps_.empty(); }

    /// `text` is valid UTF-8. resource_exhausted where a step would make more than `max_bytes` of it.
    std::string apply(std::string_view text, RegexScratch& scratch, uint64_t max_bytes) const;
    std::string apply(std::string_view text, RegexScratch& scratch) const {
        return apply(text, scratch, grown_text_limit(text.size()));
    }

 private:
    enum class Kind {
        nfc,
        nfd,
        nfkc,
        nfkd,
        nmt,
        prepend,
        replace,
        lowercase,
        strip,
        strip_accents,
        byte_level,
        precompiled
    };
    struct Step {
        Kind kind;
        std::string type;  // as the file has it
        std::string text;  // prepend, replace: the content
        Regex pattern = Regex::literal("");
        bool left = false, right = false;  // strip
        bool all_characters = false;       // nfc
        Charsmap charsmap = {};            // precompiled
    };
    void add(const nlohmann::json& json, std::string_view name);

    std::string name_;
    std::vector<Step> steps_;
};

}  // namespace quantplug::engine
