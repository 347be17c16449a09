#include "engine/tokenizer/model_builder.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/unigram.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

constexpr int32_t id_slack = 1 << 16;

std::string option_string(const nlohmann::json& model, const char* key, std::string_view name) {
    const auto it = model.find(key);
    if (it == model.end() || it->is_null()) return {};
    if (!it->is_string()) fail(Code::invalid_argument, name, ": the model's '", key, "' is no string");
    return it->get<std::string>();
}

Vocab make_vocab(const TokenizerFile& file, std::string_view name) {
    const int32_t limit = token_id_limit(file.vocab.size() + file.added.size());
    int32_t size = 0;
    for (const TokenizerFile::Entry& entry : file.vocab) {
        if (entry.id >= limit)
            fail(Code::invalid_argument, name, ": token ", in_quotes(file.view(entry.token)), " has id ", entry.id,
                 ", but there are only ", file.vocab.size(), " tokens");
        size = std::max(size, entry.id + 1);
    }
    if (file.vocab.empty()) fail(Code::invalid_argument, name, ": the model's vocabulary is empty");
    Vocab vocab;
    vocab.reserve(size, file.vocab.size());
    for (const TokenizerFile::Entry& entry : file.vocab) {
        const std::string_view token = file.view(entry.token);
        if (vocab.add(token, entry.id)) continue;
        if (vocab.has(entry.id))
            fail(Code::invalid_argument, name, ": id ", entry.id, " belongs to both ", in_quotes(vocab.token(entry.id)),
                 " and ", in_quotes(token));
        fail(Code::invalid_argument, name, ": token ", in_quotes(token), " is in the vocabulary twice");
    }
    return vocab;
}

MergeTable listed_merges(const TokenizerFile& file, const Vocab& vocab, std::string_view name) {
    MergeTable merges;
    merges.reserve(file.merges.size());
    std::string joined;
    int32_t last_id = -1;
    for (size_t rank = 0; rank < file.merges.size(); ++rank) {
        const std::string_view left = file.view(file.merges[rank].left), right = file.view(file.merges[rank].right);
        joined.assign(left).append(right);
        const auto id_of = [&](std::string_view token) {
            const int32_t id = vocab.find(token);
            if (id < 0)
                fail(Code::invalid_argument, name, ": merge ", rank, " needs token ", in_quotes(token),
                     ", which is not in the vocabulary");
            return id;
        };
        const int32_t left_id = id_of(left), right_id = id_of(right);
        // Merges mostly come in the order of the tokens they make: the next token or the same again, found without a
        // search.
        if (vocab.token(last_id + 1) == joined)
            ++last_id;
        else if (vocab.token(last_id) != joined)
            last_id = id_of(joined);
        merges.set(left_id, right_id, {static_cast<uint32_t>(rank), last_id});
    }
    return merges;
}

// tiktoken joins the two neighbours whose union has the lowest rank: every way to cut a token in two tokens is a merge.
MergeTable merges_by_rank(const Vocab& vocab) {
    std::vector<std::array<int32_t, 3>> found;
    for (int32_t id = 0; id < vocab.size(); ++id) {
        const std::string_view token = vocab.token(id);
        for (size_t at = token.empty() ? 0 : utf8_length(token[0]); at < token.size(); at += utf8_length(token[at])) {
            const int32_t left = vocab.find(token.substr(0, at));
            const int32_t right = left < 0 ? -1 : vocab.find(token.substr(at));
            if (right >= 0) found.push_back({left, right, id});
        }
    }
    MergeTable merges;
    merges.reserve(found.size());
    for (const auto& [left, right, id] : found) merges.set(left, right, {static_cast<uint32_t>(id), id});
    return merges;
}

std::unique_ptr<WordModel> make_bpe(const TokenizerFile& file, Vocab vocab, bool raw_bytes, std::string_view name) {
    BpeOptions options;
    options.raw_bytes = raw_bytes;
    options.unk_token = option_string(file.model, "unk_token", name);
    options.fuse_unk = bool_field(file.model, "fuse_unk", false, name);
    options.byte_fallback = bool_field(file.model, "byte_fallback", false, name);
    options.ignore_merges = bool_field(file.model, "ignore_merges", false, name);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (!option_string(file.model, key, name).empty())
            fail(Code::unimplemented, name, ": the model's '", key, "' is ",
                 in_quotes(option_string(file.model, key, name)),
                 ", which is not supported: no model of a known architecture has one");
    const auto dropout = file.model.find("dropout");
    if (dropout != file.model.end() && !dropout->is_null() && !(dropout->is_number() && dropout->get<double>() == 0))
        fail(Code::unimplemented, name,
             ": the model's 'dropout' is not null: set it to null, a model is run without it");
    MergeTable merges = file.merges_by_rank ? merges_by_rank(vocab) : listed_merges(file, vocab, name);
    return std::make_unique<Bpe>(std::move(vocab), std::move(merges), options);
}

std::unique_ptr<WordModel> make_unigram(const TokenizerFile& file, Vocab vocab, bool raw_bytes, std::string_view name) {
    UnigramOptions options;
    options.raw_bytes = raw_bytes;
    options.byte_fallback = bool_field(file.model, "byte_fallback", false, name);
    if (const auto unk = file.model.find("unk_id"); unk != file.model.end() && !unk->is_null()) {
        options.unk_id = int_field(file.model, "unk_id", name);
        if (*options.unk_id >= vocab.size())
            fail(Code::invalid_argument, name, ": the model's unk_id is ", *options.unk_id, ", the vocabulary has ",
                 vocab.size(), " tokens");
    }
    return std::make_unique<Unigram>(std::move(vocab), file.scores, options);
}

}  // namespace

int32_t token_id_limit(size_t n_entries) {
    return static_cast<int32_t>(std::min<size_t>(n_entries, 1u << 30)) + id_slack;
}

std::unique_ptr<WordModel> make_word_model(const TokenizerFile& file, bool raw_bytes, std::string_view name) {
    Vocab vocab = make_vocab(file, name);
    return file.kind == TokenizerFile::Model::unigram ? make_unigram(file, std::move(vocab), raw_bytes, name)
                                                      : make_bpe(file, std::move(vocab), raw_bytes, name);
}

}  // namespace quantplug::engine
