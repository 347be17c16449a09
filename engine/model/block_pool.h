// The blocks of a KV cache: who holds them, and which prefixes lie in those that nobody holds.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace quantplug::engine {

/// A full block is published under its parent (the block of the tokens before it), its token ids and the rope's key,
/// and may then be read by any number of sequences; it is never written again. A tail is a last block that is partly
/// filled: it can be taken by one sequence, which writes on. What nobody holds is evicted, the least recently used
/// first, when blocks are needed. Equality is by parent and ids; the hash only finds candidates. Thread-safe.
class BlockPool {
 public:
    static constexpr uint64_t root = 0;  // parent of a sequence's first block

    BlockPool(int32_t n_blocks, int32_t block_tokens);
    BlockPool(const BlockPool&) = delete;
    BlockPool& operator=(const BlockPool&) = delete;

    struct Counts {
        int32_t total = 0, used = 0, cached = 0, free = 0;  // total = used + cached + free
    };
    Counts counts() const;
    int32_t block_tokens() const { return block_tokens_; }

    /// Appends n blocks that only the caller holds; false, and nothing has changed, where there are too few.
    bool allocate(size_t n, std::vector<int32_t>& out);

    /// Gives back what the caller holds of one sequence, first block first.
    void release(std::span<const int32_t> blocks);

    /// Whoever waits for blocks listens; whoever releases some without its doing announces it.
    void listen(std::function<void()> listener);
    void announce() const;

    struct Found {
        int32_t block = 0;
        uint64_t node = 0;  // parent of the next block
    };
    /// The full block with exactly `ids` after `parent`, held by the caller from now on.
    std::optional<Found> acquire(uint64_t parent, int64_t key, std::span<const int32_t> ids);

    struct Tail {
        int32_t block = 0;
        int32_t n_tokens = 0;  // leading ids that agree; what follows is to be overwritten
    };
    /// A tail after `parent` that agrees with more than half of its own tokens, the longest such, taken out of the
    /// cache.
    std::optional<Tail> take_tail(uint64_t parent, int64_t key, std::span<const int32_t> ids);

    /// Makes a full block that the caller holds alone known. Where the same one is known already the caller's is freed
    /// and it holds that one instead.
    Found publish(uint64_t parent, int64_t key, std::span<const int32_t> ids, int32_t block);

    /// Makes a partly filled block known that the caller holds alone and releases next.
    void publish_tail(uint64_t parent, int64_t key, std::span<const int32_t> ids, int32_t block);

    /// Forgets every prefix that nobody holds.
    void forget();

    /// What is inconsistent, or "".
    std::string check() const;

 private:
    struct Block {
        int32_t refs = 0;
        bool tail = false;
        uint64_t node = 0;  // never used twice; 0: not published
        uint64_t parent = 0;
        int64_t key = 0;
        std::vector<int32_t> ids;
        int32_t newer = -1, older = -1;  // among those that nobody holds
        bool listed = false;
    };

    uint64_t hash(uint64_t parent, int64_t key, std::span<const int32_t> ids) const;
    std::optional<int32_t> find(uint64_t parent, int64_t key, std::span<const int32_t> ids) const;
    void hold(int32_t block);
    void list(int32_t block);
    void unlist(int32_t block);
    void unpublish(int32_t block);

    const int32_t block_tokens_;
    mutable std::mutex mutex_;
    std::vector<Block> blocks_;
    std::vector<int32_t> free_;
    int32_t oldest_ = -1, newest_ = -1, n_listed_ = 0;
    uint64_t next_node_ = 1;
    std::unordered_multimap<uint64_t, int32_t> full_;   // hash -> block
    std::unordered_multimap<uint64_t, int32_t> tails_;  // parent -> block
    std::function<void()> listener_;
};

}  // namespace quantplug::engine
