#include "engine/tokenizer/hf_tokenizer.h"

#include <algorithm>

#include "engine/base/error.h"
#include "engine/tokenizer/added_vocabulary.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/model_builder.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

constexpr size_t text_limit = 1u << 28;  // positions in a text are 32 bits, and normalising may make it longer

}  // namespace

HfTokenizer::HfTokenizer(TokenizerFile file, const SpecialTokens& names, std::string_view name)
    : normalizer_(Normalizer::parse(file.normalizer, name)),
      pre_tokenizer_(PreTokenizer::parse(file.pre_tokenizer, name)),
      model_(make_word_model(file, pre_tokenizer_.raw_bytes(), name)),
      added_(make_added(merge_added_tokens(std::move(file.added), names, model_->vocab()), name)),
      matcher_(make_matcher()),
      decoder_(TextDecoder::parse(file.decoder, name)),
      kind_(concat(file.source, " (", model_->kind(), ")")) {
    for (const Added& added : added_)
        if (added.token.special && model_->vocab().has(added.token.id)) model_->hide(added.token.id);
    size_ = model_->vocab().size();
    if (!added_.empty()) size_ = std::max(size_, added_.back().token.id + 1);
    template_ = Template::parse(file.post_processor, size_, name);

    const auto id_of = [&](const std::string& token) { return token.empty() ? std::nullopt : token_to_id(token); };
    bos_id_ = id_of(names.bos);
    eos_id_ = id_of(names.eos);
    if (names.bos.empty() && !template_.before.empty()) bos_id_ = template_.before.front();
    // An explicit add_bos_token or add_eos_token wins over the template: so it was for Llama's classes in transformers
    // 4, whose folders these are. transformers 5 looks at neither beside a tokenizer.json.
    if (names.add_bos && bos_id_) {
        std::erase(template_.before, *bos_id_);
        if (*names.add_bos) template_.before.insert(template_.before.begin(), *bos_id_);
    }
    if (names.add_eos && eos_id_) {
        std::erase(template_.after, *eos_id_);
        if (*names.add_eos) template_.after.push_back(*eos_id_);
    }
}

std::vector<HfTokenizer::Added> HfTokenizer::make_added(const std::vector<AddedToken>& tokens,
                                                        std::string_view name) const {
    const Vocab& vocab = model_->vocab();
    const int32_t limit = token_id_limit(static_cast<size_t>(vocab.size()) + tokens.size());
    std::vector<Added> out;
    RegexScratch scratch;
    uint64_t left = 0;  // bytes that all normal forms together may still take
    for (const AddedToken& token : tokens) left += token.content.size();
    left = grown_text_limit(left);
    for (const AddedToken& token : tokens) {
        if (token.content.empty()) continue;
        Added added{token, token.content};
        // A token that the vocabulary has keeps its id there, whatever added_tokens says, as in Hugging Face's
        // tokenizers.
        if (const int32_t id = vocab.find(token.content); id >= 0) added.token.id = id;
        if (added.token.id >= limit)
            fail(Code::invalid_argument, name, ": added token ", in_quotes(token.content), " has id ", added.token.id,
                 ", but there are only ", static_cast<size_t>(vocab.size()) + tokens.size(), " tokens");
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

// Which special tokens of the normalised segment stay text. The normaliser moves bytes about, so the tokens are told
// apart by their number: the n-th of a kind in the text is the n-th in its normal form.
AddedTokens::IsText HfTokenizer::text_after_normalizing(std::string_view segment, size_t offset,
                                                        std::span<const ByteRange> plain) const {
    if (plain.empty()) return nullptr;
    if (normalizer_.empty())
        return [=](size_t, size_t begin, size_t end) { return touches(plain, offset + begin, offset + end); };
    std::vector<std::vector<bool>> kept(matcher_.tokens().size());
    for (size_t i = 0; i < kept.size(); ++i) {
        const AddedToken& token = matcher_.tokens()[i];
        if (!token.special || !token.normalized || token.content.empty()) continue;
        for (size_t at = segment.find(token.content); at != std::string_view::npos;
             at = segment.find(token.content, at + token.content.size()))
            kept[i].push_back(touches(plain, offset + at, offset + at + token.content.size()));
    }
    return [kept = std::move(kept), seen = std::vector<size_t>(matcher_.tokens().size())](size_t index, size_t,
                                                                                          size_t) mutable {
        const size_t n = seen[index]++;
        return n < kept[index].size() && kept[index][n];
    };
}

std::vector<int32_t> HfTokenizer::encode(std::string_view text, Bos bos, bool special_text,
                                         std::span<const ByteRange> plain) const {
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
    const std::unique_ptr<WordScratch> word_scratch = model_->make_scratch();
    uint64_t left = grown_text_limit(text.size());  // bytes that the normalizer may still make
    AddedTokens::IsText is_text;
    if (!plain.empty()) is_text = [=](size_t, size_t begin, size_t end) { return touches(plain, begin, end); };
    for (const Segment& segment : matcher_.cut(text, false, special_text, scratch.regex, is_text)) {
        if (segment.id >= 0) {
            out.push_back(segment.id);
            continue;
        }
        const bool at_start = segment.text.data() == text.data();
        const std::string normal =
            normalizer_.empty() ? std::string() : normalizer_.apply(segment.text, scratch.regex, left);
        left -= normal.size();
        const std::string_view piece = normalizer_.empty() ? segment.text : std::string_view(normal);
        const auto offset = static_cast<size_t>(segment.text.data() - text.data());
        for (const Segment& part : matcher_.cut(piece, true, special_text, scratch.regex,
                                                text_after_normalizing(segment.text, offset, plain))) {
            if (part.id >= 0) {
                out.push_back(part.id);
                continue;
            }
            for (const Word& word :
                 pre_tokenizer_.split({part.text, at_start && part.text.data() == piece.data()}, scratch))
                model_->encode(word.text, *word_scratch, out);
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
    if (!model_->vocab().has(id)) return false;
    out = model_->vocab().token(id);
    return true;
}

std::unique_ptr<DecodeStream> HfTokenizer::decode_stream(bool special_text) const {
    return std::make_unique<TokenStream<HfTokenizer, std::string_view>>(*this, special_text);
}

std::optional<int32_t> HfTokenizer::token_to_id(std::string_view token) const {
    if (const int32_t id = model_->vocab().find(token); id >= 0) return id;
    for (const Added& added : added_)
        if (added.token.content == token) return added.token.id;
    return std::nullopt;
}

std::string HfTokenizer::id_to_token(int32_t id) const {
    const Added* token = added(id);
    return token ? token->token.content : std::string(model_->vocab().token(id));
}

bool HfTokenizer::is_special(int32_t id) const {
    const Added* token = added(id);
    return token && token->token.special;
}

bool HfTokenizer::adds_bos() const {
    return bos_id_ && !template_.before.empty() && template_.before.front() == *bos_id_;
}

}  // namespace quantplug::engine
