// The table of architectures: a new Llama-like model is a row.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace quantplug::engine {

/// Which layers see only the last `sliding_window` keys, where the configuration has no layer_types.
enum class WindowRule : uint8_t {
    none,
    all,         // where sliding_window is a number (Mistral)
    from_layer,  // where use_sliding_window: layers >= max_window_layers (Qwen2, Qwen3)
};

/// One decoder with Llama's tensor names. Facts: transformers' modeling files.
struct Architecture {
    std::string_view name;  // architectures[0] of config.json
    WindowRule window = WindowRule::none;
    int64_t default_window = 0;    // where the configuration does not have the key at all
    int64_t default_head_dim = 0;  // 0: hidden_size / n_heads
    bool qk_norm = false;          // RMS norm of every head of q and k before RoPE
};

inline constexpr std::array architectures = {
    // Llama 1/2/3, TinyLlama, SmolLM, SmolLM2, Yi, DeepSeek-LLM, Falcon3
    Architecture{.name = "LlamaForCausalLM"},
    Architecture{.name = "LLaMAForCausalLM"},
    Architecture{.name = "MistralForCausalLM", .window = WindowRule::all, .default_window = 4096},
    Architecture{.name = "Qwen2ForCausalLM", .window = WindowRule::from_layer, .default_window = 4096},
    Architecture{.name = "Qwen3ForCausalLM",
                 .window = WindowRule::from_layer,
                 .default_window = 4096,
                 .default_head_dim = 128,
                 .qk_norm = true},
};

constexpr const Architecture* find_architecture(std::string_view name) {
    for (const Architecture& a : architectures)
        if (a.name == name) return &a;
    return nullptr;
}

}  // namespace quantplug::engine
