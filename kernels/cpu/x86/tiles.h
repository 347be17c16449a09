// The walk over a tile's sections, and a tile's way out. Included after columns256.h or columns512.h.
#pragma once

#include "kernels/cpu/layout.h"
#include "kernels/store.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr int32_t prefetch_ahead = 2048;  // bytes
constexpr int32_t row_block = 64;         // rows that share one unpacking; their sums live on the stack

struct TileGroups {
    const uint16_t* scales;  // of the section's first group, 16 a group
    const uint8_t* zeros;    // or null
    const Group* groups;
    int32_t n_groups;
};

// Zero points of the 16 columns in a section's group g.
QP_INLINE Ints group_zeros(const TileGroups& tile, int32_t g) {
    return tile.zeros ? widen_bytes(tile.zeros + 16 * g) : all_ints(tile.groups[g].zero);
}

// The planes of a chunk are not read from first to last, which the processor's own prefetching does not follow.
template <int BITS>
QP_INLINE void prefetch_chunk(const uint8_t* codes) {
#pragma GCC unroll 8
    for (int line = 0; line < BITS; ++line)
        _mm_prefetch(reinterpret_cast<const char*>(codes + prefetch_ahead + 64 * line), _MM_HINT_T0);
}

template <int BITS>
struct Width {
    static constexpr int bits = BITS;
};

// visit(Width<bits>, codes, groups, first chunk) for the sections of a tile.
template <class Visit>
QP_INLINE void for_sections(const QuantView& w, int32_t tile, Visit visit) {
    for (int32_t s = 0; s < w.n_sections; ++s) {
        const Section& section = w.sections[s];
        const uint8_t* codes = w.codes + uint64_t(tile) * w.tile_bytes + section.offset;
        const int64_t at = (int64_t(tile) * w.n_groups + section.group0) * tile_columns;
        const TileGroups groups = {w.scales + at, w.zeros ? w.zeros + at : nullptr, w.groups + section.group0,
                                   section.n_groups};
        switch (section.bits) {
            case 2:
                visit(Width<2>{}, codes, groups, section.chunk0);
                break;
            case 3:
                visit(Width<3>{}, codes, groups, section.chunk0);
                break;
            case 4:
                visit(Width<4>{}, codes, groups, section.chunk0);
                break;
            case 5:
                visit(Width<5>{}, codes, groups, section.chunk0);
                break;
            case 6:
                visit(Width<6>{}, codes, groups, section.chunk0);
                break;
            default:
                visit(Width<8>{}, codes, groups, section.chunk0);
                break;
        }
    }
}

QP_INLINE void store_tile(const QuantView& w, int32_t tile, const float* sums, float* out, Store store) {
    const int32_t column0 = tile * tile_columns;
    const int32_t n = w.n - column0 < tile_columns ? w.n - column0 : tile_columns;
    for (int32_t c = 0; c < n; ++c) {
        const float y = w.bias ? sums[c] + w.bias[column0 + c] : sums[c];
        out[column0 + c] = store == Store::add ? out[column0 + c] + y : y;
    }
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
