#include "engine/tokenizer/decoder.h"

#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

using Kind = DecoderStage::Kind;

constexpr std::string_view replacement_text = "\xEF\xBF\xBD";  // U+FFFD

// The byte of <0xHH>, or -1.
int fallback_byte(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    int value = 0;
    for (char c : token.substr(3, 2)) {
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                                 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

// The text of a run of byte tokens.
std::string byte_run(const std::string& bytes) {
    if (is_valid_utf8(bytes)) return bytes;
    std::string out;
    for (size_t i = 0; i < bytes.size(); ++i) out += replacement_text;
    return out;
}

// Takes all whole characters out of `bytes`; with `last`, an unfinished one too, as U+FFFD.
std::string take_characters(std::string& bytes, bool last) {
    std::string out;
    size_t i = 0;
    while (i < bytes.size()) {
        const Utf8Char c = utf8_at(bytes, i);
        if (c.truncated && !last) break;
        if (c.valid)
            out.append(bytes, i, c.length);
        else
            out += replacement_text;
        i += c.length;
    }
    bytes.erase(0, i);
    return out;
}

std::string bytes_of(std::string_view token) {
    std::string out;
    for (size_t i = 0; i < token.size();) {
        const Utf8Char c = utf8_at(token, i);
        const int byte = char_to_byte(c.code);
        if (byte < 0 || !c.valid) return std::string(token);  // a token that is not byte-level: as it is
        out += static_cast<char>(byte);
        i += c.length;
    }
    return out;
}

std::string_view strip_token(std::string_view token, const DecoderStage& stage) {
    for (int32_t i = 0; i < stage.start && token.starts_with(stage.text); ++i) token.remove_prefix(stage.text.size());
    for (int32_t i = 0; i < stage.stop && token.ends_with(stage.text); ++i) token.remove_suffix(stage.text.size());
    return token;
}

std::string replace_text(std::string_view token, std::string_view from, std::string_view to) {
    std::string out;
    for (size_t i = 0; i < token.size();) {
        if (token.substr(i).starts_with(from)) {
            out += to;
            i += from.size();
        } else {
            out += token[i++];
        }
    }
    return out;
}

}  // namespace

TextDecoder TextDecoder::parse(const nlohmann::json& json, std::string_view name) {
    TextDecoder out;
    out.name_ = name;
    if (json.is_null()) {
        out.stages_.push_back({Kind::join, {}});
        return out;
    }
    bool one_token = false;  // what passes now are parts of one token
    for (const nlohmann::json* part : flatten_sequence(json, "decoders", name, "decoder")) {
        out.add(*part, name);
        const DecoderStage& stage = out.stages_.back();
        const bool by_part = stage.kind == Kind::strip || stage.kind == Kind::fuse ||
                             (stage.kind == Kind::replace && !stage.pattern.literal_text().empty() &&
                              utf8_at(stage.pattern.literal_text(), 0).length == stage.pattern.literal_text().size());
        if (one_token && !by_part)
            fail(Code::unimplemented, name, ": decoder '", type_of(*part, name, "decoder"),
                 "' behind ByteLevel or Fuse is not supported yet");
        one_token = one_token || stage.kind == Kind::fuse || stage.kind == Kind::byte_level;
    }
    return out;
}

TextDecoder TextDecoder::sentencepiece(bool strip_leading_space) {
    TextDecoder out;
    out.name_ = "tokenizer.model";
    DecoderStage space{Kind::replace, " "};
    space.pattern = Regex::literal("\xE2\x96\x81");
    out.stages_.push_back(std::move(space));
    out.stages_.push_back({Kind::byte_fallback, {}});
    out.stages_.push_back({Kind::fuse, {}});
    if (strip_leading_space) out.stages_.push_back({Kind::strip, " ", Regex::literal(""), 1, 0});
    return out;
}

void TextDecoder::add(const nlohmann::json& json, std::string_view name) {
    const std::string type = type_of(json, name, "decoder");
    DecoderStage stage{};
    stage.type = type;
    if (type == "ByteLevel") {
        stage.kind = Kind::byte_level;
    } else if (type == "ByteFallback") {
        stage.kind = Kind::byte_fallback;
    } else if (type == "Fuse") {
        stage.kind = Kind::fuse;
    } else if (type == "Replace") {
        stage.kind = Kind::replace;
        stage.pattern = pattern_field(json, name);
        stage.text = string_field(json, "content", name);
    } else if (type == "Strip") {
        stage.kind = Kind::strip;
        stage.text = char_field(json, "content", name);
        stage.start = int_field(json, "start", name);
        stage.stop = int_field(json, "stop", name);
    } else if (type == "Metaspace") {
        stage.kind = Kind::metaspace;
        stage.text = char_field(json, "replacement", name);
        const std::string scheme =
            json.contains("prepend_scheme") ? string_field(json, "prepend_scheme", name) : "always";
        stage.start = scheme != "never" && bool_field(json, "add_prefix_space", true, name) ? 1 : 0;
    } else if (type == "BPEDecoder") {
        stage.kind = Kind::suffix;
        stage.text = json.contains("suffix") ? string_field(json, "suffix", name) : "</w>";
        if (stage.text.empty()) fail(Code::invalid_argument, name, ": a BPEDecoder's suffix is empty");
    } else {
        fail(Code::unimplemented, name, ": decoder '", type,
             "' is not supported: no tokenizer of a model that generates text is known to use it");
    }
    stages_.push_back(std::move(stage));
}

void DecoderRun::strip_stream(const DecoderStage& stage, State& state, std::string& token) const {
    const size_t width = stage.text.size();
    size_t begin = 0;
    while (!state.inside && begin < token.size()) {
        if (state.stripped < stage.start && std::string_view(token).substr(begin).starts_with(stage.text)) {
            begin += width;
            ++state.stripped;
        } else {
            state.inside = true;
        }
    }
    state.held.append(token, begin);
    size_t end = state.held.size();  // up to `stop` characters at the end wait for what follows
    for (int32_t i = 0; i < stage.stop && std::string_view(state.held).substr(0, end).ends_with(stage.text); ++i)
        end -= width;
    token = state.held.substr(0, end);
    state.held.erase(0, end);
}

void DecoderRun::step(size_t index, Tokens& tokens) {
    const DecoderStage& stage = stages_[index];
    State& state = states_[index];
    Tokens out;
    // Behind Fuse and ByteLevel, tokens are parts of one.
    bool one_token = false;
    for (size_t i = 0; i < index; ++i)
        one_token = one_token || stages_[i].kind == Kind::fuse || stages_[i].kind == Kind::byte_level;
    for (std::string& token : tokens) {
        switch (stage.kind) {
            case Kind::byte_level:
                state.held += bytes_of(token);
                out.push_back(take_characters(state.held, false));
                break;
            case Kind::byte_fallback: {
                const int byte = fallback_byte(token);
                if (byte >= 0) {
                    state.held += static_cast<char>(byte);
                    break;
                }
                if (!state.held.empty()) out.push_back(byte_run(state.held));
                state.held.clear();
                out.push_back(std::move(token));
                break;
            }
            case Kind::fuse:
                out.push_back(std::move(token));
                break;
            case Kind::replace: {
                auto replaced =
                    stage.pattern.replace_all(token, stage.text, scratch_, grown_text_limit(taken_) - given_);
                if (!replaced) too_long(index);
                out.push_back(std::move(*replaced));
                break;
            }
            case Kind::strip:
                if (one_token)
                    strip_stream(stage, state, token);
                else
                    token = std::string(strip_token(token, stage));
                out.push_back(std::move(token));
                break;
            case Kind::metaspace:
                out.push_back(replace_text(token, stage.text, stage.start != 0 && !state.any ? "" : " "));
                break;
            case Kind::suffix:
                if (state.any) out.push_back(replace_text(state.held, stage.text, " "));
                state.held = std::move(token);
                break;
            case Kind::join:
                out.push_back(state.any ? " " + token : token);
                break;
        }
        state.any = true;
    }
    tokens = std::move(out);
}

void DecoderRun::flush(size_t index, Tokens& tokens) {
    State& state = states_[index];
    const Kind kind = stages_[index].kind;
    if (kind == Kind::byte_level) tokens.push_back(take_characters(state.held, true));
    if (kind == Kind::byte_fallback && !state.held.empty()) tokens.push_back(byte_run(state.held));
    if (kind == Kind::suffix && state.any) tokens.push_back(replace_text(state.held, stages_[index].text, ""));
    state = {};  // what strip holds back is gone for good; the run can start over
}

void DecoderRun::too_long(size_t index) const {
    fail(Code::resource_exhausted, decoder_.name(), ": step ", index + 1, " of the decoder, '", stages_[index].type,
         "', makes more than ", grown_text_limit(taken_), " bytes of text of ", taken_,
         " bytes of tokens: take the step out, or download the file again");
}

std::string DecoderRun::run_stages(Tokens tokens, bool last) {
    std::string out;
    for (size_t i = 0; i < stages_.size(); ++i) {
        step(i, tokens);
        if (last) flush(i, tokens);
        uint64_t bytes = 0;
        for (const std::string& token : tokens) bytes += token.size();
        if (bytes > grown_text_limit(taken_) - given_) too_long(i);
    }
    for (const std::string& piece : tokens) out += piece;
    given_ += out.size();
    return out;
}

std::string DecoderRun::push(std::string_view token) {
    taken_ += token.size();
    return run_stages({std::string(token)}, false);
}

std::string DecoderRun::finish() {
    std::string out = run_stages({}, true);
    taken_ = given_ = 0;
    return out;
}

}  // namespace quantplug::engine
