#include "engine/tokenizer/tiktoken_families.h"

#include "engine/base/error.h"
#include "engine/tokenizer/json_fields.h"

namespace quantplug::engine {
namespace {

// cl100k with numbers of up to three digits, and of one.
constexpr std::string_view numbers_of_three =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view numbers_of_one =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// o200k: words also end where small letters meet capitals.
constexpr std::string_view o200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

void add_numbered(std::vector<std::string>& out, const std::string& stem, int first, size_t end) {
    for (int i = first; out.size() < end; ++i) out.push_back(concat("<|", stem, i, "|>"));
}

TiktokenFamily llama3() {
    TiktokenFamily out;
    out.expression = numbers_of_three;
    out.specials = {"<|begin_of_text|>",
                    "<|end_of_text|>",
                    "<|reserved_special_token_0|>",
                    "<|reserved_special_token_1|>",
                    "<|finetune_right_pad_id|>",
                    "<|step_id|>",
                    "<|start_header_id|>",
                    "<|end_header_id|>",
                    "<|eom_id|>",
                    "<|eot_id|>",
                    "<|python_tag|>",
                    "<|image|>"};
    add_numbered(out.specials, "reserved_special_token_", 2, 256);
    out.bos = "<|begin_of_text|>";
    out.eos = "<|end_of_text|>";
    out.prefix = {out.bos};
    return out;
}

TiktokenFamily llama4() {
    TiktokenFamily out;
    out.expression = o200k;
    auto& s = out.specials;
    s = {"<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
         "<|header_start|>",  "<|header_end|>",  "<|eom|>",        "<|eot|>",        "<|step|>"};
    const std::string text = "text_post_train_reserved_special_token_", vision = "vision_reserved_special_token_";
    add_numbered(s, text, 0, s.size() + 6);
    s.insert(s.end(), {"<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"});
    add_numbered(s, text, 8, s.size() + 61);
    s.insert(s.end(), {"<|image_start|>", "<|image_end|>"});
    add_numbered(s, vision, 0, s.size() + 2);
    s.insert(s.end(), {"<|tile_x_separator|>", "<|tile_y_separator|>"});
    add_numbered(s, vision, 2, s.size() + 4);
    s.push_back("<|image|>");
    add_numbered(s, vision, 6, s.size() + 1);
    s.push_back("<|patch|>");
    add_numbered(s, vision, 7, s.size() + 1041);
    add_numbered(s, "reasoning_reserved_special_token_", 0, s.size() + 8);
    s.insert(s.end(), {"<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"});
    add_numbered(s, "reserved_special_token_", 0, 2048);
    out.bos = "<|begin_of_text|>";
    out.eos = "<|end_of_text|>";
    out.prefix = {out.bos};
    return out;
}

TiktokenFamily qwen() {
    TiktokenFamily out;
    out.expression = numbers_of_one;
    out.specials = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    add_numbered(out.specials, "extra_", 0, 208);
    out.eos = "<|endoftext|>";
    out.nfc = true;
    return out;
}

TiktokenFamily glm4() {
    TiktokenFamily out;
    out.expression = numbers_of_three;
    out.prefix = {"[gMASK]", "<sop>"};
    out.eos = "<|endoftext|>";
    return out;
}

}  // namespace

TiktokenFamily find_tiktoken_family(std::string_view model_type, std::string_view tokenizer_class,
                                    std::string_view name) {
    if (tokenizer_class == "ChatGLM4Tokenizer") return glm4();
    if (tokenizer_class == "QWenTokenizer" || model_type == "qwen") return qwen();
    if (model_type.starts_with("llama4")) return llama4();
    if (model_type == "llama" || model_type == "mllama") return llama3();
    fail(Code::unimplemented, name, " is a tiktoken vocabulary of an unknown family (model_type ",
         in_quotes(model_type), ", tokenizer_class ", in_quotes(tokenizer_class),
         "; known are Llama 3, Llama 4, Qwen 1 and GLM-4): put the model's tokenizer.json beside it");
}

}  // namespace quantplug::engine
