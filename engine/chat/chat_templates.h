// The chat templates of a model folder.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quantplug::engine {

struct ChatTemplates {
    struct Entry {
        std::string name;    // "default", "tool_use", ...
        std::string source;  // the template
        std::string file;    // where it is from
    };
    std::vector<Entry> entries;
    /// bos_token, eos_token and the like, as the tokenizer's files spell them: variables of every template.
    std::vector<std::pair<std::string, std::string>> special_tokens;

    const Entry* find(std::string_view name) const;
    /// Without a name: "tool_use" where tools are given, else "default", else the first. Null where there is none.
    const Entry* choose(bool with_tools) const;
};

/// chat_template.jinja, else chat_template of tokenizer_config.json (a string, or a list of {name, template}), else
/// chat_template.json; and additional_chat_templates/*.jinja by their file names. A folder without any is no error.
/// Errors name the file.
ChatTemplates load_chat_templates(const std::filesystem::path& folder);

}  // namespace quantplug::engine
