// Normalizers, pre-tokenizers, decoders and expressions alone, against Hugging Face's (tests/data/tokenizers/make.py).
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/tokenizer/decoder.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/regex.h"
#include "engine/tokenizer/utf8.h"
#include "tests/support/data.h"

namespace quantplug::test {
namespace {

using nlohmann::json;

json parts(const char* key) {
    std::ifstream in(data_dir() / "tokenizers" / "parts.json");
    return json::parse(in)[key];
}

TEST_CASE("normalizers") {
    engine::RegexScratch scratch;
    for (const json& part : parts("normalizers")) {
        CAPTURE(part["object"].dump());
        const auto normalizer = engine::Normalizer::parse(part["object"], "test");
        for (const json& one : part["cases"])
            CHECK(normalizer.apply(one[0].get<std::string>(), scratch) == one[1].get<std::string>());
    }
}

TEST_CASE("pre-tokenizers: expressions, behaviors, inversion") {
    engine::PreTokenizerScratch scratch;
    for (const json& part : parts("pre_tokenizers")) {
        CAPTURE(part["object"].dump());
        const auto pre_tokenizer = engine::PreTokenizer::parse(part["object"], "test");
        for (const json& one : part["cases"]) {
            const auto text = one[0].get<std::string>();
            CAPTURE(one.dump());
            std::vector<std::string> words;
            if (!text.empty())
                for (const engine::Word& word : pre_tokenizer.split({text, true}, scratch))
                    words.push_back(pre_tokenizer.raw_bytes() ? engine::map_bytes(word.text) : std::string(word.text));
            std::vector<std::string> expected = one[1];
            std::erase(expected, "");
            CHECK(words == expected);
        }
    }
}

TEST_CASE("decoders, at once and token by token") {
    for (const json& part : parts("decoders")) {
        CAPTURE(part["object"].dump());
        const auto decoder = engine::TextDecoder::parse(part["object"], "test");
        for (const json& one : part["cases"]) {
            CAPTURE(one.dump());
            engine::DecoderRun run(decoder);
            std::string text;
            for (const json& token : one[0]) {
                text += run.push(token.get<std::string>());
                CHECK(engine::is_valid_utf8(text));
            }
            CHECK(text + run.finish() == one[1].get<std::string>());
        }
    }
}

TEST_CASE("bytes and their stand-ins") {
    std::vector<char32_t> seen;
    for (int b = 0; b < 256; ++b) {
        const char32_t c = engine::byte_to_char(static_cast<uint8_t>(b));
        CHECK(engine::char_to_byte(c) == b);
        seen.push_back(c);
    }
    std::sort(seen.begin(), seen.end());
    CHECK(std::unique(seen.begin(), seen.end()) == seen.end());
    CHECK(engine::byte_to_char(' ') == 0x120);
    CHECK(engine::byte_to_char('\n') == 0x10A);
    CHECK(engine::char_to_byte(0x144) == -1);
    CHECK(engine::char_to_byte(' ') == -1);
}

TEST_CASE("expressions without a counterpart are refused by name") {
    const auto refused = [](const char* pattern, const char* reason) {
        CAPTURE(pattern);
        CHECK_THROWS_WITH_AS(engine::Regex::compile(pattern, "file"), doctest::Contains(reason), engine::Error);
    };
    refused("(?~ab)", "absence");
    refused("[a[^b]]", "negated class inside a class");
    refused("[\\W]", "\\W inside a class");
    refused("[a&&b]", "intersection");
    refused("\\p{Nonsense}", "does not compile");
    refused("\\p{In_1}", "the property 'In_1'");
    refused("(a", "does not compile");
    refused("a)", "closing parenthesis");
    refused("*a", "nothing to repeat");
    refused("[a", "unfinished character class");
    refused("\\", "backslash ends");
    refused("\\x{110000}", "no character");
    refused(std::string(70000, 'a').c_str(), "longer than the limit");
    refused((std::string(300, '(') + std::string(300, ')')).c_str(), "nested groups");
}

TEST_CASE("a hostile expression ends in an error") {
    const auto regex = engine::Regex::compile("(a+|b+|aa)*c|(?:(?=(a+))a*b*)*d", "file");
    engine::RegexScratch scratch;
    std::vector<engine::Match> matches;
    const std::string text(5000, 'a');
    CHECK_THROWS_WITH_AS(regex.find_all(text, scratch, matches), doctest::Contains("failed on this text"),
                         engine::Error);
}

}  // namespace
}  // namespace quantplug::test
