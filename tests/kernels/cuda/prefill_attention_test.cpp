// Prefill attention against plain double loops, over head widths, groups, cache types, masks and cuts of the prompt;
// what nobody wrote of the cache holds NaN.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention_reference.h"
#include "kernels/cuda/attention.h"
#include "row_order.h"
#include "support.h"

namespace quantplug::test {
namespace {

struct Case {
    const char* name;
    int32_t type, head_dim, n_heads, n_kv_heads;
    std::vector<int32_t> lengths;  // of the sequences' prompts
    int32_t block_tokens = 64, window = 0;
    float softcap = 0;
    bool alibi = false, packed = false;
    int32_t first = 0;  // position of the first row of every prompt: those before are in the cache
};

/// Sequences whose prompts are in the cache, and the queries of all their positions.
struct Prompts {
    Prompts(const Case& c, Random& random)
        : shape(c), cache(c.type, n_blocks(c), c.block_tokens, c.n_kv_heads, c.head_dim) {
        const size_t n = c.lengths.size();
        max_blocks = *std::max_element(c.lengths.begin(), c.lengths.end()) / c.block_tokens + 2;
        table.assign(n * size_t(max_blocks), 1 << 30);  // an entry behind the last must not be followed
        std::vector<int32_t> free_blocks(static_cast<size_t>(cache.n_blocks));
        std::iota(free_blocks.begin(), free_blocks.end(), 0);
        std::shuffle(free_blocks.begin(), free_blocks.end(), random);
        blocks.resize(n);
        queries.resize(n);
        for (size_t s = 0; s < n; ++s) {
            for (int32_t b = 0; b * c.block_tokens < c.lengths[s]; ++b) {
                blocks[s].push_back(free_blocks.back());
                table[s * size_t(max_blocks) + size_t(b)] = free_blocks.back();
                free_blocks.pop_back();
            }
            for (int32_t t = 0; t < c.lengths[s]; ++t) {
                const int32_t slot = blocks[s][size_t(t / c.block_tokens)] * c.block_tokens + t % c.block_tokens;
                for (int32_t h = 0; h < c.n_kv_heads; ++h) {
                    cache.put_key(slot, h, values(random, c.head_dim));
                    cache.put_value(slot, h, values(random, c.head_dim));
                }
                queries[s].push_back(values(random, c.n_heads * c.head_dim));
            }
        }
        spec.scale = 1 / std::sqrt(double(c.head_dim));
        spec.softcap = double(c.softcap);
        spec.window = c.window;
        for (int32_t h = 0; c.alibi && h < c.n_heads; ++h)
            spec.alibi_slopes.push_back(float(std::exp2(-8.0 * (h + 1) / c.n_heads)));
        packed_ld = (out_width() + 127) / 128 * 128 + 128;
        std::vector<int32_t> order(static_cast<size_t>(packed_ld));
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random);
        scatter.assign(order.begin(), order.begin() + out_width());
        padding.assign(order.begin() + out_width(), order.end());
    }

    static int32_t n_blocks(const Case& c) {
        int32_t n = 3;
        for (const int32_t length : c.lengths) n += (length + c.block_tokens - 1) / c.block_tokens;
        return n;
    }
    static std::vector<double> values(Random& random, int32_t n) {
        std::vector<double> v(static_cast<size_t>(n));
        for (double& x : v) x = double(gauss(random));
        return v;
    }
    int32_t out_width() const { return shape.n_heads * shape.head_dim; }

    Case shape;
    HostCache cache;
    int32_t max_blocks = 0, packed_ld = 0;
    std::vector<int32_t> table, scatter, padding;
    std::vector<std::vector<int32_t>> blocks;
    std::vector<std::vector<std::vector<double>>> queries;  // sequence, position, (heads, head_dim)
    ReferenceAttention spec;
};

/// Rows of a step: consecutive positions of one sequence in each piece.
struct Piece {
    int32_t sequence, first, n;
};

constexpr int32_t packed_exponent = -16;  // so that some results saturate

struct Output {
    std::vector<std::vector<std::vector<float>>> out;  // sequence, position, columns; empty where not computed
    std::vector<std::vector<std::vector<uint16_t>>> packed;
    uint32_t saturated = 0;
};

/// One launch with the given tiles; two rows that belong to no tile lie before, one after.
void run(const Prompts& prompts, DeviceCache& cache, TestQueue& queue, const std::vector<Piece>& pieces, Output* to) {
    const Case& c = prompts.shape;
    constexpr int32_t before = 2;
    const int64_t qkv_ld = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim + 2, ld = prompts.out_width() + 3;
    std::vector<cuda::StepRow> rows(before, {0, 0, -1, 1, -1});
    std::vector<cuda::RowTile> tiles;
    std::vector<float> qkv(before * size_t(qkv_ld), NAN);
    for (const Piece& piece : pieces) {
        tiles.push_back({int32_t(rows.size()), piece.n});
        for (int32_t t = piece.first; t < piece.first + piece.n; ++t) {
            rows.push_back({0, t, piece.sequence, c.lengths[size_t(piece.sequence)], 0});
            const std::vector<double>& q = prompts.queries[size_t(piece.sequence)][size_t(t)];
            qkv.insert(qkv.end(), q.begin(), q.end());
            qkv.resize(rows.size() * size_t(qkv_ld), NAN);
        }
    }
    rows.push_back({0, 0, -1, 1, -1});
    qkv.resize(rows.size() * size_t(qkv_ld), NAN);
    tiles.push_back({int32_t(rows.size()) - 1, 0});  // an empty tile
    const size_t n_rows = rows.size();

    const cuda::StepHeader header = {int32_t(n_rows), prompts.max_blocks, 0, 0};
    DeviceArray<cuda::StepHeader> headers(queue, std::vector<cuda::StepHeader>{header});
    DeviceArray<cuda::StepRow> step_rows(queue, rows);
    DeviceArray<cuda::RowTile> step_tiles(queue, tiles);
    DeviceArray<int32_t> table(queue, prompts.table), scatter(queue, prompts.scatter), padding(queue, prompts.padding);
    DeviceArray<float> values(queue, qkv), out(queue, n_rows * size_t(ld));
    DeviceArray<uint16_t> packed(queue, n_rows * size_t(prompts.packed_ld));
    DeviceArray<cuda::Saturation> saturation(queue, std::vector<cuda::Saturation>{{0}});
    DeviceArray<float> slopes(queue,
                              prompts.spec.alibi_slopes.empty() ? std::vector<float>{0} : prompts.spec.alibi_slopes);

    cuda::AttentionLaunch launch;
    launch.step = {headers.data(), step_rows.data(), table.data(), nullptr};
    launch.first_row = before;
    launch.n_rows = int32_t(n_rows) - before;
    launch.kv = cache.view();
    launch.n_heads = c.n_heads;
    launch.qkv = values.data();
    launch.qkv_ld = qkv_ld;
    launch.scale = float(prompts.spec.scale);
    launch.softcap = c.softcap;
    launch.window = c.window;
    if (c.alibi) launch.alibi_slopes = slopes.data();
    launch.out = out.data();
    launch.ld = ld;
    if (c.packed) {
        launch.packed = {packed.data(), prompts.packed_ld, packed_exponent};
        launch.order.scatter = scatter.data();
        launch.order.padding = padding.data();
        launch.order.n_padding = int32_t(prompts.padding.size());
        launch.saturation = saturation.data();
    }
    cuda::prefill_attention(queue.queue, launch, step_tiles.data(), int32_t(tiles.size()));
    const std::vector<float> got = out.get();
    const std::vector<uint16_t> got_packed = packed.get();
    to->saturated += saturation.get()[0].count;
    to->out.resize(c.lengths.size());
    to->packed.resize(c.lengths.size());
    size_t written = 0;
    for (size_t r = 0; r < n_rows; ++r) {
        const float* row = got.data() + r * size_t(ld);
        const size_t width = size_t(prompts.out_width());
        CHECK(std::isnan(row[width]));  // between the rows nothing is written
        if (rows[r].sequence < 0) {
            CHECK(std::isnan(row[0]));
            continue;
        }
        ++written;
        const size_t s = size_t(rows[r].sequence), t = size_t(rows[r].position);
        to->out[s].resize(size_t(c.lengths[s]));
        to->packed[s].resize(size_t(c.lengths[s]));
        to->out[s][t].assign(row, row + width);
        const uint16_t* operand = got_packed.data() + r * size_t(prompts.packed_ld);
        to->packed[s][t].assign(operand, operand + prompts.packed_ld);
    }
    CHECK(written == n_rows - before - 1);
}

/// Tiles of `most` rows each, from position `first` on.
std::vector<Piece> cut(const Case& c, int32_t most) {
    std::vector<Piece> pieces;
    for (size_t s = 0; s < c.lengths.size(); ++s) {
        for (int32_t t = c.first; t < c.lengths[s]; t += most)
            pieces.push_back({int32_t(s), t, std::min(most, c.lengths[s] - t)});
    }
    return pieces;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void check_operand(const Prompts& prompts, const std::vector<float>& out, const std::vector<uint16_t>& packed) {
    for (size_t i = 0; i < out.size(); ++i) {
        const float scaled = std::clamp(std::ldexp(out[i], -packed_exponent), -65504.0f, 65504.0f);
        CHECK(packed[size_t(prompts.scatter[i])] == kernels::f32_to_f16(scaled));
    }
    for (const int32_t p : prompts.padding) CHECK(packed[size_t(p)] == 0);
}

}  // namespace

TEST_CASE("prefill attention is the reference's, whatever the cut of the prompt and the schedule") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    constexpr int32_t f16 = HostCache::f16, q8 = HostCache::q8, q4 = HostCache::q4;
    const std::vector<Case> cases = {
        {"one token", f16, 64, 2, 2, {1}},
        {"short ones, tail behind the tile", f16, 64, 2, 1, {33, 64, 65}},
        {"blocks of 32", f16, 128, 3, 1, {97}, 32},
        {"blocks of 96", f16, 64, 1, 1, {200}, 96},
        {"narrow head", f16, 16, 4, 2, {70}},
        {"odd width, packed", f16, 20, 3, 3, {70}, 32, 0, 0, false, true},
        {"head of 80", f16, 80, 2, 2, {66}},
        {"head of 96, eight to one, window", f16, 96, 8, 1, {130}, 64, 40},
        {"head of 160, in chunks", f16, 160, 1, 1, {110}, 32, 0, 0, false, false, 71},
        {"head of 256, softcap", f16, 256, 2, 1, {70}, 64, 0, 3},
        {"alibi, window of one tile", f16, 64, 4, 2, {200}, 64, 64, 0, true},
        {"window of one", f16, 32, 1, 1, {150}, 32, 1},
        {"window, softcap, alibi, q8", q8, 64, 2, 1, {150}, 32, 70, 4, true, true},
        {"q8, odd width", q8, 20, 2, 1, {70}},
        {"q8, head of 80", q8, 80, 1, 1, {100}, 32},
        {"q8", q8, 128, 3, 1, {65, 33}},
        {"q8, wide head", q8, 256, 1, 1, {70}, 32, 0, 0, false, true},
        {"q4", q4, 64, 2, 2, {130, 1}, 32},
        {"q4, in chunks", q4, 96, 1, 1, {101}, 64, 0, 0, false, false, 67},
        {"q4, window", q4, 128, 2, 1, {140}, 64, 30},
        {"q4, wide head", q4, 256, 1, 1, {67}, 64, 0, 2},
    };
    double worst = 0;
    for (const Case& c : cases) {
        INFO("case " << c.name);
        const Prompts prompts(c, random);
        TestQueue queue;
        DeviceCache cache(queue, prompts.cache);
        Output whole;
        schedule(seed);
        run(prompts, cache, queue, cut(c, 64), &whole);

        // p goes into FP16: at most 2^-11 of every term of sum p |v|. Keys and values of q8 and q4 do too: as much
        // again of v, and of scores, whose sums of squares are about 1, as much that p carries on.
        const double tolerance = c.type == f16 ? 0x1p-11 : 3 * 0x1p-11;
        for (size_t s = 0; s < c.lengths.size(); ++s) {
            for (int32_t t = c.first; t < c.lengths[s]; ++t) {
                if (t % 3 && t + 1 < c.lengths[s] && t > 2) continue;  // enough to tell
                std::vector<double> magnitudes;
                const std::vector<double> expected = reference_attention(prompts.spec, prompts.cache, prompts.blocks[s],
                                                                         t, prompts.queries[s][size_t(t)], &magnitudes);
                const std::vector<float>& got = whole.out[s][size_t(t)];
                for (int32_t h = 0; h < c.n_heads; ++h) {
                    double square = 0;
                    for (int32_t d = 0; d < c.head_dim; ++d) {
                        const size_t i = size_t(h * c.head_dim + d);
                        square += (double(got[i]) - expected[i]) * (double(got[i]) - expected[i]);
                    }
                    const double error = std::sqrt(square) / magnitudes[size_t(h)];
                    worst = std::max(worst, error / tolerance);
                    CHECK_MESSAGE(error < tolerance, "sequence " << s << " position " << t << " head " << h);
                }
                if (c.packed) check_operand(prompts, got, whole.packed[s][size_t(t)]);
            }
        }
        if (c.packed) CHECK(whole.saturated > 0);

        Output pieces;  // cut elsewhere, each piece in a launch of its own
        schedule(seed + 1);
        for (const Piece& piece : cut(c, 1 + below(random, 50))) run(prompts, cache, queue, {piece}, &pieces);
        for (size_t s = 0; s < c.lengths.size(); ++s) {
            for (int32_t t = c.first; t < c.lengths[s]; ++t)
                CHECK_MESSAGE(same_bits(whole.out[s][size_t(t)], pieces.out[s][size_t(t)]), "position " << t);
        }
        CHECK(whole.saturated == pieces.saturated);
    }
    MESSAGE("largest error, as a part of what is allowed: " << worst);
}

TEST_CASE("prefill attention refuses what it cannot do") {
    if (!cuda_there()) return;
    TestQueue queue;
    cuda::AttentionLaunch launch;
    launch.kv.type = 2;
    launch.kv.n_kv_heads = 1;
    launch.kv.head_dim = 320;
    launch.kv.width = 320;
    launch.n_heads = 1;
    cuda::prefill_attention(queue.queue, launch, nullptr, 1);
    CHECK(queue.queue.take_status().message ==
          "prefill_attention: head_dim is 320, and it must be even and at most 256");
}

}  // namespace quantplug::test
