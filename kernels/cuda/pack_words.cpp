#include "kernels/cuda/pack_words.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/half.h"
#include "kernels/threads/pool.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

constexpr size_t buffer_bytes = size_t(4) << 20;  // of codes read before they are packed
constexpr int32_t blocks_at_once = 4;             // 64 columns: whole cache lines of codes

using Bytes [[gnu::vector_size(8)]] = uint8_t;
using Words [[gnu::vector_size(32)]] = uint32_t;  // of the eight lanes with one lane % 4

// ((code >> right) & mask) << left of eight neighbouring columns of a row goes into word `word` of the lanes with `t`.
struct Move {
    uint8_t row, column, t, word, right, left, mask;
};

// All of what half a chunk's codes go through.
struct HalfChunk {
    std::vector<Move> moves;
    std::vector<int32_t> words;  // that it touches

    HalfChunk(int32_t bits, int32_t half) {
        std::vector<bool> touched(size_t(bits), false);
        for (int32_t t = 0; t < 4; ++t) {
            for (int32_t p = 8 * half; p < 8 * half + 8; ++p) {
                FieldPiece pieces[5];
                int32_t n = 1;
                if (bits == 8)
                    pieces[0] = {p / 2, 8 * (p & 1), 8, 0};
                else
                    n = field_pieces(bits, p, pieces);
                for (int32_t high = 0; high < 2; ++high) {
                    for (int32_t i = 0; i < n; ++i) {
                        const FieldPiece& piece = pieces[i];
                        moves.push_back({uint8_t(fragment_row(t, p, high) - slab_rows * half),
                                         uint8_t(fragment_column(t, p)), uint8_t(t), uint8_t(piece.word),
                                         uint8_t(piece.shift), uint8_t(piece.bit + 16 * high),
                                         uint8_t((1 << piece.n_bits) - 1)});
                        touched[size_t(piece.word)] = true;
                    }
                }
            }
        }
        for (int32_t w = 0; w < bits; ++w) {
            if (touched[size_t(w)]) words.push_back(w);
        }
    }

    void pack(int32_t bits, const uint8_t (&codes)[slab_rows][block_columns], uint32_t* chunk) const {
        Words lanes[4][8] = {};
        for (const Move& move : moves) {
            Bytes bytes;
            std::memcpy(&bytes, codes[move.row] + move.column, sizeof bytes);
            const Words wide = __builtin_convertvector(bytes, Words);
            lanes[move.t][move.word] |= ((wide >> uint32_t(move.right)) & uint32_t(move.mask)) << uint32_t(move.left);
        }
        for (const int32_t w : words) {
            for (int32_t t = 0; t < 4; ++t) {
                for (int32_t g = 0; g < 8; ++g) chunk[chunk_word(bits, 4 * g + t, w)] |= lanes[t][w][g];
            }
        }
    }
};

const Section& section_of(const MatrixView& view, int32_t slab) {
    int32_t i = view.n_sections - 1;
    while (slab < 2 * view.sections[i].chunk0) --i;
    return view.sections[i];
}

// Rows of codes that fill a slab of K', or the beginning of it.
struct Filling {
    int32_t slab, group, rows;
    size_t row;  // in the buffer
};

// Packs what a buffer of codes (rows, N) holds.
class Packer {
 public:
    Packer(const QuantSource& source, const MatrixView& view, uint32_t* words)
        : source_(source), view_(view), words_(words) {
        for (int32_t i = 0; i < view.n_sections; ++i) {
            halves_.emplace_back(view.sections[i].bits, 0);
            halves_.emplace_back(view.sections[i].bits, 1);
        }
    }

    Status pack(const std::vector<Filling>& fillings, const uint8_t* codes) {
        if (fillings.empty()) return {};
        const int32_t quads = (view_.n_blocks + blocks_at_once - 1) / blocks_at_once;
        std::atomic<int32_t> misfit{-1};
        auto work = [&](int32_t index, int32_t count) {
            const auto cut = [&](int32_t i) { return int32_t(int64_t(quads) * i / count) * blocks_at_once; };
            for (int32_t block0 = cut(index); block0 < cut(index + 1); block0 += blocks_at_once) {
                for (const Filling& filling : fillings) {
                    const int32_t end = std::min(block0 + blocks_at_once, view_.n_blocks);
                    for (int32_t block = block0; block < end; ++block) {
                        if (!fill(filling, codes, block)) misfit.store(filling.group, std::memory_order_relaxed);
                    }
                }
            }
        };
        run_parallel(std::max(1, std::min(default_threads(), quads)), std::move(work));
        if (const int32_t group = misfit.load(); group >= 0) {
            return Status::error(invalid_argument, "a code of group " + std::to_string(group) + " does not fit its " +
                                                       std::to_string(source_.groups[size_t(group)].bits) +
                                                       " bits; the file is damaged");
        }
        return {};
    }

 private:
    // False if a code does not fit its width.
    bool fill(const Filling& filling, const uint8_t* codes, int32_t block) const {
        const Section& section = section_of(view_, filling.slab);
        const size_t n = size_t(view_.n), column0 = size_t(block) * block_columns;
        const size_t columns = std::min(size_t(block_columns), n - column0);
        const int32_t most = (1 << section.bits) - 1;
        uint8_t pad[block_columns];  // decodes to 0
        for (size_t c = 0; c < block_columns; ++c) {
            const bool stored = filling.group >= 0 && c < columns;
            pad[c] = source_.zeros.empty() ? uint8_t(1 << (section.bits - 1))
                     : stored ? uint8_t(std::min<int32_t>(most, source_.zeros[size_t(filling.group) * n + column0 + c]))
                              : uint8_t(0);
        }
        uint8_t tile[slab_rows][block_columns];
        for (int32_t row = filling.rows; row < slab_rows; ++row) std::memcpy(tile[row], pad, block_columns);
        const uint8_t* from = codes + filling.row * n + column0;
        for (int32_t row = 0; row < filling.rows; ++row, from += n) {
            if (columns == block_columns) {
                std::memcpy(tile[row], from, block_columns);
            } else {
                std::memcpy(tile[row], pad, block_columns);
                std::memcpy(tile[row], from, columns);
            }
        }
        bool fits = true;
        if (const int32_t bits = filling.group < 0 ? 8 : source_.groups[size_t(filling.group)].bits; bits < 8) {
            uint8_t all = 0;
            for (int32_t row = 0; row < filling.rows; ++row) {
                for (size_t c = 0; c < columns; ++c) all |= tile[row][c];
            }
            fits = all < 1 << bits;
            if (bits == 7 && source_.zeros.empty()) {  // packed as 8, whose middle is 64 higher
                for (int32_t row = 0; row < filling.rows; ++row) {
                    for (size_t c = 0; c < columns; ++c) tile[row][c] = uint8_t(tile[row][c] + 64);
                }
            }
        }
        const int32_t chunk = filling.slab / 2;
        uint32_t* to = words_ + size_t(block) * view_.block_words + section.word0 +
                       size_t(chunk - section.chunk0) * size_t(32 * section.bits);
        halves_[size_t(2 * (&section - view_.sections) + (filling.slab & 1))].pack(section.bits, tile, to);
        return fits;
    }

    const QuantSource& source_;
    const MatrixView& view_;
    uint32_t* words_;
    std::vector<HalfChunk> halves_;  // of each section
};

// (groups, N) to (blocks, groups, 8) pairs {column g, column g + 8}, the second shifted by `shift`.
template <class From, class To>
void put_pairs(const std::vector<From>& from, const MatrixView& view, const std::vector<int32_t>& packed_group,
               int32_t shift, To* to) {
    const size_t n = size_t(view.n);
    for (size_t block = 0; block < size_t(view.n_blocks); ++block) {
        for (const int32_t group : packed_group) {
            for (size_t i = 0; i < 8; ++i, ++to) {
                const auto value = [&](size_t column) {
                    return group >= 0 && column < n ? uint32_t(from[size_t(group) * n + column]) : 0u;
                };
                *to = To(value(16 * block + i) | (value(16 * block + i + 8) << shift));
            }
        }
    }
}

float plain_value(const void* row, DType type, int64_t k) {
    if (type == DType::f32) return static_cast<const float*>(row)[k];
    const uint16_t bits = static_cast<const uint16_t*>(row)[k];
    return type == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

// A column of FP16 in `halves` and the exponent that it was divided by.
int32_t scale_column(const void* row, DType type, int32_t k, uint16_t* halves) {
    if (type == DType::f16) {
        std::memcpy(halves, row, size_t(k) * 2);
        return 0;
    }
    float largest = 0;
    for (int32_t i = 0; i < k; ++i) {
        const float magnitude = std::fabs(plain_value(row, type, i));
        if (magnitude > largest && magnitude <= 3.402823466e38f) largest = magnitude;
    }
    int32_t exponent = 0;
    if (largest > 0) std::frexp(largest, &exponent);
    exponent = std::clamp(exponent, -24, 15);  // what FP16 has, subnormal ones included
    const float inverse = std::ldexp(1.0f, -exponent);
    for (int32_t i = 0; i < k; ++i) halves[i] = f32_to_f16(plain_value(row, type, i) * inverse);
    return exponent;
}

uint16_t half_power(int32_t exponent) { return f32_to_f16(std::ldexp(1.0f, exponent)); }

}  // namespace

void clear_image(uint8_t* image, uint64_t bytes) {
    run_parallel(bytes > buffer_bytes ? default_threads() : 1, [&](int32_t index, int32_t count) {
        const uint64_t begin = bytes / uint64_t(count) * uint64_t(index);
        std::memset(image + begin, 0, index + 1 == count ? bytes - begin : bytes / uint64_t(count));
    });
}

void put_scales(const QuantSource& source, const MatrixView& view, const std::vector<int32_t>& packed_group,
                uint32_t* scales) {
    put_pairs(source.scales, view, packed_group, 16, scales);
}

void put_zeros(const QuantSource& source, const MatrixView& view, const std::vector<int32_t>& packed_group,
               uint16_t* zeros) {
    put_pairs(source.zeros, view, packed_group, 8, zeros);
}

Status put_codes(const QuantSource& source, const MatrixView& view, const std::vector<int32_t>& slab0,
                 const std::vector<int32_t>& packed_group, uint32_t* words) {
    const size_t n = size_t(source.out_features);
    const size_t room = std::max(size_t(slab_rows), buffer_bytes / n / slab_rows * slab_rows);  // rows
    std::vector<uint8_t> codes(std::min(room, size_t(view.k)) * n);
    std::vector<Filling> fillings;
    std::vector<bool> filled(size_t(view.k_padded) / slab_rows, false);
    Packer packer(source, view, words);
    size_t held = 0;
    int32_t row0 = 0;
    for (size_t g = 0; g < source.groups.size(); ++g) {
        for (int32_t row = 0; row < source.groups[g].rows;) {
            if (room - held < slab_rows) {
                if (Status status = packer.pack(fillings, codes.data()); !status.ok()) return status;
                fillings.clear();
                held = 0;
            }
            const int32_t rest = source.groups[g].rows - row;
            const int32_t rows = size_t(rest) <= room - held ? rest : int32_t((room - held) / slab_rows * slab_rows);
            if (Status status = source.read_codes(row0 + row, rows, codes.data() + held * n); !status.ok())
                return status;
            for (int32_t i = 0; i < rows; i += slab_rows) {
                const int32_t slab = slab0[g] + (row + i) / slab_rows;
                fillings.push_back({slab, int32_t(g), std::min(slab_rows, rows - i), held + size_t(i)});
                filled[size_t(slab)] = true;
            }
            held += size_t(rows);
            row += rows;
        }
        row0 += source.groups[g].rows;
    }
    if (Status status = packer.pack(fillings, codes.data()); !status.ok()) return status;
    fillings.clear();
    for (int32_t slab = 0; slab < view.k_padded / slab_rows; ++slab) {
        if (filled[size_t(slab)]) continue;
        const Section& section = section_of(view, slab);
        const int32_t group = section.group0 + ((slab - 2 * section.chunk0) >> section.group_shift);
        fillings.push_back({slab, packed_group[size_t(group)], 0, 0});
    }
    return packer.pack(fillings, codes.data());
}

Status put_plain(const DenseSource& source, const MatrixView& view, uint32_t* words, uint32_t* scales) {
    const size_t value_bytes = source.dtype == DType::f32 ? 4 : 2, row_bytes = size_t(view.k) * value_bytes;
    const int32_t at_once = std::max(1, std::min(view.n_blocks, int32_t(buffer_bytes / (row_bytes * block_columns))));
    std::vector<uint8_t> rows(size_t(at_once) * block_columns * row_bytes);
    for (int32_t block0 = 0; block0 < view.n_blocks; block0 += at_once) {
        const int32_t n_blocks = std::min(at_once, view.n_blocks - block0), column0 = block0 * block_columns;
        const int32_t columns = std::min(n_blocks * block_columns, view.n - column0);
        if (Status status = source.read_rows(column0, columns, rows.data()); !status.ok()) return status;
        auto work = [&](int32_t index, int32_t count) {
            std::vector<uint16_t> halves(size_t(view.k_padded), 0);
            for (int32_t c = columns * index / count; c < columns * (index + 1) / count; ++c) {
                const int32_t exponent =
                    scale_column(rows.data() + size_t(c) * row_bytes, source.dtype, view.k, halves.data());
                const int32_t block = block0 + c / block_columns, g = c & 7, side = (c >> 3) & 1;
                auto* scale = reinterpret_cast<uint16_t*>(scales + size_t(block) * size_t(view.n_groups) * 8);
                scale[2 * g + side] = half_power(exponent);
                uint32_t* to = words + size_t(block) * view.block_words;
                for (int32_t chunk = 0; chunk < view.n_chunks; ++chunk, to += 32 * 16) {
                    for (int32_t lane = 4 * g; lane < 4 * g + 4; ++lane) {
                        for (int32_t pair = side; pair < 16; pair += 2)
                            std::memcpy(to + chunk_word(16, lane, pair),
                                        halves.data() + chunk * chunk_rows + fragment_row(lane, pair, 0), 4);
                    }
                }
            }
        };
        run_parallel(std::max(1, std::min(default_threads(), columns / 8)), std::move(work));
    }
    return {};
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
