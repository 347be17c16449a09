#include "kernels/cpu/pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <string>

#include "kernels/cpu/unpack.h"
#include "kernels/half.h"
#include "kernels/step.h"
#include "kernels/threads/pool.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

int32_t packed_bits(int32_t bits) { return bits == 7 ? 8 : bits; }

uint64_t element_bytes(DType type) { return type == DType::f32 ? 4 : 2; }

uint64_t round_64(uint64_t bytes) { return round_up(bytes, 64); }

// Offsets of the parts in a matrix's memory.
struct QuantLayout {
    uint64_t chunks = 0, tile_bytes = 0, n_sections = 0;
    uint64_t scales, zeros, bias, groups, sections, gather, total;
    bool gathers = false;

    explicit QuantLayout(const MatrixShape& shape) {
        gathers = shape.has_perm;
        int32_t bits = 0;
        for (size_t g = 0; g < shape.groups.size(); ++g) {
            const QuantGroup& group = shape.groups[g];
            const uint64_t group_chunks = round_up(count_of(group.rows), chunk_rows) / chunk_rows;
            chunks += group_chunks;
            tile_bytes += group_chunks * count_of(packed_bits(group.bits)) * chunk_bytes_per_bit;
            if (group.rows % chunk_rows && g + 1 < shape.groups.size()) gathers = true;  // padding between rows
            if (packed_bits(group.bits) != bits) ++n_sections;
            bits = packed_bits(group.bits);
        }
        const uint64_t tiles = round_up(count_of(shape.out_features), tile_columns) / tile_columns;
        const uint64_t per_group = saturating_mul(tiles * tile_columns, shape.groups.size());
        scales = round_64(saturating_mul(tiles, tile_bytes));
        zeros = saturating_add(scales, round_64(saturating_mul(per_group, 2)));
        bias = saturating_add(zeros, shape.has_zeros ? round_64(per_group) : 0);
        groups = saturating_add(bias, shape.has_bias ? round_64(4 * count_of(shape.out_features)) : 0);
        sections = saturating_add(groups, round_64(sizeof(Group) * shape.groups.size()));
        gather = saturating_add(sections, round_64(sizeof(Section) * n_sections));
        total = saturating_add(gather, gathers ? round_64(saturating_mul(chunks, 4 * chunk_rows)) : 0);
    }
};

uint64_t dense_rows_bytes(const MatrixShape& shape) {
    return round_64(saturating_mul(saturating_mul(count_of(shape.in_features), count_of(shape.out_features)),
                                   element_bytes(shape.dtype)));
}

Status exhausted(uint64_t bytes) {
    return Status::error(resource_exhausted, "there is no memory for a matrix of " + std::to_string(bytes) +
                                                 " bytes; take a smaller model or context, or free memory");
}

// Takes an unfinished matrix's memory back.
class Allocation {
 public:
    Allocation(Arena& arena, uint64_t bytes) : arena_(arena), bytes_(bytes), data_(arena.allocate(bytes)) {}
    ~Allocation() {
        if (data_ && !kept_) arena_.take_back(bytes_);
    }
    Allocation(const Allocation&) = delete;
    Allocation& operator=(const Allocation&) = delete;
    uint8_t* data() const { return data_; }
    void keep() { kept_ = true; }

 private:
    Arena& arena_;
    uint64_t bytes_;
    uint8_t* data_;
    bool kept_ = false;
};

// Chunks chunk0 .. of one group from `rows` rows of codes (rows, N); false if a code does not fit its width.
bool pack_rows(const QuantSource& source, const QuantView& view, int32_t group, const uint8_t* codes, int32_t rows,
               int32_t source_bits, int32_t bits, uint64_t offset, int32_t tile0, int32_t tile1, uint8_t* memory) {
    uint32_t all = 0;
    for (int32_t tile = tile0; tile < tile1; ++tile) {
        const int32_t column0 = tile * tile_columns, columns = std::min(tile_columns, view.n - column0);
        uint8_t pad[tile_columns];  // decodes to zero
        for (int32_t c = 0; c < tile_columns; ++c) {
            const int32_t zero = source.zeros.empty() ? 1 << (source_bits - 1)
                                 : c < columns ? source.zeros[size_t(group) * size_t(view.n) + size_t(column0 + c)]
                                               : 0;
            pad[c] = uint8_t(std::min(zero, (1 << bits) - 1));
        }
        uint8_t* to = memory + uint64_t(tile) * view.tile_bytes + offset;
        for (int32_t row = 0; row < rows; row += chunk_rows, to += bits * chunk_bytes_per_bit) {
            uint8_t code[chunk_rows][tile_columns];
            const int32_t n = std::min(chunk_rows, rows - row);
            for (int32_t k = 0; k < n; ++k) {
                const uint8_t* from = codes + size_t(row + k) * size_t(view.n) + size_t(column0);
                if (columns == tile_columns) {
                    std::memcpy(code[k], from, tile_columns);
                } else {
                    std::memcpy(code[k], pad, tile_columns);
                    std::memcpy(code[k], from, size_t(columns));
                }
                for (int32_t c = 0; c < columns; ++c) all |= code[k][c];
            }
            for (int32_t k = n; k < chunk_rows; ++k) std::memcpy(code[k], pad, tile_columns);
            pack_chunk(code, bits, to);
        }
    }
    return all < 1u << source_bits;
}

Status pack_codes(const QuantSource& source, const QuantView& view, int32_t threads, uint8_t* memory) {
    const size_t n = size_t(source.out_features);
    // Whole chunks, 4 MB where that is more than one.
    const int32_t piece = int32_t(std::clamp<size_t>((size_t(4) << 20) / n / chunk_rows, 1, 64)) * chunk_rows;
    int32_t most = 0;
    for (const QuantGroup& group : source.groups) most = std::max(most, std::min(group.rows, piece));
    std::vector<uint8_t> codes(size_t(most) * n);
    uint64_t offset = 0;
    int32_t row0 = 0;
    for (size_t g = 0; g < source.groups.size(); ++g) {
        const QuantGroup& group = source.groups[g];
        const int32_t bits = packed_bits(group.bits);
        for (int32_t row = 0; row < group.rows; row += piece) {
            const int32_t rows = std::min(piece, group.rows - row);
            if (Status status = source.read_codes(row0 + row, rows, codes.data()); !status.ok()) return status;
            std::atomic<bool> fits{true};
            const int32_t count = view.n_tiles >= 4 * threads ? threads : 1;
            run_parallel(count, [&](int32_t index, int32_t total) {
                const auto cut = [&](int32_t i) { return int32_t(int64_t(view.n_tiles) * i / total); };
                if (!pack_rows(source, view, int32_t(g), codes.data(), rows, group.bits, bits, offset, cut(index),
                               cut(index + 1), memory)) {
                    fits.store(false, std::memory_order_relaxed);
                }
            });
            if (!fits.load()) {
                return Status::error(invalid_argument, "a code of group " + std::to_string(g) + " does not fit its " +
                                                           std::to_string(group.bits) + " bits");
            }
            offset += round_up(uint64_t(rows), chunk_rows) * uint64_t(bits) * chunk_bytes_per_bit / chunk_rows;
        }
        row0 += group.rows;
    }
    return {};
}

// (groups, N) as tiles of 16 columns: (n_tiles, groups, 16), the columns beyond N zero.
template <class T>
void tile_columns_of(const std::vector<T>& from, size_t groups, size_t n, T* to) {
    for (size_t column0 = 0; column0 < n; column0 += tile_columns) {
        const size_t columns = std::min(size_t(tile_columns), n - column0);
        for (size_t g = 0; g < groups; ++g, to += tile_columns) {
            for (size_t c = 0; c < tile_columns; ++c) to[c] = c < columns ? from[g * n + column0 + c] : T(0);
        }
    }
}

void fill_records(const QuantSource& source, Group* groups, Section* sections, int32_t* gather) {
    int32_t row0 = 0, sorted = 0, chunk = 0;
    uint64_t offset = 0;
    Section* section = nullptr;
    for (size_t g = 0; g < source.groups.size(); ++g) {
        const QuantGroup& group = source.groups[g];
        const int32_t bits = packed_bits(group.bits);
        const int32_t chunks = (group.rows + chunk_rows - 1) / chunk_rows;
        groups[g] = {chunks, 1 << (group.bits - 1)};
        if (!section || section->bits != bits) {
            section = section ? section + 1 : sections;
            *section = {bits, int32_t(g), 0, chunk, offset};
        }
        ++section->n_groups;
        if (gather) {
            for (int32_t i = 0; i < chunks * chunk_rows; ++i) {
                const int32_t row = row0 + i;
                gather[sorted++] = i >= group.rows ? -1 : source.perm.empty() ? row : source.perm[size_t(row)];
            }
        }
        row0 += group.rows;
        chunk += chunks;
        offset += uint64_t(chunks) * uint64_t(bits) * chunk_bytes_per_bit;
    }
}

}  // namespace

uint64_t packed_bytes(const MatrixShape& shape) {
    if (!shape.groups.empty()) return QuantLayout(shape).total;
    return saturating_add(dense_rows_bytes(shape), shape.has_bias ? round_64(4 * count_of(shape.out_features)) : 0);
}

Status pack_quant(const QuantSource& source, int32_t threads, Arena& arena, PackedMatrix* out) {
    if (Status status = check_quant(source); !status.ok()) return status;
    const QuantLayout layout(source.shape());
    Allocation allocation(arena, layout.total);
    uint8_t* memory = allocation.data();
    if (!memory) return exhausted(layout.total);
    const size_t groups = source.groups.size(), n = size_t(source.out_features);

    auto* scales = reinterpret_cast<uint16_t*>(memory + layout.scales);
    auto* zeros = source.zeros.empty() ? nullptr : memory + layout.zeros;
    auto* bias = source.bias.empty() ? nullptr : reinterpret_cast<float*>(memory + layout.bias);
    auto* records = reinterpret_cast<Group*>(memory + layout.groups);
    auto* sections = reinterpret_cast<Section*>(memory + layout.sections);
    auto* gather = layout.gathers ? reinterpret_cast<int32_t*>(memory + layout.gather) : nullptr;
    fill_records(source, records, sections, gather);
    tile_columns_of(source.scales, groups, n, scales);
    if (zeros) tile_columns_of(source.zeros, groups, n, zeros);
    if (bias) std::copy(source.bias.begin(), source.bias.end(), bias);

    PackedMatrix matrix;
    matrix.k = source.in_features;
    matrix.n = source.out_features;
    matrix.n_tiles = int32_t((n + tile_columns - 1) / tile_columns);
    matrix.quantised = true;
    matrix.gather = gather;
    matrix.tile_cost = layout.tile_bytes + layout.chunks * 64;
    matrix.quant = {memory,
                    scales,
                    zeros,
                    bias,
                    records,
                    sections,
                    int32_t(groups),
                    int32_t(layout.n_sections),
                    matrix.n,
                    matrix.n_tiles,
                    int32_t(layout.chunks),
                    layout.tile_bytes};
    if (Status status = pack_codes(source, matrix.quant, threads, memory); !status.ok()) return status;
    allocation.keep();
    *out = matrix;
    return {};
}

Status pack_dense(const DenseSource& source, Arena& arena, PackedMatrix* out) {
    if (Status status = check_dense(source); !status.ok()) return status;
    const MatrixShape shape = source.shape();
    const uint64_t bytes = packed_bytes(shape), row_bytes = uint64_t(source.in_features) * element_bytes(source.dtype);
    Allocation allocation(arena, bytes);
    uint8_t* memory = allocation.data();
    if (!memory) return exhausted(bytes);
    float* bias = source.bias.empty() ? nullptr : reinterpret_cast<float*>(memory + dense_rows_bytes(shape));
    if (bias) std::copy(source.bias.begin(), source.bias.end(), bias);
    const int32_t piece = int32_t(std::clamp<uint64_t>((uint64_t(4) << 20) / row_bytes, 1, 1 << 20));
    for (int32_t row = 0; row < source.out_features; row += piece) {
        const int32_t rows = std::min(piece, source.out_features - row);
        if (Status status = source.read_rows(row, rows, memory + uint64_t(row) * row_bytes); !status.ok())
            return status;
    }
    PackedMatrix matrix;
    matrix.k = source.in_features;
    matrix.n = source.out_features;
    matrix.n_tiles = (matrix.n + tile_columns - 1) / tile_columns;
    const DenseType type = source.dtype == DType::f32   ? DenseType::f32
                           : source.dtype == DType::f16 ? DenseType::f16
                                                        : DenseType::bf16;
    matrix.dense = {memory, bias, matrix.k, matrix.n, type};
    matrix.tile_cost = tile_columns * row_bytes;
    allocation.keep();
    *out = matrix;
    return {};
}

void embedding_row(const PackedMatrix& matrix, int32_t token, float* out) {
    if (!matrix.quantised) {
        const int64_t at = int64_t(token) * matrix.k;
        const auto* f32 = static_cast<const float*>(matrix.dense.rows);
        const auto* u16 = static_cast<const uint16_t*>(matrix.dense.rows);
        for (int32_t k = 0; k < matrix.k; ++k) {
            out[k] = matrix.dense.type == DenseType::f32   ? f32[at + k]
                     : matrix.dense.type == DenseType::f16 ? f16_to_f32(u16[at + k])
                                                           : bf16_to_f32(u16[at + k]);
        }
        return;
    }
    const QuantView& w = matrix.quant;
    const int32_t tile = token / tile_columns, column = token % tile_columns;
    int32_t sorted = 0;
    for (int32_t s = 0; s < w.n_sections; ++s) {
        const Section& section = w.sections[s];
        const uint8_t* planes = w.codes + uint64_t(tile) * w.tile_bytes + section.offset;
        for (int32_t g = section.group0; g < section.group0 + section.n_groups; ++g) {
            const int64_t at = (int64_t(tile) * w.n_groups + g) * tile_columns + column;
            const float scale = f16_to_f32(w.scales[at]);
            const int32_t zero = w.zeros ? w.zeros[at] : w.groups[g].zero;
            for (int32_t c = 0; c < w.groups[g].chunks; ++c, planes += section.bits * chunk_bytes_per_bit) {
                for (int32_t i = 0; i < chunk_rows; ++i, ++sorted) {
                    const int32_t row = matrix.gather ? matrix.gather[sorted] : sorted < matrix.k ? sorted : -1;
                    if (row < 0) continue;
                    const int32_t code = chunk_code(planes, section.bits, i, column);
                    out[row] = f16_to_f32(f32_to_f16(scale * float(code - zero)));
                }
            }
        }
    }
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
