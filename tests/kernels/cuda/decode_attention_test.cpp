// Decode attention against plain double loops, over head widths, groups, ragged batches, cache types and masks; blocks
// of the cache that nobody wrote hold NaN.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "decode_attention_scene.h"

namespace quantplug::test {
namespace {

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b, size_t begin, size_t n) {
    return a.size() == b.size() && std::memcmp(a.data() + begin, b.data() + begin, n * sizeof(T)) == 0;
}

// p goes to the tensor cores as FP16 (2^-11); q too, and there one value in some thousands lies so near the middle
// between two FP16 numbers that the kernel's FP32 and this file's doubles round it apart: as much again in a score.
constexpr double tolerance = 0x1p-10;

void check_result(const DecodeScene& scene, const DecodeResult& result) {
    const DecodeCase& c = scene.shape;
    const int32_t dim = c.head_dim, width = c.n_heads * dim;
    double worst = 0;
    for (int32_t r = 0; r < int32_t(scene.rows.size()); ++r) {
        const float* out = result.out.data() + r * width;
        if (c.lengths[size_t(r)] == 0) {
            CHECK(std::all_of(out, out + width, [](float v) { return v == 0; }));
            continue;
        }
        std::vector<double> q, magnitudes;
        for (int32_t h = 0; h < c.n_heads; ++h) {
            const std::vector<double> x = scene.head(r, h);
            q.insert(q.end(), x.begin(), x.end());
        }
        const int32_t position = scene.rows[size_t(r)].position;
        // The cache as the kernel left it: its new codes are checked apart.
        const std::vector<double> expected =
            reference_attention(scene.spec, result.cache, scene.blocks[size_t(r)], position, q, &magnitudes);
        for (int32_t i = 0; i < width; ++i) {
            const double error = std::fabs(double(out[i]) - expected[size_t(i)]) / magnitudes[size_t(i / dim)];
            worst = error <= worst ? worst : error;  // NaN stays
        }
    }
    INFO(std::string(c.name) << ": error " << worst);
    CHECK(worst <= tolerance);
    if (!c.packed) return;
    uint32_t saturated = 0;
    bool equal = true;
    for (size_t r = 0; r < scene.rows.size(); ++r) {
        const uint16_t* packed = result.packed.data() + r * size_t(scene.packed_ld);
        for (size_t i = 0; i < size_t(width); ++i) {
            const float v = std::ldexp(result.out[r * size_t(width) + i], -packed_exponent);
            saturated += std::fabs(v) > 65504;
            equal &= packed[scene.scatter[i]] == kernels::f32_to_f16(std::clamp(v, -65504.0f, 65504.0f));
        }
        for (const int32_t i : scene.padding) equal &= packed[i] == 0;
    }
    CHECK(equal);
    CHECK(result.saturated == saturated);
}

/// What append wrote: FP16 to a unit in its last place (and FP32's errors where RoPE cancels), codes to 1; the rest of
/// the cache untouched.
void check_cache(const DecodeScene& scene, const DecodeResult& result) {
    const DecodeCase& c = scene.shape;
    HostCache expected = scene.cache, untouched = result.cache;
    double worst = 0;
    for (int32_t r = 0; c.append && r < int32_t(scene.rows.size()); ++r) {
        const int32_t slot = scene.rows[size_t(r)].slot;
        if (slot < 0) continue;
        for (int32_t h = 0; h < c.n_kv_heads; ++h) {
            const std::vector<double> key = scene.head(r, c.n_heads + h);
            const std::vector<double> value = scene.head(r, c.n_heads + c.n_kv_heads + h);
            for (HostCache* cache : {&expected, &untouched}) {
                cache->put_key(slot, h, key);
                cache->put_value(slot, h, value);
            }
            for (int32_t d = 0; d < expected.shape.width; ++d) {
                const auto compare = [&](double got, double wanted, bool is_key) {
                    const double step =
                        c.type == HostCache::f16
                            ? std::fabs(wanted) * 0x1p-10 + 1e-6
                            : std::fabs(double(kernels::f16_to_f32(expected.scale_of(is_key, slot, h, d))));
                    const double error = std::fabs(got - wanted) / step;
                    worst = error <= worst ? worst : error;
                };
                compare(result.cache.key(slot, h, d), expected.key(slot, h, d), true);
                compare(result.cache.value(slot, h, d), expected.value(slot, h, d), false);
            }
        }
    }
    CHECK(worst <= 1.1);  // 127 codes times the last bit of a scale
    CHECK(expected.keys == untouched.keys);
    CHECK(expected.values == untouched.values);
    CHECK(expected.key_scales == untouched.key_scales);
    CHECK(expected.value_scales == untouched.value_scales);
}

constexpr int32_t f16 = HostCache::f16, q8 = HostCache::q8, q4 = HostCache::q4;

std::vector<DecodeCase> cases() {
    std::vector<DecodeCase> all;
    const auto add = [&](DecodeCase c) { all.push_back(std::move(c)); };
    // name, type, head_dim, heads, kv heads, lengths, append, block, window, softcap, alibi, norm, per head, half,
    // interleaved, packed
    add({"64, one key", f16, 64, 3, 3, {1}});
    add({"64, groups of 4, ragged",
         f16,
         64,
         8,
         2,
         {31, 0, 257, 1, 33, 0},
         false,
         64,
         0,
         0,
         false,
         0,
         false,
         0,
         false,
         true});
    add({"128, groups of 4, append",
         f16,
         128,
         4,
         1,
         {33, 1, 0, 257},
         true,
         32,
         0,
         0,
         false,
         1,
         false,
         64,
         false,
         true});
    add({"128, 600 keys", f16, 128, 3, 1, {600, 31}});
    add({"16, interleaved partial rope", f16, 16, 6, 2, {31, 300, 1}, true, 32, 0, 0, false, 0, false, 4, true});
    add({"20, groups of 16, layer norm per head",
         f16,
         20,
         16,
         1,
         {33, 258},
         true,
         32,
         0,
         0,
         false,
         2,
         true,
         10,
         false});
    add({"64, 71 heads on one", f16, 64, 71, 1, {40}, true, 64, 0, 0, false, 0, false, 32, false, true});
    add({"80, window", f16, 80, 4, 4, {100, 31}, true, 32, 37, 0, false, 1, true, 16, false});
    add({"96, window over chunks, softcap", f16, 96, 2, 1, {600, 20}, false, 64, 300, 5});
    add({"128, alibi", f16, 128, 4, 4, {290, 33}, true, 64, 0, 0, true});
    add({"256, softcap, window", f16, 256, 2, 1, {270, 3}, true, 64, 128, 50, false, 1, false, 128, false, true});
    add({"160", f16, 160, 1, 1, {70}});
    add({"q8 64, groups of 3", q8, 64, 3, 1, {257, 1, 31}, true, 32, 0, 0, false, 0, false, 32, false, true});
    add({"q8 128", q8, 128, 2, 1, {300, 33}, true, 64, 0, 0, false, 1, false, 64, false});
    add({"q8 80, window", q8, 80, 4, 1, {100}, true, 32, 41});
    add({"q8 20, 71 heads on one", q8, 20, 71, 1, {34}, true, 32, 0, 0, false, 0, false, 10, false});
    add({"q8 256", q8, 256, 1, 1, {65}, false, 64, 0, 50});
    add({"q4 64, groups of 16", q4, 64, 16, 1, {257, 33, 1}, true, 32, 0, 0, false, 0, false, 32, false});
    add({"q4 128, ragged", q4, 128, 4, 2, {31, 0, 270}, true, 64, 0, 0, false, 1, false, 64, false, true});
    add({"q4 96, window, alibi", q4, 96, 2, 1, {90}, true, 32, 50, 0, true});
    add({"q4 256, 71 heads on one", q4, 256, 71, 1, {3}, true, 32, 0, 0, false, 0, false, 32, false});
    return all;
}

TEST_CASE("decode attention: every width, group, cache and mask") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    Random random(seed);
    for (const DecodeCase& c : cases()) {
        INFO(std::string(c.name) << ", QUANTPLUG_TEST_SEED=" << seed);
        const DecodeScene scene(c, random);
        const DecodeResult result = run_decode(scene, 0, int32_t(c.lengths.size()), 132, 1);
        check_result(scene, result);
        check_cache(scene, result);
    }
}

TEST_CASE("decode attention: a row's bits depend on its sequence alone") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=" << seed);
    Random random(seed);
    for (const int32_t type : {f16, q8, q4}) {
        CAPTURE(type);
        const DecodeCase c = {"rows", type,  32, 2,     1,   {33, 0, 1030, 1, 257}, true, 32, 0, 0, false,
                              1,      false, 16, false, true};
        const DecodeScene scene(c, random);
        const DecodeResult all = run_decode(scene, 0, 5, 132, 1);
        check_result(scene, all);
        for (int32_t r = 0; r < 5; ++r) {
            const DecodeResult one = run_decode(scene, r, 1, r, uint64_t(2 + r));
            CHECK(same_bits(all.out, one.out, size_t(r) * 64, 64));
            CHECK(same_bits(all.packed, one.packed, size_t(r * scene.packed_ld), size_t(scene.packed_ld)));
        }
        const DecodeResult again = run_decode(scene, 0, 5, 1, 9);
        CHECK(same_bits(all.out, again.out, 0, all.out.size()));
        CHECK(run_decode(scene, 0, 5, 132, 3, true).packed == all.packed);
        CHECK(all.cache.keys == again.cache.keys);
        CHECK(all.cache.values == again.cache.values);
    }
}

TEST_CASE("decode attention: beyond 64 chunks they are longer") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=" << seed);
    Random random(seed);
    DecodeCase c = {"16400 keys", f16, 16, 2, 1, {16400}};
    const DecodeScene scene(c, random);
    check_result(scene, run_decode(scene, 0, 1, 132, 1));
    c.window = 500;
    c.name = "a window far behind";
    const DecodeScene behind(c, random);
    check_result(behind, run_decode(behind, 0, 1, 132, 1));
}

TEST_CASE("decode attention names what it does not take") {
    if (!cuda_there()) return;
    const auto message = [](auto change) {
        cuda::AttentionLaunch launch;
        launch.n_rows = 1;
        launch.n_heads = 4;
        launch.kv.n_kv_heads = 2;
        launch.kv.head_dim = launch.kv.width = 64;
        change(launch);
        TestQueue queue;
        cuda::decode_attention(queue.queue, launch, false, {}, 64, 1);
        return queue.queue.take_status().message;
    };
    CHECK(message([](cuda::AttentionLaunch& l) { l.kv.head_dim = 258; }).find("head_dim is 258") != std::string::npos);
    CHECK(message([](cuda::AttentionLaunch& l) { l.kv.block_tokens = 48; }).find("block_tokens is 48") !=
          std::string::npos);
    CHECK(message([](cuda::AttentionLaunch& l) { l.n_heads = 3; }).find("heads is 3") != std::string::npos);
    CHECK(message([](cuda::AttentionLaunch& l) { l.kv.type = 0; }).find("type is 0") != std::string::npos);
}

}  // namespace
}  // namespace quantplug::test
