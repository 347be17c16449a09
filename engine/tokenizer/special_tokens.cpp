#include "engine/tokenizer/special_tokens.h"

#include <charconv>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <unordered_set>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "engine/checkpoint/json.h"
#include "engine/tokenizer/json_fields.h"

namespace quantplug::engine {
namespace {

using nlohmann::json;
using std::filesystem::path;

json read_object(const path& file) {
    const json out = parse_json(read_text(file), file.string());
    if (!out.is_object()) fail(Code::invalid_argument, file.string(), " is no JSON object");
    return out;
}

// "bos_token": "<s>" or {"content": "<s>", ...}.
void read_name(const json& object, const char* key, std::string& out) {
    const auto it = object.find(key);
    if (!out.empty() || it == object.end()) return;
    if (it->is_string()) out = it->get<std::string>();
    if (it->is_object() && it->contains("content") && (*it)["content"].is_string())
        out = (*it)["content"].get<std::string>();
}

void read_names(const json& config, SpecialTokens& out) {
    for (const char* key : {"unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
        std::string name;
        read_name(config, key, name);
        if (!name.empty()) out.others.push_back(name);
    }
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
        const auto list = config.find(key);
        if (list == config.end() || !list->is_structured()) continue;
        for (const json& one : *list) {  // strings or objects, in a list or by name
            std::string name;
            read_name(json{{"token", one}}, "token", name);
            if (!name.empty()) (list->is_object() ? out.others : out.additional).push_back(name);
        }
    }
}

void read_flag(const json& object, const char* key, std::optional<bool>& out) {
    const auto it = object.find(key);
    if (it != object.end() && it->is_boolean()) out = it->get<bool>();
}

void read_added_decoder(const json& config, const std::string& name, std::vector<AddedToken>& out) {
    const auto it = config.find("added_tokens_decoder");
    if (it == config.end() || !it->is_object()) return;
    std::map<int32_t, AddedToken> by_id;
    for (const auto& [key, entry] : it->items()) {
        AddedToken token;
        const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
        if (error != std::errc() || end != key.data() + key.size() || token.id < 0 || !entry.is_object())
            fail(Code::invalid_argument, name, ": added_tokens_decoder has a bad entry ", in_quotes(key));
        token.content = string_field(entry, "content", name);
        token.single_word = bool_field(entry, "single_word", false, name);
        token.lstrip = bool_field(entry, "lstrip", false, name);
        token.rstrip = bool_field(entry, "rstrip", false, name);
        token.normalized = bool_field(entry, "normalized", true, name);
        token.special = bool_field(entry, "special", false, name);
        by_id[token.id] = std::move(token);
    }
    for (auto& [id, token] : by_id) out.push_back(std::move(token));
}

}  // namespace

bool has_file(const path& file) {
    std::error_code error;
    return std::filesystem::symlink_status(file, error).type() != std::filesystem::file_type::not_found;
}

std::string read_text(const path& file) {
    std::string text = read_text_file(file, uint64_t{1} << 30);
    constexpr std::string_view lfs = "version https://git-lfs.github.com/spec/";
    if (text.starts_with(lfs))
        fail(Code::failed_precondition, file.string(),
             " is a Git LFS pointer, not the file itself: run 'git lfs pull' in its folder");
    return text;
}

SpecialTokens SpecialTokens::read(const path& folder) {
    SpecialTokens out;
    if (const path file = folder / "tokenizer_config.json"; has_file(file)) {
        const json config = read_object(file);
        read_name(config, "bos_token", out.bos);
        read_name(config, "eos_token", out.eos);
        read_names(config, out);
        read_flag(config, "add_bos_token", out.add_bos);
        read_flag(config, "add_eos_token", out.add_eos);
        read_flag(config, "legacy", out.legacy);
        read_flag(config, "add_prefix_space", out.add_prefix_space);
        read_added_decoder(config, file.string(), out.added);
    }
    if (const path file = folder / "special_tokens_map.json"; has_file(file)) {
        const json map = read_object(file);
        read_name(map, "bos_token", out.bos);
        read_name(map, "eos_token", out.eos);
    }
    if (const path file = folder / "added_tokens.json"; has_file(file)) {
        const json map = read_object(file);
        std::unordered_set<std::string> known;
        for (const AddedToken& token : out.added) known.insert(token.content);
        for (const auto& [content, id] : map.items()) {
            AddedToken token;
            token.content = content;
            if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
                fail(Code::invalid_argument, file.string(), ": the id of ", in_quotes(content),
                     " is no number from 0 to ", INT32_MAX);
            token.id = static_cast<int32_t>(id.get<uint64_t>());
            token.normalized = false;
            if (!known.contains(content)) out.added_json.push_back(std::move(token));
        }
    }
    return out;
}

}  // namespace quantplug::engine
