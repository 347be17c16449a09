#include "engine/tokenizer/tokenizer.h"

#include <algorithm>

#include "engine/base/error.h"
#include "engine/tokenizer/hf_tokenizer.h"
#include "engine/tokenizer/sentencepiece_tokenizer.h"
#include "engine/tokenizer/special_tokens.h"
#include "engine/tokenizer/tekken.h"
#include "engine/tokenizer/tiktoken.h"

namespace quantplug::engine {

bool touches(std::span<const ByteRange> ranges, size_t begin, size_t end) {
    const auto inside = [&](size_t at) {
        const auto it = std::upper_bound(ranges.begin(), ranges.end(), at,
                                         [](size_t byte, const ByteRange& range) { return byte < range.end; });
        return it != ranges.end() && it->begin <= at;
    };
    return begin < end && (inside(begin) || inside(end - 1));
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool special_text) const {
    const std::unique_ptr<DecodeStream> stream = decode_stream(special_text);
    std::string out;
    for (int32_t id : ids) out += stream->push(id);
    return out += stream->finish();
}

namespace {

// tiktoken.model, qwen.tiktoken or another *.tiktoken; of several the first by name.
std::optional<std::filesystem::path> find_tiktoken_file(const std::filesystem::path& folder) {
    std::optional<std::filesystem::path> found;
    std::error_code error;
    for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        const std::filesystem::path file = it->path();
        if (file.extension() != ".tiktoken" && file.filename() != "tiktoken.model") continue;
        if (!found || file < *found) found = file;
    }
    return found;
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view json, std::string_view name) {
    return std::make_unique<HfTokenizer>(read_tokenizer_file(json, name), SpecialTokens{}, name);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
    const std::filesystem::path json = folder / "tokenizer.json", model = folder / "tokenizer.model",
                                tekken = folder / "tekken.json";
    if (has_file(json))
        return std::make_unique<HfTokenizer>(read_tokenizer_file(read_text(json), json.string()),
                                             SpecialTokens::read(folder), json.string());
    if (has_file(model)) {
        const std::string bytes = read_text(model);
        if (is_tiktoken(bytes)) return load_tiktoken(model, SpecialTokens::read(folder));
        return load_sentencepiece(model, bytes, SpecialTokens::read(folder));
    }
    if (const auto file = find_tiktoken_file(folder)) return load_tiktoken(*file, SpecialTokens::read(folder));
    if (has_file(tekken)) return parse_tekken(read_text(tekken), SpecialTokens::read(folder), tekken.string());
    fail(Code::not_found, folder.string(),
         " has neither tokenizer.json nor tokenizer.model, a tiktoken file or tekken.json: copy one from the model's "
         "original folder");
}

}  // namespace quantplug::engine
