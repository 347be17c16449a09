// Tokens by id and ids by token: one block of text and an open-addressing table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

class Vocab {
 public:
    /// Room for ids 0 .. size-1; `n_tokens` of them are going to be set.
    void reserve(int32_t size, size_t n_tokens);

    /// Sets a token. False where the token or the id is taken, and nothing changes. 0 <= id < size().
    bool add(std::string_view token, int32_t id);

    int32_t find(std::string_view token) const;  // -1: none
    bool has(int32_t id) const { return id >= 0 && id < size() && spans_[static_cast<size_t>(id)].length != none; }
    std::string_view token(int32_t id) const;  // empty where there is none
    int32_t size() const { return static_cast<int32_t>(spans_.size()); }

 private:
    static constexpr uint32_t none = UINT32_MAX;
    struct Span {
        uint32_t begin = 0, length = none;
    };
    struct Slot {
        uint32_t hash = 0;  // its upper half, so that other tokens are told apart without a look at the text
        int32_t id = -1;    // -1: free
        Span span;
    };
    size_t slot_of(std::string_view token, size_t hash) const;  // of the token, or the free one where it belongs

    std::string text_;
    std::vector<Span> spans_;
    std::vector<Slot> slots_ = std::vector<Slot>(1);  // a power of two, at most half full
};

}  // namespace quantplug::engine
