#include "engine/tools/code_bits.h"

#include <algorithm>

namespace quantplug::engine {

CodeBits stream_bits(int32_t bits, int64_t index) {
    const int64_t first = index * bits;
    const uint32_t word = uint32_t(first / 32);
    const int32_t shift = int32_t(first % 32);
    const int32_t low = std::min(bits, 32 - shift);
    CodeBits at;
    at.pieces[0] = {word, uint8_t(shift), uint8_t(low), 0};
    at.n_pieces = 1;
    if (low < bits) at.pieces[size_t(at.n_pieces++)] = {word + 1, 0, uint8_t(bits - low), uint8_t(low)};
    return at;
}

CodeBits planar_bits(int32_t bits, int64_t index) {
    if (bits != 3 && bits != 5 && bits != 6 && bits != 7) return stream_bits(bits, index);
    CodeBits at;
    uint32_t word = uint32_t(index / 32) * uint32_t(bits);
    const int32_t within = int32_t(index % 32);
    int32_t done = 0;
    for (int32_t width : {4, 2, 1}) {
        if (width > bits - done) continue;
        const int32_t per_word = 32 / width;
        at.pieces[size_t(at.n_pieces++)] = {word + uint32_t(within / per_word), uint8_t(width * (within % per_word)),
                                            uint8_t(width), uint8_t(done)};
        word += uint32_t(width);
        done += width;
    }
    return at;
}

void get_code_row(const CodeBits& at, const uint32_t* words, int64_t stride, std::span<uint8_t> out) {
    for (int32_t i = 0; i < at.n_pieces; ++i) {
        const CodeBits::Piece p = at.pieces[size_t(i)];
        const uint32_t* row = words + int64_t(p.word) * stride;
        const uint32_t mask = (1u << p.width) - 1u;
        if (i == 0) {
            for (size_t n = 0; n < out.size(); ++n) out[n] = uint8_t((row[n] >> p.shift) & mask);
        } else {
            for (size_t n = 0; n < out.size(); ++n) out[n] = uint8_t(out[n] | (((row[n] >> p.shift) & mask) << p.at));
        }
    }
}

void put_code_row(const CodeBits& at, std::span<const uint8_t> codes, uint32_t* words, int64_t stride) {
    for (int32_t i = 0; i < at.n_pieces; ++i) {
        const CodeBits::Piece p = at.pieces[size_t(i)];
        uint32_t* row = words + int64_t(p.word) * stride;
        const uint32_t mask = (1u << p.width) - 1u;
        for (size_t n = 0; n < codes.size(); ++n) row[n] |= ((uint32_t(codes[n]) >> p.at) & mask) << p.shift;
    }
}

}  // namespace quantplug::engine
