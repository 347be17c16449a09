#include "engine/chat/chat_templates.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "engine/checkpoint/json.h"

namespace quantplug::engine {
namespace {

constexpr uint64_t max_file_bytes = uint64_t{4} << 20;

bool is_file(const std::filesystem::path& path) {
    std::error_code error;
    return std::filesystem::is_regular_file(path, error);
}

/// `chat_template` of a JSON file: a string, or a list of {name, template}.
void add_from_json(const Json& value, const std::string& file, ChatTemplates& out) {
    if (value.is_string()) {
        out.entries.push_back({"default", value.get<std::string>(), file});
        return;
    }
    if (!value.is_array()) fail(Code::invalid_argument, file, ": chat_template is neither a string nor a list");
    for (const Json& one : value) {
        const JsonObject object(one, file, "chat_template");
        const auto name = object.string("name"), source = object.string("template");
        if (!name || !source) fail(Code::invalid_argument, file, ": an entry of chat_template has no name or template");
        if (!out.find(*name)) out.entries.push_back({*name, *source, file});
    }
}

/// A token is a string, or an object with its content.
void add_special_tokens(const Json& config, ChatTemplates& out) {
    for (const auto& [key, value] : config.items()) {
        if (!key.ends_with("_token")) continue;
        const Json* content = &value;
        if (value.is_object()) {
            const auto it = value.find("content");
            if (it == value.end()) continue;
            content = &*it;
        }
        if (!content->is_string()) continue;
        const auto same = [&name = key](const auto& one) { return one.first == name; };
        if (std::none_of(out.special_tokens.begin(), out.special_tokens.end(), same))
            out.special_tokens.emplace_back(key, content->get<std::string>());
    }
}

}  // namespace

const ChatTemplates::Entry* ChatTemplates::find(std::string_view name) const {
    for (const Entry& entry : entries)
        if (entry.name == name) return &entry;
    return nullptr;
}

const ChatTemplates::Entry* ChatTemplates::choose(bool with_tools) const {
    if (const Entry* entry = with_tools ? find("tool_use") : nullptr) return entry;
    if (const Entry* entry = find("default")) return entry;
    return entries.empty() ? nullptr : &entries.front();
}

ChatTemplates load_chat_templates(const std::filesystem::path& folder) {
    ChatTemplates out;
    const std::filesystem::path jinja = folder / "chat_template.jinja", config = folder / "tokenizer_config.json",
                                json = folder / "chat_template.json", map = folder / "special_tokens_map.json";
    if (is_file(jinja)) out.entries.push_back({"default", read_text_file(jinja, max_file_bytes), jinja.string()});
    for (const std::filesystem::path& path : {config, map, json}) {
        if (!is_file(path)) continue;
        const Json document = read_json_file(path);
        const JsonObject object(document, path.string());
        const Json* value = path == map ? nullptr : object.find("chat_template");
        if (value && out.entries.empty()) add_from_json(*value, path.string(), out);
        if (path != json) add_special_tokens(document, out);
    }
    std::vector<std::filesystem::path> more;
    std::error_code error;
    for (std::filesystem::directory_iterator it(folder / "additional_chat_templates", error), end; !error && it != end;
         it.increment(error))
        if (it->path().extension() == ".jinja") more.push_back(it->path());
    std::sort(more.begin(), more.end());
    for (const std::filesystem::path& path : more)
        if (!out.find(path.stem().string()))
            out.entries.push_back({path.stem().string(), read_text_file(path, max_file_bytes), path.string()});
    return out;
}

}  // namespace quantplug::engine
