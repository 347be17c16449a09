// Sources of quantised matrices, decoded by the reference decoder.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/matrix.h"
#include "tests/support/data.h"
#include "tests/support/tensor_files.h"

namespace quantplug::test {

/// goldens/<prefix>*.safetensors, sorted.
inline std::vector<std::filesystem::path> golden_files(std::string_view prefix) {
    std::vector<std::filesystem::path> out;
    for (const auto& entry : std::filesystem::directory_iterator(data_dir() / "goldens"))
        if (entry.is_regular_file() && entry.path().filename().string().starts_with(prefix))
            out.push_back(entry.path());
    std::sort(out.begin(), out.end());
    return out;
}

/// (K, N) FP16 bits in input order.
inline std::vector<uint16_t> decode_original(const kernels::QuantSource& source) {
    const size_t n = size_t(source.out_features);
    std::vector<uint16_t> sorted(size_t(source.in_features) * n, 0xfdfd), out(sorted.size(), 0xfdfd);
    if (!kernels::decode_f16(source, 0, source.in_features, sorted.data()).ok()) return {};
    for (size_t r = 0; r < size_t(source.in_features); ++r) {
        const size_t row = source.perm.empty() ? r : size_t(source.perm[r]);
        std::copy_n(sorted.begin() + std::ptrdiff_t(r * n), n, out.begin() + std::ptrdiff_t(row * n));
    }
    return out;
}

/// (K, N) codes in sorted order; empty where reading fails.
inline std::vector<uint8_t> read_all_codes(const kernels::QuantSource& source) {
    std::vector<uint8_t> out(size_t(source.in_features) * size_t(source.out_features), 0xfd);
    int32_t row = 0;
    for (const auto& group : source.groups) {
        if (!source.read_codes(row, group.rows, out.data() + size_t(row) * size_t(source.out_features)).ok()) return {};
        row += group.rows;
    }
    return out;
}

/// The first n of every n_stored values.
template <typename T>
std::vector<T> crop(const std::vector<T>& values, int32_t n_stored, int32_t n) {
    std::vector<T> out;
    for (size_t row = 0; row < values.size() / size_t(n_stored); ++row)
        out.insert(out.end(), values.begin() + std::ptrdiff_t(row * size_t(n_stored)),
                   values.begin() + std::ptrdiff_t(row * size_t(n_stored) + size_t(n)));
    return out;
}

/// Index of the first difference, -1 where equal.
template <typename T>
int64_t first_difference(const std::vector<T>& a, const std::vector<T>& b) {
    if (a.size() != b.size()) return int64_t(std::min(a.size(), b.size()));
    const auto at = std::mismatch(a.begin(), a.end(), b.begin()).first;
    return at == a.end() ? -1 : at - a.begin();
}

inline bool same_shape(const kernels::MatrixShape& a, const kernels::MatrixShape& b) {
    return a.in_features == b.in_features && a.out_features == b.out_features && a.groups == b.groups &&
           a.has_zeros == b.has_zeros && a.has_perm == b.has_perm && a.has_bias == b.has_bias;
}

/// Puts "<module>." before the tensors that a checkpoint has; reference tensors are left out.
inline Tensors with_prefix(const Tensors& tensors, const std::string& module,
                           std::initializer_list<const char*> names) {
    Tensors out;
    for (const char* name : names)
        if (const auto found = tensors.find(name); found != tensors.end()) out[module + "." + name] = found->second;
    return out;
}

}  // namespace quantplug::test
