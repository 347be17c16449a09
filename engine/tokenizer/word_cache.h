// Ids of words seen before: a direct-mapped table of fixed size that any number of threads share. A slot in use by
// another thread counts as a miss.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace quantplug::engine {

class WordCache {
 public:
    static constexpr size_t max_bytes = 29;
    static constexpr size_t max_ids = 8;

    WordCache() : slots_(std::make_unique<Slot[]>(n_slots)) {}

    /// Appends the ids of `word`; false where it is not known.
    bool get(std::string_view word, size_t hash, std::vector<int32_t>& out) {
        Slot& slot = slots_[hash % n_slots];
        if (slot.busy.exchange(1, std::memory_order_acquire)) return false;
        const bool hit = slot.n_bytes == word.size() && std::memcmp(slot.bytes, word.data(), word.size()) == 0;
        if (hit) out.insert(out.end(), slot.ids, slot.ids + slot.n_ids);
        slot.busy.store(0, std::memory_order_release);
        return hit;
    }

    /// 0 < word.size() <= max_bytes, n_ids <= max_ids.
    void put(std::string_view word, size_t hash, const int32_t* ids, size_t n_ids) {
        Slot& slot = slots_[hash % n_slots];
        if (slot.busy.exchange(1, std::memory_order_acquire)) return;
        slot.n_bytes = static_cast<uint8_t>(word.size());
        slot.n_ids = static_cast<uint8_t>(n_ids);
        std::memcpy(slot.bytes, word.data(), word.size());
        for (size_t i = 0; i < n_ids; ++i) slot.ids[i] = ids[i];
        slot.busy.store(0, std::memory_order_release);
    }

    static size_t hash(std::string_view word) { return std::hash<std::string_view>()(word); }

 private:
    static constexpr size_t n_slots = 16384;  // 1 MiB
    struct alignas(64) Slot {
        std::atomic<uint8_t> busy{0};
        uint8_t n_bytes = 0;  // 0: empty
        uint8_t n_ids = 0;
        char bytes[max_bytes] = {};
        int32_t ids[max_ids] = {};
    };
    static_assert(sizeof(Slot) == 64);
    std::unique_ptr<Slot[]> slots_;
};

}  // namespace quantplug::engine
