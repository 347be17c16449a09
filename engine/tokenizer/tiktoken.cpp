#include "engine/tokenizer/tiktoken.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <unordered_set>
#include <vector>

#include "engine/base/error.h"
#include "engine/checkpoint/json.h"
#include "engine/tokenizer/base64.h"
#include "engine/tokenizer/hf_tokenizer.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/tiktoken_families.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

using nlohmann::json;

struct RankLine {
    std::string_view token, rank;  // as they are written
};

RankLine split_line(std::string_view line) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) return {line, {}};
    return {line.substr(0, space), line.substr(space + 1)};
}

// A key's string in a JSON file of the folder, empty where there is none.
std::string string_of(const std::filesystem::path& file, const char* key) {
    if (!has_file(file)) return {};
    const json object = parse_json(read_text(file), file.string());
    const auto it = object.is_object() ? object.find(key) : object.end();
    return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

}  // namespace

bool is_tiktoken(std::string_view text) {
    const RankLine line = split_line(text.substr(0, std::min<size_t>(text.find('\n'), 1000)));
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    return !line.token.empty() && !line.rank.empty() && std::all_of(line.rank.begin(), line.rank.end(), digit) &&
           decode_base64(line.token);
}

void add_byte_level_token(TokenizerFile& file, std::string_view bytes, int32_t id) {
    const size_t begin = file.text.size();
    for (char b : bytes) append_utf8(file.text, byte_to_char(static_cast<uint8_t>(b)));
    if (file.text.size() >= UINT32_MAX) fail(Code::invalid_argument, "a vocabulary has more than 4 GiB of text");
    file.vocab.push_back({{static_cast<uint32_t>(begin), static_cast<uint32_t>(file.text.size() - begin)}, id});
}

void finish_byte_level(TokenizerFile& file, std::string_view expression, std::string_view name) {
    std::vector<bool> bytes(256);
    for (const TokenizerFile::Entry& entry : file.vocab) {
        const std::string_view token = file.view(entry.token);
        if (!token.empty() && utf8_at(token, 0).length == token.size())
            bytes[static_cast<size_t>(char_to_byte(utf8_at(token, 0).code))] = true;
    }
    const auto missing = std::find(bytes.begin(), bytes.end(), false);
    if (missing != bytes.end())
        fail(Code::invalid_argument, name, ": the byte ", missing - bytes.begin(),
             " is no token of the vocabulary: download the file again");
    file.merges_by_rank = true;
    file.model = {{"ignore_merges", true}};
    file.pre_tokenizer = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"Regex", std::string(expression)}}}, {"behavior", "Isolated"}},
          {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    file.decoder = {{"type", "ByteLevel"}};
}

TokenizerFile read_tiktoken(std::string_view text, std::string_view expression, std::string_view name) {
    TokenizerFile file;
    file.source = "tiktoken";
    size_t number = 0;
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = std::min(text.find('\n', begin), text.size());
        const RankLine line = split_line(text.substr(begin, end - begin));
        begin = end + 1;
        ++number;
        if (line.token.empty() && line.rank.empty()) continue;
        const auto bytes = decode_base64(line.token);
        int32_t rank = -1;
        const auto [last, error] = std::from_chars(line.rank.data(), line.rank.data() + line.rank.size(), rank);
        if (!bytes || bytes->empty() || error != std::errc() || last != line.rank.data() + line.rank.size() || rank < 0)
            fail(Code::invalid_argument, name, ": line ", number, " is no token in base64, a space and its rank");
        add_byte_level_token(file, *bytes, rank);
    }
    finish_byte_level(file, expression, name);
    return file;
}

json prefix_template(const TokenizerFile& file, const std::vector<std::string>& tokens) {
    json single = json::array(), specials = json::object();
    for (const std::string& token : tokens) {
        single.push_back({{"SpecialToken", {{"id", token}}}});
        for (const AddedToken& added : file.added)
            if (added.content == token) specials[token] = {{"ids", {static_cast<uint32_t>(added.id)}}};
    }
    single.push_back({{"Sequence", {{"id", "A"}}}});
    return {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", specials}};
}

std::unique_ptr<Tokenizer> load_tiktoken(const std::filesystem::path& path, SpecialTokens names) {
    const std::string name = path.string();
    const std::filesystem::path folder = path.parent_path();
    const TiktokenFamily family =
        find_tiktoken_family(string_of(folder / "config.json", "model_type"),
                             string_of(folder / "tokenizer_config.json", "tokenizer_class"), name);
    TokenizerFile file = read_tiktoken(read_text(path), family.expression, name);
    int32_t next = 0;
    for (const TokenizerFile::Entry& entry : file.vocab) next = std::max(next, entry.id);
    // What tokenizer_config.json says of an id wins: the names of the reserved ones changed from Llama 3 to 3.1.
    std::unordered_set<std::string_view> renamed;
    for (const AddedToken& token : names.added) renamed.insert(token.content);
    std::map<int32_t, AddedToken> by_id;
    for (const std::string& special : family.specials) {
        ++next;
        if (renamed.contains(special)) continue;
        AddedToken& token = by_id[next];
        token.content = special;
        token.id = next;
        token.normalized = false;
        token.special = true;
    }
    for (const AddedToken& token : names.added) by_id[token.id] = token;
    for (auto& [id, token] : by_id) file.added.push_back(std::move(token));
    names.added.clear();
    for (const std::string& token : family.prefix)
        if (std::none_of(file.added.begin(), file.added.end(), [&](const AddedToken& a) { return a.content == token; }))
            fail(Code::failed_precondition, name, ": the token ", in_quotes(token),
                 " is missing: added_tokens_decoder of tokenizer_config.json has to list it, or put the model's "
                 "tokenizer.json beside it");
    if (!family.prefix.empty()) file.post_processor = prefix_template(file, family.prefix);
    if (family.nfc) file.normalizer = {{"type", "NFC"}, {"all_characters", true}};
    if (names.bos.empty()) names.bos = family.bos;
    if (names.eos.empty()) names.eos = family.eos;
    return std::make_unique<HfTokenizer>(std::move(file), names, name);
}

}  // namespace quantplug::engine
