// What is wrong in a tokenizer.json is named; nothing crashes.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/base/error.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/support/data.h"

namespace quantplug::test {
namespace {

using engine::parse_tokenizer_json;
using engine::Tokenizer;
using nlohmann::json;

json good() {
    return json::parse(
        R"({"version": "1.0", "added_tokens": [{"id": 4, "content": "<s>", "special": true, "normalized": false}],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "abb": 3}, "merges": ["a b", ["ab", "b"]]}})");
}

void refused(const json& file, const std::string& reason) {
    CAPTURE(file.dump());
    CHECK_THROWS_WITH_AS(parse_tokenizer_json(file.dump(), "tokenizer.json"), doctest::Contains(reason.c_str()),
                         engine::Error);
    CHECK_THROWS_WITH_AS(parse_tokenizer_json(file.dump(), "tokenizer.json"), doctest::Contains("tokenizer.json"),
                         engine::Error);
}

json with(const char* pointer, json value) {
    json file = good();
    file[json::json_pointer(pointer)] = std::move(value);
    return file;
}

json without(const char* object, const char* key) {
    json file = good();
    file[json::json_pointer(object)].erase(key);
    return file;
}

TEST_CASE("the smallest tokenizer, its keys in any order") {
    const auto tokenizer = parse_tokenizer_json(good().dump(), "test");
    CHECK(tokenizer->encode("abbab", Tokenizer::Bos::automatic, true) == std::vector<int32_t>{3, 2});
    CHECK(tokenizer->encode("a<s>b", Tokenizer::Bos::off, true) == std::vector<int32_t>{0, 4, 1});
    CHECK(tokenizer->encode("xyz", Tokenizer::Bos::off, true).empty());  // no unk token: nothing, as in Hugging Face's
    CHECK(tokenizer->decode(std::vector<int32_t>{0, 3}, false) == "a abb");
    CHECK_THROWS_WITH_AS(tokenizer->encode("a", Tokenizer::Bos::on, true), doctest::Contains("no BOS token"),
                         engine::Error);
    const std::string reversed =
        R"({"model": {"merges": [["a", "b"]], "unknown": [[{}]], "vocab": {"ab": 2, "b": 1, "a": 0}}, "added_tokens": null, "x": {"y": [1, "z"]}})";
    CHECK(parse_tokenizer_json(reversed, "test")->encode("ab", Tokenizer::Bos::off, true) == std::vector<int32_t>{2});
    CHECK(parse_tokenizer_json("\xEF\xBB\xBF" + good().dump(), "test")->size() == 5);
}

TEST_CASE("vocabulary and merges") {
    refused(without("/model", "merges"), "no list 'merges'");
    refused(without("/model", "vocab"), "no object 'vocab'");
    refused(without("", "model"), "no object 'vocab'");
    refused(with("/model", 1), "'model' is no object");
    refused(with("/model", json::array()), "'model' is no object");
    refused(with("/model/type", "Unigram"), "the Unigram model has no list 'vocab'");
    refused(with("/model/type", "WordPiece"), "model type 'WordPiece' is not supported");
    refused(with("/model/type", "WordLevel"), "model type 'WordLevel' is not supported");
    refused(with("/model/type", "Word"), "model type 'Word' is not known");
    refused(with("/model/type", 7), "the model's type is no string");
    refused(with("/model/vocab", json::object()), "vocabulary is empty");
    refused(with("/model/vocab", json::array({json::array({"a", 0.5})})), "no object 'vocab'");
    refused(with("/model/vocab/a", -1), "the id of token 'a' is -1");
    refused(with("/model/vocab/a", 0.5), "the id of token 'a' is 0.5");
    refused(with("/model/vocab/a", "0"), "the id of token 'a'");
    refused(with("/model/vocab/a", json::array()), "the id of token 'a' is no number");
    refused(with("/model/vocab/a", 4294967296), "the id of token 'a' is 4294967296");
    refused(with("/model/vocab/a", 2000000000), "has id 2000000000, but there are only 4 tokens");
    refused(with("/model/vocab/a", 1), "id 1 belongs to both");
    refused(with("/model/merges/0", "a x"), "merge 0 needs token 'x'");
    refused(with("/model/merges/0", "b a"), "merge 0 needs token 'ba'");
    refused(with("/model/merges/0", "ab"), "merge 0 is 'ab'");
    refused(with("/model/merges/0", "a b b"), "merge 0 is 'a b b'");
    refused(with("/model/merges/1", json::array({"a"})), "merge 1 has 1 parts");
    refused(with("/model/merges/1", json::array({"a", "b", "b"})), "merge 2 has 3 parts");
    refused(with("/model/merges/1", json::array({"a", 1})), "merge 1 is neither");
    refused(with("/model/merges/1", json::object()), "merge 1 is neither");
    refused(with("/model/merges", "a b"), "'merges' is no list");
    refused(with("/model/dropout", 0.1), "'dropout' is not null");
    refused(with("/model/end_of_word_suffix", "</w>"), "'end_of_word_suffix' is '</w>'");
    refused(with("/model/byte_fallback", "yes"), "'byte_fallback' is neither true nor false");
    CHECK_NOTHROW(parse_tokenizer_json(with("/model/end_of_word_suffix", "").dump(), "test"));
    CHECK_NOTHROW(parse_tokenizer_json(with("/model/vocab/a", 1000).dump(), "test"));  // ids may have holes
    CHECK_THROWS_WITH_AS(parse_tokenizer_json(R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})", "test"),
                         doctest::Contains("twice"), engine::Error);
    CHECK_THROWS_WITH_AS(parse_tokenizer_json(R"({"model": {"vocab": {"a": 0}, "merges": [], "vocab": {}}})", "test"),
                         doctest::Contains("'vocab' twice"), engine::Error);
    const auto unk = parse_tokenizer_json(with("/model/unk_token", "<unk>").dump(), "test");
    CHECK_THROWS_WITH_AS(unk->encode("x", Tokenizer::Bos::off, true),
                         doctest::Contains("unk_token '<unk>' is not in its vocabulary"), engine::Error);
}

TEST_CASE("added tokens") {
    refused(with("/added_tokens", json::object()), "'added_tokens' is no list");
    refused(with("/added_tokens/0", "x"), "entry 0 of 'added_tokens' is no object");
    refused(with("/added_tokens/0/id", -4), "key 'id'");
    refused(with("/added_tokens/0/id", 1e30), "key 'id'");
    refused(with("/added_tokens/0/id", 2000000000), "added token '<s>' has id 2000000000");
    refused(with("/added_tokens/0/id", 1), "id 1 belongs to both 'b' and the added token '<s>'");
    refused(with("/added_tokens/0/content", json()), "key 'content' is no string");
    refused(with("/added_tokens/1", json{{"id", 4}, {"content", "<t>"}}), "have the same id 4");
    refused(with("/added_tokens/1", json{{"id", 5}, {"content", "<s>"}}), "is there with two ids");
    CHECK(parse_tokenizer_json(with("/added_tokens/0/id", 50).dump(), "test")->size() == 51);
    CHECK(parse_tokenizer_json(with("/added_tokens/0", json{{"id", 9}, {"content", "ab"}}).dump(), "test")
              ->token_to_id("ab") == 2);
}

TEST_CASE("parts that are not known are named") {
    refused(with("/normalizer", json{{"type", "BertNormalizer"}}), "normalizer 'BertNormalizer' is not supported");
    refused(with("/normalizer", json{{"type", "Precompiled"}}), "key 'precompiled_charsmap' is missing");
    refused(with("/normalizer", "NFC"), "normalizer is no object");
    refused(with("/pre_tokenizer", json{{"type", "UnicodeScripts"}}),
            "pre_tokenizer 'UnicodeScripts' is not supported");
    refused(with("/pre_tokenizer", json{{"type", "FixedLength"}, {"length", 0}}), "length is 0, not 1 to 65535");
    refused(with("/pre_tokenizer", json{{"type", "Split"}, {"behavior", "Isolated"}}),
            "key 'pattern' is missing in 'Split'");
    refused(with("/pre_tokenizer", json{{"type", "Split"}, {"behavior", "Cut"}, {"pattern", {{"String", "a"}}}}),
            "behavior is 'Cut'");
    refused(with("/pre_tokenizer", json{{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(a"}}}}),
            "'(a' does not compile");
    refused(with("/pre_tokenizer", json{{"type", "Metaspace"}, {"replacement", "ab"}}),
            "'replacement' is not one character");
    refused(with("/decoder", json{{"type", "WordPiece"}}), "decoder 'WordPiece' is not supported");
    refused(with("/decoder", json{{"type", "CTC"}}), "decoder 'CTC' is not supported");
    refused(with("/decoder", json{{"type", "BPEDecoder"}, {"suffix", ""}}), "suffix is empty");
    refused(
        with("/decoder", json{{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteFallback"}}}}}),
        "behind ByteLevel or Fuse");
    refused(with("/decoder", json{{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}}), "key 'start'");
    refused(with("/post_processor", json{{"type", "RobertaProcessing"}}), "'cls' is no [token, id]");
    refused(with("/post_processor", json{{"type", "BertProcessing"}, {"cls", {"<s>", 4}}, {"sep", {"<s>", 5}}}),
            "has id 5, the vocabulary 5 ids");
    refused(with("/post_processor", json{{"type", "Other"}}), "post_processor 'Other' is not supported");
    const auto processor = [](const char* id, int64_t number) {
        return json{{"type", "TemplateProcessing"},
                    {"single", {{{"SpecialToken", {{"id", id}}}}, {{"Sequence", {{"id", "A"}}}}}},
                    {"special_tokens", {{"<s>", {{"ids", {number}}}}}}};
    };
    refused(with("/post_processor", processor("<t>", 4)), "names '<t>'");
    refused(with("/post_processor", processor("<s>", 5)), "has id 5, the vocabulary 5 ids");
    refused(with("/post_processor", processor("<s>", -1)), "has id -1");
    CHECK(parse_tokenizer_json(with("/post_processor", processor("<s>", 4)).dump(), "test")->bos_id() == 4);
    json many{{"type", "Sequence"}, {"normalizers", json::array()}};
    for (int i = 0; i < 65; ++i) many["normalizers"].push_back({{"type", "NFC"}});
    refused(with("/normalizer", many), "more than 64 parts");
}

TEST_CASE("nesting, truncation, bytes that are not JSON") {
    for (const char* key : {"normalizer", "other", "added_tokens", "model"}) {
        const std::string deep = std::string("{\"") + key + "\":" + std::string(100'000, '[');
        CHECK_THROWS_AS(parse_tokenizer_json(deep, "test"), engine::Error);
    }
    CHECK_THROWS_WITH_AS(parse_tokenizer_json("{\"x\":" + std::string(70, '[') + std::string(70, ']') + "}", "test"),
                         doctest::Contains("nested deeper than 64"), engine::Error);
    for (const char* text : {"", "[]", "1", "null", "\"a\"", "{", "{\"model\":{\"vocab\":{\"\\ud800\":0}}}",
                             "{\"model\":{\"vocab\":{\"\xff\":0}}}"})
        CHECK_THROWS_AS(parse_tokenizer_json(text, "test"), engine::Error);
    const std::string whole = good().dump();
    for (size_t n = 0; n < whole.size(); ++n)
        CHECK_THROWS_AS(parse_tokenizer_json(whole.substr(0, n), "test"), engine::Error);
}

TEST_CASE("a chain of steps that multiplies the text is refused, not run") {
    // A thousand times the text each: the fourth would need 10^12 bytes, the third shows already.
    const json step{{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1000, 'a')}};
    const json byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    const auto chain = [](const char* key, const json& one, size_t n) {
        return json{{"type", "Sequence"}, {key, json(n, one)}};
    };
    const auto exhausted = [](const auto& call, const char* reason) {
        try {
            call();
            FAIL("not refused: ", reason);
        } catch (const engine::Error& error) {
            CHECK(error.code() == engine::Code::resource_exhausted);
            CHECK(std::string(error.what()).find(reason) != std::string::npos);
            CHECK(std::string(error.what()).find("tokenizer.json") != std::string::npos);
        }
    };
    const auto encode = [](const json& file) {
        parse_tokenizer_json(file.dump(), "tokenizer.json")->encode("\xC3\xA9 a", Tokenizer::Bos::off, true);
    };
    exhausted([&] { encode(with("/normalizer", chain("normalizers", step, 4))); },
              "step 3 of the normalizer, 'Replace'");
    exhausted(
        [&] {
            encode(with("/normalizer", chain("normalizers", json{{"type", "ByteLevel"}}, 64)));
        },
        "of the normalizer, 'ByteLevel'");
    exhausted([&] { encode(with("/pre_tokenizer", chain("pretokenizers", byte_level, 64))); }, "of the pre_tokenizer");
    exhausted(
        [&] {
            parse_tokenizer_json(with("/decoder", chain("decoders", step, 4)).dump(), "tokenizer.json")
                ->decode(std::vector<int32_t>{0}, true);
        },
        "step 3 of the decoder, 'Replace'");
    // While loading: the normal form of one added token, and of many that are allowed one by one.
    json file = with("/normalizer", chain("normalizers", step, 4));
    file["added_tokens"][0] = json{{"id", 4}, {"content", "<a>"}, {"normalized", true}};
    exhausted([&] { parse_tokenizer_json(file.dump(), "tokenizer.json"); }, "step 3 of the normalizer");
    file = with("/normalizer", chain("normalizers", step, 1));
    for (int i = 0; i < 1100; ++i)
        file["added_tokens"][static_cast<size_t>(i)] =
            json{{"id", 4 + i}, {"content", "a" + std::to_string(i)}, {"normalized", true}};
    CHECK_NOTHROW(parse_tokenizer_json(file.dump(), "tokenizer.json"));
    file["normalizer"] = chain("normalizers", step, 2);
    exhausted([&] { parse_tokenizer_json(file.dump(), "tokenizer.json"); }, "step 2 of the normalizer");
}

TEST_CASE("flipped bits: an Error or a tokenizer, nothing else") {
    const auto seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (const char* name : {"byte_level", "byte_fallback", "unigram"}) {
        std::ifstream in(data_dir() / "tokenizers" / name / "tokenizer.json", std::ios::binary);
        const std::string whole((std::istreambuf_iterator<char>(in)), {});
        for (int round = 0; round < 300; ++round) {
            std::string text = whole;
            for (int flips = 1 + static_cast<int>(random() % 3); flips > 0; --flips)
                text[random() % text.size()] ^= static_cast<char>(1 << random() % 8);
            try {
                const auto tokenizer = parse_tokenizer_json(text, "test");
                (void)tokenizer->decode(
                    tokenizer->encode("<s>Hello 12 \xE4\xBD\xA0 foo", Tokenizer::Bos::automatic, true), true);
            } catch (const engine::Error&) {
            }
        }
    }
}

}  // namespace
}  // namespace quantplug::test
