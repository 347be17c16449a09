// Where the bits of one code lie in a run of 32-bit words: the two layouts that checkpoints use.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace quantplug::engine {

/// Up to three bit fields, each within one word, that make a code.
struct CodeBits {
    struct Piece {
        uint32_t word;             // index into the run
        uint8_t shift, width, at;  // `width` bits from bit `shift` of the word become bits `at`.. of the code
    };
    std::array<Piece, 3> pieces{};
    int32_t n_pieces = 0;
};

/// Code `index` of a little-endian bit stream: bits index*bits .. index*bits+bits-1, the least significant bit of a
/// word first.
CodeBits stream_bits(int32_t bits, int64_t index);

/// Code `index` of the planar layout (GPTQModel's gptq_p): 32 codes fill `bits` words, split in planes of 4, 2 and 1
/// bits (3-bit codes in 2 and 1); the low plane first, a plane of width w in w words. 2, 4 and 8 bits: as stream_bits.
CodeBits planar_bits(int32_t bits, int64_t index);

/// One code.
inline uint32_t get_code(const CodeBits& at, const uint32_t* words) {
    uint32_t code = 0;
    for (int32_t i = 0; i < at.n_pieces; ++i) {
        const CodeBits::Piece& p = at.pieces[size_t(i)];
        code |= ((words[p.word] >> p.shift) & ((1u << p.width) - 1u)) << p.at;
    }
    return code;
}

/// Sets one code in words that are zero there.
inline void put_code(const CodeBits& at, uint32_t code, uint32_t* words) {
    for (int32_t i = 0; i < at.n_pieces; ++i) {
        const CodeBits::Piece& p = at.pieces[size_t(i)];
        words[p.word] |= ((code >> p.at) & ((1u << p.width) - 1u)) << p.shift;
    }
}

/// One code of each of out.size() columns; `words` is (rows, stride) with stride >= out.size(), columns are the runs.
void get_code_row(const CodeBits& at, const uint32_t* words, int64_t stride, std::span<uint8_t> out);

/// Sets one code of each of codes.size() columns in words that are zero there.
void put_code_row(const CodeBits& at, std::span<const uint8_t> codes, uint32_t* words, int64_t stride);

}  // namespace quantplug::engine
