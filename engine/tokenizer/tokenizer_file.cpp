#include "engine/tokenizer/tokenizer_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "engine/tokenizer/json_fields.h"

namespace quantplug::engine {
namespace {

using nlohmann::json;

constexpr size_t file_limit = 1u << 30;
constexpr size_t value_limit = 1u << 20;  // values of the small objects: 100 times what any tokenizer has
constexpr std::array<std::string_view, 9> model_keys = {"type",
                                                        "unk_token",
                                                        "unk_id",
                                                        "fuse_unk",
                                                        "byte_fallback",
                                                        "ignore_merges",
                                                        "dropout",
                                                        "continuing_subword_prefix",
                                                        "end_of_word_suffix"};

// Hugging Face's files are read with serde_json, whose numbers may be one unit in the last place off: the digits as an
// integer, times or divided by a power of ten. Paths of equal score are told apart by such units.
double serde_number(std::string_view text) {
    const bool negative = text.starts_with('-');
    if (negative) text.remove_prefix(1);
    uint64_t digits = 0;
    int64_t exponent = 0;
    bool fraction = false, full = false;
    size_t i = 0;
    for (; i < text.size() && text[i] != 'e' && text[i] != 'E'; ++i) {
        if (text[i] == '.') {
            fraction = true;
            continue;
        }
        const auto digit = static_cast<uint64_t>(text[i] - '0');
        full = full || digits > (UINT64_MAX - digit) / 10;
        if (!full) digits = digits * 10 + digit;
        if (full && !fraction) ++exponent;
        if (!full && fraction) --exponent;
    }
    if (i < text.size()) {
        const bool down = text.substr(i + 1).starts_with('-');
        int64_t value = 0;
        for (char c : text.substr(i + 1))
            if (c >= '0' && c <= '9' && value < 10'000) value = value * 10 + (c - '0');
        exponent += down ? -value : value;
    }
    auto out = static_cast<double>(digits);
    for (; exponent < -308 && out != 0; exponent += 308) out /= 1e308;
    const double power = std::strtod(concat("1e", std::abs(exponent)).c_str(), nullptr);
    if (out != 0) out = exponent < 0 ? out / power : out * power;
    return negative ? -out : out;
}

// Builds one JSON value from events.
class ValueBuilder {
 public:
    explicit ValueBuilder(std::string_view name) : name_(name) {}
    bool done() const { return done_; }
    json take() {
        done_ = false;
        return std::move(root_);
    }
    void open(json container) {
        json* placed = place(std::move(container));
        open_.push_back(placed);
    }
    void key(std::string& name) { key_ = std::move(name); }
    void close() {
        open_.pop_back();
        done_ = open_.empty();
    }
    void value(json v) {
        place(std::move(v));
        done_ = open_.empty();
    }

 private:
    json* place(json v) {
        if (++n_values_ > value_limit)
            fail(Code::invalid_argument, name_, ": more than ", value_limit,
                 " values beside the vocabulary: download the file again");
        if (open_.empty()) {
            root_ = std::move(v);
            return &root_;
        }
        json& parent = *open_.back();
        if (parent.is_array()) {
            parent.push_back(std::move(v));
            return &parent.back();
        }
        json& member = parent[key_];
        member = std::move(v);
        return &member;
    }
    json root_;
    std::vector<json*> open_;  // only the innermost container grows, so the pointers stay
    std::string key_;
    std::string name_;
    size_t n_values_ = 0;
    bool done_ = false;
};

class Reader final : public nlohmann::json_sax<json> {
 public:
    Reader(TokenizerFile& file, std::string_view name) : file_(file), name_(name), builder_(name) {
        file_.model = json::object();
    }

    TokenizerFile::Model check() const;

    bool null() override { return scalar(json()); }
    bool boolean(bool value) override { return scalar(json(value)); }
    bool number_integer(number_integer_t value) override {
        if (in_list_entry()) return score(static_cast<double>(value));
        return scalar(json(value));
    }
    bool number_unsigned(number_unsigned_t value) override {
        if (mode_ == Mode::vocab && depth_ == 3) return vocab_entry(value);
        if (in_list_entry()) return score(static_cast<double>(value));
        return scalar(json(value));
    }
    bool number_float(number_float_t value, const string_t& text) override {
        if (in_list_entry()) return score(serde_number(text));
        return scalar(json(value));
    }
    bool binary(binary_t&) override { return true; }

    bool string(string_t& value) override {
        if (mode_ == Mode::merges) return merge_string(value);
        if (in_list_entry()) {
            if (++entry_size_ != 1) return bad_entry();
            token_ = put(value);
            return true;
        }
        return scalar(json(std::move(value)));
    }

    bool start_object(std::size_t) override { return open(json::object()); }
    bool start_array(std::size_t) override { return open(json::array()); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }

    bool key(string_t& value) override {
        switch (mode_) {
            case Mode::none:
                enter(value);
                break;
            case Mode::vocab:
                token_ = put(value);
                break;
            case Mode::value:
            case Mode::added:
                builder_.key(value);
                break;
            default:
                break;
        }
        return true;
    }

    bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
        fail(Code::invalid_argument, name_, " is no valid JSON: ", error.what());
    }

 private:
    // What the value under way is for. `none`: the document itself and the object "model".
    enum class Mode { none, skip, value, vocab, merges, added };

    TokenizerFile::Piece put(std::string_view text) {
        const TokenizerFile::Piece piece{static_cast<uint32_t>(file_.text.size()), static_cast<uint32_t>(text.size())};
        file_.text.append(text);  // the file is below 1 GiB, and so is this
        return piece;
    }

    // A key of the document (depth 1) or of the model (depth 2).
    void enter(std::string& name) {
        mode_ = Mode::skip;
        target_ = nullptr;
        if (depth_ == 1) {
            in_model_ = name == "model";
            if (in_model_) mode_ = Mode::none;
            if (name == "added_tokens") mode_ = Mode::added;
            if (name == "normalizer") target_ = &file_.normalizer;
            if (name == "pre_tokenizer") target_ = &file_.pre_tokenizer;
            if (name == "post_processor") target_ = &file_.post_processor;
            if (name == "decoder") target_ = &file_.decoder;
        } else if (name == "vocab") {
            once(vocab_seen_, "vocab");
            mode_ = Mode::vocab;
        } else if (name == "merges") {
            once(merges_seen_, "merges");
            mode_ = Mode::merges;
        } else if (std::find(model_keys.begin(), model_keys.end(), name) != model_keys.end()) {
            target_ = &file_.model[name];
        }
        if (target_) mode_ = Mode::value;
    }

    void once(bool& seen, const char* key) const {
        if (seen) fail(Code::invalid_argument, name_, ": the model has '", key, "' twice");
        seen = true;
    }

    // A value that is no container has been read whole.
    bool scalar(json value) {
        if (depth_ == 0) fail(Code::invalid_argument, name_, ": the document is no JSON object");
        switch (mode_) {
            case Mode::none:  // "model": 1
                fail(Code::invalid_argument, name_, ": 'model' is no object");
            case Mode::skip:
                break;
            case Mode::value:
                builder_.value(std::move(value));
                break;
            case Mode::added:
                if (base_depth() == depth_) {
                    if (!value.is_null()) fail(Code::invalid_argument, name_, ": 'added_tokens' is no list");
                } else if (depth_ == 2) {
                    fail(Code::invalid_argument, name_, ": entry ", file_.added.size(),
                         " of 'added_tokens' is no object");
                } else {
                    builder_.value(std::move(value));
                }
                break;
            case Mode::vocab:
                if (depth_ == 3 && vocab_ == Shape::object)
                    fail(Code::invalid_argument, name_, ": the id of token ", in_quotes(file_.view(token_)), " is ",
                         value.dump(), ", not a number from 0 to ", INT32_MAX);
                return vocab_ == Shape::list ? bad_entry() : leave();
            case Mode::merges:
                fail(Code::invalid_argument, name_, ": merge ", file_.merges.size(),
                     " is neither \"a b\" nor [\"a\", \"b\"]");
        }
        return leave();
    }

    int base_depth() const { return in_model_ ? 2 : 1; }

    // Behind a value: back to the keys of the document or the model.
    bool leave() {
        if (depth_ != base_depth()) return true;
        if (mode_ == Mode::value && builder_.done()) *target_ = builder_.take();
        mode_ = Mode::none;
        return true;
    }

    bool open(json container) {
        if (++depth_ > json_depth_limit)
            fail(Code::invalid_argument, name_, ": nested deeper than ", json_depth_limit, " levels");
        if (depth_ == 1 && !container.is_object())
            fail(Code::invalid_argument, name_, ": the document is no JSON object");
        switch (mode_) {
            case Mode::none:
                if (depth_ == 2 && !container.is_object())
                    fail(Code::invalid_argument, name_, ": 'model' is no object");
                break;
            case Mode::value:
                builder_.open(std::move(container));
                break;
            case Mode::added:
                if (depth_ == 2 && !container.is_array())
                    fail(Code::invalid_argument, name_, ": 'added_tokens' is no list");
                if (depth_ == 3 && !container.is_object())
                    fail(Code::invalid_argument, name_, ": entry ", file_.added.size(),
                         " of 'added_tokens' is no object");
                if (depth_ >= 3) builder_.open(std::move(container));
                break;
            case Mode::vocab:
                if (depth_ == 3) vocab_ = container.is_object() ? Shape::object : Shape::list;
                if (depth_ > 3 && vocab_ == Shape::object)
                    fail(Code::invalid_argument, name_, ": the id of token ", in_quotes(file_.view(token_)),
                         " is no number");
                if (depth_ > 4 || (depth_ == 4 && container.is_object())) bad_entry();
                entry_size_ = 0;
                break;
            case Mode::merges:
                if (container.is_object() || depth_ > 4)
                    fail(Code::invalid_argument, name_, ": merge ", file_.merges.size(),
                         " is neither \"a b\" nor [\"a\", \"b\"]");
                has_merges_ = true;
                pair_size_ = 0;
                break;
            case Mode::skip:
                break;
        }
        return true;
    }

    bool close() {
        --depth_;
        if (mode_ == Mode::value) builder_.close();
        if (mode_ == Mode::added && depth_ >= 2) {
            builder_.close();
            if (depth_ == 2) add_token(builder_.take());
        }
        if (mode_ == Mode::merges && depth_ == 3 && pair_size_ != 2)
            fail(Code::invalid_argument, name_, ": merge ", file_.merges.size(), " has ", pair_size_, " parts, not 2");
        if (mode_ == Mode::vocab && vocab_ == Shape::list && depth_ == 3 && entry_size_ != 2) bad_entry();
        if (depth_ == 1 && mode_ == Mode::none) in_model_ = false;
        return leave();
    }

    bool in_list_entry() const { return mode_ == Mode::vocab && vocab_ == Shape::list && depth_ == 4; }

    // An entry of a list of another form: the vocabulary of another model, whose type is named at the end.
    bool bad_entry() {
        if (bad_entry_ == SIZE_MAX) bad_entry_ = file_.vocab.size();
        return true;
    }

    bool score(double value) {
        if (++entry_size_ != 2 || !std::isfinite(value) || file_.vocab.size() >= INT32_MAX) return bad_entry();
        file_.vocab.push_back({token_, static_cast<int32_t>(file_.vocab.size())});
        file_.scores.push_back(value);
        return true;
    }

    bool vocab_entry(uint64_t id) {
        if (vocab_ != Shape::object) return bad_entry();
        if (id > INT32_MAX)
            fail(Code::invalid_argument, name_, ": the id of token ", in_quotes(file_.view(token_)), " is ", id,
                 ", not a number from 0 to ", INT32_MAX);
        file_.vocab.push_back({token_, static_cast<int32_t>(id)});
        return true;
    }

    bool merge_string(std::string& value) {
        if (depth_ == 4) {
            const TokenizerFile::Piece piece = put(value);
            if (++pair_size_ == 2) file_.merges.push_back({pair_, piece});
            pair_ = piece;
            return true;
        }
        if (depth_ != 3) fail(Code::invalid_argument, name_, ": 'merges' is no list");
        if (value.starts_with("#version")) return true;
        const size_t space = value.find(' ');
        if (space == std::string::npos || value.find(' ', space + 1) != std::string::npos)
            fail(Code::invalid_argument, name_, ": merge ", file_.merges.size(), " is ", in_quotes(value),
                 ", not two tokens with one space between them");
        const TokenizerFile::Piece whole = put(value);
        const auto left = static_cast<uint32_t>(space);
        file_.merges.push_back({{whole.begin, left}, {whole.begin + left + 1, whole.length - left - 1}});
        return true;
    }

    void add_token(const json& entry) {
        AddedToken token;
        token.content = string_field(entry, "content", name_);
        token.id = int_field(entry, "id", name_);
        token.single_word = bool_field(entry, "single_word", false, name_);
        token.lstrip = bool_field(entry, "lstrip", false, name_);
        token.rstrip = bool_field(entry, "rstrip", false, name_);
        token.normalized = bool_field(entry, "normalized", true, name_);
        token.special = bool_field(entry, "special", false, name_);
        file_.added.push_back(std::move(token));
    }

    TokenizerFile& file_;
    std::string name_;
    Mode mode_ = Mode::none;
    int depth_ = 0;
    bool in_model_ = false;
    bool vocab_seen_ = false, merges_seen_ = false;
    enum class Shape { none, object, list };
    Shape vocab_ = Shape::none;
    bool has_merges_ = false;
    size_t bad_entry_ = SIZE_MAX;
    ValueBuilder builder_;
    json* target_ = nullptr;  // where the value under way belongs
    TokenizerFile::Piece token_{};
    TokenizerFile::Piece pair_{};  // the last part of a merge that is a list
    size_t pair_size_ = 0, entry_size_ = 0;
};

TokenizerFile::Model Reader::check() const {
    const auto it = file_.model.find("type");
    if (it != file_.model.end() && !it->is_string())
        fail(Code::invalid_argument, name_, ": the model's type is no string");
    const std::string type = it != file_.model.end() ? it->get<std::string>()
                             : vocab_ == Shape::list ? "Unigram"
                                                     : "BPE";  // files older than the key
    if (type == "WordPiece" || type == "WordLevel")
        fail(Code::unimplemented, name_, ": model type '", type,
             "' is not supported: no model that generates text is known to use it");
    if (type != "BPE" && type != "Unigram")
        fail(Code::unimplemented, name_, ": model type ", in_quotes(type), " is not known; BPE and Unigram are");
    if (type == "Unigram") {
        if (vocab_ != Shape::list) fail(Code::invalid_argument, name_, ": the Unigram model has no list 'vocab'");
        if (bad_entry_ != SIZE_MAX)
            fail(Code::invalid_argument, name_, ": entry ", bad_entry_,
                 " of the Unigram model's vocab is no [token, score]");
        return TokenizerFile::Model::unigram;
    }
    if (vocab_ != Shape::object) fail(Code::invalid_argument, name_, ": the model has no object 'vocab'");
    if (!has_merges_) fail(Code::invalid_argument, name_, ": the model has no list 'merges'");
    return TokenizerFile::Model::bpe;
}

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view text, std::string_view name) {
    if (text.size() >= file_limit)
        fail(Code::invalid_argument, name, " has ", text.size(), " bytes, more than the limit of 1 GiB");
    TokenizerFile file;
    Reader reader(file, name);
    json::sax_parse(text.data(), text.data() + text.size(), &reader);
    file.kind = reader.check();
    return file;
}

}  // namespace quantplug::engine
