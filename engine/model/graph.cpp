#include "engine/model/graph.h"

namespace quantplug::engine {

kernels::Walk decoder_walk(const kernels::ModelSpec& spec, std::function<bool()> cancelled) {
    return [&spec, cancelled = std::move(cancelled)](kernels::Ops& ops) {
        const kernels::Activations x = ops.embed(spec);  // (rows, hidden)
        for (size_t i = 0; i < spec.layers.size(); ++i) {
            if (cancelled && cancelled()) return false;
            const kernels::LayerSpec& layer = spec.layers[i];
            const kernels::Activations qkv = ops.norm_qkv(spec, layer, x);
            const kernels::Activations attended = ops.rope_append_attend(spec, layer, int32_t(i), qkv);
            // Of a parallel block the MLP reads x as it was before the attention was added.
            const bool parallel = layer.block == kernels::Block::parallel;
            if (!layer.moe.experts.empty()) {
                if (parallel) ops.moe_add(spec, layer, x);
                ops.project_add(spec, layer, attended, x);
                if (!parallel) ops.moe_add(spec, layer, x);
                continue;
            }
            kernels::Activations h{};
            if (parallel) h = ops.gate_up_act(spec, layer, x);
            ops.project_add(spec, layer, attended, x);
            if (!parallel) h = ops.gate_up_act(spec, layer, x);
            ops.down_add(spec, layer, h, x);
        }
        ops.head_sample(spec, x);
        return true;
    };
}

}  // namespace quantplug::engine
