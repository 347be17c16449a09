// sentencepiece's precompiled_charsmap, the normalizer 'Precompiled' of a tokenizer.json, as Hugging Face's tokenizers
// apply it: grapheme by grapheme, where sentencepiece itself looks for the longest match.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

/// A double array of bytes (Darts-clone's format: an offset, a label, a leaf bit in 32 bits) and the texts that its
/// values point into, each ended by a NUL.
class Charsmap {
 public:
    /// The bytes: a little-endian uint32 with the double array's size in bytes, the array, the texts. Errors name
    /// `name`: sizes that do not fit, texts that are no UTF-8.
    static Charsmap parse(std::string_view bytes, std::string_view name);

    /// What stands for `part`: the text of the shortest entry that `part` begins with; nothing where no entry does.
    std::optional<std::string_view> find(std::string_view part) const;

    /// `text` is valid UTF-8, and so is what comes out; nothing where that would be more than `max_bytes`.
    std::optional<std::string> apply(std::string_view text, uint64_t max_bytes) const;

 private:
    std::vector<uint32_t> units_;
    std::string texts_;
    std::array<bool, 128> changes_{};  // ASCII that an entry begins with
};

}  // namespace quantplug::engine
