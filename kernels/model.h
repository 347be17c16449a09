// A model as data: switches and handles. engine/ fills it, a device walks it. Facts of real architectures live in
// engine/.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/matrix.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

struct Matrix {
    uint32_t id = 0;
};  // quantised or dense, on one device; 0 = absent
struct Vector {
    uint32_t id = 0;
};  // norm weights, FP32; 0 = absent

enum class Compute : uint8_t {
    standard,  // "default": 16-bit integer activations per 32 values, exact integer sums, FP16 KV
    exact,     // FP32 activations and KV, weights decoded to the FP16 values of the format
    fast,      // 8-bit activations
};

struct NormSpec {
    enum Kind : uint8_t { none, rms } kind = none;  // rms: w * x / sqrt(mean(x^2) + eps)
    float eps = 1e-6f;
    Vector weight;
};

enum class Activation : uint8_t { silu };

/// Rotary embedding: angle(position, t) = position * inv_freq[t]; pair (t, t + rotary_dim/2) of every head ("neox"
/// order).
struct RopeSpec {
    std::vector<float> inv_freq;  // (rotary_dim / 2)
    float scale = 1.0f;           // multiplies cos and sin
};

/// One pre-norm decoder layer: x += o(attend(norm(x))); x += down(act(gate(norm x)) * up(norm x)).
struct LayerSpec {
    NormSpec attention_norm, mlp_norm;
    NormSpec q_norm, k_norm;  // per head over head_dim, before RoPE; kind none where absent
    Matrix q, k, v, o;      // (hidden, n_heads*head_dim), (hidden, n_kv_heads*head_dim) x 2, (n_heads*head_dim, hidden)
    Matrix gate, up, down;  // (hidden, intermediate) x 2, (intermediate, hidden)
    Activation activation = Activation::silu;
    int32_t window = 0;  // visible keys: query-window+1 .. query; 0 = all
    int32_t rope = 0;    // index into ModelSpec::ropes; -1 = none
    int32_t device = 0;  // layer -> device map
};

struct ModelSpec {
    int32_t hidden_size = 0, intermediate_size = 0, n_vocab = 0;  // n_vocab: rows of the embedding, columns of the head
    int32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
    float attention_scale = 0;  // usually head_dim^-0.5
    int32_t max_positions = 0;  // positions that may occur: the context
    std::vector<RopeSpec> ropes;
    std::vector<LayerSpec> layers;
    NormSpec final_norm;
    Matrix embedding;  // (hidden, n_vocab): row `token` of the stored (n_vocab, hidden) matrix
    Matrix head;       // (hidden, n_vocab); the same handle as `embedding` where tied. A quantised head is allowed, a
                       // quantised embedding (tied to a quantised head) too
    Compute compute = Compute::standard;
};

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
