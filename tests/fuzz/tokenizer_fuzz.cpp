// libFuzzer target: a tokenizer.json of any bytes is refused with an Error or encodes and decodes a fixed text.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using quantplug::engine::Tokenizer;
    if (size > 1 << 16) return 0;
    try {
        const auto tokenizer =
            quantplug::engine::parse_tokenizer_json({reinterpret_cast<const char*>(data), size}, "tokenizer.json");
        constexpr std::string_view text =
            "<s>Hello  world's 123 \n\t h\xC3\xA9 e\xCC\x81 \xE4\xBD\xA0\xF0\x9F\x99\x82 \xFF <tag> foo aab ";
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
