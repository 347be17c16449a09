// Weights back to FP16.
#include <string>

#include "kernels/cuda/decode.h"
#include "kernels/cuda/extract.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/portable.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

constexpr int32_t n_warps = 8;
constexpr int32_t unit_chunks = 2;  // of a warp: sections are whole units

QP_DEVICE const Section& section_of(const MatrixView& matrix, int32_t chunk) {
    int32_t i = 0;
    while (i + 1 < matrix.n_sections && chunk >= matrix.sections[i + 1].chunk0) ++i;
    return matrix.sections[i];
}
QP_DEVICE int64_t group_of(const MatrixView& matrix, const Section& section, int32_t block, int32_t slab) {
    const int32_t group = section.group0 + ((slab - 2 * section.chunk0) >> section.group_shift);
    return int64_t(block) * matrix.n_groups + group;
}

/// Rows 128 u .. 128 u + 127 of one block of 16 columns to `out`, which points at the block's first column and row 128
/// u. What a lane holds of a slab is 8 neighbouring rows of column g and of column g + 8: two stores of 16 bytes, and
/// the four lanes of a column write 64 bytes, whole sectors.
template <int Bits>
QP_DEVICE void decode_unit(const MatrixView& matrix, const Section& section, int32_t block, int32_t chunk, int32_t lane,
                           uint16_t* out) {
    const int32_t g = lane >> 2, t = lane & 3;
    LaneWords<Bits> words[unit_chunks];
    uint32_t scales[2 * unit_chunks], zeros[2 * unit_chunks];
    QP_UNROLL
    for (int u = 0; u < unit_chunks; ++u) {
        const uint32_t* from = matrix.words + uint64_t(block) * matrix.block_words + section.word0 +
                               uint32_t(chunk + u - section.chunk0) * (32 * Bits);
        load_lane_words<Bits>(words[u], from, lane);
    }
    QP_UNROLL
    for (int h = 0; h < 2 * unit_chunks; ++h) {
        const int64_t at = group_of(matrix, section, block, 2 * chunk + h) * 8 + g;
        scales[h] = load_const32(matrix.scales + at);
        zeros[h] =
            Bits == 16 || !matrix.zeros ? 0x0101u << (Bits == 16 ? 0 : Bits - 1) : load_const16(matrix.zeros + at);
    }
    // The weights are nobody's but ours: only the stores must wait.
    wait_for_earlier_kernels();
    let_next_kernel_start();
    QP_UNROLL
    for (int u = 0; u < unit_chunks; ++u) {
        uint32_t a[4][4];
        const uint32_t *z = zeros + 2 * u, *scale = scales + 2 * u;
        const uint32_t low0 = biased_zero(z[0] & 0xffu), high0 = biased_zero(z[0] >> 8);
        const uint32_t low1 = biased_zero(z[1] & 0xffu), high1 = biased_zero(z[1] >> 8);
        integer_fragment<Bits, 0>(a[0], words[u], low0, high0);
        integer_fragment<Bits, 1>(a[1], words[u], low0, high0);
        integer_fragment<Bits, 2>(a[2], words[u], low1, high1);
        integer_fragment<Bits, 3>(a[3], words[u], low1, high1);
        QP_UNROLL
        for (int h = 0; h < 2; ++h) {
            QP_UNROLL
            for (int c = 0; c < 2; ++c) {
                const uint32_t factor = byte_permute(scale[h], 0, c ? 0x3232 : 0x1010);  // one rounding, as decode_f16
                const uint4 values = {half2_mul(a[2 * h][c], factor), half2_mul(a[2 * h][c + 2], factor),
                                      half2_mul(a[2 * h + 1][c], factor), half2_mul(a[2 * h + 1][c + 2], factor)};
                *reinterpret_cast<uint4*>(out + int64_t(g + 8 * c) * matrix.k_padded + chunk_rows * u + slab_rows * h +
                                          8 * t) = values;
            }
        }
    }
}

/// out (16 n_blocks, k_padded) FP16, 16-byte aligned. Grid (n_blocks, units of 128 rows in 8s); a warp takes one unit.
/// Bytes: bits / 8 + 2 a weight, nearly all of them stores that stay in L2; 5.5 TB/s of them are 2.7e12 weights/s, and
/// the 1.5 to 2.5 instructions a weight pair need a seventh of an H200's issue slots.
QP_KERNEL QP_BOUNDS(32 * n_warps, 4) decode_kernel(QP_PARAM MatrixView matrix, int32_t block0, uint16_t* out) {
    const int32_t lane = int32_t(threadIdx.x & 31), warp = int32_t(threadIdx.x >> 5);
    const int32_t chunk = (int32_t(blockIdx.y) * n_warps + warp) * unit_chunks;
    if (chunk >= matrix.n_chunks) return;
    const int32_t block = block0 + int32_t(blockIdx.x);
    const Section& section = section_of(matrix, chunk);
    uint16_t* to = out + int64_t(blockIdx.x) * block_columns * matrix.k_padded + int64_t(chunk) * chunk_rows;
    switch (section.bits) {
        case 2:
            decode_unit<2>(matrix, section, block, chunk, lane, to);
            break;
        case 3:
            decode_unit<3>(matrix, section, block, chunk, lane, to);
            break;
        case 4:
            decode_unit<4>(matrix, section, block, chunk, lane, to);
            break;
        case 5:
            decode_unit<5>(matrix, section, block, chunk, lane, to);
            break;
        case 6:
            decode_unit<6>(matrix, section, block, chunk, lane, to);
            break;
        case 8:
            decode_unit<8>(matrix, section, block, chunk, lane, to);
            break;
        default:
            decode_unit<16>(matrix, section, block, chunk, lane, to);
            break;
    }
}

// ---------------------------------------------------------------- single columns: rows of the embedding

template <int Bits>
QP_DEVICE uint32_t code_of(const uint32_t* chunk, int32_t lane, int32_t pair, int32_t half) {
    if constexpr (Bits == 16) {
        return load_const32(chunk + chunk_word(16, lane, pair)) >> (16 * half) & 0xffffu;
    } else if constexpr (Bits == 8) {
        return load_const32(chunk + chunk_word(8, lane, pair >> 1)) >> (8 * (pair & 1) + 16 * half) & 0xffu;
    } else {
        FieldPiece pieces[5] = {};
        const int32_t n_pieces = field_pieces(Bits, pair, pieces);
        uint32_t code = 0;
        QP_UNROLL
        for (int i = 0; i < 5; ++i) {
            if (i >= n_pieces) continue;
            const FieldPiece& piece = pieces[i];
            const uint32_t word = load_const32(chunk + chunk_word(Bits, lane, piece.word));
            code |= (word >> (piece.bit + 16 * half) & ((1u << piece.n_bits) - 1)) << piece.shift;
        }
        return code;
    }
}

/// W[input, column]. Neighbouring inputs read one word, where the order is the identity.
QP_DEVICE float value_at(const MatrixView& matrix, int32_t column, int32_t input) {
    const int32_t row = int32_t(load_const32(matrix.scatter + input));
    const int32_t chunk = row / chunk_rows, slab = row / slab_rows, c = column >> 3 & 1;
    // The lane, pair and half whose fragment_row and fragment_column these are.
    const int32_t lane = 4 * (column & 7) + (row >> 3 & 3), half = row & 1;
    const int32_t pair = 8 * (slab & 1) + 4 * (row >> 2 & 1) + 2 * (row >> 1 & 1) + c;
    const Section& section = section_of(matrix, chunk);
    const int32_t block = column / block_columns;
    const uint32_t* words = matrix.words + uint64_t(block) * matrix.block_words + section.word0 +
                            uint32_t(chunk - section.chunk0) * uint32_t(32 * section.bits);
    const int64_t at = group_of(matrix, section, block, slab) * 8 + (column & 7);
    const float scale = half_to_float(load_const32(matrix.scales + at) >> (16 * c) & 0xffffu);
    uint32_t code = 0;
    switch (section.bits) {
        case 2:
            code = code_of<2>(words, lane, pair, half);
            break;
        case 3:
            code = code_of<3>(words, lane, pair, half);
            break;
        case 4:
            code = code_of<4>(words, lane, pair, half);
            break;
        case 5:
            code = code_of<5>(words, lane, pair, half);
            break;
        case 6:
            code = code_of<6>(words, lane, pair, half);
            break;
        case 8:
            code = code_of<8>(words, lane, pair, half);
            break;
        default:
            return mul_rn(scale, half_to_float(code_of<16>(words, lane, pair, half)));
    }
    const uint32_t zero = matrix.zeros ? load_const16(matrix.zeros + at) >> (8 * c) & 0xffu : 1u << (section.bits - 1);
    return half_to_float(float_to_half(mul_rn(scale, float(int32_t(code) - int32_t(zero)))));
}

constexpr int32_t n_threads = 256;

/// out (rows, k) FP32 with stride ld. Grid (k / 256, rows).
QP_KERNEL QP_BOUNDS(n_threads, 4) embed_kernel(QP_PARAM EmbedLaunch embed) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const int32_t row = int32_t(blockIdx.y), input = int32_t(blockIdx.x * n_threads + threadIdx.x);
    if (input >= embed.table.k) return;
    int32_t token = row < embed.step.header->n_rows ? embed.step.rows[row].token : 0;
    if (token < 0) token = embed.chosen[-1 - token];
    if (token < 0 || token >= embed.table.n) token = 0;  // of a row whose logits were NaN
    embed.out[row * embed.ld + input] = mul_rn(embed.scale, value_at(embed.table, token, input));
}

/// x (rows, k) FP32 with stride ld. Grid (k / 256, rows).
QP_KERNEL QP_BOUNDS(n_threads, 4)
    positions_kernel(QP_PARAM MatrixView table, StepView step, int32_t offset, float* x, int64_t ld) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const int32_t row = int32_t(blockIdx.y), input = int32_t(blockIdx.x * n_threads + threadIdx.x);
    if (input >= table.k || row >= step.header->n_rows) return;
    const int32_t column = step.rows[row].position + offset;
    if (column < 0 || column >= table.n) return;
    float* at = x + row * ld + input;
    *at = add_rn(*at, value_at(table, column, input));
}

Status refuse(std::string what) { return Status::error(invalid_argument, "decode: " + std::move(what)); }

constexpr int32_t most_rows = 65535;  // of a grid

}  // namespace

void decode_blocks(Queue& queue, const MatrixView& matrix, int32_t block0, int32_t n_blocks, uint16_t* out) {
    if (!queue.ok() || n_blocks == 0) return;
    if (block0 < 0 || n_blocks < 0 || block0 > matrix.n_blocks - n_blocks) {
        return queue.keep(refuse("column blocks " + std::to_string(block0) + " to " +
                                 std::to_string(int64_t(block0) + n_blocks) + " of a matrix of " +
                                 std::to_string(matrix.n_blocks)));
    }
    if (reinterpret_cast<uintptr_t>(out) & 15) return queue.keep(refuse("out must be aligned to 16 bytes"));
    launch(queue, "decode_blocks", decode_kernel,
           {uint32_t(n_blocks), ceil_div(uint64_t(matrix.n_chunks), n_warps * unit_chunks)}, {32 * n_warps}, 0, matrix,
           block0, out);
}

void embed_rows(Queue& queue, const EmbedLaunch& launch_) {
    if (!queue.ok() || launch_.rows == 0) return;
    if (launch_.rows < 0 || launch_.rows > most_rows)
        return queue.keep(refuse(std::to_string(launch_.rows) + " rows to embed; 65535 are supported"));
    launch(queue, "embed_rows", embed_kernel, {ceil_div(uint64_t(launch_.table.k), n_threads), uint32_t(launch_.rows)},
           {n_threads}, 0, launch_);
}

void add_positions(Queue& queue, const MatrixView& table, const StepView& step, int32_t rows, int32_t offset, float* x,
                   int64_t ld) {
    if (!queue.ok() || rows == 0) return;
    if (rows < 0 || rows > most_rows)
        return queue.keep(refuse(std::to_string(rows) + " rows to give positions; 65535 are supported"));
    launch(queue, "add_positions", positions_kernel, {ceil_div(uint64_t(table.k), n_threads), uint32_t(rows)},
           {n_threads}, 0, table, step, offset, x, ld);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
