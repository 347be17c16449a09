// Both ends of the graph: embedding, stages of a split model, and what a step wants of its logits.
#include "kernels/cuda/decode.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/sample.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

void CudaOps::load_hidden(Slot out) {
    make_angles();
    copy_rows(*queue_, {at<float>(layout_.stage), spec_->hidden_size}, spec_->hidden_size, rows(out), write(out));
}

void CudaOps::store_hidden(Slot x) {
    copy_rows(*queue_, read(x), spec_->hidden_size, rows(x), {at<float>(layout_.stage), spec_->hidden_size});
}

void CudaOps::embed_rows(Matrix embedding, float scale, Slot out) {
    make_angles();
    const RowsView to = write(out);
    EmbedLaunch launch;
    launch.table = matrices[embedding.id].view;
    launch.step = view_;
    launch.rows = rows(out);
    launch.chosen = at<int32_t>(layout_.chosen);
    launch.scale = scale;
    launch.out = to.x;
    launch.ld = to.ld;
    cuda::embed_rows(*queue_, launch);
}

void CudaOps::add_positions(Matrix table, int32_t offset, Slot x) {
    const RowsView to = read(x);
    write(x);
    cuda::add_positions(*queue_, matrices[table.id].view, view_, rows(x), offset, to.x, to.ld);
}

void CudaOps::select(Slot x, std::span<const Wanted>, int32_t width, Slot out) {
    const RowsView from = read(x);
    select_rows(*queue_, from, view_, width, rows(out), write(out));
}

void CudaOps::cap_logits(Slot logits, int32_t width, float scale, float softcap) {
    cuda::cap_logits(*queue_, read(logits), width, scale, softcap, rows(logits));
}

// The answers stay on the device until the step's end (device.cpp).
void CudaOps::emit(std::span<const Wanted>, int32_t n_vocab, Slot logits, StepResult*) {
    EmitLaunch launch;
    launch.logits = read(logits);
    launch.n_vocab = n_vocab;
    launch.n = rows(logits);
    launch.step = view_;
    launch.answers = at<RowAnswer>(layout_.answers);
    launch.chosen = at<int32_t>(layout_.chosen);
    launch.partials = at<float>(layout_.emission);
    launch.counters = at<uint32_t>(layout_.emission_counters);
    cuda::emit(*queue_, launch);
    if (shape_.n_candidates == 0) return;
    CandidateLaunch candidates;
    candidates.emit = launch;
    candidates.adjusts = buffer_->adjusts();
    candidates.n_candidates = shape_.n_candidates;
    candidates.n_sampled = step_->n_sampled > 0 ? step_->n_sampled : n_vocab;
    candidates.candidates = at<CandidateRecord>(layout_.candidates);
    emit_candidates(*queue_, candidates);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
