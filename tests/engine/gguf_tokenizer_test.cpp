#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/json.h"
#include "engine/tools/import_gguf_file.h"
#include "engine/tools/import_gguf_tokenizer.h"
#include "gguf_files.h"

using namespace quantplug::engine;
using namespace quantplug::test;

namespace {

GgufBuilder byte_level() {
    const TinyVocabulary vocabulary;
    GgufBuilder file;
    file.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", vocabulary.tokens);
    file.texts("tokenizer.ggml.merges", vocabulary.merges)
        .list("tokenizer.ggml.token_type", GgufBuilder::i32, vocabulary.types);
    return file.number("tokenizer.ggml.bos_token_id", 261).number("tokenizer.ggml.eos_token_id", 262);
}

const std::string mark = "\xe2\x96\x81";

/// Scores chosen so that the order of the merges is not the order of the pieces.
GgufBuilder sentencepiece() {
    const std::vector<std::string> tokens{"<unk>",
                                          "<s>",
                                          "</s>",
                                          "<0x0A>",
                                          mark + "a",
                                          mark + "ab",
                                          "b",
                                          "a",
                                          mark,
                                          "ab",
                                          mark + "abb",
                                          "\xc3\xa9"
                                          "b",
                                          "\xc3\xa9"};
    const std::vector<int32_t> types{2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const std::vector<float> scores{0, 0, 0, 0, -1, -3, -10, -11, -12, -2, -3, -1, -13};
    GgufBuilder file;
    file.text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", tokens)
        .list("tokenizer.ggml.token_type", GgufBuilder::i32, types);
    file.list("tokenizer.ggml.scores", GgufBuilder::f32, scores);
    return file.number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2)
        .number("tokenizer.ggml.unknown_token_id", 0);
}

struct Made {
    ImportedTokenizer files;
    Json tokenizer, config;
};

Made make(const GgufBuilder& builder, int64_t n_vocab = 300) {
    const std::string bytes = builder.bytes();
    const MemoryBytes source(as_span(bytes), "m.gguf");
    Made made{make_gguf_tokenizer(GgufFile(source), n_vocab, 128), {}, {}};
    made.tokenizer = parse_json(made.files.tokenizer_json, "tokenizer.json");
    made.config = parse_json(made.files.tokenizer_config_json, "tokenizer_config.json");
    return made;
}

}  // namespace

TEST_CASE("gguf tokenizer: byte-level BPE") {
    const Made made = make(byte_level());
    const Json& t = made.tokenizer;
    CHECK(made.files.description == "gpt2 (smollm)");
    CHECK(t["model"]["type"] == "BPE");
    CHECK(t["model"]["vocab"]["hello"] == 259);
    CHECK(t["model"]["vocab"]["<|begin|>"] == 261);
    CHECK_FALSE(t["model"]["vocab"].contains("[PAD264]"));
    CHECK(t["model"]["vocab"].size() == 264);
    CHECK(t["model"]["merges"] == Json(TinyVocabulary().merges));
    CHECK(t["model"]["ignore_merges"] == false);
    CHECK(t["model"]["byte_fallback"] == false);
    REQUIRE(t["added_tokens"].size() == 3);
    CHECK(t["added_tokens"][0]["content"] == "<|begin|>");
    CHECK(t["added_tokens"][0]["id"] == 261);
    CHECK(t["added_tokens"][0]["special"] == true);
    CHECK(t["added_tokens"][2]["special"] == false);
    CHECK(t["pre_tokenizer"]["pretokenizers"][0]["type"] == "Digits");
    CHECK(t["post_processor"].is_null());
    CHECK(t["normalizer"].is_null());
    CHECK(t["decoder"]["type"] == "ByteLevel");
    CHECK(made.config["bos_token"] == "<|begin|>");
    CHECK(made.config["eos_token"] == "<|end|>");
    CHECK(made.config["add_bos_token"] == false);
    CHECK_FALSE(made.config.contains("chat_template"));
    CHECK(made.files.bos_id == 261);
    CHECK(made.files.eos_ids == std::vector<int64_t>{262});
}

TEST_CASE("gguf tokenizer: pre-tokenizers and who adds BOS") {
    const Json llama3 = make(byte_level().text("tokenizer.ggml.pre", "llama-bpe")).tokenizer;
    CHECK(llama3["model"]["ignore_merges"] == true);
    CHECK(llama3["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].get<std::string>().find("{1,3}") !=
          std::string::npos);
    CHECK(llama3["pre_tokenizer"]["pretokenizers"][1]["use_regex"] == false);
    const Json& bos = llama3["post_processor"]["processors"][1];
    CHECK(bos["type"] == "TemplateProcessing");
    CHECK(bos["single"][0]["SpecialToken"]["id"] == "<|begin|>");
    CHECK(bos["single"].size() == 2);
    CHECK(bos["special_tokens"]["<|begin|>"]["ids"][0] == 261);
    const Json qwen = make(byte_level().text("tokenizer.ggml.pre", "qwen2")).tokenizer;
    CHECK(qwen["normalizer"]["type"] == "NFC");
    CHECK(qwen["post_processor"]["type"] == "ByteLevel");
    CHECK(make(byte_level().text("tokenizer.ggml.pre", "gpt-2")).tokenizer["pre_tokenizer"]["use_regex"] == true);
    const Json both =
        make(byte_level().flag("tokenizer.ggml.add_bos_token", true).flag("tokenizer.ggml.add_eos_token", true))
            .tokenizer;
    CHECK(both["post_processor"]["processors"][1]["single"].size() == 3);
    CHECK(both["post_processor"]["processors"][1]["pair"].size() == 6);
    const Made off =
        make(byte_level().text("tokenizer.ggml.pre", "llama-bpe").flag("tokenizer.ggml.add_bos_token", false));
    CHECK(off.tokenizer["post_processor"]["type"] == "ByteLevel");
    CHECK(off.config["add_bos_token"] == false);
}

TEST_CASE("gguf tokenizer: SentencePiece merges follow scores, then lengths") {
    const Made made = make(sentencepiece());
    const Json& t = made.tokenizer;
    // By hand: -1: "e'"+"b" and mark+"a" (equal lengths: by id); -2: a+b; -3: lengths of the left part: mark ab + b,
    // then mark a + b, then mark + ab.
    const std::vector<std::string> expected{mark + " a",   "\xc3\xa9 b", "a b",
                                            mark + "ab b", mark + "a b", mark + " ab"};
    CHECK(t["model"]["merges"].get<std::vector<std::string>>() == expected);
    CHECK(t["model"]["byte_fallback"] == true);
    CHECK(t["model"]["unk_token"] == "<unk>");
    CHECK(t["model"]["fuse_unk"] == true);
    CHECK(t["added_tokens"].size() == 3);
    CHECK(t["normalizer"]["normalizers"][0]["prepend"] == mark);
    CHECK(t["pre_tokenizer"].is_null());
    CHECK(t["post_processor"]["single"][0]["SpecialToken"]["id"] == "<s>");
    CHECK(t["decoder"]["decoders"].size() == 4);
    CHECK(made.config["add_bos_token"] == true);
    const Json bare = make(sentencepiece().flag("tokenizer.ggml.add_space_prefix", false)).tokenizer;
    CHECK(bare["normalizer"]["type"] == "Replace");
    CHECK(bare["decoder"]["decoders"].size() == 3);
}

TEST_CASE("gguf tokenizer: chat templates and the ends of a turn") {
    const Made one =
        make(byte_level().text("tokenizer.chat_template", "{{ 'x' }}\n").number("tokenizer.ggml.eot_token_id", 263));
    CHECK(one.config["chat_template"] == "{{ 'x' }}\n");
    CHECK(one.files.eos_ids == std::vector<int64_t>{262, 263});
    const Made several = make(byte_level()
                                  .text("tokenizer.chat_template", "A")
                                  .text("tokenizer.chat_template.tool_use", "B")
                                  .texts("tokenizer.chat_templates", {"tool_use"}));
    REQUIRE(several.config["chat_template"].size() == 2);
    CHECK(several.config["chat_template"][0]["name"] == "default");
    CHECK(several.config["chat_template"][1]["template"] == "B");
}

TEST_CASE("gguf tokenizer: vocabularies that contradict themselves") {
    const auto refused = [](const GgufBuilder& file, Code code, std::initializer_list<std::string_view> parts,
                            int64_t n_vocab = 300) {
        const Outcome outcome = outcome_of([&] { make(file, n_vocab); });
        INFO(outcome.message);
        CHECK(outcome.code == code);
        CHECK(outcome.mentions({"m.gguf"}));
        CHECK(outcome.mentions(parts));
    };
    refused(byte_level().text("tokenizer.ggml.model", "bert"), Code::unimplemented, {"bert"});
    refused(byte_level().drop("tokenizer.ggml.model"), Code::unimplemented, {"tokenizer"});
    refused(byte_level().text("tokenizer.ggml.pre", "poro"), Code::unimplemented, {"poro"});
    refused(byte_level().drop("tokenizer.ggml.pre"), Code::unimplemented, {"tokenizer.ggml.pre"});
    refused(byte_level().drop("tokenizer.ggml.tokens"), Code::invalid_argument, {"tokenizer.ggml.tokens"});
    refused(byte_level().drop("tokenizer.ggml.merges"), Code::invalid_argument, {"tokenizer.ggml.merges"});
    refused(byte_level().texts("tokenizer.ggml.merges", {"h e", "he l"}), Code::invalid_argument, {"merge 1", "he l"});
    refused(byte_level().texts("tokenizer.ggml.merges", {"he"}), Code::invalid_argument, {"merge 0"});
    refused(byte_level().texts("tokenizer.ggml.merges", {""}), Code::invalid_argument, {"merge 0"});
    refused(byte_level().texts("tokenizer.ggml.tokens", {"a", "b", "a"}).drop("tokenizer.ggml.token_type"),
            Code::invalid_argument, {"0 and 2", "\"a\""});
    refused(byte_level().texts("tokenizer.ggml.tokens", {"a", "\xff"}).drop("tokenizer.ggml.token_type"),
            Code::invalid_argument, {"token 1", "UTF-8"});
    refused(byte_level().list("tokenizer.ggml.token_type", GgufBuilder::i32, std::vector<int32_t>{1}),
            Code::invalid_argument, {"token_type"});
    refused(byte_level().number("tokenizer.ggml.eos_token_id", 265), Code::invalid_argument, {"eos_token_id", "265"});
    refused(byte_level().number("tokenizer.ggml.eos_token_id", 264), Code::invalid_argument,
            {"eos_token_id", "264"});  // unused
    refused(byte_level(), Code::invalid_argument, {"265 tokens", "264 rows"}, 264);
    refused(byte_level().text("tokenizer.chat_template", "\xff"), Code::invalid_argument, {"chat_template", "UTF-8"});
    refused(sentencepiece().drop("tokenizer.ggml.scores"), Code::invalid_argument, {"tokenizer.ggml.scores"});
    refused(sentencepiece().list("tokenizer.ggml.scores", GgufBuilder::f32, std::vector<float>(13, NAN)),
            Code::invalid_argument, {"NaN"});
    refused(
        sentencepiece()
            .texts("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", std::string(5000, 'x')})
            .drop("tokenizer.ggml.token_type")
            .list("tokenizer.ggml.scores", GgufBuilder::f32, std::vector<float>(4)),
        Code::invalid_argument, {"token 3", "5000 bytes"});
}
