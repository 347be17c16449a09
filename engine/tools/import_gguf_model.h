// What a GGUF file's hyperparameters and tensors are in Hugging Face's terms.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/tools/import_gguf_file.h"

namespace quantplug::engine {

struct ImportedTensor {
    const GgufTensor* source = nullptr;
    std::string name;
    /// Heads whose rows llama.cpp has interleaved: of each head's d rows, row 2t + a is row a * d/2 + t. 0: none.
    int64_t permuted_heads = 0;
};

struct ImportedModel {
    std::string architecture;  // "LlamaForCausalLM"
    int64_t n_vocab = 0, max_positions = 0;
    std::vector<ImportedTensor> tensors;
    std::string config;  // config.json without the ids of special tokens and the type of the weights: an object
};

/// Maps names, checks every shape against the hyperparameters, and refuses missing tensors and those that have no
/// place.
ImportedModel map_gguf_model(const GgufFile& file);

}  // namespace quantplug::engine
