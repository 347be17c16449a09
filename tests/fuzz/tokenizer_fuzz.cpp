// libFuzzer target: a tokenizer.json, a tiktoken text, a tekken.json or a charsmap of any bytes is refused with an
// Error or encodes and decodes a fixed text. The content tells which: a charsmap comes behind the word "charsmap".
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/tokenizer/charsmap.h"
#include "engine/tokenizer/hf_tokenizer.h"
#include "engine/tokenizer/tekken.h"
#include "engine/tokenizer/tiktoken.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"

namespace {

using quantplug::engine::Tokenizer;

constexpr std::string_view text =
    "<s>Hello  world's 123 \n\t h\xC3\xA9 e\xCC\x81 \xE4\xBD\xA0\xF0\x9F\x99\x82 \xFF <tag> foo aab ";

std::unique_ptr<Tokenizer> parse(std::string_view bytes) {
    using namespace quantplug::engine;
    if (is_tiktoken(bytes))
        return std::make_unique<HfTokenizer>(read_tiktoken(bytes, "\\p{L}+|\\s+|.", "tokenizer.model"), SpecialTokens{},
                                             "tokenizer.model");
    if (bytes.find("token_bytes") != std::string_view::npos) return parse_tekken(bytes, {}, "tekken.json");
    return parse_tokenizer_json(bytes, "tokenizer.json");
}

void map_text(std::string_view bytes) {
    using namespace quantplug::engine;
    const auto out = Charsmap::parse(bytes, "tokenizer.json").apply(to_valid_utf8(text), 1 << 20);
    if (out && !is_valid_utf8(*out)) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size > 1 << 16) return 0;
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    try {
        constexpr std::string_view charsmap = "charsmap";
        if (bytes.starts_with(charsmap)) {
            map_text(bytes.substr(charsmap.size()));
            return 0;
        }
        const auto tokenizer = parse(bytes);
        for (const bool special : {false, true}) {
            const std::vector<int32_t> ids = tokenizer->encode(text, Tokenizer::Bos::automatic, special);
            for (int32_t id : ids)
                if (id < 0 || id >= tokenizer->size()) __builtin_trap();
            (void)tokenizer->decode(ids, special);
        }
        (void)tokenizer->decode(std::vector<int32_t>{-1, 0, 1, 2, 3, tokenizer->size(), INT32_MAX}, true);
    } catch (const quantplug::engine::Error&) {  // the only exception that may leave
    }
    return 0;
}
