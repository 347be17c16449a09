// The block types of GGUF files that the import decodes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace quantplug::engine {

struct GgufType {
    uint32_t id;
    std::string_view name;
    int64_t block_values;  // values of one block, along the innermost dimension
    int64_t block_bytes;
};

/// A type that gguf_decode knows, or null.
const GgufType* gguf_type(uint32_t id);
/// "Q4_K" of any type that ggml has had, or "type 99".
std::string gguf_type_name(uint32_t id);

/// Whole blocks to FP32. blocks.size() / block_bytes * block_values == out.size(). Every product and sum is rounded to
/// FP32.
void gguf_decode(const GgufType& type, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace quantplug::engine
