// How the CPU holds a matrix.
//
// Quantised: tile = 16 columns x K', contiguous. K' is the sorted rows with each group padded to whole chunks of 32
// rows (codes that decode to zero, activations 0). A chunk of b bits is 64*b bytes: planes of 64 bytes, one 32-bit word
// per column, whose four bytes hold four consecutive rows 4q .. 4q+3 ("quad" q = 0..7) in the order 0, 2, 1, 3: the
// even bytes of a word are then rows 4q, 4q+1 and the odd bytes rows 4q+2, 4q+3, so that a mask and a shift give 16-bit
// pairs that vpmaddwd / vpdpwssd take with activations in row order.
//
//   bits   planes                                                   quad q lies in
//   2      2 of crumbs                                              plane q/4, bits 2(q%4)
//   3      2 of crumbs, 1 of high bits                              as 2; the high bit: bit q of the last plane's byte
//   4      4 of nibbles                                             plane q/2, bits 4(q%2)
//   5      4 of nibbles, 1 of high bits                             as 4; the high bit: bit q of the last plane's byte
//   6      4 of nibbles, 2 of crumbs                                as 4; the high 2 bits: plane 4+q/4, bits 2(q%4)
//   8      8 of bytes                                               plane q
//
// Scales (tile, group, 16) FP16; zero points (tile, group, 16) u8, or one number per group. Columns that pad N have
// scale 0. Dense: (N, K) as stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

constexpr int32_t tile_columns = 16;
constexpr int32_t chunk_rows = 32;
constexpr int32_t chunk_bytes_per_bit = 64;

struct Group {
    int32_t chunks;  // of 32 rows
    int32_t zero;    // the fixed zero point; unused where there are zero points per column
};

/// Consecutive groups of one width.
struct Section {
    int32_t bits;  // 2, 3, 4, 5, 6, 8
    int32_t group0, n_groups;
    int32_t chunk0;
    uint64_t offset;  // bytes from the tile's start
};

struct QuantView {
    const uint8_t* codes;     // (n_tiles, tile_bytes)
    const uint16_t* scales;   // (n_tiles, n_groups, 16)
    const uint8_t* zeros;     // (n_tiles, n_groups, 16), or null
    const float* bias;        // (N), or null
    const Group* groups;      // (n_groups)
    const Section* sections;  // (n_sections)
    int32_t n_groups, n_sections;
    int32_t n, n_tiles;
    int32_t chunks;  // K' / 32
    uint64_t tile_bytes;
};

enum class DenseType : uint8_t { f32, f16, bf16 };

struct DenseView {
    const void* rows;   // (N, K)
    const float* bias;  // (N), or null
    int32_t k, n;
    DenseType type;
};

/// Activations of a step, quantised or not, in a matrix's own row order, padded to K'. Chunk by chunk, the rows side by
/// side: rows of a power of two bytes would all fall into the same sets of the cache.
struct ActView {
    const int16_t* x;    // (chunks, rows, 32)    standard
    const float* scale;  // (chunks, rows)        value = x * scale
    const int32_t* sum;  // (chunks, rows)        sum of x
    const float* value;  // (chunks, rows, 32)    exact
    int32_t chunks, rows;
};

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
