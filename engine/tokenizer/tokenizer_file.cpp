#include "engine/tokenizer/tokenizer_file.h"

#include "engine/tokenizer/json_fields.h"

namespace quantplug::engine {
namespace {

using nlohmann::json;

constexpr size_t file_limit = 1u << 30;

// Builds one JSON value from events.
class ValueBuilder {
 public:
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
    bool done_ = false;
};

class Reader final : public nlohmann::json_sax<json> {
 public:
    Reader(TokenizerFile& file, std::string_view name) : file_(file), name_(name) { file_.model = json::object(); }

    bool null() override { return scalar(json()); }
    bool boolean(bool value) override { return scalar(json(value)); }
    bool number_integer(number_integer_t value) override { return scalar(json(value)); }
    bool number_unsigned(number_unsigned_t value) override {
        if (mode_ == Mode::vocab && depth_ == 3) return vocab_entry(value);
        return scalar(json(value));
    }
    bool number_float(number_float_t value, const string_t&) override { return scalar(json(value)); }
    bool binary(binary_t&) override { return true; }

    bool string(string_t& value) override {
        if (mode_ == Mode::merges) return merge_string(value);
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
        } else {
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
                // Another model's vocabulary may be a list: its type is named at the end.
                if (depth_ == 3 && vocab_is_object_)
                    fail(Code::invalid_argument, name_, ": the id of token ", in_quotes(file_.view(token_)), " is ",
                         value.dump(), ", not a number from 0 to ", INT32_MAX);
                break;
            case Mode::merges:
                fail(Code::invalid_argument, name_, ": merge ", file_.merges.size(),
                     " is neither \"a b\" nor [\"a\", \"b\"]");
        }
        leave();
        return true;
    }

    int base_depth() const { return in_model_ ? 2 : 1; }

    // Behind a value: back to the keys of the document or the model.
    void leave() {
        if (depth_ != base_depth()) return;
        if (mode_ == Mode::value && builder_.done()) *target_ = builder_.take();
        mode_ = Mode::none;
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
                if (depth_ == 3) file_.has_vocab = vocab_is_object_ = container.is_object();
                if (depth_ > 3 && vocab_is_object_)
                    fail(Code::invalid_argument, name_, ": the id of token ", in_quotes(file_.view(token_)),
                         " is no number");
                break;
            case Mode::merges:
                if (container.is_object() || depth_ > 4)
                    fail(Code::invalid_argument, name_, ": merge ", file_.merges.size(),
                         " is neither \"a b\" nor [\"a\", \"b\"]");
                file_.has_merges = true;
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
        if (depth_ == 1 && mode_ == Mode::none) in_model_ = false;
        leave();
        return true;
    }

    bool vocab_entry(uint64_t id) {
        if (!vocab_is_object_) return true;
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
    bool vocab_is_object_ = false;
    ValueBuilder builder_;
    json* target_ = nullptr;  // where the value under way belongs
    TokenizerFile::Piece token_{};
    TokenizerFile::Piece pair_{};  // the last part of a merge that is a list
    size_t pair_size_ = 0;
};

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view text, std::string_view name) {
    if (text.size() >= file_limit)
        fail(Code::invalid_argument, name, " has ", text.size(), " bytes, more than the limit of 1 GiB");
    TokenizerFile file;
    Reader reader(file, name);
    json::sax_parse(text.data(), text.data() + text.size(), &reader);
    const auto type = file.model.find("type");
    if (type != file.model.end() && !type->is_string())
        fail(Code::invalid_argument, name, ": the model's type is no string");
    if (type != file.model.end() && *type != "BPE")
        fail(Code::unimplemented, name, ": model type ", in_quotes(type->get_ref<const std::string&>()),
             " is not supported yet");
    if (!file.has_vocab) fail(Code::invalid_argument, name, ": the model has no object 'vocab'");
    if (!file.has_merges) fail(Code::invalid_argument, name, ": the model has no list 'merges'");
    return file;
}

}  // namespace quantplug::engine
