// Attention's part of a layer.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

KvBytes kv_layer_bytes(const ModelSpec& spec, const KvSpec& kv) {
    const uint64_t width = round_up(count_of(spec.head_dim), 32);
    const uint64_t tokens =
        saturating_mul(saturating_mul(count_of(kv.n_blocks), count_of(kv.block_tokens)), count_of(spec.n_kv_heads));
    KvBytes bytes;
    const uint64_t values = saturating_mul(tokens, width);
    bytes.codes = round_up(kv.type == KvSpec::f16  ? saturating_mul(values, 2)
                           : kv.type == KvSpec::q8 ? values
                                                   : values / 2,
                           256);
    bytes.scales = round_up(kv.type == KvSpec::q8   ? saturating_mul(tokens, 2)
                            : kv.type == KvSpec::q4 ? saturating_mul(tokens, width / 32 * 2)
                                                    : 0,
                            256);
    bytes.total = saturating_mul(saturating_mul(saturating_add(bytes.codes, bytes.scales), 2), spec.layers.size());
    return bytes;
}

KvView StoredKv::layer(int32_t index) const {
    ModelSpec one;
    one.n_kv_heads = n_kv_heads;
    one.head_dim = head_dim;
    one.layers.resize(1);
    const KvBytes size = kv_layer_bytes(one, spec);
    uint8_t* base = memory.data() + uint64_t(index) * size.total;
    KvView view;
    view.keys = base;
    view.values = base + size.codes;
    view.key_scales = reinterpret_cast<uint16_t*>(base + 2 * size.codes);
    view.value_scales = reinterpret_cast<uint16_t*>(base + 2 * size.codes + size.scales);
    view.type = spec.type;
    view.block_tokens = spec.block_tokens;
    view.n_kv_heads = n_kv_heads;
    view.head_dim = head_dim;
    view.width = int32_t(round_up(count_of(head_dim), 32));
    return view;
}

AngleView CudaOps::angles_of(int32_t rope) const {
    if (rope < 0) return {};
    const RopeSpec& spec = spec_->ropes[size_t(rope)];
    const int64_t rows_ld = int64_t(row_bucket(layout_.max_rows)) * layout_.angles_ld;
    const float* cosines = at<float>(layout_.angles) + 2 * rope * rows_ld;
    return {cosines, cosines + rows_ld, int32_t(layout_.angles_ld), int32_t(spec.inv_freq.size()), spec.interleaved};
}

void CudaOps::make_angles() {
    for (size_t i = 0; i < spec_->ropes.size(); ++i) {
        const RopeSpec& spec = spec_->ropes[i];
        const AngleView angles = angles_of(int32_t(i));
        RopeTable table;
        table.inv_freq = at<float>(layout_.rope_tables) + 2 * int64_t(i) * layout_.angles_ld;
        if (!spec.long_inv_freq.empty()) table.long_inv_freq = table.inv_freq + layout_.angles_ld;
        table.half = angles.half;
        table.length_limit = spec.length_limit;
        table.scale = spec.scale;
        table.theta = spec.theta;
        table.factor = spec.factor;
        rope_angles(*queue_, table, view_, shape_.rows, const_cast<float*>(angles.cosines),
                    const_cast<float*>(angles.sines), angles.ld);
    }
}

void CudaOps::head_norm(const NormSpec& spec, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) {
    cuda::head_norm(*queue_, view_of(spec, head_dim), read(x), column, n_heads, head_dim, rows(x));
}

Activations CudaOps::norm_qkv(const ModelSpec& spec, const LayerSpec& layer, Activations x) {
    if (!norms_in_attention(layer)) return BlockOps::norm_qkv(spec, layer, x);
    if (!expect(spec, &layer, x, Slot::residual)) return {};
    norm(layer.attention_norm, Slot::residual, spec.hidden_size, Slot::normed);
    project_qkv(spec, layer, Slot::normed, Slot::qkv);
    if (spec.clip_qkv > 0) clamp(Slot::qkv, (spec.n_heads + 2 * spec.n_kv_heads) * spec.head_dim, spec.clip_qkv);
    return handle(Slot::qkv);
}

Activations CudaOps::rope_append_attend(const ModelSpec& spec, const LayerSpec& layer, int32_t index, Activations qkv) {
    if (!expect(spec, &layer, qkv, Slot::qkv)) return {};
    if (index < 0 || index >= kv_->n_layers) {
        fail(invalid_argument, "the walk passed a layer index that is not in the model spec's list");
        return {};
    }
    const RowsView values = read(Slot::qkv);
    AttentionLaunch launch;
    launch.step = view_;
    launch.n_rows = shape_.rows;
    launch.kv = kv_->layer(index);
    launch.n_heads = spec.n_heads;
    launch.qkv = values.x;
    launch.qkv_ld = values.ld;
    launch.angles = angles_of(layer.rope);
    if (norms_in_attention(layer)) {
        launch.q_norm = view_of(layer.q_norm, spec.head_dim);
        launch.k_norm = view_of(layer.k_norm, spec.head_dim);
    }
    launch.scale = layer.attention_scale != 0 ? layer.attention_scale : spec.attention_scale;
    launch.softcap = spec.attention_softcap;
    launch.window = layer.window;
    if (!spec.alibi_slopes.empty()) launch.alibi_slopes = at<float>(layout_.slopes);
    if (layer.qk_norm_after_rope) {
        rope_append(*queue_, launch);  // turns q and k; what it appends is overwritten below
        launch.angles = {};
        head_norms(spec, layer);
    }

    // The operand of W_o, where it fits; FP32 where not.
    const StoredMatrix& o = matrices[layer.o.id];
    const RowsView attended = write(Slot::attended);
    const bool packed = shape_.rows <= rows_that_fit(OperandRole::attended, o.view.k_padded);
    if (packed) {
        launch.packed = operand_buffer(OperandRole::attended, o.view.k_padded, 0);
        launch.order = o.view;
        launch.saturation = saturation();
    } else {
        launch.out = attended.x;
        launch.ld = attended.ld;
    }
    const DecodeWorkspace workspace = {at<float>(layout_.attention), at<uint32_t>(layout_.attention_counters)};
    const int32_t n_prompt = shape_.rows - shape_.decode_rows;
    const bool appends = n_prompt == 0 && shape_.distinct;
    if (n_prompt > 0) {
        AttentionLaunch prompts = launch;
        prompts.first_row = shape_.decode_rows;
        prompts.n_rows = n_prompt;
        rope_append(*queue_, prompts);
        prompts.angles = {};
        prompts.q_norm = prompts.k_norm = {};
        prefill_attention(*queue_, prompts, buffer_->tiles(), shape_.n_tiles);
    }
    if (shape_.decode_rows > 0) {
        launch.n_rows = shape_.decode_rows;
        if (!appends) {
            rope_append(*queue_, launch);
            launch.angles = {};
            launch.q_norm = launch.k_norm = {};
        }
        decode_attention(*queue_, launch, appends, workspace, spec.max_positions, n_multiprocessors_);
    }
    if (packed) {
        void_[size_t(Slot::attended)] = true;
        ready_[size_t(OperandRole::attended)] = {Slot::attended, o.order, launch.packed, {}};
    }
    return handle(Slot::attended);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
