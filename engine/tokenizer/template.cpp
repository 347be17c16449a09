#include "engine/tokenizer/template.h"

#include "engine/tokenizer/json_fields.h"

namespace quantplug::engine {
namespace {

using nlohmann::json;

// An id of the post_processor's token.
int32_t id_of(const json& id, const std::string& token, int32_t n_ids, std::string_view name) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(n_ids))
        fail(Code::invalid_argument, name, ": the post_processor's token ", in_quotes(token), " has id ", id.dump(),
             ", the vocabulary ", n_ids, " ids");
    return static_cast<int32_t>(id.get<uint64_t>());
}

void append_ids(const json& specials, const std::string& token, int32_t n_ids, std::string_view name,
                std::vector<int32_t>& out) {
    const auto it = specials.find(token);
    if (it == specials.end() || !it->is_object() || !it->contains("ids") || !(*it)["ids"].is_array())
        fail(Code::invalid_argument, name, ": the post_processor's template names ", in_quotes(token),
             ", which special_tokens does not list with its ids");
    for (const json& id : (*it)["ids"]) out.push_back(id_of(id, token, n_ids, name));
}

Template parse_single(const json& processor, int32_t n_ids, std::string_view name) {
    const auto single = processor.find("single");
    const auto specials = processor.find("special_tokens");
    if (single == processor.end() || !single->is_array() || specials == processor.end() || !specials->is_object())
        fail(Code::invalid_argument, name, ": the post_processor has no list 'single' or no object 'special_tokens'");
    Template out;
    bool seen = false;
    for (const json& piece : *single) {
        if (piece.is_object() && piece.contains("SpecialToken")) {
            append_ids(*specials, string_field(piece["SpecialToken"], "id", name), n_ids, name,
                       seen ? out.after : out.before);
        } else if (piece.is_object() && piece.contains("Sequence") && !seen &&
                   string_field(piece["Sequence"], "id", name) == "A") {
            seen = true;
        } else {
            fail(Code::invalid_argument, name,
                 ": the post_processor's template 'single' has a piece that is neither a SpecialToken nor the one "
                 "Sequence A");
        }
    }
    if (!seen)
        fail(Code::invalid_argument, name, ": the post_processor's template 'single' does not contain Sequence A");
    return out;
}

// "cls": ["<s>", 0] in front, "sep": ["</s>", 2] behind.
Template parse_bert(const json& processor, int32_t n_ids, std::string_view name) {
    const auto one = [&](const char* key) -> std::vector<int32_t> {
        const auto it = processor.find(key);
        if (it == processor.end() || !it->is_array() || it->size() != 2 || !(*it)[0].is_string())
            fail(Code::invalid_argument, name, ": the post_processor's '", key, "' is no [token, id]");
        return {id_of((*it)[1], (*it)[0].get<std::string>(), n_ids, name)};
    };
    return {one("cls"), one("sep")};
}

}  // namespace

Template Template::parse(const json& object, int32_t n_ids, std::string_view name) {
    Template out;
    if (object.is_null()) return out;
    for (const json* part : flatten_sequence(object, "processors", name, "post_processor")) {
        const std::string type = type_of(*part, name, "post_processor");
        if (type == "ByteLevel") continue;
        const bool bert = type == "BertProcessing" || type == "RobertaProcessing";
        if (!bert && type != "TemplateProcessing")
            fail(Code::unimplemented, name, ": post_processor '", type, "' is not supported: take it out of the file");
        const Template one = bert ? parse_bert(*part, n_ids, name) : parse_single(*part, n_ids, name);
        out.before.insert(out.before.begin(), one.before.begin(), one.before.end());
        out.after.insert(out.after.end(), one.after.begin(), one.after.end());
    }
    return out;
}

}  // namespace quantplug::engine
