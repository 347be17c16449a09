// The product of FP16 matrices on mma.sync, for machines without cuBLAS, and gemm_product around either.
#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/cuda/decode.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/portable.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

// A block of 4 warps makes a tile of TileRows x 128, each warp a quarter (TileRows / 2 x 64); along k in steps of 32
// through a ring of 3 stages in shared memory. 128 x 128: a warp's 64 x 64 take 128 registers of sums and 8 ldmatrix
// for 32 mma, so that shared memory (8 x 4 of 128 bytes/clk) stays under the tensor cores' time, where 64 x 32 would be
// level with it; 2 blocks of 128 threads at up to 255 registers fill the registers of an SM, 2 x 48 KB fit from sm_86
// on. Expected on an H200 (not measured): mma.sync reaches about 0.6 of its 990 TFLOP/s; a tile's step reads 16 KB for
// 1.05 MFLOP, so that 5.5 TB/s from L2 carry 350 TFLOP/s: that is the bound, about half of cuBLAS. Issue is none: a
// warp's step is 132 instructions (64 mma, 16 ldmatrix, 8 copies), 264 clk of each scheduler in the 820 of 8 warps'
// mma.
constexpr int32_t tile_columns = 128;
constexpr int32_t tile_k = 32;
constexpr int32_t n_stages = 3;
constexpr int32_t n_threads = 128;
constexpr int32_t row_bytes = tile_k * 2;

QP_HOST_DEVICE constexpr int32_t stage_bytes(int32_t tile_rows) { return (tile_rows + tile_columns) * row_bytes; }

/// Where 16-byte piece 0..3 of a tile's row lies: 8 neighbouring rows of one piece meet 8 different groups of banks.
QP_DEVICE int32_t piece_at(int32_t row, int32_t piece) { return row * row_bytes + ((piece ^ (row >> 1)) & 3) * 16; }

struct GemmArguments {
    GemmLaunch gemm;
    int32_t pairs;  // out allows stores of 8 bytes
};

/// x (rows, k) FP16, w (columns, k) FP16, out (rows, columns) FP32; k a multiple of 32; rows and columns beyond the
/// edge are read as the last ones and not stored. Grid (row tiles, column tiles). Sums run through k in steps of 16,
/// ascending.
template <int TileRows>
QP_KERNEL QP_BOUNDS(n_threads, TileRows == 128 ? 2 : 3) gemm_tiles(QP_PARAM GemmArguments arguments) {
    const GemmLaunch& gemm = arguments.gemm;
    constexpr int m_tiles = TileRows / 32;  // of 16 rows, a warp
    constexpr int x_copies = TileRows / 32, w_copies = tile_columns / 32;
    constexpr int32_t stage = stage_bytes(TileRows), w_offset = TileRows * row_bytes;
    unsigned char* shared = dynamic_shared();
    const int32_t thread = int32_t(threadIdx.x), lane = thread & 31, warp = thread >> 5;
    const int32_t first_row = int32_t(blockIdx.x) * TileRows, first_column = int32_t(blockIdx.y) * tile_columns;

    // Copies: thread i takes piece i % 4 of rows i / 4 + 32 j.
    const int32_t copy_row = thread >> 2, copy_piece = thread & 3, copy_at = piece_at(copy_row, copy_piece);
    const uint16_t *x_from[x_copies], *w_from[w_copies];
    QP_UNROLL
    for (int j = 0; j < x_copies; ++j) {
        const int32_t row = first_row + copy_row + 32 * j;
        x_from[j] = gemm.x + (row < gemm.rows ? row : gemm.rows - 1) * gemm.x_ld + copy_piece * 8;
    }
    QP_UNROLL
    for (int j = 0; j < w_copies; ++j) {
        const int32_t column = first_column + copy_row + 32 * j;
        w_from[j] = gemm.w + (column < gemm.columns ? column : gemm.columns - 1) * gemm.w_ld + copy_piece * 8;
    }
    const auto copy_stage = [&](unsigned char* to) {
        QP_UNROLL
        for (int j = 0; j < x_copies; ++j) {
            copy_async<16>(to + copy_at + j * 32 * row_bytes, x_from[j]);
            x_from[j] += tile_k;
        }
        QP_UNROLL
        for (int j = 0; j < w_copies; ++j) {
            copy_async<16>(to + w_offset + copy_at + j * 32 * row_bytes, w_from[j]);
            w_from[j] += tile_k;
        }
    };

    // Fragments: x4 of ldmatrix is 16 rows x 16 k of x, and 16 columns x 16 k of w. The second k step is 32 bytes
    // further before the swizzle: an xor behind it.
    const int32_t warp_row = (warp >> 1) * (TileRows / 2), warp_column = (warp & 1) * 64;
    const int32_t x_at = piece_at(warp_row + (lane & 15), lane >> 4);
    const int32_t w_at = w_offset + piece_at(warp_column + (lane & 7) + 8 * (lane >> 4), (lane >> 3) & 1);
    uint32_t a[2][m_tiles][4], b[2][4][4];
    const auto load_fragments = [&](const unsigned char* from, int step) {
        QP_UNROLL
        for (int i = 0; i < m_tiles; ++i) load_matrices(a[step][i], from + (x_at ^ (32 * step)) + i * 16 * row_bytes);
        QP_UNROLL
        for (int j = 0; j < 4; ++j) load_matrices(b[step][j], from + (w_at ^ (32 * step)) + j * 16 * row_bytes);
    };
    float sums[m_tiles][8][4] = {};
    const auto multiply = [&](int step) {
        QP_UNROLL
        for (int i = 0; i < m_tiles; ++i) {
            QP_UNROLL
            for (int j = 0; j < 8; ++j)
                mma_16x8x16(sums[i][j], a[step][i], b[step][j >> 1][2 * (j & 1)], b[step][j >> 1][2 * (j & 1) + 1]);
        }
    };

    wait_for_earlier_kernels();
    const int32_t n_tiles = gemm.k / tile_k;
    QP_UNROLL
    for (int s = 0; s < n_stages - 1; ++s) {
        if (s < n_tiles) copy_stage(shared + s * stage);
        commit_copies();
    }
    wait_copies<n_stages - 2>();
    sync_block();
    load_fragments(shared, 0);
    unsigned char *now = shared, *to = shared + (n_stages - 1) * stage;
    unsigned char* const end = shared + n_stages * stage;
    QP_NO_UNROLL
    for (int32_t tile = 0; tile < n_tiles; ++tile) {
        load_fragments(now, 1);
        // Into the stage of the tile before, which every warp had read before the last barrier.
        if (tile + n_stages - 1 < n_tiles) copy_stage(to);
        commit_copies();
        multiply(0);
        now = now + stage == end ? shared : now + stage;
        to = to + stage == end ? shared : to + stage;
        wait_copies<n_stages - 2>();
        sync_block();
        if (tile + 1 < n_tiles) load_fragments(now, 0);
        multiply(1);
    }
    wait_copies<0>();
    let_next_kernel_start();

    const bool add = gemm.store == Store::add;
    const bool whole = arguments.pairs && first_column + tile_columns <= gemm.columns;
    QP_UNROLL
    for (int i = 0; i < m_tiles; ++i) {
        QP_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int32_t row = first_row + warp_row + 16 * i + 8 * half + (lane >> 2);
            const int32_t first = first_column + warp_column + 2 * (lane & 3);
            float* out = gemm.out + row * gemm.ld + first;
            if (row < gemm.rows && whole) {
                uint2 before[8] = {};
                if (add) {
                    QP_UNROLL
                    for (int j = 0; j < 8; ++j) before[j] = load2(out + 8 * j);
                }
                QP_UNROLL
                for (int j = 0; j < 8; ++j) {
                    *reinterpret_cast<uint2*>(out + 8 * j) = {
                        float_bits(add_rn(bits_float(before[j].x), mul_rn(sums[i][j][2 * half], gemm.alpha))),
                        float_bits(add_rn(bits_float(before[j].y), mul_rn(sums[i][j][2 * half + 1], gemm.alpha)))};
                }
            } else if (row < gemm.rows) {
                QP_UNROLL
                for (int j = 0; j < 16; ++j) {
                    const int at = 8 * (j >> 1) + (j & 1);
                    if (first + at >= gemm.columns) continue;
                    const float value = mul_rn(sums[i][j >> 1][2 * half + (j & 1)], gemm.alpha);
                    out[at] = add_rn(add ? out[at] : 0.0f, value);
                }
            }
        }
    }
}

/// out (rows, columns) += bias (columns). Grid (columns / 256, rows in 8s).
QP_KERNEL QP_BOUNDS(256, 4) add_bias(const float* bias, int32_t rows, int32_t columns, float* out, int64_t ld) {
    wait_for_earlier_kernels();
    let_next_kernel_start();
    const int32_t column = int32_t(blockIdx.x * 256 + threadIdx.x);
    if (column >= columns) return;
    const float value = bits_float(load_const32(bias + column));
    for (int32_t row = int32_t(blockIdx.y) * 8, end = row + 8 < rows ? row + 8 : rows; row < end; ++row)
        out[row * ld + column] += value;
}

Status refuse(std::string what) { return Status::error(invalid_argument, "gemm: " + std::move(what)); }

// Halves of one block of columns. Where rows are many, what a product reads and writes besides wants its share of an L2
// of 50 MB, and blocks of half the size have tiles enough to fill a card; where they are few, wide blocks have.
constexpr uint64_t scratch_halves = uint64_t(20) << 20;  // 40 MiB
constexpr int32_t many_rows = 1024;
constexpr int32_t widest_block = 4096;

/// A multiple of 128, of 1024 where it can be: whole tiles, whole waves of them.
int32_t columns_of_block(int32_t k_padded, int32_t rows) {
    const uint64_t halves = rows > many_rows ? scratch_halves / 2 : scratch_halves;
    const uint64_t columns = std::min<uint64_t>(halves / uint64_t(k_padded), widest_block);
    const uint64_t unit = columns >= 1024 ? 1024 : 128;
    return int32_t(std::max<uint64_t>(columns / unit * unit, 128));
}

}  // namespace

void gemm(Queue& queue, const GemmLaunch& launch_, int32_t tile_rows) {
    if (!queue.ok() || launch_.rows == 0 || launch_.columns == 0) return;
    if (launch_.rows < 0 || launch_.columns < 0 || launch_.k <= 0 || launch_.k % tile_k ||
        (tile_rows != 0 && tile_rows != 64 && tile_rows != 128)) {
        return queue.keep(refuse("a product of " + std::to_string(launch_.rows) + " x " + std::to_string(launch_.k) +
                                 " by " + std::to_string(launch_.columns) + " columns in tiles of " +
                                 std::to_string(tile_rows) + " rows; k is a multiple of 32, tiles have 64 or 128"));
    }
    if ((reinterpret_cast<uintptr_t>(launch_.x) | reinterpret_cast<uintptr_t>(launch_.w) | uintptr_t(launch_.x_ld * 2) |
         uintptr_t(launch_.w_ld * 2)) &
        15) {
        return queue.keep(refuse("rows of x and w must be aligned to 16 bytes, x_ld is " +
                                 std::to_string(launch_.x_ld) + ", w_ld " + std::to_string(launch_.w_ld)));
    }
    const bool pairs = reinterpret_cast<uintptr_t>(launch_.out) % 8 == 0 && launch_.ld % 2 == 0;
    const GemmArguments arguments{launch_, pairs};
    const uint32_t columns = ceil_div(uint64_t(launch_.columns), tile_columns);
    // Tiles of 64 rows where those of 128 would leave more than a quarter of an H200's 264 places empty.
    if (tile_rows == 0) tile_rows = ceil_div(uint64_t(launch_.rows), 128) * columns >= 198 ? 128 : 64;
    const Extent grid{ceil_div(uint64_t(launch_.rows), uint64_t(tile_rows)), columns}, block{n_threads};
    const size_t shared_bytes = size_t(n_stages * stage_bytes(tile_rows));
    if (tile_rows == 128) {
        launch(queue, "gemm_128", gemm_tiles<128>, grid, block, shared_bytes, arguments);
    } else {
        launch(queue, "gemm_64", gemm_tiles<64>, grid, block, shared_bytes, arguments);
    }
}

uint64_t gemm_scratch_halves(int32_t k_padded) {
    const uint64_t widest = uint64_t(widest_block) * uint64_t(k_padded), least = 128 * uint64_t(k_padded);
    return std::max(std::min(widest, scratch_halves), least);
}

void gemm_product(Queue& queue, Blas* blas, const ProductLaunch& launch_, uint16_t* scratch) {
    if (!queue.ok() || launch_.rows == 0) return;
    if (launch_.n_matrices < 1 || launch_.n_matrices > 3) {
        return queue.keep(
            refuse("a product of " + std::to_string(launch_.n_matrices) + " matrices; 1 to 3 are supported"));
    }
    const int32_t k_padded = launch_.matrices[0].k_padded;
    GemmLaunch next;  // what lies decoded in the scratch; columns 0: nothing
    next.x = launch_.x.x;
    next.x_ld = launch_.x.ld;
    next.w = scratch;
    next.w_ld = k_padded;
    next.rows = launch_.rows;
    next.k = k_padded;
    next.alpha = std::ldexp(1.0f, launch_.x.exponent);
    next.ld = launch_.ld;
    next.store = launch_.store;
    const auto multiply = [&] {
        if (next.columns == 0) return;
        if (blas) {
            blas->gemm(queue, next);
        } else {
            gemm(queue, next);
        }
        next.columns = 0;
    };
    const int32_t widest = columns_of_block(k_padded, launch_.rows);
    for (int32_t m = 0; m < launch_.n_matrices; ++m) {
        const MatrixView& matrix = launch_.matrices[m];
        if (matrix.k_padded != k_padded || launch_.x.ld < k_padded) {
            return queue.keep(refuse("matrices of " + std::to_string(k_padded) + " and " +
                                     std::to_string(matrix.k_padded) + " rows take one operand of " +
                                     std::to_string(launch_.x.ld)));
        }
        for (int32_t column = 0; column < matrix.n;) {
            // Narrow matrices whose outputs are neighbours (q, k and v) are multiplied in one go.
            float* out = launch_.out + launch_.columns[m] + column;
            const bool joins = next.columns > 0 && next.columns % block_columns == 0 && next.columns < widest &&
                               out == next.out + next.columns;
            if (!joins) {
                multiply();
                next.out = out;
            }
            const int32_t columns = std::min(matrix.n - column, widest - next.columns);
            decode_blocks(queue, matrix, column / block_columns, int32_t(ceil_div(uint64_t(columns), block_columns)),
                          scratch + int64_t(next.columns) * k_padded);
            next.columns += columns;
            column += columns;
        }
    }
    multiply();
    for (int32_t m = 0; m < launch_.n_matrices; ++m) {
        const MatrixView& matrix = launch_.matrices[m];
        if (!matrix.bias) continue;
        launch(queue, "add_bias", add_bias, {ceil_div(uint64_t(matrix.n), 256), ceil_div(uint64_t(launch_.rows), 8)},
               {256}, 0, matrix.bias, launch_.rows, matrix.n, launch_.out + launch_.columns[m], launch_.ld);
    }
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
