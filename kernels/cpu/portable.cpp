// The portable instruction set: plain loops that define the bits which every other table must give.
#include "kernels/cpu/table.h"
#include "kernels/half.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

void from_half(const uint16_t* x, int32_t n, float* out) {
    for (int32_t i = 0; i < n; ++i) out[i] = f16_to_f32(x[i]);
}

void to_half(const float* x, int32_t n, uint16_t* out) {
    // Saturates: one value beyond FP16's range must not make a whole head NaN.
    for (int32_t i = 0; i < n; ++i)
        out[i] = f32_to_f16(x[i] > 65504.0f ? 65504.0f : x[i] < -65504.0f ? -65504.0f : x[i]);
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels

#include "kernels/cpu/generic.h"
#include "kernels/cpu/unpack.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr int32_t row_block = 64;  // rows that share one unpacking; their sums live on the stack

inline void store_tile(const QuantView& w, int32_t tile, const float* sums, float* out, Store store) {
    const int32_t column0 = tile * tile_columns;
    const int32_t n = w.n - column0 < tile_columns ? w.n - column0 : tile_columns;
    for (int32_t c = 0; c < n; ++c) {
        const float y = w.bias ? sums[c] + w.bias[column0 + c] : sums[c];
        out[column0 + c] = store == Store::add ? out[column0 + c] + y : y;
    }
}

void product_block(const QuantView& w, const ActView& x, int32_t row0, int32_t rows, int32_t tile, float* out,
                   int64_t ld, Store store) {
    float total[row_block][tile_columns] = {};
    for (int32_t s = 0; s < w.n_sections; ++s) {
        const Section& section = w.sections[s];
        const uint8_t* codes = w.codes + uint64_t(tile) * w.tile_bytes + section.offset;
        int32_t chunk = section.chunk0;
        for (int32_t g = section.group0; g < section.group0 + section.n_groups; ++g) {
            const int64_t at = (int64_t(tile) * w.n_groups + g) * tile_columns;
            int32_t zero[tile_columns];
            for (int32_t c = 0; c < tile_columns; ++c) zero[c] = w.zeros ? w.zeros[at + c] : w.groups[g].zero;
            float sums[row_block][tile_columns] = {};
            for (int32_t end = chunk + w.groups[g].chunks; chunk < end; ++chunk) {
                uint8_t code[chunk_rows][tile_columns];
                unpack_chunk(codes, section.bits, code);
                codes += section.bits * chunk_bytes_per_bit;
                for (int32_t r = 0; r < rows; ++r) {
                    const int16_t* q = x.x + (int64_t(chunk) * x.rows + row0 + r) * chunk_rows;
                    int32_t isum[tile_columns] = {};
                    for (int32_t k = 0; k < chunk_rows; ++k) {
                        for (int32_t c = 0; c < tile_columns; ++c) isum[c] += int32_t(q[k]) * int32_t(code[k][c]);
                    }
                    const float scale = x.scale[int64_t(chunk) * x.rows + row0 + r];
                    const int32_t sum = x.sum[int64_t(chunk) * x.rows + row0 + r];
                    for (int32_t c = 0; c < tile_columns; ++c) sums[r][c] += float(isum[c] - zero[c] * sum) * scale;
                }
            }
            for (int32_t r = 0; r < rows; ++r) {
                for (int32_t c = 0; c < tile_columns; ++c) total[r][c] += sums[r][c] * f16_to_f32(w.scales[at + c]);
            }
        }
    }
    for (int32_t r = 0; r < rows; ++r) store_tile(w, tile, total[r], out + int64_t(row0 + r) * ld, store);
}

void product(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out, int64_t ld,
             Store store) {
    for (int32_t row0 = 0; row0 < rows; row0 += row_block) {
        const int32_t n = rows - row0 < row_block ? rows - row0 : row_block;
        for (int32_t tile = tile0; tile < tile1; ++tile) product_block(w, x, row0, n, tile, out, ld, store);
    }
}

// Four running sums per column, by row modulo 4, folded at the end.
void exact_block(const QuantView& w, const ActView& x, int32_t row0, int32_t rows, int32_t tile, float* out, int64_t ld,
                 Store store) {
    float sums[row_block][4][tile_columns] = {};
    for (int32_t s = 0; s < w.n_sections; ++s) {
        const Section& section = w.sections[s];
        const uint8_t* codes = w.codes + uint64_t(tile) * w.tile_bytes + section.offset;
        int32_t chunk = section.chunk0;
        for (int32_t g = section.group0; g < section.group0 + section.n_groups; ++g) {
            const int64_t at = (int64_t(tile) * w.n_groups + g) * tile_columns;
            for (int32_t end = chunk + w.groups[g].chunks; chunk < end; ++chunk) {
                uint8_t code[chunk_rows][tile_columns];
                unpack_chunk(codes, section.bits, code);
                codes += section.bits * chunk_bytes_per_bit;
                float weight[chunk_rows][tile_columns];
                for (int32_t k = 0; k < chunk_rows; ++k) {
                    for (int32_t c = 0; c < tile_columns; ++c) {
                        const int32_t zero = w.zeros ? w.zeros[at + c] : w.groups[g].zero;
                        weight[k][c] =
                            f16_to_f32(f32_to_f16(f16_to_f32(w.scales[at + c]) * float(int32_t(code[k][c]) - zero)));
                    }
                }
                for (int32_t r = 0; r < rows; ++r) {
                    const float* value = x.value + (int64_t(chunk) * x.rows + row0 + r) * chunk_rows;
                    for (int32_t k = 0; k < chunk_rows; ++k) {
                        for (int32_t c = 0; c < tile_columns; ++c) sums[r][k % 4][c] += value[k] * weight[k][c];
                    }
                }
            }
        }
    }
    for (int32_t r = 0; r < rows; ++r) {
        float total[tile_columns];
        for (int32_t c = 0; c < tile_columns; ++c)
            total[c] = (sums[r][0][c] + sums[r][1][c]) + (sums[r][2][c] + sums[r][3][c]);
        store_tile(w, tile, total, out + int64_t(row0 + r) * ld, store);
    }
}

void product_exact(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out,
                   int64_t ld, Store store) {
    for (int32_t row0 = 0; row0 < rows; row0 += row_block) {
        const int32_t n = rows - row0 < row_block ? rows - row0 : row_block;
        for (int32_t tile = tile0; tile < tile1; ++tile) exact_block(w, x, row0, n, tile, out, ld, store);
    }
}

template <class Load>
void dense_columns(const DenseView& w, Load load, const float* x, int64_t ldx, int32_t rows, int32_t n0, int32_t n1,
                   float* out, int64_t ld, Store store) {
    for (int32_t n = n0; n < n1; ++n) {
        for (int32_t r = 0; r < rows; ++r) {
            const float* row = x + r * ldx;
            float lane[16] = {};
            int32_t k = 0;
            for (; k + 16 <= w.k; k += 16) {
                for (int32_t j = 0; j < 16; ++j) lane[j] += row[k + j] * load(int64_t(n) * w.k + k + j);
            }
            for (int32_t j = 0; k + j < w.k; ++j) lane[j] += row[k + j] * load(int64_t(n) * w.k + k + j);
            const float y = w.bias ? fold16(lane) + w.bias[n] : fold16(lane);
            out[r * ld + n] = store == Store::add ? out[r * ld + n] + y : y;
        }
    }
}

void dense(const DenseView& w, const float* x, int64_t ldx, int32_t rows, int32_t n0, int32_t n1, float* out,
           int64_t ld, Store store) {
    const auto* f32 = static_cast<const float*>(w.rows);
    const auto* u16 = static_cast<const uint16_t*>(w.rows);
    if (w.type == DenseType::f32) {
        dense_columns(
            w, [=](int64_t i) { return f32[i]; }, x, ldx, rows, n0, n1, out, ld, store);
    } else if (w.type == DenseType::f16) {
        dense_columns(
            w, [=](int64_t i) { return f16_to_f32(u16[i]); }, x, ldx, rows, n0, n1, out, ld, store);
    } else {
        dense_columns(
            w, [=](int64_t i) { return bf16_to_f32(u16[i]); }, x, ldx, rows, n0, n1, out, ld, store);
    }
}

// The products' own loop over a chunk.
template <class Value, class Code, class Sum>
void multiply_chunk(int64_t turns) {
    Value x[chunk_rows] = {};
    Code codes[chunk_rows][tile_columns] = {};
    Sum sum[4][tile_columns] = {};
    for (int64_t turn = 0; turn < turns; ++turn) {
        asm volatile("" : : "r"(x), "r"(codes) : "memory");  // or the turns are done once
        for (int32_t k = 0; k < chunk_rows; ++k) {
            for (int32_t c = 0; c < tile_columns; ++c) sum[k % 4][c] += Sum(x[k]) * Sum(codes[k][c]);
        }
    }
    asm volatile("" : : "r"(sum) : "memory");
}

double multiply_add(Arithmetic kind, int64_t turns) {
    turns = turns / 16 + 1;  // a chunk is many operations
    if (kind == Arithmetic::int8) {
        multiply_chunk<int8_t, uint8_t, int32_t>(turns);
    } else if (kind == Arithmetic::int16) {
        multiply_chunk<int16_t, uint8_t, int32_t>(turns);
    } else {
        multiply_chunk<float, float, float>(turns);
    }
    return 2.0 * chunk_rows * tile_columns * double(turns);
}

}  // namespace

const Table& portable_table() {
    static constexpr Table table = [] {
        Table t = generic_table("portable");
        t.product = product;
        t.product_exact = product_exact;
        t.dense = dense;
        t.multiply_add = multiply_add;
        return t;
    }();
    return table;
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
