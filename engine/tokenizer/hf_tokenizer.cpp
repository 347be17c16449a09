#include "engine/tokenizer/hf_tokenizer.h"

#include <algorithm>

#include "engine/base/error.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

constexpr size_t text_limit = 1u << 28;  // positions in a text are 32 bits, and normalising may make it longer
constexpr int32_t id_slack = 1 << 16;    // ids may have holes, this many in all

int32_t id_limit(size_t n_entries) { return static_cast<int32_t>(std::min<size_t>(n_entries, 1u << 30)) + id_slack; }

std::string option_string(const nlohmann::json& model, const char* key, std::string_view name) {
    const auto it = model.find(key);
    if (it == model.end() || it->is_null()) return {};
    if (!it->is_string()) fail(Code::invalid_argument, name, ": the model's '", key, "' is no string");
    return it->get<std::string>();
}

}  // namespace

HfTokenizer::HfTokenizer(TokenizerFile file, const SpecialTokens& names, std::string_view name)
    : normalizer_(Normalizer::parse(file.normalizer, name)),
      pre_tokenizer_(PreTokenizer::parse(file.pre_tokenizer, name)),
      model_(make_model(file, pre_tokenizer_.raw_bytes(), name)),
      added_(make_added(file, name)),
      matcher_(make_matcher()),
      decoder_(TextDecoder::parse(file.decoder, name)) {
    size_ = model_.vocab().size();
    if (!added_.empty()) size_ = std::max(size_, added_.back().token.id + 1);
    template_ = Template::parse(file.post_processor, size_, name);

    const auto id_of = [&](const std::string& token) { return token.empty() ? std::nullopt : token_to_id(token); };
    bos_id_ = id_of(names.bos);
    eos_id_ = id_of(names.eos);
    if (names.bos.empty() && !template_.before.empty()) bos_id_ = template_.before.front();
    // An explicit add_bos_token wins over the template, as in transformers.
    if (names.add_bos && bos_id_) {
        std::erase(template_.before, *bos_id_);
        if (*names.add_bos) template_.before.insert(template_.before.begin(), *bos_id_);
    }
}

Bpe HfTokenizer::make_model(const TokenizerFile& file, bool raw_bytes, std::string_view name) {
    BpeOptions options;
    options.raw_bytes = raw_bytes;
    options.unk_token = option_string(file.model, "unk_token", name);
    options.fuse_unk = bool_field(file.model, "fuse_unk", false, name);
    options.byte_fallback = bool_field(file.model, "byte_fallback", false, name);
    options.ignore_merges = bool_field(file.model, "ignore_merges", false, name);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (!option_string(file.model, key, name).empty())
            fail(Code::unimplemented, name, ": the model's '", key, "' is ",
                 in_quotes(option_string(file.model, key, name)), ", which is not supported yet");
    const auto dropout = file.model.find("dropout");
    if (dropout != file.model.end() && !dropout->is_null() && !(dropout->is_number() && dropout->get<double>() == 0))
        fail(Code::unimplemented, name,
             ": the model's 'dropout' is not null: set it to null, a model is run without it");

    const int32_t limit = id_limit(file.vocab.size() + file.added.size());
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
    return Bpe(std::move(vocab), std::move(merges), options);
}

std::vector<HfTokenizer::Added> HfTokenizer::make_added(const TokenizerFile& file, std::string_view name) const {
    const Vocab& vocab = model_.vocab();
    const int32_t limit = id_limit(file.vocab.size() + file.added.size());
    std::vector<Added> out;
    RegexScratch scratch;
    uint64_t left = 0;  // bytes that all normal forms together may still take
    for (const AddedToken& token : file.added) left += token.content.size();
    left = grown_text_limit(left);
    for (const AddedToken& token : file.added) {
        if (token.content.empty()) continue;
        Added added{token, token.content};
        // A token that the vocabulary has keeps its id there, whatever added_tokens says, as in Hugging Face's
        // tokenizers.
        if (const int32_t id = vocab.find(token.content); id >= 0) added.token.id = id;
        if (added.token.id >= limit)
            fail(Code::invalid_argument, name, ": added token ", in_quotes(token.content), " has id ", added.token.id,
                 ", but there are only ", file.vocab.size() + file.added.size(), " tokens");
        if (vocab.has(added.token.id) && vocab.token(added.token.id) != token.content)
            fail(Code::invalid_argument, name, ": id ", added.token.id, " belongs to both ",
                 in_quotes(vocab.token(added.token.id)), " and the added token ", in_quotes(token.content));
        if (token.normalized && !normalizer_.empty()) {
            added.normal_form = normalizer_.apply(token.content, scratch, left);
            left -= added.normal_form.size();
        }
        out.push_back(std::move(added));
    }
    std::stable_sort(out.begin(), out.end(), [](const Added& a, const Added& b) { return a.token.id < b.token.id; });
    for (size_t i = 1; i < out.size(); ++i)
        if (out[i].token.id == out[i - 1].token.id)
            fail(Code::invalid_argument, name, ": added tokens ", in_quotes(out[i - 1].token.content), " and ",
                 in_quotes(out[i].token.content), " have the same id ", out[i].token.id);
    std::vector<const std::string*> contents;
    for (const Added& added : out) contents.push_back(&added.token.content);
    std::sort(contents.begin(), contents.end(), [](const std::string* a, const std::string* b) { return *a < *b; });
    for (size_t i = 1; i < contents.size(); ++i)
        if (*contents[i] == *contents[i - 1])
            fail(Code::invalid_argument, name, ": added token ", in_quotes(*contents[i]), " is there with two ids");
    return out;
}

AddedTokens HfTokenizer::make_matcher() const {
    std::vector<AddedToken> tokens;
    std::vector<std::string> normal_forms;
    for (const Added& added : added_) {
        tokens.push_back(added.token);
        normal_forms.push_back(added.normal_form);
    }
    return AddedTokens(std::move(tokens), normal_forms);
}

const HfTokenizer::Added* HfTokenizer::added(int32_t id) const {
    const auto it =
        std::lower_bound(added_.begin(), added_.end(), id, [](const Added& a, int32_t b) { return a.token.id < b; });
    return it != added_.end() && it->token.id == id ? &*it : nullptr;
}

std::vector<int32_t> HfTokenizer::encode(std::string_view text, Bos bos, bool special_text) const {
    if (text.size() > text_limit)
        fail(Code::out_of_range, "a text of ", text.size(), " bytes is longer than the limit of ", text_limit,
             ": split it");
    if (bos == Bos::on && !bos_id_)
        fail(Code::invalid_argument,
             "the tokenizer has no BOS token: leave it out, or name bos_token in tokenizer_config.json");
    std::string valid;
    if (!is_valid_utf8(text)) {
        valid = to_valid_utf8(text);
        text = valid;
    }
    std::vector<int32_t> out;
    if (bos == Bos::automatic) out = template_.before;
    const size_t first = out.size();

    PreTokenizerScratch scratch;
    BpeScratch bpe_scratch;
    uint64_t left = grown_text_limit(text.size());  // bytes that the normalizer may still make
    for (const Segment& segment : matcher_.cut(text, false, special_text, scratch.regex)) {
        if (segment.id >= 0) {
            out.push_back(segment.id);
            continue;
        }
        const bool at_start = segment.text.data() == text.data();
        const std::string normal =
            normalizer_.empty() ? std::string() : normalizer_.apply(segment.text, scratch.regex, left);
        left -= normal.size();
        const std::string_view piece = normalizer_.empty() ? segment.text : std::string_view(normal);
        for (const Segment& part : matcher_.cut(piece, true, special_text, scratch.regex)) {
            if (part.id >= 0) {
                out.push_back(part.id);
                continue;
            }
            for (const Word& word :
                 pre_tokenizer_.split({part.text, at_start && part.text.data() == piece.data()}, scratch))
                model_.encode(word.text, bpe_scratch, out);
        }
    }
    if (bos == Bos::on && (out.size() == first || out[first] != *bos_id_)) out.insert(out.begin(), *bos_id_);
    if (bos == Bos::automatic) out.insert(out.end(), template_.after.begin(), template_.after.end());
    return out;
}

bool HfTokenizer::decoder_text(int32_t id, bool special_text, std::string_view& out) const {
    if (const Added* token = added(id)) {
        if (token->token.special && !special_text) return false;
        out = token->normal_form;
        return true;
    }
    if (!model_.vocab().has(id)) return false;
    out = model_.vocab().token(id);
    return true;
}

std::unique_ptr<DecodeStream> HfTokenizer::decode_stream(bool special_text) const {
    return std::make_unique<TokenStream<HfTokenizer, std::string_view>>(*this, special_text);
}

std::optional<int32_t> HfTokenizer::token_to_id(std::string_view token) const {
    if (const int32_t id = model_.vocab().find(token); id >= 0) return id;
    for (const Added& added : added_)
        if (added.token.content == token) return added.token.id;
    return std::nullopt;
}

std::string HfTokenizer::id_to_token(int32_t id) const {
    const Added* token = added(id);
    return token ? token->token.content : std::string(model_.vocab().token(id));
}

bool HfTokenizer::is_special(int32_t id) const {
    const Added* token = added(id);
    return token && token->token.special;
}

bool HfTokenizer::adds_bos() const {
    return bos_id_ && !template_.before.empty() && template_.before.front() == *bos_id_;
}

std::string_view HfTokenizer::kind() const {
    if (pre_tokenizer_.raw_bytes()) return "tokenizer.json (byte-level BPE)";
    return model_.options().byte_fallback ? "tokenizer.json (BPE with byte fallback)" : "tokenizer.json (BPE)";
}

}  // namespace quantplug::engine
