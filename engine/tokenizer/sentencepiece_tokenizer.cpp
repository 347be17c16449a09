#include "engine/tokenizer/sentencepiece_tokenizer.h"

#include <algorithm>
#include <map>
#include <string>

#include "engine/base/error.h"
#include "engine/tokenizer/decoder.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/sentencepiece_library.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

constexpr size_t text_limit = 1u << 28;
constexpr int32_t id_slack = 1 << 16;

struct CloseModel {
    const qp_sp_functions* library;
    void operator()(qp_sp_model* model) const { library->close(model); }
};
using Model = std::unique_ptr<qp_sp_model, CloseModel>;

class SentencePieceTokenizer final : public Tokenizer {
 public:
    SentencePieceTokenizer(const qp_sp_functions& library, Model model, bool keeps_prefix, bool prefix,
                           const SpecialTokens& names, std::string_view name)
        : library_(library),
          model_(std::move(model)),
          keeps_prefix_(keeps_prefix),
          prefix_(prefix),
          n_pieces_(library.size(model_.get())),
          added_(make_added(names, name)),
          matcher_(make_matcher()),
          decoder_(TextDecoder::sentencepiece(prefix)) {
        size_ = added_.empty() ? n_pieces_ : std::max(n_pieces_, added_.rbegin()->first + 1);
        const auto id_of = [&](const std::string& token, int32_t fallback) -> std::optional<int32_t> {
            if (!token.empty()) return token_to_id(token);
            return fallback >= 0 ? std::optional<int32_t>(fallback) : std::nullopt;
        };
        bos_id_ = id_of(names.bos, library.bos(model_.get()));
        eos_id_ = id_of(names.eos, library.eos(model_.get()));
        // LlamaTokenizer's defaults: BOS in front, no EOS behind.
        adds_bos_ = names.add_bos.value_or(true) && bos_id_;
        adds_eos_ = names.add_eos.value_or(false) && eos_id_;
    }

    std::vector<int32_t> encode(std::string_view text, Bos bos, bool special_text) const override {
        return encode(text, bos, special_text, {});
    }
    std::vector<int32_t> encode_marked(std::string_view text, Bos bos,
                                       std::span<const ByteRange> plain) const override {
        return encode(text, bos, true, plain);
    }
    std::vector<int32_t> encode(std::string_view text, Bos bos, bool special_text,
                                std::span<const ByteRange> plain) const;
    std::unique_ptr<DecodeStream> decode_stream(bool special_text) const override;
    int32_t size() const override { return size_; }
    std::optional<int32_t> bos_id() const override { return bos_id_; }
    std::optional<int32_t> eos_id() const override { return eos_id_; }
    std::optional<int32_t> token_to_id(std::string_view token) const override {
        for (const auto& [id, one] : added_)
            if (one.content == token) return id;
        const int32_t id = library_.id(model_.get(), token.data(), token.size());
        return id >= 0 ? std::optional<int32_t>(id) : std::nullopt;
    }
    std::string id_to_token(int32_t id) const override {
        const auto it = added_.find(id);
        return it != added_.end() ? it->second.content : std::string(piece(id));
    }
    bool is_special(int32_t id) const override {
        const auto it = added_.find(id);
        return it != added_.end() && it->second.special;
    }
    bool adds_bos() const override { return adds_bos_; }
    std::string_view kind() const override { return "tokenizer.model (SentencePiece)"; }

    /// False where the id gives no text.
    bool decoder_text(int32_t id, bool special_text, std::string& out) const {
        const auto it = added_.find(id);
        if (it != added_.end() && it->second.special && !special_text) return false;
        out = id == library_.unk(model_.get()) ? " \xE2\x81\x87 " : id_to_token(id);
        return it != added_.end() || (id >= 0 && id < n_pieces_);
    }
    const TextDecoder& decoder() const { return decoder_; }

 private:
    std::string_view piece(int32_t id) const {
        if (id < 0 || id >= n_pieces_) return {};
        size_t length = 0;
        const char* text = library_.piece(model_.get(), id, &length);
        return {text, length};
    }

    // Control pieces (<s>, </s>) and what the files beside the model add.
    std::map<int32_t, AddedToken> make_added(const SpecialTokens& names, std::string_view name) const {
        std::map<int32_t, AddedToken> out;
        for (int32_t id = 0; id < n_pieces_; ++id)
            if (library_.type(model_.get(), id) == QP_SP_CONTROL) {
                AddedToken& token = out[id];
                token.content = piece(id);
                token.id = id;
                token.special = true;
            }
        std::vector<AddedToken> tokens = names.added;
        tokens.insert(tokens.end(), names.added_json.begin(), names.added_json.end());
        const int32_t limit = n_pieces_ + static_cast<int32_t>(std::min<size_t>(tokens.size(), 1u << 30)) + id_slack;
        for (const AddedToken& token : tokens) {
            if (token.content.empty()) continue;
            if (token.id >= limit)
                fail(Code::invalid_argument, name, ": added token ", in_quotes(token.content), " has id ", token.id,
                     ", but the model has only ", n_pieces_, " pieces");
            if (token.id < n_pieces_ && piece(token.id) != token.content)
                fail(Code::invalid_argument, name, ": id ", token.id, " belongs to both ", in_quotes(piece(token.id)),
                     " and the added token ", in_quotes(token.content));
            const auto [it, fresh] = out.emplace(token.id, token);
            if (!fresh && it->second.content != token.content)
                fail(Code::invalid_argument, name, ": added tokens ", in_quotes(it->second.content), " and ",
                     in_quotes(token.content), " have the same id ", token.id);
            if (!fresh) it->second.special = it->second.special || token.special;
        }
        return out;
    }

    AddedTokens make_matcher() const {
        std::vector<AddedToken> tokens;
        for (const auto& [id, token] : added_) {
            tokens.push_back(token);
            tokens.back().normalized = false;
        }
        return AddedTokens(tokens, std::vector<std::string>(tokens.size()));
    }

    void encode_text(std::string_view text, std::vector<int32_t>& out) const {
        char error[256] = {};
        const auto emit = [](void* context, int32_t id) { static_cast<std::vector<int32_t>*>(context)->push_back(id); };
        if (library_.encode(model_.get(), text.data(), text.size(), emit, &out, error, sizeof error) != 0)
            fail(Code::internal, "sentencepiece cannot encode a text of ", text.size(), " bytes: ", error);
    }

    const qp_sp_functions& library_;
    Model model_;
    bool keeps_prefix_;  // the library puts the prefix space in front of every piece of text
    bool prefix_;        // the model wants one
    int32_t n_pieces_;
    std::map<int32_t, AddedToken> added_;
    AddedTokens matcher_;
    TextDecoder decoder_;
    int32_t size_ = 0;
    std::optional<int32_t> bos_id_, eos_id_;
    bool adds_bos_ = false, adds_eos_ = false;
};

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text, Bos bos, bool special_text,
                                                    std::span<const ByteRange> plain) const {
    if (text.size() > text_limit)
        fail(Code::out_of_range, "a text of ", text.size(), " bytes is longer than the limit of ", text_limit,
             ": split it");
    if (bos == Bos::on && !bos_id_)
        fail(Code::invalid_argument,
             "the tokenizer has no BOS token: leave it out, or name bos_token in tokenizer_config.json");
    const std::string valid = to_valid_utf8(text);
    std::vector<int32_t> out;
    RegexScratch scratch;
    bool first = true;
    AddedTokens::IsText is_text;
    if (!plain.empty()) is_text = [=](size_t, size_t begin, size_t end) { return touches(plain, begin, end); };
    for (const Segment& segment : matcher_.cut(valid, false, special_text, scratch, is_text)) {
        if (segment.id >= 0)
            out.push_back(segment.id);
        else if (!keeps_prefix_ && prefix_ && first)
            encode_text(std::string(1, ' ').append(segment.text), out);
        else
            encode_text(segment.text, out);
        first = false;
    }
    const bool wants_bos = bos == Bos::on ? out.empty() || out.front() != *bos_id_ : bos == Bos::automatic && adds_bos_;
    if (wants_bos) out.insert(out.begin(), *bos_id_);
    if (bos == Bos::automatic && adds_eos_) out.push_back(*eos_id_);
    return out;
}

std::unique_ptr<DecodeStream> SentencePieceTokenizer::decode_stream(bool special_text) const {
    return std::make_unique<TokenStream<SentencePieceTokenizer, std::string>>(*this, special_text);
}

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& path, std::string_view bytes,
                                              const SpecialTokens& names) {
    const std::string name = path.string();
    const qp_sp_functions& library = sentencepiece_library();
    char error[256] = {};
    const auto open = [&](bool keep_prefix) {
        Model model(library.open(bytes.data(), bytes.size(), keep_prefix, error, sizeof error), CloseModel{&library});
        if (!model) fail(Code::invalid_argument, name, " is no SentencePiece model: ", error);
        if (library.size(model.get()) <= 0) fail(Code::invalid_argument, name, " has no pieces");
        return model;
    };
    Model model = open(true);
    bool prefix = library.adds_prefix_space(model.get()) == 1;
    // Llama's `legacy`: a space in front of every piece of text between special tokens; without it, in front of the
    // first only.
    const bool legacy = names.legacy.value_or(true);
    if (!legacy) {
        model = open(false);
        prefix = prefix && names.add_prefix_space.value_or(true);
    }
    return std::make_unique<SentencePieceTokenizer>(library, std::move(model), legacy, prefix, names, name);
}

}  // namespace quantplug::engine
