#include "engine/model/block_pool.h"

#include <algorithm>

#include "engine/base/error.h"

namespace quantplug::engine {

BlockPool::BlockPool(int32_t n_blocks, int32_t block_tokens) : block_tokens_(block_tokens), blocks_(size_t(n_blocks)) {
    free_.reserve(size_t(n_blocks));
    for (int32_t b = n_blocks; b-- > 0;) free_.push_back(b);
}

BlockPool::Counts BlockPool::counts() const {
    const std::lock_guard lock(mutex_);
    Counts c;
    c.total = int32_t(blocks_.size());
    c.free = int32_t(free_.size());
    c.cached = n_listed_;
    c.used = c.total - c.free - c.cached;
    return c;
}

bool BlockPool::allocate(size_t n, std::vector<int32_t>& out) {
    const std::lock_guard lock(mutex_);
    if (n > free_.size() + size_t(n_listed_)) return false;
    out.reserve(out.size() + n);
    for (size_t i = 0; i < n; ++i) {
        if (free_.empty()) {
            const int32_t evicted = oldest_;
            unlist(evicted);
            unpublish(evicted);
            free_.push_back(evicted);
        }
        blocks_[size_t(free_.back())].refs = 1;
        out.push_back(free_.back());
        free_.pop_back();
    }
    return true;
}

void BlockPool::release(std::span<const int32_t> blocks) {
    const std::lock_guard lock(mutex_);
    // From the end: a block is older than its parent, so that eviction never leaves one that cannot be reached.
    for (size_t i = blocks.size(); i-- > 0;) {
        Block& b = blocks_[size_t(blocks[i])];
        if (--b.refs > 0) continue;
        if (b.node)
            list(blocks[i]);
        else
            free_.push_back(blocks[i]);
    }
}

void BlockPool::listen(std::function<void()> listener) {
    const std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
}

void BlockPool::announce() const {
    std::function<void()> listener;
    {
        const std::lock_guard lock(mutex_);
        listener = listener_;
    }
    if (listener) listener();
}

uint64_t BlockPool::hash(uint64_t parent, int64_t key, std::span<const int32_t> ids) const {
    uint64_t h = parent * 0x9e3779b97f4a7c15u + uint64_t(key);
    for (const int32_t id : ids) {
        h = (h ^ uint32_t(id)) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    return h;
}

std::optional<int32_t> BlockPool::find(uint64_t parent, int64_t key, std::span<const int32_t> ids) const {
    const auto [begin, end] = full_.equal_range(hash(parent, key, ids));
    for (auto at = begin; at != end; ++at) {
        const Block& b = blocks_[size_t(at->second)];
        if (b.parent == parent && b.key == key && std::equal(ids.begin(), ids.end(), b.ids.begin(), b.ids.end()))
            return at->second;
    }
    return std::nullopt;
}

std::optional<BlockPool::Found> BlockPool::acquire(uint64_t parent, int64_t key, std::span<const int32_t> ids) {
    const std::lock_guard lock(mutex_);
    const auto found = find(parent, key, ids);
    if (!found) return std::nullopt;
    hold(*found);
    return Found{*found, blocks_[size_t(*found)].node};
}

std::optional<BlockPool::Tail> BlockPool::take_tail(uint64_t parent, int64_t key, std::span<const int32_t> ids) {
    const std::lock_guard lock(mutex_);
    Tail best;
    const auto [begin, end] = tails_.equal_range(parent);
    for (auto at = begin; at != end; ++at) {
        const Block& b = blocks_[size_t(at->second)];
        if (b.key != key || !b.listed) continue;
        const auto n = std::mismatch(b.ids.begin(), b.ids.end(), ids.begin(), ids.end()).first - b.ids.begin();
        // Less is likely to be another conversation, whose tail it would destroy.
        if (2 * size_t(n) > b.ids.size() && n > best.n_tokens) best = {at->second, int32_t(n)};
    }
    if (best.n_tokens == 0) return std::nullopt;
    hold(best.block);
    unpublish(best.block);
    return best;
}

BlockPool::Found BlockPool::publish(uint64_t parent, int64_t key, std::span<const int32_t> ids, int32_t block) {
    const std::lock_guard lock(mutex_);
    if (const auto known = find(parent, key, ids)) {
        hold(*known);
        blocks_[size_t(block)].refs = 0;
        free_.push_back(block);
        return {*known, blocks_[size_t(*known)].node};
    }
    Block& b = blocks_[size_t(block)];
    b.ids.assign(ids.begin(), ids.end());
    full_.emplace(hash(parent, key, ids), block);
    b.node = next_node_++;
    b.parent = parent;
    b.key = key;
    b.tail = false;
    return {block, b.node};
}

void BlockPool::publish_tail(uint64_t parent, int64_t key, std::span<const int32_t> ids, int32_t block) {
    const std::lock_guard lock(mutex_);
    const auto [begin, end] = tails_.equal_range(parent);
    std::vector<int32_t> shorter;
    for (auto at = begin; at != end; ++at) {
        const Block& b = blocks_[size_t(at->second)];
        if (b.key != key || !b.listed) continue;
        const bool prefix =
            std::equal(b.ids.begin(), b.ids.begin() + ptrdiff_t(std::min(b.ids.size(), ids.size())), ids.begin());
        if (!prefix) continue;
        if (b.ids.size() >= ids.size()) return;  // as good as this one
        shorter.push_back(at->second);
    }
    Block& b = blocks_[size_t(block)];
    b.ids.assign(ids.begin(), ids.end());
    tails_.emplace(parent, block);
    b.node = next_node_++;
    b.parent = parent;
    b.key = key;
    b.tail = true;
    for (const int32_t s : shorter) {
        unlist(s);
        unpublish(s);
        free_.push_back(s);
    }
}

void BlockPool::forget() {
    const std::lock_guard lock(mutex_);
    while (oldest_ >= 0) {
        const int32_t block = oldest_;
        unlist(block);
        unpublish(block);
        free_.push_back(block);
    }
}

void BlockPool::hold(int32_t block) {
    Block& b = blocks_[size_t(block)];
    if (b.listed) unlist(block);
    ++b.refs;
}

void BlockPool::list(int32_t block) {
    Block& b = blocks_[size_t(block)];
    b.listed = true;
    b.newer = -1;
    b.older = newest_;
    (newest_ >= 0 ? blocks_[size_t(newest_)].newer : oldest_) = block;
    newest_ = block;
    ++n_listed_;
}

void BlockPool::unlist(int32_t block) {
    Block& b = blocks_[size_t(block)];
    (b.older >= 0 ? blocks_[size_t(b.older)].newer : oldest_) = b.newer;
    (b.newer >= 0 ? blocks_[size_t(b.newer)].older : newest_) = b.older;
    b.newer = b.older = -1;
    b.listed = false;
    --n_listed_;
}

void BlockPool::unpublish(int32_t block) {
    Block& b = blocks_[size_t(block)];
    auto& index = b.tail ? tails_ : full_;
    const auto [begin, end] = index.equal_range(b.tail ? b.parent : hash(b.parent, b.key, b.ids));
    for (auto at = begin; at != end; ++at)
        if (at->second == block) {
            index.erase(at);
            break;
        }
    b.node = 0;
    b.tail = false;
    b.ids.clear();
}

std::string BlockPool::check() const {
    const std::lock_guard lock(mutex_);
    std::unordered_map<uint64_t, int32_t> nodes;
    for (size_t i = 0; i < blocks_.size(); ++i)
        if (blocks_[i].node) nodes.emplace(blocks_[i].node, int32_t(i));
    size_t n_listed = 0, n_full = 0, n_tails = 0;
    std::vector<size_t> age(blocks_.size());
    for (int32_t b = oldest_; b >= 0; b = blocks_[size_t(b)].newer) {
        age[size_t(b)] = ++n_listed;
        if (!blocks_[size_t(b)].listed) return concat("block ", b, " is in the list and does not know it");
        if (n_listed > blocks_.size()) return "the list of cached blocks is a ring";
    }
    if (n_listed != size_t(n_listed_)) return concat(n_listed, " blocks are listed and ", n_listed_, " counted");
    std::vector<bool> is_free(blocks_.size());
    for (const int32_t b : free_) {
        if (is_free[size_t(b)]) return concat("block ", b, " is free twice");
        is_free[size_t(b)] = true;
    }
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const Block& b = blocks_[i];
        if (int(b.refs > 0) + int(b.listed) + int(is_free[i]) != 1)
            return concat("block ", i, " has ", b.refs, " holders, listed ", b.listed, ", free ", bool(is_free[i]));
        if (b.listed && !b.node) return concat("block ", i, " is listed without a prefix");
        if (is_free[i] && b.node) return concat("block ", i, " is free and published");
        if (!b.node) continue;
        ++(b.tail ? n_tails : n_full);
        if (b.tail ? b.ids.empty() || b.ids.size() >= size_t(block_tokens_) : b.ids.size() != size_t(block_tokens_))
            return concat("block ", i, " is published with ", b.ids.size(), " tokens");
        if (!b.tail && find(b.parent, b.key, b.ids) != int32_t(i)) return concat("block ", i, " is not found");
        if (b.parent == root) continue;
        const auto parent = nodes.find(b.parent);
        if (parent == nodes.end()) return concat("the parent of block ", i, " is gone");
        const Block& p = blocks_[size_t(parent->second)];
        if (b.refs > p.refs) return concat("block ", i, " has more holders than its parent");
        if (p.listed && age[size_t(parent->second)] < age[i]) return concat("block ", i, " is newer than its parent");
    }
    if (n_full != full_.size() || n_tails != tails_.size())
        return concat(n_full, " + ", n_tails, " blocks are published and ", full_.size(), " + ", tails_.size(),
                      " indexed");
    return "";
}

}  // namespace quantplug::engine
