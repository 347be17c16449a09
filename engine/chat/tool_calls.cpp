#include "engine/chat/tool_calls.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/chat/chat_json.h"

namespace quantplug::engine {
namespace {

constexpr std::string_view space = " \t\r\n";

size_t skip_space(std::string_view text, size_t at) { return std::min(text.find_first_not_of(space, at), text.size()); }

std::string_view trimmed(std::string_view text) {
    const size_t begin = skip_space(text, 0);
    const size_t end = text.find_last_not_of(space);
    return begin >= text.size() ? std::string_view() : text.substr(begin, end + 1 - begin);
}

class AnswerParser {
 public:
    AnswerParser(std::string_view text, const std::vector<std::string>& tools) : text_(text), tools_(tools) {}

    ParsedAnswer run(ToolFormat format) {
        skip_reasoning();
        const bool any = format == ToolFormat::any;
        if (any || format == ToolFormat::hermes) tagged("<tool_call>", "</tool_call>");
        if (any || format == ToolFormat::llama3) functions();
        if ((any || format == ToolFormat::mistral) && out_.calls.empty()) mistral(format == ToolFormat::mistral);
        if ((any || format == ToolFormat::llama3) && out_.calls.empty()) bare_objects(format == ToolFormat::llama3);
        if (out_.calls.empty()) {
            out_.content = text_;
        } else {
            content(copied_, text_.size());
            out_.content = trimmed(std::string(out_.content));
        }
        return std::move(out_);
    }

    std::string make_id(bool short_one) {
        // Splitmix of a clock, the text and a count: different for calls of different answers.
        seed_ += 0x9E3779B97F4A7C15u;
        std::string id = short_one ? "" : "call_";
        constexpr std::string_view letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        uint64_t bits = 0;
        for (int i = 0; i < (short_one ? 9 : 24); ++i) {
            if (i % 8 == 0) {
                seed_ += 0x9E3779B97F4A7C15u;
                bits = (seed_ ^ (seed_ >> 30)) * 0xBF58476D1CE4E5B9u;
                bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
                bits ^= bits >> 31;
            }
            id += letters[bits % letters.size()];
            bits /= letters.size();
        }
        return id;
    }

 private:
    void skip_reasoning() {
        const size_t end = text_.rfind("</think>");
        if (end != std::string_view::npos)
            begin_ = end + 8;
        else if (text_.find("<think>") != std::string_view::npos)
            begin_ = text_.size();
    }

    bool known(const std::string& name) const {
        return tools_.empty() || std::find(tools_.begin(), tools_.end(), name) != tools_.end();
    }

    void content(size_t begin, size_t end) { out_.content.append(text_.substr(begin, end - begin)); }

    void take(size_t begin, size_t end) {  // [begin, end) was a call
        content(copied_, begin);
        copied_ = end;
    }

    /// A call from {"name", "arguments"} or {"name", "parameters"}; false where it is none.
    bool add(const OrderedJson& json, bool short_id) {
        if (!json.is_object()) return false;
        const OrderedJson* object = &json;
        if (const auto it = json.find("function"); it != json.end() && it->is_object()) object = &*it;
        const auto name = object->find("name");
        if (name == object->end() || !name->is_string() || name->get_ref<const std::string&>().empty()) return false;
        auto arguments = object->find("arguments");
        if (arguments == object->end()) arguments = object->find("parameters");
        std::string text = "{}";
        if (arguments != object->end() && !arguments->is_null()) {
            if (arguments->is_string()) {
                text = arguments->get<std::string>();
                if (!try_parse_json(text)) return false;
            } else if (arguments->is_object()) {
                text = arguments->dump();
            } else {
                return false;
            }
        }
        std::string id;
        if (const auto it = json.find("id"); it != json.end() && it->is_string()) id = it->get<std::string>();
        out_.calls.push_back({id.empty() ? make_id(short_id) : id, name->get<std::string>(), std::move(text)});
        return true;
    }

    /// One object, or objects one after another with ; or , between them, that fill all of the text.
    bool add_all(std::string_view text) {
        const size_t before = out_.calls.size();
        size_t at = skip_space(text, 0);
        while (at < text.size()) {
            const auto piece = find_json(text, at);
            const auto json = piece ? try_parse_json(piece->text) : std::nullopt;
            bool good = json.has_value();
            if (good && json->is_array()) {
                good = !json->empty();
                for (const OrderedJson& one : *json) good = good && add(one, false);
            } else if (good) {
                good = add(*json, false);
            }
            if (!good) {
                out_.calls.resize(before);
                return false;
            }
            at = skip_space(text, piece->end);
            if (at < text.size() && (text[at] == ';' || text[at] == ',')) at = skip_space(text, at + 1);
        }
        return out_.calls.size() > before;
    }

    void tagged(std::string_view open, std::string_view close) {
        for (size_t tag = text_.find(open, begin_); tag != std::string_view::npos;) {
            const size_t begin = tag + open.size();
            const size_t found = text_.find(close, begin);
            const size_t end = std::min(found, text_.size());
            if (add_all(text_.substr(begin, end - begin))) {
                take(tag, found == std::string_view::npos ? end : end + close.size());
                tag = text_.find(open, copied_);
            } else {
                tag = text_.find(open, begin);
            }
        }
    }

    // <function=name>{...}</function>, where the end may be missing.
    void functions() {
        constexpr std::string_view open = "<function=", close = "</function>";
        for (size_t tag = text_.find(open, begin_); tag != std::string_view::npos; tag = text_.find(open, tag + 1)) {
            const size_t bracket = text_.find('>', tag);
            if (bracket == std::string_view::npos) return;
            const std::string name(trimmed(text_.substr(tag + open.size(), bracket - tag - open.size())));
            const size_t begin = skip_space(text_, bracket + 1);
            const auto piece = find_json(text_, begin);
            if (name.empty() || name.size() > 256 || !piece || !try_parse_json(piece->text)) continue;
            size_t end = skip_space(text_, piece->end);
            end = text_.substr(end).starts_with(close) ? end + close.size() : piece->end;
            out_.calls.push_back({make_id(false), name, std::string(piece->text)});
            take(tag, end);
        }
    }

    // [TOOL_CALLS] is a special token, so it may be missing in the text.
    void mistral(bool without_marker) {
        constexpr std::string_view marker = "[TOOL_CALLS]";
        size_t tag = text_.find(marker, begin_);
        if (tag == std::string_view::npos) {
            const size_t begin = skip_space(text_, begin_);
            if (without_marker && begin < text_.size()) mistral_calls(begin, begin, false);
            return;
        }
        while (tag != std::string_view::npos) {
            mistral_calls(tag, tag + marker.size(), true);
            tag = text_.find(marker, std::max(copied_, tag + marker.size()));
        }
    }

    void mistral_calls(size_t tag, size_t begin, bool marked) {
        begin = skip_space(text_, begin);
        if (begin >= text_.size()) return;
        if (text_[begin] == '[' || text_[begin] == '{') {
            const auto piece = find_json(text_, begin);
            const auto json = piece ? try_parse_json(piece->text) : std::nullopt;
            if (!json) return;
            const size_t before = out_.calls.size();
            bool good = !json->is_array() || !json->empty();
            if (json->is_array())
                for (const OrderedJson& one : *json) good = good && add(one, true);
            else
                good = add(*json, true);
            for (size_t i = before; i < out_.calls.size(); ++i) good = good && (marked || known(out_.calls[i].name));
            if (good)
                take(tag, piece->end);
            else
                out_.calls.resize(before);
            return;
        }
        // name[CALL_ID]id[ARGS]{...}: the markers are special tokens too.
        constexpr std::string_view args = "[ARGS]", id_mark = "[CALL_ID]";
        const size_t brace = text_.find('{', begin);
        if (brace == std::string_view::npos) return;
        std::string_view head = text_.substr(begin, brace - begin);
        if (const size_t at = head.find(args); at != std::string_view::npos) head = head.substr(0, at);
        std::string id;
        if (const size_t at = head.find(id_mark); at != std::string_view::npos) {
            id = trimmed(head.substr(at + id_mark.size()));
            head = head.substr(0, at);
        }
        const std::string name(trimmed(head));
        const auto piece = find_json(text_, brace);
        const bool fits =
            !name.empty() && name.size() <= 256 && name.find_first_of(" \n\t\"'[]<>") == std::string::npos;
        if (!fits || (!marked && (tools_.empty() || !known(name))) || !piece || !try_parse_json(piece->text)) return;
        out_.calls.push_back({id.empty() ? make_id(true) : id, name, std::string(piece->text)});
        take(tag, piece->end);
    }

    // Llama 3: the answer is the call. Without the tag it has to be told from an answer in JSON.
    void bare_objects(bool without_marker) {
        constexpr std::string_view tag = "<|python_tag|>";
        size_t begin = skip_space(text_, begin_);
        const size_t tagged_at = text_.find(tag, begin);
        const bool marked = tagged_at != std::string_view::npos;
        if (!marked && !without_marker) return;
        if (marked) begin = tagged_at;
        std::string_view rest = text_.substr(marked ? begin + tag.size() : begin);
        for (const std::string_view end : {"<|eom_id|>", "<|eot_id|>"})
            if (const size_t at = rest.find(end); at != std::string_view::npos) rest = rest.substr(0, at);
        if (!add_all(rest)) return;
        if (!marked &&
            !std::all_of(out_.calls.begin(), out_.calls.end(), [&](const auto& one) { return known(one.name); })) {
            out_.calls.clear();
            return;
        }
        take(begin, text_.size());
    }

    const std::string_view text_;
    const std::vector<std::string>& tools_;
    size_t begin_ = 0, copied_ = 0;
    ParsedAnswer out_;
    uint64_t seed_ = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()) ^
                     std::hash<std::string_view>()(text_);
};

}  // namespace

std::optional<ToolFormat> tool_format_of(std::string_view name) {
    for (const ToolFormat format : {ToolFormat::hermes, ToolFormat::llama3, ToolFormat::mistral})
        if (name_of(format) == name) return format;
    return std::nullopt;
}

std::string_view name_of(ToolFormat format) {
    switch (format) {
        case ToolFormat::hermes:
            return "hermes";
        case ToolFormat::llama3:
            return "llama3";
        case ToolFormat::mistral:
            return "mistral";
        case ToolFormat::any:
            break;
    }
    return "any";
}

ToolFormat tool_format_in(std::string_view source) {
    const auto has = [&](std::string_view what) { return source.find(what) != std::string_view::npos; };
    if (has("[TOOL_CALLS]")) return ToolFormat::mistral;
    if (has("<tool_call>")) return ToolFormat::hermes;
    if (has("<|python_tag|>") || has("<function=") || (has("<|start_header_id|>") && has("\"parameters\"")))
        return ToolFormat::llama3;
    return ToolFormat::any;
}

ParsedAnswer parse_tool_calls(std::string_view text, ToolFormat format, const std::vector<std::string>& tools) {
    return AnswerParser(text, tools).run(format);
}

}  // namespace quantplug::engine
