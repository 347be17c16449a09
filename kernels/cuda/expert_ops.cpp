// Mixture of experts: pairs of a row and one of its experts, sorted by expert on the device, so that a captured graph
// serves whatever is chosen.
#include <algorithm>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

Status CudaOps::make_expert_tables(const ModelSpec& spec, StreamHandle stream) {
    experts_.assign(spec.layers.size(), {});
    auto* device = at<MatrixView>(layout_.expert_tables);
    for (size_t l = 0; l < spec.layers.size(); ++l) {
        const MoeSpec& moe = spec.layers[l].moe;
        if (moe.experts.empty()) continue;
        ExpertTables& tables = experts_[l];
        tables.one_order = true;
        const size_t n = moe.experts.size();
        std::vector<MatrixView> views(3 * n);
        const auto take = [&](size_t at, Matrix matrix, MatrixView& widest) {
            views[at] = matrices[matrix.id].view;
            if (views[at].k_padded > widest.k_padded) widest = views[at];
        };
        for (size_t e = 0; e < n; ++e) {
            const Mlp& expert = moe.experts[e];
            take(e, expert.gate, tables.gate);
            take(n + e, expert.up, tables.up);
            take(2 * n + e, expert.down, tables.down);
            tables.one_order = tables.one_order && (!expert.gate.id || same_order(expert.gate, expert.up));
        }
        if (moe.experts[0].gate.id) tables.gates = device;
        tables.ups = device + n;
        tables.downs = device + 2 * n;
        if (Status status = copy_to_device(stream, device, views.data(), views.size() * sizeof(MatrixView));
            !status.ok())
            return status;
        if (Status status = synchronize(stream); !status.ok()) return status;
        device += 3 * n;
    }
    return {};
}

// Done with the experts' products, for as many rows as pass at once.
void CudaOps::route(const MoeSpec&, Slot) {}

void CudaOps::run_experts(const ModelSpec& spec, const LayerSpec& layer) {
    const ExpertTables& tables = experts_[size_t(&layer - spec.layers.data())];
    const int32_t count = rows(Slot::normed);
    read(Slot::normed);
    read(Slot::chosen);
    write(Slot::expert_sum);
    for (int32_t row0 = 0; row0 < count; row0 += moe_rows)
        run_expert_rows(spec, layer, tables, row0, std::min(moe_rows, count - row0));
}

void CudaOps::run_expert_rows(const ModelSpec& spec, const LayerSpec& layer, const ExpertTables& tables, int32_t row0,
                              int32_t n) {
    const MoeSpec& moe = layer.moe;
    const int32_t hidden = spec.hidden_size, inner = spec.expert_intermediate_size,
                  n_experts = int32_t(moe.experts.size());
    const auto from_row = [&](Slot slot) {
        const RowsView rows_view = rows_of(slot);
        return RowsView{rows_view.x + int64_t(row0) * rows_view.ld, rows_view.ld};
    };
    // Only steps that fit one piece have dummies: in the others n_rows is above a piece's rows.
    const StepHeader* header = view_.header;

    RouteLaunch routing;
    routing.logits = from_row(Slot::chosen);
    routing.n_experts = n_experts;
    routing.top_k = moe.top_k;
    routing.rows = n;
    routing.renormalise = moe.renormalise;
    routing.header = header;
    routing.slab_rows = n <= 64 ? 8 : 32;
    routing.slabs = at<ExpertSlab>(layout_.slabs);
    routing.n_slabs = at<int32_t>(layout_.n_slabs);
    routing.pair_expert = at<int32_t>(layout_.pair_expert);
    routing.pair_row = at<int32_t>(layout_.pair_row);
    routing.pair_weight = at<float>(layout_.pair_weight);
    routing.row_pairs = at<int32_t>(layout_.row_pairs);
    routing.counts = at<int32_t>(layout_.counts);
    cuda::route(*queue_, routing);

    Routed routed;
    routed.slabs = routing.slabs;
    routed.n_slabs = routing.n_slabs;
    routed.pair_expert = routing.pair_expert;
    routed.pair_row = routing.pair_row;
    routed.max_slabs = route_max_slabs(n, n_experts, moe.top_k, routing.slab_rows);
    routed.slab_rows = routing.slab_rows;
    routed.max_pairs = n * moe.top_k;

    const auto operand = [&](OperandRole role, RowsView x, bool by_row, int32_t width, const MatrixView* table,
                             const MatrixView& shape, int32_t exponent) {
        if (routed.max_pairs > rows_that_fit(role, shape.k_padded)) {
            fail(unimplemented,
                 "experts whose groups are padded to more than an eighth do not fit the CUDA device's scratch; use the "
                 "CPU");
            return Operand{};
        }
        PairOperandLaunch launch;
        launch.x = x;
        launch.by_row = by_row;
        launch.width = width;
        launch.table = table;
        launch.shape = shape;
        launch.routed = routed;
        launch.operand = operand_buffer(role, shape.k_padded, exponent);
        launch.saturation = saturation();
        if (status().ok()) prepare_pairs(*queue_, launch);
        return launch.operand;
    };
    const auto multiply_pairs = [&](const MatrixView* table, const MatrixView& shape, const Operand& x, Slot out) {
        const RowsView to = rows_of(out);
        ExpertProductLaunch launch;
        launch.table = table;
        launch.shape = shape;
        launch.routed = routed;
        launch.x = x;
        launch.out = to.x;
        launch.ld = to.ld;
        if (status().ok()) expert_product(*queue_, launch);
    };
    const int32_t exponent = normed_[size_t(Slot::normed)] ? 0 : 6;
    const RowsView normed = from_row(Slot::normed);
    const MatrixView* first = tables.gates ? tables.gates : tables.ups;
    const Operand x =
        operand(OperandRole::pairs, normed, true, hidden, first, tables.gates ? tables.gate : tables.up, exponent);
    Operand h;
    if (tables.one_order) {
        h = operand_buffer(OperandRole::pair_hidden, tables.down.k_padded, 6);
        if (routed.max_pairs > rows_that_fit(OperandRole::pair_hidden, tables.down.k_padded))
            fail(unimplemented,
                 "experts whose groups are padded to more than an eighth do not fit the CUDA device's scratch; use the "
                 "CPU");
        ExpertGatedLaunch launch;
        launch.gates = tables.gates;
        launch.ups = tables.ups;
        launch.downs = tables.downs;
        launch.shape = tables.up;
        launch.down_shape = tables.down;
        launch.activation = layer.activation;
        launch.routed = routed;
        launch.x = x;
        launch.packed = h;
        launch.saturation = saturation();
        if (status().ok()) expert_gated_product(*queue_, launch);
    } else {
        multiply_pairs(tables.gates, tables.gate, x, Slot::expert_gate);
        const Operand up = operand(OperandRole::pairs, normed, true, hidden, tables.ups, tables.up, exponent);
        multiply_pairs(tables.ups, tables.up, up, Slot::expert_up);
        ActivateLaunch act;
        act.gate = rows_of(Slot::expert_gate);
        act.up = rows_of(Slot::expert_up);
        act.width = inner;
        act.rows = routed.max_pairs;
        act.activation = layer.activation;
        if (status().ok()) cuda::activate(*queue_, act);
        h = operand(OperandRole::pair_hidden, act.gate, false, inner, tables.downs, tables.down, 6);
    }
    multiply_pairs(tables.downs, tables.down, h, Slot::expert_out);
    if (status().ok())
        combine_pairs(*queue_, rows_of(Slot::expert_out), routing.row_pairs, routing.pair_weight, header, moe.top_k,
                      hidden, n, from_row(Slot::expert_sum));
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
