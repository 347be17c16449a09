// Unigram, charsmaps, tiktoken text and tekken.json: ids against the reference libraries, and what is wrong in a file
// is named (tests/data/tokenizers/make.py).
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/base/error.h"
#include "engine/tokenizer/base64.h"
#include "engine/tokenizer/charsmap.h"
#include "engine/tokenizer/tekken.h"
#include "engine/tokenizer/tiktoken.h"
#include "engine/tokenizer/tiktoken_families.h"
#include "engine/tokenizer/unigram.h"
#include "engine/tokenizer/utf8.h"
#include "tests/support/data.h"

namespace quantplug::test {
namespace {

using engine::load_tokenizer;
using engine::parse_tokenizer_json;
using engine::Tokenizer;
using nlohmann::json;
using Ids = std::vector<int32_t>;

std::filesystem::path folder(const char* name) { return data_dir() / "tokenizers" / name; }

std::string text_of(const std::filesystem::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

json unigram_file(const json& vocab) {
    return {{"added_tokens", json::array()}, {"model", {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", vocab}}}};
}
json unigram_file(const char* vocab) { return unigram_file(json::parse(vocab)); }

Ids encode(const json& file, std::string_view text) {
    return parse_tokenizer_json(file.dump(), "test")->encode(text, Tokenizer::Bos::off, true);
}

void refused(const json& file, const char* reason) {
    CAPTURE(file.dump());
    CHECK_THROWS_WITH_AS(parse_tokenizer_json(file.dump(), "tokenizer.json"), doctest::Contains(reason), engine::Error);
}

TEST_CASE("Unigram: the path of highest score, ties, unknown characters") {
    const char* vocab = R"([["<unk>", 0], ["a", -1], ["b", -1], ["ab", -1.5], ["abc", -9], ["aa", -2], ["c", -3]])";
    CHECK(encode(unigram_file(vocab), "abc") == Ids{3, 6});
    CHECK(encode(unigram_file(vocab), "ba") == Ids{2, 1});
    // Both paths of "aa" cost 2: the first that reaches the end stays, and that is the longer token.
    CHECK(encode(unigram_file(vocab), "aa") == Ids{5});
    CHECK(encode(unigram_file(vocab), "axyzb") == Ids{1, 0, 2});  // unknown characters in a row are one
    json file = unigram_file(vocab);
    file["model"]["vocab"].push_back(json::array({"xy", -100}));
    CHECK(encode(file, "axyb") == Ids{1, 7, 2});
    file = unigram_file(vocab);
    file["model"]["byte_fallback"] = true;
    CHECK(encode(file, "x") == Ids{0});  // no byte tokens
    file["model"]["vocab"].push_back(json::array({"<0x78>", -5}));
    CHECK(encode(file, "x") == Ids{7});
    CHECK(encode(file, "xy") == Ids{0});  // a run falls back as a whole
    file = unigram_file(vocab);
    file["model"].erase("unk_id");
    CHECK(encode(file, "ab") == Ids{3});
    CHECK_THROWS_WITH_AS(encode(file, "ax"), doctest::Contains("has no unk_id"), engine::Error);
    file["model"].erase("type");  // files older than the key
    CHECK(encode(file, "ab") == Ids{3});
}

TEST_CASE("Unigram: scores are read as serde_json reads them") {
    // Both numbers become -15.27549237953228 there; a tie then, and the longer token stays.
    std::string text =
        R"({"model": {"unk_id": 0, "vocab": [["<unk>", 0], ["a", -15.27549237953228], ["b", 0], ["ab", -15.275492379532281]]}})";
    CHECK(parse_tokenizer_json(text, "test")->encode("ab", Tokenizer::Bos::off, true) == Ids{3});
    for (const char* number : {"-1e3", "-1000", "-1000.000", "-0.1e4", "-1000000000000000000000000e-21", "-1E+3"}) {
        CAPTURE(number);
        text = std::string(R"({"model": {"unk_id": 0, "vocab": [["<unk>", 0], ["a", )") + number +
               R"(], ["b", 0], ["ab", -1000]]}})";
        CHECK(parse_tokenizer_json(text, "test")->encode("ab", Tokenizer::Bos::off, true) == Ids{3});
        text = std::string(R"({"model": {"unk_id": 0, "vocab": [["<unk>", 0], ["a", )") + number +
               R"(], ["b", 0], ["ab", -1000.001]]}})";
        CHECK(parse_tokenizer_json(text, "test")->encode("ab", Tokenizer::Bos::off, true) == Ids{1, 2});
    }
}

TEST_CASE("Unigram: against a plain search of all paths") {
    const auto seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 200; ++round) {
        std::vector<std::pair<std::string, double>> tokens = {{"<unk>", 0}};
        const auto add = [&](const std::string& token) {
            for (const auto& known : tokens)
                if (known.first == token) return;
            tokens.emplace_back(token, -static_cast<double>(random() % 1000003) / 65536);
        };
        for (const char* c : {"a", "b", "\xC3\xA9"}) add(c);
        for (int i = 0; i < 12; ++i) {
            std::string token;
            for (int n = 2 + static_cast<int>(random() % 3); n > 0; --n) {
                static constexpr const char* parts[] = {"a", "b", "\xC3\xA9"};
                token += parts[random() % 3];
            }
            add(token);
        }
        json vocab = json::array();
        for (const auto& [token, score] : tokens) vocab.push_back(json::array({token, score}));
        std::string text;
        for (int i = 0; i < 12; ++i) text += random() % 3 ? (random() % 2 ? "a" : "b") : "\xC3\xA9";
        // Scores are multiples of 2^-16: sums are exact, and the best sum is one number.
        double best = -1e300;
        const auto search = [&](const auto& self, size_t at, double score) -> void {
            if (at == text.size()) best = std::max(best, score);
            for (size_t i = 1; i < tokens.size(); ++i)
                if (text.compare(at, tokens[i].first.size(), tokens[i].first) == 0)
                    self(self, at + tokens[i].first.size(), score + tokens[i].second);
        };
        search(search, 0, 0);
        const Ids ids = encode(unigram_file(vocab), text);
        double got = 0;
        std::string joined;
        for (int32_t id : ids) {
            got += tokens[static_cast<size_t>(id)].second;
            joined += tokens[static_cast<size_t>(id)].first;
        }
        CHECK(joined == text);
        CHECK(got == best);
    }
}

TEST_CASE("Unigram: what is wrong in a vocabulary is named") {
    refused(unigram_file(json::array()), "vocabulary is empty");
    refused(unigram_file(R"([["a", -1], ["a", -2]])"), "token 'a' is in the vocabulary twice");
    refused(unigram_file(R"([["a", -1], ["b"]])"), "entry 1 of the Unigram model's vocab is no [token, score]");
    refused(unigram_file(R"([["a", -1], ["b", -1, -1]])"), "entry 2");
    for (const char* bad : {R"([["a", "b"]])", "[[-1, -1]]", R"(["a"])", R"([{"a": -1}])", R"([["a", [-1]]])",
                            R"([["a", null]])", "[7]", "[[]]"})
        refused(unigram_file(bad), "entry 0");
    json file = unigram_file(R"([["a", -1]])");
    file["model"]["unk_id"] = 1;
    refused(file, "unk_id is 1, the vocabulary has 1 tokens");
    file["model"]["unk_id"] = -1;
    refused(file, "key 'unk_id'");
    CHECK_THROWS_AS(parse_tokenizer_json(R"({"model": {"type": "Unigram", "vocab": [["a", 1e999]]}})", "test"),
                    engine::Error);
}

TEST_CASE("a hash table of nodes holds every prefix") {
    const auto seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    engine::Vocab vocab;
    std::vector<std::string> tokens;
    vocab.reserve(300, 300);
    for (int32_t id = 0; id < 300; ++id) {
        std::string token(1 + random() % 40, 'x');  // far more nodes than guessed
        for (char& c : token) c = static_cast<char>(random());
        if (vocab.add(token, id)) tokens.push_back(token);
    }
    const engine::PrefixTrie trie(vocab);
    for (const std::string& token : tokens) {
        uint32_t node = engine::PrefixTrie::root;
        for (char c : token) {
            node = trie.next(node, static_cast<uint8_t>(c));
            REQUIRE(node != engine::PrefixTrie::root);
        }
        CHECK(trie.id(node) == vocab.find(token));
    }
}

TEST_CASE("base64") {
    CHECK(engine::decode_base64("") == "");
    CHECK(engine::decode_base64("AA==") == std::string(1, '\0'));
    CHECK(engine::decode_base64("YWI=") == "ab");
    CHECK(engine::decode_base64("YWJj") == "abc");
    CHECK(engine::decode_base64("/+8=") == "\xFF\xEF");
    for (const char* bad : {"A", "AA", "AAA", "A===", "====", "AA=A", "A A=", "AA-_", "AAAA="}) {
        CAPTURE(bad);
        CHECK_FALSE(engine::decode_base64(bad).has_value());
    }
}

TEST_CASE("charsmap: bounds, broken arrays, texts that grow") {
    const auto bytes_of = [](std::initializer_list<uint32_t> numbers, const std::string& texts) {
        std::string out;
        for (uint32_t number : numbers)
            for (int i = 0; i < 4; ++i) out += static_cast<char>(number >> (8 * i));
        return out + texts;
    };
    const auto broken = [](const std::string& bytes) {
        CHECK_THROWS_WITH_AS(engine::Charsmap::parse(bytes, "tokenizer.json"), doctest::Contains("tokenizer.json"),
                             engine::Error);
    };
    broken("");
    broken("abc");
    broken(bytes_of({0}, ""));
    broken(bytes_of({6, 0, 0}, ""));
    broken(bytes_of({8, 0}, ""));
    broken(bytes_of({UINT32_MAX, 0}, ""));
    broken(bytes_of({4, 0}, "\xff"));

    // "a" -> text 0: the root's children are at its offset (1) xor the byte, a leaf's value at the node's own offset.
    const uint32_t leaf = 1u << 8;
    std::vector<uint32_t> units(256, 0);
    units[0] = 1u << 10;
    units[1 ^ 'a'] = 2u << 10 | leaf | 'a';
    units[(1 ^ 'a') ^ 2] = 0;
    std::string array = bytes_of({256 * 4}, "");
    for (uint32_t unit : units) array += bytes_of({unit}, "");
    const auto map = engine::Charsmap::parse(array + std::string("xyz\0", 4), "test");
    CHECK(map.find("abc") == "xyz");
    CHECK_FALSE(map.find("b").has_value());
    CHECK_FALSE(map.find("").has_value());
    CHECK(map.apply("bab", 100) == "bxyzb");
    CHECK(map.apply("a\u0301", 100) == "xyz");  // a grapheme of less than 6 bytes goes as a whole
    CHECK_FALSE(map.apply("aaaa", 11).has_value());
    CHECK(map.apply("aaaa", 12) == "xyzxyzxyzxyz");
    CHECK_FALSE(map.apply("bbb", 2).has_value());
    CHECK(engine::Charsmap::parse(array, "test").apply("ab", 100) == "b");                   // a value behind the texts
    CHECK(engine::Charsmap::parse(array + "\u00e9", "test").apply("ab", 100) == "\u00e9b");  // no NUL at the end

    const auto seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 500; ++round) {
        std::string random_array = bytes_of({256}, "");
        for (int i = 0; i < 256; ++i) random_array += static_cast<char>(random());
        for (size_t i = 4; i < random_array.size(); i += 4)  // labels and leaves that fit now and then
            if (random() % 2) random_array[i] = static_cast<char>((i / 4) ^ (random() % 8));
        const auto hostile = engine::Charsmap::parse(random_array + "\u4e00\u4e8c", "test");
        std::string text;
        for (int i = 0; i < 50; ++i) engine::append_utf8(text, static_cast<char32_t>(1 + random() % 0x2FF));
        const auto out = hostile.apply(text, 10000);
        CHECK((!out || engine::is_valid_utf8(*out)));
    }
}

TEST_CASE("tiktoken text: the ids of tiktoken") {
    const auto tokenizer = load_tokenizer(folder("tiktoken"));
    CHECK(tokenizer->kind() == "tiktoken (byte-level BPE)");
    for (const json& one : json::parse(text_of(folder("tiktoken") / "cases.json"))) {
        CAPTURE(one.dump());
        const auto text = one["text"].get<std::string>();
        Ids special = one["special"];
        CHECK(tokenizer->encode(text, Tokenizer::Bos::off, false) == one["plain"].get<Ids>());
        CHECK(tokenizer->encode(text, Tokenizer::Bos::off, true) == special);
        CHECK(tokenizer->decode(special, true) == text);
        special.insert(special.begin(), *tokenizer->bos_id());
        CHECK(tokenizer->encode(text, Tokenizer::Bos::automatic, true) == special);
    }
    CHECK(tokenizer->id_to_token(*tokenizer->bos_id()) == "<|begin_of_text|>");
    CHECK(tokenizer->id_to_token(*tokenizer->eos_id()) == "<|end_of_text|>");
    CHECK(tokenizer->token_to_id("<|eot_id|>") == *tokenizer->bos_id() + 9);
    CHECK(tokenizer->size() == *tokenizer->bos_id() + 256);
}

TEST_CASE("tiktoken text: families") {
    const auto find = [](const char* type, const char* tokenizer_class) {
        return engine::find_tiktoken_family(type, tokenizer_class, "file");
    };
    const auto llama4 = find("llama4_text", "");
    REQUIRE(llama4.specials.size() ==
            2048);  // places as in Meta's llama4/tokenizer.py, whose comments count from 200000
    CHECK(llama4.specials[5] == "<|header_start|>");
    CHECK(llama4.specials[8] == "<|eot|>");
    CHECK(llama4.specials[16] == "<|python_start|>");
    CHECK(llama4.specials[80] == "<|image_start|>");
    CHECK(llama4.specials[90] == "<|image|>");
    CHECK(llama4.specials[92] == "<|patch|>");
    CHECK(llama4.specials[1133] == "<|vision_reserved_special_token_1047|>");
    CHECK(llama4.specials[1142] == "<|reasoning_thinking_start|>");
    CHECK(llama4.specials[1144] == "<|reserved_special_token_0|>");
    CHECK(llama4.specials[2047] == "<|reserved_special_token_903|>");
    CHECK(find("llama", "").specials.size() == 256);
    CHECK(find("qwen", "").specials.size() == 208);
    CHECK(find("qwen", "").specials.back() == "<|extra_204|>");
    CHECK(find("", "QWenTokenizer").prefix.empty());
    CHECK(find("chatglm", "ChatGLM4Tokenizer").prefix == std::vector<std::string>{"[gMASK]", "<sop>"});
    CHECK_THROWS_WITH_AS(find("dbrx", ""), doctest::Contains("put the model's tokenizer.json beside it"),
                         engine::Error);
}

TEST_CASE("tiktoken text: what is wrong in a file is named") {
    const auto refuse = [](const std::string& text, const char* reason) {
        CAPTURE(text);
        CHECK_THROWS_WITH_AS(engine::read_tiktoken(text, "a", "tokenizer.model"), doctest::Contains(reason),
                             engine::Error);
    };
    refuse("IQ== 0\nIg==\n", "line 2 is no token");
    refuse("IQ== 0\nIg== x\n", "line 2 is no token");
    refuse("IQ== 0\nIg== -1\n", "line 2 is no token");
    refuse("IQ== 0\nIg== 4294967296\n", "line 2 is no token");
    refuse("IQ== 0\nIg 1\n", "line 2 is no token");
    refuse("IQ== 0\n 1\n", "line 2 is no token");
    refuse("IQ== 0\n", "the byte 0 is no token");
    CHECK(engine::is_tiktoken("IQ== 0\r\nIg== 1\r\n"));
    CHECK(engine::is_tiktoken("IQ== 0"));
    for (const char* other : {"", "\n", "IQ== ", " 0", "IQ==\n", "{\"a\": 0}", "IQ= 0", "\x0a\x0e\x0a\x05<unk>\x15"})
        CHECK_FALSE(engine::is_tiktoken(other));
    const std::string whole = text_of(folder("tiktoken") / "tokenizer.model");
    CHECK(engine::read_tiktoken(whole, "a", "test").vocab.size() ==
          static_cast<size_t>(std::count(whole.begin(), whole.end(), '\n')));
    for (size_t n = 0; n + 1 < whole.size(); n += 37)
        CHECK_NOTHROW([&] {
            try {
                engine::read_tiktoken(whole.substr(0, n), "a", "test");
            } catch (const engine::Error&) {
            }
        }());
}

TEST_CASE("tiktoken text: GLM-4, and names that tokenizer_config.json changes") {
    const TempDir temp;
    std::filesystem::copy(folder("tiktoken") / "tokenizer.model", temp.path());
    const auto write = [&](const char* name, const json& value) { std::ofstream(temp.path() / name) << value; };
    write("config.json", {{"model_type", "chatglm"}});
    write("tokenizer_config.json", {{"tokenizer_class", "ChatGLM4Tokenizer"}});
    CHECK_THROWS_WITH_AS(load_tokenizer(temp.path()), doctest::Contains("the token '[gMASK]' is missing"),
                         engine::Error);
    write(
        "tokenizer_config.json",
        {{"tokenizer_class", "ChatGLM4Tokenizer"},
         {"added_tokens_decoder",
          {{"400", {{"content", "[gMASK]"}, {"special", true}}}, {"401", {{"content", "<sop>"}, {"special", true}}}}}});
    const auto glm = load_tokenizer(temp.path());
    const Ids ids = glm->encode("the", Tokenizer::Bos::automatic, true);
    REQUIRE(ids.size() >= 3);
    CHECK(ids[0] == 400);
    CHECK(ids[1] == 401);
    CHECK(glm->decode(ids, false) == "the");

    write("config.json", {{"model_type", "llama"}});
    const int32_t base = *load_tokenizer(folder("tiktoken"))->bos_id();
    write("tokenizer_config.json",
          {{"added_tokens_decoder",
            {{std::to_string(base + 4),
              {{"content", "<|reserved_special_token_2|>"}, {"special", true}, {"normalized", false}}}}}});
    const auto llama = load_tokenizer(temp.path());
    CHECK(llama->token_to_id("<|reserved_special_token_2|>") == base + 4);
    CHECK_FALSE(llama->token_to_id("<|finetune_right_pad_id|>").has_value());
    CHECK(llama->encode("<|eot_id|>", Tokenizer::Bos::off, true) == Ids{base + 9});
}

TEST_CASE("Qwen 1: normal form C, no BOS") {
    const TempDir temp;
    std::filesystem::copy(folder("tiktoken") / "tokenizer.model", temp.path() / "qwen.tiktoken");
    std::ofstream(temp.path() / "config.json") << R"({"model_type": "qwen"})";
    const auto tokenizer = load_tokenizer(temp.path());
    CHECK_FALSE(tokenizer->bos_id().has_value());
    CHECK(tokenizer->encode("e\u0301", Tokenizer::Bos::automatic, true) ==
          tokenizer->encode("\u00e9", Tokenizer::Bos::automatic, true));
    CHECK(tokenizer->decode(tokenizer->encode("e\u0301", Tokenizer::Bos::automatic, true), true) == "\u00e9");
    // U+08D3 has a combining class since Unicode 11: Python's NFC moves it before U+0301, Hugging Face's does not.
    CHECK(tokenizer->decode(tokenizer->encode("q\u0301\u08d3", Tokenizer::Bos::off, true), true) == "q\u08d3\u0301");
    CHECK(tokenizer->encode("<|im_start|>", Tokenizer::Bos::off, true).size() == 1);
    CHECK(tokenizer->encode("12", Tokenizer::Bos::off, true).size() == 2);  // digits one by one
}

TEST_CASE("tekken.json: the ids of mistral-common") {
    const auto tokenizer = load_tokenizer(folder("tekken"));
    CHECK(tokenizer->kind() == "tekken.json (byte-level BPE)");
    for (const json& one : json::parse(text_of(folder("tekken") / "cases.json"))) {
        CAPTURE(one.dump());
        Ids ids = one["ids"];
        CHECK(tokenizer->encode(one["text"].get<std::string>(), Tokenizer::Bos::off, false) == ids);
        CHECK(tokenizer->decode(ids, false) == one["decoded"].get<std::string>());
        ids.insert(ids.begin(), 1);
        CHECK(tokenizer->encode(one["text"].get<std::string>(), Tokenizer::Bos::automatic, false) == ids);
    }
    CHECK(tokenizer->bos_id() == 1);
    CHECK(tokenizer->eos_id() == 2);
    CHECK(tokenizer->encode("[INST]", Tokenizer::Bos::off, true) == Ids{3});
    CHECK(tokenizer->id_to_token(29) == "<SPECIAL_29>");
}

TEST_CASE("tekken.json: what is wrong in a file is named") {
    const json good = json::parse(text_of(folder("tekken") / "tekken.json"));
    const auto refuse = [&](const char* pointer, const json& value, const char* reason) {
        json file = good;
        file[json::json_pointer(pointer)] = value;
        CAPTURE(pointer);
        CHECK_THROWS_WITH_AS(engine::parse_tekken(file.dump(), {}, "tekken.json"), doctest::Contains(reason),
                             engine::Error);
    };
    refuse("/config", json::object(), "'config' lacks pattern");
    refuse("/config/pattern", "(a", "does not compile");
    refuse("/config/default_vocab_size", -5, "'config' lacks");
    refuse("/config/default_vocab_size", 100, "default_vocab_size is 100");
    refuse("/config/default_vocab_size", 1'000'000'000, "default_vocab_size is 1000000000");
    refuse("/config/default_num_special_tokens", 1'000'000'000, "'config' lacks");
    refuse("/vocab/300/rank", 301, "entry 300 of 'vocab'");
    refuse("/vocab/300/rank", nullptr, "entry 300 of 'vocab'");
    refuse("/vocab/300/token_bytes", "?", "entry 300 of 'vocab'");
    refuse("/vocab/300/token_bytes", "", "entry 300 of 'vocab'");
    refuse("/vocab/300", json::object(), "entry 300 of 'vocab'");
    refuse("/vocab/300/token_bytes", good["vocab"][299]["token_bytes"], "is in the vocabulary twice");
    refuse("/vocab/65/token_bytes", good["vocab"][299]["token_bytes"], "the byte 65 is no token");
    refuse("/special_tokens", json::array({{{"rank", 30}, {"token_str", "<s>"}}}), "has rank 30, but there are 30");
    refuse("/special_tokens", json::array({json::object()}), "entry 0 of 'special_tokens'");
    CHECK_THROWS_AS(engine::parse_tekken("{\"vocab\":" + std::string(100'000, '['), {}, "test"), engine::Error);
    CHECK_THROWS_AS(engine::parse_tekken("", {}, "test"), engine::Error);
    json file = good;
    file["special_tokens"] = {{{"rank", 1}, {"token_str", "<bos>"}, {"is_control", true}}};
    const auto tokenizer = engine::parse_tekken(file.dump(), {}, "test");
    CHECK_FALSE(tokenizer->bos_id().has_value());
    CHECK(tokenizer->token_to_id("<bos>") == 1);
    CHECK(tokenizer->token_to_id("<SPECIAL_0>") == 0);
}

}  // namespace
}  // namespace quantplug::test
