// Tiles of keys and values on their way from the paged cache to shared memory, FP16 there whatever the cache's type.
//
// A tile is one or two pieces of 32 tokens. Thread (row, t) of 128, row = thread / 4, moves of every 32 x 32 square
// eight neighbours: of keys those 8t .. of token `row`, of values those 8t .. (tokens) of dimension `row`. In shared
// memory
//   keys    (tokens, Width)   16-byte piece c of a row at c ^ 4 (row & 1) where rows are a multiple of 128 bytes
//   values  (Width, tokens)   likewise
// so that the eight lanes of a quarter-warp, two rows of 64 bytes, meet all 32 banks both when they store and when they
// load. Lanes load 16 bytes that are the B operands of two mma.m16n8k16 (attention_tile.h says in which order of k):
// neither ldmatrix nor a transposition is needed.
#pragma once

#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/kv.h"
#include "kernels/cuda/portable.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t stage_threads = 128;

/// The positions that some row of the block sees.
struct SeenTokens {
    int32_t first, last;
};

QP_DEVICE bool some_seen(int32_t position, int32_t n, SeenTokens seen) {
    return position <= seen.last && position + n - 1 >= seen.first;
}

/// 32 tokens of a sequence: where they lie in the cache.
struct StagePiece {
    int32_t block;   // of the cache; -1: a row of the block sees none of these tokens
    int32_t offset;  // of the first token in it
};

template <int Tokens>
struct StageTile {
    StagePiece pieces[Tokens / 32];

    /// From `position` on. Of pieces that nobody sees the table is not asked.
    QP_DEVICE void find(const KvView& kv, const int32_t* table, int32_t position, SeenTokens seen) {
        QP_UNROLL for (int h = 0; h < Tokens / 32; ++h) {
            const int32_t at = position + 32 * h, index = at / kv.block_tokens;
            pieces[h].offset = at - index * kv.block_tokens;
            pieces[h].block = some_seen(at, 32, seen) ? table[index] : -1;
        }
    }
};

/// Where in shared memory a thread's pieces of 16 bytes lie: piece 4 group + t of row + down, `down` even. Two
/// addresses and constants, for registers' sake.
template <int RowBytes>
struct Staged {
    unsigned char* of[2];  // even groups, odd groups

    QP_DEVICE Staged(unsigned char* base, int32_t row, int32_t t) {
        unsigned char* plain = base + row * RowBytes + 16 * t;
        const int32_t flip = RowBytes % 128 ? 0 : 64 * (row & 1);
        of[0] = plain + flip;
        of[1] = plain - flip;
    }
    QP_DEVICE unsigned char* at(int32_t down, int32_t group) const {
        return of[group & 1] + (down * RowBytes + 64 * group);
    }
};

/// Which of the eight tokens from `position` on are seen, as masks of FP16 pairs.
QP_DEVICE void mask_tokens(int32_t position, SeenTokens seen, uint32_t (&pairs)[4]) {
    QP_UNROLL for (int j = 0; j < 4; ++j) {
        const int32_t at = position + 2 * j;
        const uint32_t low = at >= seen.first && at <= seen.last ? 0xffffu : 0;
        const uint32_t high = at + 1 >= seen.first && at + 1 <= seen.last ? 0xffff0000u : 0;
        pairs[j] &= low | high;
    }
}

QP_DEVICE bool all_seen(int32_t position, int32_t n, SeenTokens seen) {
    return position >= seen.first && position + n - 1 <= seen.last;
}

/// f16 keys, by copies that are under way when it returns. Tokens that nobody sees may be anything.
template <int Width, int Tokens>
QP_DEVICE void stage_keys(const KvView& kv, int32_t head, const StageTile<Tokens>& tile, unsigned char* to) {
    const int32_t row = int32_t(threadIdx.x) / 4, t = int32_t(threadIdx.x) % 4;
    const Staged<2 * Width> staged(to, row, t);
    QP_UNROLL for (int h = 0; h < Tokens / 32; ++h) {
        const StagePiece& piece = tile.pieces[h];
        if (piece.block < 0) continue;
        const uint8_t* from =
            kv_key_block(kv, piece.block, head) + (int64_t(piece.offset + row) * kv.width + 8 * t) * 2;
        QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
            if (32 * u < kv.width) copy_async<16>(staged.at(32 * h, u), from + 64 * u);
        }
    }
}

/// f16 values, likewise; zeros for tokens that nobody sees: a weight of 0 does not undo a NaN.
template <int Width, int Tokens>
QP_DEVICE void stage_values(const KvView& kv, int32_t head, const StageTile<Tokens>& tile, int32_t position,
                            SeenTokens seen, unsigned char* to) {
    const int32_t row = int32_t(threadIdx.x) / 4, t = int32_t(threadIdx.x) % 4;
    const Staged<2 * Tokens> staged(to, row, t);
    QP_UNROLL for (int h = 0; h < Tokens / 32; ++h) {
        const StagePiece& piece = tile.pieces[h];
        const bool whole = all_seen(position + 32 * h, 32, seen);
        const uint8_t* from = piece.block < 0 ? nullptr
                                              : kv_value_block(kv, piece.block, head) +
                                                    (int64_t(row) * kv.block_tokens + piece.offset + 8 * t) * 2;
        QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
            if (32 * u >= kv.width) continue;
            unsigned char* at = staged.at(32 * u, h);
            const int64_t down = int64_t(u) * 64 * kv.block_tokens;
            if (whole) {
                copy_async<16>(at, from + down);
            } else {
                uint32_t v[4] = {0, 0, 0, 0};
                if (from) load_eight<kv_f16>(from + down, v);
                mask_tokens(position + 32 * h + 8 * t, seen, v);
                *reinterpret_cast<uint4*>(at) = {v[0], v[1], v[2], v[3]};
            }
        }
    }
}

/// Codes and scales of a tile of q8 or q4, as they are in the cache, in shared memory: a thread reads back the codes
/// that it copied; scales are everybody's. Two buffers of scales, in turn.
template <int Width, int Tokens>
struct RawTile {
    static constexpr int32_t n_units = Width / 32 * (Tokens / 32);  // of a thread, of keys and of values each
    static constexpr int32_t code_bytes = 2 * n_units * stage_threads * 8;
    static constexpr int32_t n_scales = Width / 32 * Tokens;  // of keys and of values each
    static constexpr int32_t bytes = code_bytes + 2 * 2 * n_scales * 2;

    unsigned char* memory;

    QP_DEVICE unsigned char* codes(int32_t is_value, int32_t unit) const {
        return memory + ((is_value * n_units + unit) * stage_threads + int32_t(threadIdx.x)) * 8;
    }
    QP_DEVICE uint16_t* scales(int32_t buffer, int32_t is_value) const {
        return reinterpret_cast<uint16_t*>(memory + code_bytes) + (2 * buffer + is_value) * n_scales;
    }
};

/// In the cache, the thread's eight codes of square (h, u).
QP_DEVICE const uint8_t* stored_codes(const KvView& kv, int32_t head, const StagePiece& piece, int32_t u,
                                      bool is_value) {
    const int32_t row = int32_t(threadIdx.x) / 4, t = int32_t(threadIdx.x) % 4, eight = kv_bits(kv.type);
    const uint8_t* block = is_value ? kv_value_block(kv, piece.block, head) : kv_key_block(kv, piece.block, head);
    const int64_t at = is_value ? int64_t(32 * u + row) * kv.block_tokens + piece.offset
                                : int64_t(piece.offset + row) * kv.width + 32 * u;
    return block + (at / 8 + t) * eight;
}

/// In the cache, the scales of the piece's 32 tokens, of q4 those of group u.
QP_DEVICE const uint16_t* stored_scales(const KvView& kv, int32_t head, const StagePiece& piece, int32_t u,
                                        bool is_value) {
    const uint16_t* first = kv_scale(kv, is_value ? kv.value_scales : kv.key_scales, piece.block, head, piece.offset);
    return first + (kv.type == kv_q4 ? int64_t(u) * kv.block_tokens : 0);
}

template <int Width, int Tokens>
QP_DEVICE void fetch_raw(const KvView& kv, int32_t head, const StageTile<Tokens>& tile,
                         const RawTile<Width, Tokens>& raw, int32_t buffer) {
    QP_UNROLL for (int is_value = 0; is_value < 2; ++is_value) {
        QP_UNROLL for (int h = 0; h < Tokens / 32; ++h) {
            if (tile.pieces[h].block < 0) continue;
            QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
                if (32 * u >= kv.width) continue;
                const uint8_t* from = stored_codes(kv, head, tile.pieces[h], u, is_value);
                unsigned char* to = raw.codes(is_value, h * (Width / 32) + u);
                if (kv.type == kv_q8)
                    copy_async<8>(to, from);
                else
                    copy_async<4>(to, from);
            }
        }
    }
    // (keys or values, piece, group, 16 bytes of 64): one copy a thread is enough up to Width 128.
    static_assert(2 * (Tokens / 32) * (Width / 32) * 4 <= stage_threads);
    const int32_t i = int32_t(threadIdx.x), c = i % 4, u = i / 4 % (Width / 32), rest = i / 4 / (Width / 32);
    const int32_t is_value = rest % 2, h = rest / 2;
    if (h < Tokens / 32 && u < kv_scales_per_token(kv)) {
        QP_UNROLL for (int each = 0; each < Tokens / 32; ++each) {
            if (h == each && tile.pieces[each].block >= 0) {
                copy_async<16>(raw.scales(buffer, is_value) + u * Tokens + 32 * h + 8 * c,
                               stored_scales(kv, head, tile.pieces[each], u, is_value) + 8 * c);
            }
        }
    }
    commit_copies();
}

QP_DEVICE void load_codes(int32_t type, const uint8_t* p, uint32_t (&pairs)[4]) {
    if (type == kv_q8)
        load_eight<kv_q8>(p, pairs);
    else
        load_eight<kv_q4>(p, pairs);
}

/// q8 and q4 to FP16: code * scale, one rounding. Codes and scales come from `raw` where Ahead (they have arrived, for
/// all threads), from the cache where not. Of values, zeros for tokens that nobody sees.
template <int Width, int Tokens, bool Ahead>
QP_DEVICE void stage_decoded(const KvView& kv, int32_t head, const StageTile<Tokens>& tile, int32_t position,
                             SeenTokens seen, const RawTile<Width, Tokens>& raw, int32_t buffer, unsigned char* keys,
                             unsigned char* values) {
    const int32_t row = int32_t(threadIdx.x) / 4, t = int32_t(threadIdx.x) % 4;
    const Staged<2 * Width> staged_keys(keys, row, t);
    const Staged<2 * Tokens> staged_values(values, row, t);
    QP_UNROLL for (int h = 0; h < Tokens / 32; ++h) {
        const StagePiece& piece = tile.pieces[h];
        const bool there = some_seen(position + 32 * h, 32, seen);
        QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
            if (32 * u >= kv.width) continue;
            const int32_t unit = h * (Width / 32) + u, scale_row = kv.type == kv_q4 ? u : 0;
            uint32_t k[4] = {0, 0, 0, 0}, v[4] = {0, 0, 0, 0};
            if (there) {
                const uint16_t *key_scales, *value_scales;
                if constexpr (Ahead) {
                    load_codes(kv.type, raw.codes(0, unit), k);
                    load_codes(kv.type, raw.codes(1, unit), v);
                    key_scales = raw.scales(buffer, 0) + scale_row * Tokens + 32 * h;
                    value_scales = raw.scales(buffer, 1) + scale_row * Tokens + 32 * h;
                } else {
                    load_codes(kv.type, stored_codes(kv, head, piece, u, false), k);
                    load_codes(kv.type, stored_codes(kv, head, piece, u, true), v);
                    key_scales = stored_scales(kv, head, piece, u, false);
                    value_scales = stored_scales(kv, head, piece, u, true);
                }
                const uint32_t key_scale = key_scales[row] * 0x10001u;
                const uint4 of_tokens = load4(value_scales + 8 * t);
                const uint32_t value_scale[4] = {of_tokens.x, of_tokens.y, of_tokens.z, of_tokens.w};
                QP_UNROLL for (int j = 0; j < 4; ++j) {
                    k[j] = half2_mul(k[j], key_scale);
                    v[j] = half2_mul(v[j], value_scale[j]);
                }
                if (!all_seen(position + 32 * h, 32, seen)) mask_tokens(position + 32 * h + 8 * t, seen, v);
            }
            *reinterpret_cast<uint4*>(staged_keys.at(32 * h, u)) = {k[0], k[1], k[2], k[3]};
            *reinterpret_cast<uint4*>(staged_values.at(32 * u, h)) = {v[0], v[1], v[2], v[3]};
        }
    }
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
