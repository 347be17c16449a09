#include "engine/tools/import_gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"

namespace quantplug::engine {

namespace {

using OrderedJson = nlohmann::ordered_json;

// tokenizer.ggml.token_type, as in sentencepiece's model.
enum TokenType : int64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

enum class Splitter { gpt2, llama3, qwen2, smollm };

struct PreTokenizer {
    std::string_view name;
    Splitter splitter;
    std::string_view tokenizer_class;
    bool add_bos;  // llama.cpp's default where tokenizer.ggml.add_bos_token is absent
};
constexpr std::array<PreTokenizer, 7> pre_tokenizers{{
    {"gpt-2", Splitter::gpt2, "GPT2Tokenizer", false},
    {"llama-bpe", Splitter::llama3, "PreTrainedTokenizerFast", true},
    {"llama3", Splitter::llama3, "PreTrainedTokenizerFast", true},
    {"llama-v3", Splitter::llama3, "PreTrainedTokenizerFast", true},
    {"qwen2", Splitter::qwen2, "Qwen2Tokenizer", false},
    {"deepseek-r1-qwen", Splitter::qwen2, "Qwen2Tokenizer", true},
    {"smollm", Splitter::smollm, "GPT2Tokenizer", false},
}};

constexpr std::string_view llama3_expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view space_mark = "\xe2\x96\x81";  // U+2581

// Merges are found by trying every cut of every piece. sentencepiece's own limit is 16 characters by default, 512 at
// most.
constexpr size_t max_piece_bytes = 2048;

OrderedJson byte_level(bool add_prefix_space, bool trim_offsets, bool use_regex) {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", add_prefix_space},
            {"trim_offsets", trim_offsets},
            {"use_regex", use_regex}};
}

OrderedJson sequence(const char* list, std::initializer_list<OrderedJson> steps) {
    OrderedJson items = OrderedJson::array();
    for (const OrderedJson& step : steps) items.push_back(step);
    return {{"type", "Sequence"}, {list, std::move(items)}};
}

OrderedJson split(std::string_view expression) {
    return {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}};
}

OrderedJson replace(std::string_view pattern, std::string_view content) {
    return {{"type", "Replace"}, {"pattern", {{"String", pattern}}}, {"content", content}};
}

class Builder {
 public:
    Builder(const GgufFile& file, int64_t n_vocab, int64_t max_positions)
        : file_(file), name_(file.source().name()), n_vocab_(n_vocab), max_positions_(max_positions) {}

    ImportedTokenizer run() {
        model_ = file_.string("tokenizer.ggml.model").value_or("");
        if (model_ != "gpt2" && model_ != "llama")
            fail(Code::unimplemented, name_, " has the tokenizer \"", printable(model_),
                 "\", supported are gpt2 and llama");
        read_tokens();
        ImportedTokenizer out;
        out.description = model_;
        std::string merges;
        if (model_ == "gpt2") {
            find_pre_tokenizer();
            out.description += concat(" (", pre_->name, ")");
            merges = stored_merges();
        } else {
            merges = merges_from_scores();
        }
        read_special();
        out.tokenizer_json = tokenizer_json(merges);
        out.tokenizer_config_json = tokenizer_config();
        out.bos_id = bos_;
        out.pad_id = pad_;
        if (eos_) out.eos_ids.push_back(*eos_);
        if (eot_ && eot_ != eos_) out.eos_ids.push_back(*eot_);
        return out;
    }

 private:
    bool is_sentencepiece() const { return model_ == "llama"; }
    TokenType type(size_t id) const { return types_.empty() ? normal : TokenType(types_[id]); }
    /// "[PAD32000]" and the like: rows of the embedding without a token.
    bool exists(size_t id) const { return type(id) != unused; }

    void read_tokens() {
        tokens_ = file_.strings("tokenizer.ggml.tokens");
        if (!tokens_ || tokens_->empty())
            fail(Code::invalid_argument, name_, " has no metadata key tokenizer.ggml.tokens: it has no tokenizer");
        if (int64_t(tokens_->size()) > n_vocab_)
            fail(Code::invalid_argument, name_, " has ", tokens_->size(), " tokens but an embedding of ", n_vocab_,
                 " rows");
        types_ = file_.integers("tokenizer.ggml.token_type");
        if (!types_.empty() && types_.size() != tokens_->size())
            fail(Code::invalid_argument, name_, " has ", tokens_->size(), " tokens but ", types_.size(),
                 " entries in tokenizer.ggml.token_type");
        for (size_t id = 0; id < tokens_->size(); ++id) {
            if (!exists(id)) continue;
            const std::string& token = (*tokens_)[id];
            if (!is_utf8(token))
                fail(Code::invalid_argument, name_, ": token ", id, " (\"", printable(token), "\") is not valid UTF-8");
            if (!ids_.emplace(token, int64_t(id)).second)
                fail(Code::invalid_argument, name_, ": the tokens ", ids_.at(token), " and ", id, " are both \"",
                     printable(token), "\"");
        }
    }

    void find_pre_tokenizer() {
        const std::string pre = file_.string("tokenizer.ggml.pre").value_or("");
        const auto row =
            std::find_if(pre_tokenizers.begin(), pre_tokenizers.end(), [&](const auto& p) { return p.name == pre; });
        if (row == pre_tokenizers.end())
            fail(Code::unimplemented, name_,
                 pre.empty() ? " has no tokenizer.ggml.pre, as files from before May 2024: convert the model again"
                             : " has the pre-tokenizer \"" + printable(pre) +
                                   "\", supported are gpt-2, llama-bpe, qwen2 and smollm");
        pre_ = &*row;
    }

    std::string stored_merges() const {
        const auto* merges = file_.strings("tokenizer.ggml.merges");
        if (!merges || merges->empty())
            fail(Code::invalid_argument, name_,
                 " has no metadata key tokenizer.ggml.merges: its tokenizer is incomplete");
        std::string out;
        for (size_t i = 0; i < merges->size(); ++i) {
            const std::string& merge = (*merges)[i];
            // The second piece of a merge never begins with a space; a first one may in theory.
            const size_t space = merge.find(' ', 1);
            if (space == std::string::npos || !ids_.contains(merge.substr(0, space)) ||
                !ids_.contains(merge.substr(space + 1)) ||
                !ids_.contains(merge.substr(0, space) + merge.substr(space + 1)))
                fail(Code::invalid_argument, name_, ": merge ", i, " (\"", printable(merge),
                     "\") does not join two tokens to a third");
            append_merge(out, std::string_view(merge).substr(0, space), std::string_view(merge).substr(space + 1));
        }
        return out;
    }

    static void append_merge(std::string& out, std::string_view left, std::string_view right) {
        if (!out.empty()) out += ",\n";
        out += concat("      ", OrderedJson(concat(left, " ", right)).dump());
    }

    struct Merge {
        int64_t left, right;
        double score;
        size_t left_length, right_length;  // characters
    };

    /// As transformers' SentencePieceExtractor: every cut of a piece into two pieces is a merge with the piece's score;
    /// merges are ordered by score, then by the lengths of their parts, all descending, then as found.
    std::string merges_from_scores() const {
        const auto scores = file_.numbers("tokenizer.ggml.scores");
        if (scores.size() != tokens_->size())
            fail(Code::invalid_argument, name_, " has ", tokens_->size(), " tokens but ", scores.size(),
                 " entries in tokenizer.ggml.scores");
        std::vector<Merge> merges;
        const auto piece_id = [&](const std::string& piece) -> std::optional<int64_t> {
            const auto found = ids_.find(piece);
            if (found == ids_.end() || type(size_t(found->second)) != normal) return std::nullopt;
            return found->second;
        };
        for (size_t id = 0; id < tokens_->size(); ++id) {
            if (type(id) != normal) continue;
            const std::string& piece = (*tokens_)[id];
            if (std::isnan(scores[id])) fail(Code::invalid_argument, name_, ": the score of token ", id, " is NaN");
            if (piece.size() > max_piece_bytes)
                fail(Code::invalid_argument, name_, ": token ", id, " has ", piece.size(), " bytes, expected at most ",
                     max_piece_bytes);
            const size_t first = merges.size();
            const auto starts = [&](size_t i) { return (uint8_t(piece[i]) & 0xc0) != 0x80; };
            const size_t length =
                size_t(std::count_if(piece.begin(), piece.end(), [](char c) { return (uint8_t(c) & 0xc0) != 0x80; }));
            size_t left_length = 1;
            for (size_t cut = 1; cut < piece.size(); ++cut) {
                if (!starts(cut)) continue;
                const auto left = piece_id(piece.substr(0, cut)), right = piece_id(piece.substr(cut));
                if (left && right) merges.push_back({*left, *right, scores[id], left_length, length - left_length});
                ++left_length;
            }
            std::sort(merges.begin() + ptrdiff_t(first), merges.end(), [](const Merge& a, const Merge& b) {
                return std::tie(a.left, a.right) < std::tie(b.left, b.right);
            });
        }
        std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
            return std::tie(a.score, a.left_length, a.right_length) > std::tie(b.score, b.left_length, b.right_length);
        });
        std::string out;
        for (const Merge& merge : merges)
            append_merge(out, (*tokens_)[size_t(merge.left)], (*tokens_)[size_t(merge.right)]);
        return out;
    }

    std::optional<int64_t> special_id(const char* key) const {
        const auto id = file_.integer(key);
        if (!id || *id < 0 || *id == 0xffffffff) return std::nullopt;
        if (*id >= int64_t(tokens_->size()) || !exists(size_t(*id)))
            fail(Code::invalid_argument, name_, ": ", key, " is ", *id, ", but there are ", tokens_->size(), " tokens");
        return id;
    }

    void read_special() {
        bos_ = special_id("tokenizer.ggml.bos_token_id");
        eos_ = special_id("tokenizer.ggml.eos_token_id");
        eot_ = special_id("tokenizer.ggml.eot_token_id");
        unk_ = special_id("tokenizer.ggml.unknown_token_id");
        pad_ = special_id("tokenizer.ggml.padding_token_id");
        add_bos_ = file_.boolean("tokenizer.ggml.add_bos_token").value_or(is_sentencepiece() || pre_->add_bos) && bos_;
        add_eos_ = file_.boolean("tokenizer.ggml.add_eos_token").value_or(false) && eos_;
        add_space_ = file_.boolean("tokenizer.ggml.add_space_prefix").value_or(is_sentencepiece());
    }

    OrderedJson normalizer() const {
        if (is_sentencepiece()) {
            const OrderedJson spaces = replace(" ", space_mark);
            if (!add_space_) return spaces;
            return sequence("normalizers", {{{"type", "Prepend"}, {"prepend", space_mark}}, spaces});
        }
        if (pre_->splitter == Splitter::qwen2) return {{"type", "NFC"}};
        return nullptr;
    }

    OrderedJson pre_tokenizer() const {
        if (is_sentencepiece()) return nullptr;
        switch (pre_->splitter) {
            case Splitter::llama3:
                return sequence("pretokenizers", {split(llama3_expression), byte_level(false, true, false)});
            case Splitter::qwen2:
                return sequence("pretokenizers", {split(qwen2_expression), byte_level(false, false, false)});
            case Splitter::smollm:
                return sequence("pretokenizers",
                                {{{"type", "Digits"}, {"individual_digits", true}}, byte_level(false, true, true)});
            default:
                return byte_level(false, true, true);
        }
    }

    OrderedJson post_processor() const {
        const OrderedJson bytes = byte_level(true, false, true);
        if (!add_bos_ && !add_eos_) {
            if (is_sentencepiece() || pre_->splitter == Splitter::smollm) return nullptr;
            return bytes;
        }
        OrderedJson single = OrderedJson::array(), pair = OrderedJson::array(), special = OrderedJson::object();
        const auto add = [&](OrderedJson& list, int64_t id, int segment) {
            const std::string& text = (*tokens_)[size_t(id)];
            list.push_back({{"SpecialToken", {{"id", text}, {"type_id", segment}}}});
            special[text] = {{"id", text}, {"ids", OrderedJson::array({id})}, {"tokens", OrderedJson::array({text})}};
        };
        for (int segment = 0; segment < 2; ++segment) {
            const OrderedJson text = {{"Sequence", {{"id", segment == 0 ? "A" : "B"}, {"type_id", segment}}}};
            if (add_bos_) add(pair, *bos_, segment);
            pair.push_back(text);
            if (add_eos_) add(pair, *eos_, segment);
            if (segment == 0) single = pair;
        }
        const OrderedJson processor = {
            {"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
        return is_sentencepiece() ? processor : sequence("processors", {byte_level(true, false, true), processor});
    }

    OrderedJson decoder() const {
        if (!is_sentencepiece()) return byte_level(true, true, true);
        OrderedJson steps =
            sequence("decoders", {replace(space_mark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
        if (add_space_) steps["decoders"].push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
        return steps;
    }

    OrderedJson added_tokens() const {
        OrderedJson list = OrderedJson::array();
        for (size_t id = 0; id < tokens_->size(); ++id) {
            const TokenType t = type(id);
            if (t != control && t != user_defined && !(t == unknown && is_sentencepiece())) continue;
            list.push_back({{"id", id},
                            {"content", (*tokens_)[id]},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", false},
                            {"special", t != user_defined}});
        }
        return list;
    }

    /// The vocabulary and merges are put in as text: an ordered object of 150,000 keys would be searched one by one.
    std::string tokenizer_json(const std::string& merges) const {
        OrderedJson head;
        head["version"] = "1.0";
        head["truncation"] = nullptr;
        head["padding"] = nullptr;
        head["added_tokens"] = added_tokens();
        head["normalizer"] = normalizer();
        head["pre_tokenizer"] = pre_tokenizer();
        head["post_processor"] = post_processor();
        head["decoder"] = decoder();
        const bool has_unk = is_sentencepiece() && unk_;
        OrderedJson model;
        model["type"] = "BPE";
        model["dropout"] = nullptr;
        model["unk_token"] = has_unk ? OrderedJson((*tokens_)[size_t(*unk_)]) : OrderedJson(nullptr);
        model["continuing_subword_prefix"] = nullptr;
        model["end_of_word_suffix"] = nullptr;
        model["fuse_unk"] = is_sentencepiece();
        model["byte_fallback"] = is_sentencepiece();
        model["ignore_merges"] = !is_sentencepiece() && pre_->splitter == Splitter::llama3;

        std::string out = head.dump(2);
        out.erase(out.rfind("\n}"));
        std::string model_text = model.dump(2);
        model_text.erase(model_text.rfind("\n}"));
        out += ",\n  \"model\": " + model_text + ",\n    \"vocab\": {";
        bool first = true;
        for (size_t id = 0; id < tokens_->size(); ++id) {
            if (!exists(id)) continue;
            out += concat(first ? "\n" : ",\n", "      ", OrderedJson((*tokens_)[id]).dump(), ": ", id);
            first = false;
        }
        out += "\n    },\n    \"merges\": [\n" + merges + "\n    ]\n  }\n}\n";
        return out;
    }

    OrderedJson chat_template() const {
        const auto standard = file_.string("tokenizer.chat_template");
        const auto* names = file_.strings("tokenizer.chat_templates");
        if (!names || names->empty()) return standard ? OrderedJson(*standard) : OrderedJson(nullptr);
        OrderedJson list = OrderedJson::array();
        if (standard) list.push_back({{"name", "default"}, {"template", *standard}});
        for (const std::string& name : *names)
            if (const auto text = file_.string("tokenizer.chat_template." + name))
                list.push_back({{"name", name}, {"template", *text}});
        return list;
    }

    std::string tokenizer_config() const {
        OrderedJson config;
        config["tokenizer_class"] = is_sentencepiece() ? "LlamaTokenizer" : pre_->tokenizer_class;
        config["add_bos_token"] = add_bos_;
        config["add_eos_token"] = add_eos_;
        config["add_prefix_space"] = add_space_;
        const auto token = [&](const char* key, std::optional<int64_t> id) {
            if (id) config[key] = (*tokens_)[size_t(*id)];
        };
        token("bos_token", bos_);
        token("eos_token", eos_);
        token("unk_token", unk_);
        token("pad_token", pad_);
        if (is_sentencepiece()) config["legacy"] = true;
        config["clean_up_tokenization_spaces"] = false;
        config["model_max_length"] = max_positions_;
        if (OrderedJson chat = chat_template(); !chat.is_null()) config["chat_template"] = std::move(chat);
        return dump_text(config);
    }

    /// A template with bytes that are no UTF-8 would make dump() throw.
    std::string dump_text(const OrderedJson& json) const {
        try {
            return json.dump(2) + "\n";
        } catch (const OrderedJson::exception&) {
            fail(Code::invalid_argument, name_, ": tokenizer.chat_template is not valid UTF-8");
        }
    }

    const GgufFile& file_;
    const std::string& name_;
    int64_t n_vocab_, max_positions_;
    std::string model_;
    const PreTokenizer* pre_ = nullptr;  // of gpt2
    const std::vector<std::string>* tokens_ = nullptr;
    std::vector<int64_t> types_;
    std::unordered_map<std::string, int64_t> ids_;
    std::optional<int64_t> bos_, eos_, eot_, unk_, pad_;
    bool add_bos_ = false, add_eos_ = false, add_space_ = false;
};

}  // namespace

ImportedTokenizer make_gguf_tokenizer(const GgufFile& file, int64_t n_vocab, int64_t max_positions) {
    return Builder(file, n_vocab, max_positions).run();
}

}  // namespace quantplug::engine
