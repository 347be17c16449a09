// Whole tokenizers against the ids and texts of Hugging Face's tokenizers and of sentencepiece
// (tests/data/tokenizers/make.py).
#include "engine/tokenizer/tokenizer.h"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "engine/base/error.h"
#include "tests/support/data.h"

namespace quantplug::test {
namespace {

using engine::Detokenizer;
using engine::load_tokenizer;
using engine::Tokenizer;
using Ids = std::vector<int32_t>;

std::filesystem::path folder(const char* name) { return data_dir() / "tokenizers" / name; }

nlohmann::json cases(const char* name) {
    std::ifstream in(folder(name) / "cases.json");
    return nlohmann::json::parse(in);
}

std::string stream(const Tokenizer& tokenizer, const Ids& ids, bool special) {
    Detokenizer detokenizer(tokenizer, special);
    std::string out;
    for (int32_t id : ids) out += detokenizer.push(id);
    return out + detokenizer.finish();
}

void compare(const char* name) {
    const auto tokenizer = load_tokenizer(folder(name));
    const nlohmann::json all = cases(name);
    REQUIRE(all.size() > 50);
    for (const auto& one : all) {
        CAPTURE(one.dump());
        const auto text = one["text"].get<std::string>();
        const bool special = one["special"];
        const Ids ids = one["ids"], auto_ids = one["auto_ids"];
        CHECK(tokenizer->encode(text, Tokenizer::Bos::off, special) == ids);
        CHECK(tokenizer->encode(text, Tokenizer::Bos::automatic, special) == auto_ids);
        CHECK(tokenizer->decode(ids, true) == one["decoded"].get<std::string>());
        CHECK(tokenizer->decode(auto_ids, special) == one["auto_decoded"].get<std::string>());
        CHECK(stream(*tokenizer, ids, true) == one["decoded"].get<std::string>());
    }
}

TEST_CASE("byte-level tokenizer.json: the ids and texts of Hugging Face's tokenizers") {
    compare("byte_level");
    const auto tokenizer = load_tokenizer(folder("byte_level"));
    CHECK(tokenizer->kind() == "tokenizer.json (byte-level BPE)");
    CHECK(tokenizer->size() == 404);
    CHECK(tokenizer->bos_id() == 400);
    CHECK(tokenizer->adds_bos());
    CHECK(tokenizer->is_special(400));
    CHECK_FALSE(tokenizer->is_special(402));
    CHECK_FALSE(tokenizer->is_special(-1));
    CHECK(tokenizer->token_to_id("<tag>") == 402);
    CHECK_FALSE(tokenizer->token_to_id("no such token").has_value());
    CHECK(tokenizer->id_to_token(401) == "</s>");
    CHECK(tokenizer->id_to_token(404).empty());
    CHECK(tokenizer->id_to_token(INT32_MIN).empty());
}

TEST_CASE("tokenizer.json with byte fallback: the ids and texts of Hugging Face's tokenizers") {
    compare("byte_fallback");
    const auto tokenizer = load_tokenizer(folder("byte_fallback"));
    CHECK(tokenizer->kind() == "tokenizer.json (BPE with byte fallback)");
    CHECK(tokenizer->bos_id() == 1);
}

TEST_CASE("Unigram with a charsmap: the ids and texts of Hugging Face's tokenizers") {
    compare("unigram");
    const auto tokenizer = load_tokenizer(folder("unigram"));
    CHECK(tokenizer->kind() == "tokenizer.json (Unigram)");
    CHECK(tokenizer->bos_id() == 1);
    CHECK(tokenizer->adds_bos());
}

TEST_CASE("tokenizer.model: the ids and texts of sentencepiece") {
    const auto tokenizer = load_tokenizer(folder("sentencepiece"));
    CHECK(tokenizer->size() == 421);  // <tag> of added_tokens_decoder
    CHECK(tokenizer->bos_id() == 1);
    CHECK(tokenizer->eos_id() == 2);
    CHECK(tokenizer->adds_bos());
    CHECK(tokenizer->is_special(1));
    CHECK(tokenizer->token_to_id("<tag>") == 420);
    for (const auto& one : cases("sentencepiece")) {
        CAPTURE(one.dump());
        const auto text = one["text"].get<std::string>();
        Ids ids = one["ids"];
        CHECK(tokenizer->encode(text, Tokenizer::Bos::off, false) == ids);
        CHECK(tokenizer->decode(ids, false) == one["decoded"].get<std::string>());
        CHECK(stream(*tokenizer, ids, false) == one["decoded"].get<std::string>());
        ids.insert(ids.begin(), 1);
        CHECK(tokenizer->encode(text, Tokenizer::Bos::automatic, false) == ids);
    }
    CHECK(tokenizer->encode("<s>the<tag>", Tokenizer::Bos::off, true).back() == 420);
    CHECK(tokenizer->encode("<s>the<tag>", Tokenizer::Bos::off, true).front() == 1);
    CHECK(tokenizer->encode("<s>", Tokenizer::Bos::off, false).size() > 1);
}

TEST_CASE("tokenizer.model without `legacy`: one prefix space, at the start") {
    const TempDir temp;
    std::filesystem::copy(folder("sentencepiece") / "tokenizer.model", temp.path());
    std::ofstream(temp.path() / "tokenizer_config.json")
        << R"({"legacy": false, "add_bos_token": false, "bos_token": null})";
    const auto now = load_tokenizer(temp.path());
    const auto before = load_tokenizer(folder("sentencepiece"));
    CHECK_FALSE(now->adds_bos());
    CHECK(now->encode("the dog", Tokenizer::Bos::automatic, true) ==
          before->encode("the dog", Tokenizer::Bos::off, true));
    CHECK(now->decode(now->encode("<s>the</s> dog", Tokenizer::Bos::off, true), true) == "<s>the</s> dog");
    CHECK(before->decode(before->encode("<s>the</s> dog", Tokenizer::Bos::off, true), true) == "<s> the</s>  dog");
}

TEST_CASE("a folder without a tokenizer, with tiktoken text, with a broken model") {
    const TempDir temp;
    CHECK_THROWS_WITH_AS(load_tokenizer(temp.path()),
                         doctest::Contains("neither tokenizer.json nor tokenizer.model, a tiktoken"), engine::Error);
    std::ofstream(temp.path() / "tokenizer.model") << "IQ== 0\nIg== 1\n";
    CHECK_THROWS_WITH_AS(load_tokenizer(temp.path()), doctest::Contains("tiktoken vocabulary of an unknown family"),
                         engine::Error);
    std::ofstream(temp.path() / "tokenizer.model") << "\x0a\xff\xff\xff";
    CHECK_THROWS_WITH_AS(load_tokenizer(temp.path()), doctest::Contains("no SentencePiece model"), engine::Error);
    std::ofstream(temp.path() / "tokenizer.model") << "version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    CHECK_THROWS_WITH_AS(load_tokenizer(temp.path()), doctest::Contains("Git LFS pointer"), engine::Error);
}

TEST_CASE("symbolic links that go nowhere are named") {
    for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                             "added_tokens.json"}) {
        CAPTURE(name);
        const TempDir temp;
        if (std::string_view(name).find("tokenizer.") != 0)
            std::filesystem::copy(folder("byte_level") / "tokenizer.json", temp.path());
        for (const char* target : {name, "gone"}) {
            std::filesystem::remove(temp.path() / name);
            std::filesystem::create_symlink(target, temp.path() / name);
            try {
                load_tokenizer(temp.path());
                FAIL("loaded");
            } catch (const engine::Error& error) {
                CHECK(std::string(error.what()).find((temp.path() / name).string()) != std::string::npos);
                CHECK(error.code() == (target == name ? engine::Code::failed_precondition : engine::Code::not_found));
            }
        }
    }
}

TEST_CASE("added_tokens.json: keys with a NUL, many entries, what the config has already") {
    const TempDir temp;
    std::filesystem::copy(folder("sentencepiece") / "tokenizer.model", temp.path());
    const int32_t base = load_tokenizer(temp.path())->size();
    const auto write = [&](const nlohmann::json& map) { std::ofstream(temp.path() / "added_tokens.json") << map; };
    nlohmann::json map{{std::string("<a\0b>", 5), base}, {"<known>", base + 7}};
    for (int32_t i = 0; i < 60'000; ++i) map["<extra" + std::to_string(i) + ">"] = base + 10 + i;
    write(map);
    std::ofstream(temp.path() / "tokenizer_config.json")
        << nlohmann::json{{"added_tokens_decoder", {{std::to_string(base + 1), {{"content", "<known>"}}}}}};
    const auto tokenizer = load_tokenizer(temp.path());
    CHECK(tokenizer->token_to_id(std::string("<a\0b>", 5)) == base);
    CHECK(tokenizer->token_to_id("<known>") == base + 1);
    CHECK(tokenizer->size() == base + 60'010);
    for (const nlohmann::json& bad : {nlohmann::json(-1), nlohmann::json("1"), nlohmann::json(4294967296)}) {
        write(nlohmann::json{{"<x>", bad}});
        CHECK_THROWS_WITH_AS(load_tokenizer(temp.path()), doctest::Contains("added_tokens.json: the id of '<x>'"),
                             engine::Error);
    }
}

TEST_CASE("BOS: as the files say, on, off; once") {
    const TempDir temp;
    std::filesystem::copy(folder("byte_level") / "tokenizer.json", temp.path());
    const auto config = [&](const char* text) {
        std::ofstream(temp.path() / "tokenizer_config.json") << text;
        return load_tokenizer(temp.path());
    };
    const auto plain = config(
        R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "model_max_length": 1000000000000000019884624838656})");
    CHECK(plain->adds_bos());
    CHECK(plain->eos_id() == 401);
    const Ids text = plain->encode("the", Tokenizer::Bos::off, true);
    CHECK(plain->encode("the", Tokenizer::Bos::on, true).size() == text.size() + 1);
    CHECK(plain->encode("<s>the", Tokenizer::Bos::on, true) == plain->encode("the", Tokenizer::Bos::on, true));
    const auto without = config(R"({"bos_token": "<s>", "add_bos_token": false})");
    CHECK_FALSE(without->adds_bos());
    CHECK(without->encode("the", Tokenizer::Bos::automatic, true) == text);
    const auto ended = config(R"({"bos_token": "<s>", "eos_token": "</s>", "add_eos_token": true})");
    CHECK(ended->encode("the", Tokenizer::Bos::automatic, true).back() == 401);
    CHECK(ended->encode("the", Tokenizer::Bos::automatic, true).size() == text.size() + 2);
    CHECK(ended->encode("the", Tokenizer::Bos::on, true).back() != 401);
    const auto other = config(R"({"bos_token": "</s>", "add_bos_token": true})");
    CHECK(other->adds_bos());
    CHECK(other->encode("the", Tokenizer::Bos::automatic, true).front() == 401);
    CHECK_THROWS_WITH_AS(config("[1, 2"), doctest::Contains("tokenizer_config.json is not valid JSON"), engine::Error);
}

TEST_CASE("input that is no UTF-8 counts as U+FFFD, each maximal part once") {
    const auto tokenizer = load_tokenizer(folder("byte_level"));
    const auto ids = [&](std::string_view text) { return tokenizer->encode(text, Tokenizer::Bos::off, false); };
    const auto decoded = [&](std::string_view text) { return tokenizer->decode(ids(text), false); };
    CHECK(decoded("a\x80z") == "a\uFFFDz");
    CHECK(decoded("\xe4\xbd") == "\uFFFD");
    CHECK(decoded("\xe4\xbdz\xf0\x9f\x99") == "\uFFFDz\uFFFD");
    CHECK(decoded("\xed\xa0\x80") == "\uFFFD\uFFFD\uFFFD");
    CHECK(decoded("\xc0\xaf\xf5\xf4\x90\x80\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
    CHECK(ids("\xff") == ids("\uFFFD"));
}

TEST_CASE("random bytes and random ids: text comes out in whole characters, streamed as at once") {
    const auto seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (const char* name : {"byte_level", "byte_fallback", "sentencepiece", "unigram", "tiktoken", "tekken"}) {
        CAPTURE(name);
        const auto tokenizer = load_tokenizer(folder(name));
        for (int round = 0; round < 200; ++round) {
            std::string text(random() % 60, '\0');
            for (char& c : text) c = static_cast<char>(random());
            const Ids from_text = tokenizer->encode(text, Tokenizer::Bos::automatic, round % 2 == 0);
            for (int32_t id : from_text) REQUIRE((id >= 0 && id < tokenizer->size()));
            Ids ids(random() % 40);
            for (int32_t& id : ids)
                id = static_cast<int32_t>(random() % static_cast<uint32_t>(tokenizer->size() + 2)) - 1;
            const std::string whole = tokenizer->decode(ids, true);
            Detokenizer detokenizer(*tokenizer, true);
            std::string joined;
            for (int32_t id : ids) {
                const std::string part = detokenizer.push(id);
                CHECK(nlohmann::json(part).dump().size() >= 2);  // throws where it is not UTF-8
                joined += part;
            }
            CHECK(joined + detokenizer.finish() == whole);
        }
    }
}

TEST_CASE("a long text without any place to cut, and many threads at once") {
    const auto tokenizer = load_tokenizer(folder("byte_fallback"));
    const std::string text(200'000, 'a');
    CHECK(tokenizer->decode(tokenizer->encode(text, Tokenizer::Bos::off, false), false) == text);
    const nlohmann::json all = cases("byte_fallback");
    std::vector<int> wrong(4);
    std::vector<std::thread> threads;
    for (int& count : wrong)
        threads.emplace_back([&] {
            for (int round = 0; round < 10; ++round)
                for (const auto& one : all)
                    if (tokenizer->encode(one["text"].get<std::string>(), Tokenizer::Bos::off, one["special"]) !=
                        one["ids"].get<Ids>())
                        ++count;
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == std::vector<int>(4));
}

}  // namespace
}  // namespace quantplug::test
