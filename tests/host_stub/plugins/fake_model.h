// A "model" with a known distribution, for the fake plugin and for the naive arithmetic that its results are compared
// with.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::test {

constexpr uint32_t kFakeVocab = 37;
constexpr int32_t kFakeBos = 36;

/// Byte b is token b % 36.
inline std::vector<int32_t> fake_tokens(std::string_view text) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c) % 36);
    return ids;
}

/// Logits after `ids[position]`, which depend on the id, its position and `salt`.
inline std::vector<float> fake_logits(int32_t id, uint64_t position, uint64_t salt) {
    std::vector<float> row(kFakeVocab);
    uint64_t state = (static_cast<uint64_t>(id) + 1) * 0x9e3779b97f4a7c15u + position * 0xbf58476d1ce4e5b9u +
                     salt * 0x94d049bb133111ebu;
    for (float& logit : row) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        logit = static_cast<float>(static_cast<double>(state >> 40) / (1 << 24) * 12.0 - 6.0);
    }
    return row;
}

}  // namespace quantplug::test
