// Decode attention against plain double loops, over head widths, groups, ragged batches, cache types and masks; blocks
// of the cache that nobody wrote hold NaN.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention_reference.h"
#include "kernels/cuda/attention.h"
#include "support.h"
#if defined(QP_CUDA_SHIM)
#include "kernels/cuda/shim/launch.h"
#endif

namespace quantplug::test {
namespace {

struct Case {
    const char* name;
    int32_t type, head_dim, n_heads, n_kv_heads;
    std::vector<int32_t> lengths;  // of the rows, the row's own token included; 0: a dummy
    bool append = false;
    int32_t block_tokens = 64, window = 0;
    float softcap = 0;
    bool alibi = false;
    int32_t norm = 0;  // NormSpec::Kind of q and k
    bool per_head = false;
    int32_t half = 0;  // of the rope
    bool interleaved = false;
    bool packed = false;
};

/// A step and a cache for it, on the host.
struct Scene {
    Scene(const Case& c, Random& random)
        : shape(c), cache(c.type, n_blocks(c), c.block_tokens, c.n_kv_heads, c.head_dim) {
        const int32_t n_rows = int32_t(c.lengths.size());
        max_blocks = *std::max_element(c.lengths.begin(), c.lengths.end()) / c.block_tokens + 2;
        table.assign(size_t(n_rows * max_blocks), 1 << 30);  // an unused entry must not be followed
        std::vector<int32_t> free_blocks(size_t(cache.n_blocks)), sequences(size_t(n_rows), 0);
        std::iota(free_blocks.begin(), free_blocks.end(), 0);
        std::shuffle(free_blocks.begin(), free_blocks.end(), random);
        std::iota(sequences.begin(), sequences.end(), 0);
        std::shuffle(sequences.begin(), sequences.end(), random);
        blocks.resize(size_t(n_rows));
        for (int32_t r = 0; r < n_rows; ++r) {
            const int32_t length = c.lengths[size_t(r)], last = length - 1, sequence = sequences[size_t(r)];
            if (length == 0) {
                rows.push_back({0, 0, -1, 1, -1});
                continue;
            }
            for (int32_t b = 0; b * c.block_tokens < length; ++b) {
                blocks[size_t(r)].push_back(free_blocks.back());
                table[size_t(sequence * max_blocks + b)] = free_blocks.back();
                free_blocks.pop_back();
            }
            for (int32_t t = 0; t < length - c.append; ++t) {
                for (int32_t h = 0; h < c.n_kv_heads; ++h) {
                    cache.put_key(slot(r, t), h, values(random, size_t(c.head_dim)));
                    cache.put_value(slot(r, t), h, values(random, size_t(c.head_dim)));
                }
            }
            rows.push_back({0, last, sequence, length, slot(r, last)});
        }
        qkv_ld = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim + 5;
        qkv = floats(random, size_t(n_rows * qkv_ld));
        for (int32_t i = 0; i < n_rows * angle_ld(); ++i) {
            const double angle = std::uniform_real_distribution<double>(-4, 4)(random);
            cosines.push_back(float(std::cos(angle)));
            sines.push_back(float(std::sin(angle)));
        }
        const size_t heads = c.per_head ? size_t(c.n_heads) : 1;
        weight = floats(random, heads * size_t(c.head_dim));
        bias = floats(random, heads * size_t(c.head_dim));
        spec.scale = 1 / std::sqrt(double(c.head_dim));
        spec.softcap = double(c.softcap);
        spec.window = c.window;
        for (int32_t h = 0; c.alibi && h < c.n_heads; ++h)
            spec.alibi_slopes.push_back(float(std::exp2(-8.0 * (h + 1) / c.n_heads)));
        // The order of the product behind: a random one, with padding.
        const int32_t n = c.n_heads * c.head_dim;
        packed_ld = (n + 127) / 128 * 128 + 128;
        std::vector<int32_t> order(size_t(packed_ld), 0);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random);
        scatter.assign(order.begin(), order.begin() + n);
        padding.assign(order.begin() + n, order.end());
    }

    static int32_t n_blocks(const Case& c) {
        int32_t n = 3;
        for (const int32_t length : c.lengths) n += (length + c.block_tokens - 1) / c.block_tokens;
        return n;
    }
    static std::vector<float> floats(Random& random, size_t n) {
        std::vector<float> v(n);
        for (float& x : v) x = gauss(random);
        return v;
    }
    static std::vector<double> values(Random& random, size_t n) {
        const std::vector<float> v = floats(random, n);
        return std::vector<double>(v.begin(), v.end());
    }
    int32_t slot(int32_t r, int32_t t) const {
        return blocks[size_t(r)][size_t(t / shape.block_tokens)] * shape.block_tokens + t % shape.block_tokens;
    }
    int32_t angle_ld() const { return shape.half + 3; }
    /// Head `index` of the row's q, k, v columns: of q and k after norm and RoPE where the launch does them.
    std::vector<double> head(int32_t r, int32_t index) const {
        const size_t dim = size_t(shape.head_dim);
        const float* from = qkv.data() + r * qkv_ld + index * shape.head_dim;
        std::vector<double> x(from, from + dim);
        if (!shape.append || index >= shape.n_heads + shape.n_kv_heads) return x;
        const size_t piece = shape.per_head ? size_t(index % shape.n_heads) * dim : 0;
        reference_norm(x, shape.norm, double(eps), weight.data() + piece, bias.data() + piece);
        reference_rope(x, cosines.data() + r * angle_ld(), sines.data() + r * angle_ld(), shape.half,
                       shape.interleaved);
        return x;
    }

    static constexpr float eps = 1e-5f;
    Case shape;
    HostCache cache;
    int32_t max_blocks = 0, qkv_ld = 0, packed_ld = 0;
    std::vector<kernels::cuda::StepRow> rows;
    std::vector<int32_t> table, scatter, padding;
    std::vector<std::vector<int32_t>> blocks;  // of each row
    std::vector<float> qkv, cosines, sines, weight, bias;
    ReferenceAttention spec;
};

struct Result {
    std::vector<float> out;
    std::vector<uint16_t> packed;
    uint32_t saturated = 0;
    HostCache cache;
};

constexpr int32_t packed_exponent = -14;  // so that some results saturate

/// Rows first .. first + n - 1 of the scene; the others' stay poisoned.
Result run(const Scene& scene, int32_t first, int32_t n, int32_t n_multiprocessors, uint64_t seed) {
#if defined(QP_CUDA_SHIM)
    cuda::shim_settings().seed = seed;
#else
    (void)seed;
#endif
    const Case& c = scene.shape;
    const size_t n_rows = scene.rows.size(), width = size_t(c.n_heads * c.head_dim);
    const int32_t longest = *std::max_element(c.lengths.begin(), c.lengths.end());
    TestQueue queue;
    DeviceCache cache(queue, scene.cache);
    DeviceArray<cuda::StepHeader> header(queue, {{int32_t(n_rows), scene.max_blocks, 0, 0}});
    DeviceArray<cuda::StepRow> rows(queue, scene.rows);
    DeviceArray<int32_t> table(queue, scene.table), scatter(queue, scene.scatter), padding(queue, scene.padding);
    DeviceArray<float> qkv(queue, scene.qkv), cosines(queue, scene.cosines), sines(queue, scene.sines);
    DeviceArray<float> weight(queue, scene.weight), bias(queue, scene.bias);
    DeviceArray<float> slopes(queue, c.alibi ? scene.spec.alibi_slopes : std::vector<float>(1));
    DeviceArray<float> out(queue, n_rows * width);
    DeviceArray<uint16_t> packed(queue, n_rows * size_t(scene.packed_ld));
    DeviceArray<cuda::Saturation> saturation(queue, {{0}});
    DeviceArray<float> partials(queue, cuda::decode_workspace_floats(n, c.n_heads, c.head_dim, longest));
    const std::vector<uint32_t> zeros(cuda::decode_workspace_counters(n, c.n_heads), 0);
    DeviceArray<uint32_t> counters(queue, zeros);

    cuda::AttentionLaunch launch;
    launch.step = {header.data(), rows.data(), table.data(), nullptr};
    launch.first_row = first;
    launch.n_rows = n;
    launch.kv = cache.view();
    launch.n_heads = c.n_heads;
    launch.qkv = qkv.data();
    launch.qkv_ld = scene.qkv_ld;
    launch.angles = {cosines.data(), sines.data(), scene.angle_ld(), c.half, c.interleaved};
    launch.q_norm = launch.k_norm = {c.norm, Scene::eps, weight.data(), bias.data(), c.per_head};
    launch.scale = float(scene.spec.scale);
    launch.softcap = c.softcap;
    launch.window = c.window;
    launch.alibi_slopes = c.alibi ? slopes.data() : nullptr;
    launch.out = out.data();
    launch.ld = int64_t(width);
    if (c.packed) {
        launch.packed = {packed.data(), scene.packed_ld, packed_exponent};
        launch.order.scatter = scatter.data();
        launch.order.padding = padding.data();
        launch.order.n_padding = int32_t(scene.padding.size());
        launch.saturation = saturation.data();
    }
    cuda::decode_attention(queue.queue, launch, c.append, {partials.data(), counters.data()}, longest,
                           n_multiprocessors);
    queue.finish();
    CHECK(counters.get() == zeros);
    CHECK(qkv.get() == scene.qkv);
    return {out.get(), packed.get(), saturation.get()[0].count, cache.read()};
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b, size_t begin, size_t n) {
    return a.size() == b.size() && std::memcmp(a.data() + begin, b.data() + begin, n * sizeof(T)) == 0;
}

// p goes to the tensor cores as FP16 (2^-11); q too, and there one value in some thousands lies so near the middle
// between two FP16 numbers that the kernel's FP32 and this file's doubles round it apart: as much again in a score.
constexpr double tolerance = 0x1p-10;

void check_result(const Scene& scene, const Result& result) {
    const Case& c = scene.shape;
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
void check_cache(const Scene& scene, const Result& result) {
    const Case& c = scene.shape;
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

std::vector<Case> cases() {
    std::vector<Case> all;
    const auto add = [&](Case c) { all.push_back(std::move(c)); };
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
    for (const Case& c : cases()) {
        INFO(std::string(c.name) << ", QUANTPLUG_TEST_SEED=" << seed);
        const Scene scene(c, random);
        const Result result = run(scene, 0, int32_t(c.lengths.size()), 132, 1);
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
        const Case c = {"rows", type,  32, 2,     1,   {33, 0, 1030, 1, 257}, true, 32, 0, 0, false,
                        1,      false, 16, false, true};
        const Scene scene(c, random);
        const Result all = run(scene, 0, 5, 132, 1);
        check_result(scene, all);
        for (int32_t r = 0; r < 5; ++r) {
            const Result one = run(scene, r, 1, r, uint64_t(2 + r));
            CHECK(same_bits(all.out, one.out, size_t(r) * 64, 64));
            CHECK(same_bits(all.packed, one.packed, size_t(r * scene.packed_ld), size_t(scene.packed_ld)));
        }
        const Result again = run(scene, 0, 5, 1, 9);
        CHECK(same_bits(all.out, again.out, 0, all.out.size()));
        CHECK(all.cache.keys == again.cache.keys);
        CHECK(all.cache.values == again.cache.values);
    }
}

TEST_CASE("decode attention: beyond 64 chunks they are longer") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("QUANTPLUG_TEST_SEED=" << seed);
    Random random(seed);
    Case c = {"16400 keys", f16, 16, 2, 1, {16400}};
    const Scene scene(c, random);
    check_result(scene, run(scene, 0, 1, 132, 1));
    c.window = 500;
    c.name = "a window far behind";
    const Scene behind(c, random);
    check_result(behind, run(behind, 0, 1, 132, 1));
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
