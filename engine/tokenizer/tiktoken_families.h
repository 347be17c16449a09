// What a tiktoken vocabulary leaves to its family's program: the expression that cuts words, and the special tokens.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

struct TiktokenFamily {
    std::string_view expression;
    std::vector<std::string> specials;  // ids from the number of ranks on
    std::vector<std::string> prefix;    // tokens in front of every text
    std::string bos, eos;               // empty: none
    bool nfc = false;                   // texts are put in normal form C first
};

/// `model_type` of config.json and `tokenizer_class` of tokenizer_config.json, empty where they are not said. Llama 3
/// (llama_models, llama3/tokenizer.py), Llama 4 (llama4/tokenizer.py), Qwen 1 (dashscope, qwen_tokenizer.py), GLM-4
/// (tokenization_chatglm.py; its special tokens are those of tokenizer_config.json). Error (unimplemented) for others,
/// naming `name`.
TiktokenFamily find_tiktoken_family(std::string_view model_type, std::string_view tokenizer_class,
                                    std::string_view name);

}  // namespace quantplug::engine
