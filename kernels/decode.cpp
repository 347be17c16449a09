#include <algorithm>
#include <string>

#include "kernels/half.h"
#include "kernels/matrix.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

Status invalid(std::string message) { return Status::error(invalid_argument, std::move(message)); }

}  // namespace

Status validate(const QuantSource& source) {
    const int32_t k = source.in_features, n = source.out_features;
    if (k <= 0 || n <= 0) {
        return invalid("a quantised matrix of " + std::to_string(k) + " x " + std::to_string(n) + " has no elements");
    }
    if (source.groups.empty()) return invalid("a quantised matrix has no groups");
    int64_t rows = 0;
    for (size_t g = 0; g < source.groups.size(); ++g) {
        const QuantGroup& group = source.groups[g];
        if (group.bits < 2 || group.bits > 8) {
            return invalid("group " + std::to_string(g) + " has " + std::to_string(group.bits) +
                           " bits; 2 to 8 are supported");
        }
        if (group.rows <= 0)
            return invalid("group " + std::to_string(g) + " has " + std::to_string(group.rows) + " rows");
        rows += group.rows;
    }
    if (rows != k) return invalid("the groups cover " + std::to_string(rows) + " rows of " + std::to_string(k));
    const uint64_t per_group = uint64_t(source.groups.size()) * uint64_t(n);
    if (source.scales.size() != per_group) {
        return invalid("there are " + std::to_string(source.scales.size()) + " scales for " +
                       std::to_string(per_group) + " groups times columns");
    }
    if (!source.zeros.empty() && source.zeros.size() != per_group) {
        return invalid("there are " + std::to_string(source.zeros.size()) + " zero points for " +
                       std::to_string(per_group) + " groups times columns");
    }
    if (!source.bias.empty() && source.bias.size() != size_t(n)) {
        return invalid("there are " + std::to_string(source.bias.size()) + " bias values for " + std::to_string(n) +
                       " columns");
    }
    for (size_t i = 0; i < source.scales.size(); ++i) {
        if ((source.scales[i] & 0x7c00u) == 0x7c00u) {
            return invalid("the scale of group " + std::to_string(i / size_t(n)) + ", column " +
                           std::to_string(i % size_t(n)) + " is " + ((source.scales[i] & 0x3ffu) ? "NaN" : "infinite"));
        }
    }
    if (!source.perm.empty()) {
        if (source.perm.size() != size_t(k)) {
            return invalid("the permutation has " + std::to_string(source.perm.size()) + " entries for " +
                           std::to_string(k) + " rows");
        }
        std::vector<bool> seen(size_t(k), false);
        for (int32_t row = 0; row < k; ++row) {
            const int32_t input = source.perm[size_t(row)];
            if (input < 0 || input >= k) {
                return invalid("the permutation's entry " + std::to_string(row) + " is " + std::to_string(input) +
                               ", outside 0.." + std::to_string(k - 1));
            }
            if (seen[size_t(input)])
                return invalid("the permutation names input row " + std::to_string(input) + " twice");
            seen[size_t(input)] = true;
        }
    }
    if (!source.read_codes) return invalid("a quantised matrix has no reader of its codes");
    return {};
}

Status decode_f16(const QuantSource& source, int32_t row0, int32_t rows, uint16_t* out) {
    if (row0 < 0 || rows < 0 || row0 > source.in_features - rows) {
        return invalid("rows " + std::to_string(row0) + " to " + std::to_string(int64_t(row0) + rows) +
                       " are outside the matrix of " + std::to_string(source.in_features));
    }
    const size_t n = size_t(source.out_features);
    std::vector<uint8_t> codes;
    int32_t group_row = 0;
    for (size_t g = 0; g < source.groups.size(); ++g) {
        const QuantGroup& group = source.groups[g];
        const int32_t begin = std::max(row0, group_row), end = std::min(row0 + rows, group_row + group.rows);
        group_row += group.rows;
        // A few rows at a time: the codes of a whole-K group would be the whole matrix.
        for (int32_t row = begin; row < end; row += 32) {
            const int32_t count = std::min(32, end - row);
            codes.resize(size_t(count) * n);
            if (Status status = source.read_codes(row, count, codes.data()); !status.ok()) return status;
            const uint16_t* scales = source.scales.data() + g * n;
            const uint8_t* zeros = source.zeros.empty() ? nullptr : source.zeros.data() + g * n;
            uint16_t* to = out + size_t(row - row0) * n;
            for (int32_t i = 0; i < count; ++i) {
                for (size_t c = 0; c < n; ++c) {
                    const int32_t zero = zeros ? zeros[c] : 1 << (group.bits - 1);
                    // 11-bit significand times a 9-bit integer is exact in FP32: one rounding.
                    to[size_t(i) * n + c] =
                        f32_to_f16(f16_to_f32(scales[c]) * float(int32_t(codes[size_t(i) * n + c]) - zero));
                }
            }
        }
    }
    return {};
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
