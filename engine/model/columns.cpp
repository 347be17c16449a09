#include "engine/model/columns.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "kernels/half.h"

namespace quantplug::engine {

namespace {

using kernels::Status;

/// `count` rows of `columns` values each, the selected columns of a row side by side.
template <typename T>
std::vector<T> cut(const std::vector<T>& rows, size_t stored_columns, const std::vector<ColumnRange>& columns) {
    std::vector<T> out;
    for (size_t row = 0; row < rows.size(); row += stored_columns)
        for (const ColumnRange& range : columns) {
            const auto first = rows.begin() + std::ptrdiff_t(row) + range.first;
            out.insert(out.end(), first, first + range.count);
        }
    return out;
}

/// Calls `run(stored column, column of the part, how many)` for the pieces of columns first .. first + count - 1 of a
/// part.
template <typename Run>
void for_runs(const LinearPart& part, int32_t first, int32_t count, Run run) {
    if (part.columns.empty()) return run(first, first, count);
    int32_t at = 0;
    for (const ColumnRange& range : part.columns) {
        const int32_t begin = std::max(first, at), end = std::min(first + count, at + range.count);
        if (begin < end) run(range.first + (begin - at), begin, end - begin);
        at += range.count;
    }
}

/// Divides rows of `in` values by their L2 norms, at least 1e-12 as torch's normalize has it.
void to_unit_length(kernels::DType type, int32_t in, int32_t rows, void* values) {
    const auto get = [&](size_t i) {
        if (type == kernels::DType::f32) return static_cast<const float*>(values)[i];
        const uint16_t bits = static_cast<const uint16_t*>(values)[i];
        return type == kernels::DType::f16 ? kernels::f16_to_f32(bits) : kernels::bf16_to_f32(bits);
    };
    for (size_t row = 0; row < size_t(rows); ++row) {
        double sum = 0;
        for (size_t i = row * size_t(in); i < (row + 1) * size_t(in); ++i) sum += double(get(i)) * double(get(i));
        const double norm = std::max(std::sqrt(sum), 1e-12);
        for (size_t i = row * size_t(in); i < (row + 1) * size_t(in); ++i) {
            const float value = float(double(get(i)) / norm);
            if (type == kernels::DType::f32)
                static_cast<float*>(values)[i] = value;
            else
                static_cast<uint16_t*>(values)[i] =
                    type == kernels::DType::f16 ? kernels::f32_to_f16(value) : kernels::f32_to_bf16(value);
        }
    }
}

/// A tensor of (in, out) values turned round: (out, in).
std::vector<std::byte> transposed(const ModelFolder& folder, const LinearPart& part, size_t size) {
    const size_t in = size_t(part.shape.in_features), out = size_t(part.stored_columns);
    std::vector<std::byte> stored(in * out * size), turned(in * out * size);
    folder.read(folder.tensor(part.tensor), uint64_t(part.first_row) * out * size, stored);
    for (size_t row = 0; row < in; ++row)
        for (size_t column = 0; column < out; ++column)
            std::memcpy(turned.data() + (column * in + row) * size, stored.data() + (row * out + column) * size, size);
    return turned;
}

}  // namespace

kernels::QuantSource select_columns(std::shared_ptr<const kernels::QuantSource> whole,
                                    std::vector<ColumnRange> columns) {
    if (columns.empty()) return *whole;
    const size_t stored = size_t(whole->out_features);
    kernels::QuantSource part;
    part.in_features = whole->in_features;
    for (const ColumnRange& range : columns) {
        if (range.first < 0 || range.count <= 0 || range.count > whole->out_features - range.first)
            fail(Code::internal, "columns ", range.first, " .. ", range.first + range.count - 1, " of a matrix with ",
                 stored, " were asked for");
        part.out_features += range.count;
    }
    part.groups = whole->groups;
    part.perm = whole->perm;
    part.scales = cut(whole->scales, stored, columns);
    if (!whole->zeros.empty()) part.zeros = cut(whole->zeros, stored, columns);
    if (!whole->bias.empty()) part.bias = cut(whole->bias, stored, columns);
    part.read_codes = [whole, columns = std::move(columns), codes = std::vector<uint8_t>()](
                          int32_t row0, int32_t rows, uint8_t* out) mutable -> Status {
        const size_t width = size_t(whole->out_features);
        codes.resize(size_t(rows) * width);
        if (Status status = whole->read_codes(row0, rows, codes.data()); !status.ok()) return status;
        for (size_t row = 0; row < size_t(rows); ++row)
            for (const ColumnRange& range : columns) {
                std::memcpy(out, codes.data() + row * width + size_t(range.first), size_t(range.count));
                out += range.count;
            }
        return {};
    };
    return part;
}

kernels::DenseSource open_dense(const ModelFolder& folder, const LinearPart& part) {
    const size_t size = part.shape.dtype == kernels::DType::f32 ? 4 : 2;
    const uint64_t row_bytes = uint64_t(part.shape.in_features) * size;
    kernels::DenseSource source;
    source.in_features = part.shape.in_features;
    source.out_features = part.shape.out_features;
    source.dtype = part.shape.dtype;
    std::shared_ptr<const std::vector<std::byte>> held;
    if (part.transposed) held = std::make_shared<std::vector<std::byte>>(transposed(folder, part, size));
    source.read_rows = [&folder, &part, held, row_bytes](int32_t row0, int32_t rows, void* out) -> Status {
        std::byte* const to = static_cast<std::byte*>(out);
        for_runs(part, row0, rows, [&](int32_t stored, int32_t column, int32_t count) {
            const std::span<std::byte> piece(to + uint64_t(column - row0) * row_bytes, uint64_t(count) * row_bytes);
            if (held)
                std::memcpy(piece.data(), held->data() + uint64_t(stored) * row_bytes, piece.size());
            else
                folder.read_rows(part.tensor, part.first_row + stored, count, piece);
        });
        if (part.unit_columns) to_unit_length(part.shape.dtype, part.shape.in_features, rows, out);
        return {};
    };
    if (!part.bias_tensor.empty()) {
        const std::vector<float> bias = folder.read_f32(part.bias_tensor);
        for_runs(part, 0, part.shape.out_features, [&](int32_t stored, int32_t, int32_t count) {
            source.bias.insert(source.bias.end(), bias.begin() + stored, bias.begin() + stored + count);
        });
    }
    return source;
}

}  // namespace quantplug::engine
