// What the kernels behind the head share. A row of logits is cut in pieces of fixed columns, a block each; the block
// that arrives last joins what they found.
#pragma once

#include "kernels/cuda/last_arriver.h"
#include "kernels/cuda/rows_block.h"
#include "kernels/cuda/sample.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t piece_threads = 512, piece_values = 16;  // of a thread, in registers
constexpr int32_t piece_columns = piece_threads * piece_values;
constexpr int32_t most_pieces = piece_threads;
constexpr float no_logit = -INFINITY;

/// What a piece leaves, 4 words; behind those of all pieces of the row come their candidates.
struct PieceSum {
    float largest;  // NaN apart; -inf where there is none
    int32_t column;
    float sum;  // of exp(z - largest), or of exp(z) where largest is -inf; NaN where a logit is NaN
    float padding;
};
constexpr int32_t piece_floats = 4 + 2 * most_candidates;

QP_HOST_DEVICE int32_t n_pieces(int32_t n_vocab) { return (n_vocab + piece_columns - 1) / piece_columns; }

struct SampleShared {
    alignas(16) float partials[32];
    float best_values[32];
    int32_t best_columns[32];
    float terms[most_pieces];
    uint32_t flag;
};

struct BestLogit {
    float value;
    int32_t column;
};
/// The larger; of equals the one of the lower column.
QP_DEVICE BestLogit better(const BestLogit& a, const BestLogit& b) {
    return b.value > a.value || (b.value == a.value && b.column < a.column) ? b : a;
}
QP_DEVICE BestLogit warp_best(BestLogit best) {
    for (int mask = 16; mask > 0; mask >>= 1)
        best = better(best, {shuffle_xor(best.value, mask), int32_t(shuffle_xor(uint32_t(best.column), mask))});
    return best;
}
/// In every thread. No value is NaN. A barrier must lie between two calls.
QP_DEVICE BestLogit block_best(BestLogit best, SampleShared& shared) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    best = warp_best(best);
    if (lane == 0) {
        shared.best_values[warp] = best.value;
        shared.best_columns[warp] = best.column;
    }
    sync_block();
    const BestLogit none{no_logit, INT32_MAX};
    return warp_best(lane < blockDim.x / 32 ? BestLogit{shared.best_values[lane], shared.best_columns[lane]} : none);
}

/// Column of value i of the thread, within its piece: quadruples, for loads of 16 bytes.
QP_DEVICE int32_t piece_column(int32_t i) { return i / 4 * (piece_threads * 4) + int32_t(threadIdx.x) * 4 + i % 4; }

/// The largest of the block's values and their sum of exponentials. `z[i]` of column column0 + piece_column(i), those
/// from n_columns on do not count.
QP_DEVICE PieceSum sum_piece(const float (&z)[piece_values], int32_t column0, int32_t n_columns, SampleShared& shared) {
    BestLogit best{no_logit, column0};
    QP_UNROLL
    for (int32_t i = 0; i < piece_values; ++i) {
        const int32_t column = column0 + piece_column(i);
        if (column < n_columns && z[i] > best.value) best = {z[i], column};  // NaN is not larger
    }
    best = block_best(best, shared);
    const float base = best.value == no_logit ? 0.0f : best.value;
    float sum = 0.0f;
    QP_UNROLL
    for (int32_t i = 0; i < piece_values; ++i) {
        if (column0 + piece_column(i) < n_columns) sum += expf(z[i] - base);
    }
    return {best.value, best.column, row_sum(sum, shared.partials), 0.0f};
}

struct RowSum {
    BestLogit best;
    double log_sum;  // ln sum exp(z - best.value), in thread 0; NaN where nothing is above -inf
};
/// Of all pieces of a row; every thread takes part.
QP_DEVICE RowSum join_pieces(const float* pieces, int32_t n, SampleShared& shared) {
    const int32_t p = int32_t(threadIdx.x);
    BestLogit best{no_logit, INT32_MAX};
    float sum = 0.0f;
    if (p < n) {
        const uint4 words = load4(pieces + int64_t(p) * 4);
        best = {bits_float(words.x), int32_t(words.y)};
        sum = bits_float(words.z);
    }
    const float own = best.value;
    sync_block();
    best = block_best(best, shared);
    if (p < n) shared.terms[p] = sum * expf(own - best.value);
    sync_block();
    RowSum out{best, 0.0};
    if (threadIdx.x == 0) {
        double total = 0.0;
        for (int32_t i = 0; i < n; ++i) total += double(shared.terms[i]);
        out.log_sum = best.value == no_logit ? double(bits_float(0x7fc00000u)) : log(total);
    }
    return out;
}

QP_DEVICE void store_piece(float* pieces, int32_t piece, const PieceSum& sum) {
    *reinterpret_cast<uint4*>(pieces + int64_t(piece) * 4) =
        uint4{float_bits(sum.largest), uint32_t(sum.column), float_bits(sum.sum), 0};
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
