#include "exl2_backend/layout.h"

#include <array>
#include <limits>

#include "engine/base/error.h"

namespace quantplug::exl2 {

using engine::Code;
using engine::concat;
using engine::fail;
using engine::ModelFolder;
using engine::StoredType;
using engine::TensorInfo;

std::string where(const ModelFolder& folder, const TensorInfo& tensor) {
    return concat("tensor ", tensor.name, " in ", folder.file_of(tensor));
}

std::vector<Group> read_groups(std::span<const uint16_t> q_groups, int64_t word_rows, int64_t k,
                               const std::string& where) {
    const size_t n_groups = q_groups.size() / 2;
    if (n_groups == 0 || q_groups.size() % 2 != 0)
        fail(Code::invalid_argument, where, " has ", q_groups.size(),
             " values, but a group table has two for each group; download the file again or convert the model again");
    std::vector<Group> groups(n_groups);
    int64_t row = 0;
    for (size_t i = 0; i < n_groups; ++i) {
        Group& group = groups[i];
        group.bits = q_groups[2 * i];
        group.start = q_groups[2 * i + 1];
        const bool last = i + 1 == n_groups;
        const auto refuse = [&](const auto&... parts) {
            fail(Code::invalid_argument, where, ", group ", i, ": ", parts...,
                 "; download the file again or convert the model again");
        };
        if (group.bits < 2 || group.bits > 8 || group.bits == 7)
            refuse("a width of ", group.bits, " bits, where EXL2 has 2, 3, 4, 5, 6 and 8");
        if (i > 0 && group.bits > groups[i - 1].bits)
            refuse("a width of ", group.bits, " bits after ", groups[i - 1].bits, ", where widths must not rise");
        if (i == 0 && group.start != 0)
            refuse("starts at word row ", group.start, ", where the first group starts at 0");
        if (group.start >= word_rows) refuse("starts at word row ", group.start, ", where q_weight has ", word_rows);
        const int64_t end = last ? word_rows : int64_t(q_groups[2 * i + 3]);
        if (end <= group.start)
            refuse("starts at word row ", group.start, " and the next one at ", end, ", where starts must rise");
        const int64_t words = end - group.start;
        const int64_t rows = last ? k - row : words * 32 / group.bits;
        if (rows <= 0) refuse("nothing is left for it: earlier groups hold ", row, " of ", k, " rows");
        if (rows * group.bits != words * 32)
            refuse(rows, " rows of ", group.bits, " bits do not fill its ", words, " word rows");
        if (rows % (group.bits == 2 ? 16 : 32) != 0)
            refuse("holds ", rows, " rows, where groups have a multiple of ", group.bits == 2 ? 16 : 32);
        if (row + rows > k) refuse("the groups hold more rows than the matrix: ", row + rows, " of ", k);
        group.row0 = int32_t(row);
        group.rows = int32_t(rows);
        row += rows;
    }
    return groups;
}

Layout read_layout(const ModelFolder& folder, const std::string& module, int32_t in_features, int32_t out_features) {
    constexpr std::array i32{StoredType::i32}, i16{StoredType::i16}, f16{StoredType::f16};
    constexpr std::array any_float{StoredType::f16, StoredType::bf16, StoredType::f32};
    if (in_features <= 0 || out_features <= 0)
        fail(Code::invalid_argument, "matrix ", module, ": ", in_features, " inputs and ", out_features,
             " outputs are no size of a matrix");

    Layout layout;
    layout.k = in_features;
    layout.q_weight = &folder.tensor(module + ".q_weight", std::array<int64_t, 2>{-1, -1}, i32);
    const int64_t word_rows = layout.q_weight->shape[0], n = layout.q_weight->shape[1];
    if (word_rows <= 0 || n <= 0 || n % 32 != 0 || n > std::numeric_limits<int32_t>::max())
        fail(Code::invalid_argument, where(folder, *layout.q_weight), " is ", layout.q_weight->describe(),
             ", where the columns must be a multiple of 32; convert the model again");
    if (n < out_features)
        fail(Code::invalid_argument, where(folder, *layout.q_weight), " has ", n,
             " columns, where config.json asks for ", out_features, "; check that config.json belongs to this model");
    layout.n = int32_t(n);

    layout.q_groups = &folder.tensor(module + ".q_groups", std::array<int64_t, 1>{-1}, i16);
    layout.groups = read_groups(folder.read_values<uint16_t>(layout.q_groups->name), word_rows, in_features,
                                where(folder, *layout.q_groups));
    const int64_t n_groups = int64_t(layout.groups.size());
    layout.q_scale = &folder.tensor(module + ".q_scale", std::array<int64_t, 2>{n_groups, n / 8}, i32);
    layout.q_scale_max = &folder.tensor(module + ".q_scale_max", std::array<int64_t, 1>{n_groups}, f16);
    layout.q_invperm = &folder.tensor(module + ".q_invperm", std::array<int64_t, 1>{in_features}, i32);
    if (folder.has(module + ".bias"))
        layout.bias = &folder.tensor(module + ".bias", std::array<int64_t, 1>{n}, any_float);

    for (const TensorInfo* tensor :
         {layout.q_weight, layout.q_groups, layout.q_scale, layout.q_scale_max, layout.q_invperm, layout.bias})
        if (tensor) layout.bytes += tensor->bytes;
    return layout;
}

std::vector<int32_t> read_perm(const ModelFolder& folder, const Layout& layout) {
    const std::vector<int32_t> inverse = folder.read_values<int32_t>(layout.q_invperm->name);
    std::vector<int32_t> perm(inverse.size(), -1);
    bool identity = true;
    for (size_t j = 0; j < inverse.size(); ++j) {
        const int32_t row = inverse[j];
        if (row < 0 || size_t(row) >= perm.size() || perm[size_t(row)] >= 0)
            fail(Code::invalid_argument, where(folder, *layout.q_invperm), ": value ", row, " at index ", j,
                 row >= 0 && size_t(row) < perm.size() ? " occurs twice" : " is out of range",
                 ", where a permutation of 0 .. ", perm.size() - 1,
                 " is needed; download the file again or convert the model again");
        perm[size_t(row)] = int32_t(j);
        identity = identity && size_t(row) == j;
    }
    if (identity) perm.clear();
    return perm;
}

}  // namespace quantplug::exl2
