// RoPE's angles, and head norms, RoPE and the cache's append, against plain double loops.
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

std::vector<float> gauss_values(Random& random, size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = gauss(random);
    return v;
}

struct Angles {
    std::vector<float> cosines, sines;
};

/// (rows, ld) on the host from the kernel.
Angles run_angles(const RopeSpec& spec, const std::vector<cuda::StepRow>& rows, int32_t ld) {
    TestQueue queue;
    DeviceArray<cuda::StepRow> step_rows(queue, rows);
    DeviceArray<float> inv_freq(queue, spec.inv_freq);
    DeviceArray<float> longer(queue, spec.long_inv_freq.empty() ? std::vector<float>{0} : spec.long_inv_freq);
    DeviceArray<float> cosines(queue, rows.size() * size_t(ld)), sines(queue, rows.size() * size_t(ld));
    cuda::RopeTable table;
    table.inv_freq = inv_freq.data();
    if (!spec.long_inv_freq.empty()) table.long_inv_freq = longer.data();
    table.half = int32_t(spec.inv_freq.size());
    table.length_limit = spec.length_limit;
    table.scale = spec.scale;
    table.theta = spec.theta;
    table.factor = spec.factor;
    cuda::StepView step;
    step.rows = step_rows.data();
    cuda::rope_angles(queue.queue, table, step, int32_t(rows.size()), cosines.data(), sines.data(), ld);
    return {cosines.get(), sines.get()};
}

struct Case {
    const char* name;
    int32_t type, head_dim, n_heads, n_kv_heads;
    std::vector<std::pair<int32_t, int32_t>> runs;  // of a sequence: first position, number of rows; -1: a dummy
    int32_t block_tokens = 64;
    int32_t half = 0;  // 0: no rope
    bool interleaved = false;
    int32_t norm = 0;
    bool per_head = false;
    float sigma = 1;
    int32_t first_row = 0;  // of the launch
};

struct Scene {
    Scene(const Case& c, Random& random)
        : shape(c), cache(c.type, n_blocks(c), c.block_tokens, c.n_kv_heads, c.head_dim) {
        std::vector<int32_t> blocks(static_cast<size_t>(cache.n_blocks));
        std::iota(blocks.begin(), blocks.end(), 0);
        std::shuffle(blocks.begin(), blocks.end(), random);
        int32_t sequence = 0;
        for (const std::pair<int32_t, int32_t>& run : c.runs) {
            std::vector<int32_t> own;
            for (int32_t i = 0; i < run.second; ++i) {
                const int32_t position = run.first + i, index = position / c.block_tokens - run.first / c.block_tokens;
                if (run.first < 0) {
                    rows.push_back({0, 0, -1, 1, -1});
                    continue;
                }
                if (index == int32_t(own.size())) {
                    own.push_back(blocks.back());
                    blocks.pop_back();
                }
                const int32_t slot = own.back() * c.block_tokens + position % c.block_tokens;
                rows.push_back({0, position, sequence, position + 1, slot});
            }
            ++sequence;
        }
        const size_t n = rows.size(), n_columns = size_t(c.n_heads + 2 * c.n_kv_heads);
        qkv_ld = int32_t(n_columns) * c.head_dim + 3;
        qkv = gauss_values(random, n * size_t(qkv_ld));
        for (float& x : qkv) x *= c.sigma;
        cosines = gauss_values(random, n * size_t(angle_ld()));
        sines = gauss_values(random, n * size_t(angle_ld()));
        const size_t pieces = c.per_head ? size_t(c.n_heads) : 1;
        weight = gauss_values(random, pieces * size_t(c.head_dim));
        bias = gauss_values(random, pieces * size_t(c.head_dim));
    }
    static int32_t n_blocks(const Case& c) {
        int32_t n = 2;
        for (const std::pair<int32_t, int32_t>& run : c.runs) n += run.second / c.block_tokens + 2;
        return n;
    }
    int32_t angle_ld() const { return shape.half + 1; }
    /// Column group `index` (q heads, k heads, v heads) of a row as attention must find it.
    std::vector<double> expected(size_t r, int32_t index) const {
        const size_t dim = size_t(shape.head_dim);
        const float* from = qkv.data() + r * size_t(qkv_ld) + size_t(index) * dim;
        std::vector<double> x(from, from + dim);
        if (index >= shape.n_heads + shape.n_kv_heads) return x;
        const int32_t head = index < shape.n_heads ? index : index - shape.n_heads;
        const size_t piece = shape.per_head ? size_t(head) * dim : 0;
        reference_norm(x, shape.norm, double(eps), weight.data() + piece, bias.data() + piece);
        const size_t at = r * size_t(angle_ld());
        reference_rope(x, cosines.data() + at, sines.data() + at, shape.half, shape.interleaved);
        return x;
    }

    static constexpr float eps = 1e-5f;
    Case shape;
    HostCache cache;
    int32_t qkv_ld = 0;
    std::vector<cuda::StepRow> rows;
    std::vector<float> qkv, cosines, sines, weight, bias;
};

struct Appended {
    std::vector<float> qkv;
    HostCache cache;
    uint32_t saturated;
};

Appended run(const Scene& scene) {
    const Case& c = scene.shape;
    TestQueue queue;
    DeviceArray<cuda::StepRow> rows(queue, scene.rows);
    DeviceArray<float> qkv(queue, scene.qkv), cosines(queue, scene.cosines), sines(queue, scene.sines);
    DeviceArray<float> weight(queue, scene.weight), bias(queue, scene.bias);
    DeviceArray<cuda::Saturation> saturation(queue, std::vector<cuda::Saturation>{{0}});
    DeviceCache cache(queue, scene.cache);
    cuda::AttentionLaunch launch;
    launch.step.rows = rows.data();
    launch.first_row = c.first_row;
    launch.n_rows = int32_t(scene.rows.size()) - c.first_row;
    launch.kv = cache.view();
    launch.n_heads = c.n_heads;
    launch.qkv = qkv.data();
    launch.qkv_ld = scene.qkv_ld;
    launch.angles = {cosines.data(), sines.data(), scene.angle_ld(), c.half, c.interleaved};
    if (c.norm) launch.q_norm = {c.norm, Scene::eps, weight.data(), bias.data(), c.per_head};
    launch.k_norm = launch.q_norm;
    launch.saturation = saturation.data();
    cuda::rope_append(queue.queue, launch);
    const std::vector<float> got = qkv.get();
    return {got, cache.read(), saturation.get()[0].count};
}

/// A head of the cache against what it should keep of x; the FP32 error of x is below `error`.
void check_stored(const HostCache& cache, bool is_key, int32_t slot, int32_t head, const std::vector<double>& x,
                  double error) {
    std::vector<int32_t> codes;
    std::vector<uint16_t> scales;
    std::vector<double> rotated = x;
    cache.rounded(x, &codes, &scales);
    const bool coded = cache.shape.type != HostCache::f16;
    if (coded) reference_hadamard(rotated);
    int32_t wrong = 0;
    for (int32_t d = 0; d < cache.shape.width; ++d) {
        const double got = is_key ? cache.key(slot, head, d) : cache.value(slot, head, d);
        if (d >= cache.shape.head_dim) {
            wrong += got != 0;
            continue;
        }
        const double want = std::clamp(rotated[size_t(d)], coded ? -1e30 : -65504.0, coded ? 1e30 : 65504.0);
        if (!coded) {
            wrong += std::fabs(got - want) > std::fabs(want) * 0x1p-11 + error + 0x1p-25;
            continue;
        }
        const bool q8 = cache.shape.type == HostCache::q8;
        const double scale = double(kernels::f16_to_f32(cache.scale_of(is_key, slot, head, d)));
        const double wanted = double(kernels::f16_to_f32(scales[q8 ? 0 : size_t(d) / 32]));
        wrong += std::fabs(scale - wanted) > std::fabs(wanted) * 0x1p-10 + 0x1p-24;
        // Within half a step of the value, or at the end of the codes' range.
        const int32_t code = cache.code(is_key, slot, head, d);
        const bool at_end = q8 ? code == 1 || code == 255 : code == 0 || code == 15;
        wrong += std::fabs(got - want) > std::fabs(scale) * (at_end ? 1.01 : 0.5001) + error;
    }
    CHECK_MESSAGE(wrong == 0, (is_key ? "key" : "value") << " of slot " << slot << " head " << head);
}

}  // namespace

TEST_CASE("angles are RopeSpec's: plain, scaled, by length") {
    if (!cuda_there()) return;
    std::vector<cuda::StepRow> rows;
    for (const int32_t position : {0, 1, 7, 63, 4095, 131071, 1000003}) {
        for (const int32_t length : {0, 64, 65, 5000}) rows.push_back({0, position, 0, length, 0});
    }
    for (const int32_t half : {1, 10, 64, 128}) {
        for (const int32_t kind : {0, 1, 2, 3}) {  // plain, scaled, longrope, dynamic
            if (kind == 3 && half == 1) continue;  // theta' is infinite there
            INFO("half " << half << ", kind " << kind);
            RopeSpec spec;
            for (int32_t t = 0; t < half; ++t) {
                spec.inv_freq.push_back(float(std::pow(10000.0, -t / double(half))));
                if (kind == 2) spec.long_inv_freq.push_back(float(std::pow(500000.0, -t / double(half))));
            }
            if (kind == 1) spec.scale = 1.19f;
            if (kind >= 2) spec.length_limit = 64;
            if (kind == 3) {
                spec.theta = 10000;
                spec.factor = 4;
            }
            const int32_t ld = half + 2;
            schedule(uint64_t(half));
            const Angles got = run_angles(spec, rows, ld);
            double worst = 0;
            for (size_t r = 0; r < rows.size(); ++r) {
                const double length = std::max(rows[r].length, rows[r].position + 1);
                for (int32_t t = 0; t < half; ++t) {
                    float frequency = spec.inv_freq[size_t(t)];
                    if (kind == 2 && length > 64) frequency = spec.long_inv_freq[size_t(t)];
                    if (kind == 3 && length > 64) {
                        const double dims = 2 * half;
                        const double theta = 10000 * std::pow(4 * length / 64 - 3, dims / (dims - 2));
                        frequency = float(std::pow(theta, -2 * t / dims));
                    }
                    const double angle = double(rows[r].position) * double(frequency);
                    const size_t at = r * size_t(ld) + size_t(t);
                    // One rounding to FP32 of values up to 1.19; of a dynamic frequency pow may give the other
                    // neighbour.
                    const double allowed = 6.1e-8 + (kind == 3 ? angle * 0x1p-23 : 0);
                    worst = std::max(
                        {worst, std::fabs(double(got.cosines[at]) - std::cos(angle) * double(spec.scale)) / allowed,
                         std::fabs(double(got.sines[at]) - std::sin(angle) * double(spec.scale)) / allowed});
                }
                CHECK(std::isnan(got.cosines[r * size_t(ld) + size_t(half)]));
            }
            CHECK(worst < 1);
        }
    }
}

TEST_CASE("head norms, RoPE and the append are the reference's") {
    if (!cuda_there()) return;
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    constexpr int32_t f16 = HostCache::f16, q8 = HostCache::q8, q4 = HostCache::q4;
    const std::vector<std::pair<int32_t, int32_t>> many = {{5, 61},   {0, 1},  {-1, 2}, {63, 2},
                                                           {200, 33}, {0, 24}, {-1, 1}};
    const std::vector<Case> cases = {
        {"one row, nothing to turn", f16, 64, 2, 1, {{0, 1}}},
        {"rotate-half", f16, 64, 3, 1, many, 32, 32},
        {"interleaved, partial", f16, 80, 2, 2, many, 64, 16, true},
        {"partial, odd width, shared rms norm", f16, 20, 4, 2, many, 64, 5, false, 1},
        {"layer norm of each head", f16, 96, 3, 3, many, 96, 48, true, 2, true},
        {"wide, rms norm of each head, no rope", f16, 256, 2, 1, many, 32, 0, false, 1, true},
        {"saturates", f16, 16, 1, 1, many, 64, 0, false, 0, false, 6e4f},
        {"rows behind others", f16, 64, 2, 1, many, 64, 32, false, 0, false, 1, 37},
        {"q8", q8, 128, 3, 1, many, 32, 64, false, 1},
        {"q8, odd width", q8, 20, 1, 1, many, 64, 10, true},
        {"q8, zeros", q8, 64, 1, 1, many, 64, 0, false, 0, false, 0},
        {"q8, head of 80", q8, 80, 2, 1, many, 64, 40},
        {"q4", q4, 64, 2, 1, many, 64, 32},
        {"q4, wide", q4, 256, 1, 1, many, 96, 128, false, 0, false, 1, 30},
        {"q4, head of 96", q4, 96, 3, 3, many, 32, 48, true},
        {"q4, zeros", q4, 32, 1, 1, {{3, 30}}, 32, 0, false, 0, false, 0},
    };
    for (const Case& c : cases) {
        INFO("case " << c.name);
        const Scene scene(c, random);
        schedule(seed);
        const Appended got = run(scene);
        schedule(seed + 1);
        const Appended again = run(scene);
        CHECK(std::memcmp(got.qkv.data(), again.qkv.data(), got.qkv.size() * sizeof(float)) == 0);
        CHECK(got.cache.keys == again.cache.keys);
        CHECK(got.cache.values == again.cache.values);
        CHECK(got.cache.key_scales == again.cache.key_scales);
        CHECK(got.cache.value_scales == again.cache.value_scales);

        const int32_t dim = c.head_dim, n_turned = c.n_heads + c.n_kv_heads;
        std::vector<uint8_t> written(size_t(scene.cache.n_blocks) * size_t(c.block_tokens), 0);
        uint32_t beyond = 0;
        for (size_t r = 0; r < scene.rows.size(); ++r) {
            const int32_t slot = scene.rows[r].slot;
            const float *before = scene.qkv.data() + r * size_t(scene.qkv_ld),
                        *after = got.qkv.data() + r * size_t(scene.qkv_ld);
            if (slot < 0 || int32_t(r) < c.first_row) {
                CHECK(std::memcmp(before, after, size_t(scene.qkv_ld) * sizeof(float)) == 0);
                continue;
            }
            CHECK(std::memcmp(before + n_turned * dim, after + n_turned * dim,
                              size_t(scene.qkv_ld - n_turned * dim) * sizeof(float)) == 0);
            written[size_t(slot)] = 1;
            for (int32_t h = 0; h < n_turned + c.n_kv_heads; ++h) {
                const std::vector<double> x = scene.expected(r, h);
                double largest = 0, worst = 0;
                for (int32_t d = 0; d < dim; ++d) {
                    largest = std::max(largest, std::fabs(x[size_t(d)]));
                    worst = std::max(worst, std::fabs(double(after[h * dim + d]) - x[size_t(d)]));
                }
                // Some ten FP32 roundings, of terms that may be some times larger than what they leave; the sums of
                // Hadamard's eight levels.
                const double error = 4e-6 * (largest + double(c.sigma));
                CHECK(worst <= error);
                if (h < c.n_heads) continue;
                check_stored(got.cache, h < n_turned, slot, (h - c.n_heads) % c.n_kv_heads, x, 4 * error);
                for (const double v : x) beyond += c.type == f16 && std::fabs(v) > 65504;
            }
        }
        CHECK(got.saturated == beyond);
        CHECK((c.sigma > 1000) == (beyond > 0));

        int32_t touched = 0;  // elements of slots that no row has
        for (size_t slot = 0; slot < written.size(); ++slot) {
            for (int32_t h = 0; !written[slot] && h < c.n_kv_heads; ++h) {
                for (int32_t d = 0; d < scene.cache.shape.width; ++d) {
                    for (const bool is_key : {true, false})
                        touched += got.cache.code(is_key, int32_t(slot), h, d) !=
                                   scene.cache.code(is_key, int32_t(slot), h, d);
                }
            }
        }
        CHECK(touched == 0);
    }
}

}  // namespace quantplug::test
