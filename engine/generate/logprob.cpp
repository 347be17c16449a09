#include "engine/generate/logprob.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/generate/candidates.h"

namespace quantplug::engine {

namespace {

// Vectors of four, which both compilers have on every machine (two instructions on one that lacks them): a loop of
// floats would be left scalar at -O2.
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));

/// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2: the Taylor polynomial of degree 7 is off by 6e-9 there.
inline Float4 exp_of(Float4 x) {
    constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers, kept in the low bits
    constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.4286068203094173e-6f;
    const Int4 tiny = x < -87.0f;
    const Float4 c = Float4(Int4(x) & ~tiny);  // exp(0) there, masked below; NaN stays
    const Float4 t = c * 1.44269504f + magic;
    const Float4 n = t - magic;
    const Float4 r = (c - n * ln2_high) - n * ln2_low;
    Float4 y = r * (1.0f / 5040) + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    const Float4 scale = Float4((Int4(t) + 127) << 23);
    return Float4(Int4(y * scale) & ~tiny);
}

}  // namespace

void exp_block(const float (&x)[exp_block_size], float (&out)[exp_block_size]) {
    for (size_t i = 0; i < exp_block_size; i += 4) {
        Float4 v;
        std::memcpy(&v, x + i, sizeof v);
        v = exp_of(v);
        std::memcpy(out + i, &v, sizeof v);
    }
}

float exp_one(float x) { return exp_of(Float4{x, x, x, x})[0]; }

double sum_block(const float (&x)[exp_block_size]) {
    Float4 a = {}, b = {};
    for (size_t i = 0; i < exp_block_size; i += 8) {
        Float4 v, w;
        std::memcpy(&v, x + i, sizeof v);
        std::memcpy(&w, x + i + 4, sizeof w);
        a += v;
        b += w;
    }
    return (double(a[0]) + double(a[1])) + (double(a[2]) + double(a[3])) + (double(b[0]) + double(b[1])) +
           (double(b[2]) + double(b[3]));
}

double log_sum_exp(std::span<const float> logits) {
    float top = -INFINITY;
    for (const float l : logits) top = std::max(top, l);
    if (!std::isfinite(top)) return NAN;
    double sum = 0;
    float x[exp_block_size], w[exp_block_size];
    for (size_t i = 0; i < logits.size(); i += exp_block_size) {
        const size_t n = std::min(exp_block_size, logits.size() - i);
        for (size_t j = 0; j < exp_block_size; ++j) x[j] = j < n ? logits[i + j] - top : -INFINITY;
        exp_block(x, w);
        sum += sum_block(w);
    }
    return double(top) + std::log(sum);
}

std::vector<TokenLogprob> most_probable(std::span<const float> logits, size_t n) {
    n = std::min(n, logits.size());
    Candidates candidates;
    candidates.assign(logits);
    const double total = log_sum_exp(logits);
    std::vector<TokenLogprob> order;
    order.reserve(n);
    while (order.size() < n && candidates.has(order.size()))
        order.push_back({candidates[order.size()].id, float(double(candidates[order.size()].logit) - total)});
    // Banned by the model itself (-inf, NaN): last, by rising ids.
    for (size_t i = 0; i < logits.size() && order.size() < n; ++i)
        if (!(logits[i] > -INFINITY)) order.push_back({int32_t(i), -INFINITY});
    return order;
}

}  // namespace quantplug::engine
