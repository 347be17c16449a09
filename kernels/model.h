// A model as data: switches and handles. engine/ fills it, a device walks it. Facts of real architectures live in
// engine/.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation.h"
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
    enum Kind : uint8_t {
        none,   // the identity
        rms,    // w * x / sqrt(mean(x^2) + eps)
        layer,  // w * (x - mean) / sqrt(variance + eps) + b, variance with divisor n; a weight or bias that is absent
                // is 1 or 0
    } kind = none;
    float eps = 1e-6f;
    Vector weight{}, bias{};
};

/// Rotary embedding: angle(position, t) = position * f[t]; the pair (t, t + rotary_dim/2) of every head, or (2t, 2t+1)
/// where interleaved, is turned by it. f is inv_freq, but for rows whose length (Row::length) is above `length_limit`:
/// long_inv_freq where there is one (longrope), otherwise theta'^(-2t/rotary_dim) with
/// theta' = theta * (factor * length/length_limit - (factor - 1))^(rotary_dim / (rotary_dim - 2)) (dynamic).
struct RopeSpec {
    std::vector<float> inv_freq;  // (rotary_dim / 2)
    float scale = 1.0f;           // multiplies cos and sin
    bool interleaved = false;
    int32_t length_limit = 0;            // 0: f is inv_freq at every length
    std::vector<float> long_inv_freq{};  // (rotary_dim / 2), or empty
    double theta = 0, factor = 1;        // of the dynamic rule
};

/// How a layer's two halves, attention A and MLP M, meet the residual stream x; N and P are the layer's norms before
/// and after, each possibly none, rho its residual_scale.
enum class Block : uint8_t {
    sequential,  // x += rho P1(A(N1 x)); x += rho P2(M(N2 x))
    parallel,    // x += rho (A(N1 x) + M(N2 x)); where N2 is none, M reads N1 x
    post,        // x = P1(x + A(N1 x)); x = P2(x + M(N2 x))
};

/// down(act(gate x) * up x), or down(act(up x)) where gate is absent.
struct Mlp {
    Matrix gate, up, down;  // (hidden, inner) x 2, (inner, hidden); inner is the matrices' own
};

/// y = sum over the top_k experts e of p_e * M_e(h), plus the shared expert. p = softmax(router h) over all experts;
/// ties go to the lower id; the sum runs in the order of rising ids.
struct MoeSpec {
    Matrix router;             // (hidden, n_experts)
    std::vector<Mlp> experts;  // all of one inner width; empty: the layer is dense
    int32_t top_k = 0;
    bool renormalise = false;  // p of the chosen sum to 1
    Mlp shared;                // down absent: none
    Matrix shared_gate;        // (hidden, 1): the shared expert's output times sigmoid(shared_gate h); absent: times 1
};

struct LayerSpec {
    Block block = Block::sequential;
    NormSpec attention_norm, attention_post_norm;  // N1, P1
    NormSpec mlp_norm, mlp_post_norm;              // N2, P2
    /// Of q and k. A weight of head_dim values serves every head, one of n_heads * head_dim (n_kv_heads * head_dim)
    /// gives each head its own; statistics run over a head, with qk_norm_full over all heads at once.
    NormSpec q_norm, k_norm;
    bool qk_norm_full = false;
    bool qk_norm_after_rope = false;
    Matrix q, k, v, o;      // (hidden, n_heads*head_dim), (hidden, n_kv_heads*head_dim) x 2, (n_heads*head_dim, hidden)
    Matrix gate, up, down;  // the MLP of a dense layer, inner = ModelSpec::intermediate_size; gate absent: a plain MLP
    MoeSpec moe;            // in its place
    Activation activation = Activation::silu;
    float attention_scale = 0;  // 0: the model's
    int32_t window = 0;         // visible keys: query-window+1 .. query; 0 = all
    int32_t rope = 0;           // index into ModelSpec::ropes; -1 = none
    int32_t device = 0;         // layer -> device map
};

struct ModelSpec {
    int32_t hidden_size = 0, intermediate_size = 0, n_vocab = 0;  // n_vocab: rows of the embedding, columns of the head
    int32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
    int32_t n_experts = 0, expert_intermediate_size = 0, shared_intermediate_size = 0;  // 0: no such layers
    float attention_scale = 0;                                                          // usually head_dim^-0.5
    float attention_softcap = 0;      // c: c * tanh(s / c) of every score, before the mask; 0: none
    float clip_qkv = 0;               // q, k, v clamped to +-clip_qkv after the projection; 0: none
    std::vector<float> alibi_slopes;  // (n_heads): slope * (key - query) is added to a score; empty: none
    float residual_scale = 1;         // rho
    int32_t max_positions = 0;        // positions that may occur: the context
    std::vector<RopeSpec> ropes;
    std::vector<LayerSpec> layers;
    NormSpec final_norm;
    Matrix embedding;  // (embedding_size, n_vocab): row `token` of the stored (n_vocab, embedding_size) matrix
    Matrix head;  // (embedding_size, n_vocab); the same handle as `embedding` where tied. A quantised head is allowed,
                  // a quantised embedding (tied to a quantised head) too
    int32_t embedding_size = 0;      // 0: hidden_size
    Matrix project_in, project_out;  // (embedding_size, hidden), (hidden, embedding_size): OPT-350m
    float embedding_scale = 1;       // times the embedding's row; never applied to a tied head
    NormSpec embedding_norm;         // after project_in and positions
    Matrix positions;                // (hidden, n): row position + position_offset is added
    int32_t position_offset = 0;
    float logit_scale = 1;
    float logit_softcap = 0;  // c: c * tanh(z / c), after the scale; 0: none
    Compute compute = Compute::standard;
    /// A stage of a model that is split over devices: without the embedding (and all before the first layer) it starts
    /// from Step::hidden_in, without the head it ends in StepResult::hidden.
    bool embeds = true, has_head = true;
};

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
