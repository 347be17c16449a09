#include "gptq_backend/layout.h"

#include <algorithm>
#include <array>
#include <limits>

#include "engine/base/error.h"

namespace quantplug::gptq {

using engine::Code;
using engine::fail;
using engine::ModelFolder;
using engine::StoredType;
using engine::TensorInfo;

namespace {

int64_t words_for(int64_t codes, int64_t bits) { return (codes * bits + 31) / 32; }

/// The width that gives K rows this many words; the configured one where several do (tiny K).
int32_t find_bits(const ModelFolder& folder, const Config& config, const Layout& layout) {
    const int64_t words = layout.qweight->shape[0];
    int32_t found = 0;
    for (int32_t bits = 2; bits <= 8; ++bits)
        if (words_for(layout.k, bits) == words && (found == 0 || bits == config.bits)) found = bits;
    if (found == 0)
        fail(Code::invalid_argument, where(folder, *layout.qweight), " is ", layout.qweight->describe(),
             ", where a matrix of ", layout.k, " inputs has ", layout.k,
             " * bits / 32 rows; check that config.json belongs to this model");
    return found;
}

/// Rows of one group where rows are in order.
int64_t find_group_size(const ModelFolder& folder, const Config& config, const Layout& layout) {
    const int64_t k = layout.k, n_groups = layout.n_groups;
    if (n_groups == 1) return k;
    const auto fits = [&](int64_t size) { return size > 0 && (k + size - 1) / size == n_groups; };
    if (fits(config.group_size)) return config.group_size;
    for (const int32_t size : config.override_group_sizes)
        if (fits(size)) return size;
    for (int64_t size = 8; size <= 4096; size *= 2)
        if (fits(size)) return size;
    if (k % n_groups == 0) return k / n_groups;
    fail(Code::invalid_argument, where(folder, *layout.scales), " has ", n_groups, " groups for ", k,
         " rows, which no group size gives, and the matrix has no g_idx; download the folder again with its "
         "quantize_config.json");
}

}  // namespace

std::string where(const ModelFolder& folder, const TensorInfo& tensor) {
    return engine::concat("tensor ", tensor.name, " in ", folder.file_of(tensor));
}

Layout read_layout(const ModelFolder& folder, const Config& config, const std::string& module, int32_t in_features,
                   int32_t out_features) {
    constexpr std::array i32{StoredType::i32};
    constexpr std::array any_float{StoredType::f16, StoredType::bf16, StoredType::f32};
    if (in_features <= 0 || out_features <= 0)
        fail(Code::invalid_argument, "matrix ", module, ": ", in_features, " inputs and ", out_features,
             " outputs are no size of a matrix");

    Layout layout;
    layout.k = in_features;
    layout.n = out_features;
    layout.qweight = &folder.tensor(module + ".qweight", std::array<int64_t, 2>{-1, out_features}, i32);
    layout.bits = find_bits(folder, config, layout);
    layout.planar = (layout.bits >= 5 && layout.bits <= 7) || (layout.bits == 3 && config.encoding == Encoding::planar);
    if (layout.planar && (layout.k % 32 != 0 || layout.n % 32 != 0))
        fail(Code::invalid_argument, where(folder, *layout.qweight), ": a planar matrix of ", layout.k, " x ", layout.n,
             ", where both must be multiples of 32; check that config.json belongs to this model");
    if (folder.has(module + ".g_idx")) {
        layout.g_idx = &folder.tensor(module + ".g_idx", std::array<int64_t, 1>{in_features}, i32);
    } else if (config.bits != 0 && config.bits != layout.bits &&
               std::find(config.override_bits.begin(), config.override_bits.end(), layout.bits) ==
                   config.override_bits.end()) {
        // Without g_idx nothing but the width confirms the number of inputs.
        fail(Code::invalid_argument, where(folder, *layout.qweight), " has ", layout.bits, " bits for ", layout.k,
             " inputs, where ", config.name, " says ", config.bits, "; check that config.json belongs to this model");
    }

    layout.scales = &folder.tensor(module + ".scales", std::array<int64_t, 2>{-1, out_features}, any_float);
    const int64_t n_groups = layout.scales->shape[0];
    if (n_groups <= 0 || n_groups > layout.k)
        fail(Code::invalid_argument, where(folder, *layout.scales), " has ", n_groups, " groups for ", layout.k,
             " rows; download the file again");
    layout.n_groups = int32_t(n_groups);
    layout.qzeros =
        &folder.tensor(module + ".qzeros", std::array<int64_t, 2>{n_groups, words_for(layout.n, layout.bits)}, i32);
    if (folder.has(module + ".bias"))
        layout.bias = &folder.tensor(module + ".bias", std::array<int64_t, 1>{out_features}, any_float);
    for (const TensorInfo* tensor : {layout.qweight, layout.qzeros, layout.scales, layout.g_idx, layout.bias})
        if (tensor) layout.bytes += tensor->bytes;
    return layout;
}

RowOrder read_row_order(const ModelFolder& folder, const Config& config, const Layout& layout) {
    const int32_t k = layout.k, n_groups = layout.n_groups;
    std::vector<int32_t> group_of;
    if (layout.g_idx) {
        group_of = folder.read_values<int32_t>(layout.g_idx->name);
        for (size_t row = 0; row < group_of.size(); ++row) {
            const int32_t group = group_of[row];
            if (group < -n_groups || group >= n_groups)
                fail(Code::invalid_argument, where(folder, *layout.g_idx), ": value ", group, " at index ", row,
                     " is out of range, the matrix has ", n_groups,
                     " groups; download the file again or quantise the model again");
            if (group < 0) group_of[row] += n_groups;
        }
    }
    const bool in_order = std::all_of(group_of.begin(), group_of.end(), [](int32_t group) { return group == 0; });
    if (in_order) {
        const int64_t size = find_group_size(folder, config, layout);
        group_of.resize(size_t(k));
        for (int32_t row = 0; row < k; ++row) group_of[size_t(row)] = int32_t(row / size);
    }

    std::vector<int32_t> next(size_t(n_groups) + 1, 0);  // counting sort: first sorted row of every group
    for (const int32_t group : group_of) ++next[size_t(group) + 1];
    RowOrder order;
    for (int32_t group = 0; group < n_groups; ++group) {
        const int32_t rows = next[size_t(group) + 1];
        if (rows > 0) {
            order.groups.push_back({layout.bits, rows});
            order.stored_group.push_back(group);
        }
        next[size_t(group) + 1] += next[size_t(group)];
    }
    if (std::is_sorted(group_of.begin(), group_of.end())) return order;
    order.perm.resize(size_t(k));
    for (int32_t row = 0; row < k; ++row) order.perm[size_t(next[size_t(group_of[size_t(row)])]++)] = row;
    return order;
}

}  // namespace quantplug::gptq
