#include "engine/tokenizer/tokenizer.h"

#include "engine/base/error.h"
#include "engine/tokenizer/hf_tokenizer.h"
#include "engine/tokenizer/sentencepiece_tokenizer.h"
#include "engine/tokenizer/special_tokens.h"

namespace quantplug::engine {

std::string Tokenizer::decode(std::span<const int32_t> ids, bool special_text) const {
    const std::unique_ptr<DecodeStream> stream = decode_stream(special_text);
    std::string out;
    for (int32_t id : ids) out += stream->push(id);
    return out += stream->finish();
}

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view json, std::string_view name) {
    return std::make_unique<HfTokenizer>(read_tokenizer_file(json, name), SpecialTokens{}, name);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
    const std::filesystem::path json = folder / "tokenizer.json", model = folder / "tokenizer.model";
    if (has_file(json))
        return std::make_unique<HfTokenizer>(read_tokenizer_file(read_text(json), json.string()),
                                             SpecialTokens::read(folder), json.string());
    if (has_file(model)) return load_sentencepiece(model, SpecialTokens::read(folder));
    fail(Code::not_found, folder.string(),
         " has neither tokenizer.json nor tokenizer.model: copy one from the model's original folder");
}

}  // namespace quantplug::engine
