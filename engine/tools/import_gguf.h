// GGUF files of llama-like models, turned into Hugging Face folders.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "engine/checkpoint/safetensors.h"

namespace quantplug::engine {

struct ImportGgufOptions {
    StoredType type = StoredType::f16;  // f16 or f32
    /// fraction 0..1 and what is being done; false cancels. May be empty.
    std::function<bool(double fraction, const std::string& what)> progress;
};

struct ImportGgufResult {
    int64_t tensors = 0;
    uint64_t bytes = 0;        // of model.safetensors
    std::string architecture;  // "LlamaForCausalLM"
    std::string tokenizer;     // "gpt2 (smollm)"
};

/// Reads a GGUF file (versions 2 and 3; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0; architectures llama, qwen2,
/// qwen3) and writes a folder with model.safetensors, config.json, generation_config.json, tokenizer.json and
/// tokenizer_config.json. Rows of q and k, which llama.cpp permutes for its rotary embedding, get their order back.
/// Everything else is refused by name. Streams: memory holds the tokenizer and a few rows. `out` is complete or absent.
ImportGgufResult import_gguf(const std::filesystem::path& file, const std::filesystem::path& out,
                             const ImportGgufOptions& options = {});

}  // namespace quantplug::engine
