#include "engine/tokenizer/tekken.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "engine/base/error.h"
#include "engine/tokenizer/base64.h"
#include "engine/tokenizer/hf_tokenizer.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/tiktoken.h"

namespace quantplug::engine {
namespace {

using nlohmann::json;

// Files before version 7 may leave them out (mistral-common, Tekkenizer.DEPRECATED_SPECIAL_TOKENS).
constexpr std::array<std::string_view, 20> old_specials = {"<unk>",
                                                           "<s>",
                                                           "</s>",
                                                           "[INST]",
                                                           "[/INST]",
                                                           "[AVAILABLE_TOOLS]",
                                                           "[/AVAILABLE_TOOLS]",
                                                           "[TOOL_RESULTS]",
                                                           "[/TOOL_RESULTS]",
                                                           "[TOOL_CALLS]",
                                                           "[IMG]",
                                                           "<pad>",
                                                           "[IMG_BREAK]",
                                                           "[IMG_END]",
                                                           "[PREFIX]",
                                                           "[MIDDLE]",
                                                           "[SUFFIX]",
                                                           "[SYSTEM_PROMPT]",
                                                           "[/SYSTEM_PROMPT]",
                                                           "[TOOL_CONTENT]"};
constexpr int64_t special_limit = 1 << 16;

// The list 'vocab' as tokens, 'config' and 'special_tokens' as fields; all else is skipped.
class TekkenReader final : public nlohmann::json_sax<json> {
 public:
    explicit TekkenReader(std::string_view name) : name_(name) {}

    TokenizerFile file;  // ids are ranks
    std::string expression;
    int64_t vocab_size = -1, n_special = -1;
    std::vector<std::pair<int64_t, std::string>> specials;  // rank, token

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }

    bool number_unsigned(number_unsigned_t value) override {
        const auto number = static_cast<int64_t>(std::min<uint64_t>(value, INT64_MAX));
        if (top_ == "config" && depth_ == 2 && key_ == "default_vocab_size") vocab_size = number;
        if (top_ == "config" && depth_ == 2 && key_ == "default_num_special_tokens") n_special = number;
        if (in_entry() && key_ == "rank") rank_ = number;
        return true;
    }
    bool string(string_t& value) override {
        if (top_ == "config" && depth_ == 2 && key_ == "pattern") expression = std::move(value);
        const bool bytes = top_ == "vocab" && key_ == "token_bytes";
        if (in_entry() && (bytes || (top_ == "special_tokens" && key_ == "token_str"))) {
            token_ = std::move(value);
            has_token_ = true;
        }
        return true;
    }
    bool key(string_t& value) override {
        key_ = std::move(value);
        if (depth_ == 1) top_ = key_;
        return true;
    }
    bool start_object(std::size_t) override {
        open();
        rank_ = -1;
        has_token_ = false;
        return true;
    }
    bool start_array(std::size_t) override { return open(); }
    bool end_object() override {
        if (in_entry()) end_entry();
        --depth_;
        return true;
    }
    bool end_array() override {
        --depth_;
        return true;
    }
    bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
        fail(Code::invalid_argument, name_, " is no valid JSON: ", error.what());
    }

 private:
    bool in_entry() const { return depth_ == 3 && (top_ == "vocab" || top_ == "special_tokens"); }

    bool open() {
        if (++depth_ > json_depth_limit)
            fail(Code::invalid_argument, name_, ": nested deeper than ", json_depth_limit, " levels");
        return true;
    }

    void end_entry() {
        const bool vocab = top_ == "vocab";
        const size_t index = vocab ? file.vocab.size() : specials.size();
        if (!vocab && has_token_ && rank_ >= 0 && rank_ < special_limit) {
            specials.emplace_back(rank_, std::move(token_));
            return;
        }
        const auto bytes = vocab && has_token_ ? decode_base64(token_) : std::nullopt;
        if (!bytes || bytes->empty() || rank_ != static_cast<int64_t>(index) || rank_ > INT32_MAX)
            fail(Code::invalid_argument, name_, ": entry ", index, " of '", top_,
                 vocab ? "' is no token_bytes in base64 with its place as its rank" : "' has no token_str or no rank");
        add_byte_level_token(file, *bytes, static_cast<int32_t>(rank_));
    }

    std::string name_;
    int depth_ = 0;
    std::string top_, key_, token_;  // top_: the key of the document under way
    int64_t rank_ = -1;
    bool has_token_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> parse_tekken(std::string_view text, SpecialTokens names, std::string_view name) {
    TekkenReader reader(name);
    json::sax_parse(text.data(), text.data() + text.size(), &reader);
    TokenizerFile& file = reader.file;
    if (reader.expression.empty() || reader.n_special < 0 || reader.n_special > special_limit || reader.vocab_size < 0)
        fail(Code::invalid_argument, name,
             ": 'config' lacks pattern, default_vocab_size or default_num_special_tokens: download the file again");
    const int64_t n_tokens = reader.vocab_size - reader.n_special;
    if (n_tokens < 256 || n_tokens > static_cast<int64_t>(file.vocab.size()))
        fail(Code::invalid_argument, name, ": default_vocab_size is ", reader.vocab_size, " with ", reader.n_special,
             " special tokens, but 'vocab' has ", file.vocab.size(), " entries");
    file.source = "tekken.json";
    file.vocab.resize(static_cast<size_t>(n_tokens));
    for (TokenizerFile::Entry& entry : file.vocab) entry.id += static_cast<int32_t>(reader.n_special);
    finish_byte_level(file, reader.expression, name);

    if (reader.specials.empty())
        for (std::string_view token : old_specials) reader.specials.emplace_back(reader.specials.size(), token);
    std::vector<std::string> by_rank(static_cast<size_t>(reader.n_special));
    for (auto& [rank, token] : reader.specials) {
        if (rank >= reader.n_special)
            fail(Code::invalid_argument, name, ": the special token ", in_quotes(token), " has rank ", rank,
                 ", but there are ", reader.n_special);
        by_rank[static_cast<size_t>(rank)] = std::move(token);
    }
    for (size_t rank = 0; rank < by_rank.size(); ++rank) {
        AddedToken token;
        token.content = by_rank[rank].empty() ? concat("<SPECIAL_", rank, ">") : by_rank[rank];
        token.id = static_cast<int32_t>(rank);
        token.normalized = false;
        token.special = true;
        file.added.push_back(std::move(token));
    }
    const auto has = [&](std::string_view token) {
        return std::any_of(file.added.begin(), file.added.end(),
                           [&](const AddedToken& a) { return a.content == token; });
    };
    if (has("<s>")) file.post_processor = prefix_template(file, {"<s>"});
    if (names.bos.empty() && has("<s>")) names.bos = "<s>";
    if (names.eos.empty() && has("</s>")) names.eos = "</s>";
    return std::make_unique<HfTokenizer>(std::move(file), names, name);
}

}  // namespace quantplug::engine
