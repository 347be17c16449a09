#include "engine/tools/import_gguf_blocks.h"

#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

enum : uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8, bf16 = 30 };

constexpr std::array<GgufType, 8> types{{
    {f32, "F32", 1, 4},
    {f16, "F16", 1, 2},
    {bf16, "BF16", 1, 2},
    {q4_0, "Q4_0", 32, 18},
    {q4_1, "Q4_1", 32, 20},
    {q5_0, "Q5_0", 32, 22},
    {q5_1, "Q5_1", 32, 24},
    {q8_0, "Q8_0", 32, 34},
}};

// By id; empty where an id was withdrawn.
constexpr std::array<std::string_view, 40> names{
    "F32",    "F16",      "Q4_0",     "Q4_1",     "Q4_2",  "Q4_3",  "Q5_0",       "Q5_1",       "Q8_0",       "Q8_1",
    "Q2_K",   "Q3_K",     "Q4_K",     "Q5_K",     "Q6_K",  "Q8_K",  "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",    "IQ1_S",
    "IQ4_NL", "IQ3_S",    "IQ2_S",    "IQ4_XS",   "I8",    "I16",   "I32",        "I64",        "F64",        "IQ1_M",
    "BF16",   "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};

template <typename T>
T load(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

float half(const std::byte* from) { return kernels::f16_to_f32(load<uint16_t>(from)); }

/// 4-bit codes: the first half of a block in the low nibbles, the second in the high ones; `high` has the fifth bits.
template <typename Value>
void unpack(const std::byte* nibbles, uint32_t high, float* out, Value value) {
    for (uint32_t j = 0; j < 16; ++j) {
        const uint32_t byte = uint32_t(nibbles[j]);
        out[j] = value(int32_t((byte & 15u) | (((high >> j) & 1u) << 4)));
        out[j + 16] = value(int32_t((byte >> 4) | (((high >> (j + 16)) & 1u) << 4)));
    }
}

void decode_block(uint32_t type, const std::byte* block, float* out) {
    const float d = half(block);
    switch (type) {
        case q4_0:
            return unpack(block + 2, 0, out, [=](int32_t q) { return float(q - 8) * d; });
        case q4_1:
            return unpack(block + 4, 0, out, [=, m = half(block + 2)](int32_t q) { return float(q) * d + m; });
        case q5_0:
            return unpack(block + 6, load<uint32_t>(block + 2), out, [=](int32_t q) { return float(q - 16) * d; });
        case q5_1:
            return unpack(block + 8, load<uint32_t>(block + 4), out,
                          [=, m = half(block + 2)](int32_t q) { return float(q) * d + m; });
        default:
            for (int j = 0; j < 32; ++j) out[j] = float(load<int8_t>(block + 2 + j)) * d;
    }
}

}  // namespace

const GgufType* gguf_type(uint32_t id) {
    for (const GgufType& type : types)
        if (type.id == id) return &type;
    return nullptr;
}

std::string gguf_type_name(uint32_t id) { return id < names.size() ? std::string(names[id]) : concat("type ", id); }

void gguf_decode(const GgufType& type, std::span<const std::byte> blocks, std::span<float> out) {
    const size_t n = blocks.size() / size_t(type.block_bytes);
    if (n * size_t(type.block_bytes) != blocks.size() || n * size_t(type.block_values) != out.size())
        fail(Code::internal, blocks.size(), " bytes of ", type.name, " do not make ", out.size(), " values");
    switch (type.id) {
        case f32:
            if (n) std::memcpy(out.data(), blocks.data(), blocks.size());
            return;
        case f16:
            for (size_t i = 0; i < n; ++i) out[i] = half(blocks.data() + 2 * i);
            return;
        case bf16:
            for (size_t i = 0; i < n; ++i) out[i] = kernels::bf16_to_f32(load<uint16_t>(blocks.data() + 2 * i));
            return;
        default:
            for (size_t i = 0; i < n; ++i)
                decode_block(type.id, blocks.data() + i * size_t(type.block_bytes),
                             out.data() + i * size_t(type.block_values));
    }
}

}  // namespace quantplug::engine
