// Attention on the CPU: QK norms, rotary embedding, the KV cache.
#include <algorithm>

#include "kernels/cpu/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

static_assert(int(KvType::f32) == KvSpec::f32 && int(KvType::f16) == KvSpec::f16 && int(KvType::q8) == KvSpec::q8 &&
              int(KvType::q4) == KvSpec::q4);

void CpuOps::clamp(Slot x, int32_t width, float limit) {
    for_rows(rows(x), [&](int32_t r) {
        float* values = row(x, r);
        for (int32_t i = 0; i < width; ++i)
            values[i] = values[i] > limit ? limit : values[i] < -limit ? -limit : values[i];
    });
}

void CpuOps::head_norm(const NormSpec& norm, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) {
    const int32_t size = vectors[norm.weight.id ? norm.weight.id : norm.bias.id].size;
    const int32_t stride = size > head_dim ? head_dim : 0;  // each head its own weights, or one for all
    for_rows(rows(x), [&](int32_t r) {
        for (int32_t h = 0; h < n_heads; ++h) {
            float* head = row(x, r) + column + h * head_dim;
            norm_row(norm, head, head_dim, h * stride, head);
        }
    });
}

void CpuOps::rope(const RopeSpec& rope, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) {
    const size_t index = size_t(&rope - spec_->ropes.data());
    for_rows(rows(x), [&](int32_t r) {
        const float* cosine = angles(index, r);
        for (int32_t h = 0; h < n_heads; ++h) {
            table_.rotate(row(x, r) + column + h * head_dim, cosine, cosine + plan_.angles_ld,
                          int32_t(rope.inv_freq.size()), rope.interleaved);
        }
    });
}

KvView CpuOps::kv_view(int32_t layer, int32_t head, int32_t sequence) const {
    const KvSpec& spec = kv_->spec;
    const KvRow size(spec.type, uint64_t(kv_->head_dim));
    const uint64_t head_bytes = uint64_t(spec.block_tokens) * size.total();
    const uint64_t block_stride = head_bytes * uint64_t(kv_->n_kv_heads), half = block_stride * uint64_t(spec.n_blocks);
    uint8_t* at = kv_->memory.data() + uint64_t(layer) * 2 * half + uint64_t(head) * head_bytes;
    return {at,
            at + half,
            step_->block_table.data() + int64_t(sequence) * step_->max_blocks,
            block_stride,
            spec.block_tokens,
            kv_->head_dim,
            int32_t(size.bytes),
            int32_t(size.scales),
            KvType(spec.type)};
}

void CpuOps::append(const ModelSpec& spec, int32_t layer, Slot qkv) {
    const int32_t dim = spec.head_dim, q_width = spec.n_heads * dim, kv_width = spec.n_kv_heads * dim;
    for_rows(n_rows_, [&](int32_t r) {
        const Row& token = step_->rows[size_t(r)];
        for (int32_t h = 0; h < spec.n_kv_heads; ++h) {
            const float* key = row(qkv, r) + q_width + h * dim;
            table_.store_head(kv_view(layer, h, token.sequence), token.position, key, key + kv_width);
        }
    });
}

void CpuOps::attend(const ModelSpec& spec, const LayerSpec& layer, int32_t index, Slot qkv, Slot out) {
    const int32_t dim = spec.head_dim, group = spec.n_heads / spec.n_kv_heads;
    const bool rotated = kv_->spec.type == KvSpec::q8 || kv_->spec.type == KvSpec::q4;
    const float scale = layer.attention_scale != 0 ? layer.attention_scale : spec.attention_scale;
    const auto first_key = [&](int32_t position) {
        return layer.window > 0 ? std::max(0, position - layer.window + 1) : 0;
    };
    // Threads split the query heads of all rows by their number of keys; what one computes depends on neither.
    const auto row_cost = [&](int32_t r) {
        const int32_t position = step_->rows[size_t(r)].position;
        return int64_t(position - first_key(position) + 16);
    };
    int64_t total_cost = 0;
    for (int32_t r = 0; r < n_rows_; ++r) total_cost += row_cost(r) * spec.n_heads;
    run_parallel(threads_, [&](int32_t thread, int32_t total) {
        float* scores = reinterpret_cast<float*>(scratch_ + plan_.scores) + uint64_t(thread) * plan_.scores_ld;
        Share share(total_cost, thread, total);
        for (int32_t r = 0; r < n_rows_; ++r) {
            const Share::Units heads = share.next(row_cost(r), spec.n_heads);
            const Row& token = step_->rows[size_t(r)];
            for (int32_t h = heads.first; h < heads.last;) {
                const int32_t kv_head = h / group, n = std::min(heads.last, (kv_head + 1) * group) - h;
                float *q = row(qkv, r) + h * dim, *to = row(out, r) + h * dim;
                if (rotated) {
                    for (int32_t i = 0; i < n; ++i) table_.hadamard(q + i * dim, dim);
                }
                const ScoreRule rule = {scale, spec.attention_softcap,
                                        spec.alibi_slopes.empty() ? nullptr : spec.alibi_slopes.data() + h};
                table_.attend(kv_view(index, kv_head, token.sequence), rule, q, n, first_key(token.position),
                              token.position, scores, to);
                if (rotated) {
                    for (int32_t i = 0; i < n; ++i) table_.hadamard(to + i * dim, dim);
                }
                h += n;
            }
        }
    });
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
