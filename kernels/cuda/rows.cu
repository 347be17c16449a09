// Norms, operands and what is element by element.
#include <cmath>

#include "kernels/cuda/activation.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/rows_launch.h"
#include "kernels/model.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

// A row's norm in a thread's hands: weights of its first columns are read before the row is there.
constexpr int32_t held = 2;  // quadruples a thread: with row_threads all of a row of up to 8192 values

struct PrepareArguments {
    RowIn in;
    RowOut normed;
    OperandOut operand;
    const float* weight = nullptr;  // null: 1
    const float* bias = nullptr;    // null: 0
    int32_t width = 0;
    float per_value = 1;  // 1 / width
    int32_t kind = 0;
    float eps = 0;
    RowSquares squares;
};

/// Whole: every row is, and holds quadruples only. Otherwise value by value.
template <bool Whole>
QP_DEVICE Four load_quad(const float* p, int32_t c, int32_t n) {
    if constexpr (Whole) return c < n ? load_four(p, c, c + 4, true) : Four{};
    return load_four(p, c, n, false);
}
template <bool Whole>
QP_DEVICE Four load_weight(const PrepareArguments& a, int32_t c) {
    return a.weight == nullptr ? Four{{1.0f, 1.0f, 1.0f, 1.0f}} : load_quad<Whole>(a.weight, c, a.width);
}
template <bool Whole>
QP_DEVICE Four load_bias(const PrepareArguments& a, int32_t c) {
    return a.bias == nullptr ? Four{} : load_quad<Whole>(a.bias, c, a.width);
}
QP_DEVICE float sum_four(const Four& x) { return (x.v[0] + x.v[1]) + (x.v[2] + x.v[3]); }
/// Of squared distances from the mean, of the columns that exist.
template <bool Whole>
QP_DEVICE float square_four(const Four& x, float mean, int32_t c, int32_t width) {
    Four d{};
    QP_UNROLL
    for (int32_t j = 0; j < 4; ++j) {
        const float distance = c + (Whole ? 0 : j) < width ? x.v[j] - mean : 0.0f;
        d.v[j] = distance * distance;
    }
    return sum_four(d);
}

// norm(x) of a row per block: to `normed` (rows, ld) FP32, and as FP16 in a matrix's row order to the operand.
// blockDim.x = row_threads(width); shared: 2 x 32 floats, then the row in FP16. A thread has the quadruples of columns
// 4 (threadIdx.x + i blockDim.x); more than `held` of them it reads again in every pass, from L1.
template <bool Whole>
QP_KERNEL QP_BOUNDS(1024, 1) prepare_kernel(QP_PARAM PrepareArguments a) {
    // One small block a row: the next kernel's blocks may come and fetch their weights from the start.
    let_next_kernel_start();
    float* partials = reinterpret_cast<float*>(dynamic_shared());
    uint16_t* halves = reinterpret_cast<uint16_t*>(dynamic_shared() + partials_bytes);
    const int32_t first = int32_t(threadIdx.x) * 4, step = int32_t(blockDim.x) * 4, width = a.width;
    const GatherAhead ahead = gather_ahead(a.operand.gather);
    Four weights[held], biases[held], values[held];
    QP_UNROLL
    for (int32_t i = 0; i < held; ++i) {
        weights[i] = load_weight<Whole>(a, first + i * step);
        biases[i] = load_bias<Whole>(a, first + i * step);
    }
    wait_for_earlier_kernels();

    const float* x = a.in.x + int64_t(blockIdx.x) * a.in.ld;
    QP_UNROLL
    for (int32_t i = 0; i < held; ++i) values[i] = load_quad<Whole>(x, first + i * step, width);
    float mean = 0.0f, factor = 1.0f;
    if (a.kind == NormSpec::layer) {
        float sum = 0.0f;
        QP_UNROLL
        for (int32_t i = 0; i < held; ++i) sum += sum_four(values[i]);
        QP_NO_UNROLL
        for (int32_t c = first + held * step; c < width; c += step) sum += sum_four(load_quad<Whole>(x, c, width));
        mean = row_sum(sum, partials + 32) * a.per_value;
    }
    if (a.kind != NormSpec::none) {
        float sum = 0.0f;
        QP_UNROLL
        for (int32_t i = 0; i < held; ++i) sum += square_four<Whole>(values[i], mean, first + i * step, width);
        QP_NO_UNROLL
        for (int32_t c = first + held * step; c < width; c += step)
            sum += square_four<Whole>(load_quad<Whole>(x, c, width), mean, c, width);
        sum = row_sum(sum, partials);
        if (threadIdx.x == 0 && a.squares.x != nullptr) a.squares.x[int64_t(blockIdx.x) * a.squares.ld] = sum;
        factor = 1.0f / sqrtf(sum * a.per_value + a.eps);
    }

    float* normed = a.normed.x == nullptr ? nullptr : a.normed.x + int64_t(blockIdx.x) * a.normed.ld;
    uint32_t saturated = 0;
    const auto finish = [&](int32_t c, Four value, const Four& weight, const Four& bias) {
        if (c >= width) return;
        QP_UNROLL
        for (int32_t j = 0; j < 4; ++j)
            value.v[j] = Whole || c + j < width ? (value.v[j] - mean) * factor * weight.v[j] + bias.v[j] : 0.0f;
        if (normed != nullptr) store_four(normed, c, Whole ? c + 4 : width, Whole, value);
        if (a.operand.gather.table != nullptr) stage_four(halves, c, value, a.operand.scale, saturated);
    };
    QP_UNROLL
    for (int32_t i = 0; i < held; ++i) finish(first + i * step, values[i], weights[i], biases[i]);
    QP_NO_UNROLL
    for (int32_t c = first + held * step; c < width; c += step)
        finish(c, load_quad<Whole>(x, c, width), load_weight<Whole>(a, c), load_bias<Whole>(a, c));

    if (a.operand.gather.table == nullptr) return;
    sync_block();
    gather_row(halves, a.operand.gather, ahead, a.operand.x + int64_t(blockIdx.x) * a.operand.ld);
    report_saturated(a.operand.saturation, saturated);
}

// act(gate) * up of a row per block: to `out` (rows, ld) FP32 and to the operand. Threads and shared memory as above.
QP_KERNEL QP_BOUNDS(1024, 1) activate_kernel(RowIn gate, RowIn up, RowOut out, QP_PARAM OperandOut operand,
                                             Activation activation, int32_t width) {
    let_next_kernel_start();
    uint16_t* halves = reinterpret_cast<uint16_t*>(dynamic_shared());
    const GatherAhead ahead = gather_ahead(operand.gather);
    wait_for_earlier_kernels();
    const float* g = gate.x + int64_t(blockIdx.x) * gate.ld;
    const float* u = up.x == nullptr ? nullptr : up.x + int64_t(blockIdx.x) * up.ld;
    float* to = out.x == nullptr ? nullptr : out.x + int64_t(blockIdx.x) * out.ld;
    uint32_t saturated = 0;
    for (int32_t c = int32_t(threadIdx.x) * 4; c < width; c += int32_t(blockDim.x) * 4) {
        Four value = load_four(g, c, width, gate.wide), factor{{1.0f, 1.0f, 1.0f, 1.0f}};
        if (u != nullptr) factor = load_four(u, c, width, up.wide);
        QP_NO_UNROLL
        for (int32_t j = 0; j < 4; ++j) value.v[j] = activated(activation, value.v[j]) * factor.v[j];
        if (to != nullptr) store_four(to, c, width, out.wide, value);
        if (operand.gather.table != nullptr) stage_four(halves, c, value, operand.scale, saturated);
    }
    if (operand.gather.table == nullptr) return;
    sync_block();
    gather_row(halves, operand.gather, ahead, operand.x + int64_t(blockIdx.x) * operand.ld);
    report_saturated(operand.saturation, saturated);
}

// Norms of heads in place: x (rows, ld), head h in columns column + h head_dim ..; a warp each, 4 warps a block.
QP_KERNEL QP_BOUNDS(128, 1)
    head_norm_kernel(NormView norm, float* x, int64_t ld, int32_t n_heads, int32_t head_dim, int32_t rows) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    const int32_t lane = int32_t(threadIdx.x % 32);
    const int64_t index = int64_t(blockIdx.x) * 4 + threadIdx.x / 32;
    if (index >= int64_t(rows) * n_heads) return;  // a whole warp, and no barrier follows
    const int32_t head = int32_t(index % n_heads);
    float* values = x + index / n_heads * ld + int64_t(head) * head_dim;
    const int64_t at = norm.per_head != 0 ? int64_t(head) * head_dim : 0;
    float mean = 0.0f;
    if (norm.kind == NormSpec::layer) {
        float sum = 0.0f;
        for (int32_t d = lane; d < head_dim; d += 32) sum += values[d];
        mean = warp_sum(sum) / float(head_dim);
    }
    float sum = 0.0f;
    for (int32_t d = lane; d < head_dim; d += 32) sum += (values[d] - mean) * (values[d] - mean);
    const float factor = 1.0f / sqrtf(warp_sum(sum) / float(head_dim) + norm.eps);
    for (int32_t d = lane; d < head_dim; d += 32) {
        const float weight = norm.weight == nullptr ? 1.0f : norm.weight[at + d];
        const float bias = norm.bias == nullptr ? 0.0f : norm.bias[at + d];
        values[d] = (values[d] - mean) * factor * weight + bias;
    }
}

enum class ElementOp : uint8_t { copy, add_scaled, add_gated, clamp };

// to (rows, ld) = op(to, from), 1024 columns of a row a block of 256 threads. `number`: the factor or the limit; `gate`
// (rows, gate_ld): its first column.
QP_KERNEL QP_BOUNDS(256, 1) element_kernel(ElementOp op, RowIn from, RowOut to, const float* gate, int64_t gate_ld,
                                           float number, int32_t width) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    const int64_t row = blockIdx.x;
    const int32_t c = int32_t(blockIdx.y * 256 + threadIdx.x) * 4;
    if (c >= width) return;
    if (op == ElementOp::add_gated) number = 1.0f / (1.0f + expf(-gate[row * gate_ld]));
    Four value = load_four(from.x + row * from.ld, c, width, from.wide);
    if (op == ElementOp::clamp) {
        QP_UNROLL
        for (int32_t j = 0; j < 4; ++j) {
            const float v = value.v[j];
            value.v[j] = v > number ? number : v < -number ? -number : v;
        }
    } else if (op != ElementOp::copy) {
        const Four before = load_four(to.x + row * to.ld, c, width, to.wide);
        QP_UNROLL
        for (int32_t j = 0; j < 4; ++j) value.v[j] = before.v[j] + number * value.v[j];
    }
    store_four(to.x + row * to.ld, c, width, to.wide, value);
}

void elements(Queue& queue, const char* name, ElementOp op, const RowsView& from, const RowsView& gate, float number,
              int32_t width, int32_t rows, const RowsView& to) {
    if (width <= 0 || rows <= 0) return;
    const Extent grid{uint32_t(rows), ceil_div(uint64_t(width), 1024)};
    if (grid.y > 65535)
        return queue.keep(refuse_rows(name, "rows of " + std::to_string(width) + " values are too long"));
    launch(queue, name, element_kernel, grid, {256}, 0, op, row_in(from), row_out(to), gate.x, gate.ld, number, width);
}

}  // namespace

void prepare(Queue& queue, const PrepareLaunch& l) {
    if (l.rows <= 0 || l.width <= 0 || (l.normed.x == nullptr && l.operand.x == nullptr)) return;
    if (l.norm.kind < NormSpec::none || l.norm.kind > NormSpec::layer)
        return queue.keep(refuse_rows("prepare", "no norm of kind " + std::to_string(l.norm.kind)));
    if (l.squares.x != nullptr && (l.norm.kind != NormSpec::rms || l.squares.n != 1))
        return queue.keep(refuse_rows("prepare", "sums of squares are an RMS norm's, one a row"));
    PrepareArguments a;
    a.in = row_in(l.x);
    a.normed = row_out(l.normed);
    if (l.operand.x != nullptr) {
        const Status fits = check_operand("prepare", l.matrix, l.operand, l.width);
        if (!fits.ok()) return queue.keep(fits);
        a.operand = operand_out(l.matrix, l.operand, l.saturation);
    }
    if (l.norm.kind != NormSpec::none) {
        a.weight = l.norm.weight;
        a.bias = l.norm.bias;
    }
    a.width = l.width;
    a.per_value = 1.0f / float(l.width);
    a.kind = l.norm.kind;
    a.eps = l.norm.eps;
    a.squares = l.squares;
    const size_t shared = partials_bytes + (l.operand.x != nullptr ? staged_bytes(l.width) : 0);
    const bool whole =
        l.width % 4 == 0 && wide_rows(l.x) && wide_rows(l.normed) && aligned_to_16(a.weight) && aligned_to_16(a.bias);
    launch(queue, "prepare", whole ? prepare_kernel<true> : prepare_kernel<false>, {uint32_t(l.rows)},
           {row_threads(l.width)}, shared, a);
}

void activate(Queue& queue, const ActivateLaunch& l) {
    if (l.rows <= 0 || l.width <= 0 || (!l.keep && l.operand.x == nullptr)) return;
    OperandOut operand;
    if (l.operand.x != nullptr) {
        const Status fits = check_operand("activate", l.matrix, l.operand, l.width);
        if (!fits.ok()) return queue.keep(fits);
        operand = operand_out(l.matrix, l.operand, l.saturation);
    }
    const size_t shared = l.operand.x != nullptr ? staged_bytes(l.width) : 0;
    launch(queue, "activate", activate_kernel, {uint32_t(l.rows)}, {row_threads(l.width)}, shared, row_in(l.gate),
           row_in(l.up), l.keep ? row_out(l.gate) : RowOut{}, operand, l.activation, l.width);
}

void head_norm(Queue& queue, const NormView& norm, RowsView x, int32_t column, int32_t n_heads, int32_t head_dim,
               int32_t rows) {
    if (norm.kind == NormSpec::none || rows <= 0 || n_heads <= 0 || head_dim <= 0) return;
    x.x += column;
    if (n_heads == 1) {  // one head may be as wide as the row: a block each
        PrepareLaunch all;
        all.x = all.normed = x;
        all.width = head_dim;
        all.rows = rows;
        all.norm = norm;
        return prepare(queue, all);
    }
    if (norm.kind != NormSpec::rms && norm.kind != NormSpec::layer)
        return queue.keep(refuse_rows("head_norm", "no norm of kind " + std::to_string(norm.kind)));
    const uint32_t blocks = ceil_div(uint64_t(rows) * uint64_t(n_heads), 4);
    launch(queue, "head_norm", head_norm_kernel, {blocks}, {128}, 0, norm, x.x, x.ld, n_heads, head_dim, rows);
}

void add_scaled(Queue& queue, RowsView from, float scale, int32_t width, int32_t rows, RowsView to) {
    elements(queue, "add_scaled", ElementOp::add_scaled, from, {}, scale, width, rows, to);
}
void clamp(Queue& queue, RowsView x, int32_t width, float limit, int32_t rows) {
    elements(queue, "clamp", ElementOp::clamp, x, {}, limit, width, rows, x);
}
void copy_rows(Queue& queue, RowsView from, int32_t width, int32_t rows, RowsView to) {
    elements(queue, "copy_rows", ElementOp::copy, from, {}, 0, width, rows, to);
}
void add_gated(Queue& queue, RowsView from, RowsView gate, int32_t width, int32_t rows, RowsView to) {
    elements(queue, "add_gated", ElementOp::add_gated, from, gate, 0, width, rows, to);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
