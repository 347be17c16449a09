// The blocks of a cache: random holders against a plain model of what each block says.
#include "engine/model/block_pool.h"

#include <doctest/doctest.h>

#include <map>
#include <random>

#include "checkpoint_files.h"

namespace quantplug::test {

using engine::BlockPool;

namespace {

constexpr int32_t block_tokens = 4;

/// A sequence as a scheduler keeps one: full blocks published, the last one not.
struct Holder {
    std::vector<int32_t> ids, blocks;
    int32_t n_published = 0;
    uint64_t node = BlockPool::root;
};

}  // namespace

TEST_CASE("block pool: what is found has been written, nobody writes what others read, and all blocks come back") {
    const uint32_t seed = fresh_seed();
    CAPTURE(seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 20; ++round) {
        const int32_t n_blocks = 1 + int32_t(random() % 24);
        BlockPool pool(n_blocks, block_tokens);
        std::vector<std::vector<int32_t>> written(size_t(n_blocks), std::vector<int32_t>(block_tokens, -1));
        std::vector<Holder> holders;
        int64_t reused = 0;
        const auto ids_of = [&](const Holder& h, int32_t first, int32_t n) {
            return std::span<const int32_t>(h.ids).subspan(size_t(first), size_t(n));
        };
        const auto start = [&] {
            Holder h;
            for (uint32_t n = random() % 20; n-- > 0;) h.ids.push_back(int32_t(random() % 2));
            std::vector<int32_t> wanted = h.ids;
            const int32_t most = int32_t(wanted.size());
            h.ids.clear();
            while (int32_t(h.ids.size()) + block_tokens <= most) {
                const auto next = std::span<const int32_t>(wanted).subspan(h.ids.size(), block_tokens);
                const auto found = pool.acquire(h.node, 0, next);
                if (!found) break;
                REQUIRE(std::equal(next.begin(), next.end(), written[size_t(found->block)].begin()));
                h.ids.insert(h.ids.end(), next.begin(), next.end());
                h.blocks.push_back(found->block);
                h.node = found->node;
                ++h.n_published;
            }
            const auto rest = std::span<const int32_t>(wanted).subspan(h.ids.size());
            if (const auto tail = pool.take_tail(h.node, 0, rest.first(std::min<size_t>(rest.size(), 3)))) {
                REQUIRE(tail->n_tokens > 0);
                for (int32_t i = 0; i < tail->n_tokens; ++i)
                    REQUIRE(written[size_t(tail->block)][size_t(i)] == rest[size_t(i)]);
                h.ids.insert(h.ids.end(), rest.begin(), rest.begin() + tail->n_tokens);
                h.blocks.push_back(tail->block);
            }
            reused += int64_t(h.ids.size());
            holders.push_back(std::move(h));
        };
        const auto append = [&](Holder& h) {
            if (h.ids.size() == h.blocks.size() * block_tokens && !pool.allocate(1, h.blocks)) {
                CHECK(pool.counts().free + pool.counts().cached == 0);
                return;
            }
            for (const Holder& other : holders)
                if (&other != &h) REQUIRE(std::count(other.blocks.begin(), other.blocks.end(), h.blocks.back()) == 0);
            h.ids.push_back(int32_t(random() % 2));
            written[size_t(h.blocks.back())][(h.ids.size() - 1) % block_tokens] = h.ids.back();
            if (h.ids.size() % block_tokens) return;
            const auto found =
                pool.publish(h.node, 0, ids_of(h, h.n_published * block_tokens, block_tokens), h.blocks.back());
            h.blocks.back() = found.block;
            h.node = found.node;
            ++h.n_published;
        };
        const auto stop = [&](size_t at) {
            Holder& h = holders[at];
            const int32_t first = h.n_published * block_tokens, rest = int32_t(h.ids.size()) - first;
            if (rest > 0 && random() % 2) pool.publish_tail(h.node, 0, ids_of(h, first, rest), h.blocks.back());
            pool.release(h.blocks);
            holders.erase(holders.begin() + ptrdiff_t(at));
        };
        for (int i = 0; i < 1500; ++i) {
            const uint32_t what = random() % 20;
            if (what == 0 && holders.size() < 6)
                start();
            else if (what == 1 && !holders.empty())
                stop(random() % holders.size());
            else if (!holders.empty())
                append(holders[random() % holders.size()]);
            if (i % 10 == 0) REQUIRE(pool.check() == "");
            for (const Holder& h : holders)
                for (size_t t = 0; t < h.ids.size(); ++t)
                    REQUIRE(written[size_t(h.blocks[t / block_tokens])][t % block_tokens] == h.ids[t]);
        }
        while (!holders.empty()) stop(0);
        CHECK(pool.check() == "");
        CHECK(pool.counts().used == 0);
        CHECK(pool.counts().total == n_blocks);
        if (n_blocks > 8) CHECK(reused > 0);
        pool.forget();
        CHECK(pool.counts().free == n_blocks);
        CHECK(pool.check() == "");
    }
}

TEST_CASE("block pool: the least recently used prefix goes first, its end before its beginning") {
    BlockPool pool(4, block_tokens);
    const std::vector<int32_t> a = {1, 2, 3, 4}, b = {5, 6, 7, 8}, c = {9, 9, 9, 9};
    std::vector<int32_t> one, two, more;
    REQUIRE(pool.allocate(2, one));
    const auto a1 = pool.publish(BlockPool::root, 0, a, one[0]);
    const auto a2 = pool.publish(a1.node, 0, b, one[1]);
    REQUIRE(pool.allocate(1, two));
    const auto c1 = pool.publish(BlockPool::root, 0, c, two[0]);
    pool.release(two);
    pool.release(one);
    CHECK(pool.counts().cached == 3);
    REQUIRE(pool.allocate(2, more));  // one is free, c is the oldest
    CHECK_FALSE(pool.acquire(BlockPool::root, 0, c).has_value());
    REQUIRE(pool.allocate(1, more));
    CHECK_FALSE(pool.acquire(a1.node, 0, b).has_value());
    CHECK(pool.acquire(BlockPool::root, 0, a)->block == a1.block);
    CHECK_FALSE(pool.allocate(1, more));  // three are held, and now the last
    CHECK(more.size() == 3);
    pool.release(std::vector<int32_t>{a1.block});
    // Another key, another parent: not the same block.
    CHECK_FALSE(pool.acquire(BlockPool::root, 1, a).has_value());
    CHECK_FALSE(pool.acquire(c1.node, 0, a).has_value());
    CHECK_FALSE(pool.acquire(a2.node, 0, a).has_value());
    pool.release(more);
    CHECK(pool.check() == "");
}

TEST_CASE("block pool: two that compute the same block end up with one") {
    BlockPool pool(3, block_tokens);
    const std::vector<int32_t> ids = {1, 2, 3, 4};
    std::vector<int32_t> one, two;
    REQUIRE(pool.allocate(1, one));
    REQUIRE(pool.allocate(1, two));
    const auto first = pool.publish(BlockPool::root, 0, ids, one[0]);
    const auto second = pool.publish(BlockPool::root, 0, ids, two[0]);
    CHECK(second.block == first.block);
    CHECK(second.node == first.node);
    CHECK(pool.counts().used == 1);
    two[0] = second.block;
    pool.release(one);
    CHECK(pool.counts().used == 1);
    pool.release(two);
    CHECK(pool.counts().cached == 1);
    CHECK(pool.check() == "");
}

}  // namespace quantplug::test
