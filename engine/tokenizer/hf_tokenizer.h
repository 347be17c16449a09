// A tokenizer in the stages of a tokenizer.json: added tokens, normalizer, pre-tokenizer, model, decoder.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/decoder.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/template.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/tokenizer_file.h"
#include "engine/tokenizer/word_model.h"

namespace quantplug::engine {

class HfTokenizer final : public Tokenizer {
 public:
    /// Takes what it needs out of `file`; `names` says what tokenizer_config.json and special_tokens_map.json say.
    HfTokenizer(TokenizerFile file, const SpecialTokens& names, std::string_view name);

    std::vector<int32_t> encode(std::string_view text, Bos bos, bool special_text) const override {
        return encode(text, bos, special_text, {});
    }
    std::vector<int32_t> encode_marked(std::string_view text, Bos bos,
                                       std::span<const ByteRange> plain) const override {
        return encode(text, bos, true, plain);
    }
    std::unique_ptr<DecodeStream> decode_stream(bool special_text) const override;
    int32_t size() const override { return size_; }
    std::optional<int32_t> bos_id() const override { return bos_id_; }
    std::optional<int32_t> eos_id() const override { return eos_id_; }
    std::optional<int32_t> token_to_id(std::string_view token) const override;
    std::string id_to_token(int32_t id) const override;
    bool is_special(int32_t id) const override;
    bool adds_bos() const override;
    std::string_view kind() const override { return kind_; }

    /// The spelling that the decoder gets; false where the id has none, or is special and !special_text.
    bool decoder_text(int32_t id, bool special_text, std::string_view& out) const;
    const TextDecoder& decoder() const { return decoder_; }

 private:
    struct Added {
        AddedToken token;
        std::string normal_form;  // what text matches it and what is decoded
    };
    std::vector<Added> make_added(const std::vector<AddedToken>& tokens, std::string_view name) const;
    AddedTokens make_matcher() const;
    const Added* added(int32_t id) const;
    std::vector<int32_t> encode(std::string_view text, Bos bos, bool special_text,
                                std::span<const ByteRange> plain) const;
    AddedTokens::IsText text_after_normalizing(std::string_view segment, size_t offset,
                                               std::span<const ByteRange> plain) const;

    Normalizer normalizer_;
    PreTokenizer pre_tokenizer_;
    std::unique_ptr<WordModel> model_;
    std::vector<Added> added_;  // by id
    AddedTokens matcher_;
    TextDecoder decoder_;
    Template template_;
    int32_t size_ = 0;
    std::optional<int32_t> bos_id_, eos_id_;
    std::string kind_;
};

}  // namespace quantplug::engine
