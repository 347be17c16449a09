// Attention and the KV cache of the reference.
#include <algorithm>
#include <cmath>

#include "kernels/half.h"
#include "kernels/reference/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace reference {
namespace {

// x times the normalised Hadamard matrix of the largest power of two that divides n, in blocks: entry (i, j) is
// +-1 / sqrt(size), negative where i and j share an odd number of bits.
void hadamard(double* x, int32_t n) {
    const int32_t size = n & -n;
    std::vector<double> block(static_cast<size_t>(size));
    for (int32_t begin = 0; begin < n; begin += size) {
        for (int32_t i = 0; i < size; ++i) {
            double sum = 0;
            for (int32_t j = 0; j < size; ++j) sum += (__builtin_popcount(unsigned(i & j)) % 2 ? -1 : 1) * x[begin + j];
            block[size_t(i)] = sum / std::sqrt(double(size));
        }
        std::copy(block.begin(), block.end(), x + begin);
    }
}

double half_of(double x) { return double(f16_to_f32(f32_to_f16(float(std::clamp(x, -65504.0, 65504.0))))); }

void round_to(double* x, int32_t n, double scale, double least, double most) {
    for (int32_t i = 0; i < n; ++i)
        x[i] = scale == 0 ? 0 : scale * std::clamp(std::nearbyint(x[i] / scale), least, most);
}

// What the cache gives back of one head.
void store_and_load(KvSpec::Type type, double* x, int32_t n) {
    if (type != KvSpec::q8 && type != KvSpec::q4) return;
    hadamard(x, n);
    const auto by_magnitude = [](double a, double b) { return std::fabs(a) < std::fabs(b); };
    if (type == KvSpec::q8) {
        round_to(x, n, half_of(std::fabs(*std::max_element(x, x + n, by_magnitude)) / 127), -127, 127);
        return;
    }
    for (int32_t i = 0; i < n; i += 32)
        round_to(x + i, 32, half_of(*std::max_element(x + i, x + i + 32, by_magnitude) / -8), -8, 7);
}

}  // namespace

void ReferenceOps::clamp(Slot x, int32_t width, float limit) {
    for (int32_t r = 0; r < rows(x); ++r) {
        for (int32_t i = 0; i < width; ++i) row(x, r)[i] = std::clamp(row(x, r)[i], double(-limit), double(limit));
    }
}

void ReferenceOps::head_norm(const NormSpec& spec, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) {
    const Vector any = spec.weight.id ? spec.weight : spec.bias;
    const bool own = vectors[any.id].size() > size_t(head_dim);  // each head its own piece
    for (int32_t r = 0; r < rows(x); ++r) {
        for (int32_t h = 0; h < n_heads; ++h) {
            double* head = row(x, r) + column + h * head_dim;
            norm_values(spec, head, head_dim, own ? size_t(h) * size_t(head_dim) : 0, head);
        }
    }
}

void ReferenceOps::rope(const RopeSpec& rope, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) {
    const int32_t half = int32_t(rope.inv_freq.size());
    for (int32_t r = 0; r < rows(x); ++r) {
        const Row& token = step_->rows[size_t(r)];
        const double length = std::max(token.length, token.position + 1);
        for (int32_t t = 0; t < half; ++t) {
            float frequency = rope.inv_freq[size_t(t)];
            if (rope.length_limit > 0 && length > rope.length_limit) {
                const double dims = 2 * half;
                const double theta = rope.theta * std::pow(rope.factor * length / rope.length_limit - (rope.factor - 1),
                                                           dims / (dims - 2));
                frequency =
                    rope.long_inv_freq.empty() ? float(std::pow(theta, -2 * t / dims)) : rope.long_inv_freq[size_t(t)];
            }
            const double angle = double(token.position) * double(frequency);
            const double c = std::cos(angle) * double(rope.scale), s = std::sin(angle) * double(rope.scale);
            for (int32_t h = 0; h < n_heads; ++h) {
                double* head = row(x, r) + column + h * head_dim;
                double& first = head[rope.interleaved ? 2 * t : t];
                double& second = head[rope.interleaved ? 2 * t + 1 : t + half];
                const double a = first, b = second;
                first = a * c - b * s;
                second = b * c + a * s;
            }
        }
    }
}

void ReferenceOps::append(const ModelSpec& spec, int32_t layer, Slot qkv) {
    for (int32_t r = 0; r < rows(qkv); ++r) {
        const Row& token = step_->rows[size_t(r)];
        const size_t at = kv_->at(layer, block_of(token, token.position), token.position % kv_->spec.block_tokens);
        const double* key = row(qkv, r) + spec.n_heads * spec.head_dim;
        std::copy(key, key + kv_->width, kv_->keys.data() + at);
        std::copy(key + kv_->width, key + 2 * kv_->width, kv_->values.data() + at);
        for (int32_t h = 0; h < spec.n_kv_heads; ++h) {
            const size_t head = at + size_t(h) * size_t(spec.head_dim);
            store_and_load(kv_->spec.type, kv_->keys.data() + head, spec.head_dim);
            store_and_load(kv_->spec.type, kv_->values.data() + head, spec.head_dim);
        }
    }
}

void ReferenceOps::attend(const ModelSpec& spec, const LayerSpec& layer, int32_t index, Slot qkv, Slot out) {
    const int32_t dim = spec.head_dim;
    const bool rotated = kv_->spec.type == KvSpec::q8 || kv_->spec.type == KvSpec::q4;
    const double scale = double(layer.attention_scale != 0 ? layer.attention_scale : spec.attention_scale);
    const double cap = double(spec.attention_softcap);
    std::vector<double> p;
    for (int32_t r = 0; r < rows(qkv); ++r) {
        const Row& token = step_->rows[size_t(r)];
        const int32_t first = layer.window > 0 ? std::max(0, token.position - layer.window + 1) : 0;
        for (int32_t h = 0; h < spec.n_heads; ++h) {
            const size_t kv_column = size_t(h / (spec.n_heads / spec.n_kv_heads)) * size_t(dim);
            double* q = row(qkv, r) + h * dim;
            if (rotated) hadamard(q, dim);
            double* to = row(out, r) + h * dim;
            p.clear();
            for (int32_t t = first; t <= token.position; ++t) {
                const double* key =
                    kv_->keys.data() + kv_->at(index, block_of(token, t), t % kv_->spec.block_tokens) + kv_column;
                double dot = 0;
                for (int32_t d = 0; d < dim; ++d) dot += q[d] * key[d];
                double score = dot * scale;
                if (cap > 0) score = cap * std::tanh(score / cap);
                if (!spec.alibi_slopes.empty()) score += double(spec.alibi_slopes[size_t(h)]) * (t - token.position);
                p.push_back(score);
            }
            const double largest = *std::max_element(p.begin(), p.end());
            double sum = 0;
            for (double& value : p) sum += value = std::exp(value - largest);
            std::fill(to, to + dim, 0.0);
            for (int32_t t = first; t <= token.position; ++t) {
                const double* value =
                    kv_->values.data() + kv_->at(index, block_of(token, t), t % kv_->spec.block_tokens) + kv_column;
                for (int32_t d = 0; d < dim; ++d) to[d] += p[size_t(t - first)] / sum * value[d];
            }
            if (rotated) hadamard(to, dim);
        }
    }
}

}  // namespace reference
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
