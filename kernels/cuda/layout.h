// How a CUDA device holds a matrix, quantised or plain, of either format.
//
// W (K, N) lies in blocks of 16 columns ("column block"), each cut along K' in chunks of 64 rows. K' is the sorted rows
// in sections of one width, widest first, every section padded to a multiple of 128 rows; `gather` says which input a
// row of K' takes (-1: padding, whose code decodes to exactly 0). A chunk of b bits is 32 lanes x b words of 32 bits;
// what a lane holds is exactly its part of the A operand of four mma.m16n8k16, so that neither shared memory nor a
// shuffle moves it: with g = lane / 4, t = lane % 4, pair p = 4 s + r (k-step s, A register r) holds
//     column g + 8 (r & 1),  rows fragment_row(lane, p, 0) and fragment_row(lane, p, 1), which are neighbours.
// The order of rows within a chunk is such that the B fragments of two k-steps are 8 consecutive FP16 activations.
// Widths: 2, 3, 4, 5, 6, 8 (7-bit codes are packed as 8), and 16 for plain matrices (FP16 times a power of two per
// column). Scales: (column blocks, groups, 8) pairs of FP16 {column g, column g + 8}; zero points likewise pairs of
// bytes. Source: the fragment tables of PTX ISA, "Matrix Fragments for mma.m16n8k16".
#pragma once

#include "kernels/cuda/qualifiers.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t block_columns = 16;
constexpr int32_t chunk_rows = 64;
constexpr int32_t slab_rows = 32;  // half a chunk: the smallest group
constexpr int32_t section_rows = 128;
constexpr int32_t max_sections = 6;
constexpr int32_t max_splits = 16;
constexpr int32_t one_group = 30;  // group_shift of a section that is one group

struct Section {
    int32_t bits;
    int32_t chunk0, n_chunks;  // n_chunks even
    int32_t group_shift;       // a group is 32 << group_shift rows
    int32_t group0;
    uint32_t word0;  // in its column block
};

/// By value into kernels; all pointers are the device's.
struct MatrixView {
    const uint32_t* words = nullptr;   // (n_blocks, block_words)
    const uint32_t* scales = nullptr;  // (n_blocks, n_groups, 8)
    const uint16_t* zeros = nullptr;   // (n_blocks, n_groups, 8); null: 2^(bits-1)
    const float* bias = nullptr;       // (N) or null
    const int32_t* gather = nullptr;   // (K'): the input of a row, -1 for padding
    const int32_t* scatter = nullptr;  // (K): the row of an input
    const int32_t* padding = nullptr;  // (n_padding): the rows without an input
    int32_t k = 0, n = 0, k_padded = 0, n_blocks = 0, n_padding = 0;
    uint32_t block_words = 0;
    int32_t n_groups = 0, n_chunks = 0, n_sections = 0;
    Section sections[max_sections] = {};
    /// K' is cut in n_splits ranges of chunks, even numbers, of about equal bytes: what is summed in one go, in this
    /// order whatever the number of rows. 8 or 16.
    int32_t n_splits = 8;
    int32_t split_begin[max_splits + 1] = {};
};

/// Position of pair p's low and high halves in a chunk: rows 0..63.
QP_HOST_DEVICE int32_t fragment_row(int32_t lane, int32_t pair, int32_t half) {
    const int32_t s = pair >> 2, r = pair & 3;
    return 32 * (s >> 1) + 8 * (lane & 3) + 4 * (s & 1) + 2 * (r >> 1) + half;
}
QP_HOST_DEVICE int32_t fragment_column(int32_t lane, int32_t pair) { return (lane >> 2) + 8 * (pair & 1); }

/// Where word w of a lane lies in its chunk: planes of 16, 8 or 4 bytes a lane, so that loads are wide and coalesced.
QP_HOST_DEVICE int32_t chunk_word(int32_t bits, int32_t lane, int32_t w) {
    if (bits >= 8) return (w >> 2) * 128 + lane * 4 + (w & 3);
    if (bits >= 4) {
        if (w < 4) return lane * 4 + w;
        return bits == 6 ? 128 + lane * 2 + (w - 4) : 128 + lane;
    }
    return w < 2 ? lane * 2 + w : 64 + lane;
}

/// A piece of a field: `n_bits` of it, from value bit `shift`, at `bit` of word `word`; the pair's high half 16 above.
struct FieldPiece {
    int32_t word, bit, n_bits, shift;
};
/// Where the fields of pair p lie in a lane's words, for widths 2..6. The number of pieces, at most 5.
QP_HOST_DEVICE int32_t field_pieces(int32_t bits, int32_t p, FieldPiece* out) {
    if (bits == 4) {
        out[0] = {p >> 2, (p & 3) * 4, 4, 0};
        return 1;
    }
    if (bits == 2) {
        out[0] = {p >> 3, (p & 7) * 2, 2, 0};
        return 1;
    }
    if (bits == 3 || bits == 5) {
        const int32_t per_word = bits == 3 ? 5 : 3;  // whole fields of a half-word; the bit that is left serves pair 15
        if (p < 15) {
            out[0] = {p / per_word, (p % per_word) * bits, bits, 0};
            return 1;
        }
        for (int32_t i = 0; i < bits; ++i) out[i] = {i, 15, 1, i};
        return bits;
    }
    if (p < 12) {  // 6: two fields of a half-word, the 4 bits that are left serve pairs 12..15
        out[0] = {p >> 1, (p & 1) * 6, 6, 0};
        return 1;
    }
    const int32_t q = p - 12;
    out[0] = {q, 12, 4, 0};
    out[1] = {4 + (q >> 1), 12 + 2 * (q & 1), 2, 4};
    return 2;
}
/// 8 bits: pair p in word p / 2, bytes (p & 1) and 2 + (p & 1). 16 bits: word p is the pair.

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
