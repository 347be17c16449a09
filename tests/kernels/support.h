// Random matrices and models with printed seeds, and the table of shapes that drives the tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/half.h"

namespace quantplug::test {

using namespace quantplug::kernels;

using Random = std::mt19937_64;

/// A fresh seed each run; QUANTPLUG_TEST_SEED repeats one. Shown by INFO in the tests.
inline uint64_t fresh_seed() {
    if (const char* text = std::getenv("QUANTPLUG_TEST_SEED")) return std::strtoull(text, nullptr, 10);
    return (uint64_t(std::random_device{}()) << 32) | std::random_device{}();
}

inline float gauss(Random& random, float sigma = 1) { return std::normal_distribution<float>(0, sigma)(random); }
inline int32_t below(Random& random, int32_t n) { return int32_t(random() % uint64_t(n)); }

struct Shape {
    const char* name;
    int32_t k, n;
    std::vector<QuantGroup> groups;
    bool zeros = false, perm = false, bias = false;
};

inline std::vector<QuantGroup> groups_of(int32_t bits, int32_t k, int32_t size) {
    std::vector<QuantGroup> groups;
    for (int32_t row = 0; row < k; row += size) groups.push_back({bits, std::min(size, k - row)});
    return groups;
}

/// Every width; group sizes 16, 32, 64, 128, whole, last partial, irregular; K no multiple of 32; mixed widths; N odd.
inline std::vector<Shape> shapes() {
    std::vector<Shape> all;
    for (int32_t bits = 2; bits <= 8; ++bits) {
        all.push_back({"g32", 128, 48, groups_of(bits, 128, 32)});
        all.push_back({"g128, zeros, bias", 256, 33, groups_of(bits, 256, 128), true, false, true});
        all.push_back({"g64 last partial, perm", 200, 16, groups_of(bits, 200, 64), false, true, false});
        all.push_back({"whole K, zeros, perm, bias", 150, 7, groups_of(bits, 150, 150), true, true, true});
    }
    all.push_back({"g16", 96, 20, groups_of(4, 96, 16), true, false, false});
    all.push_back({"K 576 of g128", 576, 64, groups_of(4, 576, 128), false, false, false});
    all.push_back({"one row", 1, 1, {{5, 1}}, true, true, true});
    all.push_back(
        {"mixed 8/6/5/4/3/2", 384, 50, {{8, 32}, {6, 64}, {5, 128}, {4, 32}, {3, 64}, {2, 64}}, false, true, true});
    all.push_back({"mixed, irregular groups",
                   333,
                   19,
                   {{8, 13}, {7, 31}, {7, 33}, {6, 64}, {3, 1}, {2, 91}, {2, 100}},
                   true,
                   true,
                   true});
    all.push_back({"long K", 4096, 17, groups_of(4, 4096, 128), false, false, false});
    return all;
}

struct QuantData {
    QuantSource source;
    std::vector<uint8_t> codes;  // (K, N)
};

inline std::unique_ptr<QuantData> random_quant(const Shape& shape, Random& random, float scale = 0.02f) {
    auto data = std::make_unique<QuantData>();
    QuantSource& source = data->source;
    source.in_features = shape.k;
    source.out_features = shape.n;
    source.groups = shape.groups;
    data->codes.resize(size_t(shape.k) * size_t(shape.n));
    size_t at = 0;
    for (const QuantGroup& group : shape.groups) {
        for (int32_t i = 0; i < group.rows * shape.n; ++i)
            data->codes[at++] = uint8_t(random() & ((1u << group.bits) - 1));
        for (int32_t c = 0; c < shape.n; ++c) {
            source.scales.push_back(
                f32_to_f16(scale * (0.5f + float(random() % 1000) / 1000) / float(1 << (group.bits - 1))));
            if (shape.zeros) source.zeros.push_back(uint8_t(random() & ((1u << group.bits) - 1)));
        }
    }
    if (shape.perm) {
        source.perm.resize(size_t(shape.k));
        std::iota(source.perm.begin(), source.perm.end(), 0);
        std::shuffle(source.perm.begin(), source.perm.end(), random);
    }
    if (shape.bias) {
        for (int32_t c = 0; c < shape.n; ++c) source.bias.push_back(gauss(random));
    }
    source.read_codes = [d = data.get()](int32_t row0, int32_t rows, uint8_t* codes) {
        const size_t n = size_t(d->source.out_features);
        std::memcpy(codes, d->codes.data() + size_t(row0) * n, size_t(rows) * n);
        return Status{};
    };
    return data;
}

struct DenseData {
    DenseSource source;
    std::vector<uint8_t> bytes;  // (N, K)
};

inline std::unique_ptr<DenseData> random_dense(int32_t k, int32_t n, DType type, bool bias, Random& random,
                                               float sigma = 0.05f) {
    auto data = std::make_unique<DenseData>();
    data->source.in_features = k;
    data->source.out_features = n;
    data->source.dtype = type;
    const size_t count = size_t(k) * size_t(n), size = type == DType::f32 ? 4 : 2;
    data->bytes.resize(count * size);
    for (size_t i = 0; i < count; ++i) {
        const float value = gauss(random, sigma);
        const uint16_t half = type == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
        std::memcpy(data->bytes.data() + i * size, size == 4 ? static_cast<const void*>(&value) : &half, size);
    }
    if (bias) {
        for (int32_t c = 0; c < n; ++c) data->source.bias.push_back(gauss(random));
    }
    data->source.read_rows = [d = data.get(), size](int32_t row0, int32_t rows, void* out) {
        const size_t row_bytes = size_t(d->source.in_features) * size;
        std::memcpy(out, d->bytes.data() + size_t(row0) * row_bytes, size_t(rows) * row_bytes);
        return Status{};
    };
    return data;
}

/// Sets QUANTPLUG_CPU while it lives.
class ForceCpu {
 public:
    explicit ForceCpu(const char* name) {
        if (name) {
            setenv("QUANTPLUG_CPU", name, 1);
        } else {
            unsetenv("QUANTPLUG_CPU");
        }
    }
    ~ForceCpu() { unsetenv("QUANTPLUG_CPU"); }
    ForceCpu(const ForceCpu&) = delete;
    ForceCpu& operator=(const ForceCpu&) = delete;
};

inline std::unique_ptr<Device> cpu_device(const char* instruction_set, int32_t threads) {
    const ForceCpu force(instruction_set);
    std::unique_ptr<Device> device;
    const Status status = make_cpu_device(threads, &device);
    return status.ok() ? std::move(device) : nullptr;
}

/// The instruction sets of this machine, portable first.
inline std::vector<const char*> instruction_sets() {
    std::vector<const char*> names{"portable"};
    for (const char* name : {"avx2", "avxvnni", "avxvnni-evex", "avx512vnni"}) {
        if (cpu_device(name, 1)) names.push_back(name);
    }
    return names;
}

}  // namespace quantplug::test
