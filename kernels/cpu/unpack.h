// Chunks of 32 rows x 16 columns: packing, and the plain way back. Layout: layout.h.
#pragma once

#include "kernels/cpu/layout.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr int32_t quad_byte[4] = {0, 2, 1, 3};  // row 4q + i lies in this byte of the column's word

// The code of row k, column c of a chunk.
[[maybe_unused]] inline int32_t chunk_code(const uint8_t* planes, int32_t bits, int32_t k, int32_t c) {
    const int32_t q = k / 4;
    const uint8_t* byte = planes + 4 * c + quad_byte[k % 4];
    if (bits == 8) return byte[64 * q];
    if (bits >= 4) {
        int32_t code = (byte[64 * (q / 2)] >> (4 * (q % 2))) & 15;
        if (bits == 5) code |= ((byte[64 * 4] >> q) & 1) << 4;
        if (bits == 6) code |= ((byte[64 * (4 + q / 4)] >> (2 * (q % 4))) & 3) << 4;
        return code;
    }
    int32_t code = (byte[64 * (q / 4)] >> (2 * (q % 4))) & 3;
    if (bits == 3) code |= ((byte[64 * 2] >> q) & 1) << 2;
    return code;
}

[[maybe_unused]] void unpack_chunk(const uint8_t* planes, int32_t bits, uint8_t code[chunk_rows][tile_columns]) {
    for (int32_t k = 0; k < chunk_rows; ++k) {
        for (int32_t c = 0; c < tile_columns; ++c) code[k][c] = uint8_t(chunk_code(planes, bits, k, c));
    }
}

// The four rows of quad q as one word per column, shifted right by `from` and masked, then left by `to`.
[[maybe_unused]] inline void quad_words(const uint8_t code[chunk_rows][tile_columns], int32_t q, int32_t from,
                                        uint32_t mask, int32_t to, uint32_t word[tile_columns]) {
    for (int32_t c = 0; c < tile_columns; ++c) {
        const uint32_t bytes = uint32_t(code[4 * q][c]) | uint32_t(code[4 * q + 1][c]) << 16 |
                               uint32_t(code[4 * q + 2][c]) << 8 | uint32_t(code[4 * q + 3][c]) << 24;
        word[c] |= ((bytes >> from) & (mask * 0x01010101u)) << to;
    }
}

[[maybe_unused]] void pack_chunk(const uint8_t code[chunk_rows][tile_columns], int32_t bits, uint8_t* planes) {
    uint32_t word[8][tile_columns] = {};
    for (int32_t q = 0; q < 8; ++q) {
        if (bits == 8) {
            quad_words(code, q, 0, 255, 0, word[q]);
        } else if (bits >= 4) {
            quad_words(code, q, 0, 15, 4 * (q % 2), word[q / 2]);
            if (bits == 5) quad_words(code, q, 4, 1, q, word[4]);
            if (bits == 6) quad_words(code, q, 4, 3, 2 * (q % 4), word[4 + q / 4]);
        } else {
            quad_words(code, q, 0, 3, 2 * (q % 4), word[q / 4]);
            if (bits == 3) quad_words(code, q, 2, 1, q, word[2]);
        }
    }
    for (int32_t p = 0; p < bits; ++p) {
        for (int32_t c = 0; c < tile_columns; ++c) {
            for (int32_t b = 0; b < 4; ++b) planes[64 * p + 4 * c + b] = uint8_t(word[p][c] >> (8 * b));
        }
    }
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
