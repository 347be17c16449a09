// Rows that are wanted, their logits, the best of them.
#include <cmath>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows_launch.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_block.h"
#include "kernels/cuda/sample_launch.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

// out[i] = x[wanted[i].row], both (rows, ld) FP32, 1024 columns a block of 256 threads; rows that are not wanted: row
// 0.
QP_KERNEL QP_BOUNDS(256, 1)
    select_kernel(RowIn x, const StepHeader* header, const StepWanted* wanted, int32_t width, RowOut out) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    const int32_t i = int32_t(blockIdx.x), c = int32_t(blockIdx.y * 256 + threadIdx.x) * 4;
    if (c >= width) return;
    const int64_t row = i < header->n_wanted ? wanted[i].row : 0;
    store_four(out.x + i * out.ld, c, width, out.wide, load_four(x.x + row * x.ld, c, width, x.wide));
}

// logits (rows, ld) FP32 in place: softcap * tanh(scale * z / softcap), or scale * z. 1024 columns a block.
QP_KERNEL QP_BOUNDS(256, 1) cap_kernel(RowOut logits, int32_t width, float scale, float softcap) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    const int32_t c = int32_t(blockIdx.y * 256 + threadIdx.x) * 4;
    if (c >= width) return;
    float* row = logits.x + int64_t(blockIdx.x) * logits.ld;
    Four z = load_four(row, c, width, logits.wide);
    QP_UNROLL
    for (int32_t j = 0; j < 4; ++j) {
        z.v[j] *= scale;
        if (softcap > 0.0f) z.v[j] = softcap * tanhf(z.v[j] / softcap);
    }
    store_four(row, c, width, logits.wide, z);
}

// RowAnswer of logits (rows, ld) FP32: grid (pieces, rows), blocks of 512 threads. Rows beyond n_wanted: chosen = 0.
QP_KERNEL QP_BOUNDS(512, 1)
    emit_kernel(RowIn logits, int32_t n_vocab, const StepHeader* header, const StepWanted* wanted, RowAnswer* answers,
                int32_t* chosen, float* partials, uint32_t* counters) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    SampleShared& shared = *reinterpret_cast<SampleShared*>(dynamic_shared());
    const int32_t row = int32_t(blockIdx.y), piece = int32_t(blockIdx.x), n = int32_t(gridDim.x);
    if (row >= header->n_wanted) {
        if (piece == 0 && threadIdx.x == 0) chosen[row] = 0;
        return;
    }
    const float* z = logits.x + row * logits.ld;
    const int32_t column0 = piece * piece_columns;
    float values[piece_values];
    QP_UNROLL
    for (int32_t i = 0; i < piece_values; i += 4) {
        const Four four = load_four(z, column0 + piece_column(i), n_vocab, logits.wide);
        QP_UNROLL
        for (int32_t j = 0; j < 4; ++j) values[i + j] = four.v[j];
    }
    float* pieces = partials + int64_t(row) * n * piece_floats;
    const PieceSum sum = sum_piece(values, column0, n_vocab, shared);
    if (threadIdx.x == 0) store_piece(pieces, piece, sum);
    if (!last_arriver(counters + row, uint32_t(n), &shared.flag)) return;

    const RowSum all = join_pieces(pieces, n, shared);
    if (threadIdx.x != 0) return;
    const int32_t asked = wanted[row].token, token = asked >= 0 && asked < n_vocab ? asked : 0;
    const double largest = double(all.best.value);
    RowAnswer& answer = answers[row];
    answer.best = all.best.column;
    answer.best_logprob = float(-all.log_sum);
    answer.token_logprob = float(double(z[token]) - largest - all.log_sum);
    answer.log_sum_exp = float(largest + all.log_sum);
    chosen[row] = all.best.column;
}

}  // namespace

void select_rows(Queue& queue, RowsView x, const StepView& step, int32_t width, int32_t n, RowsView out) {
    if (n <= 0 || width <= 0) return;
    const Extent grid{uint32_t(n), ceil_div(uint64_t(width), 1024)};
    if (grid.y > 65535)
        return queue.keep(refuse_rows("select_rows", "rows of " + std::to_string(width) + " values are too long"));
    launch(queue, "select_rows", select_kernel, grid, {256}, 0, row_in(x), step.header, step.wanted, width,
           row_out(out));
}

void cap_logits(Queue& queue, RowsView logits, int32_t width, float scale, float softcap, int32_t n) {
    if (n <= 0 || width <= 0 || (scale == 1.0f && softcap <= 0.0f)) return;
    const Extent grid{uint32_t(n), ceil_div(uint64_t(width), 1024)};
    if (grid.y > 65535)
        return queue.keep(refuse_rows("cap_logits", "rows of " + std::to_string(width) + " values are too long"));
    launch(queue, "cap_logits", cap_kernel, grid, {256}, 0, row_out(logits), width, scale, softcap);
}

uint64_t emit_workspace_floats(int32_t n, int32_t n_vocab) {
    if (n <= 0 || n_vocab <= 0) return 0;
    return uint64_t(n) * ceil_div(uint64_t(n_vocab), piece_columns) * piece_floats;
}

void emit(Queue& queue, const EmitLaunch& l) {
    if (l.n <= 0) return;
    const Status fits = check_emission("emit", l);
    if (!fits.ok()) return queue.keep(fits);
    launch(queue, "emit", emit_kernel, {uint32_t(n_pieces(l.n_vocab)), uint32_t(l.n)}, {uint32_t(piece_threads)},
           sizeof(SampleShared), row_in(l.logits), l.n_vocab, l.step.header, l.step.wanted, l.answers, l.chosen,
           l.partials, l.counters);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
