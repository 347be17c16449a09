// Attention in plain double loops over a host cache: the words of kernels/model.h and kernels/reference/attention.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/half.h"
#include "kv_reference.h"

namespace quantplug::test {

/// norm of one head; weight and bias (its piece) may be null. kind: NormSpec::Kind.
inline void reference_norm(std::vector<double>& x, int32_t kind, double eps, const float* weight, const float* bias) {
    if (kind == 0) return;
    const double n = double(x.size());
    double mean = 0, square = 0;
    for (const double v : x) mean += kind == 2 ? v / n : 0;
    for (const double v : x) square += (v - mean) * (v - mean) / n;
    for (size_t i = 0; i < x.size(); ++i) {
        x[i] =
            (x[i] - mean) / std::sqrt(square + eps) * (weight ? double(weight[i]) : 1) + (bias ? double(bias[i]) : 0);
    }
}

/// RoPE of one head by `half` cosines and sines.
inline void reference_rope(std::vector<double>& x, const float* cosines, const float* sines, int32_t half,
                           bool interleaved) {
    for (int32_t t = 0; t < half; ++t) {
        double& first = x[size_t(interleaved ? 2 * t : t)];
        double& second = x[size_t(interleaved ? 2 * t + 1 : t + half)];
        const double a = first, b = second, c = double(cosines[t]), s = double(sines[t]);
        first = a * c - b * s;
        second = b * c + a * s;
    }
}

struct ReferenceAttention {
    double scale = 1, softcap = 0;
    int32_t window = 0;
    std::vector<float> alibi_slopes;  // (n_heads) or empty
};

/// One row: q (heads, head_dim) after norm and RoPE, against `cache` in the blocks of `blocks` up to `position`. q is
/// taken as FP16 (rotated first where the cache is). `magnitudes`, of each head: the 2-norm over dimensions of
/// sum p |v|, in whose terms errors of p are to be measured.
inline std::vector<double> reference_attention(const ReferenceAttention& spec, const HostCache& cache,
                                               const std::vector<int32_t>& blocks, int32_t position,
                                               const std::vector<double>& q,
                                               std::vector<double>* magnitudes = nullptr) {
    const int32_t dim = cache.shape.head_dim, n_heads = int32_t(q.size()) / dim, tokens = cache.shape.block_tokens;
    const int32_t group = n_heads / cache.shape.n_kv_heads;
    const int32_t first = spec.window > 0 ? std::max(0, position - spec.window + 1) : 0, n = position - first + 1;
    const bool rotated = cache.shape.type != HostCache::f16;
    std::vector<int32_t> slots;
    for (int32_t t = first; t <= position; ++t) slots.push_back(blocks[size_t(t / tokens)] * tokens + t % tokens);
    std::vector<double> out, keys, values;
    for (int32_t h = 0; h < n_heads; ++h) {
        if (h % group == 0) {  // the kv head's keys and values, once
            keys.clear();
            values.clear();
            for (const int32_t slot : slots) {
                for (int32_t d = 0; d < dim; ++d) {
                    keys.push_back(cache.key(slot, h / group, d));
                    values.push_back(cache.value(slot, h / group, d));
                }
            }
        }
        std::vector<double> query(q.begin() + h * dim, q.begin() + (h + 1) * dim);
        if (rotated) reference_hadamard(query);
        for (double& v : query) v = double(kernels::f16_to_f32(kernels::f32_to_f16(float(v))));
        std::vector<double> p;
        for (int32_t t = 0; t < n; ++t) {
            double score = 0;
            for (int32_t d = 0; d < dim; ++d) score += query[size_t(d)] * keys[size_t(t) * size_t(dim) + size_t(d)];
            score *= spec.scale;
            if (spec.softcap > 0) score = spec.softcap * std::tanh(score / spec.softcap);
            if (!spec.alibi_slopes.empty()) score += double(spec.alibi_slopes[size_t(h)]) * (first + t - position);
            p.push_back(score);
        }
        const double largest = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double& v : p) sum += v = std::exp(v - largest);
        std::vector<double> result(size_t(dim), 0.0), absolute(size_t(dim), 0.0);
        for (int32_t t = 0; t < n; ++t) {
            for (int32_t d = 0; d < dim; ++d) {
                const double term = p[size_t(t)] / sum * values[size_t(t) * size_t(dim) + size_t(d)];
                result[size_t(d)] += term;
                absolute[size_t(d)] += std::fabs(term);
            }
        }
        if (rotated) reference_hadamard(result);
        out.insert(out.end(), result.begin(), result.end());
        double square = 0;
        for (const double v : absolute) square += v * v;
        if (magnitudes) magnitudes->push_back(std::sqrt(square));
    }
    return out;
}

}  // namespace quantplug::test
