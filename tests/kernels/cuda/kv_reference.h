// A layer's cache on the host: filled and read by plain loops from the words of views.h and
// kernels/reference/attention.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "device_array.h"
#include "kernels/cuda/views.h"
#include "kernels/half.h"

namespace quantplug::test {

/// x times the normalised Hadamard matrix of the largest power of two that divides its size, in blocks.
inline void reference_hadamard(std::vector<double>& x) {
    const size_t n = x.size(), size = n & (~n + 1);
    const std::vector<double> from = x;
    for (size_t i = 0; i < n; ++i) {
        double sum = 0;
        for (size_t j = 0; j < size; ++j)
            sum += (__builtin_popcount(unsigned(i % size & j)) % 2 ? -1 : 1) * from[i / size * size + j];
        x[i] = sum / std::sqrt(double(size));
    }
}

class HostCache {
 public:
    enum Type : int32_t { f16 = 1, q8 = 2, q4 = 3 };

    /// Every byte 0xff: NaN as FP16, so that what is read without having been written shows.
    HostCache(int32_t cache_type, int32_t n_cache_blocks, int32_t tokens, int32_t n_kv_heads, int32_t head_dim) {
        shape.type = cache_type;
        shape.block_tokens = tokens;
        shape.n_kv_heads = n_kv_heads;
        shape.head_dim = head_dim;
        shape.width = (head_dim + 31) / 32 * 32;
        n_blocks = n_cache_blocks;
        const size_t elements = size_t(n_blocks) * size_t(n_kv_heads) * size_t(tokens) * size_t(shape.width);
        keys.assign(elements * size_t(bits()) / 8, 0xff);
        values = keys;
        key_scales.assign(cache_type == f16 ? 1 : elements / size_t(shape.width) * size_t(scales()), 0xffff);
        value_scales = key_scales;
    }

    int32_t bits() const { return shape.type == f16 ? 16 : shape.type == q8 ? 8 : 4; }
    int32_t scales() const { return shape.type == q4 ? shape.width / 32 : 1; }

    /// What a cache of this type gives back of one head, still rotated; codes (unsigned) and scales where asked for.
    std::vector<double> rounded(std::vector<double> x, std::vector<int32_t>* codes = nullptr,
                                std::vector<uint16_t>* scale_bits = nullptr) const {
        const auto half_bits = [](double v) { return kernels::f32_to_f16(float(std::clamp(v, -65504.0, 65504.0))); };
        if (shape.type == f16) {
            for (double& v : x) v = double(kernels::f16_to_f32(half_bits(v)));
            return x;
        }
        reference_hadamard(x);
        const size_t group = shape.type == q8 ? x.size() : 32;
        for (size_t begin = 0; begin < x.size(); begin += group) {
            double largest = 0;
            for (size_t i = begin; i < begin + group; ++i)
                if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
            const uint16_t stored = half_bits(shape.type == q8 ? std::fabs(largest) / 127 : largest / -8);
            const double scale = double(kernels::f16_to_f32(stored));
            const double least = shape.type == q8 ? -127 : -8, most = shape.type == q8 ? 127 : 7;
            for (size_t i = begin; i < begin + group; ++i) {
                const double code = scale == 0 ? 0 : std::clamp(std::nearbyint(x[i] / scale), least, most);
                if (codes) codes->push_back(int32_t(code) + (shape.type == q8 ? 128 : 8));
                x[i] = code * scale;
            }
            if (scale_bits) scale_bits->push_back(stored);
        }
        return x;
    }

    /// Writes one head of one token; padding dimensions become zeros.
    void put_key(int32_t slot, int32_t head, const std::vector<double>& x) {
        put(keys, key_scales, true, slot, head, x);
    }
    void put_value(int32_t slot, int32_t head, const std::vector<double>& x) {
        put(values, value_scales, false, slot, head, x);
    }
    /// Element d < width as stored: of q8 and q4 rotated.
    double key(int32_t slot, int32_t head, int32_t d) const { return read(keys, key_scales, true, slot, head, d); }
    double value(int32_t slot, int32_t head, int32_t d) const {
        return read(values, value_scales, false, slot, head, d);
    }
    /// The unsigned code, or the FP16 bits.
    int32_t code(bool is_key, int32_t slot, int32_t head, int32_t d) const {
        const std::vector<uint8_t>& bytes = is_key ? keys : values;
        const size_t at = element(is_key, slot, head, d);
        if (shape.type == f16) return bytes[2 * at] | bytes[2 * at + 1] << 8;
        if (shape.type == q8) return bytes[at];
        return (word(bytes, at / 8) >> nibble(at % 8)) & 15;
    }
    uint16_t scale_of(bool is_key, int32_t slot, int32_t head, int32_t d) const {
        return (is_key ? key_scales : value_scales)[scale_at(slot, head, d)];
    }

    cuda::KvView shape;  // its pointers stay null
    int32_t n_blocks = 0;
    std::vector<uint8_t> keys, values;
    std::vector<uint16_t> key_scales, value_scales;

 private:
    static size_t nibble(size_t i) { return 4 * (i / 2) + 16 * (i % 2); }
    static uint32_t word(const std::vector<uint8_t>& bytes, size_t i) {
        uint32_t w = 0;
        std::memcpy(&w, bytes.data() + 4 * i, 4);
        return w;
    }
    size_t head_of(int32_t slot, int32_t head) const {
        return size_t(slot / shape.block_tokens) * size_t(shape.n_kv_heads) + size_t(head);
    }
    size_t element(bool is_key, int32_t slot, int32_t head, int32_t d) const {
        const size_t tokens = size_t(shape.block_tokens), width = size_t(shape.width);
        const size_t offset = size_t(slot) % tokens, begin = head_of(slot, head) * tokens * width;
        return begin + (is_key ? offset * width + size_t(d) : size_t(d) * tokens + offset);
    }
    size_t scale_at(int32_t slot, int32_t head, int32_t d) const {
        const size_t row = head_of(slot, head) * size_t(scales()) + size_t(shape.type == q4 ? d / 32 : 0);
        return row * size_t(shape.block_tokens) + size_t(slot % shape.block_tokens);
    }
    void put(std::vector<uint8_t>& bytes, std::vector<uint16_t>& scale_array, bool is_key, int32_t slot, int32_t head,
             const std::vector<double>& x) {
        std::vector<int32_t> codes;
        std::vector<uint16_t> scale_bits;
        const std::vector<double> kept = rounded(x, &codes, &scale_bits);
        for (size_t g = 0; g < scale_bits.size(); ++g)
            scale_array[scale_at(slot, head, int32_t(32 * g))] = scale_bits[g];
        for (int32_t d = 0; d < shape.width; ++d) {
            const bool real = d < shape.head_dim;
            const size_t at = element(is_key, slot, head, d);
            if (shape.type == f16) {
                const uint16_t half = real ? kernels::f32_to_f16(float(kept[size_t(d)])) : uint16_t(0);
                std::memcpy(bytes.data() + 2 * at, &half, 2);
            } else if (shape.type == q8) {
                bytes[at] = uint8_t(real ? codes[size_t(d)] : 128);
            } else {
                uint32_t w = word(bytes, at / 8);
                const size_t shift = nibble(at % 8);
                w = (w & ~(15u << shift)) | (uint32_t(real ? codes[size_t(d)] : 8) << shift);
                std::memcpy(bytes.data() + 4 * (at / 8), &w, 4);
            }
        }
    }
    double read(const std::vector<uint8_t>& bytes, const std::vector<uint16_t>& scale_array, bool is_key, int32_t slot,
                int32_t head, int32_t d) const {
        const size_t at = element(is_key, slot, head, d);
        if (shape.type == f16) {
            uint16_t half = 0;
            std::memcpy(&half, bytes.data() + 2 * at, 2);
            return double(kernels::f16_to_f32(half));
        }
        const double scale = double(kernels::f16_to_f32(scale_array[scale_at(slot, head, d)]));
        return scale * (code(is_key, slot, head, d) - (shape.type == q8 ? 128 : 8));
    }
};

/// The same in device memory.
class DeviceCache {
 public:
    DeviceCache(TestQueue& queue, const HostCache& host)
        : keys(queue, host.keys),
          values(queue, host.values),
          key_scales(queue, host.key_scales),
          value_scales(queue, host.value_scales),
          host_(host) {}
    cuda::KvView view() {
        cuda::KvView kv = host_.shape;
        kv.keys = keys.data();
        kv.values = values.data();
        kv.key_scales = key_scales.data();
        kv.value_scales = value_scales.data();
        return kv;
    }
    HostCache read() {
        HostCache copy = host_;
        copy.keys = keys.get();
        copy.values = values.get();
        copy.key_scales = key_scales.get();
        copy.value_scales = value_scales.get();
        return copy;
    }

    DeviceArray<uint8_t> keys, values;
    DeviceArray<uint16_t> key_scales, value_scales;

 private:
    HostCache host_;
};

}  // namespace quantplug::test
