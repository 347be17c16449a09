// A step over a paged cache for decode attention's test, and its run on a device.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "attention_reference.h"
#include "kernels/cuda/attention.h"
#include "support.h"
#if defined(QP_CUDA_SHIM)
#include "kernels/cuda/shim/launch.h"
#endif

namespace quantplug::test {

struct DecodeCase {
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
struct DecodeScene {
    DecodeScene(const DecodeCase& c, Random& random)
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
        n_pieces = c.per_head ? c.n_heads : 1;  // and as many for k
        weight = floats(random, size_t(2 * n_pieces * c.head_dim));
        bias = floats(random, size_t(2 * n_pieces * c.head_dim));
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

    static int32_t n_blocks(const DecodeCase& c) {
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
        const bool is_key = index >= shape.n_heads;
        const int32_t own = shape.per_head ? (is_key ? index - shape.n_heads : index) : 0;
        const size_t piece = size_t(own + (is_key ? n_pieces : 0)) * dim;
        reference_norm(x, shape.norm, double(eps), weight.data() + piece, bias.data() + piece);
        reference_rope(x, cosines.data() + r * angle_ld(), sines.data() + r * angle_ld(), shape.half,
                       shape.interleaved);
        return x;
    }

    static constexpr float eps = 1e-5f;
    DecodeCase shape;
    HostCache cache;
    int32_t max_blocks = 0, qkv_ld = 0, packed_ld = 0, n_pieces = 1;
    std::vector<kernels::cuda::StepRow> rows;
    std::vector<int32_t> table, scatter, padding;
    std::vector<std::vector<int32_t>> blocks;  // of each row
    std::vector<float> qkv, cosines, sines, weight, bias;
    ReferenceAttention spec;
};

struct DecodeResult {
    std::vector<float> out;
    std::vector<uint16_t> packed;
    uint32_t saturated = 0;
    HostCache cache;
};

constexpr int32_t packed_exponent = -14;  // so that some results saturate

/// Rows first .. first + n - 1 of the scene; the others' stay poisoned.
inline DecodeResult run_decode(const DecodeScene& scene, int32_t first, int32_t n, int32_t n_multiprocessors,
                               uint64_t seed, bool only_packed = false) {
#if defined(QP_CUDA_SHIM)
    cuda::shim_settings().seed = seed;
#else
    (void)seed;
#endif
    const DecodeCase& c = scene.shape;
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
    const int32_t of_k = scene.n_pieces * c.head_dim;
    launch.q_norm = {c.norm, DecodeScene::eps, weight.data(), bias.data(), c.per_head};
    launch.k_norm = {c.norm, DecodeScene::eps, weight.data() + of_k, bias.data() + of_k, c.per_head};
    launch.scale = float(scene.spec.scale);
    launch.softcap = c.softcap;
    launch.window = c.window;
    launch.alibi_slopes = c.alibi ? slopes.data() : nullptr;
    launch.out = only_packed ? nullptr : out.data();
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

}  // namespace quantplug::test
