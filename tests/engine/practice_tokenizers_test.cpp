// Tokenizers as people have them, one test a line; named after it.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <set>

#include "checkpoint_files.h"
#include "engine/model/model.h"
#include "engine/tokenizer/tokenizer.h"
#include "tiny_folders.h"

namespace quantplug::test {
namespace {

using engine::ByteRange;
using engine::load_tokenizer;
using engine::parse_tokenizer_json;
using engine::Tokenizer;
using Ids = std::vector<int32_t>;
using Bos = Tokenizer::Bos;

std::filesystem::path made(const char* name) { return data_dir() / "tokenizers" / name; }

json parsed(const std::filesystem::path& file) {
    std::ifstream in(file, std::ios::binary);
    return json::parse(in);
}

void put(const std::filesystem::path& file, const json& value) { std::ofstream(file) << value; }

std::string vocab_line(const std::string& token, int id) {
    return "      \"" + token + "\": " + std::to_string(id) + ",\n";
}

// Text "ab" merged from "a" and "b".
json small(const json& merges) {
    return {{"added_tokens", {{{"id", 9}, {"content", "<s>"}, {"special", true}, {"normalized", false}}}},
            {"model",
             {{"type", "BPE"},
              {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}, {"c", 3}, {"abc", 4}, {"<0x64>", 5}, {"<unk>", 6}}},
              {"merges", merges}}}};
}

Ids encode(const json& file, std::string_view text, Bos bos = Bos::off) {
    return parse_tokenizer_json(file.dump(), "test")->encode(text, bos, true);
}

}  // namespace

TEST_CASE("practice: tokenizer.json first, before tokenizer.model, tiktoken files and tekken.json") {
    const TempDir temp;
    const auto kind = [&] { return std::string(load_tokenizer(temp.path())->kind()); };
    std::filesystem::copy(made("tekken") / "tekken.json", temp.path());
    CHECK(kind() == "tekken.json (byte-level BPE)");
    std::filesystem::copy(made("tiktoken") / "tokenizer.model", temp.path() / "qwen.tiktoken");
    put(temp.path() / "config.json", {{"model_type", "qwen"}});
    CHECK(kind() == "tiktoken (byte-level BPE)");
    std::filesystem::copy(made("sentencepiece") / "tokenizer.model", temp.path());
    CHECK(kind() == "tokenizer.model (SentencePiece)");
    std::filesystem::copy(made("unigram") / "tokenizer.json", temp.path());
    CHECK(kind() == "tokenizer.json (Unigram)");
}

TEST_CASE("practice: merges as \"a b\" or [\"a\", \"b\"]") {
    CHECK(encode(small({"a b", "ab c"}), "abcab") == Ids{4, 2});
    CHECK(encode(small(json::parse(R"([["a", "b"], ["ab", "c"]])")), "abcab") == Ids{4, 2});
}

TEST_CASE("practice: ignore_merges of Llama 3") {
    json file = small({"a b"});
    CHECK(encode(file, "abc") == Ids{2, 3});
    file["model"]["ignore_merges"] = true;
    CHECK(encode(file, "abc") == Ids{4});
    CHECK(encode(file, "abca") == Ids{2, 3, 0});
}

TEST_CASE("practice: byte_fallback") {
    json file = small({"a b"});
    file["model"]["unk_token"] = "<unk>";
    CHECK(encode(file, "ad") == Ids{0, 6});
    file["model"]["byte_fallback"] = true;
    CHECK(encode(file, "ad") == Ids{0, 5});
    CHECK(encode(file, "ae") == Ids{0, 6});
}

TEST_CASE("practice: BOS from the post-processor or from add_bos_token") {
    json file = small({"a b"});
    CHECK(encode(file, "a", Bos::automatic) == Ids{0});
    const TempDir temp;
    put(temp.path() / "tokenizer.json", file);
    put(temp.path() / "tokenizer_config.json", {{"bos_token", "<s>"}, {"add_bos_token", true}});
    CHECK(load_tokenizer(temp.path())->encode("a", Bos::automatic, true) == Ids{9, 0});
    file["post_processor"] = {{"type", "TemplateProcessing"},
                              {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
                              {"special_tokens", {{"<s>", {{"ids", {9u}}}}}}};
    CHECK(encode(file, "a", Bos::automatic) == Ids{9, 0});
    put(temp.path() / "tokenizer.json", file);
    CHECK(load_tokenizer(temp.path())->encode("a", Bos::automatic, true) == Ids{9, 0});  // once
    put(temp.path() / "tokenizer_config.json", {{"bos_token", "<s>"}, {"add_bos_token", false}});
    CHECK(load_tokenizer(temp.path())->encode("a", Bos::automatic, true) == Ids{0});
    CHECK(load_tokenizer(temp.path())->encode("a", Bos::on, true) == Ids{9, 0});
}

TEST_CASE("practice: 9 to 34 MB of JSON are read without a document of them all") {
    // 110,000 tokens and as many merges, pretty-printed as Gemma's: 10 MB.
    std::string vocab, merges;
    const auto name = [](int i) {
        std::string out(4, 'a');
        for (char& c : out) {
            c = static_cast<char>('a' + i % 26);
            i /= 26;
        }
        return "\xE4\xBD\xA0\xE5\xA5\xBD" + out;
    };
    for (int i = 0; i < 26; ++i) vocab += vocab_line(std::string(1, static_cast<char>('a' + i)), i);
    vocab += vocab_line("\xE4\xBD\xA0\xE5\xA5\xBD", 26);
    vocab += vocab_line("\xE4\xBD\xA0", 27) + vocab_line("\xE5\xA5\xBD", 28);
    merges += "      [\n        \"\xE4\xBD\xA0\",\n        \"\xE5\xA5\xBD\"\n      ],\n";
    int id = 29;
    std::set<std::string> seen;
    for (int i = 0; i < 110'000; ++i) {
        std::string token = name(i);
        for (size_t length = 7; length <= token.size(); ++length) {
            const std::string part = token.substr(0, length);
            if (!seen.insert(part).second) continue;
            vocab += vocab_line(part, id++);
            merges +=
                "      [\n        \"" + part.substr(0, length - 1) + "\",\n        \"" + part.back() + "\"\n      ],\n";
        }
    }
    vocab.erase(vocab.rfind(','));
    merges.erase(merges.rfind(','));
    const std::string text = "{\n  \"model\": {\n    \"type\": \"BPE\",\n    \"vocab\": {\n" + vocab +
                             "\n    },\n    \"merges\": [\n" + merges + "\n    ]\n  }\n}\n";
    REQUIRE(text.size() > 9'000'000);
    const auto start = std::chrono::steady_clock::now();
    const auto tokenizer = parse_tokenizer_json(text, "test");
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const size_t megabytes = text.size() / 1'000'000;
    MESSAGE(megabytes, " MB of JSON in ", seconds.count(), " s");
    CHECK(seconds.count() < 10);  // 0.25 s on an idle machine; sanitizers and company take their time
    CHECK(tokenizer->encode(name(1234), Bos::off, true) == Ids{*tokenizer->token_to_id(name(1234))});
}

TEST_CASE("practice: tokenizer.model is a sentencepiece model or tiktoken text, told by content") {
    const TempDir temp;
    put(temp.path() / "config.json", {{"model_type", "llama"}});
    std::filesystem::copy(made("sentencepiece") / "tokenizer.model", temp.path());
    CHECK(load_tokenizer(temp.path())->kind() == "tokenizer.model (SentencePiece)");
    std::filesystem::copy(made("tiktoken") / "tokenizer.model", temp.path(),
                          std::filesystem::copy_options::overwrite_existing);
    const auto llama = load_tokenizer(temp.path());
    CHECK(llama->kind() == "tiktoken (byte-level BPE)");
    CHECK(llama->id_to_token(llama->encode("the", Bos::automatic, true).front()) == "<|begin_of_text|>");
    put(temp.path() / "config.json", {{"model_type", "dbrx"}});
    CHECK_REFUSED(load_tokenizer(temp.path()), engine::Code::unimplemented, "'dbrx'", "tokenizer.json beside it");
}

TEST_CASE("practice: added ids beyond the sentencepiece vocabulary, and holes before them") {
    const TempDir temp;
    std::filesystem::copy(made("sentencepiece") / "tokenizer.model", temp.path());
    const int32_t n = load_tokenizer(temp.path())->size();
    put(temp.path() / "tokenizer_config.json",
        {{"added_tokens_decoder",
          {{std::to_string(n + 5), {{"content", "<|im_end|>"}, {"special", true}}},
           {std::to_string(n), {{"content", "<think>"}, {"special", false}, {"rstrip", true}}}}}});
    put(temp.path() / "added_tokens.json", {{"<old>", n + 2}});
    const auto tokenizer = load_tokenizer(temp.path());
    CHECK(tokenizer->size() == n + 6);
    CHECK(tokenizer->encode("<think>  <|im_end|>", Bos::off, true) == Ids{n, n + 5});
    CHECK(tokenizer->encode("<old>", Bos::off, true) == Ids{n + 2});
    CHECK(tokenizer->is_special(n + 5));
    CHECK_FALSE(tokenizer->is_special(n));
    CHECK(tokenizer->id_to_token(n + 1).empty());
    CHECK(tokenizer->decode(Ids{n + 1, n, n + 5}, false) == "<think>");
}

TEST_CASE("practice: added tokens of tokenizer_config.json that tokenizer.json lacks, or has with other flags") {
    const TempDir temp;
    put(temp.path() / "tokenizer.json", small({"a b"}));
    const auto with = [&](const json& config) {
        put(temp.path() / "tokenizer_config.json", config);
        return load_tokenizer(temp.path());
    };
    const auto more =
        with({{"added_tokens_decoder", {{"10", {{"content", "<new>"}, {"special", true}, {"lstrip", true}}}}}});
    CHECK(more->encode("a  <new>b", Bos::off, true) == Ids{0, 10, 1});
    CHECK(more->is_special(10));
    const auto strip = with({{"added_tokens_decoder", {{"9", {{"content", "<s>"}, {"rstrip", true}}}}}});
    CHECK(strip->encode("<s>  a", Bos::off, true) == Ids{9, 0});
    CHECK(strip->is_special(9));
    CHECK(with({{"eos_token", "c"}})->is_special(3));     // named, in the vocabulary
    CHECK(with({{"pad_token", "<pad>"}})->size() == 10);  // named, nowhere: no row for it
}

TEST_CASE("practice: legacy prefix-space behaviour, add_prefix_space, add_eos_token of a bare tokenizer.model") {
    const TempDir temp;
    std::filesystem::copy(made("sentencepiece") / "tokenizer.model", temp.path());
    const auto ids = [&](const json& config, std::string_view text) {
        put(temp.path() / "tokenizer_config.json", config);
        return load_tokenizer(temp.path())->encode(text, Bos::automatic, true);
    };
    const Ids the = ids({{"add_bos_token", false}}, "the");
    Ids twice = the;
    twice.insert(twice.begin(), 1);
    twice.push_back(2);
    twice.insert(twice.end(), the.begin(), the.end());
    CHECK(ids(json::object(), "the</s>the") == twice);       // every piece gets its space
    CHECK(ids({{"legacy", false}}, "the</s>the") != twice);  // the first alone
    CHECK(ids({{"legacy", false}, {"add_bos_token", false}}, "the") == the);
    CHECK(ids({{"legacy", false}, {"add_bos_token", false}, {"add_prefix_space", false}}, " the") == the);
    CHECK(ids({{"legacy", false}, {"add_bos_token", false}, {"add_prefix_space", false}}, "the") != the);
    const Ids ended = ids({{"add_bos_token", false}, {"add_eos_token", true}}, "the");
    CHECK(ended.size() == the.size() + 1);
    CHECK(ended.back() == 2);
}

TEST_CASE("practice: vocab_size larger than the tokenizer, its ids alone are drawn; smaller, an error") {
    TinyFolder tiny("llama");
    engine::LoadOptions options;
    options.vocab_only = true;
    const auto load = [&] { return engine::Model::load(tiny.open(), PlainFormat(), options, nullptr, nullptr); };
    const int32_t n = load()->tokenizer().size();
    json& vocab = tiny.tokenizer["model"]["vocab"];
    tiny.tokenizer["model"]["merges"] = json::array();
    std::string last;
    for (const auto& [token, id] : vocab.items())
        if (id == n - 1) last = token;
    REQUIRE_FALSE(last.empty());
    vocab["one more"] = n;
    CHECK_REFUSED(load(), engine::Code::invalid_argument, std::to_string(n + 1).c_str(), "do not belong together");
    vocab.erase("one more");
    vocab.erase(last);
    CHECK(load()->n_sampled() == n - 1);
}

TEST_CASE("practice: text that looks like a special token stays text in a message, and is the token in the template") {
    for (const char* name : {"byte_level", "byte_fallback", "unigram", "sentencepiece"}) {
        CAPTURE(name);
        const auto tokenizer = load_tokenizer(made(name));
        const int32_t eos = *tokenizer->token_to_id("</s>");
        const auto count = [&](const Ids& ids) { return std::count(ids.begin(), ids.end(), eos); };
        CHECK(count(tokenizer->encode("the</s> fox", Bos::off, false)) == 0);
        CHECK(count(tokenizer->encode("the</s> fox", Bos::off, true)) == 1);
        // A user's "the</s>" between two tokens of the template.
        const std::string text = "</s>the</s> fox</s>";
        const ByteRange message{4, text.size() - 4};
        CHECK(count(tokenizer->encode_marked(text, Bos::off, {&message, 1})) == 2);
        CHECK(count(tokenizer->encode_marked(text, Bos::off, {})) == 3);
    }
}

TEST_CASE("practice: every vocabulary here is compared with its library, and the strings are counted") {
    size_t strings = 0, vocabularies = 0;
    for (const char* name : {"byte_level", "byte_fallback", "unigram", "sentencepiece", "tiktoken", "tekken"}) {
        CAPTURE(name);
        const auto tokenizer = load_tokenizer(made(name));
        std::set<std::string> texts;
        for (const json& one : parsed(made(name) / "cases.json")) {
            const bool special = one.contains("special") && one["special"].is_boolean() && one["special"].get<bool>();
            const Ids ids = one.contains("plain") ? one["plain"] : one["ids"];
            CHECK(tokenizer->encode(one["text"].get<std::string>(), Bos::off, special) == ids);
            texts.insert(one["text"]);
        }
        CHECK(texts.size() >= 30);
        strings += texts.size();
        ++vocabularies;
    }
    MESSAGE(strings, " strings of ", vocabularies,
            " made vocabularies; scripts/compare_tokenizers.py compares real ones and prints its counts");
}

}  // namespace quantplug::test
